"""The training job: from SageMaker's folders to a model in ``/opt/ml/model``."""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
import traceback
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tilewise import platform
from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters, parse_hyperparameters

if TYPE_CHECKING:
    from tilewise.data.channel import ChannelFolder, DataSet
    from tilewise.data.pipe_channel import ChannelPipe
    from tilewise.training.world import World

log = logging.getLogger(__name__)

DATA_CHANNELS = ("train", "validation", "test")
CHANNELS = (*DATA_CHANNELS, *(f"{name}_annotation" for name in DATA_CHANNELS), "pretrained")
LATER_CHANNELS = {"model": "incremental training"}


def main(stop: platform.StopRequest) -> int:
    """Run the job that ``/opt/ml/input`` describes; returns the process's exit code.

    With several GPUs or hosts it starts itself once more for each GPU, and waits for them.

    0: done, or stopped by SIGTERM. 2: the user can mend it. 1: we can. Both leave ``/opt/ml/output/failure``.
    """
    rank = os.environ.get("RANK")
    _log(rank)
    try:
        job = platform.read_job()
        hp = parse_hyperparameters(job.hyperparameters)
        failure = _run_together(job, hp, stop) if rank else _run(job, hp, stop)
    except BaseException as error:
        if not isinstance(error, UserError):
            traceback.print_exc()
        failure = platform.failure_sentence(error)
    if failure:
        print(failure if rank else platform.write_failure(failure), file=sys.stderr, flush=True)
        return 2 if failure.startswith(platform.CLIENT_ERROR) else 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    log.info("peak memory: %.2f GiB", peak)
    return 0


def _log(rank: str | None) -> None:
    """What all processes have to say is said by the first; the others of its host only warn of errors."""
    where = f"process {rank}: " if rank not in (None, "0") else ""
    level = logging.INFO if rank in (None, "0") else logging.ERROR
    if where and os.environ["LOCAL_RANK"] == "0":
        level = logging.WARNING  # its files may be others than the first host's
    logging.basicConfig(
        stream=sys.stdout, level=level, format=f"%(asctime)s %(levelname)s {where}%(message)s"
    )


def _run(job: platform.Job, hp: Hyperparameters, stop: platform.StopRequest) -> str | None:
    """Train in this process, or in several; returns why these failed."""
    from tilewise.training.launch import launch, processes_of_host

    processes = processes_of_host()
    if len(job.hosts) == processes == 1:
        run_job(job, hp, stop)
        return None
    return launch(job.hosts, job.current_host, job.network_interface, processes, stop.__bool__)


def _run_together(job: platform.Job, hp: Hyperparameters, stop: platform.StopRequest) -> str | None:
    """Train as one of several processes; returns why one of them failed."""
    from tilewise.training.launch import die_with_parent, report_failure
    from tilewise.training.world import connect_store, join_world

    die_with_parent()
    world = join_world()
    try:
        run_job(job, hp, stop, world)
        world.wait()  # for what the leader writes
    except BaseException as error:
        own = platform.failure_sentence(error)
        first = report_failure(connect_store(), own)
        if first == own and not isinstance(error, UserError):
            traceback.print_exc()
        return first
    world.leave()
    return None


def run_job(
    job: platform.Job, hp: Hyperparameters, stop: platform.StopRequest, world: World | None = None
) -> None:
    """Train, and leave model and metrics."""
    # Imported here: wrong hyperparameters should not have to wait for torch.
    from tilewise.data.channel import Split, read_data_set
    from tilewise.data.fifo import StopWaiting
    from tilewise.training.world import ALONE

    world = world or ALONE
    platform.require_writable(platform.model_dir())
    platform.require_writable(platform.output_data_dir())
    log.info("Final configuration: %s", json.dumps(hp.model_dump(mode="json")))
    _warn_of_long_warmup(hp)
    channels = _channels(job, hp, world)
    try:
        data = read_data_set(
            channels,
            hp.num_classes,
            may_split=hp.job == "azure",
            validates=hp.validation_metric_type != "none",
            seed=hp.seed,
            class_map=hp.class_map,
            should_stop=stop.__bool__,
            reads_pipes=world.local_rank == 0,
        )
    except StopWaiting:
        data = None
    if world.any(data is None):
        log.info("stopped before the first image came: there is no model yet")
        return
    assert data is not None
    with closing(_with_classes_of_leader(data, world)) as data:
        if isinstance(data.train, Split):
            _warn_of_wrong_count(hp, len(data.train.records))
        _train(job, hp, data, stop, world)


def _with_classes_of_leader(data: DataSet, world: World) -> DataSet:
    """Data whose classes are those of all processes.

    Raises:
        UserError: this host's files have other classes than the first host's.

    """
    from tilewise.data.stream import StreamElsewhere

    classes = world.from_leader(data.classes)
    pipes_elsewhere = any(isinstance(split, StreamElsewhere) for split in (data.train, data.validation))
    if data.classes != classes and not pipes_elsewhere:
        raise UserError(
            f"the hosts' files have different classes: {', '.join(classes)} on the first, but "
            f"{', '.join(data.classes)} here: use S3DataDistributionType FullyReplicated, or a format that "
            "numbers its classes"
        )
    return replace(data, classes=classes)


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
    job: platform.Job, hp: Hyperparameters, data: DataSet, stop: platform.StopRequest, world: World
) -> None:
    if world.any(bool(stop)):
        log.info("stopped before the first step: there is no model yet")
        return
    # Imported here: to wait for a pipe takes no model.
    from tilewise.training.loop import test, train
    from tilewise.training.metric_lines import MetricLines
    from tilewise.training.outputs import write_outputs

    lines = MetricLines(job.current_host, silent=not world.leads)
    pretrained = _pretrained(job.channels, hp)
    trained = train(data, hp, platform.model_dir(), lines, stop.__bool__, pretrained, world)
    if not world.leads:
        return
    if data.test and not trained.stopped:
        trained.test = test(data.test, hp, platform.model_dir(), stop.__bool__)
        if trained.test:
            lines.test(trained.test)
    write_outputs(trained, data, hp, platform.output_data_dir(), stop.__bool__)
    if trained.stopped:
        log.info("stopped on request; the best model so far is in %s", platform.model_dir())
    else:
        log.info("done; the model is in %s", platform.model_dir())


def _channels(job: platform.Job, hp: Hyperparameters, world: World) -> dict[str, ChannelFolder | ChannelPipe]:
    from tilewise.data.channel import ChannelFolder
    from tilewise.data.pipe_channel import ChannelPipe
    from tilewise.data.shard import shard_of

    found: dict[str, ChannelFolder | ChannelPipe] = {}
    for name, channel in job.channels.items():
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
                shard = shard_of(channel.distribution, world.host, world.hosts)
                found[name] = ChannelPipe(channel.path, channel.content_type, passes, images, shard)
            else:
                log.info("channel %s is not read: validation_metric_type is none", name)
        elif channel.input_mode in ("File", "FastFile"):
            shard = shard_of(
                channel.distribution, world.host, world.hosts, world.local_rank, world.local_size
            )
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
