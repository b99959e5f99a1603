from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from tilewise.data.decoding import decode, scene, tiff
from tilewise.data.decoding.decode import (
    DecodedImage,
    ImageTooLargeError,
    decode_image,
    decode_reduced,
    read_header,
)
from tilewise.data.decoding.geotiff import read_georeference
from tilewise.data.decoding.scene import AveragedPixels, ScenePixels
from tilewise.views.rendering import Rendering
from tilewise.views.view import FILL, View

sys.path.append(str(Path(__file__).resolve().parents[3] / "benchmarks"))

from scene import write_scene

HEIGHT, WIDTH = 300, 400


@pytest.fixture(autouse=True)
def every_file_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "SCENE_PIXELS", 1)
    monkeypatch.setattr(tiff, "_RAW_BYTES", 50_000)


def picture() -> Any:
    coarse = np.random.default_rng(0).integers(0, 4096, (HEIGHT // 10, WIDTH // 10, 3))
    return np.kron(coarse, np.ones((10, 10, 1), int)).astype(np.uint16)


def scene_of(path: Path, rendering: Rendering | None = None) -> DecodedImage:
    return decode_reduced(path, lambda width, height: 1, rendering=rendering or Rendering())


def pixels_of(image: DecodedImage) -> ScenePixels:
    assert image.scene
    return image.scene.pixels


LAYOUTS: dict[str, dict[str, Any]] = {
    "tiles": {"tile": (64, 48)},
    "deflated tiles": {"tile": (64, 48), "compression": "zlib", "predictor": True},
    "planes": {"tile": (64, 48), "planarconfig": "separate"},
    "strips": {"rowsperstrip": 37},
    "LZW strips": {"rowsperstrip": 37, "compression": "lzw"},
    "BigTIFF": {"tile": (64, 48), "bigtiff": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_scene__windows_are_those_of_the_whole_image(layout: str, tmp_path: Path) -> None:
    path, options, colours = tmp_path / "a.tif", LAYOUTS[layout], picture()
    planar = options.get("planarconfig") == "separate"
    stored = np.ascontiguousarray(colours.transpose(2, 0, 1)) if planar else colours
    tifffile.imwrite(path, stored, photometric="rgb", **options)
    whole, image = decode_image(path.read_bytes()).numpy(), scene_of(path)
    assert (image.width, image.height) == (WIDTH, HEIGHT)
    for window in ((0, 0, WIDTH, HEIGHT), (10, 20, 70, 90), (-50, -60, 30, 20), (390, 290, 450, 333)):
        view = View(window, (window[2] - window[0], window[3] - window[1]))
        pixels, factor = image.seen_by(view)
        assert factor == 1
        assert (view.pixels_from_image(pixels) == view.pixels_from_image(whole)).all()
    averaged = np.moveaxis(AveragedPixels(pixels_of(image), 7).read((0, 0, 58, 43)), 0, 2)
    rows = [whole[:, y : y + 7].astype(float) for y in range(0, HEIGHT, 7)]
    means = [[row[:, :, x : x + 7].mean(axis=(1, 2)) for x in range(0, WIDTH, 7)] for row in rows]
    assert np.abs(averaged - np.array(means)).max() <= 0.51
    part = AveragedPixels(pixels_of(image), 7).read((9, 4, 58, 31))
    assert (np.moveaxis(part, 0, 2) == averaged[4:31, 9:58]).all()


def test_scene__large_windows_are_averaged_while_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.tif"
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    smooth = np.stack([rows + 0 * columns, 0 * rows + columns, rows + columns], axis=2) % 256
    tifffile.imwrite(path, smooth.astype(np.uint8), photometric="rgb", tile=(64, 48))
    whole, image = decode_image(path.read_bytes()).numpy(), scene_of(path)
    monkeypatch.setattr(scene, "_LARGE_WINDOW", 10_000)
    monkeypatch.setattr(scene, "_BAND_BYTES", 5_000)
    for window in ((0, 0, WIDTH, HEIGHT), (100, 40, 350, 290), (-40, -30, 300, 225)):
        view = View(window, (50, 40))
        pixels, factor = image.seen_by(view)
        assert factor == min((window[2] - window[0]) // 50, (window[3] - window[1]) // 40)
        snapped = view.snapped(factor)
        seen, expected = snapped.pixels_from_image(pixels, factor), snapped.pixels_from_image(whole)
        assert np.abs(seen.astype(int) - expected).mean() < 2


def test_scene__tiles_on_the_files_tiles_are_decoded_once(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(), photometric="rgb", tile=(96, 96), rowsperstrip=None)
    image = scene_of(path)
    for top in range(0, HEIGHT, 72):  # views overlap, and lie on up to four tiles
        for left in range(0, WIDTH, 72):
            view = View((left, top, left + 96, top + 96), (96, 96))
            view.pixels_from_image(image.seen_by(view)[0])
    assert pixels_of(image).decoded_blocks == 4 * 5


def test_scene__reduced_copies_are_used_where_they_suffice(tmp_path: Path) -> None:
    path, colours = tmp_path / "a.tif", picture()
    with tifffile.TiffWriter(path) as writer:
        writer.write(colours, photometric="rgb", tile=(64, 64), subifds=0)
        writer.write(colours[::2, ::2], photometric="rgb", tile=(64, 64), subfiletype=1)
        writer.write(colours[::4, ::4], photometric="rgb", tile=(64, 64), subfiletype=1)
    image = scene_of(path)
    for side, factor in ((400, 1), (201, 1), (200, 2), (101, 2), (100, 4), (20, 4)):
        view = View((0, 0, WIDTH, HEIGHT), (side, side * 3 // 4))
        pixels, used = image.seen_by(view)
        assert used == factor
        assert view.snapped(used).pixels_from_image(pixels, used).shape == (3, side * 3 // 4, side)
    assert read_header(path.read_bytes()).pages == 1


def test_scene__the_pixel_cap_is_for_each_part(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture(), photometric="rgb", tile=(64, 48))
    assert decode_reduced(path, lambda w, h: 1, max_pixels=64 * 48).scene
    with pytest.raises(ImageTooLargeError, match="a tile or strip of the 400 x 300 pixels"):
        decode_reduced(path, lambda w, h: 1, max_pixels=64 * 48 - 1)
    with pytest.raises(ImageTooLargeError, match="the image has 400 x 300 pixels"):
        decode_image(path.read_bytes(), max_pixels=64 * 48)  # what comes over the network comes whole


def test_scene__of_ten_billion_pixels(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    write_scene(path, 100_000, 9)
    assert path.stat().st_size < 3_000_000
    image = scene_of(path)
    assert (image.width, image.height) == (100_000, 100_000)
    view = View((99_000, 50_000, 101_000, 52_000), (320, 320))
    cut = view.pixels_from_image(image.seen_by(view)[0])
    beyond = cut[:, :, 161:]
    assert 60 <= cut[:, :, :159].min() and (beyond == np.array(FILL)[:, None, None]).all()
    assert pixels_of(image).decoded_blocks <= 20


def test_geotiff__places(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    keys = (1, 1, 0, 2, 1025, 0, 1, 1, 3072, 0, 1, 32633)
    tags = [
        (33550, "d", 3, (0.5, 0.25, 0.0), True),
        (33922, "d", 6, (0.0, 0.0, 0.0, 1000.0, 9000.0, 0.0), True),
        (34735, "H", len(keys), keys, True),
    ]
    tifffile.imwrite(path, picture(), photometric="rgb", extratags=tags)
    reference = read_georeference(path)
    assert reference and reference.epsg == 32633
    placed = reference.coordinates(np.array([[0.0, 0.0], [10.0, 20.0]]))
    assert placed.tolist() == [[1000, 9000], [1005, 8995]]
    by_middle = [
        *tags[:2],
        (34735, "H", len(keys), tuple(2 if n == 7 else k for n, k in enumerate(keys)), True),
    ]
    tifffile.imwrite(path, picture(), photometric="rgb", extratags=by_middle)
    reference = read_georeference(path)
    assert reference and reference.coordinates(np.array([[0.5, 0.5]])).tolist() == [[1000, 9000]]
    tifffile.imwrite(path, picture(), photometric="rgb")
    assert read_georeference(path) is None
    path.write_bytes(b"no TIFF")
    assert read_georeference(path) is None
