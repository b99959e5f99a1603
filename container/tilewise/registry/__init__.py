"""The registry of models: one entry a family, from which all follows that is to be known of a ``model_name``.

To add a model, write one module in ``models/`` (network, criterion, postprocess, and a builder from a
DetectorSpec to a Detector) and one entry in ``registry/families.py``. Parsing and the hyperparameters' page,
tiling, anchors, pretrained weights, freezing, incremental training, the log's losses and the tables of the
documentation take the rest from the entry. Code from elsewhere may :func:`register` a family when it runs.

Nothing here imports PyTorch or any other package: ``docker/fetch_weights.py`` runs with Python alone, and a
job with wrong hyperparameters does not wait for PyTorch.
"""

from tilewise.registry.families import SOURCES
from tilewise.registry.family import (
    SMALLEST_OBJECT_AT_STRIDE_4,
    Backbone,
    InputScaling,
    Model,
    ModelFamily,
    Weights,
    load,
)
from tilewise.registry.lookup import families, family_of, find_model, model_names, register, unregister
from tilewise.registry.tasks import DEFAULT_TASK, find_task, register_task, task_names, unregister_task

__all__ = [
    "DEFAULT_TASK",
    "SMALLEST_OBJECT_AT_STRIDE_4",
    "SOURCES",
    "Backbone",
    "InputScaling",
    "Model",
    "ModelFamily",
    "Weights",
    "families",
    "family_of",
    "find_model",
    "find_task",
    "load",
    "model_names",
    "register",
    "register_task",
    "task_names",
    "unregister",
    "unregister_task",
]
