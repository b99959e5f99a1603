from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tilewise.commands.job_channels import (
    CHANNELS,
    check_model_channel,
    data_channels,
    with_earlier_rendering,
)
from tilewise.errors import UserError
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.inference.artifact import Artifact
from tilewise.platform import Job, JobChannel
from tilewise.training.distributed.context import SINGLE_PROCESS, DistributedContext
from tilewise.views.rendering import AS_STORED, Rendering

HP = parse_hyperparameters({})


def job_of(*names: str) -> Job:
    channels = {name: JobChannel(name, Path(name)) for name in names}
    return Job({}, channels, ("algo-1",), "algo-1", "eth0")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("training", "train"),
        ("train_data", "train"),
        ("validation-images", "validation"),
        ("valset", "validation"),
        ("Train", "train"),
        ("TRAINING", "train"),
        ("trian", "train"),
        ("val", "validation"),
        ("valid", "validation"),
        ("Validation", "validation"),
        ("eval", "validation"),
        ("validaton", "validation"),
        ("testing", "test"),
        ("train_annotations", "train_annotation"),
        ("train_labels", "train_annotation"),
        ("training_annotation", "train_annotation"),
        ("val-annotation", "validation_annotation"),
        ("weights", "pretrained"),
        ("Model", "model"),
    ],
)
def test_channels__a_wrong_name_is_an_error_with_the_right_one(given: str, meant: str) -> None:
    with pytest.raises(UserError) as error:
        data_channels(job_of("train", given), HP, None, distributed=SINGLE_PROCESS)
    start = f"channel {given}: there is no such channel: call it {meant} "
    assert str(error.value) == f"{start}(the channels are {', '.join(CHANNELS)})"


def test_channels__a_name_like_none_of_them() -> None:
    with pytest.raises(UserError, match="channel xyzzy: there is no such channel: leave it out"):
        data_channels(job_of("train", "xyzzy"), HP, None, distributed=SINGLE_PROCESS)


def test_channels__a_list_of_classes_is_for_classification() -> None:
    with pytest.raises(UserError, match="channel train_lst: a list of images and their classes") as error:
        data_channels(job_of("train", "train_lst"), HP, None, distributed=SINGLE_PROCESS)
    assert "this is a job for task=detection: give task=classification" in str(error.value)


def test_channels__of_the_sdk_are_left_aside(caplog: pytest.LogCaptureFixture) -> None:
    found = data_channels(job_of("train", "code", "sm_drivers"), HP, None, distributed=SINGLE_PROCESS)
    assert list(found) == ["train"]
    assert [entry.levelname for entry in caplog.records] == ["WARNING"] * 2
    assert "channel sm_drivers is not used: it belongs to the SageMaker SDK" in caplog.text


def test_channels__a_host_that_got_no_file_of_a_channel_is_named(tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("train", "validation")}
    for path in paths.values():
        path.mkdir()
    (paths["train"] / "a.jpg").touch()
    channels = {name: JobChannel(name, path, distribution="ShardedByS3Key") for name, path in paths.items()}
    two = DistributedContext(1, 2, local_size=1)
    with pytest.raises(UserError) as error:
        data_channels(Job({}, channels, ("algo-1", "algo-2"), "algo-2", "eth0"), HP, None, distributed=two)
    assert str(error.value) == (
        "channel validation: host algo-2 has got none of its files: give each of the 2 hosts some, or use "
        "S3DataDistributionType FullyReplicated"
    )


@pytest.mark.parametrize("name", ["checkpoint_run_id", "checkpoint_dataset_id", "checkpoint_filename"])
def test_model__of_azure_must_be_in_its_channel(name: str) -> None:
    hp = parse_hyperparameters({name: "abc"})
    with pytest.raises(UserError, match=f"{name}=abc: there are no runs of Azure here"):
        check_model_channel({}, hp)
    check_model_channel(job_of("model").channels, hp)


INFRARED = Rendering((4, 3, 2), (0.0, 4095.0))


def model_seeing(rendering: Rendering) -> Artifact:
    return cast(Artifact, SimpleNamespace(spec=SimpleNamespace(rendering=rendering)))


@pytest.mark.parametrize(
    ("given", "earlier", "seen", "said"),
    [
        ({}, INFRARED, INFRARED, "INFO channel model: bands=4,3,2 is that model's"),
        ({}, INFRARED, INFRARED, "INFO channel model: pixel_range=0,4095 is that model's"),
        ({}, AS_STORED, AS_STORED, ""),
        (
            {"bands": "1,2,3"},
            INFRARED,
            Rendering((1, 2, 3), (0.0, 4095.0)),
            "WARNING channel model: bands=1,2,3, but that model learnt with 4,3,2",
        ),
        (
            {"pixel_range": "0,255"},
            AS_STORED,
            Rendering(None, (0.0, 255.0)),
            "WARNING channel model: pixel_range=0,255, but that model learnt with none",
        ),
        ({"bands": "4,3,2", "pixel_range": "0,4095"}, INFRARED, INFRARED, ""),
    ],
)
def test_model__its_bands_and_range_hold_unless_the_job_has_its_own(
    given: dict[str, str], earlier: Rendering, seen: Rendering, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        hp = with_earlier_rendering(parse_hyperparameters(given), model_seeing(earlier), None)
    assert hp.rendering == seen
    lines = [f"{entry.levelname} {entry.message}" for entry in caplog.records]
    assert any(line.startswith(said) for line in lines) if said else not lines
    # the run is interrupted, and resumed from a checkpoint
    state: dict[str, Any] = {"hyperparameters": json.dumps(hp.model_dump(mode="json"))}
    assert with_earlier_rendering(parse_hyperparameters(given), None, state) == hp


def test_channels__a_test_of_a_part_of_the_images_is_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.jpg").touch()
    channels = {"test": JobChannel("test", tmp_path, distribution="ShardedByS3Key")}
    two = DistributedContext(1, 2, local_size=1)
    data_channels(Job({}, channels, ("algo-1", "algo-2"), "algo-2", "eth0"), HP, None, distributed=two)
    assert "channel test is split between 2 hosts, and one of them tests" in caplog.text
    caplog.clear()
    data_channels(
        Job({}, channels, ("algo-1",), "algo-1", "eth0"), HP, None, distributed=DistributedContext()
    )
    assert not caplog.text
