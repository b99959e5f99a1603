"""The table of docs/models.md, from the registry and the figures in benchmarks/results: prints it.

python benchmarks/models_table.py [PAGE]

With PAGE the table is written there instead, between the two comments that mark its place.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "container")]

from tilewise.registry import find_model, model_names  # noqa: E402

BEGIN, END = "<!-- models: begin (make docs) -->\n", "<!-- models: end -->\n"
RESULTS = ROOT / "benchmarks" / "results"
SPEED_SIDE = 320
FIGURES = {
    "parameters_M": ("parameters, M", "{:.2f}"),
    "GFLOPs": ("GFLOPs", "{:.1f}"),
    "train_images_per_second": ("train, images/s", "{:.1f}"),
    "bare_images_per_second": ("bare step", "{:.1f}"),
    "efficiency": ("ratio", "{:.2f}"),
}
HEAD = ("`model_name`", "input", "published weights", *(title for title, _ in FIGURES.values()))


def read_figures() -> dict[str, dict[str, Any]]:
    """By model: parameters and GFLOPs at its default size, speed at :data:`SPEED_SIDE` pixels."""
    figures: dict[str, dict[str, Any]] = {}
    for line in _lines("models_speed.jsonl"):
        if line["input"].startswith(f"{SPEED_SIDE}x"):
            figures[line["model"]] = line
    for line in _lines("models.jsonl"):
        figures[line["model"]] = figures.get(line["model"], {}) | line
    return figures


def _lines(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RESULTS / name).read_text().splitlines()]


def table() -> str:
    """The table in Markdown, one row a model of the registry."""
    measured = read_figures()
    rows = [HEAD, *(_row(name, measured.get(name, {})) for name in model_names())]
    lines = [f"| {' | '.join(cells)} |\n" for cells in rows]
    return "".join([lines[0], f"|{'---|' * len(HEAD)}\n", *lines[1:]])


def _row(name: str, measured: dict[str, Any]) -> tuple[str, ...]:
    model = find_model(name)
    weights = "detector" if model.weights else "backbone" if model.published else "none"
    figures = (form.format(measured[key]) if key in measured else "-" for key, (_, form) in FIGURES.items())
    return f"`{name}`", measured.get("input", "-").replace("x", " x "), weights, *figures


def with_table(page: str) -> str:
    """A page with the table anew."""
    before, _, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"the page has no place from {BEGIN.strip()} to {END.strip()}"
    return f"{before}{BEGIN}{table()}{END}{after}"


def main() -> None:
    """Print the table, or write it into a page."""
    if len(sys.argv) == 1:
        print(table(), end="")
        return
    page = Path(sys.argv[1])
    page.write_text(with_table(page.read_text()))


if __name__ == "__main__":
    main()
