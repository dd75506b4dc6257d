"""A network on its device, and its pass forward: the same in training and on new images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from galaxy_mlflow.config import ArmSettings
from galaxy_mlflow.stem import fold_stem


def placed(model: nn.Module, arm: ArmSettings, device: str) -> nn.Module:
    """Return the model on a device, in the layout that its arm computes in."""
    if arm.precision == "bf16" and device == "cpu":
        fold_stem(model)
    layout = torch.channels_last if arm.channels_last else torch.contiguous_format
    return model.to(device).to(memory_format=layout)


def logits_of(model: nn.Module, images: Tensor, arm: ArmSettings) -> Tensor:
    """Return the logits of images (n, 3, height, width) in the arm's precision, as float32."""
    half = arm.precision == "bf16"
    with torch.autocast(images.device.type, torch.bfloat16, enabled=half):
        logits: Tensor = model(images)
    return logits.float()
