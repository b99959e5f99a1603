"""The training job: from SageMaker's folders to a model in ``/opt/ml/model``."""

from __future__ import annotations

import json
import logging
import resource
import sys
import traceback
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewise import platform
from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters, parse_hyperparameters

if TYPE_CHECKING:
    from tilewise.data.channel import ChannelFolder, DataSet
    from tilewise.data.pipe_channel import ChannelPipe
    from tilewise.inference.artifact import Artifact
    from tilewise.training.checkpoint import Checkpoints

log = logging.getLogger(__name__)

DATA_CHANNELS = ("train", "validation", "test")
WEIGHTS_CHANNELS = ("pretrained", "model")
CHANNELS = (*DATA_CHANNELS, *(f"{name}_annotation" for name in DATA_CHANNELS), *WEIGHTS_CHANNELS)


def main(stop: platform.StopRequest) -> int:
    """Run the job that ``/opt/ml/input`` describes; returns the process's exit code.

    0: done, or stopped by SIGTERM. 2: the user can mend it. 1: we can. Both leave ``/opt/ml/output/failure``.
    """
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    try:
        run_job(stop)
    except UserError as error:
        print(platform.write_failure(error), file=sys.stderr, flush=True)
        return 2
    except BaseException as error:
        traceback.print_exc()
        print(platform.write_failure(error), file=sys.stderr, flush=True)
        return 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    log.info("peak memory: %.2f GiB", peak)
    return 0


def run_job(stop: platform.StopRequest) -> None:
    """Read the job, train, and leave model and metrics."""
    job = platform.read_job()
    hp = parse_hyperparameters(job.hyperparameters)
    if len(job.hosts) > 1:
        raise UserError(
            f"training on {len(job.hosts)} hosts is not available in this version: use one instance"
        )
    platform.require_writable(platform.model_dir())
    platform.require_writable(platform.output_data_dir())
    log.info("Final configuration: %s", json.dumps(hp.model_dump(mode="json")))
    _warn_of_long_warmup(hp)
    _check_initial(job.channels, hp)
    checkpoints, state = _checkpoints(hp)
    channels = _channels(job, hp, state)

    # Imported here: wrong hyperparameters should not have to wait for torch.
    from tilewise.data.channel import Split, read_data_set
    from tilewise.data.fifo import StopWaiting

    validates = hp.validation_metric_type != "none"
    may_split = hp.job == "azure"
    try:
        data = read_data_set(
            channels, hp.num_classes, may_split, validates, hp.seed, hp.class_map, stop.__bool__
        )
    except StopWaiting:
        _leave_model_of(state, "before the first image came")
        return
    if isinstance(data.train, Split):
        _warn_of_wrong_count(hp, len(data.train.records))
    with closing(data):
        _train(job, hp, data, stop, checkpoints, state)


def _checkpoints(hp: Hyperparameters) -> tuple[Checkpoints | None, dict[str, Any] | None]:
    """The checkpoints of the job, where it has any, and the state of the newest, where there is one."""
    folder = platform.checkpoint_dir()
    if folder is None:
        if hp.checkpoint_frequency:
            log.warning("checkpoint_frequency has no effect: the job has no CheckpointConfig")
        return None, None
    platform.require_writable(folder)
    from tilewise.training.checkpoint import Checkpoints

    checkpoints = Checkpoints(folder)
    state = checkpoints.newest()
    if state is None:
        log.info("checkpoints are kept in %s: there is none yet", folder)
    return checkpoints, state


def _leave_model_of(state: dict[str, Any] | None, when: str) -> None:
    """After a request to stop that came early: the best model of the interrupted run, if there is one."""
    # Imported here: most jobs that are stopped so early have nothing to resume.
    from tilewise.training.resume import put_model_back

    own = state and state["job"] == platform.job_name()
    if state and own and put_model_back(state, platform.model_dir()):
        log.info("stopped %s; the best model so far is in %s", when, platform.model_dir())
    else:
        log.info("stopped %s: there is no model yet", when)


def _warn_of_long_warmup(hp: Hyperparameters) -> None:
    warmup = hp.warmup_cosine_lr_warmup_epochs
    if hp.learning_rate_scheduler == "warmup_cosine" and warmup >= hp.number_of_epochs:
        log.warning(
            "warmup_cosine_lr_warmup_epochs=%d and number_of_epochs=%d: the learning rate only rises, and "
            "ends before it is learning_rate: warm up for less, or train for longer",
            warmup,
            hp.number_of_epochs,
        )


