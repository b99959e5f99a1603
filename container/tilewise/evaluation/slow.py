"""What takes long is said in the log, so that nobody waits for something unknown."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

SLOW_SECONDS = 5.0


@contextmanager
def say_if_slow(what: str) -> Iterator[None]:
    """Log how long the block took, where that is over :data:`SLOW_SECONDS`.

    Args:
        what: the subject of a sentence, such as ``COCO's figures``.

    """
    start = time.monotonic()
    yield
    seconds = time.monotonic() - start
    if seconds > SLOW_SECONDS:
        log.info("%s took %.1f s", what, seconds)
