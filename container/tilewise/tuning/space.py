"""Search spaces as Azure AutoML writes them -> what SageMaker and Optuna can search.

Azure's sweeps are described in "Set up AutoML to train computer vision models" and in the YAML schema of its
command line. A space is one mapping from hyperparameters to distributions or fixed values, or a list of them:
then each is a space of its own (a *conditional* space), such as one for each model.
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml

from tilewise.errors import UserError
from tilewise.hyperparameters.reader import find_hyperparameter
from tilewise.hyperparameters.values import did_you_mean

MOST_VALUES = 30
"""SageMaker takes no more values of a categorical range."""

ARGUMENTS = {
    "choice": ("values",),
    "uniform": ("min_value", "max_value"),
    "quniform": ("min_value", "max_value", "q"),
    "loguniform": ("min_value", "max_value"),
    "qloguniform": ("min_value", "max_value", "q"),
    "randint": ("upper",),
}
"""The distributions that can be searched, and what each needs."""

UNBOUNDED = ("normal", "qnormal", "lognormal", "qlognormal")
PARTS = ("search_space", "training_parameters", "sweep", "limits")
SWEEP = ("sampling_algorithm", "early_termination")
LIMITS = ("max_trials", "max_concurrent_trials", "timeout_minutes")
"""What is read of a job, of its sweep and of its limits. Azure has more, which is left alone."""

EARLY_TERMINATION = ("bandit", "median_stopping", "truncation_selection")
SAMPLING = ("random", "grid", "bayesian")


@dataclass(frozen=True)
class Categories:
    """One of several values, as texts."""

    values: tuple[str, ...]


@dataclass(frozen=True)
class Interval:
    """A number from ``low`` to ``high``, both included; evenly in its logarithm if ``log``."""

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def text(self, value: float) -> str:
        """A value as a hyperparameter's text."""
        return str(round(value)) if self.whole else f"{value:.6g}"


Range = Categories | Interval


@dataclass(frozen=True)
class SubSpace:
    """What is searched together: ranges by hyperparameter, and those that are the same in each trial."""

    ranges: Mapping[str, Range]
    fixed: Mapping[str, str] = field(default_factory=dict)

    def given(self, hyperparameters: Mapping[str, str]) -> SubSpace:
        """The space, with these the same in each trial."""
        ranges = {name: each for name, each in self.ranges.items() if name not in hyperparameters}
        return SubSpace(ranges, {**self.fixed, **hyperparameters})


@dataclass(frozen=True)
class EarlyTermination:
    """When a trial that does worse than others is ended, as Azure AutoML has it.

    Attributes:
        policy: ``bandit``: worse than the best by more than ``slack_factor`` (a ratio) or ``slack_amount``;
            ``median_stopping``: worse than the median; ``truncation_selection``: among the worst
            ``truncation_percentage``.
        evaluation_interval: every so many epochs.
        delay_evaluation: not before so many.

    """

    policy: Literal["bandit", "median_stopping", "truncation_selection"]
    evaluation_interval: int = 1
    delay_evaluation: int = 0
    slack_factor: float | None = None
    slack_amount: float | None = None
    truncation_percentage: int | None = None


@dataclass(frozen=True)
class Search:
    """A whole sweep. None: whoever runs it decides."""

    spaces: tuple[SubSpace, ...]
    sampling: Literal["random", "grid", "bayesian"] | None = None
    early_termination: EarlyTermination | None = None
    trials: int | None = None
    parallel: int | None = None
    minutes: int | None = None


