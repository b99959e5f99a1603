from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn

from tilewise.hyperparameters import Hyperparameters
from tilewise.registry import find_model

_BACKBONE = re.compile(r"\bnetwork\.backbone\.(body|backbone|features)\.")
"""The parameters of most backbones by their names; those of feature pyramids are not among them."""


def make_optimizer(model: nn.Module, hp: Hyperparameters) -> torch.optim.Optimizer:
    """The optimizer that the hyperparameters name; biases and normalisation layers do not decay.

    A backbone has a learning rate of its own where ``backbone_learning_rate_factor`` says so.

    SGD, Adam and AdamW change all weights in one pass over them ("fused"), and on a GPU know by themselves
    when a step is to be skipped.
    """
    _keep_from_dynamo()
    rate = hp.learning_rate
    learnt = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    differs = hp.backbone_learning_rate_factor != 1
    slow = {name for name, _ in learnt if differs and _in_backbone(name, hp.model_name)}
    groups: list[dict[str, Any]] = []
    for in_backbone in (False, True):
        some = [each for name, each in learnt if (name in slow) == in_backbone]
        own = rate * hp.backbone_learning_rate_factor if in_backbone else rate
        groups += [
            {"params": [p for p in some if p.ndim > 1], "lr": own, "weight_decay": hp.weight_decay},
            {"params": [p for p in some if p.ndim <= 1], "lr": own, "weight_decay": 0.0},
        ]
    groups = [group for group in groups if group["params"]]
    betas = (hp.beta1, hp.beta2)
    match hp.optimizer:
        case "sgd":
            return _with_momentum(
                torch.optim.SGD(
                    groups, rate, hp.momentum, nesterov=hp.nesterov and hp.momentum > 0, fused=True
                )
            )
        case "adam":
            return torch.optim.Adam(groups, rate, betas, amsgrad=hp.ams_gradient, fused=True)
        case "adamw":
            return torch.optim.AdamW(groups, rate, betas, amsgrad=hp.ams_gradient, fused=True)
        case "rmsprop":
            return torch.optim.RMSprop(groups, rate, momentum=hp.momentum)
        case "adadelta":
            return torch.optim.Adadelta(groups, rate)


def _in_backbone(parameter: str, model_name: str) -> bool:
    """Whether it is a parameter of the backbone: SSD cuts the last block off its VGG, to another place."""
    backbone = find_model(model_name).backbone
    modules = {module for stage in backbone.stages for module in stage} if backbone else set()
    module = parameter.rpartition(".")[0].rpartition("network.")[2]
    return module in modules or _BACKBONE.search(parameter) is not None


def _keep_from_dynamo() -> None:
    """Let an optimizer begin without torch._dynamo, which takes over a second to import.

    PyTorch wraps these methods so that ``torch.compile`` leaves them out; nobody compiles an optimizer here.
    """
    for method in (torch.optim.Optimizer.add_param_group, torch.optim.Optimizer.zero_grad):
        plain = getattr(method, "__wrapped__", None)
        if plain is not None and not hasattr(plain, "__dynamo_disable"):
            setattr(plain, "__dynamo_disable", plain)


def _with_momentum(optimizer: torch.optim.SGD) -> torch.optim.SGD:
    """SGD whose momentum begins at zero, which gives the same first step.

    PyTorch's fused one takes memory as it finds it for the first step, and leaves it so where that step is
    skipped: the second then begins with whatever lay there.
    """
    for group in optimizer.param_groups:
        for parameter in group["params"] if group["momentum"] else ():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
