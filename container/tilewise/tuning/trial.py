"""A trial: a job in a folder of its own, laid out as SageMaker's, and the figures that it leaves.

Its epochs are read from what any job leaves while it runs: its log and ``model.json``.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tilewise.errors import UserError
from tilewise.hyperparameters.values import did_you_mean

FIGURE = re.compile(r"epoch=(\d+), validation \S+ <score>")
PROGRESS = re.compile(r"#progress_metric: ")
"""Lines of a job's log: of a validation, and of an epoch's end, when the best model has been written."""

PACKAGE = Path(__file__).resolve().parents[2]
"""Where a trial's process finds this very package."""

LONGEST_STOP = 120
"""Seconds that a job has to leave its best model, as on SageMaker."""


@dataclass(frozen=True)
class Trial:
    """A job that is to be tried.

    Attributes:
        folder: the job's ``/opt/ml``.
        hyperparameters: as a request has them.
        deadline: of ``time.monotonic()``, at which it is to stop with what it has; None for never.

    """

    folder: Path
    hyperparameters: Mapping[str, str]
    deadline: float | None = None


class TrainsTrial(Protocol):
    """Trains a trial, and returns the figures that it leaves: those of its ``metrics.json``."""

    def __call__(
        self, trial: Trial, validated: Callable[[int, Mapping[str, Any]], bool]
    ) -> Mapping[str, Any]:
        """Train; after each validation ask ``validated(epoch, best figures so far)`` whether to go on.

        Raises:
            TrialError: the job failed; the message is its reason.

        """


class TrialError(Exception):
    """A trial's job failed."""


def figure_of(metrics: Mapping[str, Any], objective: str) -> float | None:
    """A figure of ``metrics.json`` by its path: ``AP_small``, ``AP_class.truck``, ``details.F1``, ….

    What is no path from the top is one below ``best``. None where there are no such objects.

    Raises:
        UserError: there is no such figure; the message names those that there are.

    """
    for place in (metrics, metrics.get("best") or {}):
        found: Any = place
        parts = objective.split(".")
        while parts and isinstance(found, Mapping):
            # a class's own name may have a dot in it
            length = next((n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in found), 0)
            if not length:
                break
            found, parts = found[".".join(parts[:length])], parts[length:]
        if not parts and (found is None or (isinstance(found, int | float) and not isinstance(found, bool))):
            return None if found is None else float(found)
    best = metrics.get("best") or {}
    known = [name for name, value in best.items() if isinstance(value, int | float)]
    raise UserError(
        f"--objective {objective}: metrics.json has no such figure{did_you_mean(objective, best)}; "
        f"it has {', '.join(known)}, …"
    )


def train_in_process(
    data: Path, channels: Sequence[str], environment: Mapping[str, str] | None = None
) -> TrainsTrial:
    """Trains a trial as SageMaker would, by ``train`` in a process of its own.

    Args:
        data: the folder that holds the channels.
        channels: their names.
        environment: more variables for it.

    """

    def train(trial: Trial, validated: Callable[[int, Mapping[str, Any]], bool]) -> Mapping[str, Any]:
        _lay_out(trial, data, channels)
        with (
            (trial.folder / "train.log").open("w", encoding="utf-8") as written,
            subprocess.Popen(
                [sys.executable, "-m", "tilewise.commands.train"],
                env=_environment(trial.folder) | dict(environment or {}),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            ) as process,
        ):
            assert process.stdout is not None
            timer = _stop_at(trial.deadline, process)
            epoch = None
            try:
                for line in process.stdout:
                    written.write(line)
                    written.flush()
                    if found := FIGURE.search(line):
                        epoch = int(found[1])
                    elif epoch is not None and PROGRESS.search(line):
                        best = _best_so_far(trial.folder)
                        if best is not None and not validated(epoch, best):
                            process.send_signal(signal.SIGTERM)
                        epoch = None
                process.wait(LONGEST_STOP)
            except BaseException:
                process.terminate()
                raise
            finally:
                if timer:
                    timer.cancel()
        return _metrics(trial.folder, process.returncode)

    return train


def _stop_at(deadline: float | None, process: subprocess.Popen[str]) -> threading.Timer | None:
    if deadline is None:
        return None
    timer = threading.Timer(max(0.0, deadline - time.monotonic()), process.terminate)
    timer.daemon = True
    timer.start()
    return timer


def _environment(folder: Path) -> dict[str, str]:
    """Of a job in that folder: it finds this very package, and no module of ours for Python's own."""
    path = os.pathsep.join(filter(None, (str(PACKAGE), os.environ.get("PYTHONPATH", ""))))
    return os.environ | {
        "PYTHONPATH": path,
        "PYTHONSAFEPATH": "1",
        "PYTHONUNBUFFERED": "1",
        "SAGEMAKER_BASE_DIR": str(folder.resolve()),
    }


def _lay_out(trial: Trial, data: Path, channels: Sequence[str]) -> None:
    for place in ("input/config", "input/data", "model", "output/data"):
        (trial.folder / place).mkdir(parents=True, exist_ok=True)
    for name in channels:
        link = trial.folder / "input" / "data" / name
        link.unlink(missing_ok=True)
        link.symlink_to((data / name).resolve(), target_is_directory=True)
    config = trial.folder / "input" / "config"
    content: dict[str, Any] = {
        "hyperparameters": dict(trial.hyperparameters),
        "inputdataconfig": {name: {"TrainingInputMode": "File"} for name in channels},
        "resourceconfig": {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"},
    }
    for name, value in content.items():
        (config / f"{name}.json").write_text(json.dumps(value, indent=2), encoding="utf-8")


def _best_so_far(folder: Path) -> Mapping[str, Any] | None:
    try:
        found = json.loads((folder / "model" / "model.json").read_text(encoding="utf-8"))["metrics"]
    except (OSError, ValueError, KeyError):
        return None
    return found if isinstance(found, dict) else None


def _metrics(folder: Path, code: int) -> Mapping[str, Any]:
    if code:
        try:
            raise TrialError((folder / "output" / "failure").read_text(encoding="utf-8"))
        except OSError:
            raise TrialError(f"exit code {code}; its log is {folder / 'train.log'}") from None
    try:
        content: Mapping[str, Any] = json.loads(
            (folder / "output" / "data" / "metrics.json").read_text("utf-8")
        )
    except (OSError, ValueError):
        raise TrialError(f"it left no figures; its log is {folder / 'train.log'}") from None
    return content
