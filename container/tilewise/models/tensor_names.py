from __future__ import annotations

from collections.abc import Iterable, Sequence


def summary(names: Sequence[str], every: Iterable[str], limit: int = 24) -> str:
    """Names of tensors for a message: as they are where they are few, else whole modules by their name.

    Args:
        names: names among ``every``, in their order.
        every: the names of all tensors of a network.
        limit: how many are few.

    Returns:
        The names, separated by commas; ``none`` where there are none.

    """
    if len(names) <= limit:
        return ", ".join(names) or "none"
    left_out = set(every) - set(names)
    partly = {prefix for name in left_out for prefix in _prefixes(name)}
    shortest = (next(prefix for prefix in _prefixes(name) if prefix not in partly) for name in names)
    return ", ".join(dict.fromkeys(shortest))


def _prefixes(name: str) -> list[str]:
    """``a``, ``a.b`` and ``a.b.c`` of ``a.b.c``."""
    parts = name.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts) + 1)]
