from __future__ import annotations

from pathlib import Path

import pytest
from training_job import Job


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job on 12 images to train on and 5 to validate."""
    job = Job(tmp_path / "ml")
    job.add_images("train", 12)
    job.add_images("validation", 5)
    return job