def _train(
    job: platform.Job,
    hp: Hyperparameters,
    data: DataSet,
    stop: platform.StopRequest,
    checkpoints: Checkpoints | None,
    state: dict[str, Any] | None,
) -> None:
    if stop:
        _leave_model_of(state, "before the first step")
        return
    # Imported here: to wait for a pipe takes no model.
    from tilewise.training.environment import describe_environment
    from tilewise.training.loop import test, train
    from tilewise.training.metric_lines import MetricLines
    from tilewise.training.outputs import write_outputs

    lines = MetricLines(job.current_host)
    environment = describe_environment(job.hosts)
    log.info("Environment: %s", json.dumps(environment))
    trained = train(
        data,
        hp,
        platform.model_dir(),
        lines,
        stop.__bool__,
        _pretrained(job.channels, hp),
        None if state else _initial(job.channels),
        checkpoints,
        state,
        environment,
    )
    if data.test and not trained.stopped:
        trained.test = test(data.test, hp, platform.model_dir(), stop.__bool__)
        if trained.test:
            lines.test(trained.test)
    write_outputs(trained, data, hp, platform.output_data_dir(), stop.__bool__)
    if trained.stopped:
        log.info("stopped on request; the best model so far is in %s", platform.model_dir())
    else:
        log.info("done; the model is in %s", platform.model_dir())


def _channels(
    job: platform.Job, hp: Hyperparameters, state: Mapping[str, Any] | None
) -> dict[str, ChannelFolder | ChannelPipe]:
    from tilewise.data.channel import ChannelFolder
    from tilewise.data.pipe_channel import ChannelPipe
    from tilewise.data.shard import EVERYTHING, shard_of

    found: dict[str, ChannelFolder | ChannelPipe] = {}
    host = job.hosts.index(job.current_host)
    for name, channel in job.channels.items():
        shard = shard_of(channel.distribution, host, len(job.hosts)) if name == "train" else EVERYTHING
        if name not in CHANNELS:
            log.warning("channel %s is not used: the channels are %s", name, ", ".join(CHANNELS))
            continue
        if name in WEIGHTS_CHANNELS:
            continue
        if channel.input_mode == "Pipe":
            images = hp.num_training_samples if name == "train" else None
            passes = _passes(name, hp, state["progress"] if state else {})
            if passes:
                found[name] = ChannelPipe(channel.path, channel.content_type, passes, images, shard)
            else:
                log.info("channel %s is not read: validation_metric_type is none", name)
        elif channel.input_mode in ("File", "FastFile"):
            found[name] = ChannelFolder(channel.path, channel.content_type, shard)
        else:
            raise UserError(
                f"channel {name}: there is no input mode {channel.input_mode}: use File, FastFile or Pipe"
            )
    return found


def _check_initial(channels: Mapping[str, platform.Channel], hp: Hyperparameters) -> None:
    channel = channels.get("model")
    if hp.checkpoint_run_id and not channel:
        raise UserError(
            f"checkpoint_run_id={hp.checkpoint_run_id}: there are no runs of Azure here: give the model to "
            "go on from, a job's model.tar.gz, in the channel model"
        )
    if channel and channel.input_mode == "Pipe":
        raise UserError("channel model: a model is a file: use input mode File or FastFile")


def _initial(channels: Mapping[str, platform.Channel]) -> Artifact | None:
    """The model in the channel ``model``, where there is one."""
    from tilewise.training.initial_model import read_initial_model

    channel = channels.get("model")
    return read_initial_model(channel.path) if channel else None


def _pretrained(channels: Mapping[str, platform.Channel], hp: Hyperparameters) -> Path | None:
    """The folder of the ``pretrained`` channel, where there is one and it is wanted."""
    channel = channels.get("pretrained")
    if channel and ("model" in channels or not hp.use_pretrained_model):
        why = "there is a channel model" if "model" in channels else "use_pretrained_model=0"
        log.warning("channel pretrained is not used: %s", why)
        return None
    if channel and channel.input_mode == "Pipe":
        raise UserError("channel pretrained: weights are files: use input mode File or FastFile")
    return channel.path if channel else None


def _passes(name: str, hp: Hyperparameters, progress: Mapping[str, Any]) -> int:
    """How often a channel is read; a job that is resumed gets its pipes from the first one on again."""
    if name == "test":
        return 1
    first, trained = int(progress.get("epoch", 0)), bool(progress.get("trained"))
    if name == "train":
        return max(1, hp.number_of_epochs - first - trained)  # one, for its first images, if there is no more
    if hp.validation_metric_type == "none":
        return 0
    epochs, every = hp.number_of_epochs, hp.evaluation_frequency
    return max(1, sum(epoch % every == 0 or epoch == epochs for epoch in range(first + 1, epochs + 1)))


def _warn_of_wrong_count(hp: Hyperparameters, count: int) -> None:
    if hp.num_training_samples not in (None, count):
        log.warning(
            "num_training_samples is %s, but channel train has %d usable images: these count",
            hp.num_training_samples,
            count,
        )
