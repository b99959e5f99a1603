from __future__ import annotations

import importlib.util
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from tilewise.errors import UserError
from tilewise.stop import NEVER, StopWhen
from tilewise.training.distributed.context import SINGLE_PROCESS
from tilewise.training.distributed.launch import Patience, launch, processes_of_host

SCRIPT = Path(__file__).with_name("together.py")


def together() -> ModuleType:
    """The script, as a module."""
    spec = importlib.util.spec_from_file_location("together", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    folder: Path,
    ask: Any = bool,
    patience: Patience | None = None,
) -> str | None:
    """Launch two processes on this host; returns why they failed."""
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), what, str(folder)])
    return launch(["algo-1"], "algo-1", "eth0", processes=2, stop=StopWhen(ask), patience=patience)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes have learnt together."""
    folder = tmp_path_factory.mktemp("learnt")
    with pytest.MonkeyPatch.context() as monkeypatch:
        assert run(monkeypatch, "learn", folder) is None
    return folder


def test_processes__learn_as_one_does_from_the_same_batch(learnt: Path, tmp_path: Path) -> None:
    script, threads = together(), torch.get_num_threads()
    script.learn(SINGLE_PROCESS, tmp_path)
    torch.set_num_threads(threads)
    alone = torch.load(tmp_path / "learnt-0.pt")
    for rank in range(2):
        found = torch.load(learnt / f"learnt-{rank}.pt")
        assert sorted(found) == sorted(script.FAMILIES)
        for name, (weights, loss) in found.items():
            expected, expected_loss = alone[name]
            fresh = script.weights(script.make_learner(name, SINGLE_PROCESS))
            assert loss == pytest.approx(expected_loss, rel=1e-4), name
            moved = max(float((expected[key] - fresh[key]).abs().max()) for key in fresh)
            apart = max(float((expected[key] - weights[key]).abs().max()) for key in fresh)
            assert moved > 1e-4 and apart < 0.002 * moved, (name, moved, apart)


def test_processes__weigh_the_classes_of_images_as_one_does(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script, threads = together(), torch.get_num_threads()
    alone = tmp_path / "alone"
    alone.mkdir()
    script.classify(SINGLE_PROCESS, alone)
    torch.set_num_threads(threads)
    assert run(monkeypatch, "classify", tmp_path) is None
    fresh = script.weights(script.make_classifier(SINGLE_PROCESS))
    expected = torch.load(alone / "classified-0.pt")
    for rank in range(2):
        found = torch.load(tmp_path / f"classified-{rank}.pt")
        moved = max(float((expected[key] - fresh[key]).abs().max()) for key in fresh)
        apart = max(float((expected[key] - found[key]).abs().max()) for key in fresh)
        assert moved > 1e-4 and apart < 0.002 * moved, (moved, apart)


def test_processes__without_images_or_a_finite_loss_never_hang(learnt: Path) -> None:
    first, second = (torch.load(learnt / f"blank-{rank}.pt") for rank in range(2))
    for name, (before, after) in first.items():
        assert all(torch.isfinite(tensor).all() for tensor in after.values()), name
        assert all(torch.equal(before[key], after[key]) for key in after), name
        assert all(torch.equal(after[key], second[name][1][key]) for key in after), name


def test_world__says_the_same_to_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run(monkeypatch, "messages", tmp_path) is None
    assert (tmp_path / "received").read_text() == "batch"


def test_processes__look_for_false_alarms_with_the_same_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert run(monkeypatch, "predictors", tmp_path) is None


def test_failure__of_one_process_ends_all_and_is_told_as_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    start = time.monotonic()
    assert run(monkeypatch, "user_error", tmp_path) == "ClientError: image café.jpg is damaged"
    assert time.monotonic() - start < 60


def test_failure__killed_process_ends_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    failure = run(monkeypatch, "killed", tmp_path, patience=Patience(grace=1))
    assert failure == (
        "AlgorithmError: the training process 1 on host algo-1 was killed, probably since its memory was "
        "used up: use a larger instance"
    )


def test_stop__reaches_all_processes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert run(monkeypatch, "terminated", tmp_path, lambda: len(list(tmp_path.glob("ready-*"))) == 2) is None
    assert len(list(tmp_path.glob("stopped-*"))) == 2


@pytest.mark.parametrize(
    ("gpus", "given", "processes"), [(0, None, 1), (4, None, 4), (0, "2", 2), (4, "2", 2)]
)
def test_processes_of_host(
    gpus: int, given: str | None, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    if given is not None:
        monkeypatch.setenv("TILEWISE_PROCESSES", given)
    assert processes_of_host() == processes


@pytest.mark.parametrize(
    ("given", "message"), [("two", "number from 1 up"), ("0", "from 1"), ("5", "4 GPUs")]
)
def test_processes_of_host__refuses(given: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("TILEWISE_PROCESSES", given)
    with pytest.raises(UserError, match=message):
        processes_of_host()


def test_hosts__leader_that_is_not_there() -> None:
    with pytest.raises(
        UserError, match=r"host nowhere\.invalid, which leads, cannot be reached at port 7777"
    ):
        launch(
            ["nowhere.invalid", "algo-2"],
            "algo-2",
            "eth0",
            processes=1,
            stop=NEVER,
            patience=Patience(meet=0),
        )


def test_hosts__one_that_does_not_come() -> None:
    patience = Patience(meet=1, leave=0)
    with pytest.raises(UserError, match="host algo-2 did not join within"):
        launch(["algo-1", "algo-2"], "algo-1", "eth0", processes=1, stop=NEVER, patience=patience)


def test_hosts__the_limit_is_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TILEWISE_MEET_MINUTES", "0.01")
    patience = replace(Patience.from_environment(), leave=0)
    with pytest.raises(UserError, match=r"host algo-2 did not join within 0\.01 minutes: the hosts"):
        launch(["algo-1", "algo-2"], "algo-1", "eth0", processes=1, stop=NEVER, patience=patience)
    monkeypatch.setenv("TILEWISE_MEET_MINUTES", "soon")
    with pytest.raises(UserError, match="TILEWISE_MEET_MINUTES is 'soon': it must be a number"):
        launch(["algo-1", "algo-2"], "algo-1", "eth0", processes=1, stop=NEVER)


def test_hosts__stopped_while_the_leader_waits() -> None:
    asked = iter([False, False, True])
    stop, patience = StopWhen(lambda: next(asked)), Patience(leave=0)
    assert launch(["algo-1", "algo-2"], "algo-1", "eth0", processes=1, stop=stop, patience=patience) is None


def test_hosts__stopped_while_they_meet() -> None:
    assert (
        launch(["nowhere.invalid", "algo-2"], "algo-2", "eth0", processes=1, stop=StopWhen(lambda: True))
        is None
    )


def test_hosts__current_one_is_unknown() -> None:
    with pytest.raises(UserError, match="current_host algo-3 is not among the hosts"):
        launch(["algo-1", "algo-2"], "algo-3", "eth0", processes=1, stop=NEVER)
