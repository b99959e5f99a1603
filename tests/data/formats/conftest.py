from __future__ import annotations

from pathlib import Path

import pytest
from written_channel import WrittenChannel


@pytest.fixture
def channel(tmp_path: Path) -> WrittenChannel:
    return WrittenChannel(tmp_path)
