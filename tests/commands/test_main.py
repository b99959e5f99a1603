from __future__ import annotations

from pathlib import Path

import pytest
from command_line import Tilewise


def test_main__a_file_that_is_not_there_is_named(tmp_path: Path, tilewise: Tilewise) -> None:
    missing = tmp_path / "missing.json"
    code, out, err = tilewise("evaluate", missing, tmp_path, "--endpoint", "http://127.0.0.1:9")
    assert (code, out) == (2, "")
    assert err == f"tilewise evaluate: {missing}: No such file or directory\n"


def test_main__ctrl_c_leaves_no_traceback(
    tmp_path: Path, tilewise: Tilewise, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tilewise.commands.tune.run", interrupted)
    assert tilewise("tune", tmp_path) == (130, "", "tilewise tune: interrupted\n")
