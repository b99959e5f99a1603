"""The names by which an exported graph is known."""

from __future__ import annotations

INPUT = "view"
"""(height, width, 3) uint8 RGB."""

OUTPUTS = ("boxes", "scores", "labels")
"""(K, 4) float32 in pixels of the view, (K,) float32 and (K,) int64: candidates before suppression.

A graph with masks gives more, by the names that its detector's ``graph_fields`` has.
"""
