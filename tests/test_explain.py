"""Grad-CAM of real networks: shape, range, the class asked about, and where it looks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_study import CLASSES
from torch import nn

from galaxy_mlflow.config import ArmSettings
from galaxy_mlflow.errors import WeightsError
from galaxy_mlflow.explain import LEAST_GRID, grad_cam, last_map, overlay
from galaxy_mlflow.forward import logits_of
from galaxy_mlflow.models import build_model
from galaxy_mlflow.pictures import Pixels
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.trained import TrainedRun

SIZE, CROP = 72, 64
CONVOLUTIONAL = ("alexnet", "resnet18", "squeezenet1_1", "densenet121", "convnext_tiny")


def drawn(folder: Path, crop: int = CROP, **settings: object) -> TrainedRun:
    """Return a run whose weights are drawn from a seed."""
    arm = ArmSettings.model_validate({"architecture": "resnet18", "weights": "none", **settings})
    file = folder / "best.safetensors"
    save_file(build_model(arm, len(CLASSES), crop, seed=3).state_dict(), file)
    return TrainedRun("run", JobId("s", 0, "one"), arm, SIZE, crop, CLASSES, file)


def noise(n: int = 2, size: int = SIZE) -> Pixels:
    return np.random.default_rng(5).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


@pytest.mark.parametrize("architecture", CONVOLUTIONAL)
def test_a_map_has_the_images_shape_and_lies_between_0_and_1_inside_of_the_view(
    architecture: str, tmp_path: Path
) -> None:
    trained = drawn(tmp_path, architecture=architecture)
    heat = grad_cam(trained, noise(), [CLASSES[0], CLASSES[1]])
    assert heat.shape == (2, SIZE, SIZE)
    assert heat.dtype == np.float32
    assert heat.min() == 0
    margin = (SIZE - CROP) // 2
    outside = np.ones((SIZE, SIZE), dtype=bool)
    outside[margin : margin + CROP, margin : margin + CROP] = False
    assert not heat[:, outside].any()
    for one in heat:
        assert one.max() in (0, 1)


def test_a_map_is_about_the_class_asked_for(tmp_path: Path) -> None:
    trained = drawn(tmp_path)
    images = np.repeat(noise(1), 3, axis=0)
    heat = grad_cam(trained, images, CLASSES)
    assert not np.array_equal(heat[0], heat[1])
    alone = grad_cam(trained, images[:1], CLASSES[1:2])[0]
    assert np.allclose(alone, heat[1], atol=1e-3)


def test_the_map_is_where_the_network_looks(tmp_path: Path) -> None:
    """A network that adds up one corner's light is shown to look at that corner."""

    class Corner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 1, 1)
            self.last = nn.Conv2d(1, 1, 8, stride=8)
            self.head = nn.Linear(64, 3)
            nn.init.ones_(self.stem.weight)
            nn.init.constant_(self.last.weight, 1 / 64)
            nn.init.zeros_(self.head.weight)
            self.head.weight.data[1].view(8, 8)[:3, :3] = 1

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(self.last(self.stem(x)).flatten(1))
            return logits

    class Looking(TrainedRun):
        def network(self, device: str = "cpu") -> nn.Module:
            return Corner().eval()

    looking = Looking(**vars(drawn(tmp_path)))
    image = np.full((1, SIZE, SIZE, 3), 20, dtype=np.uint8)
    image[:, 8:24, 8:24] = 255
    (heat,) = grad_cam(looking, image, [CLASSES[1]])
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert 4 <= row < 28
    assert 4 <= column < 28
    assert heat[40:, 40:].max() < 0.3


def test_bf16_and_normalised_arms_are_explained_as_they_were_trained(tmp_path: Path) -> None:
    for settings in ({"precision": "bf16"}, {"normalize": True}):
        heat = grad_cam(drawn(tmp_path, **settings), noise(), CLASSES[:2])
        assert heat.any()


def test_explaining_leaves_the_networks_answers_alone(tmp_path: Path) -> None:
    trained = drawn(tmp_path, architecture="alexnet")
    x = torch.rand(1, 3, CROP, CROP, generator=torch.Generator().manual_seed(1))
    before = logits_of(trained.network(), x, trained.arm)
    grad_cam(trained, noise(), CLASSES[:2])
    assert torch.equal(before, logits_of(trained.network(), x, trained.arm))


def test_the_last_fine_convolution_is_looked_at(tmp_path: Path) -> None:
    network = drawn(tmp_path).network()
    names = {layer: name for name, layer in network.named_modules()}
    assert names[last_map(network, torch.zeros(1, 3, 128, 128))] == "layer4.1.conv2"
    coarse = names[last_map(network, torch.zeros(1, 3, CROP, CROP))]
    assert (CROP // 32, coarse) == (2, "layer3.1.conv2")
    assert CROP // 16 == LEAST_GRID


def test_a_transformer_has_no_map_and_says_so(tmp_path: Path) -> None:
    trained = drawn(tmp_path, architecture="vit_b_32")
    with pytest.raises(WeightsError, match="no convolutional layer that Grad-CAM can look at"):
        grad_cam(trained, noise(), CLASSES[:2])


def test_a_class_that_the_network_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="knows no class 'bar'"):
        grad_cam(drawn(tmp_path), noise(1), ["bar"])


def test_an_overlay_colours_the_heat_and_darkens_what_the_network_did_not_see() -> None:
    image = np.full((SIZE, SIZE, 3), 100, dtype=np.uint8)
    heat = np.zeros((SIZE, SIZE), dtype=np.float32)
    heat[30:34, 30:34] = 1
    mixed = overlay(image, heat, CROP)
    assert (mixed.dtype, mixed.shape) == (np.uint8, image.shape)
    assert (mixed[20, 20] == 100).all()
    assert (mixed[0, 0] == 40).all()
    assert mixed[31, 31].tolist() != [100, 100, 100]
    assert (image == 100).all()
