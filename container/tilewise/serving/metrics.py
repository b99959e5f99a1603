"""What ``GET /metrics`` says, in Prometheus' form: of all workers together, whichever answers.

Import it only when ``PROMETHEUS_MULTIPROC_DIR`` is set, where there are several processes: prometheus_client
then keeps the figures in files there, one a process.
"""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector

from tilewise.inference.model_card import ModelCard
from tilewise.machine import resident_bytes
from tilewise.serving.served_model import Timings

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STAGES = {
    "wait": "Seconds that a request waited for its turn",
    "decode": "Seconds from an image's bytes to its pixels",
    "compute": "Seconds that the network looked at an image's views",
    "merge": "Seconds for cutting an image's views and putting together what they show",
}


class Metrics:
    """The figures of this process.

    Attributes:
        content_type: of :meth:`render`.

    """

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Counter(
            "tilewise_requests", "Answered requests", ("path", "status"), registry=registry
        )
        self._stages = {
            name: Histogram(f"tilewise_{name}_seconds", text, registry=registry, buckets=_SECONDS)
            for name, text in _STAGES.items()
        }
        self._views = Histogram(
            "tilewise_batch_views",
            "Views that the network looked at together",
            registry=registry,
            buckets=(1, 2, 4, 8, 16, 32, 64),
        )
        self._pixels = Histogram(
            "tilewise_image_megapixels",
            "Size of images",
            registry=registry,
            buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300),
        )
        self._memory = Gauge(
            "tilewise_worker_memory_bytes",
            "Resident memory of each worker",
            registry=registry,
            multiprocess_mode="liveall",
        )
        self._memory.set(resident_bytes())
        self._held = Gauge(
            "tilewise_requests_in_progress",
            "Invocations that wait or are computed",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._model = Gauge(
            "tilewise_model_info",
            "1 for each model that was loaded",
            ("folder", "network", "classes", "trained_with"),
            registry=registry,
            multiprocess_mode="livemax",
        )

    def answered(self, path: str, status: int) -> None:
        """Count a request; ``path`` is one of the server's, or "" for any other."""
        self._requests.labels(path, str(status)).inc()
        self._memory.set(resident_bytes())

    def begun(self, change: int) -> None:
        """Count an invocation in (1) or out (-1)."""
        self._held.inc(change)

    def computed(self, timings: Timings) -> None:
        """Take the times of an answer."""
        for name, histogram in self._stages.items():
            histogram.observe(getattr(timings, f"{name}_s"))
        for views in timings.batches:
            self._views.observe(views)
        for width, height in timings.sizes:
            self._pixels.observe(width * height / 1e6)

    def model(self, folder: Path, card: ModelCard) -> None:
        """Tell that a model is served."""
        labels = (str(folder), card.network, str(len(card.classes)), card.trained_with)
        self._model.labels(*labels).set(1)

    def render(self) -> bytes:
        """The answer's body."""
        registry = self._registry
        if os.environ.get(FOLDER):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)
        return generate_latest(registry)
