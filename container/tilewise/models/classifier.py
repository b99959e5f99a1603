"""Classifiers: networks of torchvision and timm under Azure AutoML's names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from tilewise.arrays import Float32
from tilewise.models.classifier_spec import ClassifierSpec
from tilewise.models.detector import IMAGENET_MEAN, IMAGENET_STD, BatchImages, VisionModel
from tilewise.models.totals import mean_over_processes
from tilewise.targets import Targets

_BODY = "body."
_HALF = (0.5,) * 3
_OF_TORCHVISION = {
    "mobilenetv2": "mobilenet_v2",
    **{name: name for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")},
}
"""Where its names of layers are those that Azure's ``layers_to_freeze`` counts."""
_OF_TIMM = {
    "resnet200": "resnet200",
    "resnest50": "resnest50d",
    "resnest101": "resnest101e",
    "seresnext": "legacy_seresnext50_32x4d",
    "vits16r224": "vit_small_patch16_224",
    "vitb16r224": "vit_base_patch16_224",
    "vitl16r224": "vit_large_patch16_224",
}


class Outputs(NamedTuple):
    """What a classifier makes of a batch: no feature maps for others, and (B, C) logits in float32."""

    features: dict[str, Tensor]
    logits: Tensor

    def class_maps(self) -> list[Tensor]:
        """None: it says of no place what is there."""
        return []


class ClassifierNetwork(nn.Module):
    """A published network, below ``body``."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body

    def forward(self, batch_BCHW: Tensor) -> Outputs:
        """Normalised pixels -> :class:`Outputs`."""
        return Outputs({}, self.body(batch_BCHW).float())


class Classifier(VisionModel):
    """A model that says of each view the score of each class, (C,) float32."""

    figures: ClassVar[frozenset[str]] = frozenset({"accuracy"})

    def graph_values(self, outputs: Outputs, sizes: Sequence[tuple[int, int]]) -> tuple[Tensor]:
        """What a graph says of each view: (B, C) scores."""
        return (self.postprocess(outputs, sizes),)

    def results(self, images: Sequence[Tensor]) -> list[Float32]:
        """The scores of each of the views."""
        batch = self.transform(images)
        return list(self.postprocess(self.outputs(batch), batch.image_sizes).cpu().numpy())


@contextmanager
def of_squares(model: Classifier, side: int) -> Iterator[None]:
    """While it lasts, a ViT has the position embeddings of views of that side: no graph could scale them."""
    body: Any = model.network.body
    if not hasattr(body, "pos_embed"):
        yield
        return
    # Imported here: it takes seconds, and other models do without.
    from timm.layers import resample_abs_pos_embed

    embeddings, patches = body.pos_embed, body.patch_embed
    old, new = patches.grid_size, patches.dynamic_feat_size((side, side))
    body.pos_embed = nn.Parameter(
        resample_abs_pos_embed(
            embeddings.detach(), list(new), list(old), num_prefix_tokens=body.num_prefix_tokens
        )
    )
    patches.grid_size = new
    try:
        yield
    finally:
        body.pos_embed, patches.grid_size = embeddings, old


def below_body(published: Mapping[str, Tensor], own: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of a published network, by the names that they have here."""
    return {f"{_BODY}{key}": value for key, value in published.items() if f"{_BODY}{key}" in own}


def build_classifier(spec: ClassifierSpec) -> VisionModel:
    """The classifier that ``spec`` describes, freshly initialised, on the CPU, in training mode."""
    mean, std = (_HALF, _HALF) if spec.name.startswith("vit") else (IMAGENET_MEAN, IMAGENET_STD)
    criterion = _several_labels if spec.several else _one_label
    weights = None if spec.class_weights is None else torch.tensor(spec.class_weights)
    scores: Callable[[Tensor], Tensor] = torch.sigmoid if spec.several else _softmax

    return Classifier(
        ClassifierNetwork(_body(spec)),
        BatchImages(mean, std),
        lambda outputs, targets: criterion(outputs, targets, weights),
        lambda outputs, sizes: scores(outputs.logits),
    )


def _body(spec: ClassifierSpec) -> nn.Module:
    if spec.name in _OF_TORCHVISION:
        make: Callable[..., nn.Module] = getattr(torchvision.models, _OF_TORCHVISION[spec.name])
        return make(weights=None, num_classes=spec.num_classes)
    # Imported here: it takes seconds, and other models do without.
    import timm

    # the position embeddings are those of the published size, and are interpolated for others
    sizes: dict[str, Any] = {"dynamic_img_size": True} if spec.name.startswith("vit") else {}
    body: nn.Module = timm.create_model(
        _OF_TIMM[spec.name], pretrained=False, num_classes=spec.num_classes, **sizes
    )
    return body


def _softmax(logits: Tensor) -> Tensor:
    return logits.softmax(dim=1)


def _one_label(
    outputs: Outputs, targets: Sequence[Targets[Tensor]], weights: Tensor | None
) -> dict[str, Tensor]:
    """Cross-entropy; with weights PyTorch's weighted mean. It is that over the images of all processes."""
    labels = torch.cat([target.labels[:1] for target in targets])
    with_label = torch.tensor([len(target.labels) > 0 for target in targets], device=labels.device)
    logits = outputs.logits[with_label]
    weights = logits.new_ones(logits.shape[1]) if weights is None else weights.to(logits)
    count = mean_over_processes(weights[labels].sum()).clamp(min=1e-9)
    if not len(labels):  # a process without an image of its own
        return {"cross_entropy": outputs.logits.sum() * 0, "accuracy": outputs.logits.new_zeros(())}
    right = (logits.detach().argmax(dim=1) == labels).float().mean()
    loss = F.cross_entropy(logits, labels, weights, reduction="sum") / count
    return {"cross_entropy": loss, "accuracy": right}


def _several_labels(
    outputs: Outputs, targets: Sequence[Targets[Tensor]], weights: Tensor | None
) -> dict[str, Tensor]:
    """Binary cross-entropy, each class alone; weights are those of its positives."""
    shown = torch.zeros_like(outputs.logits)
    for row, target in zip(shown, targets, strict=True):
        row[target.labels] = 1
    weights = None if weights is None else weights.to(shown)
    loss = F.binary_cross_entropy_with_logits(outputs.logits, shown, pos_weight=weights)
    right = ((outputs.logits.detach() >= 0) == shown.bool()).all(dim=1).float().mean()
    return {"cross_entropy": loss, "accuracy": right}
