from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from made_instances import make_instances
from PIL import Image
from tilewise.data.channel_issues import ChannelIssues
from tilewise.data.decoding import decode
from tilewise.data.records import Record, Records
from tilewise.data.statistics import channel_statistics, size_bars
from tilewise.evaluation.analysis import Scored, analyse
from tilewise.evaluation.charts import Line, bar_chart, histogram, line_chart, ticks
from tilewise.evaluation.evaluate import metrics
from tilewise.evaluation.pictures import MAX_SIDE, best_and_worst, make_picture
from tilewise.evaluation.report import ReportContent, report_page
from tilewise.instances import Instances
from tilewise.stop import StopWhen
from tilewise.targets import Targets
from tilewise.views.rendering import Rendering

VOID = {"meta", "input", "br", "img", "link", "hr"}
SELF_CLOSING = {"path", "rect", "image", "circle"}
EVIL = '<script>alert("1")</script>&"\''


class Page(HTMLParser):
    """Reads a page, and insists that each element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SELF_CLOSING
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.found if name == tag]


def make_record(folder: Path, name: str, boxes: list[list[float]], labels: list[int]) -> Record:
    """Noise of 200 x 100 pixels."""
    path = folder / f"{len(list(folder.iterdir()))}.png"
    pixels = np.random.default_rng(0).integers(256, size=(100, 200, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    rows, ignored = np.array(boxes, np.float32).reshape(-1, 4), np.zeros(len(labels), np.bool_)
    return Record(name, path, 200, 100, Targets(rows, np.array(labels, np.int64), ignored))


def found(*rows: tuple[list[float], float, int]) -> Instances:
    boxes = torch.tensor([row[0] for row in rows]).reshape(-1, 4)
    labels = torch.tensor([row[2] for row in rows], dtype=torch.int64)
    return make_instances(boxes, torch.tensor([row[1] for row in rows]), labels)


def make_run(
    folder: Path,
    classes: tuple[str, ...] = ("ant", "bee"),
    names: tuple[str, ...] = ("a.png", "b.png", "c.png"),
    objects: bool = True,
    detections: bool = True,
) -> ReportContent:
    """Three images: in the first all is found, in the second one class is taken for another."""
    last = len(classes) - 1
    left, right = [10.0, 10, 40, 40], [100.0, 10, 104, 14]
    truth = [([left, right], [0, last]), ([left, right], [0, last]), ([], [])]
    rows = [[(left, 0.9, 0), (right, 0.8, last)], [(left, 0.9, last), (right, 0.1, 0)], []]
    records = Records(
        make_record(folder, name, *(one if objects else ([], [])))
        for name, one in zip(names, truth, strict=True)
    )
    scored = Scored(records, [found(*(one if detections else [])) for one in rows])
    best = metrics(records, scored.detections, classes)
    epoch: dict[str, Any] = {"records": 4, "seconds": 2.0, "learning_rate": 0.1}
    epochs = [
        {**epoch, "epoch": 0, "losses": {"classification": 2.0, "bbox_regression": 1.0}},
        {**epoch, "epoch": 1, "losses": {"classification": 1.0}, "validation": best, "validation_seconds": 1},
    ]
    report = ChannelIssues("train", 4, {"broken.png": "it is no image"}, 1, ["a.png: the box has no area"])
    return ReportContent(
        classes=classes,
        epochs=epochs,
        best=best,
        hyperparameters={"model_name": "ssd", "image_size": 320, "momentum": None},
        given={"image_size": "image_shape"},
        data={
            "train": channel_statistics(records, report, classes),
            "validation": channel_statistics(records, ChannelIssues("validation"), classes),
        },
        analysis=analyse(scored, classes, best),
    )


def check(text: str) -> Page:
    """What holds for every page."""
    page = Page(text)
    assert text.startswith("<!doctype html>")
    assert not page.all("script") and not page.all("link") and not page.all("img")
    assert "@import" not in text and "url(" not in text
    for _, attributes in page.found:
        for name in ("src", "href", "xlink:href", "data", "srcset", "action"):
            value = attributes.get(name)
            assert value is None or value.startswith(("data:image/jpeg;base64,", "#"))
        assert not [name for name in attributes if name.startswith("on")]
    anchors = {attributes["id"] for _, attributes in page.found if "id" in attributes}
    assert {one["href"] for one in page.all("a")} <= {f"#{anchor}" for anchor in anchors}
    for svg in page.all("svg"):
        assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and svg["aria-label"])
    assert all(one["scope"] in ("row", "col") for one in page.all("th"))
    assert page.all("html")[0]["lang"] == "en"
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text).lower().replace("nano", "")
    assert len(text) < 8e6
    return page


def test_report__has_all_parts(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    page = check(report_page(run))
    titles = ("Training losses", "Validation", "Precision over recall", "Average precision by size")
    parts = ("What it confuses", "Worst", "Best", "How large the objects are", "Configuration")
    for words in (*titles, *parts, "broken.png", "it is no image", "a.png: the box has no area"):
        assert words in page.text
    assert "The model is that of epoch 1" in page.text
    assert "given as image_shape" in page.text
    pictures = [one for one in page.all("svg") if one.get("class") == "picture" and "role" in one]
    assert [one["aria-label"] for one in pictures] == [
        "b.png: 0 objects found, 1 missed, 1 taken for another class, 0 false alarms",
        "a.png: 2 objects found, 0 missed, 0 taken for another class, 0 false alarms",
    ]
    assert len(page.all("image")) == 2
    assert "prefers-color-scheme: dark" in report_page(run, pictures=False)


def test_report__shows_what_users_wrote_and_runs_none_of_it(tmp_path: Path) -> None:
    run = make_run(tmp_path, (EVIL, "bee"), (EVIL, f"b{EVIL}", "c"))
    run.data["train"]["left_out"][EVIL] = EVIL
    run.data["train"]["dropped"].append(EVIL)
    text = report_page(run)
    page = check(text)
    assert "<script" not in text
    assert page.text.count(EVIL) >= 8
    assert f"found: {EVIL} 0.90" in page.text  # a box's title
    assert any(EVIL in (one.get("aria-label") or "") for one in page.all("svg"))


@pytest.mark.parametrize(("objects", "detections"), [(True, False), (False, True), (False, False)])
def test_report__of_no_objects_and_of_no_detections(tmp_path: Path, objects: bool, detections: bool) -> None:
    page = check(report_page(make_run(tmp_path, objects=objects, detections=detections)))
    assert ("Precision over recall" in page.text) == objects
    assert ("Worst" in page.text) == (objects or detections)
    assert "Best" not in page.text


def test_report__of_one_class(tmp_path: Path) -> None:
    page = check(report_page(make_run(tmp_path, ("ant",))))
    assert "1 class," in page.text
    assert "taken for another class" in page.text  # the key; no image has one
    assert not re.search(r"\d taken for another", page.text)


def test_report__of_80_classes_lists_what_is_confused(tmp_path: Path) -> None:
    classes = tuple(f"class {number}" for number in range(80))
    text = report_page(make_run(tmp_path, classes))
    page = check(text)
    assert 'class="matrix"' not in text
    rows = re.findall(r'<tr><th scope="row">([^<]*)</th><td class="text">([^<]*)</td><td>(\d+)</td>', text)
    assert ("class 0", "class 79", "1") in rows
    assert ("class 79", "(background)", "1") in rows
    assert "class 42" in page.text


def test_report__without_validation(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    epochs = [{key: value for key, value in epoch.items() if "valid" not in key} for epoch in run.epochs]
    page = check(
        report_page(ReportContent(run.classes, epochs, hyperparameters=run.hyperparameters, data=run.data))
    )
    assert "Training losses" in page.text
    assert "No model of this run was validated" in page.text
    assert "What it finds" not in page.text
    assert "AP50" not in page.text


def test_report__of_a_job_that_was_stopped_at_once() -> None:
    page = check(report_page(ReportContent(("ant",), stopped=True)))
    assert "stopped on request" in page.text


def test_report__draws_no_more_images_when_it_has_to_stop(tmp_path: Path) -> None:
    answers = iter([False, True])
    page = check(report_page(make_run(tmp_path), stop=StopWhen(lambda: next(answers, True))))
    assert len(page.all("image")) == 1
    page = check(report_page(make_run(tmp_path), pictures=False))
    assert not page.all("image")
    assert "no images were drawn" in page.text


def test_report__says_which_images_cannot_be_read(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert run.analysis is not None
    run.analysis.records[0].path.unlink()  # as that of a pipe, which is no file either
    run.analysis.records[1].path.write_bytes(b"no image")
    page = check(report_page(run))
    assert not page.all("image")
    assert "came through a pipe" in page.text
    assert "The image cannot be read any more" in page.text


def test_best_and_worst__are_ranked_by_f1(random_scored: Callable[[int], Scored]) -> None:
    analysis = analyse(random_scored(0), ("ant", "bee", "cat"), {})
    best, worst = best_and_worst(analysis, 4)
    f1 = [one.f1 for one in analysis.outcomes]
    known = [value for value in f1 if value is not None]
    assert len(best) == len(worst) == 4
    assert not set(best) & set(worst)
    assert [f1[index] for index in worst] == sorted(known)[:4]
    assert [f1[index] for index in best] == sorted(known, reverse=True)[:4]


def shown(svg: str) -> Any:
    data = re.search(r'base64,([^"]*)"', svg)
    assert data
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data[1]))))


def test_picture__shows_the_bands_and_the_range_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "bands.tif"
    bands = np.stack([np.full((1000, 1200), value, np.uint16) for value in (100, 200, 300, 3000)], axis=2)
    tifffile.imwrite(path, bands, photometric="minisblack", planarconfig="contig", tile=(64, 64))
    boxes = np.array([[400, 800, 410, 810]], np.float32)
    record = Record("bands", path, 1200, 1000, Targets(boxes, np.array([0]), np.zeros(1, np.bool_)))
    analysis = analyse(Scored(Records([record]), [found()]), ("ant",), {})
    rendering = Rendering(bands=(4, 3, 2), pixel_range=(0, 4000))
    pages = []
    for scene_pixels in (decode.SCENE_PIXELS, 1):  # as a whole, and by parts
        monkeypatch.setattr(decode, "SCENE_PIXELS", scene_pixels)
        picture = make_picture(record, analysis.outcomes[0], ("ant",), rendering=rendering)
        pages.append(shown(picture.svg))
        for pixels in (pages[-1], shown(picture.close_up)):
            assert np.abs(pixels.reshape(-1, 3).mean(axis=0) - (191, 19, 13)).max() < 4
    assert (pages[0] == pages[1]).all()


def test_picture__is_reduced_with_boxes_where_the_objects_are(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("RGB", (3600, 1800), "grey").save(path)
    boxes = np.array([[400, 800, 1200, 1200], [2000, 400, 2008, 408]], np.float32)
    record = Record("large", path, 3600, 1800, Targets(boxes, np.array([0, 0]), np.zeros(2, np.bool_)))
    analysis = analyse(Scored(Records([record]), [found(([400.0, 800, 1200, 1200], 0.9, 0))]), ("ant",), {})
    picture = make_picture(record, analysis.outcomes[0], ("ant",))
    assert shown(picture.svg).shape == (MAX_SIDE // 2, MAX_SIDE, 3)
    groups = dict(re.findall(r'<g class="(\w+)">(.*?)</g>', picture.svg))
    assert 'd="M100.0 200.0H300.0V300.0H100.0Z"' in groups["truth"]
    assert 'd="M99.0 199.0H301.0V301.0H99.0Z"' in groups["found"]
    # 8 pixels are 2 in the picture: it is drawn larger, around its middle
    assert 'd="M496.5 96.5H505.5V105.5H496.5Z"' in groups["missed"]
    assert groups["alarm"] == groups["mistaken"] == ""


def test_picture__of_tiny_objects_has_a_closer_look(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("RGB", (3600, 1800), "grey").save(path)
    boxes = np.array([[3000 + 30 * i, 1700, 3010 + 30 * i, 1710] for i in range(5)], np.float32)
    record = Record("large", path, 3600, 1800, Targets(boxes, np.zeros(5, np.int64), np.zeros(5, np.bool_)))
    analysis = analyse(Scored(Records([record]), [found()]), ("ant",), {})
    picture = make_picture(record, analysis.outcomes[0], ("ant",))
    assert picture.close_up.count("missed: ant") == 5
    missed = dict(re.findall(r'<g class="(\w+)">(.*?)</g>', picture.close_up))["missed"]
    sides = [(float(left), float(right)) for left, right in re.findall(r"M([\d.]+) [\d.]+H([\d.]+)V", missed)]
    assert [right - left for left, right in sides] == pytest.approx([22] * 5)  # twice 10, and 1 around
    assert all(0 <= left < right <= 600 for left, right in sides)


@pytest.mark.parametrize(
    ("low", "high", "whole", "expected"),
    [
        (0, 1, False, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 3, True, [0, 1, 2, 3]),
        (0, 1, True, [0, 1]),
        (7, 101, True, [20, 40, 60, 80, 100]),
        (0, 0.004, False, [0, 0.001, 0.002, 0.003, 0.004]),
    ],
)
def test_ticks__are_round(low: float, high: float, whole: bool, expected: list[float]) -> None:
    assert ticks(low, high, whole_numbers=whole) == pytest.approx(expected)


def test_charts__escape_and_describe() -> None:
    charts = [
        line_chart([Line(EVIL, [(0, 1), (1, 2)]), Line("b", [(0, 0.5)])], EVIL, EVIL, mark=1),
        bar_chart([EVIL], [(EVIL, [0.5]), ("b", [None])], EVIL),
        histogram([(EVIL, [(8.0, 3), (8 * 2**0.25, 1)]), ("b", [])], [8], EVIL, x_label=EVIL),
        line_chart([], "nothing", ""),
        histogram([], [], "nothing", x_label=""),
    ]
    for chart in charts:
        assert "<script" not in chart
        Page(str(chart))


def test_line_chart__puts_points_in_place() -> None:
    chart = str(line_chart([Line("a", [(0, 0), (10, 1)])], "a", "x", y_max=1))
    assert 'd="M46.0 260.0L466.0 14.0"' in chart


def test_size_bars__count_quarters_of_octaves() -> None:
    sides = np.array([8, 8.9, 9.6, 16], np.float32)
    boxes = np.stack([0 * sides, 0 * sides, sides, sides], axis=1)
    record = Record("a", Path("a"), 99, 99, Targets(boxes, np.zeros(4, np.int64), np.zeros(4, np.bool_)))
    bars = {"8": 2, "9.514": 1, "11.31": 0, "13.45": 0, "16": 1}
    assert size_bars(Records([record])) == bars
    assert size_bars(Records([])) == {}
