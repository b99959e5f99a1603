"""The channels of a training job: which are read, how often, and by whom."""

from __future__ import annotations

import difflib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewise import platform
from tilewise.errors import UserError
from tilewise.hyperparameters import Hyperparameters
from tilewise.views.rendering import Rendering

if TYPE_CHECKING:
    from tilewise.data.channel import ChannelFolder
    from tilewise.data.pipe.channel import ChannelPipe
    from tilewise.inference.artifact import Artifact
    from tilewise.training.distributed.context import DistributedContext

log = logging.getLogger(__name__)

DATA_CHANNELS = ("train", "validation", "test")
WEIGHTS_CHANNELS = ("pretrained", "model", "teacher")
SDK_CHANNELS = ("code", "sm_drivers", "recipe")
"""What ModelTrainer of the SageMaker Python SDK v3 adds to a job for its own scripts."""

DISTILLATION = ("distillation_maps", "distillation_temperature", "distillation_weight")
"""Hyperparameters that have an effect with the channel ``teacher`` only."""

LIST_CHANNELS = tuple(f"{name}_lst" for name in DATA_CHANNELS)
"""Lists of images with their labels, as the built-in Image Classification has them."""

CHANNELS = (*DATA_CHANNELS, *(f"{name}_annotation" for name in DATA_CHANNELS), *WEIGHTS_CHANNELS)


def data_channels(
    job: platform.Job,
    hp: Hyperparameters,
    state: Mapping[str, Any] | None,
    *,
    distributed: DistributedContext,
) -> dict[str, ChannelFolder | ChannelPipe]:
    """The channels with images and annotations, each with the part that is for this process.

    Args:
        job: the job.
        hp: its hyperparameters.
        state: of the run that is resumed, whose passes are not read again.
        distributed: the processes that train together.

    Raises:
        UserError: an input mode does not exist, a channel has a name that is none, or of one that is split
            between the hosts this host has got no file.

    """
    from tilewise.data.channel import ChannelFolder
    from tilewise.data.pipe.channel import ChannelPipe
    from tilewise.data.shard import shard_of

    sources: dict[str, ChannelFolder | ChannelPipe] = {}
    for name, channel in job.channels.items():
        if name in SDK_CHANNELS:
            log.warning("channel %s is not used: it belongs to the SageMaker SDK", name)
            continue
        if name in LIST_CHANNELS and "classification" not in hp.task:
            raise UserError(
                f"channel {name}: a list of images and their classes is for image classification, and this "
                f"is a job for task={hp.task}: give task=classification, or leave the channel out"
            )
        if name not in (*CHANNELS, *LIST_CHANNELS):
            raise UserError(_unknown(name))
        if name in WEIGHTS_CHANNELS:
            continue
        if channel.input_mode == "Pipe":
            images = hp.num_training_samples if name == "train" else None
            passes = _passes(name, hp, state["processes"][0]["progress"] if state else {})
            if passes:
                shard = shard_of(channel.distribution, distributed.host, distributed.hosts)
                sources[name] = ChannelPipe(channel.path, channel.content_type, passes, images, shard)
            else:
                log.info("channel %s is not read: validation_metric_type is none", name)
        elif channel.input_mode in ("File", "FastFile"):
            _check_shard(job, channel)
            shard = shard_of(
                channel.distribution,
                distributed.host,
                distributed.hosts,
                process=distributed.local_rank,
                processes=distributed.local_size,
            )
            sources[name] = ChannelFolder(channel.path, channel.content_type, shard)
        else:
            raise UserError(
                f"channel {name}: there is no input mode {channel.input_mode}: use File, FastFile or Pipe"
            )
    return sources


def _check_shard(job: platform.Job, channel: platform.JobChannel) -> None:
    """Refuse a channel of which this host, of many, has got no file; warn of a test of a part."""
    if channel.distribution != "ShardedByS3Key" or len(job.hosts) == 1:
        return
    if not any(path.is_file() for path in channel.path.rglob("*")):
        raise UserError(
            f"channel {channel.name}: host {job.current_host} has got none of its files: give each of the "
            f"{len(job.hosts)} hosts some, or use S3DataDistributionType FullyReplicated"
        )
    if channel.name == "test":
        log.warning(
            "channel test is split between %d hosts, and one of them tests: the figures are of its part of "
            "the images; S3DataDistributionType FullyReplicated tests all",
            len(job.hosts),
        )