def read_search(path: Path) -> Search:
    """Read a sweep from YAML: an Azure AutoML job, or its ``search_space`` alone.

    Of a job these are read: ``search_space``, ``training_parameters`` (the same in each trial), ``sweep`` and
    ``limits``.

    Raises:
        UserError: the file is not YAML, or describes no space that can be searched; the message names the
            hyperparameter and the cure.

    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    try:
        return parse_search(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def parse_search(content: Any) -> Search:
    """See :func:`read_search`."""
    is_job = isinstance(content, Mapping) and not content.keys().isdisjoint(PARTS)
    if is_job and "search_space" not in content:
        raise UserError(f"the job has {', '.join(map(str, content))}, but no search_space")
    space = content["search_space"] if is_job else content
    spaces = [space] if isinstance(space, Mapping) else space
    if not isinstance(spaces, list) or not spaces or not all(isinstance(each, Mapping) for each in spaces):
        raise UserError(
            "search_space must be a mapping from hyperparameters to distributions, or a list of such"
        )
    job = content if is_job else {}
    fixed = _mapping(job, "training_parameters")
    sweep, limits = _mapping(job, "sweep"), _mapping(job, "limits")
    for where, given, known in (("the job", job, PARTS), ("sweep", sweep, SWEEP), ("limits", limits, LIMITS)):
        _check_spelling(where, given, known)
    sampling = sweep.get("sampling_algorithm")
    if sampling is not None and str(sampling).lower() not in SAMPLING:
        raise UserError(f"sampling_algorithm must be one of {', '.join(SAMPLING)}, not {sampling!r}")
    return Search(
        tuple(_sub_space(each, fixed) for each in spaces),
        None if sampling is None else str(sampling).lower(),  # type: ignore[arg-type]
        _early_termination(sweep.get("early_termination")),
        *(_whole(limits, name) for name in LIMITS),
    )


def _mapping(job: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = job.get(name) or {}
    if not isinstance(found, Mapping):
        raise UserError(f"{name} must be a mapping, not {found!r}")
    return found


def _check_spelling(where: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse a name that is nearly one of those that are read."""
    for name in map(str, given):
        if name not in known and (meant := get_close_matches(name, known, n=1, cutoff=0.85)):
            raise UserError(f"{where} has {name}: {meant[0]} is meant?")


def _whole(mapping: Mapping[str, Any], name: str) -> int | None:
    value = mapping.get(name)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise UserError(f"{name} must be a whole number, at least 1, not {value!r}")
    return value


def _early_termination(given: Any) -> EarlyTermination | None:
    if given is None:
        return None
    settings = dict(given) if isinstance(given, Mapping) else {"type": given}
    policy = str(settings.pop("type", "")).lower()
    if policy not in EARLY_TERMINATION:
        raise UserError(
            f"early_termination must have a type of {', '.join(EARLY_TERMINATION)}, not {policy!r}"
        )
    known = EarlyTermination.__dataclass_fields__.keys() - {"policy"}
    for name, value in settings.items():
        if name not in known:
            raise UserError(f"early_termination has no {name}{did_you_mean(name, known)}")
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 0:
            raise UserError(f"early_termination: {name} must be a number, at least 0, not {value!r}")
    found = EarlyTermination(policy, **settings)  # type: ignore[arg-type]
    if policy == "bandit" and (found.slack_factor is None) == (found.slack_amount is None):
        raise UserError("early_termination: bandit needs one of slack_factor and slack_amount")
    if policy == "truncation_selection" and not 1 <= (found.truncation_percentage or 0) <= 99:
        raise UserError("early_termination: truncation_selection needs truncation_percentage, 1 to 99")
    return found


def _sub_space(given: Mapping[str, Any], fixed: Mapping[str, Any]) -> SubSpace:
    ranges: dict[str, Range] = {}
    constant = {str(name): _text(str(name), value) for name, value in fixed.items()}
    for name, value in given.items():
        name = str(name)
        constant.pop(name, None)
        found = _range(name, value)
        if isinstance(found, Categories) and len(found.values) == 1:
            constant[name] = found.values[0]
        else:
            ranges[name] = found
    for name, text in constant.items():
        _check(name, text)
    return SubSpace(ranges, constant)


def _range(name: str, given: Any) -> Range:
    kind, arguments = _distribution(name, given)
    if kind == "choice":
        values = arguments["values"]
        if not isinstance(values, list | tuple) or not values:
            raise UserError(f"{name}: choice needs a list of values")
        texts = tuple(_text(name, value) for value in values)
        for text in texts:
            _check(name, text)
        if len(set(texts)) < len(texts):
            raise UserError(f"{name}: choice has a value twice: {', '.join(texts)}")
        return Categories(texts)
    arguments = {argument: _number(value) for argument, value in arguments.items()}
    for argument, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise UserError(f"{name}: {kind} needs a number as {argument}, not {value!r}")
    if kind == "randint":
        upper = arguments["upper"]
        if upper < 2 or upper % 1:
            raise UserError(f"{name}: randint needs a whole number as upper, at least 2, not {upper:g}")
        return _interval(name, 0, upper - 1, log=False, step=1)
    low, high = arguments["min_value"], arguments["max_value"]
    if not kind.endswith("loguniform"):
        return _interval(name, low, high, log=False, step=arguments.get("q"))
    exponents = f"{kind} takes exponents of e, as in Azure: min_value: {math.log(1e-4):.2f} is 0.0001"
    if low < -700 or high > 700:
        raise UserError(f"{name}: {exponents}")
    try:
        return _interval(name, math.exp(low), math.exp(high), log=True, step=arguments.get("q"))
    except UserError as error:
        raise UserError(f"{error} ({exponents})") from None


