"""The hyperparameters of a job: one table, and what follows from it."""

from tilewise.hyperparameters.parsing import parse_hyperparameters
from tilewise.hyperparameters.reference import as_markdown
from tilewise.hyperparameters.table import Hyperparameters

__all__ = ["Hyperparameters", "as_markdown", "parse_hyperparameters"]
