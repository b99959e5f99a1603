from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from torch import Tensor


class ImageCache:
    """The decoded images that were used last, up to so many bytes."""

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._images: OrderedDict[int, Tensor] = OrderedDict()
        self._bytes = 0

    def get(self, index: int, decode: Callable[[], Tensor]) -> Tensor:
        """The image of that index, decoded if it is not at hand."""
        image = self._images.pop(index, None)
        if image is None:
            image = decode()
            self._bytes += image.nbytes
        self._images[index] = image
        while self._bytes > self.capacity:
            self._bytes -= self._images.popitem(last=False)[1].nbytes
        return image
