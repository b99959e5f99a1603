from __future__ import annotations

from tilewise.training.dataloading.batch import Batch
from tilewise.views.sample import Sample
from torch import Tensor


def parts(of: Sample | Batch) -> dict[str, Tensor]:
    """The tensors of a sample or batch, to compare them one by one."""
    boxes, labels, ignored = of.targets.boxes, of.targets.labels, of.targets.ignored
    return {"pixels": of.pixels, "boxes": boxes, "labels": labels, "ignored": ignored}
