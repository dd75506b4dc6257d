"""Optimizers and learning-rate schedules of an arm."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from galaxy_mlflow.config import ArmSettings


def make_optimizer(arm: ArmSettings, model: nn.Module) -> torch.optim.Optimizer:
    """Return the arm's optimizer over the parameters that are not frozen."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    common: dict[str, Any] = {"lr": arm.learning_rate, "weight_decay": arm.weight_decay}
    if arm.probes:  # its steps are so short that Python's share in them counts
        common["fused"] = True
    if arm.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=arm.momentum, **common)
    make: Callable[..., torch.optim.Optimizer] = (
        torch.optim.Adam if arm.optimizer == "adam" else torch.optim.AdamW
    )
    return make(parameters, **common)


def learning_rate_at(arm: ArmSettings, epoch: int) -> float:
    """Return an epoch's learning rate: linear warm-up, then constant or a half cosine to zero."""
    if epoch < arm.warmup_epochs:
        return arm.learning_rate * (epoch + 1) / (arm.warmup_epochs + 1)
    if arm.schedule == "constant":
        return arm.learning_rate
    done = (epoch - arm.warmup_epochs) / (arm.epochs - arm.warmup_epochs)
    return arm.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
