"""The commands, run in the tests' own process."""

from __future__ import annotations

import sys

import pytest
from tilewise.__main__ import main


class Tilewise:
    """``python -m tilewise``, in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["tilewise", *map(str, arguments)])
        code = main()
        return code, *self.capsys.readouterr()
