from __future__ import annotations

import subprocess
import sys

import pytest
from tilewise.errors import UserError
from tilewise.inference.tile_options import read_tile_options
from tilewise.tiling.spec import TileOptions, Tiling


def read(**texts: str) -> TileOptions:
    return read_tile_options(texts, str.upper)


@pytest.mark.parametrize("text", ["3x2", "3X2", "(3, 2)", " 3 x 2 "])
def test_tile_options__grids(text: str) -> None:
    assert read(tile_grid_size=text) == TileOptions(grid=(3, 2))


def test_tile_options__all() -> None:
    assert read() == read(tile_grid_size="", tile_size=" ") == TileOptions()
    assert read(tile_grid_size="none") == read(tile_size="None") == TileOptions(tiled=False)
    assert read(
        tile_size="640", tile_overlap_ratio="0.1", tile_merge="wbf", tile_predictions_nms_threshold="0.5"
    ) == TileOptions(tile_size=640, overlap=0.1, merge="wbf", merge_threshold=0.5)


def test_tile_options__a_detector_without_its_tiles_answers_for_all_sizes() -> None:
    trained = Tiling("grid", grid=(3, 2), whole_from=80)
    assert read(tile_grid_size="4x3").change(trained) == Tiling("grid", grid=(4, 3), whole_from=80)
    assert read(tile_grid_size="none").change(trained) == Tiling("whole")


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (
            {"tile_grid_size": "1x1"},
            "TILE_GRID_SIZE='1x1': must be columns x rows of more than one tile, such as 3x2, or none",
        ),
        ({"tile_grid_size": "auto"}, "TILE_GRID_SIZE=auto: only training has the data"),
        ({"tile_size": "0"}, "TILE_SIZE=0: must be a whole number, at least 1"),
        ({"tile_overlap_ratio": "1"}, "TILE_OVERLAP_RATIO=1: must be at least 0 and less than 1"),
        (
            {"tile_merge": "nsm"},
            r"TILE_MERGE='nsm': must be one of fragment, nms, wbf \(did you mean nms\?\)",
        ),
        ({"tile_grid_size": "3x2", "tile_size": "9"}, "TILE_GRID_SIZE and TILE_SIZE exclude each other"),
    ],
)
def test_tile_options__wrong_ones_are_named(texts: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(**texts)


def test_tile_options__do_not_load_torch() -> None:
    code = "import sys, tilewise.inference.tile_options; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
