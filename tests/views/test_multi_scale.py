from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tilewise.views.multi_scale import multi_scale_sides


def test_multi_scale__half_to_one_and_a_half_largest_first() -> None:
    assert multi_scale_sides(128) == [192, 160, 128, 96, 64]
    assert multi_scale_sides(300, smallest=300) == [448, 416, 384, 352, 320]
    assert multi_scale_sides(10) == [10]


@given(st.integers(64, 2000))
def test_multi_scale__multiples_of_32(side: int) -> None:
    sides = multi_scale_sides(side)
    assert sides == sorted(sides, reverse=True)
    assert all(one % 32 == 0 and side / 2 <= one <= 1.5 * side for one in sides)
    assert sides[0] + 32 > 1.5 * side and sides[-1] - 32 < side / 2
