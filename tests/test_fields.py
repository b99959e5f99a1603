from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tilewise.fields import Field, Index, Rows, cat_fields

ROWS = [[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]


def values_of(field: Field) -> Any:
    assert isinstance(field, Rows)
    return field.values.tolist()


@pytest.fixture(params=["array", "tensor"])
def rows(request: pytest.FixtureRequest) -> Rows:
    return Rows(np.array(ROWS) if request.param == "array" else torch.tensor(ROWS))


@pytest.mark.parametrize(
    ("index", "chosen"),
    [
        (slice(1, 3), [1, 2]),
        (np.array([2, 0]), [2, 0]),
        (torch.tensor([2, 0]), [2, 0]),
        (np.array([True, False, True]), [0, 2]),
        (torch.tensor([True, False, True]), [0, 2]),
        (torch.zeros(0, dtype=torch.int64), []),
    ],
)
def test_rows__select(rows: Rows, index: Index, chosen: list[int]) -> None:
    selected = rows.select(index)
    assert type(selected.values) is type(rows.values)
    assert values_of(selected) == [ROWS[number] for number in chosen]


def test_rows__know_no_place(rows: Rows) -> None:
    moved = rows.flip(10).crop((2, 2, 4, 4), (8, 8)).to("cpu")
    assert isinstance(moved.values, torch.Tensor)
    assert values_of(moved) == ROWS


def test_rows__cat(rows: Rows) -> None:
    both = Rows.cat([rows, rows.select(slice(0, 1))])
    assert values_of(both) == [*ROWS, ROWS[0]]
    assert len(both) == 4


def test_cat_fields(rows: Rows) -> None:
    both = cat_fields([{"one": rows, "two": rows.select(slice(1))}, {"two": rows, "one": rows}])
    assert {name: values_of(field) for name, field in both.items()} == {
        "one": ROWS + ROWS,
        "two": ROWS[:1] + ROWS,
    }
    assert cat_fields([]) == {}


def test_cat_fields__of_another_name(rows: Rows) -> None:
    with pytest.raises(ValueError, match=r"fields differ: \['one'\] and \['two'\]"):
        cat_fields([{"one": rows}, {"two": rows}])
