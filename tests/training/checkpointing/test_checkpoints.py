from __future__ import annotations

import hashlib
import io
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tilewise.errors import UserError
from tilewise.training.checkpointing.checkpoints import Checkpoints


def state(number: int) -> dict[str, Any]:
    return {
        "number": number,
        "nested": {"weights": torch.full((1000,), float(number)), "none": None, "list": [1, 2.5, "text"]},
        "by_index": {0: torch.tensor([True])},
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder with the checkpoints 1 and 2."""
    checkpoints = Checkpoints(tmp_path)
    for number in (1, 2):
        checkpoints.save(state(number))
    return tmp_path


def number_in(folder: Path) -> int | None:
    newest = Checkpoints(folder).newest()
    return None if newest is None else int(newest["number"])


def test_newest__is_what_was_saved_last(kept: Path) -> None:
    found = Checkpoints(kept).newest()
    assert found is not None
    assert torch.equal(found["nested"].pop("weights"), torch.full((1000,), 2.0))
    assert found["nested"] == {"none": None, "list": [1, 2.5, "text"]}
    assert found["by_index"][0].dtype == torch.bool


def test_newest__none_yet(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not ours")
    assert Checkpoints(tmp_path).newest() is None


def test_save__keeps_two_and_no_file_of_others(kept: Path) -> None:
    (kept / "notes.txt").write_text("not ours")
    checkpoints = Checkpoints(kept)
    checkpoints.newest()
    for number in (3, 4, 5):
        checkpoints.save(state(number))
    assert [name[:17] for name in names(kept)] == ["checkpoint-000004", "checkpoint-000005", "notes.txt"]
    assert number_in(kept) == 5


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


@pytest.mark.parametrize("damage", [cut, flip, lambda content: b""], ids=["cut", "flip", "empty"])
def test_newest__damaged_falls_back_to_the_one_before(
    damage: Callable[[bytes], bytes], kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newest = kept / names(kept)[-1]
    newest.write_bytes(damage(newest.read_bytes()))
    checkpoints = Checkpoints(kept)
    found = checkpoints.newest()
    assert found is not None and found["number"] == 1
    assert f"the checkpoint {newest} is damaged: its content is not what was written" in caplog.text
    # the good one stays beside the next, the damaged one goes
    checkpoints.save(state(3))
    assert not newest.exists() and len(names(kept)) == 2
    (kept / names(kept)[-1]).unlink()
    assert number_in(kept) == 1


def test_newest__all_damaged_starts_from_the_beginning_and_says_so(
    kept: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in names(kept):
        (kept / name).write_bytes(b"")
    checkpoints = Checkpoints(kept)
    assert checkpoints.newest() is None
    assert f"none of the checkpoints in {kept} is whole: training starts from the beginning" in caplog.text
    checkpoints.save(state(7))
    assert number_in(kept) == 7 and len(names(kept)) == 1


def test_newest__what_a_killed_process_was_writing_is_no_checkpoint(kept: Path) -> None:
    (kept / ".checkpoint.writing").write_bytes(b"half a")
    assert number_in(kept) == 2
    Checkpoints(kept).save(state(3))
    assert not (kept / ".checkpoint.writing").exists()


def test_newest__of_another_format_is_an_error(tmp_path: Path) -> None:
    content = io.BytesIO()
    torch.save({"format": 1, "job": "of an older version"}, content)
    digest = hashlib.sha256(content.getvalue()).hexdigest()[:16]
    (tmp_path / f"checkpoint-000001-{digest}.pt").write_bytes(content.getvalue())
    with pytest.raises(UserError, match="has format 1, which this version of Tilewise does not know: take"):
        Checkpoints(tmp_path).newest()


class Code:
    """Pickled, it would run code when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code of a checkpoint has run",)


def test_newest__runs_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Checkpoints(tmp_path).save({"code": Code()})
    with pytest.raises(UserError, match="is no checkpoint of Tilewise"):
        Checkpoints(tmp_path).newest()
    assert "has run" not in capsys.readouterr().out


@pytest.fixture
def small_disk() -> Iterator[None]:
    """No file may become larger than 2000 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_save__full_disk_is_a_warning_and_the_old_ones_stay(
    kept: Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    checkpoints, before = Checkpoints(kept), names(kept)
    checkpoints.newest()
    request.getfixturevalue("small_disk")
    checkpoints.save(state(3))
    assert "could not be written (File too large): training goes on" in caplog.text
    assert before[-1] in caplog.text
    assert names(kept) == before
    assert number_in(kept) == 2
