"""The documentation as a site: every page is in its navigation, and all links lead somewhere."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

pytestmark = pytest.mark.skipif(
    find_spec("mkdocs") is None, reason="MkDocs is not installed: pip install .[docs]"
)


def build(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", "mkdocs.yml"]
    environ = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    command += ["--site-dir", str(site)]
    return subprocess.run(command, cwd=root, env=environ, capture_output=True, text=True)


def test_build__strict_with_pictures_tables_and_code(tmp_path: Path) -> None:
    done = build(ROOT, tmp_path / "site")
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "site"
    front = (site / "index.html").read_text(encoding="utf-8")
    assert "<table>" not in front and 'src="docs/images/detections.jpg"' in front
    assert (site / "docs" / "images" / "detections.jpg").stat().st_size > 1000
    tutorial = (site / "docs" / "tutorial" / "index.html").read_text(encoding="utf-8")
    for picture in re.findall(r'<img [^>]*src="([^"]+)"', tutorial):
        assert (site / "docs" / "tutorial" / picture).resolve().is_file()
    hyperparameters = (site / "docs" / "hyperparameters" / "index.html").read_text(encoding="utf-8")
    assert "<code>use_<wbr>pretrained_<wbr>model</code></td>" in hyperparameters
    migrating = (site / "docs" / "migrating" / "index.html").read_text(encoding="utf-8")
    assert "<table>" in migrating and 'class="highlight"' in migrating
    assert "```" not in migrating, "a code block is not read"
    assert not re.search(r'(?:src|href)="https?://(?:fonts|cdn|unpkg)', front), (
        "loads something from elsewhere"
    )


def test_build__a_broken_link_or_heading_fails(tmp_path: Path) -> None:
    for name in ("docs", "examples", "weights", "benchmarks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.json*", "__pycache__"))
    for page in [*ROOT.glob("*.md"), ROOT / "mkdocs.yml"]:
        shutil.copy(page, tmp_path)
    (tmp_path / "docs" / "report.md").write_text("# A\n\n[b](tutorial.md#no-such-heading) [c](nowhere.md)\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode == 1
    assert "no-such-heading" in done.stderr and "nowhere.md" in done.stderr
