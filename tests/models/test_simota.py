from __future__ import annotations

import math

import pytest
import torch
from tilewise.boxes import paired_iou
from tilewise.models.priors import Objects, Priors, make_priors
from tilewise.models.simota import simota
from torch import Tensor
from torchvision.ops import box_iou

SIDE = 64
CLASSES = 3


def make_case(images: int, most: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Priors, Objects]:
    """Random predictions near the priors, and random objects, some of them in the corners."""
    generator = torch.Generator().manual_seed(seed)
    priors = make_priors([(8, 8), (4, 4), (2, 2)], (8, 16, 32), 0.5, device=torch.device("cpu"))
    count = len(priors.points)
    half = priors.strides[:, None] * torch.rand(images, count, 2, generator=generator)
    centre = priors.points + (torch.rand(images, count, 2, generator=generator) - 0.5) * 16
    boxes = torch.cat([centre - half, centre + half], dim=2)
    logits = 2 * torch.randn(images, count, CLASSES, generator=generator)
    objectness = 2 * torch.randn(images, count, generator=generator)
    counts = torch.randint(most + 1, (images,), generator=generator).tolist()
    corner = torch.rand(sum(counts), 2, generator=generator) * (SIDE - 4)
    sides = 2 + 30 * torch.rand(sum(counts), 2, generator=generator)
    objects = Objects(
        torch.cat([corner, (corner + sides).clamp(max=SIDE)], dim=1),
        torch.randint(CLASSES, (sum(counts),), generator=generator),
        torch.repeat_interleave(torch.arange(images), torch.tensor(counts)),
    )
    return boxes, logits, objectness, priors, objects


def literal(
    boxes: Tensor, logits: Tensor, objectness: Tensor, priors: Priors, objects: Objects
) -> dict[tuple[int, int], int]:
    """The paper's assignment, one object, one prior, one class after the other: (image, prior) -> object."""
    wanted: dict[tuple[int, int], list[tuple[float, int]]] = {}
    for number in range(len(objects.boxes)):
        image, label = int(objects.images[number]), int(objects.labels[number])
        x0, y0, x1, y1 = objects.boxes[number].tolist()
        costs, ious = [], []
        for prior, ((x, y), stride) in enumerate(
            zip(priors.points.tolist(), priors.strides.tolist(), strict=True)
        ):
            if abs(x - (x0 + x1) / 2) >= 1.5 * stride or abs(y - (y0 + y1) / 2) >= 1.5 * stride:
                continue
            iou = float(box_iou(boxes[image, prior, None], objects.boxes[number, None]))
            cost = -3 * math.log(iou + 1e-8)
            for klass in range(CLASSES):
                score = math.sqrt(
                    float(logits[image, prior, klass].sigmoid() * objectness[image, prior].sigmoid())
                )
                cost -= math.log(score) if klass == label else math.log(1 - score)
            costs.append((cost, prior))
            ious.append(iou)
        k = max(1, int(sum(sorted(ious, reverse=True)[:10])))
        for cost, prior in sorted(costs)[:k]:
            wanted.setdefault((image, prior), []).append((cost, number))
    return {place: min(claims)[1] for place, claims in wanted.items()}


@pytest.mark.parametrize("seed", range(6))
def test_simota__is_the_papers(seed: int) -> None:
    case = make_case(images=3, most=30, seed=seed)
    found = simota(*case[:3], priors=case[3], objects=case[4])
    ours = {
        (image, prior): number
        for image, prior, number in zip(
            found.images.tolist(), found.priors.tolist(), found.objects.tolist(), strict=True
        )
    }
    assert len(ours) == len(found.images)  # no prior twice
    assert ours == literal(*case)
    boxes, objects = case[0], case[4]
    torch.testing.assert_close(
        found.iou, paired_iou(boxes[found.images, found.priors], objects.boxes[found.objects])
    )


def test_simota__every_one_of_many_objects_apart_has_a_prior() -> None:
    # hundreds of objects of a cell's size: none is left out
    priors = make_priors([(40, 40)], (8,), 0.5, device=torch.device("cpu"))
    boxes = torch.cat([priors.points - 4, priors.points + 4], dim=1)
    objects = Objects(boxes, torch.zeros(1600, dtype=torch.int64), torch.zeros(1600, dtype=torch.int64))
    found = simota(boxes[None], torch.zeros(1, 1600, 1), torch.zeros(1, 1600), priors=priors, objects=objects)
    assert found.objects.sort().values.tolist() == list(range(1600))
    assert found.priors.tolist() == found.objects.tolist()


def test_simota__an_object_in_the_corner_has_a_prior() -> None:
    boxes, logits, objectness, priors, _ = make_case(1, 0, 0)
    for corner in ([0, 0, 1, 1], [63, 63, 64, 64.0], [63, 0, 64, 1]):
        objects = Objects(torch.tensor([corner]).float(), torch.tensor([1]), torch.tensor([0]))
        assert len(simota(boxes, logits, objectness, priors=priors, objects=objects).priors) >= 1


def test_simota__no_objects() -> None:
    case = make_case(2, 0, 0)
    found = simota(*case[:3], priors=case[3], objects=case[4])
    assert [len(part) for part in found] == [0, 0, 0, 0]
