"""What images of each format, bit depth and layout decode to, beside Pillow and tifffile: prints a table.

python benchmarks/decode_matrix.py [--json]

Each image is written here from known samples. What is right follows from docs/data_formats.md ("Bit depth and
bands") and is computed here from the samples alone. ``right``: no value differs by more than one level of 255
(two, where the format loses something); else the largest difference. Of Pillow's image ``convert("RGB")`` is
compared. tifffile gives samples, not a picture: ``same`` means those that were written.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "container"))

from tilewise.data.decoding.decode import decode_image

HEIGHT, WIDTH = 120, 160
Array = Any

RAMP = np.arange(HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
ALPHA = (RAMP % 256).astype(np.uint8)
SMOOTH = np.asarray(Image.fromarray((RAMP[::12, ::16] % 251).astype(np.uint8)).resize((WIDTH, HEIGHT)))


def colours(plane: Array) -> Array:
    """(H, W) -> (H, W, 3), each channel another picture."""
    return np.stack([plane, plane[:, ::-1], plane[::-1]], axis=2)


def scaled(samples: Array, low: float, high: float) -> Array:
    """Samples as levels from 0 to 255."""
    return np.clip(np.round((samples.astype(np.float64) - low) * 255 / (high - low)), 0, 255)


def by_percentiles(samples: Array, among: Array | None = None) -> Array:
    """By the range between the 0.1st and the 99.9th percentile of all channels."""
    values = np.sort((samples if among is None else samples[among]).ravel())
    first = int(0.001 * values.size)
    return scaled(samples, float(values[first]), float(values[-1 - first]))


def over_white(rgb: Array, alpha: Array = ALPHA) -> Array:
    """Colours under an opacity of 8 bits, as Pillow composes them."""
    layer = Image.fromarray(np.dstack([rgb.astype(np.uint8), alpha]))
    return np.asarray(Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB"))


@dataclass(frozen=True)
class Case:
    """An image, the samples that it holds, and the picture that it is."""

    format: str
    depth: str
    layout: str
    data: bytes
    samples: Array
    right: Array
    tolerance: int = 1


def tiff(samples: Array, photometric: str = "", **options: Any) -> bytes:
    """A TIFF file."""
    planar = options.get("planarconfig") == "separate"
    stored = np.ascontiguousarray(np.moveaxis(samples, 2, 0)) if planar else samples
    photometric = photometric or ("rgb" if samples.ndim == 3 else "minisblack")
    file = io.BytesIO()
    tifffile.imwrite(file, stored, photometric=photometric, **options)
    return file.getvalue()


def pillow(samples: Array, format: str, mode: str | None = None, **options: Any) -> bytes:
    """An image that Pillow writes."""
    file = io.BytesIO()
    Image.fromarray(samples, mode).save(file, format, **options)
    return file.getvalue()


STRIPS: dict[str, dict[str, Any]] = {
    "strips": {"rowsperstrip": 17},
    "tiles": {"tile": (32, 48)},
    "deflate, predictor": {"compression": "zlib", "predictor": True, "rowsperstrip": 17},
    "LZW in tiles, big-endian BigTIFF": {
        "compression": "lzw",
        "tile": (32, 48),
        "byteorder": ">",
        "bigtiff": True,
    },
    "zstd": {"compression": "zstd"},
}
DEPTHS: dict[str, tuple[str, int]] = {
    "8": ("u1", 256),
    "16": ("u2", 4096),
    "32": ("u4", 4096),
    "signed 8": ("i1", 256),
    "signed 16": ("i2", 4096),
    "signed 32": ("i4", 4096),
    "float16": ("f2", 2048),
    "float32": ("f4", 4096),
    "float64": ("f8", 4096),
}


def tiff_depths() -> Iterator[Case]:
    """TIFF of every depth in every layout."""
    for depth, (dtype, count) in DEPTHS.items():
        values = RAMP % count - (count // 2 if dtype.startswith("i") else 0)
        grey, rgb = values.astype(dtype), colours(values).astype(dtype)
        right = (
            (lambda samples: samples)
            if dtype == "u1"
            else (lambda samples: samples.astype(int) + 128)
            if dtype == "i1"
            else by_percentiles
        )
        for layout, options in STRIPS.items():
            yield Case("TIFF", depth, f"grey, {layout}", tiff(grey, **options), grey, right(grey))
            yield Case("TIFF", depth, f"RGB, {layout}", tiff(rgb, **options), rgb, right(rgb))
            planes = tiff(rgb, planarconfig="separate", **options)
            yield Case("TIFF", depth, f"RGB in planes, {layout}", planes, np.moveaxis(rgb, 2, 0), right(rgb))
    for bits in (1, 2, 4, 10, 12, 14):
        dtype = "u1" if bits <= 8 else "u2"
        for name, samples in (("grey", RAMP % 2**bits), ("RGB", colours(RAMP % 2**bits))):
            if bits == 1 and name == "RGB":
                continue
            stored = samples.astype(bool if bits == 1 else dtype)
            data = tiff(stored) if bits == 1 else tiff(stored, bitspersample=bits)
            yield Case("TIFF", str(bits), f"{name}, packed", data, stored, scaled(samples, 0, 2**bits - 1))


def tiff_kinds() -> Iterator[Case]:
    """What else a TIFF file may be."""
    grey, deep = (RAMP % 256).astype(np.uint8), (RAMP % 4096).astype(np.uint16)
    rgb, deep_rgb = colours(grey), colours(deep)
    white = {"photometric": "miniswhite"}
    yield Case("TIFF", "8", "MinIsWhite", tiff(grey, **white), grey, 255 - grey.astype(int))
    yield Case("TIFF", "16", "MinIsWhite", tiff(deep, **white), deep, 255 - by_percentiles(deep))
    for alpha, kind in (("unassalpha", "RGBA"), ("assocalpha", "RGBA, premultiplied")):
        shown = rgb if kind == "RGBA" else (rgb.astype(int) * ALPHA[:, :, None] // 255).astype(np.uint8)
        right = over_white(rgb) if kind == "RGBA" else np.minimum(255, shown + (255 - ALPHA[:, :, None]))
        stored = np.dstack([shown, ALPHA])
        yield Case("TIFF", "8", kind, tiff(stored, extrasamples=[alpha]), stored, right)
    stored = np.dstack([deep_rgb, ALPHA.astype(np.uint16) * 257])
    right = over_white(by_percentiles(deep_rgb, ALPHA > 0))
    yield Case("TIFF", "16", "RGBA", tiff(stored, extrasamples=["unassalpha"]), stored, right, 2)
    for bands in (2, 4, 8, 13):
        stored = np.dstack([*np.moveaxis(deep_rgb, 2, 0), *[deep] * 10][:bands])
        shown = by_percentiles(deep if bands == 2 else deep_rgb)
        for planar in ("contig", "separate"):
            data = tiff(stored, "minisblack", planarconfig=planar)
            samples = stored if planar == "contig" else np.moveaxis(stored, 2, 0)
            layout = f"{bands} bands{' in planes' if planar == 'separate' else ''}"
            yield Case("TIFF", "16", layout, data, samples, shown)
    table = np.random.default_rng(0).integers(0, 65536, (3, 256), dtype=np.uint16)
    palette = tiff(grey, "palette", colormap=table)
    yield Case("TIFF", "8", "palette", palette, grey, (table >> 8).T[grey])
    cmyk = Image.fromarray(rgb).convert("CMYK")
    inks = np.asarray(cmyk)
    yield Case("TIFF", "8", "CMYK", tiff(inks, "separated"), inks, np.asarray(cmyk.convert("RGB")))
    holes = deep.astype(np.float32)
    holes[:9] = np.nan
    holes[9:30, 20:50] = -9999
    good = np.isfinite(holes) & (holes != -9999)
    right = np.where(good, by_percentiles(np.where(good, holes, 0), good), 0)
    data = tiff(holes, extratags=[(42113, "s", 6, "-9999\0", True)])
    yield Case("TIFF", "float32", "grey with NaN and nodata", data, holes, right)
    soft = colours(SMOOTH)
    for codec in ("jpeg", "jpeg2000", "webp", "lerc", "png"):
        data = tiff(soft, compression=codec, tile=(32, 48))
        samples = tifffile.imread(io.BytesIO(data))
        yield Case("TIFF", "8", f"RGB, {codec} in tiles", data, samples, samples, 2)


def other_formats() -> Iterator[Case]:
    """All that are no TIFF."""
    grey, deep = (RAMP % 256).astype(np.uint8), (RAMP % 4096 * 16).astype(np.uint16)
    rgb, deep_rgb = colours(grey), colours(deep)
    for bits in (1, 2, 4):
        levels = (RAMP % 2**bits).astype(np.uint8)
        data = pillow(levels, "PNG", "P", bits=bits) if bits > 1 else pillow(levels.astype(bool), "PNG")
        if bits > 1:
            shown = Image.fromarray(levels)
            shown.putpalette([value * 255 // (2**bits - 1) for value in range(2**bits) for _ in range(3)])
            file = io.BytesIO()
            shown.save(file, "PNG", bits=bits)
            data = file.getvalue()
        layout = "grey" if bits == 1 else "palette"
        yield Case("PNG", str(bits), layout, data, levels, scaled(levels, 0, 2**bits - 1))
    yield Case("PNG", "8", "grey", pillow(grey, "PNG"), grey, grey)
    yield Case("PNG", "8", "RGB", pillow(rgb, "PNG"), rgb, rgb)
    two = np.dstack([grey, ALPHA])
    right = over_white(np.dstack([grey] * 3))
    yield Case("PNG", "8", "grey and alpha", pillow(two, "PNG", "LA"), two, right)
    yield Case("PNG", "8", "RGBA", pillow(np.dstack([rgb, ALPHA]), "PNG"), rgb, over_white(rgb))
    png: Any = imagecodecs.png_encode
    yield Case("PNG", "16", "grey", png(deep), deep, by_percentiles(deep))
    yield Case("PNG", "16", "RGB", png(deep_rgb), deep_rgb, by_percentiles(deep_rgb))
    stored = np.dstack([deep_rgb, ALPHA.astype(np.uint16) * 257])
    right = over_white(by_percentiles(deep_rgb, ALPHA > 0))
    yield Case("PNG", "16", "RGBA", png(stored), stored, right, 2)
    for largest in (255, 4095, 65535):
        depth = str(largest.bit_length())
        for name, samples in (("grey", RAMP % (largest + 1)), ("RGB", colours(RAMP % (largest + 1)))):
            kind = 5 if samples.ndim == 2 else 6
            header = f"P{kind}\n{WIDTH} {HEIGHT}\n{largest}\n".encode()
            data = header + samples.astype("u1" if largest == 255 else ">u2").tobytes()
            right = by_percentiles(samples) if largest == 65535 else scaled(samples, 0, largest)
            yield Case("PPM", depth, name, data, samples, right)
    for bits in (8, 12, 16):
        dtype = "u1" if bits == 8 else "u2"
        for name, samples in (("grey", RAMP % 2**bits), ("RGB", colours(RAMP % 2**bits))):
            stored = samples.astype(dtype)
            jpeg2k: Any = imagecodecs.jpeg2k_encode
            data = jpeg2k(stored, level=0, reversible=True, bitspersample=bits)
            right = by_percentiles(samples) if bits == 16 else scaled(samples, 0, 2**bits - 1)
            yield Case("JPEG 2000", str(bits), name, data, stored, right)
    soft = colours(SMOOTH)
    for format, options in (
        ("JPEG", {"quality": 98, "subsampling": 0}),
        ("WEBP", {"lossless": True}),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}),
        ("BMP", {}),
    ):
        tolerance = 8 if format in ("AVIF", "JPEG") else 1
        yield Case(format, "8", "RGB", pillow(soft, format, **options), soft, soft, tolerance)
    yield Case("JPEG", "8", "grey", pillow(SMOOTH, "JPEG", quality=98), SMOOTH, SMOOTH, 4)
    inks = Image.fromarray(soft).convert("CMYK")
    file = io.BytesIO()
    inks.save(file, "JPEG", quality=98, subsampling=0)
    yield Case("JPEG", "8", "CMYK", file.getvalue(), soft, np.asarray(inks.convert("RGB")), 8)
    yield Case("GIF", "8", "palette", pillow(grey, "GIF"), grey, grey)


def outcome(read: Callable[[], Array], right: Array, tolerance: int) -> str:
    """What a program makes of an image."""
    try:
        found = np.asarray(read()).astype(np.float64)
    except Exception:
        return "refused"
    if right.ndim == 2:
        right = np.repeat(right[:, :, None], 3, axis=2)
    if found.shape != right.shape:
        return "another shape"
    difference = float(np.abs(found - right).max())
    return "right" if difference <= tolerance else f"off by {difference:.0f}"


def row(case: Case) -> dict[str, str]:
    """A line of the table."""

    def tilewise() -> Array:
        return decode_image(case.data).permute(1, 2, 0).numpy()

    def by_pillow() -> Array:
        with Image.open(io.BytesIO(case.data)) as image:
            return np.asarray(image.convert("RGB"))

    samples = "-"
    if case.format == "TIFF":
        try:
            found = tifffile.imread(io.BytesIO(case.data))
            same = np.array_equal(found, case.samples, equal_nan=found.dtype.kind == "f")
            samples = "same" if same else "other"
        except Exception:
            samples = "refused"
    return {
        "format": case.format,
        "bits": case.depth,
        "layout": case.layout,
        "Tilewise": outcome(tilewise, case.right, case.tolerance),
        "Pillow": outcome(by_pillow, case.right, case.tolerance),
        "tifffile": samples,
    }


def main() -> None:
    """Print the table, as Markdown or as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rows = [row(case) for cases in (tiff_depths, tiff_kinds, other_formats) for case in cases()]
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return
    print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
    for one in rows:
        print("| " + " | ".join(one.values()) + " |")


if __name__ == "__main__":
    main()