def _number(value: Any) -> Any:
    """A number that YAML 1.1 takes for a text, such as ``1e-4``; what else there is stays as it is."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _interval(name: str, low: float, high: float, *, log: bool, step: float | None) -> Range:
    if low >= high:
        raise UserError(
            f"{name}: the range from {low:g} to {high:g} is empty: max_value must be above min_value"
        )
    if step is None:
        if find_hyperparameter(name).is_whole:
            raise UserError(f"{name} takes whole numbers: use choice, or quniform with q: 1")
        for end in (low, high):
            _check(name, repr(float(end)))
        return Interval(float(low), float(high), log)
    if step <= 0:
        raise UserError(f"{name}: q must be above 0, not {step:g}")
    first, last = round(low / step), round(high / step)
    if step == 1 and find_hyperparameter(name).is_whole and not (log and first < 1):
        for end in (first, last):
            _check(name, str(end))
        return Interval(first, last, log, whole=True)
    if last - first + 1 > MOST_VALUES:
        raise UserError(
            f"{name}: from {low:g} to {high:g} in steps of {step:g} are {last - first + 1} values, more than "
            f"{MOST_VALUES}: take larger steps, or a range without them"
        )
    texts = tuple(f"{number * step:.12g}" for number in range(first, last + 1))
    for text in texts:
        _check(name, text)
    return Categories(texts)


def _distribution(name: str, given: Any) -> tuple[str, dict[str, Any]]:
    """A distribution's name and arguments, from YAML or from Azure's other form, ``uniform(0.001, 0.01)``."""
    if isinstance(given, Mapping):
        arguments = dict(given)
        if "type" not in arguments:
            raise UserError(f"{name}: a distribution needs a type of {', '.join(ARGUMENTS)}")
        kind = str(arguments.pop("type"))
    elif isinstance(given, str) and (called := re.fullmatch(r"\s*([a-z]+)\s*\((.*)\)\s*", given)):
        kind = called[1]
        try:
            values = ast.literal_eval(f"[{called[2]}]")
        except (ValueError, SyntaxError):
            raise UserError(
                f"{name}: {given} cannot be read: write it as in Azure, choice('sgd', 'adam')"
            ) from None
        if kind == "choice" and len(values) == 1 and isinstance(values[0], list):
            values = values[0]
        names = ARGUMENTS.get(kind, ())
        if kind != "choice" and len(values) > len(names) > 0:
            raise UserError(f"{name}: {kind} takes {', '.join(names)}, not {len(values)} numbers")
        arguments = {"values": values} if kind == "choice" else dict(zip(names, values, strict=False))
    elif isinstance(given, list):
        raise UserError(f"{name}: to search a list of values write {{type: choice, values: {given}}}")
    else:
        return "choice", {"values": [given]}
    if kind in UNBOUNDED:
        raise UserError(
            f"{name}: {kind} has no ends, and only ranges with ends can be searched: use "
            f"{'loguniform' if 'log' in kind else 'uniform'}, for instance from mu - 2 sigma to mu + 2 sigma"
        )
    if kind not in ARGUMENTS:
        raise UserError(f"{name}: there is no distribution {kind!r}{did_you_mean(kind, ARGUMENTS)}")
    missing = [argument for argument in ARGUMENTS[kind] if argument not in arguments]
    unknown = [argument for argument in arguments if argument not in ARGUMENTS[kind]]
    if unknown:
        raise UserError(f"{name}: {kind} takes {', '.join(ARGUMENTS[kind])}, not {', '.join(unknown)}")
    if missing:
        raise UserError(f"{name}: {kind} needs {', '.join(missing)}")
    return kind, arguments


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return str(int(value))
    if value is None or isinstance(value, str | int | float):
        return "none" if value is None else str(value)
    raise UserError(f"{name}: {value!r} is no value of a hyperparameter")


def _check(name: str, text: str) -> None:
    """Whether a job would take this value of this hyperparameter, alone.

    Raises:
        UserError: it would not.

    """
    try:
        find_hyperparameter(name).values.read(text)
    except ValueError as error:
        raise UserError(f"{name}={text}: {error}") from None


def grid_size(spaces: Sequence[SubSpace]) -> int:
    """How many trials a grid has.

    Raises:
        UserError: a range is not a choice.

    """
    for space in spaces:
        for name, each in space.ranges.items():
            if not isinstance(each, Categories):
                raise UserError(f"{name}: a grid takes choice only: list its values, or sample at random")
    return sum(
        math.prod(len(each.values) for each in space.ranges.values() if isinstance(each, Categories))
        for space in spaces
    )
