from __future__ import annotations

from pathlib import Path

from tilewise.hyperparameters import as_markdown
from tilewise.hyperparameters.table import ROWS
from tilewise.registry import model_names

DOCS = Path(__file__).parents[2] / "docs" / "hyperparameters.md"


def test_markdown__is_current() -> None:
    assert DOCS.read_text(encoding="utf-8") == as_markdown(), "run the command in the file's first line"


def test_markdown__names_everything() -> None:
    page = as_markdown()
    for name, row in ROWS.items():
        assert f"| `{name}` |" in page
        assert row.alias is None or f"`{row.alias}`" in page
    for model in model_names() + model_names("instance_segmentation"):
        assert f"| `{model}` |" in page


def test_markdown__tells_its_command_first() -> None:
    assert "python -m tilewise hyperparameters > docs/hyperparameters.md" in as_markdown().splitlines()[0]
