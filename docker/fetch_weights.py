#!/usr/bin/env python3
"""Fill a folder with published weights: fetch_weights.py FOLDER MODEL …, or FOLDER all.

At an image's build, or by hand; a training job never downloads. MODEL is a model_name. Only Python is needed,
and the package's registry of models, which names the files.

Each file's SHA-256 is compared with what is pinned there, and a file that does not agree is not kept. Of
YOLOX's files and two of torchvision's all of it is known. Of torchvision's others it is the first 8 digits,
which are part of their names: they find a damaged file, not a forged one. What is fetched is printed with its
whole digest, to be pinned there.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import urllib.request
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "container"))

from tilewise.registry import SOURCES, find_model, model_names, task_names

WEIGHTS = {
    name: find_model(name).published[0]
    for task in task_names()
    for name in model_names(task)
    if find_model(name).published
}
"""The best start for each model: its own weights where they are published, else its backbone's."""


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


def _check(name: str, digest: str, pin: str) -> None:
    if not digest.startswith(pin):
        raise ValueError(f"{name} has the SHA-256 {digest}, not {pin}{'…' if len(pin) < 64 else ''}")


def main() -> int:
    """Fetch what is asked for; what is there already is only compared. Returns 1 where a file fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("models", nargs="+", metavar="MODEL", choices=[*WEIGHTS, "all"])
    for source, url in SOURCES.items():
        parser.add_argument(f"--{source}", default=url, metavar="URL", help="a mirror")
    arguments = parser.parse_args()
    names = list(WEIGHTS) if "all" in arguments.models else arguments.models
    arguments.folder.mkdir(parents=True, exist_ok=True)
    failed = False
    for weights in dict.fromkeys(WEIGHTS[name] for name in names):
        file, pin = weights.file, weights.pin
        path, mirror = arguments.folder / file, getattr(arguments, weights.source)
        try:
            if path.exists():
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                _check(file, digest, pin)
            else:
                digest = fetch(mirror + file, path, pin)
        except (OSError, ValueError) as error:
            print(f"{file}: failed: {error}", file=sys.stderr)
            failed = True
            continue
        known = "pinned" if len(pin) == 64 else "only its first 8 digits are pinned"
        print(f"{file}: SHA-256 {digest} ({known})")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
