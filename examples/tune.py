"""Search hyperparameters on AWS, with the arguments of create_training_job.py.

    python examples/tune.py NAME … --space job.yaml [name=value …]
    python examples/tune.py NAME … --search learning_rate momentum --jobs 20 --parallel 2 [name=value …]
    python examples/tune.py NAME … --auto [--like data/train] [name=value …]

--space reads a sweep of Azure AutoML: its job's YAML, or the search_space alone. --search takes ranges from
Tilewise's own table (docs/hyperparameters.md, "Tuning"). --auto takes what suits task and data (AutoMode).
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
from create_training_job import METRIC_DEFINITIONS, hyperparameters_of, parser, training_definition

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "container"))
from tilewise.errors import UserError
from tilewise.hyperparameters.table import ROWS  # needs pydantic
from tilewise.hyperparameters.task import decide_task
from tilewise.tuning.space import (
    Categories,
    EarlyTermination,
    Interval,
    Range,
    Search,
    SubSpace,
    grid_size,
    read_search,
)

TUNABLE = {row.alias or name: row.tuning for name, row in ROWS.items() if row.tuning}
MOST_DEFINITIONS = 10
"""SageMaker's limit of a tuning job."""


def range_of_table(name: str) -> Range:
    """The table's range of a hyperparameter.

    Raises:
        KeyError: the table has none.

    """
    tuning = TUNABLE[name]
    if tuning.categories:
        return Categories(tuning.categories)
    whole = isinstance(tuning.low, int) and isinstance(tuning.high, int)
    return Interval(tuning.low, tuning.high, tuning.scale == "Logarithmic", whole)


def parameter_ranges(space: SubSpace) -> dict[str, list[dict[str, Any]]]:
    """A space's ranges in the form of CreateHyperParameterTuningJob."""
    ranges: dict[str, list[dict[str, Any]]] = {}
    for name, each in space.ranges.items():
        values: dict[str, Any]
        if isinstance(each, Categories):
            kind, values = "Categorical", {"Values": list(each.values)}
        else:
            kind = "Integer" if each.whole else "Continuous"
            scale = "Logarithmic" if each.log else "Linear"
            low, high = (str(int(end)) if each.whole else str(end) for end in (each.low, each.high))
            values = {"MinValue": low, "MaxValue": high, "ScalingType": scale}
        ranges.setdefault(f"{kind}ParameterRanges", []).append({"Name": name, **values})
    return ranges


def tuning_request(
    name: str, search: Search, objective: str, definition: dict[str, Any], *, jobs: int, parallel: int
) -> dict[str, Any]:
    """CreateHyperParameterTuningJob: a definition for each sub-space, since conditional ranges are not there.

    Raises:
        UserError: SageMaker cannot search this.

    """
    if len(search.spaces) > MOST_DEFINITIONS:
        raise UserError(f"a tuning job takes {MOST_DEFINITIONS} spaces, not {len(search.spaces)}")
    for number, space in enumerate(search.spaces, start=1):
        if not space.ranges:
            raise UserError(f"space {number} has nothing to search: give a hyperparameter several values")
    goal = {"Type": "Maximize", "MetricName": objective}
    limits: dict[str, Any] = {"MaxNumberOfTrainingJobs": jobs, "MaxParallelTrainingJobs": parallel}
    if search.sampling == "grid":
        limits["MaxNumberOfTrainingJobs"] = grid_size(search.spaces)
    if search.minutes:
        limits["MaxRuntimeInSeconds"] = 60 * search.minutes
    config: dict[str, Any] = {
        "Strategy": (search.sampling or "bayesian").capitalize(),
        "ResourceLimits": limits,
        # SageMaker has one rule, the median's, whatever the policy is called.
        "TrainingJobEarlyStoppingType": "Auto" if search.early_termination else "Off",
    }
    request = {"HyperParameterTuningJobName": name, "HyperParameterTuningJobConfig": config}
    if len(search.spaces) == 1:
        (space,) = search.spaces
        config |= {"HyperParameterTuningJobObjective": goal, "ParameterRanges": parameter_ranges(space)}
        return request | {"TrainingJobDefinition": definition | {"StaticHyperParameters": dict(space.fixed)}}
    definitions = [
        definition
        | {
            "DefinitionName": f"space-{number}",
            "TuningObjective": goal,
            "HyperParameterRanges": parameter_ranges(space),
            "StaticHyperParameters": dict(space.fixed),
        }
        for number, space in enumerate(search.spaces, start=1)
    ]
    return request | {"TrainingJobDefinitions": definitions}


def main() -> int:
    """Start the tuning job and print its ARN."""
    command = parser(__doc__)
    command.add_argument("--jobs", type=int, help="in all (default: the YAML's max_trials, or 20)")
    command.add_argument("--parallel", type=int, help="at a time (default: the YAML's, or 2)")
    objectives = [each["Name"] for each in METRIC_DEFINITIONS if each["Name"].startswith("validation:")]
    command.add_argument(
        "--objective", choices=objectives, default="validation:mAP", help="the figure to maximize"
    )
    what = command.add_mutually_exclusive_group()
    what.add_argument("--search", nargs="+", choices=sorted(TUNABLE), default=["learning_rate"])
    what.add_argument("--space", type=Path, metavar="YAML", help="Azure AutoML's sweep")
    what.add_argument("--auto", action="store_true", help="what suits task and data")
    command.add_argument(
        "--like", type=Path, metavar="DIR", help="--auto: a local copy of the channel train, to look at"
    )
    arguments = command.parse_intermixed_args()
    fixed = hyperparameters_of(arguments)
    if arguments.objective != "validation:mAP":  # then it chooses the best epoch, too
        fixed.setdefault("primary_metric", arguments.objective.partition(":")[2])
    try:
        search = read(arguments, fixed)
        both = sorted({name for space in search.spaces for name in space.ranges} & fixed.keys())
        if both:
            command.error(f"{', '.join(both)} cannot be both fixed and searched")
        request = tuning_request(
            arguments.name,
            replace(search, spaces=tuple(space.given(fixed) for space in search.spaces)),
            arguments.objective,
            training_definition(arguments),
            jobs=arguments.jobs or search.trials or 20,
            parallel=arguments.parallel or search.parallel or 2,
        )
    except (UserError, OSError) as error:
        command.error(str(error))
    print(
        boto3.client("sagemaker").create_hyper_parameter_tuning_job(**request)["HyperParameterTuningJobArn"]
    )
    return 0


def read(arguments: argparse.Namespace, fixed: dict[str, str]) -> Search:
    """What the command line says is to be searched."""
    if arguments.space:
        return read_search(arguments.space)
    stops_early = EarlyTermination("median_stopping")
    if not arguments.auto:
        ranges = {name: range_of_table(name) for name in arguments.search}
        return Search((SubSpace(ranges),), early_termination=stops_early)
    # Imported here: it reads images, by all that the package needs.
    from tilewise.tuning.automatic import UNKNOWN, automatic_space, look_at

    gpu = arguments.instance_type.startswith(("ml.g", "ml.p"))
    task = decide_task(fixed)
    facts = look_at(arguments.like, task=task, gpu=gpu) if arguments.like else replace(UNKNOWN, gpu=gpu)
    spaces = automatic_space(task, facts, fixed.get("model_name"))
    return Search(tuple(space.given(fixed) for space in spaces), early_termination=stops_early)


if __name__ == "__main__":
    sys.exit(main())
