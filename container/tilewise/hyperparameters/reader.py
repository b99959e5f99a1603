"""What a user wrote: hyperparameters by either of their names, each read, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, get_type_hints

from tilewise.errors import UserError
from tilewise.hyperparameters.row import Dialect
from tilewise.hyperparameters.table import AZURE_OTHER_NAMES, ROWS, Hyperparameters
from tilewise.hyperparameters.values import Values, did_you_mean, shown
from tilewise.registry import DEFAULT_TASK

_PLATFORM_PREFIXES = ("_", "sagemaker_")

BUILTIN_MARKS = ("num_training_samples", "base_network")
"""With one of these, and without ``model_name``, a job for detection is one for the built-in algorithm."""

_NONE_IN_REST = ("optimizer", "learning_rate_scheduler")
"""Enumerations of Azure's REST interface where ``None`` stands for the default."""


class Spelling(NamedTuple):
    """A hyperparameter under one of its names.

    Attributes:
        canonical: its name in the table.
        values: what it takes.

    """

    canonical: str
    values: Values

    @property
    def is_whole(self) -> bool:
        """Whether it takes whole numbers only."""
        return self.values.allowed.startswith("a whole number")


class Entry(NamedTuple):
    """A hyperparameter as the user wrote it, and its value."""

    name: str
    text: str
    value: Any

    def __str__(self) -> str:
        return f"{self.name}={shown(self.text)}"


class Reader:
    """What the user gave, and the problems with it.

    Attributes:
        task: what the job's model is for.
        names: what was given, as written.
        entries: what could be read, by canonical name.
        none: the canonical names of those that were given as ``none``, where that is no value.
        problems: sentences, by the name as written.

    """

    def __init__(self, raw: Mapping[str, str], task: str) -> None:
        self.task = task
        self.names: list[str] = []
        self.entries: dict[str, Entry] = {}
        self.none: set[str] = set()
        self.problems: dict[str, list[str]] = {name: [] for name in raw}
        for name, value in raw.items():
            if not name.startswith(_PLATFORM_PREFIXES):
                self._take(name, value)

    @property
    def dialect(self) -> Dialect:
        """Whose defaults hold."""
        builtin = "model_name" not in self.names and any(mark in self.names for mark in BUILTIN_MARKS)
        return "builtin" if builtin and self.task == DEFAULT_TASK else "azure"

    def refuse(self, name: str, problem: str) -> None:
        """Note a problem of a hyperparameter, by its name as written."""
        self.problems.setdefault(name, []).append(problem)

    def refuse_both(self, first: Entry, second: Entry) -> None:
        """Note that two contradict each other."""
        self.refuse(second.name, f"{first} and {second} disagree: give one of them")

    def _take(self, name: str, text: str) -> None:
        if name not in _SPELLINGS:
            elsewhere = f": it is {_ELSEWHERE[name]} here" if name in _ELSEWHERE else ""
            suggestion = elsewhere or did_you_mean(name, _SPELLINGS) or "; leave it out"
            self.refuse(name, f"{name}={shown(text)}: unknown hyperparameter{suggestion}")
            return
        canonical, values = _SPELLINGS[name]
        unset = _is_unset(canonical, text)
        if unset:
            self.none.add(canonical)
        try:
            value = None if not text or unset else values.read(text)
        except ValueError as error:
            self.names.append(name)
            self.refuse(name, f"{name}={shown(text)}: {error}")
            return
        if value is not None and value != ():
            self.names.append(name)
            self._keep(canonical, Entry(name, text, value))

    def _keep(self, canonical: str, entry: Entry) -> None:
        first = self.entries.setdefault(canonical, entry)
        if first.value != entry.value:
            self.refuse_both(first, entry)


def _spellings() -> dict[str, tuple[str, Values]]:
    """The names that a user may write: the canonical name each stands for, and the values it takes."""
    types = get_type_hints(Hyperparameters, include_extras=True)
    spellings = {name: (name, Values(types[name])) for name in ROWS}
    for name, row in ROWS.items():
        if row.alias and row.alias != name:
            spellings[row.alias] = (name, Values(row.alias_type) if row.alias_type else spellings[name][1])
    return spellings | {short: spellings[name] for short, name in AZURE_OTHER_NAMES.items()}


_SPELLINGS = _spellings()

_ELSEWHERE = {
    "imgsz": "image_size",
    "batch": "training_batch_size",
    "lr": "learning_rate",
    "lr0": "learning_rate",
    "batch_size": "training_batch_size",
    "num_epochs": "number_of_epochs",
    "max_epochs": "number_of_epochs",
    "backbone": "model_name",
    "patience": "early_stopping_patience",
    "time": "minutes, in minutes",
    "workers": "num_workers",
    "warmup_epochs": "warmup_cosine_lr_warmup_epochs",
    "cos_lr": "learning_rate_scheduler=warmup_cosine",
    "freeze": "layers_to_freeze",
    "degrees": "rotation",
    "flipud": "vertical_flip",
    "close_mosaic": "plain_epochs",
    "amp": "precision",
    "conf": "box_score_threshold",
    "iou": "nms_iou_threshold",
    "max_det": "box_detections_per_image",
}
"""What ultralytics and others call some of them."""


def find_hyperparameter(name: str) -> Spelling:
    """What a user means by a name, for who has a value of one hyperparameter to check.

    Raises:
        UserError: there is none of that name; the message has the nearest ones.

    """
    if name not in _SPELLINGS:
        raise UserError(f"{name}: unknown hyperparameter{did_you_mean(name, _SPELLINGS)}")
    return Spelling(*_SPELLINGS[name])


def _is_unset(name: str, text: str) -> bool:
    """Whether ``none`` stands for the default: where that is no value."""
    row = ROWS[name]
    unset = {row.azure, row.builtin} & {None, ()} or name in _NONE_IN_REST
    return text.lower() in ("none", "null") and bool(unset)
