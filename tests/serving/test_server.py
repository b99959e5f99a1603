from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest
from tilewise.errors import UserError
from tilewise.serving import server
from tilewise.serving.logs import ServerLogger
from tilewise.serving.settings import Settings
from tilewise.serving.worker import Worker


def test_server__master_does_not_load_torch() -> None:
    code = "import sys; from tilewise.serving import server; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_server__settings_reach_gunicorn(tmp_path: Path) -> None:
    application = server.Server(Settings(port=9000, workers=2), tmp_path)
    assert application.cfg.address == [("0.0.0.0", 9000)]
    assert application.cfg.workers == 2
    assert application.cfg.worker_class is Worker
    assert application.cfg.logger_class is ServerLogger


def test_main__wrong_variable(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(os, "environ", {"SAGEMAKER_BIND_TO_PORT": "x"})
    try:
        assert server.main() == 2
    finally:
        signal.signal(signal.SIGTERM, before)
    assert capsys.readouterr().err.startswith("SAGEMAKER_BIND_TO_PORT must be")


def test_make_folder__no_place_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/nowhere"])
    with pytest.raises(UserError, match="--tmpfs /tmp"):
        server.make_folder()


def test_use_own_gpu__each_has_a_worker_before_any_has_two(tmp_path: Path) -> None:
    devices = tmp_path / "dev"
    devices.mkdir()
    for number in range(3):
        (devices / f"nvidia{number}").touch()
    code = (
        "import os, sys; from pathlib import Path; "
        "from tilewise import machine; from tilewise.serving import server; "
        f"machine.DEVICES = Path({str(devices)!r}); server.use_own_gpu(Path({str(tmp_path)!r})); "
        "print(os.environ['CUDA_VISIBLE_DEVICES'], flush=True); sys.stdin.read()"
    )
    environ = os.environ | {"CUDA_VISIBLE_DEVICES": "2,0"}

    def start_worker() -> tuple[subprocess.Popen[str], str]:
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", code]
        worker = subprocess.Popen(command, env=environ, stdin=pipe, stdout=pipe, text=True)
        assert worker.stdout is not None
        return worker, worker.stdout.readline().strip()

    workers = [start_worker() for _ in range(3)]
    try:
        assert [gpu for _, gpu in workers] == ["2", "0", "2"]
        workers[1][0].communicate("")
        workers[1] = start_worker()
        assert workers[1][1] == "0", "a fresh worker has the GPU of the one that ended"
    finally:
        for worker, _ in workers:
            worker.communicate("")


def test_server_logger__no_line_for_ping(tmp_path: Path) -> None:
    application = server.Server(Settings(), tmp_path)
    application.cfg.set("accesslog", str(tmp_path / "log"))
    logger = ServerLogger(application.cfg)
    for path in ("/ping", "/invocations"):
        environ = {
            "PATH_INFO": path,
            "RAW_URI": path,
            "REQUEST_METHOD": "GET",
            "SERVER_PROTOCOL": "HTTP/1.1",
        }
        logger.access(_Response(), {}, environ, timedelta(seconds=1.5))
    for handler in list(logging.getLogger("gunicorn.access").handlers):
        logging.getLogger("gunicorn.access").removeHandler(handler)
        handler.close()
    assert (tmp_path / "log").read_text().endswith('"GET /invocations HTTP/1.1" 200 2 bytes 1500 ms\n')
    assert "/ping" not in (tmp_path / "log").read_text()


class _Response:
    status = "200 OK"
    sent = 2
    headers: tuple[tuple[str, str], ...] = ()
