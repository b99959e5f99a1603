from __future__ import annotations

import torch
from torch import nn

from tilewise.hyperparameters import Hyperparameters


def make_optimizer(model: nn.Module, hp: Hyperparameters) -> torch.optim.Optimizer:
    """The optimizer that the hyperparameters name; biases and normalisation layers do not decay."""
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": hp.weight_decay}, {"params": others, "weight_decay": 0.0}]
    rate = hp.learning_rate
    betas = (hp.beta1, hp.beta2)
    match hp.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, rate, hp.momentum, nesterov=hp.nesterov and hp.momentum > 0)
        case "adam":
            return torch.optim.Adam(groups, rate, betas, amsgrad=hp.ams_gradient)
        case "adamw":
            return torch.optim.AdamW(groups, rate, betas, amsgrad=hp.ams_gradient)
        case "rmsprop":
            return torch.optim.RMSprop(groups, rate, momentum=hp.momentum)
        case "adadelta":
            return torch.optim.Adadelta(groups, rate)
