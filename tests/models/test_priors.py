from __future__ import annotations

import torch
from tilewise.models.priors import (
    gather_objects,
    make_priors,
    on_ignored_points,
    one_object_each,
    paired_giou,
)
from torchvision.ops import generalized_box_iou_loss

CPU = torch.device("cpu")


def test_priors__are_level_by_level_and_row_by_row() -> None:
    priors = make_priors([(2, 3), (1, 2)], (8, 16), 0.5, device=CPU)
    fine = [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12]]
    assert priors.points.tolist() == [*fine, [8, 8], [24, 8]]
    assert priors.strides.tolist() == [8] * 6 + [16] * 2
    assert priors.levels == ((2, 3, 8, 0), (1, 2, 16, 6))


def test_priors__without_an_offset_begin_at_the_corner() -> None:
    assert make_priors([(2, 2)], (4,), 0, device=CPU).points.tolist() == [[0, 0], [4, 0], [0, 4], [4, 4]]


def test_objects__know_their_images() -> None:
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    two = {"boxes": torch.arange(8.0).reshape(2, 4), "labels": torch.tensor([3, 1])}
    objects = gather_objects([two, empty, two])
    assert objects.images.tolist() == [0, 0, 2, 2]
    assert objects.labels.tolist() == [3, 1, 3, 1]
    assert objects.boxes.shape == (4, 4)
    assert gather_objects([empty]).boxes.shape == (0, 4)


def test_ignored__cells_that_touch_a_box() -> None:
    priors = make_priors([(4, 4), (2, 2)], (8, 16), 0.5, device=CPU)
    tiny = {"ignored": torch.tensor([[9, 9, 11, 11.0]])}  # smaller than a cell, and in none's middle
    two = {"ignored": torch.tensor([[0, 0, 8, 8], [20, 4, 28, 12.0]])}
    none = {"ignored": torch.zeros(0, 4)}
    silent = on_ignored_points(priors, [tiny, two, none])
    assert silent.shape == (3, 20)
    assert silent[0].nonzero().flatten().tolist() == [5, 16]
    # the first box fills a cell and touches no other; the second one touches four
    assert silent[1].nonzero().flatten().tolist() == [0, 2, 3, 6, 7, 16, 17]
    assert not silent[2].any()


def test_one_object_each__the_cheapest_then_the_first() -> None:
    priors = torch.tensor([4, 4, 2, 2, 0, 2])
    costs = torch.tensor([1.0, 2.0, 5.0, 3.0, 9.0, 3.0])
    objects = torch.tensor([1, 0, 0, 2, 5, 1])
    assert one_object_each(priors, costs, objects, count=6).tolist() == [0, 4, 5]
    none = torch.zeros(0, dtype=torch.int64)
    assert one_object_each(none, costs[:0], none, count=6).tolist() == []


def test_paired_giou__is_torchvisions_and_so_is_its_gradient() -> None:
    generator = torch.Generator().manual_seed(0)
    corner = 2 * torch.rand(2, 40, 2, generator=generator)  # some pairs do not overlap
    boxes = torch.cat([corner, corner + torch.rand(2, 40, 2, generator=generator)], dim=2).double()
    one, other = boxes.requires_grad_()
    torch.testing.assert_close(
        1 - paired_giou(one, other), generalized_box_iou_loss(one, other), atol=1e-6, rtol=0
    )
    gradients = [
        torch.autograd.grad(loss.sum(), boxes, retain_graph=True)[0]
        for loss in (-paired_giou(one, other), generalized_box_iou_loss(one, other))
    ]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=1e-5)
    assert paired_giou(torch.zeros(1, 4), torch.zeros(1, 4)).tolist() == [0]
