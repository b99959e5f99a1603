"""The documentation's links lead somewhere, and its tables are those of the registry."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from models_table import read_figures, with_table  # noqa: E402
from tilewise.registry import model_names  # noqa: E402

PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "examples/*.md", "weights/*.md")
    for page in ROOT.glob(pattern)
)
LINK = re.compile(r"\[[^\]]*\]\((?!https?:)([^)#\s]*)(?:#([^)]*))?\)")


def anchors(page: Path) -> set[str]:
    """Of the page's headings, as GitHub forms them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links__lead_to_files_and_headings(page: Path) -> None:
    for target, anchor in LINK.findall(page.read_text()):
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{target} is no file"
        assert not anchor or anchor in anchors(file), f"{file.name} has no heading #{anchor}"


def test_models__page_has_the_table_of_the_registry() -> None:
    page = (ROOT / "docs" / "models.md").read_text()
    assert page == with_table(page), "run: make docs"
    assert set(model_names()) <= read_figures().keys(), "run: python benchmarks/models.py MODEL"


MESSAGES_OF_OTHERS = {
    "CUDA out of memory",
    "CannotStartContainerError",
    "The NVIDIA driver on your system is too old",
    "did not pass the ping health check",
    "ModelError … 424",
    "OriginalStatusCode",
}
"""In the tables of training and endpoints, what PyTorch, Docker and SageMaker say."""


def texts_of(package: Path) -> str:
    """All texts in the code, with … for what is filled in."""
    texts: list[str] = []
    for path in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
                texts.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_troubleshooting__messages_are_those_of_the_code() -> None:
    page = (
        (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8").partition("## Docker, podman")[0]
    )
    source = texts_of(ROOT / "container" / "tilewise") + texts_of(ROOT / "docker")
    checked = 0
    for row in re.findall(r"^\| (.+?) \| .+ \|$", page, re.MULTILINE):
        for message in {*re.findall(r"`([^`]{9,})`", row)} - MESSAGES_OF_OTHERS:
            # three words in a row, since what is between them may be a value
            words = [part.split() for part in message.split("…")]
            runs = [" ".join(part[n : n + 3]) for part in words for n in range(max(1, len(part) - 2)) if part]
            assert any(run in source for run in runs if len(run) > 8), f"no code says {message!r}"
            checked += 1
    assert checked > 30
