from __future__ import annotations

import hashlib
import os
import re
import shutil
import socketserver
import subprocess
import sys
import threading
import urllib.error
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
from tilewise.registry import Weights, model_names, task_names

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "docker"))

import fetch_weights

ROOT = Path(__file__).resolve().parents[2]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *rest: object) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder, and the address where it is served."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["fetch_weights.py", *map(str, arguments)])
    return fetch_weights.main()


def publish(folder: Path, monkeypatch: pytest.MonkeyPatch, model: str, content: bytes) -> str:
    """Serve a file as the model's, under a name with its digest's first digits; returns that name."""
    name = f"{model}-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(content)
    monkeypatch.setitem(fetch_weights.WEIGHTS, model, Weights(name))
    return name


def test_weights__of_each_model_are_pinned() -> None:
    of_all_tasks = dict.fromkeys(name for task in task_names() for name in model_names(task))
    without = [name for name in of_all_tasks if name not in fetch_weights.WEIGHTS]
    assert without == ["resnet200", "vits16r224", "vitb16r224", "vitl16r224"]  # by no name of a file
    assert [*fetch_weights.WEIGHTS, *without] == [*(n for n in of_all_tasks if n not in without), *without]
    for weights in fetch_weights.WEIGHTS.values():
        assert len(weights.pin) == (64 if weights.sha256 else 8)
        assert weights.source == "yolox" or f"-{weights.pin[:8]}." in weights.file


