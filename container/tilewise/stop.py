"""The request to stop: one token, which all that takes long looks at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class StopToken(Protocol):
    """Says whether a job has been asked to stop; :class:`tilewise.platform.StopRequest` is the platform's."""

    @property
    def requested(self) -> bool:
        """Whether it has; once it has been asked, it stays so."""


class StopWhen:
    """A token that asks a function each time it is looked at."""

    def __init__(self, ask: Callable[[], bool]):
        self._ask = ask

    @property
    def requested(self) -> bool:
        """What the function says now."""
        return self._ask()


NEVER = StopWhen(lambda: False)
"""The token of what runs to its end."""
