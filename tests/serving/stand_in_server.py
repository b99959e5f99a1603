"""``serve`` with a model that does as the image says: a real server, without torch, that starts at once.

An image begins like a JPEG, and words may follow: ``views=3`` for how many it has, ``seconds=0.5`` for each
of them, ``odd`` for a fault of the model, ``complain`` for a line as libjpeg writes it.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilewise.errors import UserError
from tilewise.inference.backend import WatchedBackend
from tilewise.inference.model_card import ModelCard
from tilewise.serving import server

JPEG = b"\xff\xd8\xff"


class Detections(list[tuple[list[float], float, int]]):
    def __init__(self, found: Iterable[tuple[list[float], float, int]] = ()) -> None:
        super().__init__(found)
        self.fields: dict[str, Any] = {}  # boxes alone

    @property
    def labels(self) -> Any:
        import numpy as np

        return np.array([label for _, _, label in self])

    def select(self, indexes: Any) -> Detections:
        import numpy as np

        return Detections(self[index] for index in np.arange(len(self))[indexes])


@dataclass(frozen=True)
class Prediction:
    width: int
    height: int
    detections: Detections


class Backend:
    def detect(self, views: Sequence[bytes]) -> list[bytes]:
        time.sleep(sum(float(_word(view, b"seconds", b"0")) for view in views))
        return list(views)


class Predictor:
    """Finds an object of each class in every view."""

    def __init__(self, folder: Path) -> None:
        self.backend: Any = Backend()
        self.classes = ModelCard.read(folder).classes or ("ant", "bee")
        if "broken" in self.classes:
            raise UserError("the model is broken")

    def seen_as(self, options: object) -> Predictor:
        return self

    def decode(self, image: bytes) -> bytes:
        if not image.startswith(JPEG):
            from tilewise.data.decoding.decode import DecodeError

            raise DecodeError("these bytes are not an image in a known format")
        if b"complain" in image:
            os.write(2, b"Corrupt JPEG data: premature end of data segment\n")
        if b"odd" in image:
            raise RuntimeError("/opt/ml/model/secret")
        return image

    def predict_all(self, images: Iterable[bytes]) -> Iterator[Any]:
        for image in images:
            found = []
            for view in range(int(_word(image, b"views", b"1"))):
                self.backend.detect([image])
                left = 10.0 * view
                found += [([left, 20.0, left + 20, 60.0], 0.5 - 0.2 * label, label) for label in (0, 1)]
            yield Prediction(100, 200, Detections(sorted(found, key=lambda each: -each[1])))

    def watch(self, tell: Callable[[int, float], None]) -> None:
        self.backend = WatchedBackend(self.backend, tell)

    def pixels(self, image: bytes) -> Any:
        import numpy as np

        return np.zeros((3, 200, 100), np.uint8)

    def warm_up(self) -> None:
        list(self.predict_all([JPEG]))


def _word(image: bytes, name: bytes, default: bytes) -> bytes:
    found = re.search(name + rb"=([0-9.]+)", image)
    return found[1] if found else default


if __name__ == "__main__":
    server.load_predictor = lambda folder, tiles: Predictor(folder)  # type: ignore
    sys.exit(server.main())
