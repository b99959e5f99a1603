"""The documentation's links lead somewhere, and its tables are those of the registry."""

from __future__ import annotations

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
