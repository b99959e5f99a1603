"""The names by which an exported graph is known, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tilewise.arrays import Array
from tilewise.prototypes import instances_of
from tilewise.suppression import Limits

INPUT = "view"
"""(height, width, 3) uint8 RGB."""

OUTPUTS = ("boxes", "scores", "labels")
"""(K, 4) float32 in pixels of the view, (K,) float32 and (K,) int64: candidates before suppression.

A graph with masks gives more, by the names that its detector's ``graph_fields`` has.
"""

SCORES = "scores"
"""(C,) float32: all that the graph of a classifier gives, the score of each class."""


def said_of_view(values: Sequence[Array], limits: Limits | None) -> Any:
    """What the outputs of a graph mean: a detector's instances within ``limits``; without, scores."""
    return values[0] if limits is None else instances_of(values, limits)
