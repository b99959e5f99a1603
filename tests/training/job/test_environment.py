from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator

import pytest
import tilewise
import torch
from tilewise.training.job.deterministic import be_deterministic
from tilewise.training.job.environment import describe_environment


def test_environment__is_plain_json_and_says_what_this_is() -> None:
    found = describe_environment(("algo-1", "algo-2"))
    assert json.loads(json.dumps(found)) == found
    assert (found["tilewise"], found["python"]) == (tilewise.__version__, platform.python_version())
    assert found["torch"] == torch.__version__ and found["threads"] == torch.get_num_threads()
    assert found["hosts"] == ["algo-1", "algo-2"] and found["cpu"]
    assert len(found["gpus"]) == torch.cuda.device_count()


@pytest.fixture
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    cudnn = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = cudnn
    os.environ.pop("CUBLAS_WORKSPACE_CONFIG", None)


@pytest.mark.usefixtures("_as_before")
def test_deterministic__all_of_torchs_settings() -> None:
    be_deterministic()
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.is_deterministic_algorithms_warn_only_enabled()
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
