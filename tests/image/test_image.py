"""The image: what is in it, and train and serve with nothing that is not promised to a container."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from image_container import HEALTHCHECK, INVOKE, Engine, configure, pins_of

EVERYTHING = """
import pkgutil, importlib, warnings
warnings.simplefilter("error")
import torch, tilewise
from torchvision.io import decode_jpeg
names = [module.name for module in pkgutil.walk_packages(tilewise.__path__, "tilewise.")]
for name in names:
    if not name.endswith(("__main__", "mlflow_model", "portable_classifier")):  # these are loaded elsewhere
        importlib.import_module(name)
print(len(names), "modules")
"""
# The libraries that are loaded, not NVSHMEM's and GPUDirect Storage's plug-ins for special network cards.
UNRESOLVED = """
cd /opt/venv/lib/python3*/site-packages
libraries=$(find torch nvidia torchvision -name 'lib*.so*' ! -name '*rdma*'; echo torchvision/_C*.so)
export LD_LIBRARY_PATH=$(echo $PWD/nvidia/*/lib | tr ' ' :):$PWD/torch/lib
ldd $libraries 2>/dev/null | grep 'not found' | sort -u
"""
WHERE = """
for name in train serve cc gcc g++ uv; do command -v $name; done
test ! -e /opt/ml
"""


def test_image__says_what_sagemaker_and_nvidia_ask(engine: Engine) -> None:
    config = engine.inspect()["Config"]
    assert (config["Entrypoint"], config["Cmd"]) == (["/usr/bin/env"], ["train"])
    labels = config["Labels"]
    for capability in ("accept-bind-to-port", "multi-models"):
        assert labels[f"com.amazonaws.sagemaker.capabilities.{capability}"] == "true"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    variables = dict(pair.split("=", 1) for pair in config["Env"])
    assert variables["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert set(variables["NVIDIA_DRIVER_CAPABILITIES"].split(",")) == {"compute", "utility"}
    assert "NVIDIA_REQUIRE_CUDA" not in variables  # it would refuse hosts that work
    assert not config.get("User") or config["User"] in ("0", "root")


def test_image__our_train_wins_and_no_compiler_is_left(engine: Engine) -> None:
    done = engine.run("sh", "-c", WHERE)
    assert done.stdout.split() == ["/opt/tilewise/train", "/opt/tilewise/serve"]
    assert done.returncode == 0, "/opt/ml belongs to SageMaker"


def test_image__packages_are_the_pinned_ones(engine: Engine) -> None:
    installed, pins = engine.packages(), pins_of("requirements.txt")
    left_out = {pin.split("==")[0] for pin in pins - installed}
    assert left_out == {"triton", "cuda-bindings", "cuda-pathfinder"}
    assert not installed - pins


def test_image__every_module_imports(engine: Engine) -> None:
    done = engine.run("python", "-c", EVERYTHING)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[0]) > 50


def test_image__cuda_libraries_lack_only_the_driver(engine: Engine) -> None:
    missing = {line.split()[0] for line in engine.run("bash", "-c", UNRESOLVED).stdout.splitlines()}
    assert missing == {"libcuda.so.1"}


def test_train__sealed_and_without_a_word(engine: Engine, job: Path) -> None:
    done = engine.run(base=job)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "validation mAP <score>=(" in done.stdout
    model = json.loads((job / "model" / "model.json").read_text())
    assert (job / "model" / model["weights"]).stat().st_size > 1_000_000
    assert not (job / "output" / "failure").exists()


def test_train__failure_is_left_for_sagemaker(engine: Engine, job: Path) -> None:
    configure(job, learning_rate="3")
    done = engine.run("train", base=job)
    assert done.returncode == 2
    assert (job / "output" / "failure").read_text().startswith("ClientError: learning_rate=3")


@pytest.mark.parametrize("moment", ["Final configuration", "validation mAP"])
def test_stop__training_ends_with_0_and_a_whole_model_or_none(engine: Engine, job: Path, moment: str) -> None:
    configure(job, number_of_epochs="500", early_stopping="0")
    container = engine.start("train", base=job)
    container.wait_for(lambda: moment in container.log())
    assert container.execute(HEALTHCHECK).returncode == 0
    code, seconds = container.stop(120)
    assert code == 0, container.log()
    assert seconds < 60
    if moment != "Final configuration":
        model = json.loads((job / "model" / "model.json").read_text())
        assert {path.name for path in (job / "model").iterdir()} == {model["weights"], "model.json"}


def test_serve__nowhere_to_write_is_one_sentence(engine: Engine, job: Path) -> None:
    done = engine.run("serve", base=job, more=[*engine.without_tmp, "--tmpfs=/dev/shm:ro"])
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if "healthcheck" not in line]  # podman's own words
    assert len(said) == 1 and "neither /dev/shm nor /tmp can be written" in said[0], done.stderr
    assert "--tmpfs /tmp" in said[0]


@pytest.mark.parametrize("tmp", [True, False], ids=["with /tmp", "without /tmp"])
def test_serve__answers_sealed_and_stops_with_0(
    engine: Engine, model_folder: Path, job: Path, tmp: bool
) -> None:
    shutil.copytree(model_folder, job / "model", dirs_exist_ok=True)
    container = engine.start("serve", base=job, more=() if tmp else engine.without_tmp)
    assert container.execute(HEALTHCHECK).returncode == 1, "healthy before the model is loaded"
    container.wait_for(lambda: container.execute(HEALTHCHECK).returncode == 0)
    answer = container.execute("python", "-c", INVOKE, "/opt/ml/input/data/validation/0.jpg")
    assert int(answer.stdout) > 0, answer.stderr + container.log()
    code, seconds = container.stop(30)
    assert code == 0, container.log()
    assert seconds < 25
