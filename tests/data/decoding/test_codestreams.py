from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from tilewise.data.decoding.codestreams import jpeg2000_frame, jpeg_size
from tilewise.data.decoding.decode import decode_image, decode_reduced
from tilewise.data.decoding.stored_samples import DecodeError


def encoded(width: int, height: int, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(file, format, **options)
    return file.getvalue()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": b"\xff\xc0 no frame \xff\xd9"}])
def test_jpeg__size_of_its_frame(options: dict[str, object]) -> None:
    assert jpeg_size(encoded(70, 30, "JPEG", **options)) == (70, 30)


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8", b"\xff\xd8\xff", b"\xff\xd8" + b"\xff" * 9, b"\xff\xd8x" * 9]
)
def test_jpeg__without_a_frame(data: bytes) -> None:
    assert jpeg_size(data) == (0, 0)


@pytest.mark.parametrize("tile", [(70, 30), (16, 16)])
def test_jpeg2000__frame(tile: tuple[int, int]) -> None:
    frame = jpeg2000_frame(encoded(70, 30, "JPEG2000", tile_size=tile))
    assert frame == (70, 30, tile == (70, 30), 3, 8)
    with pytest.raises(DecodeError, match="its codestream has no size"):
        jpeg2000_frame(b"\0\0\0\x0cjP")


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000"])
def test_tiff__a_tile_with_a_picture_larger_than_it_is_not_decoded(compression: str, tmp_path: Path) -> None:
    format = compression.upper()
    tiles = [encoded(64, 64, format), encoded(3000, 2000, format), *[encoded(64, 64, format)] * 2]
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        iter(tiles),
        shape=(128, 128, 3),
        dtype=np.uint8,
        tile=(64, 64),
        compression=compression,
        photometric="rgb",
    )
    words = "a tile of 64 x 64 pixels holds a picture of 3000 x 2000"
    with pytest.raises(DecodeError, match=words):
        decode_image(path.read_bytes())
    with pytest.raises(DecodeError, match=words):
        decode_reduced(path, lambda *_: 1)
