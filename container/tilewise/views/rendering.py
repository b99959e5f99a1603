"""Which of an image's stored values are shown as red, green and blue, and over which range."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rendering:
    """How stored values become 8-bit RGB, as far as a job says it; a model keeps it for its endpoint.

    Attributes:
        bands: numbers from 1 of the three bands that are red, green and blue, or of the one that is grey;
            None for the first ones.
        pixel_range: the values that become 0 and 255, of integers above 8 bits and of floats; None for what
            an image's bits per sample or its percentiles say.

    """

    bands: tuple[int, ...] | None = None
    pixel_range: tuple[float, float] | None = None

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Rendering:
        """The inverse of :func:`dataclasses.asdict`, also after JSON has made lists of tuples."""
        return Rendering(**{name: None if value is None else tuple(value) for name, value in content.items()})


AS_STORED = Rendering()
"""What holds where a job says nothing."""
