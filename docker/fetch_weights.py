#!/usr/bin/env python3
"""Fill a folder with published weights: fetch_weights.py FOLDER MODEL …; or all, default, strict or none.

At an image's build, or by hand; a training job never downloads. MODEL is a model_name. `default` are those
that jobs of both services begin with by default: what cannot be fetched is warned of, and the build goes on.
`strict` are the same, but a file that fails is an error, as with models by name and `all`; `none` fetches
nothing. Only Python is needed, and the package's registry of models, which names the files.

Each file's SHA-256 is compared with what is pinned there, and a file that does not agree is not kept. Of
YOLOX's files and two of torchvision's all of it is known. Of torchvision's others it is the first 8 digits,
which are part of their names: they find a damaged file, not a forged one. What is fetched is printed with its
whole digest, to be pinned there.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "container"))

from tilewise.registry import SOURCES, Weights, find_model, model_names, task_names

WEIGHTS = {
    name: find_model(name).published[0]
    for task in task_names()
    for name in model_names(task)
    if find_model(name).published
}
"""The best start for each model: its own weights where they are published, else its backbone's."""


DEFAULT_MODELS = (
    "ssd_vgg16",
    "ssd_resnet50",
    "fasterrcnn_resnet50_fpn",
    "retinanet_resnet50_fpn",
    "yolox_s",
    "yolox_m",
    "maskrcnn_resnet50_fpn",
)
"""The models that jobs of SageMaker's built-in algorithm and of Azure AutoML train by default."""
SETS = ("default", "strict", "all", "none")


def files_of(models: Sequence[str]) -> dict[Weights, list[str]]:
    """The files to fetch, each with the models that begin with it.

    By default also the backbone that SSD was published with, which those who know the built-in algorithm may
    want: a job takes COCO's whole detector where both are there.
    """
    names = [name for name in models if name not in SETS]
    if "all" in models:
        names = list(WEIGHTS)
    by_default = "default" in models or "strict" in models
    files: dict[Weights, list[str]] = {}
    for name in dict.fromkeys([*(DEFAULT_MODELS if by_default else ()), *names]):
        files.setdefault(WEIGHTS[name], []).append(name)
    backbone = find_model("ssd_vgg16").backbone
    if by_default and backbone:
        files.setdefault(backbone.weights[0], [])
    return files


def fetch(url: str, path: Path, pin: str) -> str:
    """Fetch a file to its place; returns its SHA-256. A file that does not agree with its pin is not left.

    Raises:
        ValueError: it has another SHA-256.
        OSError: it could not be fetched.

    """
    part = path.with_name(f"{path.name}.part")
    digest = hashlib.sha256()
    try:
        with urllib.request.urlopen(url, timeout=60) as response, part.open("wb") as file:
            while block := response.read(1 << 20):
                digest.update(block)
                file.write(block)
        _check(path.name, digest.hexdigest(), pin)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return digest.hexdigest()


def _warning(file: str, names: Sequence[str], folder: Path) -> str:
    """What jobs of these models do in an image whose folder has what it has now."""
    starts: dict[str | None, list[str]] = {}
    for name in names:
        starts.setdefault(_start(name, folder), []).append(name)
    sentences = []
    for start, models in starts.items():
        jobs = f"jobs with model_name={' or '.join(models)}"
        if start == file:
            sentences.append(f"It stays, and {jobs} begin with it: remove it to have the published one")
        elif start:
            sentences.append(f"The image is built without it: there, {jobs} begin with {start}, instead")
        else:
            sentences.append(
                f"The image is built without it: there, {jobs} train from scratch, which takes longer and "
                "ends less accurate, unless they have a channel pretrained"
            )
    return f". {'. '.join(sentences)}. FETCH_WEIGHTS=strict makes this an error"


def _start(name: str, folder: Path) -> str | None:
    """The file in the folder that a job of this model begins with; None where there is none."""
    spellings = [
        spelling
        for weights in find_model(name).published
        for spelling in (weights.file, f"{Path(weights.file).stem}.safetensors")
    ]
    return next((each for each in spellings if (folder / each).is_file()), None)


def _check(name: str, digest: str, pin: str) -> None:
    if not digest.startswith(pin):
        raise ValueError(f"{name} has the SHA-256 {digest}, not {pin}{'…' if len(pin) < 64 else ''}")


def main() -> int:
    """Fetch what is asked for; what is there already is only compared. Returns 1 where a file fails.

    Of a file that only ``default`` asks for a failure is warned of. A source out of reach is asked once.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+", metavar="MODEL", choices=[*WEIGHTS, *SETS])
    for source, url in SOURCES.items():
        parser.add_argument(f"--{source}", default=url, metavar="URL", help="a mirror")
    arguments = parser.parse_args()
    if "none" in arguments.models and len(arguments.models) > 1:
        parser.error("none goes with no other")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    failures: dict[Weights, str] = {}
    unreachable: dict[str, str] = {}
    files = files_of(arguments.models)
    named = files_of([name for name in arguments.models if name != "default"])
    for weights in files:
        file, pin = weights.file, weights.pin
        path, mirror = arguments.folder / file, getattr(arguments, weights.source).rstrip("/") + "/"
        try:
            if path.exists():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                _check(file, digest, pin)
            elif weights not in named and weights.source in unreachable:
                raise OSError(unreachable[weights.source])
            else:
                digest = fetch(mirror + file, path, pin)
        except (OSError, ValueError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and not isinstance(error, urllib.error.HTTPError):
                unreachable[weights.source] = str(error)
            failures[weights] = str(error).strip() or type(error).__name__
            continue
        known = "pinned" if len(pin) == 64 else "only its first 8 digits are pinned"
        print(f"{file}: SHA-256 {digest} ({known})")
    for weights, reason in failures.items():  # at last: what else there is decides what jobs begin with
        names = files[weights]
        lenient = weights not in named
        warning = _warning(weights.file, names, arguments.folder) if lenient and names else ""
        print(f"{'WARNING: ' * lenient}{weights.file}: failed: {reason}{warning}", file=sys.stderr)
    return int(any(weights in named for weights in failures))


if __name__ == "__main__":
    sys.exit(main())
