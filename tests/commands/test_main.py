from __future__ import annotations

from pathlib import Path

from command_line import Tilewise


def test_main__a_file_that_is_not_there_is_named(tmp_path: Path, tilewise: Tilewise) -> None:
    missing = tmp_path / "missing.json"
    code, out, err = tilewise("evaluate", missing, tmp_path, "--endpoint", "http://127.0.0.1:9")
    assert (code, out) == (2, "")
    assert err == f"tilewise evaluate: {missing}: No such file or directory\n"
