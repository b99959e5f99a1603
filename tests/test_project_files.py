"""The files that other programs read, Compose and GitHub, follow the schemas of those programs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tilewise
import yaml
from tilewise.hyperparameters import parse_hyperparameters

ROOT = Path(__file__).resolve().parents[1]
FILES_OF_SCHEMA = {
    "vendor.compose-spec": ("compose.yaml", "compose.gpu.yaml"),
    "vendor.github-workflows": (".github/workflows/*.yml",),
    "custom.github-workflows-require-timeout": (".github/workflows/*.yml",),
    "vendor.github-issue-forms": (".github/ISSUE_TEMPLATE/bug.yml", ".github/ISSUE_TEMPLATE/idea.yml"),
    "vendor.github-issue-config": (".github/ISSUE_TEMPLATE/config.yml",),
    "vendor.dependabot": (".github/dependabot.yml",),
    "vendor.citation-file-format": ("CITATION.cff",),
}


def check(schema: str, *files: Path) -> subprocess.CompletedProcess[str]:
    """Compare files with a schema that check-jsonschema brings along; nothing is downloaded."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("schema", FILES_OF_SCHEMA)
def test_schemas__are_followed_and_told_from_something_else(schema: str, tmp_path: Path) -> None:
    files = [file for pattern in FILES_OF_SCHEMA[schema] for file in sorted(ROOT.glob(pattern))]
    assert len(files) >= len(FILES_OF_SCHEMA[schema])
    done = check(schema, *files)
    assert done.returncode == 0, done.stdout
    content = yaml.safe_load(files[0].read_text(encoding="utf-8"))
    if schema.startswith("custom"):
        for job in content["jobs"].values():
            del job["timeout-minutes"]
    else:
        content["sevrices"] = 1
    other = tmp_path / files[0].name
    other.write_text(yaml.safe_dump(content))
    assert check(schema, other).returncode == 1


def test_citation__is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert citation["version"] == tilewise.__version__
    assert f"ARG VERSION={tilewise.__version__}\n" in dockerfile


def test_workflows__run_scripts_that_are_there() -> None:
    scripts = set()
    for workflow in (ROOT / ".github" / "workflows").glob("*.yml"):
        for job in yaml.safe_load(workflow.read_text(encoding="utf-8"))["jobs"].values():
            for step in job["steps"]:
                scripts |= set(re.findall(r"\bbash (\S+)", step.get("run", "")))
    assert ".ci/run" in scripts and all((ROOT / script).is_file() for script in scripts)


def test_compose__mounts_a_job_that_is_whole() -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    (config,) = (
        folder
        for folder, target, _ in (volume.rsplit(":", 2) for volume in services["train"]["volumes"][:1])
        if target == "/opt/ml/input/config"
    )
    names = {path.name for path in (ROOT / config).iterdir()}
    assert names == {"hyperparameters.json", "inputdataconfig.json", "resourceconfig.json"}
    hyperparameters = json.loads((ROOT / config / "hyperparameters.json").read_text())
    assert parse_hyperparameters(hyperparameters).model_name == "yolox_tiny"
