"""Trials on this machine: Optuna proposes hyperparameters, jobs train with them, the worse ones end early.

What is known of the trials lies in ``study.log``, so that a study can be continued.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilewise.errors import UserError
from tilewise.tuning.space import Categories, EarlyTermination, Search, SubSpace, grid_size
from tilewise.tuning.trial import TrainsTrial, Trial, TrialError, figure_of

if TYPE_CHECKING:
    import optuna

SPACE = "space"
"""The name under which Optuna chooses a sub-space."""


class Study:
    """A search that goes on until its trials or its minutes are used up.

    Args:
        search: what to search, and how.
        out: a folder for the trials; one that holds an earlier study of the same spaces continues it.
        objective: a path in ``metrics.json``, to be maximised.
        train: trains a trial.
        seed: of the proposals.

    Raises:
        UserError: Optuna is not installed, or ``out`` holds a study of something else.

    """

    def __init__(
        self, search: Search, out: Path, *, objective: str, train: TrainsTrial, seed: int = 0
    ) -> None:
        try:
            import optuna
            from optuna.storages.journal import JournalFileBackend
        except ImportError:
            raise UserError('tune needs Optuna: pip install "tilewise[tune]"') from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.search, self.out, self.objective, self._train = search, out, objective, train
        out.mkdir(parents=True, exist_ok=True)
        _drop_half_a_line(out / "study.log")
        backend = JournalFileBackend(str(out / "study.log"))
        self.study = optuna.create_study(
            study_name="tilewise",
            storage=optuna.storages.JournalStorage(backend),
            pruner=_pruner(search.early_termination),
            direction="maximize",
            load_if_exists=True,
        )
        # one that goes on draws anew: with the same seed it would propose its first trials again
        self.study.sampler = _sampler(search, (seed + len(self.study.trials)) % 2**32)
        facts = {"objective": objective, "spaces": repr(search.spaces)}
        kept = facts if self.finished() else {"spaces": facts["spaces"]}  # no figure is there yet
        if any(self.study.user_attrs.get(name, value) != value for name, value in kept.items()):
            raise UserError(f"{out} holds a study of another space or objective: name another folder")
        for name, value in facts.items():
            self.study.set_user_attr(name, value)

    def run(
        self, trials: int, minutes: float | None, said: Callable[[optuna.trial.FrozenTrial], None]
    ) -> None:
        """Try until there are so many trials, those of an earlier run among them, or the minutes are over.

        Args:
            trials: at most; a grid ends when all of it was tried.
            minutes: after which a trial that still trains stops with what it has; None for no end.
            said: told of each trial.

        Raises:
            UserError: the first three trials failed, or metrics.json has no such objective.

        """
        deadline = None if minutes is None else time.monotonic() + 60 * minutes
        if self.search.sampling == "grid":
            trials = min(trials, grid_size(self.search.spaces))
            known = [
                trial.system_attrs.get("fixed_params") for trial in self.study.trials if not _cut_off(trial)
            ]
            for proposal in whole_grid(self.search.spaces):
                if proposal not in known:
                    self.study.enqueue_trial(proposal)
        while len(self.finished()) < trials and (deadline is None or time.monotonic() < deadline):
            number = self._one(deadline)
            said(self.study.trials[number])
            failures = [trial.user_attrs.get("failure") for trial in self.finished()]
            if len(failures) == 3 and all(failures):
                raise UserError(f"the first three trials failed; the last one: {failures[-1]}")

    def _one(self, deadline: float | None) -> int:
        import optuna

        trial = self.study.ask()
        states = optuna.trial.TrialState
        value, state = None, states.COMPLETE
        try:
            value = self._try(trial, deadline)
            if value is None:
                raise TrialError(f"{self.objective} is none: there are no such objects")
        except optuna.TrialPruned:
            state = states.PRUNED
        except TrialError as error:
            trial.set_user_attr("failure", str(error))
            state = states.FAIL
        self.study.tell(trial, value, state=state)
        return trial.number

    def finished(self) -> list[optuna.trial.FrozenTrial]:
        """The trials that came to an end, failed ones too."""
        return [trial for trial in self.study.trials if trial.state.is_finished()]

    def best(self) -> optuna.trial.FrozenTrial | None:
        """The best of those that trained to their end."""
        done = [trial for trial in self.finished() if trial.state.name == "COMPLETE"]
        return max(done, key=lambda trial: trial.value or 0.0, default=None)

    def folder(self, number: int) -> Path:
        """The job's folder of a trial."""
        return self.out / f"trial-{number:03d}"

    def _try(self, trial: optuna.Trial, deadline: float | None) -> float | None:
        import optuna

        hyperparameters = propose(trial, self.search.spaces)
        trial.set_user_attr("hyperparameters", hyperparameters)
        ended_early: list[bool] = []

        def validated(epoch: int, best: Mapping[str, Any]) -> bool:
            late = self.objective.partition(".")[0] in ("details", "test", "data")
            value = None if late else figure_of({"best": best}, self.objective)
            if value is None:
                return True
            trial.report(value, epoch)
            ended_early.append(trial.should_prune())
            return not ended_early[-1]

        job = Trial(self.folder(trial.number), hyperparameters, deadline)
        metrics = self._train(job, validated)
        if any(ended_early):
            raise optuna.TrialPruned
        if not metrics.get("best"):
            over = deadline is not None and time.monotonic() >= deadline
            raise TrialError(f"it ended without a validation{': the minutes were over' if over else ''}")
        return figure_of(metrics, self.objective)


