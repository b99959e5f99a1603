from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from ground_truth import make_targets
from tilewise.models.build import build_detector
from tilewise.models.gfl import (
    BINS,
    GFL,
    GFLCriterion,
    GFLOutputs,
    GFLPostprocess,
    decode,
    distribution_focal_loss,
    quality_focal_loss,
)
from tilewise.models.postprocess import detections_of
from tilewise.models.priors import Priors, make_priors
from tilewise.models.spec import DetectorSpec
from tilewise.suppression import Limits
from tilewise.views.view import Scaling


def make_network(stride_4_level: bool = False) -> GFL:
    scaling = Scaling(min_size=64, max_size=64)
    spec = DetectorSpec("gfl_resnet18_fpn", 3, scaling, None, 0.05, 0.6, 100, stride_4_level=stride_4_level)
    with torch.device("meta"):
        network = build_detector(spec).network
    assert isinstance(network, GFL)
    return network


def priors_64() -> Priors:
    shapes = [(8, 8), (4, 4), (2, 2), (1, 1), (1, 1)]
    return make_priors(shapes, (8, 16, 32, 64, 128), 0.0, device=torch.device("cpu"))


def random_outputs(images: int, classes: int) -> GFLOutputs:
    generator = torch.Generator().manual_seed(0)
    shapes = ((images, 86, classes), (images, 86, 4 * BINS))
    logits, distances = (torch.randn(shape, generator=generator).requires_grad_() for shape in shapes)
    return GFLOutputs({}, logits, distances, priors_64())


def test_quality_focal_loss__is_equation_4() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, quality = torch.randn(50, generator=generator), torch.rand(50, generator=generator)
    quality[::3] = 0
    for logit, wanted, loss in zip(logits, quality, quality_focal_loss(logits, quality), strict=True):
        score, y = 1 / (1 + math.exp(-float(logit))), float(wanted)
        by_hand = -(abs(y - score) ** 2) * ((1 - y) * math.log(1 - score) + y * math.log(score))
        assert float(loss) == pytest.approx(by_hand, rel=1e-4, abs=1e-6)


def test_distribution_focal_loss__is_equation_6() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 4, BINS, generator=generator)
    distances = 15.8 * torch.rand(20, 4, generator=generator)
    loss = distribution_focal_loss(logits, distances)
    for k in range(20):
        for side in range(4):
            share = logits[k, side].exp() / logits[k, side].exp().sum()
            y = float(distances[k, side])
            low = math.floor(y)
            by_hand = -((low + 1 - y) * math.log(share[low]) + (y - low) * math.log(share[low + 1]))
            assert float(loss[k, side]) == pytest.approx(by_hand, rel=1e-4)


def test_distribution_focal_loss__distances_out_of_range_are_the_nearest_in_it() -> None:
    logits = torch.randn(1, 4, BINS, generator=torch.Generator().manual_seed(0))
    far = distribution_focal_loss(logits, torch.tensor([[-3.0, 0, 16, 99]]))
    near = distribution_focal_loss(logits, torch.tensor([[0.0, 0, 15.9, 15.9]]))
    torch.testing.assert_close(far, near)


def test_decode__expected_distances_in_strides() -> None:
    logits = torch.full((1, 4, BINS), -50.0)
    for side, bins in enumerate(([1], [0, 2], [3], [16])):
        logits[0, side, bins] = 0
    box = decode(logits, torch.tensor([[100.0, 50]]), torch.tensor([[8.0]]))
    torch.testing.assert_close(box, torch.tensor([[92.0, 42, 124, 178]]))


