"""examples/requests_per_minute.py: the figures of a real server, and what an instance takes by them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from aws_requests import EXAMPLES
from endpoint_process import standing_in

sys.path.insert(0, str(EXAMPLES))
from requests_per_minute import requests_per_minute

FIGURES = """# HELP tilewise_compute_seconds Seconds that the network looked at an image's views
# TYPE tilewise_compute_seconds histogram
tilewise_compute_seconds_bucket{le="+Inf"} 40.0
tilewise_compute_seconds_count 40.0
tilewise_compute_seconds_sum 8.0
tilewise_decode_seconds_count 40.0
tilewise_decode_seconds_sum 1.5
tilewise_merge_seconds_count 40.0
tilewise_merge_seconds_sum 0.5
tilewise_worker_memory_bytes{pid="7"} 1.5e+08
tilewise_worker_memory_bytes{pid="8"} 1.6e+08
"""


def test_requests_per_minute__by_workers_and_seconds() -> None:
    # 0.25 s a request, two workers: 480 a minute
    assert requests_per_minute(FIGURES, 1.0) == 480
    assert requests_per_minute(FIGURES, 0.5) == 240


def test_requests_per_minute__nothing_computed() -> None:
    with pytest.raises(ValueError, match="send it images first"):
        requests_per_minute(FIGURES.replace("_count 40.0", "_count 0.0"), 1.0)


def test_main__asks_a_server(tmp_path: Path) -> None:
    program = str(EXAMPLES / "requests_per_minute.py")
    with standing_in(tmp_path) as server:
        command = [sys.executable, program, f"http://127.0.0.1:{server.port}/metrics", "--share", "1"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2 and "send it images first" in done.stderr
        for _ in range(4):
            assert server.invoke(b"\xff\xd8\xffseconds=0.1 ")[0] == 200
        done = subprocess.run(command, capture_output=True, text=True)
        told = server.request("GET", "/metrics")[2].decode()
    assert done.returncode == 0, done.stderr
    assert 60 < int(done.stdout) <= 600
    named = set(re.findall(r"tilewise_\w+", (EXAMPLES.parent / "docs" / "serving.md").read_text()))
    assert len(named) > 5 and all(name in told for name in named), "docs/serving.md scales by other figures"
