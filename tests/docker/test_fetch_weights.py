from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

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
