from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tilewise.views.multi_scale import factors_for, multi_scale_sides, sides_of


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


def test_sides_of__multiples_of_32_that_a_model_can_take() -> None:
    assert sides_of(320, (0.5, 0.75, 1, 1.25, 1.5)) == [480, 416, 320, 256, 160]
    assert sides_of(320, (0.1, 0.15, 1), smallest=100) == [320, 128]
    assert sides_of(600, (0.5, 1, 1.5), step=1) == [900, 600, 300]


def test_factors_for__reach_what_is_resolved_from_both_sides() -> None:
    assert factors_for(np.full(9, 16.0), 32) == pytest.approx((0.8, 1.006, 1.265, 1.591, 2), abs=1e-3)
    assert factors_for(np.full(9, 64.0), 32)[0] == 0.5
    assert len(factors_for(np.zeros(0), 32)) == 5
