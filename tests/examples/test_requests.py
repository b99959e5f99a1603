"""The examples send requests that boto3's model of SageMaker accepts, to moto's server in place of AWS."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from aws_requests import EXAMPLES, IMAGE, JOB, ROLE, check_request, client, run
from tilewise.evaluation.coco import FIGURES
from tilewise.tasks.detection.task import DetectionTask
from tilewise.training.job.metric_lines import MetricLines


def test_metric_definitions__match_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    sys.path.insert(0, str(EXAMPLES))
    from create_training_job import METRIC_DEFINITIONS

    lines = MetricLines("algo-1")
    lines.losses(0, 24, {"cross_entropy": 1.5, "smooth_l1": 0.5})
    lines.throughput(115.2)
    figures = {name: number / 100 for number, name in enumerate(FIGURES)}
    metrics = {**figures, "AP_class": {}, "VOC": {"mAP": 0.5}}
    lines.validation(0, {"mAP": 0.5}, DetectionTask().describe("validation", metrics))
    lines.progress(1, 30)
    log = capsys.readouterr().out
    for definition in METRIC_DEFINITIONS:
        captured = re.findall(definition["Regex"], log)
        assert len(captured) == 1, definition["Name"]
        name = definition["Name"].partition(":")[2]
        assert name not in figures or float(captured[0]) == figures[name]
    assert {f"validation:{name}" for name in FIGURES} < {each["Name"] for each in METRIC_DEFINITIONS}


NOT_THESE = {"local_mode.py", "local_mode_v2.py", "processing.py"}
"""Two need the SageMaker Python SDK, and one is no program."""


@pytest.mark.parametrize("name", sorted({path.name for path in EXAMPLES.glob("*.py")} - NOT_THESE))
def test_help__lists_the_arguments_without_an_account(name: str, tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    environment |= {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"}
    command = [sys.executable, str(EXAMPLES / name), "--help"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {name}")


def test_create_training_job__spot_with_checkpoints(aws: dict[str, str]) -> None:
    arn = run(aws, "create_training_job.py", "spot-job", *JOB, "--spot", "num_classes=2", "epochs=30")
    job = client(aws).describe_training_job(TrainingJobName="spot-job")
    assert job["TrainingJobArn"] == arn
    assert job["HyperParameters"] == {"num_classes": "2", "epochs": "30"}
    assert job["EnableManagedSpotTraining"]
    assert job["StoppingCondition"]["MaxWaitTimeInSeconds"] >= job["StoppingCondition"]["MaxRuntimeInSeconds"]
    assert job["CheckpointConfig"]["S3Uri"] == "s3://bucket/out/checkpoints/spot-job"
    uris = [channel["DataSource"]["S3DataSource"]["S3Uri"] for channel in job["InputDataConfig"]]
    assert uris == ["s3://bucket/data/train/", "s3://bucket/data/validation/"]


def test_create_training_job__augmented_manifests_stream(aws: dict[str, str]) -> None:
    run(aws, "create_training_job.py", "pipe-job", *JOB, "--manifest", "boxes")
    job = client(aws).describe_training_job(TrainingJobName="pipe-job")
    assert job["AlgorithmSpecification"]["TrainingInputMode"] == "Pipe"
    for channel in job["InputDataConfig"]:
        source = channel["DataSource"]["S3DataSource"]
        assert source["S3DataType"] == "AugmentedManifestFile"
        assert source["AttributeNames"] == ["source-ref", "boxes"]
        assert (channel["RecordWrapperType"], channel["InputMode"]) == ("RecordIO", "Pipe")


def test_tune__ranges_are_the_tables(aws: dict[str, str]) -> None:
    search = ("--search", "learning_rate", "mini_batch_size", "optimizer")
    run(aws, "tune.py", "tuning", *JOB, "--jobs", "6", "num_classes=2", *search)
    tuning = client(aws).describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="tuning")
    config = tuning["HyperParameterTuningJobConfig"]
    assert config["HyperParameterTuningJobObjective"] == {
        "Type": "Maximize",
        "MetricName": "validation:mAP",
    }
    ranges = config["ParameterRanges"]
    (rate,) = ranges["ContinuousParameterRanges"]
    assert (rate["Name"], rate["ScalingType"]) == ("learning_rate", "Logarithmic")
    assert (float(rate["MinValue"]), float(rate["MaxValue"])) == (1e-6, 0.5)
    assert ranges["IntegerParameterRanges"] == [
        {"Name": "mini_batch_size", "MinValue": "8", "MaxValue": "64", "ScalingType": "Linear"}
    ]
    (optimizer,) = ranges["CategoricalParameterRanges"]
    assert optimizer == {"Name": "optimizer", "Values": ["sgd", "adam", "rmsprop", "adadelta"]}
    assert tuning["TrainingJobDefinition"]["StaticHyperParameters"]["num_classes"] == "2"


def test_tune__for_another_figure(aws: dict[str, str]) -> None:
    run(aws, "tune.py", "small", *JOB, "--objective", "validation:AR_small", "num_classes=2")
    tuning = client(aws).describe_hyper_parameter_tuning_job(HyperParameterTuningJobName="small")
    objective = tuning["HyperParameterTuningJobConfig"]["HyperParameterTuningJobObjective"]
    assert objective == {"Type": "Maximize", "MetricName": "validation:AR_small"}
    assert tuning["TrainingJobDefinition"]["StaticHyperParameters"]["primary_metric"] == "AR_small"


def test_tune__every_range_of_the_table_is_sent(aws: dict[str, str]) -> None:
    listed = run(aws, "tune.py", "--help")
    names = re.findall(r"\w+", re.search(r"--search \{(.+?)\}", listed)[1])  # type: ignore[index]
    assert len(names) >= 5
    run(aws, "tune.py", "everything", *JOB, "--search", *names)


SWEEP = """
training_parameters: {early_stopping: true}
limits: {max_trials: 12, max_concurrent_trials: 3, timeout_minutes: 90}
sweep:
  sampling_algorithm: random
  early_termination: {type: bandit, evaluation_interval: 2, slack_factor: 0.2, delay_evaluation: 6}
