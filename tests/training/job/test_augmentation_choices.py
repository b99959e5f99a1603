from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tilewise.arrays import Array
from tilewise.data.records import Record, Records
from tilewise.hyperparameters import Hyperparameters, parse_hyperparameters
from tilewise.targets import Targets
from tilewise.training.job.augmentation_choices import is_grey, with_colour_changes, with_random_windows
from tilewise.training.job.view_plans import augmentations_of
from tilewise.views.rendering import AS_STORED


def parse(**raw: object) -> Hyperparameters:
    return parse_hyperparameters(raw)


def records(folder: Path, *images: Image.Image, suffix: str = "png") -> Records:
    none: Targets[Array] = Targets(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_))
    made = []
    for number, image in enumerate(images):
        path = folder / f"{number}.{suffix}"
        image.save(path)
        made.append(Record(path.name, path, *image.size, none))
    return Records(made)


def grey(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30), dtype=np.uint8)
    return Image.fromarray(pixels).convert("RGB")


def coloured() -> Image.Image:
    return Image.new("RGB", (30, 20), (200, 90, 20))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_colour_changes__none_for_grey_sets(
    tmp_path: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    hp = parse(colour_changes="auto")
    of_grey = with_colour_changes(hp, records(tmp_path, grey(0), grey(1), suffix=suffix), AS_STORED)
    assert (of_grey.colour_changes, augmentations_of(of_grey).colours) == (False, False)
    assert "colour_changes=auto: 0, since 2 of 2 images are grey" in caplog.text
    mixed = with_colour_changes(hp, records(tmp_path, grey(0), coloured(), suffix=suffix), AS_STORED)
    assert (mixed.colour_changes, augmentations_of(mixed).colours) == (True, True)


def test_colour_changes__of_images_that_cannot_be_looked_at(tmp_path: Path) -> None:
    damaged = records(tmp_path, grey(0))
    (tmp_path / "0.png").write_bytes(b"no image")
    assert with_colour_changes(parse(colour_changes="auto"), damaged, AS_STORED).colour_changes is True
    (tmp_path / "0.png").unlink()
    assert with_colour_changes(parse(colour_changes="auto"), damaged, AS_STORED).colour_changes is True
    assert with_colour_changes(parse(colour_changes="auto"), Records([]), AS_STORED).colour_changes is True


def test_colour_changes__looks_at_some_of_many(tmp_path: Path) -> None:
    many = Records([record for record in records(tmp_path, grey(0)) for _ in range(1000)])
    assert with_colour_changes(parse(colour_changes="auto"), many, AS_STORED).colour_changes is False


def test_is_grey__allows_what_jpeg_rounds() -> None:
    pixels = np.full((3, 2, 2), 100, np.uint8)
    pixels[1, 0, 0] = 104
    assert is_grey(pixels)
    pixels[1, 0, 0] = 105
    assert not is_grey(pixels)


@pytest.mark.parametrize(
    ("epochs", "images", "tiled", "varied"),
    [
        (8, 205, False, False),  # what was measured
        (34, 85, False, False),
        (19, 205, False, False),
        (24, 205, False, True),
        (3, 85, True, True),
        (2, 30_000, False, False),
        (14, 30_000, False, True),
    ],
)
def test_random_windows__by_epochs_and_views(
    epochs: int, images: int, tiled: bool, varied: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    hp = parse(random_windows="auto", number_of_epochs=epochs)
    assert with_random_windows(hp, images, tiled=tiled).random_windows is varied
    why = "tiles" if tiled else f"{epochs} epochs with {epochs * images:,} views are"
    assert f"random_windows=auto: {varied:d}, since {why}" in caplog.text


@pytest.mark.parametrize("given", [0, 1])
def test_choices__what_is_given_stays(given: int, tmp_path: Path) -> None:
    hp = parse(random_windows=given, colour_changes=given, number_of_epochs=1)
    chosen = with_colour_changes(hp, records(tmp_path, grey(0)), AS_STORED)
    assert with_random_windows(chosen, 9, tiled=True) == with_random_windows(chosen, 9, tiled=False) == hp
    assert (hp.random_windows, hp.colour_changes) == (bool(given), bool(given))
