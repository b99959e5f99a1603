from __future__ import annotations

from tilewise.models.tensor_names import summary

EVERY = ["a.b.w", "a.b.v", "a.c.w", "d.w", "e.f.g.w", "e.f.h.w"]


def test_summary__few_names_as_they_are() -> None:
    assert summary(["a.b.w", "d.w"], EVERY) == "a.b.w, d.w"
    assert summary([], EVERY) == "none"


def test_summary__many_names_as_whole_modules() -> None:
    assert summary(EVERY[:3], EVERY, limit=1) == "a"
    assert summary(EVERY[:2] + EVERY[3:5], EVERY, limit=1) == "a.b, d, e.f.g"
    assert summary(EVERY[1:3], EVERY, limit=1) == "a.b.v, a.c"
