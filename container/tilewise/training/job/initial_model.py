"""Incremental training: going on from the model of an earlier job, in the channel ``model``."""

from __future__ import annotations

import logging
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tilewise.errors import UserError
from tilewise.inference.artifact import DESCRIPTION, Artifact
from tilewise.models.detector import VisionModel
from tilewise.models.spec import ModelSpec
from tilewise.models.tensor_names import summary
from tilewise.tasks.task import Task

log = logging.getLogger(__name__)

MAX_FILES, MAX_BYTES = 1000, 8 << 30
"""An archive with more is not unpacked."""

_ARCHIVES = (".tar.gz", ".tgz", ".tar")
_OF_MXNET = (".params", "-symbol.json")


def read_initial_model(channel: Path) -> Artifact:
    """The model in the channel ``model``: a job's ``model.tar.gz`` as SageMaker gives it, or unpacked.

    Raises:
        UserError: there is none, several, one that is damaged, or one of another program; the message says
            which file, and what to do.

    """
    if not channel.is_dir():
        raise UserError(f"the folder of channel model is not there: {channel}")
    files = sorted(path for path in channel.rglob("*") if path.is_file())
    archive = _only_archive(files, channel)
    if archive is None:
        return _read(channel, files, "channel model")
    log.info("channel model: going on from %s", archive.name)
    return read_archive(archive, f"channel model: {archive.name}")


def read_archive(archive: Path, name: str) -> Artifact:
    """The model in an archive; ``name`` says in messages where that comes from.

    Raises:
        UserError: it is damaged, or holds another program's model, or none.

    """
    with tempfile.TemporaryDirectory() as folder:
        _unpack(archive, Path(folder), name)
        return _read(Path(folder), sorted(p for p in Path(folder).rglob("*") if p.is_file()), name)


def models_in(files: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """The archives of models among files, and the descriptions of models that lie there unpacked."""
    unpacked = [path for path in files if path.name == DESCRIPTION]
    archives = [path for path in files if path.name.endswith(_ARCHIVES)]
    # A prefix that is a job's whole output has output.tar.gz, too.
    return [path for path in archives if path.name == "model.tar.gz"] or archives, unpacked


def _only_archive(files: Iterable[Path], channel: Path) -> Path | None:
    """The archive of the model; None where the model lies there unpacked."""
    archives, unpacked = models_in(files)
    models = [*archives, *unpacked]
    if len(models) > 1:
        names = ", ".join(str(path.relative_to(channel)) for path in models[:5])
        raise UserError(f"channel model holds {len(models)} models ({names}): give it one")
    return archives[0] if archives else None


def _unpack(archive: Path, folder: Path, name: str) -> None:
    """Unpack plain files into a folder, and nothing that would lie elsewhere."""
    total = 0
    try:
        with tarfile.open(archive, "r|*") as tar:
            for number, member in enumerate(tar):
                total += member.size
                if number >= MAX_FILES or total > MAX_BYTES:
                    raise UserError(
                        f"{name} is not unpacked: it has over {MAX_FILES} files or {MAX_BYTES >> 30} GB, "
                        "as no model of Tilewise has"
                    )
                if not (member.isreg() or member.isdir()):
                    raise UserError(
                        f"{name} is not unpacked: {member.name} is a link or a device, not a file"
                    )
                if member.name.startswith("/") or ".." in Path(member.name).parts:
                    raise UserError(f"{name} is not unpacked: {member.name} would lie outside of its folder")
                content = tar.extractfile(member)
                if content is not None:  # nothing but a file's content: its owner, mode and times are ours
                    path = folder / member.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with path.open("wb") as file:
                        shutil.copyfileobj(content, file)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise UserError(f"{name} is damaged, or no tar archive: {error}: upload it again") from None
    except OSError as error:
        raise UserError(f"{name} cannot be unpacked: {error.strerror or error}") from None


def _read(folder: Path, files: Sequence[Path], name: str) -> Artifact:
    """The model of Tilewise among the files; ``name`` says where they come from."""
    descriptions = [path for path in files if path.name == DESCRIPTION]
    if not descriptions:
        held = ", ".join(path.name for path in files[:5]) or "nothing"
        if any(path.name.endswith(_OF_MXNET) for path in files):
            raise UserError(
                f"{name} is a model of the built-in algorithm ({held}): its MXNet weights cannot be trained "
                "further here; leave the channel out, and train from scratch or from pretrained weights"
            )
        raise UserError(f"{name} holds no model of Tilewise ({held}): give it the model.tar.gz of a job")
    if len(descriptions) > 1:
        raise UserError(f"{name} holds {len(descriptions)} models: give it one")
    try:
        return Artifact.load(descriptions[0].parent)
    except UserError as error:
        raise UserError(
            f"{name}: {str(error).replace(f'{folder}/', '').replace(str(folder), name)}"
        ) from None


def check_task(initial: Artifact, task: Task) -> None:
    """Refuse a model of another task than the job's.

    Raises:
        UserError: it is.

    """
    if initial.task != task.name:
        raise UserError(
            f"channel model: this job has task {task.name}, but that model {initial.task}: leave the "
            "channel out, or give it a model of this task"
        )


def check_initial(initial: Artifact, spec: ModelSpec, classes: Sequence[str], *, task: Task) -> None:
    """Refuse a model of the job's task that a job cannot go on from.

    Image size and names of the classes may be others.

    Args:
        initial: that model.
        spec: the job's model.
        classes: the job's.
        task: the job's.

    Raises:
        UserError: the network or the number of classes is another; the message shows both.

    """
    differs = task.differences(spec, initial.spec)
    if len(classes) != len(initial.classes):
        differs.append(f"the classes {_list(classes)}, but that model {_list(initial.classes)}")
    if differs:
        cure = "leave the channel out"
        if spec.name == initial.spec.name:
            cure = (
                "give the .safetensors of that model's archive in the channel pretrained, instead: what fits "
                "is taken, and the rest begins anew"
            )
        raise UserError(f"channel model: this job has {'; '.join(differs)}. Set them alike, or {cure}")


def go_on_from(model: VisionModel, initial: Artifact) -> None:
    """Take over the weights of an earlier model, which :func:`check_initial` let pass.

    A model of another image size may have other feature maps: what does not fit stays as it was initialised.
    """
    own, theirs = model.network.state_dict(), initial.model.network.state_dict()
    fitting = {name: tensor for name, tensor in theirs.items() if _shape(own.get(name)) == tensor.shape}
    model.network.load_state_dict(own | fitting)
    fresh = [name for name in own if name not in fitting]
    if fresh:
        log.warning(
            "channel model: image_size is another, and with it the feature maps: of %d tensors %d are that "
            "model's; these begin anew: %s",
            len(own),
            len(fitting),
            summary(fresh, list(own)),
        )
    else:
        log.info("channel model: all weights are those of that model; no pretrained ones are loaded")


def _shape(tensor: Tensor | None) -> torch.Size | None:
    return None if tensor is None else tensor.shape


def _list(names: Sequence[str]) -> str:
    return f"{len(names)} ({', '.join([*names[:10], '…'] if len(names) > 10 else names)})"
