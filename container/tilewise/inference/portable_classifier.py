#!/usr/bin/env python3
"""Say which classes images show, with an exported model.

python classify.py IMAGE [IMAGE …]

It needs ONNX Runtime and NumPy; Pillow reads the images. How images are cut and scaled is in ``detect.py``,
which lies beside it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import detect  # type: ignore[import-not-found]  # it lies beside a package's copy of this
import numpy as np
import onnxruntime


class Model:
    """An exported model.

    Args:
        folder: with ``model.onnx``, ``labels.json`` and ``facts.json``.

    """

    def __init__(self, folder: Path):
        self.facts: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        self.labels: list[str] = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
        self.session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])

    def scores(self, image: np.ndarray) -> np.ndarray:
        """The score of each class, (C,), of an (H, W, 3) uint8 RGB image."""
        height, width = image.shape[:2]
        views = (
            detect.cut(image, window, size, fill=self.facts["fill"])
            for window, size, _ in detect.views(self.facts, width, height)
        )
        scores = np.stack([self.session.run(["scores"], {"view": view})[0] for view in views])
        pooled = scores.max(axis=0) if self.facts["pooled"].startswith("the highest") else scores.mean(axis=0)
        return np.asarray(pooled)


def main() -> None:
    """Print the classes of each image, the likeliest first."""
    model = Model(Path(__file__).resolve().parent)
    for path in sys.argv[1:]:
        scores = model.scores(detect.read(Path(path), model.facts))
        best = np.argsort(-scores, kind="stable")
        print(path, *(f"{model.labels[label]} {scores[label]:.3f}" for label in best))


if __name__ == "__main__":
    main()
