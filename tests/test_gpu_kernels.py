"""Which GPUs the pinned packages hold kernels for, read from their binaries: no GPU is needed."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import pytest
import torch
import torchvision

TORCH = Path(torch.__file__).parent / "lib" / "libtorch_cuda.so"
TORCHVISION = Path(torchvision.__file__).parent / "_C.so"

INSTANCES = {70: "ml.p3", 75: "ml.g4dn", 80: "ml.p4d", 86: "ml.g5, ml.g6", 90: "ml.p5"}
"""Compute capability -> instances; machine code of 8.6 also runs on the 8.9 of ml.g6."""

FATBIN_MAGIC = 0xBA55ED50
MACHINE_CODE = 2


def section(binary: mmap.mmap, wanted: str) -> tuple[int, int]:
    """Where a section of a 64-bit ELF file begins and ends."""
    (headers,) = struct.unpack_from("<Q", binary, 0x28)
    size, count, names = struct.unpack_from("<HHH", binary, 0x3A)
    rows = [struct.unpack_from("<IIQQQQ", binary, headers + size * number) for number in range(count)]
    for name, _, _, _, start, length in rows:
        at = rows[names][4] + name
        if binary[at : binary.find(b"\0", at)].decode() == wanted:
            return start, start + length
    raise ValueError(f"there is no section {wanted}")


def capabilities(path: Path) -> set[int]:
    """The compute capabilities, times ten, that a binary holds machine code for.

    CUDA's fat binaries lie one behind the other, each with a header of its size and the kernels' own headers.
    """
    found = set()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as binary:
        at, end = section(binary, ".nv_fatbin")
        while at < end:
            magic, _, header, size = struct.unpack_from("<IHHQ", binary, at)
            if magic != FATBIN_MAGIC:  # padding
                at += 8
                continue
            kernel, at = at + header, at + header + size
            while kernel < at:
                kind, _, header, size = struct.unpack_from("<HHIQ", binary, kernel)
                (capability,) = struct.unpack_from("<I", binary, kernel + 28)
                if kind == MACHINE_CODE:
                    found.add(capability)
                kernel += header + size
    return found


@pytest.mark.skipif(torch.version.cuda is None, reason="this PyTorch is built without CUDA")
@pytest.mark.parametrize("path", [TORCH, TORCHVISION], ids=["torch", "torchvision"])
def test_kernels__for_all_gpus_of_sagemaker(path: Path) -> None:
    missing = {names for capability, names in INSTANCES.items() if capability not in capabilities(path)}
    assert not missing, f"{path.name} holds no kernels for {missing}: other pins lose these instances"
