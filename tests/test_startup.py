from __future__ import annotations

import subprocess
import sys

import pytest

ROUND = """
import sys
from tilewise.startup import skip_dynamo

skip_dynamo()
import inspect
import torch
import torchvision
from torchvision.transforms.v2 import functional

model = torch.nn.Linear(3, 4)
optimizer = torch.optim.AdamW(model.parameters())
before = model.weight.detach().clone()
model(torch.rand(2, 3)).sum().backward()
optimizer.step()
optimizer.zero_grad()
assert not torch.equal(model.weight, before) and model.weight.grad is None
functional.resize(torch.zeros(3, 8, 8, dtype=torch.uint8), [4, 4])
inspect.getmodule(functional.resize)
"""


def run(program: str) -> str:
    command = [sys.executable, "-c", ROUND + program]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_skip_dynamo__a_step_of_training_does_not_import_it() -> None:
    assert run("print('torch._dynamo.convert_frame' in sys.modules)").split() == ["False"]


@pytest.mark.parametrize(
    "asks",
    [
        "import torch._dynamo.config",
        "from torch._dynamo import config",
        "torch._dynamo.reset()",
        "from torch._dynamo.utils import counters",
        "torchvision.ops.roi_align.__globals__['is_compile_supported']('cpu')",
        "import torch.export",
    ],
)
def test_skip_dynamo__what_asks_for_more_gets_it(asks: str) -> None:
    double = "print(torch.compile(lambda x: 2 * x, backend='eager')(torch.ones(2)).tolist())"
    printed = run(f"{asks}\n{double}\nprint(torch._dynamo.__file__ is not None)")
    assert printed.splitlines() == ["[2.0, 2.0]", "True"]
