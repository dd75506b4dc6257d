from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import get_model

from galaxy_mlflow.stem import FoldedConv2d, fold_stem

STEMS = [
    (11, 4, 2, 224),
    (7, 2, 3, 64),
    (16, 16, 0, 64),
    (3, 2, 0, 75),
    (4, 4, 0, 67),
    (5, 3, 1, 50),
]


def outcome(layer: nn.Module, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return outputs, and slopes by images and by weights."""
    images = images.clone().requires_grad_()
    layer.zero_grad()
    out = layer(images)
    (out * torch.arange(out.numel(), dtype=out.dtype).view_as(out).cos()).sum().backward()
    weight = next(layer.parameters())
    assert images.grad is not None
    assert weight.grad is not None
    return out.detach(), images.grad, weight.grad.clone()


@pytest.mark.parametrize(("kernel", "stride", "padding", "side"), STEMS)
def test_a_folded_stem_gives_the_sums_and_slopes_of_the_convolution(
    kernel: int, stride: int, padding: int, side: int
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, kernel, stride, padding)).double()
    images = torch.rand(2, 3, side, side + 3, dtype=torch.float64)
    wanted, names = outcome(model, images), list(model.state_dict())
    fold_stem(model)
    assert isinstance(model[0], FoldedConv2d)
    assert list(model.state_dict()) == names
    for found, before in zip(outcome(model, images), wanted, strict=True):
        assert torch.allclose(found, before, rtol=1e-12, atol=1e-12)


def test_only_first_layers_with_strides_are_folded() -> None:
    model = get_model("alexnet", num_classes=4)
    fold_stem(model)
    folded = [name for name, layer in model.named_modules() if isinstance(layer, FoldedConv2d)]
    assert folded == ["features.0"]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(64, 8, 3, stride=2),
        nn.Conv2d(3, 3, 3, stride=2, groups=3),
        nn.Conv2d(3, 8, 3, stride=2, dilation=2),
        nn.Conv2d(3, 8, (3, 5), stride=2),
        nn.Conv2d(3, 8, 3, stride=(2, 1)),
        nn.Conv2d(3, 8, 3, stride=2, padding=1, padding_mode="reflect"),
    ],
)
def test_other_convolutions_stay(layer: nn.Module) -> None:
    fold_stem(layer)
    assert type(layer) is nn.Conv2d
