"""What targets and instances carry for each object beside boxes and labels, such as masks: the protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias

import numpy as np

from tilewise.arrays import Array

if TYPE_CHECKING:  # an endpoint may do without it
    import torch
    from torch import Tensor

Index: TypeAlias = "Tensor | Array | slice"
"""Which objects: a slice, numbers, or a mask; on the CPU, or where the tensors are that it chooses from."""

Corners = tuple[float, float, float, float]
"""``x0, y0, x1, y1`` in pixels; a :data:`tilewise.views.view.Window` is one."""


class Field(Protocol):
    """One property of N objects, in their order and in their frame (an image or a view).

    ``Records`` pack a field with ``cat`` and give each record its part with ``select`` of a slice: what it
    holds should be a few flat arrays, and such a part a view of them, so that loader processes share it.

    ``crop`` drops no object, even where nothing of it is left: who crops selects.
    """

    def __len__(self) -> int:
        """N."""

    def select(self, index: Index) -> Self:
        """Some of the objects, in the order of ``index``."""

    def flip(self, width: float) -> Self:
        """As a frame of ``width`` pixels shows it that is mirrored left to right."""

    def crop(self, window: Corners, size: tuple[int, int]) -> Self:
        """As the window shows it, scaled to ``size`` (width, height) in pixels: a new frame.

        The window may reach beyond the present frame, so this also takes what a view shows back to its image.
        """

    def warp(self, matrix: Array, size: tuple[int, int]) -> Self:
        """As an affine map shows it in a new frame.

        Args:
            matrix: (2, 3) from pixels of the present frame to those of the new one; or (N, 2, 3), of each
                object its own.
            size: (width, height) in pixels of the new frame.

        """

    def to(self, device: torch.device | str) -> Field:
        """What the device learns from as tensors on it, arrays too; what has no form as a tensor stays."""

    @classmethod
    def cat(cls, parts: Sequence[Self]) -> Self:
        """The objects of all parts, of which there is at least one."""


@dataclass(frozen=True)
class Rows:
    """A field that has nothing to do with places: a row of numbers for each object.

    Attributes:
        values: (N, …) an array or a tensor.

    """

    values: Array | Tensor

    def __len__(self) -> int:
        return len(self.values)

    def select(self, index: Index) -> Rows:
        """Some of the rows."""
        rows: Any = index
        if isinstance(self.values, np.ndarray) and not isinstance(index, slice):
            rows = np.asarray(index)
        return Rows(self.values[rows])

    def flip(self, width: float) -> Rows:
        """The same rows."""
        return self

    def crop(self, window: Corners, size: tuple[int, int]) -> Rows:
        """The same rows."""
        return self

    def warp(self, matrix: Array, size: tuple[int, int]) -> Rows:
        """The same rows."""
        return self

    def to(self, device: torch.device | str) -> Rows:
        """As tensors on a device."""
        return Rows(to_device(self.values, device))

    @classmethod
    def cat(cls, parts: Sequence[Rows]) -> Rows:
        """The rows of all parts, of which there is at least one."""
        return cls(cat_rows([part.values for part in parts]))


def cat_rows(parts: Sequence[Any]) -> Any:
    """The rows of all parts, arrays or tensors, of which there is at least one."""
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    import torch

    return torch.cat(list(parts))


def to_device(values: Array | Tensor, device: torch.device | str) -> Tensor:
    """A tensor on a device. It goes to a GPU from pinned memory, so that nothing waits for the copy."""
    import torch

    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if device == "cpu" and tensor.device.type == "cpu":
        return tensor
    to_gpu = torch.device(device).type == "cuda"
    if to_gpu and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()  # at no cost where it is already
    # towards the CPU it must be waited for: else what comes may be read before it is there
    return tensor.to(device, non_blocking=to_gpu)


def cat_fields(parts: Sequence[Mapping[str, Field]]) -> dict[str, Field]:
    """The fields of several groups of objects -> those of all, where each group has the same ones.

    Raises:
        ValueError: a group has other fields than the first.

    """
    first = parts[0] if parts else {}
    for part in parts:
        if part.keys() != first.keys():
            raise ValueError(f"fields differ: {sorted(first)} and {sorted(part)}")
    return {name: field.cat([part[name] for part in parts]) for name, field in first.items()}
