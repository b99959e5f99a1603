"""The import rules of docs/architecture.md: nothing imports upward, and no circles."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "container" / "tilewise"
FLOORS = (
    {
        "arrays",
        "bitmaps",
        "boxes",
        "errors",
        "fields",
        "instances",
        "masks",
        "prototypes",
        "rasters",
        "registry",
        "startup",
        "stop",
        "suppression",
        "targets",
    },
    {"hyperparameters", "machine", "platform", "tiling", "views"},
    {"data", "augment", "models", "tuning"},
    {"evaluation", "inference"},
    {"tasks"},
    {"training"},
    {"serving", "commands"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
COMMANDS = {"serving", "commands"}
ONLY_IN = {"flask": {"serving"}, "gunicorn": {"serving"}, "sagemaker_training": {"platform"}}

DETECTION = (
    "evaluation.analysis",
    "evaluation.coco",
    "evaluation.confusion",
    "evaluation.curves",
    "evaluation.evaluate",
    "evaluation.pictures",
    "evaluation.report",
    "evaluation.voc",
    "data.statistics",
    "inference.detections",
    "instances",
    "models.build",
    "tasks.detection",
    "tiling.auto",
    "tiling.merge",
)
"""What only object detection needs; a part of a dotted name stands for all below it."""
TASK_NEUTRAL = (
    "evaluation.predicting",
    "evaluation.report_content",
    "inference.artifact",
    "inference.backend",
    "inference.batching",
    "inference.description",
    "inference.load",
    "inference.predictor",
    "inference.torch_backend",
    "inference.view_plan",
    "registry",
    "serving",
    "tasks.answers",
    "tasks.registry",
    "tasks.task",
    "training",
)
"""What trains, keeps, loads and serves a model of any task."""

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
        if name.startswith("tilewise.platform"):
            assert room in COMMANDS, f"{path.name} asks the platform"
        if parts[0] in ONLY_IN:
            assert room in ONLY_IN[parts[0]], f"{path.name} imports {name}"


def imported_modules(path: Path) -> set[str]:
    """The package's modules that a module imports, also under ``TYPE_CHECKING`` and in functions."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in names if name in NAMES}


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {dotted(path): path for path in MODULES}


def is_in(name: str, rooms: tuple[str, ...]) -> bool:
    return any(f"{name}.".startswith(f"tilewise.{room}.") for room in rooms)


@pytest.mark.parametrize("room", TASK_NEUTRAL)
def test_task_neutral_rooms__import_nothing_of_detection(room: str) -> None:
    within = {
        name: path for name, path in NAMES.items() if is_in(name, (room,)) and not is_in(name, DETECTION)
    }
    assert within
    for name, path in within.items():
        wrong = [each for each in imported_modules(path) if is_in(each, DETECTION)]
        assert not wrong, f"{name} imports {', '.join(wrong)}"


def test_detection__is_all_there() -> None:
    assert [
        room for room in (*DETECTION, *TASK_NEUTRAL) if not any(is_in(name, (room,)) for name in NAMES)
    ] == []


def test_modules__import_each_other_in_no_circle() -> None:
    graph = {name: imported_modules(path) - {name} for name, path in NAMES.items()}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail("a circle of imports: " + " -> ".join(error.args[1]))
