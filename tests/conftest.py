from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest

ROOT = Path(__file__).resolve().parents[1]
os.environ["PYTHONPATH"] = str(ROOT / "container")  # for the Python processes that tests start


@pytest.fixture(autouse=True)
def _same_draws_in_any_order() -> None:
    """What a test draws does not depend on the tests that ran before it in its process."""
    random.seed(0)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(0)
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(autouse=True)
def _subnormals_again() -> Iterator[None]:
    """Training flushes subnormal numbers in its process; the tests after it get them back."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with random weights, as a job leaves it; it finds something in every image."""
    # Imported here: tests that need no model need not wait for torch.
    import torch
    from made_detectors import see_patches, spread_outputs
    from tilewise.inference.artifact import Artifact
    from tilewise.models.build import build_detector
    from tilewise.models.spec import DetectorSpec
    from tilewise.views.view import Scaling

    spec = DetectorSpec(
        name="ssdlite_mobilenet_v3_large",
        num_classes=2,
        scaling=Scaling(square=320),
        anchor_sizes=None,
        score_threshold=0.01,
        nms_iou_threshold=0.45,
        detections_per_view=100,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        detector = build_detector(spec).eval()
        see_patches(detector, spec.scaling)
        spread_outputs(detector, spec)
    folder = tmp_path_factory.mktemp("model")
    Artifact(detector, spec, ("ant", "bee"), hyperparameters={}, metrics={}).save(folder, "model")
    return folder


@pytest.fixture(scope="session")
def graph_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with its graph."""
    # Imported here: tests that need no model need not wait for torch.
    from tilewise.inference.artifact import Artifact
    from tilewise.inference.export import write_onnx

    folder, artifact = tmp_path_factory.mktemp("graph"), Artifact.load(model_folder)
    artifact.save(folder, "model")
    write_onnx(artifact.model, artifact.spec.scaling, folder / "model.onnx")
    return folder


@pytest.fixture(scope="session")
def shared_fixtures() -> Path:
    """Files that other programs wrote, with what these read back, beside the repository: ``recordio``."""
    folder = ROOT / "../shared/fixtures"
    if not folder.is_dir():
        pytest.skip("the shared fixtures are not beside this repository")
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images with COCO JSON, kept beside the repository: ``bccd``, ``hemocytometer``, ``nuclei``."""
    folder = ROOT / "../shared/data"
    if not folder.is_dir():
        pytest.skip("the shared data sets are not beside this repository")
    return folder


@pytest.fixture
def no_hang() -> Iterator[None]:
    """Nothing in this test may take more than two minutes."""

    def give_up(signum: int, frame: FrameType | None) -> None:
        raise TimeoutError("this test hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
