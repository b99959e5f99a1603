"""The page that a browser gets, in headless Chromium."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from endpoint_process import EndpointProcess, standing_in
from PIL import Image

JPEG = b"\xff\xd8\xff"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class Browser:
    """Chromium with one page, told what to do by the DevTools protocol over a pipe."""

    def __init__(self, folder: Path) -> None:
        read_commands, self._commands = os.pipe()
        self._answers, write_answers = os.pipe()
        assert CHROMIUM is not None
        # Chromium reads descriptor 3 and writes 4.
        redirect = f'exec "$0" "$@" 3<&{read_commands} 4>&{write_answers}'
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        options += [f"--user-data-dir={folder}", "--remote-debugging-pipe", "--window-size=1200,800"]
        self.process = subprocess.Popen(
            ["bash", "-c", redirect, CHROMIUM, *options, "about:blank"],
            pass_fds=(read_commands, write_answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_answers)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def tell(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            piece = os.read(self._answers, 1 << 16)
            assert piece, "the browser has ended"
            self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def run(self, script: str) -> Any:
        answer = self.tell("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, script: str) -> None:
        deadline = time.monotonic() + 30
        while not self.run(script):
            assert time.monotonic() < deadline, self.run("document.body.innerText")
            time.sleep(0.05)

    def drop_file(self, selector: str, path: Path) -> None:
        """As a hand that drags the file from a desktop and lets it go there."""
        script = f"JSON.stringify(document.querySelector({selector!r}).getBoundingClientRect())"
        box = json.loads(self.run(script))
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        dragged = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.tell("Input.dispatchDragEvent", type=kind, **place, data=dragged)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._commands)
        os.close(self._answers)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EndpointProcess]:
    with standing_in(tmp_path_factory.mktemp("paged")) as running:
        yield running


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    running = Browser(tmp_path / "profile")
    yield running
    running.close()


def test_page__of_one_file_and_only_for_browsers(server: EndpointProcess) -> None:
    status, kind, body = server.request("GET", "/", Accept="text/html,application/xhtml+xml,*/*;q=0.8")
    assert (status, kind) == (200, "text/html")
    assert b"http://" not in body and b"https://" not in body and b"src=" not in body
    assert server.request("GET", "/", Accept="*/*")[1] == "application/json"


def test_page__can_be_switched_off(tmp_path: Path) -> None:
    with standing_in(tmp_path, TILEWISE_PAGE="off") as server:
        assert server.request("GET", "/", Accept="text/html")[1] == "application/json"


def test_page__a_large_image_and_the_threshold(
    server: EndpointProcess, browser: Browser, tmp_path: Path
) -> None:
    image = tmp_path / "large.jpg"
    Image.new("RGB", (10_000, 10_000), "white").save(image)
    browser.tell("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
    browser.wait_for("document.readyState === 'complete' && !!document.querySelector('#file')")
    browser.drop_file("#view", image)
    browser.wait_for("document.querySelector('#status').textContent.includes('10000 x 10000')")
    move = "threshold.value = {}; threshold.dispatchEvent(new Event('input')); count.textContent"
    move = move.replace("threshold.", "document.querySelector('#threshold').").replace(
        "count.", "document.querySelector('#count')."
    )
    assert browser.run(move.format(0)) == "2"
    assert browser.run(move.format(0.4)) == "1"
    assert browser.run(move.format(0.9)) == "0"
    browser.run(move.format(0))
    for _ in range(5):
        browser.run("zoomBy(2); new Promise(requestAnimationFrame)")
    colours = "new Set(pen.getImageData(0, 0, canvas.width, canvas.height).data).size"
    browser.run("fit(); new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert browser.run(colours) > 3, "boxes are drawn"


def test_page__fills_masks_and_leaves_their_holes(
    server: EndpointProcess, browser: Browser, tmp_path: Path
) -> None:
    image = tmp_path / "white.png"
    Image.new("RGB", (100, 100), "white").save(image)
    browser.tell("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
    browser.wait_for("document.readyState === 'complete' && !!document.querySelector('#file')")
    ring = [[0.2, 0.2, 0.8, 0.2, 0.8, 0.8, 0.2, 0.8], [0.4, 0.4, 0.4, 0.6, 0.6, 0.6, 0.6, 0.4]]
    answer = {"prediction": [[0, 0.9, 0.2, 0.2, 0.8, 0.8]], "classes": ["ring"], "polygons": [ring]}
    browser.run(f"window.fetch = async () => new Response(JSON.stringify({json.dumps(answer)})); 0")
    browser.drop_file("#view", image)
    browser.wait_for("document.querySelector('#count').textContent === '1'")
    browser.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    colour = "[...pen.getImageData(left + {0} * zoom, top_ + {0} * zoom, 1, 1).data].slice(0, 3)"
    outside, inside, hole = (browser.run(colour.format(place)) for place in (10, 30, 50))
    assert outside == hole == [255, 255, 255] != inside


def test_page__begins_with_what_the_model_recommends(browser: Browser, tmp_path: Path) -> None:
    """The stand-in finds an ant with 0.5 and a bee with 0.3."""
    model = tmp_path / "ml" / "model"
    model.mkdir(parents=True)
    recommended = {"recommended_threshold": 0.45, "recommended_thresholds": {"bee": 0.25}}
    (model / "model.json").write_text(json.dumps({"classes": ["ant", "bee"], **recommended}))
    image = tmp_path / "small.jpg"
    Image.new("RGB", (100, 200), "white").save(image)
    with standing_in(tmp_path) as server:
        described = json.loads(server.request("GET", "/")[2])["model"]
        assert {name: described[name] for name in recommended} == recommended
        chosen = json.loads(server.request("POST", "/invocations?threshold=recommended", JPEG)[2])
        assert [row[0] for row in chosen["prediction"]] == [0.0, 1.0]
        chosen = json.loads(server.request("POST", "/invocations?threshold=0.45", JPEG)[2])
        assert [row[0] for row in chosen["prediction"]] == [0.0]
        browser.tell("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
        browser.wait_for("document.querySelector('#recommended')?.checked")
        browser.drop_file("#view", image)
        browser.wait_for("document.querySelector('#status').textContent.includes('100 x 200')")
        count = "document.querySelector('#count').textContent"
        assert browser.run(count) == "2", "the bee's own threshold is lower"
        assert browser.run("document.querySelector('#threshold').value") == "0.45"
        browser.run("document.querySelector('#recommended').click()")
        assert browser.run(count) == "1"
        move = "at('threshold').value = 0.2; at('threshold').dispatchEvent(new Event('input'))"
        browser.run(f"at('recommended').click(); {move}")
        assert browser.run("at('recommended').checked") is False
        assert browser.run(count) == "2"