def test_script__needs_python_alone(tmp_path: Path) -> None:
    for path in ("docker/fetch_weights.py", "container/tilewise/registry"):  # what the Dockerfile copies
        target = tmp_path / path
        target.parent.mkdir(parents=True)
        source = ROOT / path
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    script = tmp_path / "docker/fetch_weights.py"
    command = [sys.executable, "-I", "-S", str(script), str(tmp_path), "no_such_model"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "yolox_nano" in done.stderr and done.returncode == 2, done.stderr


def test_fetch__keeps_what_agrees_and_asks_for_it_once(
    mirror: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, url = mirror
    name = publish(folder, monkeypatch, "ssd_vgg16", b"weights" * 300_000)
    target = tmp_path / "weights"
    assert run(monkeypatch, target, "ssd_vgg16", "--torchvision", url) == 0
    assert [path.name for path in target.iterdir()] == [name]
    assert (target / name).read_bytes() == b"weights" * 300_000
    assert "only its first 8 digits are pinned" in capsys.readouterr().out
    (folder / name).unlink()
    assert run(monkeypatch, target, "ssd_vgg16", "--torchvision", url) == 0
    (target / name).write_bytes(b"changed")
    assert run(monkeypatch, target, "ssd_vgg16", "--torchvision", url) == 1


@pytest.mark.parametrize("whole", [False, True])
def test_fetch__leaves_nothing_of_a_file_that_does_not_agree(
    whole: bool,
    mirror: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, url = mirror
    name = publish(folder, monkeypatch, "ssd_vgg16", b"weights")
    if whole:  # its first digits are right
        digest = hashlib.sha256(b"weights").hexdigest()
        other = digest[:63] + "0123456789abcdef"[int(digest[63], 16) - 1]
        monkeypatch.setitem(fetch_weights.WEIGHTS, "ssd_vgg16", Weights(name, sha256=other))
    else:
        (folder / name).write_bytes(b"others")
    assert run(monkeypatch, tmp_path / "weights", "ssd_vgg16", "--torchvision", url) == 1
    assert not list((tmp_path / "weights").iterdir())
    assert f"{name}: failed: {name} has the SHA-256" in capsys.readouterr().err


def test_fetch__a_file_that_is_not_there_fails(
    mirror: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, tmp_path / "weights", "ssd_vgg16", "--torchvision", mirror[1]) == 1
    assert "404" in capsys.readouterr().err


def test_fetch__yolox_has_a_mirror_of_its_own(
    mirror: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, url = mirror
    (folder / "yolox_s.pth").write_bytes(b"weights")
    arguments = tmp_path / "weights", "yolox_s", "--yolox", url
    assert run(monkeypatch, *arguments) == 1
    pinned = Weights("yolox_s.pth", "yolox", hashlib.sha256(b"weights").hexdigest())
    monkeypatch.setitem(fetch_weights.WEIGHTS, "yolox_s", pinned)
    assert run(monkeypatch, *arguments) == 0
    assert (tmp_path / "weights" / "yolox_s.pth").read_bytes() == b"weights"


@pytest.fixture
def default_files(
    mirror: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, list[str]]:
    """A mirror's folder with the files of the default models, YOLOX's too, and their names."""
    folder, _ = mirror
    names = []
    for model in fetch_weights.DEFAULT_MODELS:
        source = fetch_weights.WEIGHTS[model].source
        names.append(publish(folder, monkeypatch, model, model.encode()))
        digest = hashlib.sha256(model.encode()).hexdigest()
        monkeypatch.setitem(fetch_weights.WEIGHTS, model, Weights(names[-1], source, digest))
    name = f"vgg16_features-{hashlib.sha256(b'features').hexdigest()[:8]}.pth"
    (folder / name).write_bytes(b"features")
    backbone = fetch_weights.find_model("ssd_vgg16").backbone
    assert backbone
    vgg = replace(backbone, weights=(Weights(name),))

    def found(model: str) -> SimpleNamespace:
        own = (fetch_weights.WEIGHTS[model],)
        return SimpleNamespace(backbone=vgg, published=own + vgg.weights if model == "ssd_vgg16" else own)

    monkeypatch.setattr(fetch_weights, "find_model", found)
    return folder, [*names, name]


def test_files__of_the_default_models() -> None:
    files = fetch_weights.files_of(["default"])
    assert fetch_weights.files_of(["strict"]) == files
    assert [weights.file for weights, models in files.items() if "ssd_vgg16" in models] == [
        "ssd300_vgg16_coco-b556d3b4.pth"
    ]
    assert [weights.file for weights, models in files.items() if not models] == [
        "vgg16_features-amdegroot-88682ab5.pth"
    ]
    assert {name for models in files.values() for name in models} == set(fetch_weights.DEFAULT_MODELS)
    assert fetch_weights.files_of(["none"]) == {}
    more = fetch_weights.files_of(["strict", "yolox_l"])
    assert {weights.file for weights in more} - {weights.file for weights in files} == {"yolox_l.pth"}


@pytest.mark.parametrize("word", ["default", "strict"])
def test_fetch__the_default_models(
    word: str,
    mirror: tuple[Path, str],
    default_files: tuple[Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = default_files[1]
    target, url = tmp_path / "weights", mirror[1]
    assert run(monkeypatch, target, word, "--torchvision", url, "--yolox", url) == 0
    assert sorted(path.name for path in target.iterdir()) == sorted(names)
    assert capsys.readouterr().err == ""


def test_fetch__by_default_goes_on_without_what_fails_and_says_what_that_means(
    mirror: tuple[Path, str],
    default_files: tuple[Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, names = default_files
    (folder / names[0]).unlink()
    (folder / names[1]).write_bytes(b"damaged")
    target, mirrors = tmp_path / "weights", ("--torchvision", mirror[1], "--yolox", mirror[1])
    assert run(monkeypatch, target, "default", *mirrors) == 0
    assert sorted(path.name for path in target.iterdir()) == sorted(names[2:])
    one, other = capsys.readouterr().err.splitlines()
    assert one.startswith(f"WARNING: {names[0]}: failed: HTTP Error 404")
    assert f"there, jobs with model_name=ssd_vgg16 begin with {names[-1]}, instead" in one, "the backbone"
    assert f"{names[1]} has the SHA-256" in other
    assert "there, jobs with model_name=ssd_resnet50 train from scratch" in other
    assert "takes longer and ends less accurate, unless they have a channel pretrained" in other
    assert run(monkeypatch, target, "strict", *mirrors) == 1
    assert "WARNING" not in capsys.readouterr().err


def test_fetch__a_model_by_name_fails_also_beside_the_default_ones(
    mirror: tuple[Path, str],
    default_files: tuple[Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (default_files[0] / default_files[1][1]).unlink()
    mirrors = "--torchvision", mirror[1].rstrip("/"), "--yolox", mirror[1]
    assert run(monkeypatch, tmp_path / "weights", "default", "ssd_vgg16", *mirrors) == 0
    assert capsys.readouterr().err.startswith("WARNING")
    assert run(monkeypatch, tmp_path / "weights", "default", "ssd_resnet50", *mirrors) == 1
    assert "WARNING" not in capsys.readouterr().err


def test_fetch__by_default_a_file_that_lies_there_stays_and_the_warning_says_so(
    mirror: tuple[Path, str],
    default_files: tuple[Path, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, target = default_files[1][1], tmp_path / "weights"
    target.mkdir()
    (target / name).write_bytes(b"mine")
    assert run(monkeypatch, target, "default", "--torchvision", mirror[1], "--yolox", mirror[1]) == 0
    assert (target / name).read_bytes() == b"mine"
    (warning,) = capsys.readouterr().err.splitlines()
    assert f"{name} has the SHA-256" in warning
    assert "It stays, and jobs with model_name=ssd_resnet50 begin with it: remove it" in warning
    assert "from scratch" not in warning and "built without it" not in warning


def test_fetch__asks_a_source_that_is_out_of_reach_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def refuse(url: str, timeout: float) -> None:
        asked.append(url)
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    assert run(monkeypatch, tmp_path / "weights", "default") == 0
    assert len(asked) == 2, "torchvision's and YOLOX's"
    assert capsys.readouterr().err.count("no route to host") == len(fetch_weights.files_of(["default"]))
    assert run(monkeypatch, tmp_path / "weights", "strict") == 1
    assert list((tmp_path / "weights").iterdir()) == []


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno\r\n"]
)
def test_fetch__by_default_goes_on_where_a_mirror_does_not_speak_http(
    answer: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Speaks(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Speaks) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_address[1]}/"
        try:
            codes = [
                run(monkeypatch, tmp_path / "weights", word, "--torchvision", url, "--yolox", "http://a b/")
                for word in ("default", "strict")
            ]
        finally:
            server.shutdown()
    assert codes == [0, 1]
    files = len(fetch_weights.files_of(["default"]))
    assert capsys.readouterr().err.count(": failed: ") == 2 * files
    assert not list((tmp_path / "weights").iterdir())


@pytest.mark.parametrize(("word", "code"), [(None, 0), ("strict", 1), ("none", 0), ("", 0), ("yolox_s", 1)])
def test_dockerfile__fetches_as_it_says(
    word: str | None, code: int, mirror: tuple[Path, str], tmp_path: Path
) -> None:
    """Its own line, run by a shell, with a mirror that has nothing."""
    text = (ROOT / "Dockerfile").read_text()
    (default,) = re.findall(r"^ARG FETCH_WEIGHTS=(.*)$", text, re.MULTILINE)
    (line,) = re.findall(r"^RUN (python3 /opt/tilewise/fetch_weights.py .*)$", text, re.MULTILINE)
    line = line.replace("/opt/tilewise/fetch_weights.py", str(ROOT / "docker" / "fetch_weights.py"))
    line = line.replace("/opt/tilewise/weights", str(tmp_path / "weights")).replace("python3", sys.executable)
    chosen = default if word is None else word
    mirrors = f" --torchvision {mirror[1]} --yolox {mirror[1]}" if chosen else ""
    environ = {"PATH": os.environ["PATH"], "FETCH_WEIGHTS": chosen + mirrors}
    done = subprocess.run(["sh", "-c", line], env=environ, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert ("WARNING" in done.stderr) == (word is None)
    assert ("404" in done.stderr) == (word not in ("none", ""))
    assert not list((tmp_path / "weights").iterdir())