def test_loss__of_a_perfect_prediction_is_near_zero() -> None:
    targets = make_targets([[16, 16, 48, 48]], [1], [])
    priors = priors_64()
    logits, distances = torch.full((1, 86, 3), -20.0), torch.full((1, 86, 4, BINS), -50.0)
    logits[0, :, 1] = torch.where((priors.points > 16).all(1) & (priors.points < 48).all(1), 20.0, -20.0)
    for prior, ((x, y), stride) in enumerate(
        zip(priors.points.tolist(), priors.strides.tolist(), strict=True)
    ):
        for side, pixels in enumerate((x - 16, y - 16, 48 - x, 48 - y)):
            whole = min(max(pixels / stride, 0), 16)
            distances[0, prior, side, math.floor(whole)] = 0
            if whole % 1:
                distances[0, prior, side, math.floor(whole) + 1] = math.log(whole % 1 / (1 - whole % 1))
    losses = GFLCriterion()(GFLOutputs({}, logits, distances.flatten(2), priors), [targets])
    assert float(losses["bbox_regression"]) < 1e-4
    assert float(losses["distribution"]) < 0.05


def test_loss__teaches_priors_on_ignored_boxes_nothing() -> None:
    outputs = random_outputs(1, 3)
    targets = make_targets([[2, 2, 14, 12]], [0], [[33, 33, 63, 63]])
    GFLCriterion()(outputs, [targets])["classification"].backward()
    assert outputs.classes.grad is not None
    silent = (outputs.classes.grad[0] == 0).all(dim=1).nonzero().flatten()
    priors = outputs.priors
    half = priors.strides[:, None] / 2
    touching = ((priors.points + half > 33) & (priors.points - half < 63)).all(dim=1)
    assert silent.tolist() == touching.nonzero().flatten().tolist()
    assert 0 < len(silent) < 86


def test_loss__an_object_in_an_ignored_box_is_an_object() -> None:
    crowd, alone = (
        GFLCriterion()(random_outputs(1, 3), [make_targets([[34, 34, 52, 50]], [2], ignored)])
        for ignored in ([[30.0, 30, 64, 64]], [])
    )
    assert crowd["bbox_regression"] == alone["bbox_regression"] != 0
    assert crowd["distribution"] == alone["distribution"] != 0
    assert crowd["classification"] < alone["classification"]


def test_loss__of_images_without_objects_counts_each_as_one_prior() -> None:
    outputs = random_outputs(2, 3)
    losses = GFLCriterion()(outputs, [make_targets([], [], [])] * 2)
    expected = (F.softplus(outputs.classes) * outputs.classes.sigmoid() ** 2).sum() / 2
    torch.testing.assert_close(losses["classification"], expected)
    assert losses["bbox_regression"] == losses["distribution"] == 0


def test_loss__is_not_finite_where_the_network_has_diverged() -> None:
    _, classes, distances, priors = random_outputs(1, 3)
    outputs = GFLOutputs({}, classes * torch.nan, distances * torch.nan, priors)
    losses = GFLCriterion()(outputs, [make_targets([[2, 2, 12, 12]], [0], [])])
    assert losses["classification"].isnan()


def test_postprocess__decodes_the_priors_that_were_chosen() -> None:
    logits, distances = torch.full((1, 86, 3), -9.0), torch.full((1, 86, 4, BINS), -50.0)
    distances[..., 1] = 0
    logits[0, 9, 2] = 1.0
    logits[0, 64 + 5, 0] = 2.0
    outputs = GFLOutputs({}, logits, distances.flatten(2), priors_64())
    postprocess = GFLPostprocess(Limits(0.05, 0.6, 1000, 100))
    (found,) = detections_of(postprocess(outputs, [(64, 64)]), postprocess.limits)
    assert found.labels.tolist() == [0, 2]
    torch.testing.assert_close(torch.from_numpy(found.scores), torch.tensor([2.0, 1.0]).sigmoid())
    assert found.boxes.tolist() == [[0, 0, 32, 32], [0, 0, 16, 16]]


@pytest.mark.parametrize(("stride_4_level", "sides"), [(False, [8, 4, 2, 1, 1]), (True, [16, 8, 4, 2, 1, 1])])
def test_levels__with_stride_4_or_without(stride_4_level: bool, sides: list[int]) -> None:
    network = make_network(stride_4_level).eval()
    outputs = network(torch.zeros(1, 3, 64, 64, device="meta"))
    maps = outputs.features.values()
    assert [each.shape[1:] for each in maps] == [(256, side, side) for side in sides]
    assert len(network.strides) == len(sides)
    assert outputs.distances.shape == (1, sum(side * side for side in sides), 4 * BINS)