_OTHER_WORDS = {
    "train": ("training", "trn"),
    "validation": ("val", "valid", "validate", "dev", "eval", "evaluation"),
    "test": ("testing", "tst"),
    "pretrained": ("weights", "pretrain"),
    "model": ("checkpoint", "checkpoints"),
    "teacher": ("teachers", "distillation"),
}
_ANNOTATIONS = re.compile(r"(annotations?|annots?|anns?|labels?)$")
_DATA = re.compile(r"(data|dataset|set|images?|imgs?)+$")


def _unknown(name: str) -> str:
    """Why there is no channel of such a name, and the name that is probably meant."""
    plain = re.sub(r"[^a-z]", "", name.lower())
    of_images = _ANNOTATIONS.sub("", plain)
    base = _DATA.sub("", of_images) or of_images
    meant = next((own for own, words in _OTHER_WORDS.items() if base in (own, *words)), None)
    if meant in DATA_CHANNELS and of_images != plain:
        meant = f"{meant}_annotation"
    near = difflib.get_close_matches(name.lower(), CHANNELS, n=1)
    meant = meant or (near[0] if near else None)
    cure = f"call it {meant}" if meant else "leave it out"
    return f"channel {name}: there is no such channel: {cure} (the channels are {', '.join(CHANNELS)})"


def check_model_channel(channels: Mapping[str, platform.JobChannel], hp: Hyperparameters) -> None:
    """Refuse a job whose model to go on from is missing, or comes through a pipe.

    Raises:
        UserError: the message says what to do.

    """
    channel = channels.get("model")
    for name in ("checkpoint_run_id", "checkpoint_dataset_id", "checkpoint_filename"):
        if not getattr(hp, name) or channel:
            continue
        raise UserError(
            f"{name}={getattr(hp, name)}: there are no runs of Azure here: give the model to "
            "go on from, a job's model.tar.gz, in the channel model"
        )
    if channel and channel.input_mode == "Pipe":
        raise UserError("channel model: a model is a file: use input mode File or FastFile")


def initial_model(channels: Mapping[str, platform.JobChannel]) -> Artifact | None:
    """The model in the channel ``model``, where there is one."""
    from tilewise.training.job.initial_model import read_initial_model

    channel = channels.get("model")
    return read_initial_model(channel.path) if channel else None


def with_earlier_rendering(
    hp: Hyperparameters, initial: Artifact | None, state: Mapping[str, Any] | None
) -> Hyperparameters:
    """The job with the bands and the range of values of the model that it goes on from, where it gives none.

    Args:
        hp: the job.
        initial: the model in the channel ``model``.
        state: of the run that is resumed, which has taken them over already.

    """
    earlier = initial.spec.rendering if initial else hp.rendering
    if state:
        was = json.loads(state["hyperparameters"])
        earlier = Rendering.from_json({name: was.get(name) for name in _RENDERING})
    taken = {}
    for name in _RENDERING:
        theirs, own = getattr(earlier, name), getattr(hp, name)
        if name not in hp.given and theirs is not None:
            taken[name] = theirs
            log.info("channel model: %s=%s is that model's", name, _written(theirs))
        elif theirs != own:
            log.warning(
                "channel model: %s=%s, but that model learnt with %s: it has to learn the pixels anew",
                name,
                _written(own),
                _written(theirs),
            )
    return hp.model_copy(update=taken)


_RENDERING = ("bands", "pixel_range")


def _written(numbers: Sequence[float] | None) -> str:
    return "none" if numbers is None else ",".join(f"{number:g}" for number in numbers)


def teachers(channels: Mapping[str, platform.JobChannel], hp: Hyperparameters) -> list[Artifact]:
    """The models in the channel ``teacher``; none where there is no such channel.

    Raises:
        UserError: it holds none, comes through a pipe, or is missing though the job says how to learn from
            it.

    """
    channel = channels.get("teacher")
    if channel is None:
        given = [name for name in DISTILLATION if name in hp.given]
        if given:
            raise UserError(
                f"{given[0]} says how to learn from a teacher, and there is none: give a trained "
                "model.tar.gz in the channel teacher, or leave it out"
            )
        return []
    if "classification" in hp.task:
        raise UserError(
            f"channel teacher: from a teacher the maps of a detector are learnt, and task={hp.task} has "
            "none: leave the channel out"
        )
    if channel.input_mode == "Pipe":
        raise UserError("channel teacher: a model is a file: use input mode File or FastFile")
    from tilewise.training.job.teachers import read_teachers

    return read_teachers(channel.path)


def pretrained_folder(channels: Mapping[str, platform.JobChannel], hp: Hyperparameters) -> Path | None:
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
