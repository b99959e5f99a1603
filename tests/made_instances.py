from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from tilewise.fields import Field
from tilewise.instances import Instances


def make_instances(
    boxes: Any, scores: Any, labels: Any, fields: Mapping[str, Field] | None = None
) -> Instances:
    """Instances of lists, tensors or arrays."""
    return Instances(
        np.asarray(boxes, np.float32).reshape(-1, 4),
        np.asarray(scores, np.float32),
        np.asarray(labels, np.int64),
        fields or {},
    )
