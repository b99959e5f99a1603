"""The report of a training run: one HTML page that needs nothing beside itself."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jinja2
import numpy as np
import torch
import torchvision
from markupsafe import Markup

import tilewise
from tilewise.data.channel_table import SIZE_LIMITS, SIZE_NAMES
from tilewise.evaluation.analysis import BACKGROUND, Analysis
from tilewise.evaluation.charts import SERIES, Line, bar_chart, histogram, line_chart
from tilewise.evaluation.coco import IOUS
from tilewise.evaluation.curves import RECALL_LEVELS
from tilewise.evaluation.pictures import Picture, best_and_worst, make_picture
from tilewise.evaluation.report_content import ReportContent
from tilewise.stop import NEVER, StopToken

MAX_MATRIX = 20
"""Up to so many classes have their confusion matrix shown; with more, what is most often confused."""

MAX_REASONS = 50
"""So many images left out and boxes dropped are named on the page."""


CHARTS = ("loss", "score", "precision_recall", "recall_iou", "by_size", "sizes")


def report_page(run: ReportContent, *, pictures: bool = True, stop: StopToken = NEVER) -> str:
    """The report as HTML.

    Args:
        run: what it tells of.
        pictures: whether images are shown; to read and draw them takes most of the time.
        stop: looked at before each image; when it says so, the rest are left out.

    """
    template = report_template("evaluation/report.html.j2")
    best, worst = _pictures(run, stop) if pictures and run.analysis else ([], [])
    seconds = sum(epoch["seconds"] + epoch.get("validation_seconds", 0) for epoch in run.epochs)
    return template.render(
        run=run,
        analysis=run.analysis,
        rates=run.analysis.rates() if run.analysis else {},
        class_rows=_class_rows(run),
        calibrated=_calibrated(run.analysis),
        charts=_charts(run),
        matrix=_matrix(run.analysis),
        confusions=_confusions(run.analysis),
        best=best,
        worst=worst,
        pictures=pictures,
        chosen=chosen(run),
        minutes=seconds / 60,
        speed=speed(run),
        size_names=SIZE_NAMES,
        max_reasons=MAX_REASONS,
        versions=versions(),
    )


def report_template(name: str) -> jinja2.Template:
    """A template of this package, with the filter ``figure``."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tilewise", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["figure"] = figure
    return environment.get_template(name)


def versions() -> dict[str, str]:
    """What a report was made with."""
    return {
        "Tilewise": tilewise.__version__,
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "torchvision": torchvision.__version__,
    }


