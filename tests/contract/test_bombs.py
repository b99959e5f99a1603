"""Small bodies that open to gigabytes, sent to the real ``serve`` with 4 GiB of address space."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from endpoint_process import SERVE, EndpointProcess
from PIL import Image

LIMIT = 4 * 2**30
GOOD = io.BytesIO()
Image.new("RGB", (64, 48), "grey").save(GOOD, "PNG")


def png(width: int, height: int, bits: int, colours: int) -> bytes:
    """All zeros."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = bytes(1 + width * bits // 8 * (3 if colours == 2 else 1))
    squeeze = zlib.compressobj(1)
    at_once = max(1, 2**22 // len(row))
    rows = b"".join(squeeze.compress(row * min(at_once, height - done)) for done in range(0, height, at_once))
    header = struct.pack(">IIBBBBB", width, height, bits, colours, 0, 0, 0)
    image = chunk(b"IHDR", header) + chunk(b"IDAT", rows + squeeze.flush()) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + image


def webp(side: int) -> bytes:
    """One colour takes no bit a pixel, so that the size in the header of VP8L can be any."""
    stream = io.BytesIO()
    Image.new("RGB", (16, 16)).save(stream, "WEBP", lossless=True)
    data = bytearray(stream.getvalue())
    place = data.index(b"VP8L") + 9
    (word,) = struct.unpack_from("<I", data, place)
    struct.pack_into("<I", data, place, word >> 28 << 28 | (side - 1) << 14 | (side - 1))
    return bytes(data)


def gif(side: int) -> bytes:
    head = b"GIF89a" + struct.pack("<HH", side, side) + bytes([0x80, 0, 0, 0, 0, 0, 255, 255, 255])
    return head + b"," + struct.pack("<HHHH", 0, 0, 1, 1) + bytes([0, 2, 2, 0x44, 1, 0]) + b";"


BOMBS = {
    "4 x 5,000,000": lambda: png(4, 5_000_000, 8, 0),
    "16-bit grey": lambda: png(22_000, 22_000, 16, 0),
    "WebP of one colour": lambda: webp(16_383),
    "GIF of one pixel": lambda: gif(22_000),
}


@pytest.fixture(scope="module", params=["by the memory", "500000000"])
def server(
    request: pytest.FixtureRequest, graph_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EndpointProcess]:
    """The graph's server, with the number of pixels that the memory allows, and with far more."""
    if shutil.which("prlimit") is None:
        pytest.skip("there is no prlimit")
    workspace = tmp_path_factory.mktemp("bombed")
    (workspace / "ml").mkdir()
    (workspace / "ml" / "model").symlink_to(graph_folder)
    variables = {} if request.param == "by the memory" else {"TILEWISE_MAX_PIXELS": request.param}
    command = ("prlimit", f"--as={LIMIT}", *SERVE)
    running = EndpointProcess(workspace, command, CUDA_VISIBLE_DEVICES="", **variables)
    try:
        running.wait_until_ready()
        yield running
    finally:
        running.close()


@pytest.mark.parametrize("name", BOMBS)
def test_bomb__kills_no_worker(server: EndpointProcess, name: str) -> None:
    before = server.workers
    bomb = BOMBS[name]()
    assert len(bomb) < 10_000_000
    status, kind, body = server.invoke(bomb)
    assert (status in (200, 413, 503), kind) == (True, "application/json"), body
    if status != 200:
        assert "pixels" in json.loads(body)["error"] or "memory" in json.loads(body)["error"]
    assert server.invoke(GOOD.getvalue())[0] == 200
    assert server.request("GET", "/ping")[0] == 200
    assert server.workers == before
    assert resident(before[0]) < LIMIT
    assert "Traceback" not in server.log


def resident(worker: int) -> int:
    """Bytes, at most so far."""
    status = Path(f"/proc/{worker}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
