"""local_test's scripts with the image: a job that it makes itself, trained in Pipe mode, served and asked."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from image_container import IMAGE, find_engine

LOCAL_TEST = Path(__file__).resolve().parents[2] / "local_test"


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("local") / "test_dir"
    return os.environ | {"ENGINE": find_engine(), "TEST_DIR": str(folder), "PORT": str(port)}


def script(environ: dict[str, str], name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(LOCAL_TEST / name), *arguments]
    return subprocess.run(
        command, env=environ, capture_output=True, text=True, timeout=400, stdin=subprocess.DEVNULL
    )


@pytest.fixture(scope="module")
def test_dir(environ: dict[str, str]) -> Path:
    """A job that the image made, and its model, trained in Pipe mode by one command."""
    done = script(environ, "train_local.sh", "--pipe", IMAGE, "--network=none", "--env=OMP_NUM_THREADS=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "channel train streams through pipes" in done.stdout
    assert "Pipe mode needs: num_classes=3 num_training_samples=24" in done.stdout
    assert "completed 100 % of epochs" in done.stdout
    return Path(environ["TEST_DIR"])


def test_train_local__pipe_mode_leaves_a_model_and_no_container(
    test_dir: Path, environ: dict[str, str]
) -> None:
    assert (test_dir / "model" / "model.json").exists()
    config = test_dir / "input" / "config" / "inputdataconfig.json"
    assert json.loads(config.read_text())["train"]["TrainingInputMode"] == "File", "the job has changed"
    listing = [environ["ENGINE"], "ps", "-a", "--format", "{{.Names}}"]
    assert "tilewise-pipe-" not in subprocess.run(listing, capture_output=True, text=True).stdout


def test_serve_local__predict_prints_answers(test_dir: Path, environ: dict[str, str]) -> None:
    picture = str(min((test_dir / "input" / "data" / "validation" / "images").iterdir()))
    command = ["bash", str(LOCAL_TEST / "serve_local.sh"), IMAGE, "--env=OMP_NUM_THREADS=1"]
    log = (test_dir / "log").open("w+")
    with (
        log,
        subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as serve,
    ):
        deadline = time.monotonic() + 120
        while (done := script(environ, "predict.sh", picture)).returncode:
            assert serve.poll() is None and time.monotonic() < deadline, (test_dir / "log").read_text()
            time.sleep(0.5)
        assert all(len(row) == 6 for row in json.loads(done.stdout)["prediction"])
        asked = environ | {"ACCEPT": "application/json;annotation=1"}
        answer = json.loads(script(asked, "predict.sh", picture, "image/png").stdout)
        assert answer["image_size"] == [{"width": 400, "height": 300, "depth": 3}]
        refused = script(environ, "predict.sh", picture, "text/csv")
        assert refused.returncode == 22 and "Content-Type" in json.loads(refused.stdout)["error"]
        serve.send_signal(signal.SIGINT)
        assert serve.wait(60) == 0, (test_dir / "log").read_text()


def test_train_local__a_failing_job_ends_with_its_exit_code(test_dir: Path, environ: dict[str, str]) -> None:
    path = test_dir / "input" / "config" / "hyperparameters.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"learning_rate": "3"}))
    done = script(environ, "train_local.sh", IMAGE)
    assert done.returncode == 2
    assert re.search(r"^ClientError: learning_rate=3", done.stdout + done.stderr, re.MULTILINE)
    assert list((test_dir / "model").iterdir()) == [], "the model of the job before is still there"


def test_demo__the_whole_way_in_the_image(environ: dict[str, str], job: Path, tmp_path: Path) -> None:
    data = job / "input" / "data"
    for channel, name in (("train", "train.json"), ("validation", "val.json")):
        content = json.loads((data / channel / "annotations.json").read_text())
        for image in content["images"]:
            image["file_name"] = f"{channel}/{image['file_name']}"
        (data / name).write_text(json.dumps(content))
    changed = {"IMAGE": IMAGE, "RUN": str(tmp_path / "run")}
    chosen = ("image_size=128", "number_of_epochs=1", "training_batch_size=4", "use_pretrained_model=0")
    done = script(environ | changed, "demo.sh", "--docker", "--data", str(data), *chosen)
    assert done.returncode == 0, done.stdout + done.stderr
    pairs = re.findall(r"^AP\d*: logged (\S+), from the endpoint's answers (\S+)$", done.stdout, re.MULTILINE)
    assert [logged for logged, _ in pairs] == [answered for _, answered in pairs] and len(pairs) == 2
    picture = re.search(r"The picture: (.+\.png) ", done.stdout)
    assert picture and Path(picture[1]).stat().st_size > 1000
    listing = [environ["ENGINE"], "ps", "-a", "--format", "{{.Names}}"]
    assert "tilewise-demo-" not in subprocess.run(listing, capture_output=True, text=True).stdout


def test_scripts__without_arguments_or_files_say_what_they_want(environ: dict[str, str]) -> None:
    elsewhere = environ | {"TEST_DIR": environ["TEST_DIR"] + "-none"}
    for name in ("train_local.sh", "serve_local.sh", "predict.sh"):
        done = script(environ, name)
        assert (done.returncode, name in done.stdout) == (2, True)
    assert "run train_local.sh" in script(elsewhere, "serve_local.sh", IMAGE).stderr
    assert script(environ, "predict.sh", "nowhere.jpg").stderr == "predict.sh: there is no file nowhere.jpg\n"