search_space:
  - model_name: {type: choice, values: [yolov5]}
    learning_rate: {type: loguniform, min_value: -9.21034, max_value: -4.60517}
    training_batch_size: {type: quniform, min_value: 4, max_value: 16, q: 1}
  - model_name: {type: choice, values: [fasterrcnn_resnet50_fpn]}
    learning_rate: {type: uniform, min_value: 0.0001, max_value: 0.001}
    tile_grid_size: {type: choice, values: ['2x1', '3x2', '5x3']}
"""


def describe_tuning(aws: dict[str, str], name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A tuning job's configuration and its definitions, one or several."""
    tuning = client(aws).describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
    several = tuning.get("TrainingJobDefinitions") or [tuning["TrainingJobDefinition"]]
    return tuning["HyperParameterTuningJobConfig"], several


def test_tune__a_sweep_of_azure(aws: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    run(aws, "tune.py", "sweep", *JOB, "--space", str(tmp_path / "sweep.yaml"), "number_of_epochs=20")
    config, (yolo, rcnn) = describe_tuning(aws, "sweep")
    limits = config["ResourceLimits"]
    assert (limits["MaxNumberOfTrainingJobs"], limits["MaxParallelTrainingJobs"]) == (12, 3)
    assert limits["MaxRuntimeInSeconds"] == 5400
    assert (config["Strategy"], config["TrainingJobEarlyStoppingType"]) == ("Random", "Auto")
    assert "ParameterRanges" not in config
    for definition, model in ((yolo, "yolov5"), (rcnn, "fasterrcnn_resnet50_fpn")):
        assert definition["TuningObjective"] == {"Type": "Maximize", "MetricName": "validation:mAP"}
        assert definition["StaticHyperParameters"] == {
            "model_name": model,
            "early_stopping": "1",
            "number_of_epochs": "20",
        }
        assert definition["AlgorithmSpecification"]["MetricDefinitions"]
    assert yolo["DefinitionName"] != rcnn["DefinitionName"]
    (rate,) = yolo["HyperParameterRanges"]["ContinuousParameterRanges"]
    assert rate["ScalingType"] == "Logarithmic"
    assert [float(rate[end]) for end in ("MinValue", "MaxValue")] == pytest.approx([1e-4, 1e-2], rel=1e-4)
    (batch,) = yolo["HyperParameterRanges"]["IntegerParameterRanges"]
    assert (batch["MinValue"], batch["MaxValue"]) == ("4", "16")
    (grids,) = rcnn["HyperParameterRanges"]["CategoricalParameterRanges"]
    assert grids == {"Name": "tile_grid_size", "Values": ["2x1", "3x2", "5x3"]}


def test_tune__a_grid_has_all_its_jobs(aws: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "grid.yaml"
    path.write_text(
        "sweep: {sampling_algorithm: grid}\n"
        "search_space:\n"
        "  tile_grid_size: choice('2x1', '3x2', '5x3')\n"
        "  optimizer: choice('sgd', 'adamw')\n"
    )
    run(aws, "tune.py", "grid", *JOB, "--space", str(path), "--jobs", "20")
    config, (definition,) = describe_tuning(aws, "grid")
    assert (config["Strategy"], config["ResourceLimits"]["MaxNumberOfTrainingJobs"]) == ("Grid", 6)
    assert config["TrainingJobEarlyStoppingType"] == "Off"  # as in Azure, where no policy is given
    assert definition["StaticHyperParameters"] == {}


def test_tune__automatic_spaces(aws: dict[str, str]) -> None:
    run(aws, "tune.py", "auto", *JOB, "--auto")
    config, definitions = describe_tuning(aws, "auto")
    assert config["Strategy"] == "Bayesian" and len(definitions) == 2
    grids = [
        each["Values"]
        for definition in definitions
        for each in definition["HyperParameterRanges"]["CategoricalParameterRanges"]
        if each["Name"] == "tile_grid_size"
    ]
    assert grids == [["none", "2x1", "3x2", "5x3"]] * 2
    run(
        aws,
        "tune.py",
        "auto-cpu",
        *JOB,
        "--auto",
        "--instance-type",
        "ml.c5.2xlarge",
        "model_name=yolox_nano",
    )
    _, (definition,) = describe_tuning(aws, "auto-cpu")
    assert definition["StaticHyperParameters"]["model_name"] == "yolox_nano"


@pytest.mark.parametrize(
    ("space", "more", "message"),
    [
        ("optimizer: sgd", (), "space 1 has nothing to search"),
        ("learning_rate: uniform(0, 1)", ("learning_rate=0.1",), "cannot be both fixed and searched"),
        ("learning_rate: normal(0, 1)", (), "normal has no ends"),
        ("[" + ", ".join(["{momentum: 'uniform(0, 1)'}"] * 11) + "]", (), "takes 10 spaces, not 11"),
    ],
)
def test_tune__wrong_spaces_are_refused(
    aws: dict[str, str], tmp_path: Path, space: str, more: tuple[str, ...], message: str
) -> None:
    (tmp_path / "space.yaml").write_text(space)
    command = [sys.executable, str(EXAMPLES / "tune.py"), "x", *JOB, "--space", str(tmp_path / "space.yaml")]
    done = subprocess.run([*command, *more], env=aws, capture_output=True, text=True)
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize("kind", ["real-time", "async", "serverless"])
def test_deploy_and_transform__models_and_endpoints(aws: dict[str, str], kind: str) -> None:
    output = ("--output", "s3://bucket/answers") if kind == "async" else ()
    model = ("--image", IMAGE, "--role", ROLE, "--model", "s3://bucket/model.tar.gz", *output)
    run(aws, "deploy.py", kind, "--kind", kind, *model)
    config = client(aws).describe_endpoint_config(EndpointConfigName=kind)
    (variant,) = config["ProductionVariants"]
    assert client(aws).describe_endpoint(EndpointName=kind)["EndpointConfigName"] == kind
    assert ("ServerlessConfig" in variant) == (kind == "serverless")
    assert ("InstanceType" in variant) == (kind != "serverless")

    transform = ("--model", kind, "--images", "s3://bucket/images/", "--output", "s3://bucket/found")
    run(aws, "batch_transform.py", f"transform-{kind}", *transform)
    job = client(aws).describe_transform_job(TransformJobName=f"transform-{kind}")
    assert job["BatchStrategy"] == "SingleRecord"
    assert job["TransformInput"]["ContentType"] == "application/x-image"


@pytest.mark.parametrize("kind", ["real-time", "async"])
def test_deploy__scales_by_the_load_and_captures(aws: dict[str, str], kind: str) -> None:
    name = f"scaled-{kind}"
    more = ("--output", "s3://bucket/answers", "--max-instances", "5", "--requests-per-minute", "90")
    model = ("--image", IMAGE, "--role", ROLE, "--model", "s3://bucket/model.tar.gz", "--kind", kind)
    run(aws, "deploy.py", name, *model, *more, "--capture", "s3://bucket/kept", "--capture-percent", "20")
    capture = client(aws).describe_endpoint_config(EndpointConfigName=name)["DataCaptureConfig"]
    assert (capture["DestinationS3Uri"], capture["InitialSamplingPercentage"]) == ("s3://bucket/kept", 20)
    scaling = client(aws, "application-autoscaling")
    resource = {"ServiceNamespace": "sagemaker", "ResourceId": f"endpoint/{name}/variant/all"}
    (target,) = scaling.describe_scalable_targets(
        ServiceNamespace="sagemaker", ResourceIds=[resource["ResourceId"]]
    )["ScalableTargets"]
    assert (target["MinCapacity"], target["MaxCapacity"]) == (1, 5)
    (policy,) = scaling.describe_scaling_policies(**resource)["ScalingPolicies"]
    tracking = policy["TargetTrackingScalingPolicyConfiguration"]
    assert tracking["TargetValue"] == (4 if kind == "async" else 90)


def test_create_training_job__registers_the_model_and_keeps_the_instance(
    aws: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sys.path.insert(0, str(EXAMPLES))
    import create_training_job

    group = "arn:aws:sagemaker:us-east-1:111111111111:model-package-group/tilewise"
    command = ["registered", *JOB, "--register", group, "--warm-pool", "30"]
    arguments = create_training_job.parser("").parse_intermixed_args(command)
    definition = create_training_job.training_definition(arguments)
    # moto keeps neither; botocore's own model of the request knows both
    check_request("CreateTrainingJob", {"TrainingJobName": "registered", **definition})
    assert definition["ModelPackageConfig"] == {"ModelPackageGroupArn": group}
    assert definition["ResourceConfig"]["KeepAlivePeriodInSeconds"] == 1800


def test_deploy__async_without_output_is_refused(aws: dict[str, str]) -> None:
    command = [sys.executable, str(EXAMPLES / "deploy.py"), "x", "--kind", "async", "--image", IMAGE]
    done = subprocess.run([*command, "--role", ROLE, "--model", "s3://b/m"], env=aws, capture_output=True)
    assert done.returncode == 2
    assert b"needs --output" in done.stderr
