from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from tilewise.data.decode import Picture


class ImageCache:
    """The decoded images that were used last, up to so many bytes."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._images: OrderedDict[str, Picture] = OrderedDict()
        self._bytes = 0

    def get(self, key: str, decode: Callable[[], Picture]) -> Picture:
        """The image of that key, decoded if it is not at hand."""
        image = self._images.pop(key, None)
        if image is None:
            image = decode()
            self._bytes += image.pixels.nbytes
        self._images[key] = image
        while self._bytes > self.capacity:
            self._bytes -= self._images.popitem(last=False)[1].pixels.nbytes
        return image
