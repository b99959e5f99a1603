"""How much memory decoding takes beside its result, by format, and beside Pillow and tifffile.

python benchmarks/decode_memory.py [--pixels 24000000]

Each image is decoded in a process of its own, which has decoded a small one of its kind before. The peak of
its resident memory, less what it had before and less the 3 bytes a pixel of the result, is printed in bytes a
pixel. The encoded image is there before. Pillow and tifffile give arrays of their own depth.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "container"))
Image.MAX_IMAGE_PIXELS = None


def pixels_of(side: int, *, bands: int = 3, dtype: str = "u1") -> Any:
    """A smooth picture with some noise, (h, w) or (h, w, bands)."""
    height, width = side * 3 // 4, side
    y, x = np.ogrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 16, (64, 64)).astype(np.uint16)
    top = 255 if dtype == "u1" else 4095
    one = ((x * top // width + y) % (top - 16)).astype(np.uint16)
    one += np.tile(noise, (height // 64 + 1, width // 64 + 1))[:height, :width]
    plane = one.astype(dtype)
    return plane if bands == 1 else np.dstack([plane] * bands)


def by_pillow(format: str, mode: str, **options: Any) -> Callable[[int], bytes]:
    """Encodes by Pillow."""

    def encode(side: int) -> bytes:
        file = io.BytesIO()
        image = Image.fromarray(pixels_of(side)).convert(mode)
        image.save(file, format, **options)
        return file.getvalue()

    return encode


def by_tifffile(bands: int, dtype: str, **options: Any) -> Callable[[int], bytes]:
    """Encodes by tifffile."""

    def encode(side: int) -> bytes:
        import tifffile

        pixels = pixels_of(side, bands=bands, dtype=dtype)
        if options.get("planarconfig") == "separate":
            pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
        file = io.BytesIO()
        tifffile.imwrite(file, pixels, photometric="rgb" if bands > 2 else "minisblack", **options)
        return file.getvalue()

    return encode


def by_imagecodecs(codec: str, bands: int, dtype: str, **options: Any) -> Callable[[int], bytes]:
    """Encodes by imagecodecs."""

    def encode(side: int) -> bytes:
        import imagecodecs

        pixels = pixels_of(side, bands=bands, dtype=dtype)
        return bytes(getattr(imagecodecs, f"{codec}_encode")(pixels, **options))

    return encode


def ppm(bands: int) -> Callable[[int], bytes]:
    """Encodes a binary PGM or PPM file of 16 bits."""

    def encode(side: int) -> bytes:
        pixels = pixels_of(side, bands=bands, dtype=">u2")
        header = f"P{5 if bands == 1 else 6}\n{pixels.shape[1]} {pixels.shape[0]}\n65535\n"
        return bytes(header.encode() + pixels.tobytes())

    return encode


CASES: dict[str, Callable[[int], bytes]] = {
    "JPEG": by_pillow("JPEG", "RGB", quality=90),
    "JPEG, progressive, 4:4:4": by_pillow("JPEG", "RGB", quality=90, progressive=True, subsampling=0),
    "JPEG, grey": by_pillow("JPEG", "L"),
    "JPEG, CMYK": by_pillow("JPEG", "CMYK"),
    "PNG, RGB": by_pillow("PNG", "RGB", compress_level=1),
    "PNG, RGBA": by_pillow("PNG", "RGBA", compress_level=1),
    "PNG, palette": by_pillow("PNG", "P", compress_level=1),
    "PNG, grey": by_pillow("PNG", "L", compress_level=1),
    "PNG, grey of 16 bits": by_imagecodecs("png", 1, "u2", level=1),
    "PNG, RGB of 16 bits": by_imagecodecs("png", 3, "u2", level=1),
    "PNG, RGBA of 16 bits": by_imagecodecs("png", 4, "u2", level=1),
    "BMP": by_pillow("BMP", "RGB"),
    "GIF": by_pillow("GIF", "P"),
    "PPM, RGB": by_pillow("PPM", "RGB"),
    "PGM of 16 bits": ppm(1),
    "PPM of 16 bits": ppm(3),
    "WebP": by_pillow("WEBP", "RGB", quality=80, method=0),
    "WebP, lossless": by_pillow("WEBP", "RGB", lossless=True, method=0, quality=0),
    "WebP, RGBA": by_pillow("WEBP", "RGBA", quality=80, method=0),
    "AVIF": by_pillow("AVIF", "RGB", quality=60, speed=10),
    "JPEG 2000, RGB in one tile": by_pillow("JPEG2000", "RGB", irreversible=True, quality_layers=[20]),
    "JPEG 2000, RGB in tiles": by_pillow("JPEG2000", "RGB", tile_size=(1024, 1024)),
    "JPEG 2000, grey of 16 bits": by_imagecodecs("jpeg2k", 1, "u2", level=0, reversible=True),
    "TIFF, RGB": by_tifffile(3, "u1"),
    "TIFF, RGB, LZW": by_tifffile(3, "u1", compression="lzw"),
    "TIFF, RGB, JPEG in tiles": by_tifffile(3, "u1", compression="jpeg", tile=(512, 512)),
    "TIFF, grey of 16 bits": by_tifffile(1, "u2"),
    "TIFF, RGB of 16 bits": by_tifffile(3, "u2"),
    "TIFF, RGB of 16 bits, planes": by_tifffile(3, "u2", planarconfig="separate"),
    "TIFF, RGB of 16 bits, LZW in tiles": by_tifffile(3, "u2", compression="lzw", tile=(512, 512)),
    "TIFF, RGB of 16 bits, deflate": by_tifffile(3, "u2", compression="zlib"),
    "TIFF, grey of 32 bits": by_tifffile(1, "i4"),
    "TIFF, grey float32": by_tifffile(1, "f4"),
    "TIFF, RGB float32": by_tifffile(3, "f4"),
    "TIFF, RGB float64, deflate in tiles": by_tifffile(3, "f8", compression="zlib", tile=(512, 512)),
    "TIFF, 8 bands of 16 bits, in tiles": by_tifffile(8, "u2", tile=(512, 512)),
}


def tilewise(data: bytes) -> None:
    """Decode as training and the endpoint do."""
    from tilewise.data.decoding.decode import decode_image

    decode_image(data)


def pillow(data: bytes) -> None:
    """Decode to an RGB array, as one does with Pillow."""
    with Image.open(io.BytesIO(data)) as image:
        np.array(image if image.mode.startswith(("I", "F")) else image.convert("RGB"))


def tifffile_(data: bytes) -> None:
    """Decode to an array of the file's depth."""
    import tifffile

    tifffile.imread(io.BytesIO(data))


