"""Python scripts in processes that have imported PyTorch already, which otherwise takes them seconds.

Multiprocessing's fork server forks a test's processes from one that has imported it and done nothing else.
The rest is as with :class:`subprocess.Popen`: a process, an exit code, signals, a file descriptor for output.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType

MODULES = ("tilewise.data.channel", "tilewise.data.pipe.channel", "tilewise.training.train")
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([*MODULES, "tilewise.training.job.outputs"])


class Forked:
    """What tests need of a ``Popen`` whose standard output and error are one pipe."""

    def __init__(self, script: Path, environ: Mapping[str, str], folder: Path) -> None:
        reader, writer = _context.Pipe(duplex=False)
        self._process = _context.Process(target=_run, args=(script, dict(environ), folder, writer))
        self._process.start()
        writer.close()
        self.stdout = os.fdopen(os.dup(reader.fileno()), encoding="utf-8", errors="replace")
        reader.close()

    def __enter__(self) -> Forked:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind:
            self._process.kill()
        self._process.join()
        self.stdout.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float | None = None) -> int | None:
        self._process.join(timeout)
        return self.returncode

    def communicate(self, timeout: float) -> tuple[str, None]:
        """The rest of the output, once the process has ended. One that hangs is killed, and ends with -9."""
        watchdog = threading.Timer(timeout, self._process.kill)
        watchdog.start()
        try:
            output = self.stdout.read()
            self._process.join()
        finally:
            watchdog.cancel()
        return output, None


def _run(script: Path, environ: dict[str, str], folder: Path, output: Connection) -> None:
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    output.close()
    os.environ.clear()
    os.environ.update(environ)
    os.chdir(folder)
    sys.argv = [str(script)]
    runpy.run_path(str(script), run_name="__main__")