def figure(value: float | None, digits: int = 3) -> str:
    """A figure for a table, a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def chosen(run: ReportContent) -> int | None:
    """The epoch whose weights were saved."""
    epochs = [one["epoch"] for one in run.epochs if run.best and one.get("validation") == run.best]
    return epochs[0] if epochs else None


def speed(run: ReportContent) -> float | None:
    """Training samples a second."""
    seconds = sum(epoch["seconds"] for epoch in run.epochs)
    return sum(epoch["records"] for epoch in run.epochs) / seconds if seconds else None


def _pictures(run: ReportContent, stop: StopToken) -> tuple[list[Picture], list[Picture]]:
    analysis: Analysis = run.analysis

    def make(indices: list[int]) -> list[Picture]:
        pictures = []
        for index in indices:
            if stop.requested:
                break
            outcome = analysis.outcomes[index]
            picture = make_picture(
                analysis.records[index], outcome, analysis.classes, rendering=run.rendering
            )
            pictures.append(picture)
        return pictures

    best, worst = best_and_worst(analysis)
    return make(best), make(worst)


def _charts(run: ReportContent) -> dict[str, Markup | None]:
    """All of the :data:`CHARTS`, None where there is nothing to draw."""
    charts: dict[str, Markup | None] = dict.fromkeys(CHARTS)
    best_epoch = chosen(run)
    losses = history(run, lambda epoch: epoch["losses"])
    if losses:
        text = "Mean training losses of each epoch: " + ends(losses)
        charts["loss"] = line_chart(losses, text, "epoch", mark=best_epoch, whole_numbers=True)
    scores = history(run, _scores)
    if scores:
        text = "Figures of the validation after each epoch: " + ends(scores)
        span = (run.epochs[0]["epoch"], run.epochs[-1]["epoch"])
        charts["score"] = line_chart(
            scores, text, "epoch", y_max=1, x_range=span, mark=best_epoch, whole_numbers=True
        )
    if run.analysis:
        charts |= _analysis_charts(run.analysis)
    charts["recall_iou"] = _recall_over_iou(run.best)
    bars = [(name, _bars(statistics)) for name, statistics in run.data.items() if statistics["boxes"]]
    if bars:
        text = "How large the objects are: shares of each channel's objects over the √ of their area"
        charts["sizes"] = histogram(
            bars[:SERIES], SIZE_LIMITS, text, x_label="√area of the object in pixels of its image"
        )
    return charts


def _scores(epoch: Mapping[str, Any]) -> dict[str, float | None]:
    metrics = epoch.get("validation", {})
    names = ("AP", "AP50", "AP75", "AP_small")
    scores = {name.replace("_", " "): metrics[name] for name in names if name in metrics}
    return scores | ({"VOC mAP": metrics["VOC"]["mAP"]} if "VOC" in metrics else {})


def history(
    run: ReportContent, values: Callable[[Mapping[str, Any]], Mapping[str, float | None]]
) -> list[Line]:
    """A line for each of the values that epochs have."""
    points: dict[str, list[tuple[float, float]]] = {}
    for epoch in run.epochs:
        for name, value in values(epoch).items():
            if value is not None:
                points.setdefault(name.replace("_", " "), []).append((epoch["epoch"], value))
    return [Line(name, its) for name, its in points.items()]


def ends(lines: Sequence[Line]) -> str:
    """Where each line begins and ends, in words."""
    return "; ".join(
        f"{line.name} from {line.points[0][1]:.3g} to {line.points[-1][1]:.3g}" for line in lines
    )


def _bars(statistics: Mapping[str, Any]) -> list[tuple[float, int]]:
    return [(float(start), count) for start, count in statistics["size_histogram"].items()]


def _analysis_charts(analysis: Analysis) -> dict[str, Markup]:
    charts = {}
    order = sorted(range(len(analysis.classes)), key=lambda label: -analysis.by_class[label].objects)
    lines = []
    for label in order:
        precision = analysis.by_class[label].precision
        if precision is not None:
            points = list(zip(RECALL_LEVELS.tolist(), precision.tolist(), strict=True))
            lines.append(Line(f"{analysis.classes[label]} (AP50 {precision.mean():.2f})", points))
    if lines:
        text = f"Precision over recall: {', '.join(line.name for line in lines[:SERIES])}"
        charts["precision_recall"] = line_chart(lines, text, "recall", y_max=1, x_range=(0, 1))
    sizes = {name: row for name, row in (analysis.by_size or {}).items() if row["objects"]}
    if sizes:
        groups = [name.split(",")[0] + f"\n{row['objects']} objects" for name, row in sizes.items()]
        bars = [(what, [row[what] for row in sizes.values()]) for what in ("AP50", "AP")]
        text = "Average precision by size: " + "; ".join(
            f"{name}: AP {figure(row['AP'])}, AP50 {figure(row['AP50'])}" for name, row in sizes.items()
        )
        charts["by_size"] = bar_chart(groups, bars, text)
    return charts


def _recall_over_iou(metrics: Mapping[str, Any]) -> Markup | None:
    """How the recall falls with the IoU that is asked for; None where it is not known."""
    lines = []
    for size, recalls in metrics.get("recall_by_IoU", {}).items():
        points = [(iou, recall) for iou, recall in zip(IOUS, recalls, strict=True) if recall is not None]
        mean = metrics.get("AR" if size == "all" else f"AR_{size}")
        if points:
            lines.append(Line(f"{size} (AR {figure(mean, 2)})", points))
    if not lines:
        return None
    text = f"Recall over IoU: {', '.join(line.name for line in lines)}"
    label = "IoU from which on an object is found"
    return line_chart(lines, text, label, y_max=1, x_range=(IOUS[0], IOUS[-1]))


def _class_rows(run: ReportContent) -> list[dict[str, Any]]:
    """A row a class, those with the most objects first."""
    if run.analysis is None:
        return []
    by_class = run.best.get("AP_class", {})
    rows = [
        {"name": name, "AP": by_class.get(name), **row} for name, row in run.analysis.class_rows().items()
    ]
    return sorted(rows, key=lambda row: -row["objects"])


def _calibrated(analysis: Analysis | None) -> list[float]:
    """What scores of 0.5, 0.7 and 0.9 mean."""
    if analysis is None or analysis.calibration is None:
        return []
    return [float(chance) for chance in analysis.calibration(np.array([0.5, 0.7, 0.9]))]


def _matrix(analysis: Analysis | None) -> list[tuple[str, list[tuple[int, int]]]]:
    """Name of each row, with count and percent of the row in each of its cells."""
    if analysis is None or len(analysis.classes) > MAX_MATRIX:
        return []
    names = (*analysis.classes, BACKGROUND)
    rows = []
    for name, row in zip(names, analysis.confusion.tolist(), strict=True):
        total = sum(row) or 1
        rows.append((name, [(count, round(100 * count / total)) for count in row]))
    return rows


def _confusions(analysis: Analysis | None, most: int = 30) -> list[tuple[str, str, int]]:
    """True class, found class and how often, where the two differ: the most frequent first."""
    if analysis is None or len(analysis.classes) <= MAX_MATRIX:
        return []
    names = (*analysis.classes, BACKGROUND)
    matrix = analysis.confusion
    pairs = [
        (names[true], names[predicted], int(matrix[true, predicted]))
        for true, predicted in zip(*matrix.nonzero(), strict=True)
        if true != predicted
    ]
    return sorted(pairs, key=lambda pair: -pair[2])[:most]
