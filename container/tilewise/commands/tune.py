"""Search hyperparameters on this machine: trials one after another, the worse ones ended early."""

from __future__ import annotations

import argparse
import json
import logging
import math
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

from tilewise.commands.channels import check_seed, say_what_is_read
from tilewise.commands.job_channels import CHANNELS, LIST_CHANNELS
from tilewise.errors import UserError
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.hyperparameters.task import decide_task
from tilewise.hyperparameters.values import PrimaryMetric
from tilewise.tuning.automatic import automatic_space, look_at
from tilewise.tuning.results import describe, draw_study, write_table
from tilewise.tuning.space import Categories, Search, SubSpace, read_search
from tilewise.tuning.study import Study
from tilewise.tuning.trial import train_in_process

log = logging.getLogger(__name__)

OBJECTIVES = {"classification": "accuracy", "multilabel_classification": "iou"}
"""What is maximised where nothing is said; AP elsewhere."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``tune``."""
    parser.add_argument("data", type=Path, metavar="DATA", help="the folder that holds train, validation, …")
    parser.add_argument(
        "--hyperparameters", nargs="+", default=[], metavar="NAME=VALUE", help="the same in each trial"
    )
    parser.add_argument(
        "--space",
        type=Path,
        metavar="YAML",
        help="Azure AutoML's job, or its search_space (default: what suits task, data and machine)",
    )
    parser.add_argument("--trials", type=int, help="at most (default: the YAML's, or 12)")
    parser.add_argument(
        "--minutes",
        type=float,
        help="of all trials (default: the YAML's). Shared by them, where no number of epochs is given",
    )
    parser.add_argument(
        "--objective",
        help="the figure of metrics.json to maximise, such as AP_small, AP_class.truck, details.F1 "
        "(default: AP; accuracy or iou of a classifier)",
    )
    parser.add_argument("--out", type=Path, default=Path("tune"), help="folder for trials, table and picture")
    parser.add_argument("--seed", type=int, default=0, help="of the proposals")


def run(arguments: argparse.Namespace) -> None:
    """Try, and leave ``trials.csv``, ``trials.png``, ``best.json``, and a job's folder for each trial.

    Raises:
        UserError: what is to be searched cannot be, or no trial came to an end.

    """
    say_what_is_read()
    check_seed(arguments.seed)
    channels = _channels(arguments.data)
    unclear = [text for text in arguments.hyperparameters if "=" not in text]
    if unclear:
        raise UserError(f"--hyperparameters {unclear[0]}: give them as NAME=VALUE, such as image_size=640")
    fixed = dict(text.split("=", 1) for text in arguments.hyperparameters)
    search = _search(arguments, channels, fixed)
    if len(search.spaces) == 1 and not search.spaces[0].ranges:
        raise UserError(
            "nothing is searched, so that all trials would be the same: leave a hyperparameter out of "
            "--hyperparameters, or give one of the space several values"
        )
    trials = (search.trials or 12) if arguments.trials is None else arguments.trials
    minutes = search.minutes if arguments.minutes is None else arguments.minutes
    if trials < 1 or (minutes is not None and not 0 < minutes < math.inf):
        raise UserError("--trials must be at least 1, and --minutes above 0")
    search = replace(search, spaces=tuple(_with_time(space, minutes, trials) for space in search.spaces))
    tasks = [parse_hyperparameters(_example(space)).task for space in search.spaces]
    objective = arguments.objective or OBJECTIVES.get(tasks[0], "AP")
    if objective in get_args(PrimaryMetric):  # then it chooses the best epoch, too
        search = replace(search, spaces=tuple(_chosen_by(space, objective) for space in search.spaces))
    train = train_in_process(arguments.data, channels)
    study = Study(search, arguments.out, objective=objective, train=train, seed=arguments.seed)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that its trial ends, too
    study.run(trials, minutes, said=lambda trial: print(describe(trial), flush=True))
    table, picture = write_table(study), draw_study(study)
    best = study.best()
    if best is None:
        raise UserError(f"no trial came to its end: give more --minutes or fewer epochs, and see {table}")
    model = study.folder(best.number) / "model"
    content = {
        "objective": objective,
        "value": best.value,
        "hyperparameters": best.user_attrs["hyperparameters"],
        "model": str(model),
    }
    (arguments.out / "best.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    print(f"the best of {len(study.finished())} by {objective}: {describe(best)}")
    print(f"its model: {model}   all trials: {table}, {picture}")


def _channels(data: Path) -> list[str]:
    found = [name for name in (*CHANNELS, *LIST_CHANNELS) if (data / name).is_dir()]
    if "train" not in found:
        raise UserError(
            f"{data} holds no folder train: give the folder of a job's channels, train and validation"
        )
    if "test" in found:
        log.info("the channel test is left for the model that is chosen: no trial sees it")
    return [name for name in found if not name.startswith("test")]


def _search(arguments: argparse.Namespace, channels: list[str], fixed: dict[str, str]) -> Search:
    """What ``--space`` describes, or else what suits the data; and what the command line gives."""
    if arguments.space is None:
        task = decide_task(fixed)
        import torch  # what --space describes needs it not

        annotations = arguments.data / "train_annotation" if "train_annotation" in channels else None
        facts = look_at(arguments.data / "train", annotations, task=task, gpu=torch.cuda.is_available())
        spaces = automatic_space(task, facts, fixed.get("model_name"))
        return Search(tuple(space.given(fixed) for space in spaces))
    search = read_search(arguments.space)
    both = sorted({name for space in search.spaces for name in space.ranges} & fixed.keys())
    if both:
        raise UserError(
            f"{', '.join(both)} cannot be both fixed and searched: leave it out, here or in the space"
        )
    return replace(search, spaces=tuple(space.given(fixed) for space in search.spaces))


def _with_time(space: SubSpace, minutes: float | None, trials: int) -> SubSpace:
    """The space, with the trials' share of the minutes where nothing says how long one takes."""
    names = space.ranges.keys() | space.fixed.keys()
    if minutes is None or names & {"number_of_epochs", "epochs", "minutes"}:
        return space
    return space.given({"minutes": f"{minutes / trials:.3g}"})


def _chosen_by(space: SubSpace, objective: str) -> SubSpace:
    named = "primary_metric" in space.ranges.keys() | space.fixed.keys()
    return space if named else space.given({"primary_metric": objective})


def _example(space: SubSpace) -> dict[str, str]:
    """One trial of the space, to be checked before any is trained."""
    return dict(space.fixed) | {
        name: each.values[0] if isinstance(each, Categories) else each.text(each.low)
        for name, each in space.ranges.items()
    }
