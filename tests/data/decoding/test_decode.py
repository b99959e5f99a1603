from __future__ import annotations

import io
import resource
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from tilewise.data.decoding.decode import (
    DecodeError,
    ImageTooLargeError,
    decode_image,
    decode_reduced,
    read_header,
)
from tilewise.errors import UserError
from tilewise.machine import max_pixels, memory_limit

WIDTH, HEIGHT = 23, 17
ORIENTATION = 0x0112


def picture(mode: str = "RGB") -> Image.Image:
    """Smooth, so that lossy formats keep it, and different in every corner."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    pixels = np.stack([x * 10, y * 14, 255 - x * 5 - y * 5], axis=2).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def decoded(data: bytes) -> npt.NDArray[np.int64]:
    tensor = decode_image(data)
    assert str(tensor.dtype) == "torch.uint8"
    header = read_header(data)
    assert tuple(tensor.shape) == (3, header.height, header.width)
    with_file = read_header(io.BytesIO(data))
    assert with_file == header
    return np.asarray(tensor.permute(1, 2, 0).numpy(), dtype=np.int64)


def oriented(image: Image.Image, orientation: int, format: str) -> bytes:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encoded(image, format, exif=exif.tobytes())


LOSSLESS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "BMP": {},
    "TIFF": {},
    "TIFF, LZW": {"compression": "tiff_lzw"},
    "WEBP": {"lossless": True},
    "PPM": {},
    "JPEG2000": {},
}


@pytest.mark.parametrize("name", LOSSLESS)
def test_decode_image__lossless_format(name: str) -> None:
    image = picture()
    data = encoded(image, name.split(",")[0], **LOSSLESS[name])
    assert (decoded(data) == np.asarray(image)).all()


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF", "GIF"])
@pytest.mark.parametrize("mode", ["L", "P", "1"])
def test_decode_image__grey_and_palette(format: str, mode: str) -> None:
    image = picture(mode)
    assert (decoded(encoded(image, format)) == np.asarray(image.convert("RGB"))).all()


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 2}, {"restart_marker_rows": 1}]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_decode_image__jpeg(mode: str, options: dict[str, Any]) -> None:
    data = encoded(picture(mode), "JPEG", quality=95, **options)
    with Image.open(io.BytesIO(data)) as reference:
        wanted = np.asarray(reference.convert("RGB"), dtype=np.int64)
    assert np.abs(decoded(data) - wanted).max() <= 4
    assert np.abs(decoded(data) - np.asarray(picture(mode).convert("RGB"), dtype=np.int64)).mean() < 6


def test_decode_image__cmyk_jpeg() -> None:
    data = encoded(picture().convert("CMYK"), "JPEG", quality=98)
    assert np.abs(decoded(data) - np.asarray(picture(), dtype=np.int64)).mean() < 6


def test_decode_image__first_frame_of_an_animation() -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue")]
    for format in ("GIF", "TIFF", "PNG", "WEBP"):
        options = {"lossless": True} if format == "WEBP" else {}
        data = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert (decoded(data) == [255, 0, 0]).all(), format


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_decode_image__transparent_over_white(format: str) -> None:
    image = Image.new("RGBA", (3, 1))
    image.putdata([(10, 20, 30, 255), (10, 20, 30, 0), (10, 20, 30, 102)])
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    wanted = [[10, 20, 30], [255, 255, 255], [157, 161, 165]]
    assert np.abs(decoded(encoded(image, format, **options))[0] - wanted).max() <= 1


def test_decode_image__transparent_grey() -> None:
    image = Image.new("LA", (2, 1))
    image.putdata([(7, 255), (7, 0)])
    assert decoded(encoded(image, "PNG")).tolist() == [[[7] * 3, [255] * 3]]


def test_decode_image__transparent_colour_of_palette_and_rgb() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 9, 8, 7])
    palette.putdata([0, 1])
    for format in ("PNG", "GIF"):
        data = encoded(palette, format, transparency=0)
        assert decoded(data).tolist() == [[[255, 255, 255], [9, 8, 7]]], format
    rgb = Image.new("RGB", (2, 1), (1, 2, 3))
    rgb.putpixel((1, 0), (9, 8, 7))
    assert decoded(encoded(rgb, "PNG", transparency=(1, 2, 3))).tolist() == [[[255] * 3, [9, 8, 7]]]


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM", "JPEG2000"])
def test_decode_image__16_bit_grey_over_its_own_range(format: str) -> None:
    values = np.asarray([[1000, 2000, 3000], [4000, 5000, 6100]], dtype=np.uint16)
    grey = decoded(encoded(Image.fromarray(values), format))
    assert (grey == grey[..., :1]).all()
    assert grey[..., 0].tolist() == [[0, 50, 100], [150, 200, 255]]


def test_decode_image__16_bit_big_endian() -> None:
    values = np.asarray([[0, 256], [512, 1024]], dtype=">u2")
    image = Image.frombytes("I;16B", (2, 2), values.tobytes())
    assert decoded(encoded(image, "TIFF"))[..., 0].tolist() == [[0, 64], [128, 255]]


def test_decode_image__32_bit_integers() -> None:
    image = Image.fromarray(np.asarray([[-1_000_000, 0, 1_000_000]], dtype=np.int32))
    assert decoded(encoded(image, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]


def test_decode_image__floats_with_gaps() -> None:
    values = np.asarray([[0.5, np.nan, 1.5, np.inf, -np.inf, 1.0]], dtype=np.float32)
    grey = decoded(encoded(Image.fromarray(values), "TIFF"))[0, :, 0]
    assert grey.tolist() == [0, 0, 255, 255, 0, 128]


@pytest.mark.parametrize("value", [0, 777, 65535])
def test_decode_image__flat_16_bit(value: int) -> None:
    image = Image.fromarray(np.full((3, 4), value, dtype=np.uint16))
    assert (decoded(encoded(image, "PNG")) == 0).all()


def test_decode_image__nothing_but_gaps() -> None:
    image = Image.fromarray(np.full((3, 4), np.nan, dtype=np.float32))
    assert (decoded(encoded(image, "TIFF")) == 0).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
def test_orientation__as_exif_transpose(format: str, orientation: int) -> None:
    data = oriented(picture(), orientation, format)
    with Image.open(io.BytesIO(data)) as image:
        wanted = np.asarray(ImageOps.exif_transpose(image).convert("RGB"), dtype=np.int64)
    upright = decoded(data)
    assert upright.shape == wanted.shape
    assert np.abs(upright - wanted).max() <= (4 if format == "JPEG" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation__grey_jpeg_and_16_bit_png(orientation: int) -> None:
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    for image, format in ((picture("L"), "JPEG"), (Image.fromarray(values), "PNG")):
        data = oriented(image, orientation, format)
        turned = orientation >= 5
        width, height = image.size
        assert decoded(data).shape == ((width, height, 3) if turned else (height, width, 3))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_orientation__unknown_is_upright(format: str, orientation: int) -> None:
    data = oriented(picture(), orientation, format)
    assert decoded(data).shape == (HEIGHT, WIDTH, 3)
    assert read_header(data).orientation == 1


def test_orientation__in_xmp_only() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encoded(picture(), "JPEG", xmp=xmp, quality=95)
    assert decoded(data).shape == (WIDTH, HEIGHT, 3)


def test_orientation__behind_the_pixels_of_a_png() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    plain, end = encoded(picture(), "PNG"), 12
    data = plain[:-end] + chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")) + plain[-end:]
    assert (decoded(data) == np.asarray(picture().transpose(Image.Transpose.ROTATE_270))).all()


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0\xff\xff\xff\xff"]
)
def test_orientation__damaged_exif(format: str, exif: bytes) -> None:
    data = encoded(picture(), format, exif=exif)
    try:
        assert decoded(data).shape == (HEIGHT, WIDTH, 3)
    except DecodeError as error:
        assert "damaged" in str(error)


def test_read_header__does_not_decode_a_png() -> None:
    whole = encoded(Image.effect_noise((400, 300), 50), "PNG")
    header = read_header(whole[: len(whole) // 2])
    assert (header.format, header.mode, header.width, header.height) == ("PNG", "L", 400, 300)


@pytest.mark.parametrize(
    "data", [b"", b"\0", b"no image", b"\xff\xd8\xff", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"GIF89a"]
)
def test_decode_image__no_image(data: bytes) -> None:
    for read in (read_header, decode_image):
        with pytest.raises(DecodeError) as error:
            read(data)
        assert isinstance(error.value, UserError) and "\n" not in str(error.value) and str(error.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty: write or fetch it again"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n",
            "a pointer of Git LFS in",
        ),
        (b"\n<!DOCTYPE html><html><body>Not found</body></html>", "a page of HTML, as a failed download"),
    ],
)
def test_decode_image__what_stands_for_an_image(data: bytes, reason: str) -> None:
    for read in (read_header, decode_image):
        with pytest.raises(DecodeError, match=reason):
            read(data)


def test_decode_image__never_starts_ghostscript() -> None:
    data = encoded(picture(), "EPS")
    with pytest.raises(DecodeError, match="not an image in a known format"):
        decode_image(data)


@pytest.mark.parametrize("format", ["JPEG", "progressive JPEG", "PNG"])
def test_decode_image__truncated(format: str) -> None:
    noisy = Image.effect_noise((64, 48), 80).convert("RGB")
    options = {"progressive": True} if format.startswith("progressive") else {}
    data = encoded(noisy, format.split()[-1], **options)
    # The last bytes end the file, not the picture: JPEG's end marker, PNG's checksum and IEND.
    for length in {*range(0, len(data) - 40, 37), *range(700)}:
        with pytest.raises(DecodeError):
            decode_image(data[:length])


def test_decode_image__damaged_inside() -> None:
    data = bytearray(encoded(picture(), "PNG"))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(DecodeError, match="the image is damaged: "):
        decode_image(bytes(data))


VALID = [
    encoded(picture(), "JPEG"),
    encoded(picture("L"), "JPEG", progressive=True),
    oriented(picture(), 6, "JPEG"),
    encoded(picture(), "PNG"),
    oriented(picture("P"), 5, "PNG"),
    encoded(picture(), "TIFF", compression="tiff_lzw"),
    encoded(picture("P"), "GIF"),
    encoded(picture(), "BMP"),
    encoded(picture(), "WEBP"),
    encoded(picture(), "PPM"),
    encoded(picture(), "JPEG2000"),
]


def decodes_or_raises(data: bytes) -> None:
    try:
        header = read_header(data, max_pixels=1_000_000)
    except DecodeError:
        header = None
    try:
        tensor = decode_image(data, max_pixels=1_000_000)
    except DecodeError:
        return
    assert header is not None
    assert tuple(tensor.shape) == (3, header.height, header.width)


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")
@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
@example(b"P6 0 0 255\n")
@example(b"GIF89a\0\0\0\0\0\0\0;")
def test_decode_image__random_bytes(data: bytes) -> None:
    decodes_or_raises(data)


@pytest.mark.filterwarnings("ignore:.*:UserWarning:PIL")
@settings(max_examples=400, deadline=None)
@given(st.data())
def test_decode_image__random_mutations(data: st.DataObject) -> None:
    mutated = bytearray(data.draw(st.sampled_from(VALID)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(mutated) - 1))
        kind = data.draw(st.sampled_from(["set", "insert", "delete"]))
        if kind == "set":
            mutated[place] = data.draw(st.integers(0, 255))
        elif kind == "insert":
            mutated[place:place] = data.draw(st.binary(min_size=1, max_size=8))
        else:
            del mutated[place : place + data.draw(st.integers(1, 8))]
            mutated = mutated or bytearray(b"\0")
    decodes_or_raises(bytes(mutated))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def bomb(width: int, height: int) -> bytes:
    rows = b"\0" * (1 + width // 8) * (height // 100)
    compressor = zlib.compressobj(1)
    pixels = b"".join(compressor.compress(rows) for _ in range(100)) + compressor.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("read", [read_header, decode_image])
def test_pixel_cap__bomb_is_refused_before_decoding(read: Callable[[bytes], object]) -> None:
    data = bomb(60_000, 60_000)
    assert len(data) < 3_000_000
    before = resource.getrusage(resource.RUSAGE_SELF)
    with pytest.raises(
        ImageTooLargeError, match="has 60000 x 60000 pixels; at most 500,000,000 are accepted"
    ):
        read(data)
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert after.ru_maxrss - before.ru_maxrss < 50_000  # KiB; decoded it has 3.6 GB
    assert after.ru_utime - before.ru_utime < 0.5


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "GIF", "BMP", "WEBP"])
def test_pixel_cap__exact(format: str) -> None:
    data = encoded(picture(), format)
    assert decode_image(data, max_pixels=WIDTH * HEIGHT).shape == (3, HEIGHT, WIDTH)
    for read in (read_header, decode_image):
        with pytest.raises(
            ImageTooLargeError, match=f"{WIDTH} x {HEIGHT} pixels; at most {WIDTH * HEIGHT - 1}"
        ):
            read(data, max_pixels=WIDTH * HEIGHT - 1)


def test_pixel_cap__large_image_without_warning() -> None:
    data = encoded(Image.new("1", (20_000, 10_000)), "PNG")  # more than Pillow's own limit of warnings
    assert read_header(data).width == 20_000


def test_decode_image__real_jpegs(shared_data: Path) -> None:
    files = sorted((shared_data / "bccd" / "images").glob("*.jpg"))[:5]
    assert files
    for file in files:
        with Image.open(file) as image:
            wanted = np.asarray(image.convert("RGB"), dtype=np.int64)
        difference = np.abs(decoded(file.read_bytes()) - wanted)
        assert difference.mean() < 1 and difference.max() <= 8


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(64, 48), (61, 47), (9, 9), (8, 1), (3, 2), (1, 1)])
def test_decode_reduced__is_the_mean_of_blocks(factor: int, mode: str, size: tuple[int, int]) -> None:
    image = Image.linear_gradient("L").resize((64, 64)).crop((0, 0, *size)).convert(mode)
    data = encoded(image, "JPEG", quality=95)
    reduced = decode_reduced(data, lambda width, height: factor)
    assert (reduced.width, reduced.height) == size
    pixels, used = torch.from_numpy(reduced.pixels), reduced.factor
    assert pixels.dtype == torch.uint8
    if used == 1:  # too small to be reduced
        assert min(size) < 2 * factor and torch.equal(pixels, decode_image(data))
        return
    assert pixels.shape == (3, -(-size[1] // factor), -(-size[0] // factor))
    rows, columns = size[1] // factor, size[0] // factor
    blocks = decode_image(data)[:, : rows * factor, : columns * factor].float()
    means = blocks.reshape(3, rows, factor, columns, factor).mean(dim=(2, 4))
    assert torch.allclose(pixels[:, :rows, :columns].float(), means, rtol=0, atol=3)


def test_decode_reduced__other_formats_and_rotated_images_come_whole() -> None:
    image = picture().resize((64, 48))
    for data in (encoded(image, "PNG"), oriented(image, 6, "JPEG"), encoded(image.convert("CMYK"), "JPEG")):
        reduced = decode_reduced(data, lambda width, height: 4)
        assert reduced.factor == 1 and np.array_equal(reduced.pixels, decode_image(data).numpy())


def test_decode_reduced__damage_and_pixel_cap() -> None:
    data = encoded(picture().resize((256, 256)), "JPEG")
    with pytest.raises(DecodeError, match="damaged"):
        decode_reduced(data[: len(data) // 2], lambda width, height: 4)
    with pytest.raises(ImageTooLargeError):
        decode_reduced(data, lambda width, height: 4, max_pixels=256 * 256 - 1)


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "JPEG2000", "GIF"])
def test_decode_image__a_broken_image_leaves_nothing_behind(format: str) -> None:
    noise = Image.effect_noise((1200, 900), 50).convert("RGB")
    options = {"compression": "tiff_lzw"} if format == "TIFF" else {}
    data = encoded(noise, format, **options)
    broken = data[: len(data) * 9 // 10]
    for _ in range(100):  # until freed memory is used again
        with pytest.raises(DecodeError):
            decode_image(broken)
    before = resident()
    for _ in range(40):
        with pytest.raises(DecodeError):
            decode_image(broken)
    assert resident() - before < 20_000_000  # its pixels have 3.2 MB, and would have been lost 40 times


@pytest.mark.parametrize(
    ("text", "most"),
    [("1000", 1000), ("", min(500_000_000, memory_limit() // 22)), ("1e9", None), ("0", None)],
)
def test_pixel_cap__by_the_variable_or_by_the_memory(
    text: str, most: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TILEWISE_MAX_PIXELS", text)
    if most is None:
        with pytest.raises(UserError, match="TILEWISE_MAX_PIXELS must be a whole number of pixels"):
            read_header(encoded(picture(), "PNG"))
    elif most == 1000:
        with pytest.raises(ImageTooLargeError, match="at most 1,000 are accepted"):
            read_header(encoded(picture().resize((50, 40)), "PNG"))
        assert read_header(encoded(picture().resize((40, 25)), "PNG")).width == 40
    assert most is None or max_pixels() == most


def test_decode_image__more_than_the_memory_that_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.new("L", (5000, 4000)), "PNG")
    monkeypatch.setattr("tilewise.machine.available_memory", lambda: 100_000_000)
    with pytest.raises(
        MemoryError, match=r"5000 x 4000 pixels needs 0\.1 GB of memory, and 0\.1 GB are left"
    ):
        decode_image(data)
    assert decode_image(encoded(picture(), "PNG")).shape[0] == 3
