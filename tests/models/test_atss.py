from __future__ import annotations

import math
import statistics

import pytest
import torch
from tilewise.models.atss import atss
from tilewise.models.priors import Objects, Priors, make_priors
from torchvision.ops import box_iou

SHAPES, STRIDES = [(12, 16), (6, 8), (3, 4), (2, 2), (1, 1)], (8, 16, 32, 64, 128)


def grid(shapes: list[tuple[int, int]] = SHAPES) -> Priors:
    return make_priors(shapes, STRIDES[: len(shapes)], 0.0, device=torch.device("cpu"))


def make_objects(images: int, count: int, smallest: float, seed: int) -> Objects:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([120.0, 88.0])
    sides = smallest + 60 * torch.rand(count, 2, generator=generator) ** 2
    boxes = torch.cat([corner, torch.minimum(corner + sides, torch.tensor([128.0, 96.0]))], dim=1)
    labels = torch.zeros(count, dtype=torch.int64)
    return Objects(boxes, labels, torch.randint(images, (count,), generator=generator).sort().values)


def literal(priors: Priors, objects: Objects) -> dict[tuple[int, int], int]:
    """The paper's algorithm 1, and the best candidate for objects without one: (image, prior) -> object."""
    points = priors.points.tolist()
    wanted: dict[tuple[int, int], list[tuple[float, int]]] = {}
    for number, (image, box) in enumerate(zip(objects.images.tolist(), objects.boxes, strict=True)):
        x0, y0, x1, y1 = box.tolist()
        candidates = []
        for height, width, stride, first in priors.levels:
            level = []
            for prior in range(first, first + height * width):
                x, y = points[prior]
                distance = math.hypot(x - (x0 + x1) / 2, y - (y0 + y1) / 2)
                anchor = torch.tensor([[x - 4 * stride, y - 4 * stride, x + 4 * stride, y + 4 * stride]])
                level.append((distance, prior, float(box_iou(anchor, box[None])), stride))
            candidates += sorted(level)[:9]
        ious = [iou for _, _, iou, _ in candidates]
        least = statistics.mean(ious) + statistics.stdev(ious)
        chosen = [
            (iou, prior)
            for _, prior, iou, _ in candidates
            if iou >= least and x0 < points[prior][0] < x1 and y0 < points[prior][1] < y1
        ]
        if not chosen:
            most = max(*ious, 1e-9)
            best = max(candidates, key=lambda each: each[2] / most - 0.1 * each[0] / each[3])
            chosen = [(best[2], best[1])]
        for iou, prior in chosen:
            wanted.setdefault((image, prior), []).append((-iou, number))
    return {place: min(claims)[1] for place, claims in wanted.items()}


def as_dict(priors: Priors, objects: Objects, images: int) -> dict[tuple[int, int], int]:
    found = atss(priors, objects, images)
    places = list(zip(found.images.tolist(), found.priors.tolist(), strict=True))
    assert len(set(places)) == len(places)  # no prior twice
    return dict(zip(places, found.objects.tolist(), strict=True))


@pytest.mark.parametrize("smallest", [2.0, 20.0])
@pytest.mark.parametrize("seed", range(4))
def test_atss__is_the_papers(smallest: float, seed: int) -> None:
    priors, objects = grid(), make_objects(3, 25, smallest, seed)
    assert as_dict(priors, objects, 3) == literal(priors, objects)


@pytest.mark.parametrize("shapes", [[(1, 40), (1, 20)], [(40, 2)], [(2, 2), (1, 1)]])
def test_atss__maps_of_few_rows(shapes: list[tuple[int, int]]) -> None:
    priors = grid(shapes)
    objects = make_objects(1, 6, 6.0, seed=1)
    assert as_dict(priors, objects, 1) == literal(priors, objects)


def test_atss__an_object_between_the_points_gets_the_nearest() -> None:
    # the paper leaves it without a positive
    objects = Objects(torch.tensor([[26.0, 35, 29, 38]]), torch.tensor([0]), torch.tensor([0]))
    found = atss(grid(), objects, 1)
    assert grid().points[found.priors].tolist() == [[24.0, 40]]
    assert grid().strides[found.priors].tolist() == [8]


def test_atss__hundreds_of_objects_apart_all_have_a_positive() -> None:
    priors = make_priors([(40, 40), (20, 20)], (8, 16), 0.0, device=torch.device("cpu"))
    centre = priors.points[:1600] + 0.3
    boxes = torch.cat([centre - 3, centre + 3], dim=1)
    objects = Objects(boxes, torch.zeros(1600, dtype=torch.int64), torch.zeros(1600, dtype=torch.int64))
    assert len(set(atss(priors, objects, 1).objects.tolist())) == 1600


def test_atss__no_objects() -> None:
    assert [len(part) for part in atss(grid(), make_objects(1, 0, 1.0, 0), 2)] == [0, 0, 0]
