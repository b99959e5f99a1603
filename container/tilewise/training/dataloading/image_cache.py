from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from tilewise.data.decoding.decode import DecodedImage


class ImageCache:
    """The decoded images that were used last, up to so many bytes, and the very last one however large it is.

    Args:
        capacity: bytes; 0 keeps none.

    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._images: OrderedDict[str, DecodedImage] = OrderedDict()
        self._bytes = 0

    def get(self, key: str, decode: Callable[[], DecodedImage]) -> DecodedImage:
        """The image of that key, decoded if it is not at hand."""
        image = self._images.pop(key, None)
        if image is None:
            image = decode()
            self._bytes += image.nbytes
        self._images[key] = image
        least = 1 if self.capacity else 0
        while self._bytes > self.capacity and len(self._images) > least:
            self._bytes -= self._images.popitem(last=False)[1].nbytes
        return image
