from __future__ import annotations

from pathlib import Path

import pytest
from tilewise.commands.job_channels import CHANNELS, check_model_channel, data_channels
from tilewise.errors import UserError
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.platform import Job, JobChannel
from tilewise.training.distributed.context import SINGLE_PROCESS

HP = parse_hyperparameters({})


def job_of(*names: str) -> Job:
    channels = {name: JobChannel(name, Path(name)) for name in names}
    return Job({}, channels, ("algo-1",), "algo-1", "eth0")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("training", "train"),
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


def test_channels__of_the_sdk_are_left_aside(caplog: pytest.LogCaptureFixture) -> None:
    found = data_channels(job_of("train", "code", "sm_drivers"), HP, None, distributed=SINGLE_PROCESS)
    assert list(found) == ["train"]
    assert [entry.levelname for entry in caplog.records] == ["WARNING"] * 2
    assert "channel sm_drivers is not used: it belongs to the SageMaker SDK" in caplog.text


@pytest.mark.parametrize("name", ["checkpoint_run_id", "checkpoint_dataset_id", "checkpoint_filename"])
def test_model__of_azure_must_be_in_its_channel(name: str) -> None:
    hp = parse_hyperparameters({name: "abc"})
    with pytest.raises(UserError, match=f"{name}=abc: there are no runs of Azure here"):
        check_model_channel({}, hp)
    check_model_channel(job_of("model").channels, hp)
