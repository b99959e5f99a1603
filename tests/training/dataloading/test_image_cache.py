from __future__ import annotations

import numpy as np
from tilewise.data.decoding.decode import DecodedImage
from tilewise.training.dataloading.image_cache import ImageCache


def decoded(capacity: int, sides: list[tuple[str, int]]) -> list[str]:
    """The keys that were decoded, of square images that were asked for in turn."""
    cache, keys = ImageCache(capacity), []

    for key, side in sides:

        def decode(key: str = key, side: int = side) -> DecodedImage:
            keys.append(key)
            return DecodedImage.whole(np.zeros((3, side, side), np.uint8))

        assert cache.get(key, decode).width == side
    return keys


def test_get__the_images_used_last_are_kept() -> None:
    of_ten = [(key, 10) for key in "abacab"]
    assert decoded(2 * 300, of_ten) == ["a", "b", "c", "b"]
    assert decoded(3 * 300, of_ten) == ["a", "b", "c"]


def test_get__an_image_larger_than_the_cache_is_kept_until_the_next() -> None:
    assert decoded(300, [("a", 100), ("a", 100), ("b", 100), ("a", 100)]) == ["a", "b", "a"]
    assert decoded(900, [("b", 10), ("a", 100), ("a", 100), ("b", 10)]) == ["b", "a", "b"]


def test_get__without_capacity_nothing_is_kept() -> None:
    assert decoded(0, [("a", 10), ("a", 10)]) == ["a", "a"]
