"""Hyperparameters as a job writes them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from tilewise.errors import UserError
from tilewise.hyperparameters import parse_hyperparameters

BUILTIN = {"num_classes": "2", "num_training_samples": "500"}


def problems(raw: Mapping[str, object]) -> str:
    with pytest.raises(UserError) as caught:
        parse_hyperparameters(raw)
    return str(caught.value)
