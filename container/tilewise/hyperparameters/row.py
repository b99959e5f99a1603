"""One row of the table of hyperparameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from tilewise.registry import InputScaling

Dialect = Literal["azure", "builtin"]


class Tuning(NamedTuple):
    """The range that a tuning job may search: a scale from ``low`` to ``high``, or categories."""

    scale: Literal["Linear", "Logarithmic", "Categorical"]
    low: float = 0
    high: float = 0
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One row of the table: all that is to be said of a hyperparameter beside its name and its type.

    Attributes:
        help: one line for the user; ``$square_models`` and ``$stride_4_models`` stand for their names.
        azure: the default, in a job with Azure AutoML's names; a family of models may have another.
        builtin: the default in a job of the built-in algorithm, ``...`` where it is the same.
        unset: what a default of None means, in words.
        alias: the built-in algorithm's name for it.
        alias_type: the values under that name, where they differ.
        required: whether a job of the built-in algorithm has to give it.
        scaling: the models it applies to, by the way their input is scaled; None for all of them.
        tuning: the range for a tuning job, where there is one.
        task: the one that it applies to; None for all of them.

    """

    help: str
    azure: Any
    builtin: Any = ...
    unset: str = "none"
    alias: str | None = None
    alias_type: Any = None
    required: bool = False
    scaling: InputScaling | None = None
    tuning: Tuning | None = None
    task: str | None = None

    def default(self, dialect: Dialect) -> Any:
        """The default in jobs of one kind."""
        return self.azure if dialect == "azure" or self.builtin is ... else self.builtin
