"""Against a real MLflow server on this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training_job import QUICK, Job

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed: pip install .[mlflow]"
)

SEES_MLFLOW = {
    "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""For processes that are to see what this one sees."""

ASK = """
import json, sys
import mlflow
from mlflow.tracking import MlflowClient
client = MlflowClient()
(run,) = client.search_runs([client.get_experiment_by_name("tiles").experiment_id])
model = mlflow.pyfunc.load_model(mlflow.search_logged_models(output_format="list")[0].model_uri)
import pandas
answer = model.predict(pandas.DataFrame({"image": [open(sys.argv[1], "rb").read()]}))
print(json.dumps({
    "name": run.info.run_name,
    "status": run.info.status,
    "parameters": run.data.params,
    "history": {
        tag: [one.step for one in client.get_metric_history(run.info.run_id, tag)] for tag in run.data.metrics
    },
    "artifacts": [one.path for one in client.list_artifacts(run.info.run_id)],
    "inputs": model.metadata.signature.inputs.to_dict(),
    "outputs": model.metadata.signature.outputs.to_dict(),
    "answer": json.loads(answer["prediction"][0]),
}))
"""


@pytest.fixture
def job(tmp_path: Path) -> Job:
    job = Job(tmp_path / "ml")
    job.add_images("train", 8)
    job.add_images("validation", 4)
    return job


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    address = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    store = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/runs.db",
        "--artifacts-destination",
        str(tmp_path / "artifacts"),
        "--workers",
        "1",
    ]
    log = (tmp_path / "server.log").open("w")
    environ = os.environ | SEES_MLFLOW
    with (
        log,
        subprocess.Popen(
            command + store, stdout=log, stderr=log, env=environ, cwd=tmp_path, start_new_session=True
        ) as process,
    ):
        try:
            for _ in range(600):
                try:
                    urllib.request.urlopen(f"{address}/health", timeout=5).close()
                    break
                except OSError:
                    assert process.poll() is None, (tmp_path / "server.log").read_text()
                    time.sleep(0.2)
            yield address
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def test_mlflow__has_the_run_its_figures_and_a_model_that_answers(job: Job, server: str) -> None:
    environ = SEES_MLFLOW | {
        "MLFLOW_TRACKING_URI": server,
        "MLFLOW_EXPERIMENT_NAME": "tiles",
        "TRAINING_JOB_NAME": "cells-1",
    }
    code, output = job.run(QUICK, environ=environ, fresh=True)
    assert code == 0, output
    assert "is left out" not in output and "did not take everything" not in output, output
    image = next(job.channel("validation").iterdir())
    done = subprocess.run(
        [sys.executable, "-c", ASK, str(image)],
        env=os.environ | environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    run: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert (run["name"], run["status"]) == ("cells-1", "FINISHED")
    assert run["parameters"]["model_name"] == QUICK["model_name"]
    for tag in ("loss/total", "train/learning_rate", "train/records_per_second", "validation/AP50"):
        assert run["history"][tag] == [0, 1], tag
    assert {"report.html", "metrics.json", "pictures"} <= set(run["artifacts"])
    assert run["inputs"] == [{"type": "binary", "name": "image", "required": True}]
    assert run["outputs"] == [{"type": "string", "name": "prediction", "required": True}]
    assert set(run["answer"]) == {"prediction", "classes"}


def test_mlflow__a_server_that_is_away_stops_nothing(job: Job) -> None:
    environ = SEES_MLFLOW | {"MLFLOW_TRACKING_URI": f"http://user:secret@127.0.0.1:{free_port()}"}
    code, output = job.run(QUICK, environ=environ, fresh=True)
    assert code == 0, output
    (line,) = [line for line in output.splitlines() if "MLflow at" in line]
    assert "is left out from now on, and the job goes on" in line
    assert "secret" not in output
    assert (job.base / "model" / "model.json").is_file()
