from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from typing import Any

import torch
import torchvision

import tilewise
from tilewise.machine import cpu_fact


def describe_environment(hosts: Sequence[str]) -> dict[str, Any]:
    """What a job runs on, as plain JSON types: versions, GPUs of this host, its CPU, the hosts."""
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "tilewise": tilewise.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if gpus else None,
        "gpus": gpus,
        "cpu": cpu_fact("model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "hosts": list(hosts),
    }
