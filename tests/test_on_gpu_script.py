"""The commands of benchmarks/on_gpu.sh, which no machine without a GPU runs, are ones that could run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.registry import model_names

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "local_test"))

from demo_job import demo_hyperparameters  # noqa: E402


def commands(what: str, folder: Path) -> list[list[str]]:
    """The scripts that it calls, with their arguments."""
    stand_in, said = folder / "python", folder / "said"
    stand_in.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"print(json.dumps(sys.argv[1:]), file=open({str(said)!r}, 'a'))\n"
    )
    stand_in.chmod(0o755)
    data = folder / "nuclei"
    data.mkdir()
    subprocess.run(
        ["bash", str(ROOT / "benchmarks" / "on_gpu.sh"), what, str(data), str(folder / "out")],
        env=os.environ | {"PYTHON": str(stand_in)},
        check=True,
    )
    return [json.loads(line) for line in said.read_text().splitlines()]


def test_speed__every_model_takes_what_it_is_timed_with(tmp_path: Path) -> None:
    timed = [rest for script, *rest in commands("speed", tmp_path) if script == "benchmarks/models.py"]
    assert len(timed) == 3
    for arguments in timed:
        chosen = dict(each.split("=") for each in arguments if "=" in each)
        for name in set(arguments) & set(model_names()):
            parse_hyperparameters({"model_name": name} | chosen)


@pytest.mark.parametrize("place", range(4))
def test_accuracy__every_job_can_be_read(place: int, tmp_path: Path) -> None:
    script, _, *pairs = commands("accuracy", tmp_path)[place]
    assert script == "benchmarks/from_scratch.py"
    parse_hyperparameters(demo_hyperparameters(dict(pair.split("=") for pair in pairs)))