def propose(trial: optuna.Trial, spaces: Sequence[SubSpace]) -> dict[str, str]:
    """A job's hyperparameters, as Optuna proposes them; each sub-space has parameters of its own."""
    chosen = trial.suggest_categorical(SPACE, list(range(len(spaces)))) if len(spaces) > 1 else 0
    space = spaces[chosen]
    found = dict(space.fixed)
    for name, each in space.ranges.items():
        own = _own_name(name, chosen, spaces)
        if isinstance(each, Categories):
            found[name] = str(trial.suggest_categorical(own, list(each.values)))
        elif each.whole:
            found[name] = each.text(trial.suggest_int(own, int(each.low), int(each.high), log=each.log))
        else:
            found[name] = each.text(trial.suggest_float(own, each.low, each.high, log=each.log))
    return found


def _drop_half_a_line(path: Path) -> None:
    """Take off what a process that was killed has written of its last line: Optuna cannot read past it."""
    content = path.read_bytes() if path.exists() else b""
    if content and not content.endswith(b"\n"):
        path.write_bytes(content[: content.rfind(b"\n") + 1])


def _cut_off(trial: optuna.trial.FrozenTrial) -> bool:
    """Whether an earlier run ended while it trained."""
    return trial.state.name == "RUNNING"


def _own_name(name: str, chosen: int, spaces: Sequence[SubSpace]) -> str:
    """What Optuna calls a sub-space's hyperparameter: the same one of another space is another."""
    return f"{name}@{chosen}" if len(spaces) > 1 else name


def whole_grid(spaces: Sequence[SubSpace]) -> Iterator[dict[str, Any]]:
    """What Optuna is to propose for each trial of a grid."""
    for chosen, space in enumerate(spaces):
        names = [_own_name(name, chosen, spaces) for name in space.ranges]
        choices = [each.values for each in space.ranges.values() if isinstance(each, Categories)]
        for values in product(*choices):
            yield dict(zip(names, values, strict=True)) | ({SPACE: chosen} if len(spaces) > 1 else {})


def _sampler(search: Search, seed: int) -> optuna.samplers.BaseSampler:
    import optuna

    if search.sampling in ("random", "grid"):  # of a grid, all trials are queued
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(seed=seed, n_startup_trials=4)


def _pruner(early: EarlyTermination | None) -> optuna.pruners.BasePruner:
    import optuna

    class Bandit(optuna.pruners.BasePruner):
        """Azure AutoML's: a trial whose best is worse than the best of all by more than a slack ends."""

        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            assert early is not None
            step = trial.last_step
            if step is None or step + 1 <= early.delay_evaluation or (step + 1) % early.evaluation_interval:
                return False
            others = [
                max(each.intermediate_values.values())
                for each in study.get_trials(deepcopy=False)
                if each.number != trial.number and each.intermediate_values
            ]
            if not others:
                return False
            best, own = max(others), max(trial.intermediate_values.values())
            if early.slack_factor is not None:
                return own < best / (1 + early.slack_factor)
            return own < best - (early.slack_amount or 0)

    if early is None:
        return optuna.pruners.MedianPruner(n_startup_trials=3, n_warmup_steps=1)
    interval = max(1, early.evaluation_interval)
    if early.policy == "bandit":
        return Bandit()
    if early.policy == "median_stopping":
        return optuna.pruners.MedianPruner(
            n_startup_trials=1, n_warmup_steps=early.delay_evaluation, interval_steps=interval
        )
    return optuna.pruners.PercentilePruner(
        100.0 - (early.truncation_percentage or 0),
        n_startup_trials=1,
        n_warmup_steps=early.delay_evaluation,
        interval_steps=interval,
    )
