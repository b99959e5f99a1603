"""MLflow as a tracker; ``mlflow`` is imported only where a job asks for it."""

from __future__ import annotations

import logging
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from tilewise.hyperparameters import Hyperparameters
from tilewise.hyperparameters.table import ROWS
from tilewise.inference.description import ModelDescription
from tilewise.stop import StopToken

log = logging.getLogger(__name__)

BATCH = 100
"""A request may hold so many parameters."""

LONGEST_VALUE = 6000
"""Letters of a parameter."""

SECONDS_AT_END = 120.0
"""So long a finished job waits for what is still to be sent."""

SECONDS_AFTER_STOP = 10.0
"""The same after a request to stop: the platform kills the job 120 s after it."""

ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""What MLflow's client is told where the user tells it nothing else: its own defaults retry for minutes."""


class MlflowTracker:
    """A run at the tracking server that MLflow's environment variables name.

    ``MLFLOW_TRACKING_URI``, ``MLFLOW_EXPERIMENT_NAME``, ``MLFLOW_RUN_ID`` (goes on with that run) and
    ``MLFLOW_RUN_NAME`` are read. A thread of its own talks to the server, so that training waits for none. At
    the first failure it says so once and sends no more.

    Args:
        job_name: names the run where ``MLFLOW_RUN_NAME`` does not; "" lets MLflow find a name.
        stop: the job's stop token.

    Raises:
        ImportError: mlflow is not installed.

    """

    name = "MLflow"

    def __init__(self, job_name: str, stop: StopToken):
        for variable, value in ENVIRONMENT.items():
            os.environ.setdefault(variable, value)
        # In this thread: a process that a loader forks during an import could wait for that for ever.
        import mlflow.pyfunc

        self._mlflow: Any = mlflow
        self._stop = stop
        self._calls: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._send_all, name="mlflow", daemon=True)
        self._thread.start()
        run_name = os.environ.get("MLFLOW_RUN_NAME") or job_name or None
        self._calls.put(lambda: mlflow.start_run(run_name=run_name))

    def begin(self, hp: Hyperparameters) -> None:
        """All hyperparameters, as parameters of the run."""
        values = hp.model_dump(mode="json", include=set(ROWS))
        parameters = {name: str(value)[:LONGEST_VALUE] for name, value in values.items() if value is not None}
        rows = list(parameters.items())
        for start in range(0, len(rows), BATCH):
            self._calls.put(partial(self._mlflow.log_params, dict(rows[start : start + BATCH])))

    def figures(self, values: Mapping[str, float], epoch: int, moment: float) -> None:
        """Metrics, whose step is the epoch."""
        named = {re.sub(r"[^\w\-./ :]", "_", tag): value for tag, value in values.items()}
        self._calls.put(lambda: self._mlflow.log_metrics(named, step=epoch, timestamp=round(1000 * moment)))

    def picture(self, tag: str, image: Image.Image, epoch: int) -> None:
        """An artifact ``pictures/<epoch>/….png``."""
        place = f"pictures/{epoch:04d}/{re.sub(r'[^A-Za-z0-9_.-]', '_', tag)}.png"
        self._calls.put(lambda: self._mlflow.log_image(image, place))

    def results(self, output_dir: Path, model_dir: Path) -> None:
        """The report and ``metrics.json`` as artifacts, and the model with its signature."""
        for name in ("report.html", "metrics.json"):
            if (output_dir / name).is_file():
                self._calls.put(partial(self._mlflow.log_artifact, str(output_dir / name)))
        if not self._stop.requested:
            self._calls.put(partial(log_model, self._mlflow, model_dir))

    def close(self, *, failed: bool) -> None:
        """End the run, and wait a while until all is sent."""
        self._calls.put(lambda: self._mlflow.end_run("FAILED" if failed else "FINISHED"))
        self._calls.put(None)
        seconds = SECONDS_AFTER_STOP if self._stop.requested or failed else SECONDS_AT_END
        self._thread.join(seconds)
        if self._thread.is_alive():
            log.warning("MLflow did not take everything within %d s; the model is not affected", seconds)

    def _send_all(self) -> None:
        start = time.monotonic()
        while call := self._calls.get():
            try:
                call()
            except Exception as error:
                reason = without_password(" ".join(str(error).split()))[:500]
                log.warning(
                    "MLflow at %s is left out from now on, and the job goes on: %s (after %.0f s)",
                    without_password(os.environ.get("MLFLOW_TRACKING_URI", "")),
                    reason,
                    time.monotonic() - start,
                )
                return


def without_password(text: str) -> str:
    """A text whose addresses have no user and password any more."""
    return re.sub(r"(?<=://)[^/@\s]*@", "", text)


def log_model(mlflow: Any, model_dir: Path) -> None:
    """Log the model in a folder so that MLflow loads and serves it: images in, an endpoint's answers out."""
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema

    import tilewise

    mlflow.pyfunc.log_model(
        name="model",
        # as code, not as a pickle
        python_model=str(Path(__file__).with_name("mlflow_model.py")),
        artifacts={"model": str(model_dir)},
        signature=ModelSignature(
            inputs=Schema([ColSpec("binary", "image")]), outputs=Schema([ColSpec("string", "prediction")])
        ),
        pip_requirements=[f"tilewise=={tilewise.__version__}"],
        metadata={"task": ModelDescription.read(model_dir).task},
    )
