from __future__ import annotations

import pytest
from command_line import Tilewise


@pytest.fixture
def tilewise(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Tilewise:
    return Tilewise(monkeypatch, capsys)
