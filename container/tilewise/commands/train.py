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
from typing import TYPE_CHECKING

from tilewise import platform
from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters, parse_hyperparameters

if TYPE_CHECKING:
    from tilewise.data.channel import ChannelFolder, DataSet
    from tilewise.data.pipe_channel import ChannelPipe

log = logging.getLogger(__name__)

DATA_CHANNELS = ("train", "validation", "test")
CHANNELS = (*DATA_CHANNELS, *(f"{name}_annotation" for name in DATA_CHANNELS), "pretrained")
LATER_CHANNELS = {"model": "incremental training"}


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
    channels = _channels(job, hp)

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
        log.info("stopped before the first image came: there is no model yet")
        return
    if isinstance(data.train, Split):
        _warn_of_wrong_count(hp, len(data.train.records))
    with closing(data):
        _train(job, hp, data, stop)


def _warn_of_long_warmup(hp: Hyperparameters) -> None:
    warmup = hp.warmup_cosine_lr_warmup_epochs
    if hp.learning_rate_scheduler == "warmup_cosine" and warmup >= hp.number_of_epochs:
        log.warning(
            "warmup_cosine_lr_warmup_epochs=%d and number_of_epochs=%d: the learning rate only rises, and "
            "ends before it is learning_rate: warm up for less, or train for longer",
            warmup,
            hp.number_of_epochs,
        )


def _train(job: platform.Job, hp: Hyperparameters, data: DataSet, stop: platform.StopRequest) -> None:
    if stop:
        log.info("stopped before the first step: there is no model yet")
        return
    # Imported here: to wait for a pipe takes no model.
    from tilewise.training.loop import test, train
    from tilewise.training.metric_lines import MetricLines
    from tilewise.training.outputs import write_outputs

    lines = MetricLines(job.current_host)
    pretrained = _pretrained(job.channels, hp)
    trained = train(data, hp, platform.model_dir(), lines, stop.__bool__, pretrained)
    if data.test and not trained.stopped:
        trained.test = test(data.test, hp, platform.model_dir(), stop.__bool__)
        if trained.test:
            lines.test(trained.test)
    write_outputs(trained, data, trained.hp or hp, platform.output_data_dir(), stop.__bool__)
    if trained.stopped:
        log.info("stopped on request; the best model so far is in %s", platform.model_dir())
    else:
        log.info("done; the model is in %s", platform.model_dir())


def _channels(job: platform.Job, hp: Hyperparameters) -> dict[str, ChannelFolder | ChannelPipe]:
    from tilewise.data.channel import ChannelFolder
    from tilewise.data.pipe_channel import ChannelPipe
    from tilewise.data.shard import EVERYTHING, shard_of

    found: dict[str, ChannelFolder | ChannelPipe] = {}
    host = job.hosts.index(job.current_host)
    for name, channel in job.channels.items():
        shard = shard_of(channel.distribution, host, len(job.hosts)) if name == "train" else EVERYTHING
        if name in LATER_CHANNELS:
            raise UserError(
                f"channel {name}: {LATER_CHANNELS[name]} is not available in this version; leave it out"
            )
        if name not in CHANNELS:
            log.warning("channel %s is not used: the channels are %s", name, ", ".join(CHANNELS))
            continue
        if name == "pretrained":
            continue
        if channel.input_mode == "Pipe":
            images = hp.num_training_samples if name == "train" else None
            passes = _passes(name, hp)
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


def _pretrained(channels: Mapping[str, platform.Channel], hp: Hyperparameters) -> Path | None:
    """The folder of the ``pretrained`` channel, where there is one and it is wanted."""
    channel = channels.get("pretrained")
    if channel and not hp.use_pretrained_model:
        log.warning("channel pretrained is not used: use_pretrained_model=0")
        return None
    if channel and channel.input_mode == "Pipe":
        raise UserError("channel pretrained: weights are files: use input mode File or FastFile")
    return channel.path if channel else None


def _passes(name: str, hp: Hyperparameters) -> int:
    """How often a channel is read."""
    if name == "validation":
        validates = hp.validation_metric_type != "none"
        return -(-hp.number_of_epochs // hp.evaluation_frequency) if validates else 0
    return 1 if name == "test" else hp.number_of_epochs


def _warn_of_wrong_count(hp: Hyperparameters, count: int) -> None:
    if hp.num_training_samples not in (None, count):
        log.warning(
            "num_training_samples is %s, but channel train has %d usable images: these count",
            hp.num_training_samples,
            count,
        )
