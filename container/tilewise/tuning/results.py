"""What came of a study: a line, a row and a point for each trial."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import optuna

    from tilewise.tuning.study import Study

COLOURS = {"COMPLETE": "#00796b", "PRUNED": "#b0bec5", "FAIL": "#d84315"}
WORDS = {"COMPLETE": "trained to its end", "PRUNED": "ended early", "FAIL": "failed"}


def describe(trial: optuna.trial.FrozenTrial) -> str:
    """One line of a trial: its number, what came of it, and its hyperparameters."""
    states = {"COMPLETE": "", "PRUNED": " (ended early)", "FAIL": " (failed)", "RUNNING": " (interrupted)"}
    value = trial.value if trial.value is not None else max(trial.intermediate_values.values(), default=None)
    shown = "none" if value is None else f"{value:.4f}"
    hyperparameters = " ".join(
        f"{name}={text}" for name, text in trial.user_attrs.get("hyperparameters", {}).items()
    )
    failure = trial.user_attrs.get("failure")
    return f"trial {trial.number}: {shown}{states.get(trial.state.name, '')} {hyperparameters}" + (
        f": {failure}" if failure else ""
    )


def write_table(study: Study) -> Path:
    """``trials.csv``: a row for each trial, the best first, those without a figure last."""
    rows = sorted(study.finished(), key=lambda trial: _rank(trial), reverse=True)
    names = sorted({name for trial in rows for name in trial.user_attrs.get("hyperparameters", {})})
    path = study.out / "trials.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["trial", "state", study.objective, "epochs", "seconds", *names])
        for trial in rows:
            given = trial.user_attrs.get("hyperparameters", {})
            best = (
                trial.value
                if trial.value is not None
                else max(trial.intermediate_values.values(), default="")
            )
            seconds = round(trial.duration.total_seconds(), 1) if trial.duration else ""
            epochs = 1 + (trial.last_step if trial.last_step is not None else -1)
            table.writerow(
                [
                    trial.number,
                    trial.state.name.lower(),
                    best,
                    epochs,
                    seconds,
                    *(given.get(n, "") for n in names),
                ]
            )
    return path


def _rank(trial: optuna.trial.FrozenTrial) -> tuple[bool, float]:
    values = [trial.value] if trial.value is not None else list(trial.intermediate_values.values())
    return trial.state.name == "COMPLETE", max(values, default=float("-inf"))


def draw_study(study: Study) -> Path:
    """Draw ``trials.png``: on the left each trial's figure and the best so far, on the right it by epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    best: list[tuple[int, float]] = []
    for trial in study.finished():
        state = trial.state.name
        steps = sorted(trial.intermediate_values.items())
        value = trial.value if trial.value is not None else max((one for _, one in steps), default=None)
        if value is not None:
            left.plot(trial.number, value, "o", color=COLOURS[state], label=WORDS[state])
            if state == "COMPLETE":
                best.append((trial.number, max(value, best[-1][1] if best else value)))
        if steps:
            epochs, values = zip(*((epoch + 1, one) for epoch, one in steps), strict=True)
            right.plot(epochs, values, "o-", markersize=3, color=COLOURS[state], linewidth=1)
            right.annotate(
                str(trial.number),
                (epochs[-1], values[-1]),
                fontsize=8,
                xytext=(4, -3),
                textcoords="offset points",
            )
    if best:
        left.step(*zip(*best, strict=True), where="post", color="#263238", linewidth=1, label="best so far")
    handles, labels = left.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    if once:
        left.legend(once.values(), once.keys(), fontsize=8)
    left.set(xlabel="trial", ylabel=study.objective, title="what came of each trial")
    right.set(xlabel="epoch", ylabel=f"{study.objective}, best so far", title="how it went there")
    for axes in (left, right):
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.2)
    path = study.out / "trials.png"
    figure.savefig(path, dpi=110)
    return path
