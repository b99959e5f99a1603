from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument, InvalidGraph, InvalidProtobuf

from tilewise.arrays import Array, Float32, Int64
from tilewise.errors import UserError
from tilewise.inference.graph import INPUT, said_of_view
from tilewise.machine import available_cores
from tilewise.suppression import Limits


class OnnxBackend:
    """Runs an exported graph with ONNX Runtime on a CPU: a :class:`tilewise.inference.backend.Backend`.

    Args:
        path: the graph.
        limits: what is kept of its candidates; None where it gives none, as a classifier's.
        threads: that compute a view together; None for ``OMP_NUM_THREADS``, else for all cores there are.

    Raises:
        UserError: the file is no graph.

    Attributes:
        batch_size: 1, since a CPU gains nothing by more.

    """

    on_gpu, batch_size = False, 1

    def __init__(self, path: Path, limits: Limits | None, threads: int | None = None):
        self.limits = limits
        options = onnxruntime.SessionOptions()
        given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
        options.intra_op_num_threads = threads or (int(given) if given.isdecimal() else available_cores())
        options.inter_op_num_threads = 1
        # as PyTorch is set here, see tune_device
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
        # threads that wait for work by spinning starve whoever shares the cores
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except (InvalidGraph, InvalidArgument, InvalidProtobuf) as error:
            raise UserError(
                f"the graph {path} is damaged: {error}: unpack the archive again, or remove the file, "
                "so that PyTorch runs the model"
            ) from None
        self._outputs = [each.name for each in self._session.get_outputs()]

    def upload(self, pixels: Array) -> Array:
        """See :class:`~tilewise.inference.backend.Backend`."""
        return pixels

    def detect(self, views: Sequence[Array]) -> list[Any]:
        """See :class:`~tilewise.inference.backend.Backend`."""
        return [said_of_view(self.values(view), self.limits) for view in views]

    def candidates(self, view: Array) -> tuple[Float32, Float32, Int64]:
        """Boxes, scores and labels of what a view, (3, h, w) uint8, may show."""
        boxes, scores, labels, *_ = self.values(view)
        return boxes, scores, labels

    def values(self, view: Array) -> list[Array]:
        """The same, and what masks are made of where the graph has any."""
        pixels = np.ascontiguousarray(np.moveaxis(view, 0, 2))
        values: list[Array] = self._session.run(self._outputs, {INPUT: pixels})
        return values
