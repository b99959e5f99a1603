from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from tilewise.data.files.folder import Folder
from tilewise.data.files.json_lines import AZURE, MANIFEST, find_json_lines, read_json_lines
from tilewise.errors import UserError

LINES = [
    {"source-ref": f"s3://bucket/größe {number}.jpg", "boxes": {"annotations": []}} for number in range(3)
]
TEXT = "\n".join(json.dumps(line, ensure_ascii=False) for line in LINES)
ARRAY = json.dumps(LINES, ensure_ascii=False)


@pytest.mark.parametrize(
    ("name", "content", "place"),
    [
        ("a.manifest", TEXT.encode(), "line 2"),
        ("a.manifest", TEXT.encode("utf-8-sig"), "line 2"),
        ("a.manifest", TEXT.encode("utf-16"), "line 2"),
        ("a.manifest", TEXT.encode("utf-16-be"), "line 2"),
        ("a.json", TEXT.encode("utf-16-le"), "line 2"),
        ("a.manifest.gz", gzip.compress(TEXT.encode(), mtime=0), "line 2"),
        ("a.manifest", gzip.compress(TEXT.encode("utf-16"), mtime=0), "line 2"),
        ("output", TEXT.encode(), "line 2"),
        ("output", gzip.compress(ARRAY.encode(), mtime=0), "object 2"),
        ("part-00000", ARRAY.encode(), "object 2"),
        ("a.manifest", json.dumps(LINES, indent=2).encode(), "object 2"),
        ("a.ndjson", "\n".join(json.dumps(line, indent=1) for line in LINES).encode(), "object 2"),
    ],
)
def test_lines__in_every_form(tmp_path: Path, name: str, content: bytes, place: str) -> None:
    (tmp_path / name).write_bytes(content)
    files = find_json_lines(Folder(tmp_path), MANIFEST)
    assert list(files) == [name] and find_json_lines(Folder(tmp_path), AZURE) == {}
    lines = list(read_json_lines(files))
    assert [line for _, line in lines] == LINES and lines[1][0] == f"{name} {place}"


def test_lines__of_several_files_follow_one_another(tmp_path: Path) -> None:
    for number, line in enumerate(LINES):
        (tmp_path / f"{2 - number}.manifest").write_text(json.dumps(line))
    found = list(read_json_lines(find_json_lines(Folder(tmp_path), MANIFEST)))
    assert found == [(f"{2 - number}.manifest line 1", LINES[number]) for number in (2, 1, 0)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip.compress(TEXT.encode(), mtime=0)[:-9], "a.manifest is damaged: it begins as a gzip file, but "),
        (ARRAY[:-5].encode(), "a.manifest is not valid JSON: "),
        ("{\n".encode("utf-16-le") + b"\x00\xd8\x00\xd8", "a.manifest is not text in utf-16"),
    ],
)
def test_lines__damaged_file(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.manifest").write_bytes(content)
    with pytest.raises(UserError) as error:
        list(read_json_lines({"a.manifest": tmp_path / "a.manifest"}))
    assert str(error.value).startswith(reason)


def test_lines__array_of_other_things(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"source-ref": "a"}, 3]')
    assert [line for _, line in read_json_lines({"a.json": tmp_path / "a.json"})] == [
        {"source-ref": "a"},
        "it is not a JSON object, {…}",
    ]
