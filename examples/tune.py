"""Search hyperparameters on AWS, with the arguments of create_training_job.py.

    python examples/tune.py NAME … --search learning_rate momentum --jobs 20 --parallel 2 [name=value …]

What may be searched, and in which range, is Tilewise's own table (docs/hyperparameters.md, "Tuning").
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import boto3
from create_training_job import METRIC_DEFINITIONS, hyperparameters_of, parser, training_definition

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "container"))
from tilewise.hyperparameters.table import ROWS  # needs pydantic

TUNABLE = {row.alias or name: row.tuning for name, row in ROWS.items() if row.tuning}


def parameter_ranges(names: list[str]) -> dict[str, list[dict[str, Any]]]:
    """The table's ranges in the form of CreateHyperParameterTuningJob.

    Raises:
        KeyError: the table has no range for a name.

    """
    ranges: dict[str, list[dict[str, Any]]] = {}
    for name in names:
        tuning = TUNABLE[name]
        values: dict[str, Any]
        if tuning.categories:
            kind, values = "Categorical", {"Values": list(tuning.categories)}
        else:
            whole = isinstance(tuning.low, int) and isinstance(tuning.high, int)
            kind = "Integer" if whole else "Continuous"
            values = {"MinValue": str(tuning.low), "MaxValue": str(tuning.high), "ScalingType": tuning.scale}
        ranges.setdefault(f"{kind}ParameterRanges", []).append({"Name": name, **values})
    return ranges


def main() -> int:
    """Start the tuning job and print its ARN."""
    command = parser(__doc__)
    command.add_argument("--jobs", type=int, default=20, help="in all (default 20)")
    command.add_argument("--parallel", type=int, default=2, help="at a time (default 2)")
    objectives = [each["Name"] for each in METRIC_DEFINITIONS if each["Name"].startswith("validation:")]
    command.add_argument(
        "--objective", choices=objectives, default="validation:mAP", help="the figure to maximize"
    )
    command.add_argument("--search", nargs="+", choices=sorted(TUNABLE), default=["learning_rate"])
    arguments = command.parse_intermixed_args()
    fixed = hyperparameters_of(arguments)
    both = sorted(set(fixed) & set(arguments.search))
    if both:
        command.error(f"{', '.join(both)} cannot be both fixed and searched")

    if arguments.objective != "validation:mAP":  # then it chooses the best epoch, too
        fixed.setdefault("primary_metric", arguments.objective.partition(":")[2])
    definition = training_definition(arguments)
    definition["StaticHyperParameters"] = fixed
    config = {
        "Strategy": "Bayesian",
        "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": arguments.objective},
        "ResourceLimits": {
            "MaxNumberOfTrainingJobs": arguments.jobs,
            "MaxParallelTrainingJobs": arguments.parallel,
        },
        "ParameterRanges": parameter_ranges(arguments.search),
        "TrainingJobEarlyStoppingType": "Auto",
    }
    answer = boto3.client("sagemaker").create_hyper_parameter_tuning_job(
        HyperParameterTuningJobName=arguments.name,
        HyperParameterTuningJobConfig=config,
        TrainingJobDefinition=definition,
    )
    print(answer["HyperParameterTuningJobArn"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
