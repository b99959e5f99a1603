"""The report of a classifier's training: one HTML page that needs nothing beside itself."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
from markupsafe import Markup
from PIL import Image
from sklearn import metrics as sk

from tilewise.data.records import Record
from tilewise.evaluation.charts import SERIES, Line, line_chart
from tilewise.evaluation.report import (
    MAX_MATRIX,
    chosen,
    ends,
    history,
    report_template,
    speed,
    versions,
)
from tilewise.evaluation.report_content import ReportContent
from tilewise.stop import StopToken
from tilewise.tasks.classification.analysis import Analysis
from tilewise.tasks.classification.metrics import has_both
from tilewise.tasks.classification.pictures import small_picture
from tilewise.views.rendering import Rendering

THUMBNAIL = 224
CURVE_POINTS = 200
"""So many points of a curve are drawn at most."""

_SCORES = ("accuracy", "iou", "balanced_accuracy", "AUC_macro", "f1_score_macro")


def report_page(run: ReportContent, stop: StopToken) -> str:
    """The report as HTML.

    Args:
        run: what it tells of.
        stop: when it says so, images are left out.

    """
    analysis: Analysis | None = run.analysis
    seconds = sum(epoch["seconds"] + epoch.get("validation_seconds", 0) for epoch in run.epochs)
    page: str = report_template("tasks/classification/report.html.j2").render(
        run=run,
        analysis=analysis,
        several=analysis.several if analysis else "iou" in run.best,
        majority=float(analysis.truth.mean(axis=0).max()) if analysis else None,
        charts=_charts(run),
        matrix=_matrix(analysis),
        wrong=_most_wrong(analysis, run.rendering, stop),
        chosen=chosen(run),
        minutes=seconds / 60,
        speed=speed(run),
        versions=versions(),
    )
    return page


def _charts(run: ReportContent) -> dict[str, Markup | None]:
    charts: dict[str, Markup | None] = dict.fromkeys(("loss", "score", "roc", "precision_recall"))
    mark = chosen(run)
    losses = history(run, lambda epoch: epoch["losses"])
    if losses:
        text = f"Mean training loss of each epoch: {ends(losses)}"
        charts["loss"] = line_chart(losses, text, "epoch", mark=mark, whole_numbers=True)
    scores = history(run, lambda epoch: {name: epoch.get("validation", {}).get(name) for name in _SCORES})
    if scores:
        text = f"Figures of the validation after each epoch: {ends(scores)}"
        span = (run.epochs[0]["epoch"], run.epochs[-1]["epoch"])
        charts["score"] = line_chart(
            scores, text, "epoch", y_max=1, x_range=span, mark=mark, whole_numbers=True
        )
    if run.analysis:
        charts |= _curves(run.analysis)
    return charts


def _curves(analysis: Analysis) -> dict[str, Markup | None]:
    """ROC, and precision over recall, of the classes with the most images."""
    order = sorted(has_both(analysis.truth).tolist(), key=lambda label: -analysis.truth[:, label].sum())
    if not order:
        return {}
    roc, precision_recall = [], []
    for label in order[:SERIES]:
        truth, scores, name = analysis.truth[:, label], analysis.scores[:, label], analysis.classes[label]
        false, true, _ = sk.roc_curve(truth, scores)
        precision, recall, _ = sk.precision_recall_curve(truth, scores)
        roc.append(Line(name, _thinned(false, true)))
        precision_recall.append(Line(name, _thinned(recall[::-1], precision[::-1])))
    names = ", ".join(line.name for line in roc)
    return {
        "roc": line_chart(
            roc, f"True positives over false positives: {names}", "false positives", y_max=1, x_range=(0, 1)
        ),
        "precision_recall": line_chart(
            precision_recall, f"Precision over recall: {names}", "recall", y_max=1, x_range=(0, 1)
        ),
    }


def _thinned(across: np.ndarray, up: np.ndarray) -> list[tuple[float, float]]:
    kept = np.unique(np.linspace(0, len(across) - 1, CURVE_POINTS).round().astype(int))
    return list(zip(across[kept].tolist(), up[kept].tolist(), strict=True))


def _matrix(analysis: Analysis | None) -> list[tuple[str, list[tuple[int, int]]]]:
    """Name of each row, with count and percent of the row in each of its cells."""
    matrix = analysis.confusion() if analysis else None
    if analysis is None or matrix is None or len(matrix) > MAX_MATRIX:
        return []
    rows = zip(analysis.classes, matrix.tolist(), strict=True)
    return [(name, [(count, round(100 * count / (sum(row) or 1))) for count in row]) for name, row in rows]


def _most_wrong(analysis: Analysis | None, rendering: Rendering, stop: StopToken) -> list[dict[str, Any]]:
    shown = []
    for index in analysis.most_wrong() if analysis else []:
        assert analysis
        record = analysis.scored.records[index]
        true, found, score = analysis.said(index)
        picture = "" if stop.requested else _thumbnail(record, rendering)
        shown.append({"key": record.key, "true": true, "found": found, "score": score, "picture": picture})
    return shown


def _thumbnail(record: Record, rendering: Rendering) -> str:
    """A small JPEG as a data URI; empty where the image cannot be had again."""
    pixels = small_picture(record, THUMBNAIL, rendering)
    if pixels is None:
        return ""
    image = Image.fromarray(np.ascontiguousarray(np.moveaxis(pixels, 0, 2)))
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
