#!/usr/bin/env python3
"""Fill a folder with published weights: fetch_weights.py FOLDER MODEL …, or FOLDER all.

At an image's build, or by hand; a training job never downloads. MODEL is a model_name. Only Python is needed.

Each file's SHA-256 is compared with what is pinned below, and a file that does not agree is not kept. Of
YOLOX's files and two of torchvision's all of it is known. Of torchvision's others it is the first 8 digits,
which are part of their names: they find a damaged file, not a forged one. What is fetched is printed with its
whole digest, to be pinned here.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
import urllib.request
from pathlib import Path

TORCHVISION = "https://download.pytorch.org/models/"
YOLOX = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download/0.1.1rc0/"

FILES = {
    "ssd_vgg16": "ssd300_vgg16_coco-b556d3b4.pth",
    "ssd_resnet50": "resnet50-0676ba61.pth",
    "ssdlite_mobilenet_v3_large": "ssdlite320_mobilenet_v3_large_coco-a79551df.pth",
    "fasterrcnn_resnet18_fpn": "resnet18-f37072fd.pth",
    "fasterrcnn_resnet34_fpn": "resnet34-b627a593.pth",
    "fasterrcnn_resnet50_fpn": "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth",
    "fasterrcnn_resnet101_fpn": "resnet101-63fe2227.pth",
    "fasterrcnn_resnet152_fpn": "resnet152-394f9c45.pth",
    "fasterrcnn_mobilenet_v3_large_fpn": "fasterrcnn_mobilenet_v3_large_fpn-fb6a3cc7.pth",
    "retinanet_resnet50_fpn": "retinanet_resnet50_fpn_coco-eeacb38b.pth",
    "fcos_resnet50_fpn": "fcos_resnet50_fpn_coco-99b0c9b7.pth",
    "gfl_resnet18_fpn": "resnet18-f37072fd.pth",
    "gfl_resnet34_fpn": "resnet34-b627a593.pth",
    "gfl_resnet50_fpn": "resnet50-0676ba61.pth",
    "gfl_resnet101_fpn": "resnet101-63fe2227.pth",
    "yolox_nano": "yolox_nano.pth",
    "yolox_tiny": "yolox_tiny.pth",
    "yolox_s": "yolox_s.pth",
    "yolox_m": "yolox_m.pth",
    "yolox_l": "yolox_l.pth",
    "yolox_x": "yolox_x.pth",
}
"""The best start for each model: its own weights where they are published, else its backbone's."""

PINNED = {
    "resnet18-f37072fd.pth": "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec",
    "resnet50-0676ba61.pth": "0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
    "yolox_nano.pth": "cd28f55fbbc1829f99d9ac9b38a16d259a22889739c8728ea877610201feff7b",
    "yolox_tiny.pth": "9de513de589ac98bb92d3bca53b5af7b9acfa9b0bacb831f7999d0f7afaee8f0",
    "yolox_s.pth": "f55ded7181e1b0c13285c56e7790b8f0e8f8db590fe4edb37f0b7f345c913a30",
    "yolox_m.pth": "60076992b32da82951c90cfa7bd6ab70eba9eda243e08b940a396f60ac2d19b6",
    "yolox_l.pth": "1e6b7fa6240375370b2a8a8eab9066b3cdd43fd1d0bfa8d2027fd3a51def2917",
    "yolox_x.pth": "5652330b6ae860043f091b8f550a60c10e1129f416edfdb65c259be6caf355cf",
}
"""Whole SHA-256 digests, as other published projects pin them; never seen by us on the files themselves."""


def pin_of(file: str) -> str:
    """The first digits of a file's SHA-256, as many as are known: all, or the eight in its name."""
    digits = re.search(r"-([0-9a-f]{8})\.", file)
    if file in PINNED:
        return PINNED[file]
    assert digits is not None
    return digits[1]


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
    parser.add_argument("models", nargs="+", metavar="MODEL", choices=[*FILES, "all"])
    parser.add_argument("--torchvision", default=TORCHVISION, metavar="URL", help="a mirror")
    parser.add_argument("--yolox", default=YOLOX, metavar="URL", help="a mirror")
    arguments = parser.parse_args()
    names = list(FILES) if "all" in arguments.models else arguments.models
    arguments.folder.mkdir(parents=True, exist_ok=True)
    failed = False
    for file in dict.fromkeys(FILES[name] for name in names):
        path, pin = arguments.folder / file, pin_of(file)
        mirror = arguments.yolox if file.startswith("yolox_") else arguments.torchvision
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
