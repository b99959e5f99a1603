from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

InputScaling = Literal["square", "sides"]
"""How a model's views are scaled: to a square of ``image_size``, or by ``min_size`` and ``max_size``."""

SMALLEST_OBJECT = 32.0
"""COCO calls smaller ones small, and a detector whose finest feature map has stride 8 loses most of them."""
SMALLEST_OBJECT_AT_STRIDE_4 = 24.0


@dataclass(frozen=True)
class Weights:
    """A file of weights that its authors publish.

    Attributes:
        file: its published name.
        source: where it is; a key of :data:`tilewise.registry.SOURCES`.
        sha256: its whole digest in hexadecimal digits, where it is known.

    """

    file: str
    source: str = "torchvision"
    sha256: str = ""

    @property
    def pin(self) -> str:
        """As many digits of its SHA-256 as are known: all, or the eight that torchvision's names hold."""
        digits = re.search(r"-([0-9a-f]{8})\.", self.file)
        return self.sha256 or (digits[1] if digits else "")


@dataclass(frozen=True)
class Backbone:
    """A backbone as it stands in a network.

    Attributes:
        stages: what ``layers_to_freeze`` counts, from the image on: of each stage the names of its modules. A
            ``*`` stands for any part of a name between two dots; each module that matches is a stage.
        azure_stages: what it counts in a job that calls the model by Azure's name, where these are others.
        weights: the files of its classifier, the best start first.
        from_classifier: what turns such a file's tensors into those of the network: the ``module:name`` of a
            function ``(published: Mapping[str, Tensor], own: Sequence[str]) -> dict[str, Tensor]``, where
            ``own`` are the names of the network's tensors.
        builtin_name: from a parameter's name to the one in the built-in algorithm, None where it has none.

    """

    stages: tuple[tuple[str, ...], ...]
    azure_stages: tuple[tuple[str, ...], ...] = ()
    weights: tuple[Weights, ...] = ()
    from_classifier: str | None = None
    builtin_name: Callable[[str], str | None] | None = None


@dataclass(frozen=True)
class Model:
    """One of a family's models: what differs between them.

    Attributes:
        name: the hyperparameter ``model_name``.
        weights: the published files of the whole detector, the best start first.
        backbone: None where none of its stages can be frozen and no classifier is published.
        smallest_object: the √area, in pixels of a view, from which on it resolves an object well.
        smallest_views: the shortest side in pixels of the views that it can take beside those of its nominal
            size, as pairs: the nominal side from which on it holds, and that side.
        recipe: the hyperparameters it is known to learn well with, where neither dialect has the model; the
            defaults of a job that calls it by its name.

    """

    name: str
    weights: tuple[Weights, ...] = ()
    backbone: Backbone | None = None
    smallest_object: float = SMALLEST_OBJECT
    smallest_views: tuple[tuple[int, int], ...] = ((0, 32),)
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @property
    def published(self) -> tuple[Weights, ...]:
        """All files that it can start from, the best first: its own, then those of its backbone."""
        return self.weights + (self.backbone.weights if self.backbone else ())

    def resolves(self, *, stride_4_level: bool) -> float:
        """``smallest_object``, also where the hyperparameter ``stride_4_level`` adds a feature map."""
        return min(self.smallest_object, SMALLEST_OBJECT_AT_STRIDE_4 if stride_4_level else math.inf)

    def smallest_view(self, nominal: int) -> int:
        """The shortest side in pixels of a view, where ``nominal`` is that of most."""
        return next(view for least, view in reversed(self.smallest_views) if nominal >= least)


@dataclass(frozen=True, kw_only=True)
class ModelFamily:
    """Models that share their code, and all that the rest of the program has to know about them.

    It imports no model: references to code are texts, ``module:name``, and :func:`load` follows them.

    Attributes:
        name: of the family.
        pattern: how messages and documentation name its models.
        models: in the order in which users see them.
        builder: ``(spec: DetectorSpec) -> Detector``.
        scaling: how views are scaled.
        classification_losses: the losses that ask *what* and *whether*; all others ask *where*.
        anchors: ``(name: str, scaling: Scaling, stride_4_level: bool) -> tuple[float, ...]``, the published
            √areas of the anchors, one a feature map, smallest first, in pixels of the view, or for square
            views as fractions of the side. None where there are no anchors to fit to the data.
        assignments: what the hyperparameter ``assignment`` may be beside ``default``.
        two_stages: whether it proposes regions first, and then looks at them.
        stride_4_level: whether the hyperparameter ``stride_4_level`` may add a feature map.
        defaults: the hyperparameters whose defaults are others than a job of Azure AutoML's has.
        task_defaults: the same in jobs for one of its tasks, by the task's name.
        tasks: what it can be trained for.

    """

    name: str
    pattern: str
    models: tuple[Model, ...]
    builder: str
    scaling: InputScaling
    classification_losses: frozenset[str]
    anchors: str | None = None
    assignments: tuple[str, ...] = ()
    two_stages: bool = False
    stride_4_level: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    task_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tasks: tuple[str, ...] = ("detection",)


def load(reference: str) -> Any:
    """What a reference ``module:name`` refers to; imports the module."""
    module, _, name = reference.partition(":")
    return getattr(import_module(module), name)
