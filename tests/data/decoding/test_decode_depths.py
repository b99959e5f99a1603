"""Bit depths, bands and layouts: format by format against the values that were written."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import numpy.typing as npt
import pytest
import tifffile
from PIL import Image, ImageOps
from tilewise.data.decoding.decode import DecodeError, decode_image, read_header
from tilewise.views.rendering import Rendering

Array = npt.NDArray[Any]
WIDTH, HEIGHT = 80, 60

RAMP = np.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH) % 4096
COLOURS = np.stack([RAMP, RAMP[:, ::-1], RAMP[::-1]], 2)
OPACITY = (np.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH) % 256).astype(np.uint8)


def tiff(pixels: Array, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def planes(pixels: Array) -> Array:
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def decoded(data: bytes, rendering: Rendering | None = None) -> Array:
    tensor = decode_image(data, rendering=rendering or Rendering())
    header = read_header(data)
    assert tuple(tensor.shape) == (3, header.height, header.width)
    return tensor.permute(1, 2, 0).numpy().astype(int)


def stretched(values: Array, seen: Array | None = None) -> Array:
    """Values over the range of all but a thousandth at either end of those that are ``seen``."""
    ordered = np.sort((values if seen is None else seen).ravel().astype(np.float64))
    left_out = int(0.001 * ordered.size)
    low, high = ordered[left_out], ordered[-1 - left_out]
    return np.asarray(np.clip(np.round((values.astype(np.float64) - low) * 255 / (high - low)), 0, 255))


def of_bits(values: Array, bits: int) -> Array:
    return np.asarray(np.round(values * 255.0 / (2**bits - 1)))


def over_white(colours: Array, opacity: Array) -> Array:
    layer = Image.fromarray(
        np.dstack([np.broadcast_to(colours, (*opacity.shape, 3)), opacity]).astype(np.uint8)
    )
    white = Image.new("RGBA", layer.size, "white")
    return np.asarray(Image.alpha_composite(white, layer).convert("RGB")).astype(int)


def check(data: bytes, wanted: Array, tolerance: int = 1) -> None:
    wanted = wanted if wanted.ndim == 3 else wanted[:, :, None]
    assert np.abs(decoded(data) - wanted).max() <= tolerance


DTYPES = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "f2", "f4", "f8"]
COMPRESSIONS = [None, "zlib", "lzw", "zstd", "lzma", "packbits"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_tiff__every_type_order_and_layout(dtype: str, compression: str | None) -> None:
    for colours, planar in ((RAMP, None), (COLOURS, "contig"), (COLOURS, "separate")):
        if dtype.endswith("1"):
            values = (colours % 256 - (128 if dtype == "i1" else 0)).astype(dtype)
            wanted = colours % 256
        else:
            values = (colours - (2000 if dtype[0] == "i" else 0)).astype(dtype)
            wanted = stretched(values)
        pixels = planes(values) if planar == "separate" else values
        for byte_order in "<>":
            for tile in (None, (32, 48)):
                options: dict[str, Any] = {"photometric": "minisblack" if planar is None else "rgb"}
                options |= {"planarconfig": planar} if planar else {}
                check(
                    tiff(pixels, byteorder=byte_order, compression=compression, tile=tile, **options), wanted
                )


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "f4", "f8"])
@pytest.mark.parametrize("compression", ["zlib", "lzw"])
def test_tiff__predictors(dtype: str, compression: str) -> None:
    values = (COLOURS % 256 if dtype == "u1" else COLOURS).astype(dtype)
    data = tiff(values, photometric="rgb", compression=compression, predictor=True)
    check(data, values if dtype == "u1" else stretched(values))


@pytest.mark.parametrize("bits", [2, 4, 6, 10, 12, 14])
def test_tiff__packed_integers_by_their_bits(bits: int) -> None:
    for colours, photometric in ((RAMP, "minisblack"), (COLOURS, "rgb")):
        values = (colours % 2**bits).astype(np.uint8 if bits <= 8 else np.uint16)
        check(tiff(values, photometric=photometric, bitspersample=bits), of_bits(values, bits))


@pytest.mark.parametrize("tile", [None, (32, 48)])
def test_tiff__white_is_zero(tile: tuple[int, int] | None) -> None:
    bits = RAMP % 3 == 0
    for dtype in (np.uint8, np.uint16):
        values = (RAMP % 256 if dtype is np.uint8 else RAMP).astype(dtype)
        wanted = values.astype(int) if dtype is np.uint8 else stretched(values)
        check(tiff(values, photometric="miniswhite", tile=tile), 255 - wanted)
    check(tiff(bits, photometric="miniswhite"), 255 - 255 * bits)
    check(tiff(bits, photometric="minisblack"), 255 * bits)


def test_tiff__hot_pixels_do_not_set_the_range() -> None:
    values = (RAMP // 16).astype(np.uint16)
    values[0, 0] = 65535
    assert len(np.unique(decoded(tiff(values, photometric="minisblack")))) > 100


@pytest.mark.parametrize(
    "text", ["-9999", "-9999 ", "-9.999e3", "-9999.0", "nan", "-3.4028234663852886e+38", "1e+20", "0"]
)
def test_tiff__nodata_of_floats(text: str) -> None:
    values = RAMP.astype(np.float32) + 1
    values[:10] = np.float32(text)
    wanted = stretched(values, values[10:])
    wanted[:10] = 0
    check(tiff(values, photometric="minisblack", extratags=[(42113, "s", 0, text, True)]), wanted)


@pytest.mark.parametrize(("dtype", "nodata"), [("u2", 65535), ("i2", -32768), ("i4", -99999)])
def test_tiff__nodata_of_integers(dtype: str, nodata: int) -> None:
    values = (COLOURS - (2000 if dtype[0] == "i" else 0)).astype(dtype)
    values[:20] = nodata
    wanted = stretched(values, values[20:])
    wanted[:20] = 0
    check(tiff(values, photometric="rgb", extratags=[(42113, "s", 0, str(nodata), True)]), wanted)


@pytest.mark.parametrize("bands", [4, 5, 13])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_tiff__bands(bands: int, planar: str) -> None:
    values = np.dstack([COLOURS, *[RAMP // 2] * (bands - 3)]).astype(np.uint16)
    pixels = values if planar == "contig" else planes(values)
    data = tiff(pixels, photometric="minisblack", planarconfig=planar)
    check(data, stretched(values[:, :, :3]))
    (remark,) = read_header(data).remarks()
    assert remark == f"{bands} bands of uint16: the first three are read as RGB; bands=… chooses others"
    chosen = Rendering(bands=(4, 3, 2))
    assert np.abs(decoded(data, chosen) - stretched(values[:, :, [3, 2, 1]])).max() <= 1
    assert read_header(data).remarks(chosen) == []
    grey = decoded(data, Rendering(bands=(2,)))
    assert np.abs(grey - stretched(values[:, :, 1])[:, :, None]).max() <= 1
    with pytest.raises(DecodeError, match=f"bands=1,2,14 asks for band 14, but the image has {bands}"):
        decode_image(data, rendering=Rendering(bands=(1, 2, 14)))


def test_bands__of_other_formats() -> None:
    colours = (COLOURS % 256).astype(np.uint8)
    swapped = Rendering(bands=(3, 2, 1))
    for format in ("PNG", "BMP", "TIFF"):
        file = io.BytesIO()
        Image.fromarray(colours).save(file, format)
        assert (decoded(file.getvalue(), swapped) == colours[:, :, ::-1]).all()
    file = io.BytesIO()
    Image.fromarray(colours).save(file, "JPEG")
    assert (decoded(file.getvalue(), swapped) == decoded(file.getvalue())[:, :, ::-1]).all()


def test_pixel_range__holds_above_8_bits_only() -> None:
    fixed = Rendering(pixel_range=(1000, 3000))
    wanted = np.clip(np.round((COLOURS - 1000) * 255 / 2000), 0, 255)
    for dtype in ("u2", "i4", "f4"):
        assert np.abs(decoded(tiff(COLOURS.astype(dtype), photometric="rgb"), fixed) - wanted).max() <= 1
    eight = (COLOURS % 256).astype(np.uint8)
    assert (decoded(tiff(eight, photometric="rgb"), fixed) == eight).all()


def test_tiff__opacity() -> None:
    eight = (COLOURS % 256).astype(np.uint8)
    straight = {"photometric": "rgb", "extrasamples": ["unassalpha"]}
    check(tiff(np.dstack([eight, OPACITY]), **straight), over_white(eight, OPACITY))
    check(
        tiff(planes(np.dstack([eight, OPACITY])), planarconfig="separate", **straight),
        over_white(eight, OPACITY),
    )
    deep = np.dstack([COLOURS * 16, OPACITY.astype(int) * 257]).astype(np.uint16)
    check(tiff(deep, **straight), over_white(stretched(COLOURS, COLOURS[OPACITY > 0]), OPACITY), 2)
    multiplied = (eight.astype(int) * OPACITY[:, :, None] // 255).astype(np.uint8)
    check(
        tiff(np.dstack([multiplied, OPACITY]), photometric="rgb", extrasamples=["assocalpha"]),
        np.minimum(multiplied.astype(int) + 255 - OPACITY[:, :, None], 255),
    )
    data = tiff(np.dstack([eight, OPACITY]), photometric="rgb", extrasamples=["unspecified"])
    check(data, eight)


def test_tiff__palettes() -> None:
    rng = np.random.default_rng(0)
    for dtype in (np.uint8, np.uint16):
        values = (RAMP % (256 if dtype is np.uint8 else 65536)).astype(dtype)
        palette = rng.integers(0, 65536, (3, 256 if dtype is np.uint8 else 65536), dtype=np.uint16)
        check(tiff(values, photometric="palette", colormap=palette), (palette >> 8).T[values])
        check(tiff(values, photometric="palette", colormap=palette >> 8), (palette >> 8).T[values])


def test_tiff__cmyk() -> None:
    image = Image.fromarray((COLOURS % 256).astype(np.uint8)).convert("CMYK")
    inks, wanted = np.asarray(image), np.asarray(image.convert("RGB"))
    check(tiff(inks, photometric="separated"), wanted)
    check(tiff(planes(inks), photometric="separated", planarconfig="separate"), wanted)
    check(tiff(inks.astype(np.uint16) * 257, photometric="separated"), wanted)


@pytest.mark.parametrize("compression", ["jpeg", "webp", "jpeg2000", "lerc", "png", "jpegxl"])
def test_tiff__image_compressions(compression: str) -> None:
    smooth = np.asarray(Image.effect_noise((10, 8), 60).resize((WIDTH, HEIGHT)))
    pixels = np.dstack([smooth, smooth[::-1], smooth[:, ::-1]])
    for tile in (None, (32, 48)):
        data = tiff(pixels, photometric="rgb", compression=compression, tile=tile)
        check(data, tifffile.imread(io.BytesIO(data)), 2)
    if compression not in ("jpeg", "webp"):
        deep = COLOURS.astype(np.uint16)
        check(tiff(deep, photometric="rgb", compression=compression), stretched(deep), 2)


FAX = [("1", "group3"), ("1", "group4"), ("1", "tiff_ccitt"), ("1", "tiff_lzw")]
OTHERS = [(mode, name) for mode in ("L", "RGB", "YCbCr", "CMYK") for name in ("tiff_lzw", "jpeg")]


@pytest.mark.parametrize(("mode", "compression"), [*FAX, *OTHERS])
def test_tiff__as_pillow_writes_them(mode: str, compression: str) -> None:
    image = Image.effect_noise((WIDTH, HEIGHT), 60).convert("RGB").convert(mode)
    file = io.BytesIO()
    image.save(file, "TIFF", compression=compression)
    check(file.getvalue(), np.asarray(Image.open(file).convert("RGB")), 2)


def test_tiff__several_pages() -> None:
    data = tiff(np.stack([RAMP % 256, RAMP % 7, RAMP % 9]).astype(np.uint8), photometric="minisblack")
    check(data, RAMP % 256)
    assert read_header(data).remarks() == ["3 pages: the first one is read"]


def test_tiff__big_and_sparse() -> None:
    deep = COLOURS.astype(np.uint16)
    check(tiff(deep, photometric="rgb", bigtiff=True), stretched(deep))
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        tiles = (tile for tile in [b"", np.full((32, 48), 9, np.uint8).tobytes(), b"", b""])
        writer.write(tiles, shape=(60, 80), dtype=np.uint8, tile=(32, 48), photometric="minisblack")
    wanted = np.zeros((60, 80))
    wanted[:32, 48:] = 9
    check(file.getvalue(), wanted)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation__of_deep_images(orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    deep = COLOURS.astype(np.uint16)
    lying = Image.fromarray(stretched(deep).astype(np.uint8))
    file = io.BytesIO()
    lying.save(file, "PNG", exif=exif.tobytes())
    upright = np.asarray(ImageOps.exif_transpose(Image.open(file))).astype(int)
    check(tiff(deep, photometric="rgb", tile=(32, 48), extratags=[(274, "H", 1, orientation, True)]), upright)
    check(png(deep, chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))), upright)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(pixels: Array, chunks: bytes = b"") -> bytes:
    data = bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels)))
    return data[:33] + chunks + data[33:]


def test_png__16_bits() -> None:
    grey, colours = RAMP.astype(np.uint16), COLOURS.astype(np.uint16)
    opacity = (OPACITY.astype(np.uint16) * 257)[:, :, None]
    check(png(grey), stretched(grey))
    check(png(colours), stretched(colours))
    seen = OPACITY > 0
    wanted = over_white(stretched(grey, grey[seen])[:, :, None], OPACITY)
    check(png(np.dstack([grey, opacity])), wanted, 2)
    check(png(np.dstack([colours, opacity])), over_white(stretched(colours, colours[seen]), OPACITY), 2)


def test_png__significant_bits() -> None:
    check(png(COLOURS.astype(np.uint16), chunk(b"sBIT", bytes([12] * 3))), of_bits(COLOURS, 12))
    check(png((RAMP // 4).astype(np.uint16), chunk(b"sBIT", bytes([10]))), of_bits(RAMP // 4, 10))


def test_png__transparent_value_of_16_bits() -> None:
    grey, colours = RAMP.astype(np.uint16), COLOURS.astype(np.uint16)
    clear = colours[5, 5]
    transparent = (colours == clear).all(2)
    data = png(colours, chunk(b"tRNS", struct.pack(">3H", *clear.tolist())))
    check(data, over_white(stretched(colours), np.where(transparent, 0, 255)), 2)
    data = png(grey, chunk(b"tRNS", struct.pack(">H", 77)))
    check(data, over_white(stretched(grey)[:, :, None], np.where(grey == 77, 0, 255)), 2)


@pytest.mark.parametrize("codec", ["jp2", "j2k"])
@pytest.mark.parametrize("bits", [8, 9, 10, 12, 16])
def test_jpeg2000__by_bits_or_percentiles(bits: int, codec: str) -> None:
    for colours in (RAMP, COLOURS):
        values = (colours % 2 ** min(bits, 12)).astype(np.uint8 if bits == 8 else np.uint16)
        data = imagecodecs.jpeg2k_encode(
            values, level=0, reversible=True, bitspersample=bits, codecformat=codec
        )
        check(bytes(data), stretched(values) if bits == 16 else of_bits(values, bits))


@pytest.mark.parametrize("largest", [1023, 4095, 65535])
def test_ppm__deep(largest: int) -> None:
    for colours, kind in ((RAMP, "5"), (COLOURS, "6"), (RAMP, "2"), (COLOURS, "3")):
        values = (colours % (largest + 1)).astype(np.uint16)
        header = f"P{kind}\n# a comment\n{WIDTH} {HEIGHT}\n{largest}\n".encode()
        if kind in "23":
            body = " ".join(map(str, values.ravel().tolist())).encode()
        else:
            body = values.astype(">u2").tobytes()
        check(header + body, stretched(values) if largest == 65535 else np.round(values * 255.0 / largest))


EIGHT_BITS = [(format, mode) for format in ("PNG", "BMP") for mode in ("1", "L", "P", "RGB", "RGBA")]


@pytest.mark.parametrize(
    ("format", "mode"), [*EIGHT_BITS, ("WEBP", "L"), ("WEBP", "RGB"), ("WEBP", "RGBA"), ("GIF", "P")]
)
def test_eight_bits__unchanged(format: str, mode: str) -> None:
    image = Image.fromarray((COLOURS % 256).astype(np.uint8)).convert(mode)
    file = io.BytesIO()
    image.save(file, format, **({"lossless": True} if format == "WEBP" else {}))
    check(file.getvalue(), np.asarray(image.convert("RGB")), 0)


def test_avif__upright() -> None:
    exif = Image.Exif()
    exif[274] = 6
    image = Image.linear_gradient("L").resize((WIDTH, HEIGHT)).convert("RGB")
    file = io.BytesIO()
    image.save(file, "AVIF", quality=95, exif=exif.tobytes())
    check(file.getvalue(), np.asarray(ImageOps.exif_transpose(Image.open(file)).convert("RGB")), 2)


@pytest.mark.parametrize(
    ("start", "named"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC.*heif-convert"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\xff\x0a" + bytes(40), "JPEG XL.*djxl"),
        (b"%PDF-1.7" + bytes(40), "PDF.*pdftoppm"),
    ],
)
def test_other_files__are_named_with_the_way_to_convert_them(start: bytes, named: str) -> None:
    with pytest.raises(DecodeError, match=named):
        decode_image(start)


def test_tiff__complex_and_raw_are_refused() -> None:
    with pytest.raises(DecodeError, match="neither integers nor real numbers"):
        decode_image(tiff(RAMP.astype(np.complex64), photometric="minisblack"))
    version = [(50706, "B", 4, (1, 4, 0, 0), True)]  # of the DNG specification
    raw = tiff(RAMP.astype(np.uint16), photometric="minisblack", extratags=version)
    with pytest.raises(DecodeError, match="develop it"):
        decode_image(raw)