def memory(field: str) -> int:
    """Bytes of this process: ``VmRSS`` or its peak, ``VmHWM``."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(field)


def measure(case: str, decoder: str, path: Path) -> None:
    """In a process of its own: print the bytes a pixel beside the result."""
    decode = {"Tilewise": tilewise, "Pillow": pillow, "tifffile": tifffile_}[decoder]
    data = path.read_bytes()
    decode(CASES[case](256))
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = memory("VmRSS")
    decode(data)
    side = int(path.stem)
    print((memory("VmHWM") - before) / (side * (side * 3 // 4)) - 3)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pixels", type=int, default=24_000_000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/decode_memory"))
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        case, decoder, path = arguments.measure
        return measure(case, decoder, Path(path))
    side = int((arguments.pixels * 4 / 3) ** 0.5) // 64 * 64
    arguments.folder.mkdir(exist_ok=True)
    path = arguments.folder / f"{side}.image"
    rows = {}
    for case, encode in CASES.items():
        path.write_bytes(encode(side))
        row: dict[str, float | str] = {}
        decoders = ["Tilewise", "Pillow", *(["tifffile"] if case.startswith("TIFF") else [])]
        for decoder in decoders:
            command = [sys.executable, __file__, "--measure", case, decoder, str(path)]
            done = subprocess.run(command, capture_output=True, text=True)
            row[decoder] = round(float(done.stdout), 1) if done.returncode == 0 else "refused"
        rows[case] = row
        print(f"{case:38}", *(f"{name} {value}" for name, value in row.items()), sep="  ", flush=True)
    path.unlink()
    print(json.dumps({"pixels": side * (side * 3 // 4), "bytes a pixel beside the result": rows}))


if __name__ == "__main__":
    main()
