"""The import rule of docs/architecture.md: nothing imports upward."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "container" / "tilewise"
FLOORS = (
    {"arrays", "boxes", "errors", "fields", "instances", "targets"},
    {"hyperparameters", "machine", "platform", "tiling", "views"},
    {"data", "augment", "models"},
    {"training", "evaluation", "inference"},
    {"serving", "commands"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
ONLY_IN = {"flask": {"serving"}, "gunicorn": {"serving"}, "sagemaker_training": {"platform"}}

MODULES = sorted({*PACKAGE.rglob("*.py")} - {PACKAGE / "__main__.py", PACKAGE / "__init__.py"})


def imported(path: Path) -> set[str]:
    """The dotted names that a module imports, at the top or in a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            module = node.module or ""
            names |= {f"{module}.{alias.name}" for alias in node.names} if module == "tilewise" else {module}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_module__imports_nothing_from_above(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for name in imported(path):
        parts = name.split(".")
        if parts[0] == "tilewise" and len(parts) > 1 and parts[1] in FLOOR_OF:
            assert FLOOR_OF[parts[1]] <= FLOOR_OF[room], f"{path.name} imports {name}"
        if parts[0] in ONLY_IN:
            assert room in ONLY_IN[parts[0]], f"{path.name} imports {name}"
