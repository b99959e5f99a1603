from __future__ import annotations

import pytest
import torch
from tilewise.hyperparameters import parse_hyperparameters
from tilewise.models.build import build_detector
from tilewise.models.freezing import stages_of
from tilewise.models.spec import DetectorSpec
from tilewise.training.step.optimizer import make_optimizer
from tilewise.views.view import Scaling
from torch import nn


def make_model() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    model[2].requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sgd", torch.optim.SGD),
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("rmsprop", torch.optim.RMSprop),
        ("adadelta", torch.optim.Adadelta),
    ],
)
def test_optimizer__has_its_kind_and_takes_a_step(name: str, kind: type) -> None:
    model = make_model()
    hp = parse_hyperparameters({"optimizer": name, "learning_rate": 0.1, "weight_decay": 0.02})
    optimizer = make_optimizer(model, hp)
    assert type(optimizer) is kind
    assert all(group["lr"] == 0.1 for group in optimizer.param_groups)
    before = [parameter.clone() for parameter in model.parameters()]
    model(torch.rand(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    changed = [not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True)]
    # the first convolution's bias shifts what the normalisation takes away again; the last one is frozen
    assert changed[0] and changed[2] and changed[3]
    assert not changed[4] and not changed[5]


def test_optimizer__decays_only_the_weights_of_layers() -> None:
    model = make_model()
    optimizer = make_optimizer(model, parse_hyperparameters({"weight_decay": 0.02}))
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert [decay.get(id(p)) for p in model.parameters()] == [0.02, 0.0, 0.0, 0.0, None, None]


def test_sgd__momentum_and_nesterov() -> None:
    optimizer = make_optimizer(make_model(), parse_hyperparameters({"momentum": 0.8}))
    assert (optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (0.8, True)
    optimizer = make_optimizer(make_model(), parse_hyperparameters({"momentum": 0.8, "nesterov": 0}))
    assert (optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (0.8, False)


def test_sgd__without_momentum_nesterov_means_nothing() -> None:
    optimizer = make_optimizer(make_model(), parse_hyperparameters({"momentum": 0, "nesterov": 1}))
    assert (optimizer.defaults["momentum"], optimizer.defaults["nesterov"]) == (0, False)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam__betas_and_amsgrad(name: str) -> None:
    hp = parse_hyperparameters({"optimizer": name, "beta1": 0.8, "beta2": 0.99, "ams_gradient": 1})
    defaults = make_optimizer(make_model(), hp).defaults
    assert (defaults["betas"], defaults["amsgrad"]) == ((0.8, 0.99), True)


class Backboned(nn.Module):
    """Modules with the names that a detector's have."""

    def __init__(self) -> None:
        super().__init__()
        body, head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 1, 1)
        backbone = nn.ModuleDict({"body": nn.Sequential(body), "fpn": nn.Sequential(nn.Conv2d(4, 4, 1))})
        self.network = nn.ModuleDict({"backbone": backbone, "head": head})


def test_backbone__has_a_learning_rate_of_its_own() -> None:
    model = Backboned()
    raw = {"learning_rate": 0.1, "backbone_learning_rate_factor": 0.2}
    optimizer = make_optimizer(model, parse_hyperparameters(raw))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    of = {name: rates[id(parameter)] for name, parameter in model.named_parameters()}
    slow = {name for name, rate in of.items() if rate == pytest.approx(0.02)}
    assert slow == {"network.backbone.body.0.weight", "network.backbone.body.0.bias"}
    assert sorted({*of.values()}) == pytest.approx([0.02, 0.1]) and optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("name", ["ssd_vgg16", "ssd_resnet50", "ssdlite_mobilenet_v3_large", "yolox_nano"])
def test_backbone__is_what_layers_to_freeze_counts(name: str) -> None:
    spec = DetectorSpec(name, 2, Scaling(square=300), None, 0.1, 0.5, 10)
    with torch.device("meta"):
        model = build_detector(spec)
    raw = {"model_name": name, "learning_rate": 0.1, "backbone_learning_rate_factor": 0.2}
    optimizer = make_optimizer(model, parse_hyperparameters(raw))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    slow = {key for key, each in model.network.named_parameters() if rates[id(each)] == pytest.approx(0.02)}
    stages = tuple(f"{module}." for stage in stages_of(model.network, name) for module in stage)
    counted = {key for key, _ in model.network.named_parameters() if key.startswith(stages)}
    assert counted and counted == slow
