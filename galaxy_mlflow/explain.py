"""What in an image spoke for a class: Grad-CAM of a trained network, and its picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from captum.attr import LayerAttribution, LayerGradCam
from numpy.typing import NDArray
from torch import Tensor, nn

from galaxy_mlflow.augment import centre, to_network
from galaxy_mlflow.errors import WeightsError
from galaxy_mlflow.forward import logits_of
from galaxy_mlflow.pictures import Pixels
from galaxy_mlflow.trained import TrainedRun

Heat = NDArray[np.float32]

LEAST_GRID: Final = 4
"""Cells a side that a layer's map must have: a coarser one says nothing of where."""
_COLOURS: Final = "inferno"
_STRENGTH: Final = 0.8
"""Of the heat's light, where it is highest."""
_OUTSIDE: Final = 0.4
"""Light that is left of what the network does not see."""


def grad_cam(trained: TrainedRun, images: Pixels, targets: Sequence[str]) -> Heat:
    """Return where each image spoke for a class, by captum's Grad-CAM (Selvaraju et al. 2017).

    Parameters
    ----------
    images : uint8 (n, size, size, 3), decoded as for the run's training
    targets : n class keys

    Returns
    -------
    float32 (n, size, size) in [0, 1], 1 where an image spoke most for its class: the map of the
    last convolutional layer of at least `LEAST_GRID` cells a side, interpolated. It is 0 outside
    of the centre, which is all that the network sees, and all over an image that did not speak
    for its class at all.

    Raises
    ------
    WeightsError
        The run's weights cannot be used, it knows no such class, or its network has no such layer.
    """
    numbers = [_number(trained, target) for target in targets]
    network = _without_inplace(trained.network())
    views = centre(torch.from_numpy(images), trained.crop)
    batch = to_network(views, normalise=trained.arm.normalize)
    layer = last_map(network, batch[:1])

    def forward(given: Tensor) -> Tensor:
        return logits_of(network, given, trained.arm)

    cam = LayerGradCam(forward, layer)
    maps = cam.attribute(batch, target=numbers, relu_attributions=True).detach().float()
    smooth = LayerAttribution.interpolate(maps, (trained.crop, trained.crop), "bicubic")
    return _in_place(smooth[:, 0], images.shape[1])


def last_map(network: nn.Module, batch: Tensor) -> nn.Module:
    """Return the last convolution, in the order of computing, with a map fine enough to look at.

    Raises
    ------
    WeightsError
        There is none: vision transformers have a single convolution, which cuts the image into
        patches and has no idea of a class.
    """
    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    fine: list[nn.Module] = []

    def note(layer: nn.Module, _: Any, out: Tensor) -> None:
        if min(out.shape[-2:]) >= LEAST_GRID:
            fine.append(layer)

    hooks = [layer.register_forward_hook(note) for layer in convolutions]
    try:
        with torch.no_grad():
            network(batch)
    finally:
        for hook in hooks:
            hook.remove()
    if len(convolutions) < 2 or not fine:
        raise WeightsError("the network has no convolutional layer that Grad-CAM can look at")
    return fine[-1]


def overlay(image: Pixels, heat: Heat, crop: int) -> Pixels:
    """Return an image (size, size, 3) with its heat (size, size) shining through it.

    Light is added as two slides on one screen add it, so that the galaxy is seen within the heat.
    What lies outside of the centre of `crop` pixels a side, which the network never saw, is
    darkened.
    """
    import matplotlib

    light = np.full((*heat.shape, 1), _OUTSIDE)
    inside = _inside(len(image), crop)
    light[inside, inside] = 1
    glow = _STRENGTH * heat[..., None] * matplotlib.colormaps[_COLOURS](heat)[..., :3]
    dark = (1 - image * light / 255) * (1 - glow)
    mixed: Pixels = (255 * (1 - dark)).round().astype(np.uint8)
    return mixed


def _inside(size: int, crop: int) -> slice:
    start = (size - crop) // 2
    return slice(start, start + crop)


def _number(trained: TrainedRun, target: str) -> int:
    if target not in trained.classes:
        raise WeightsError(f"run {trained.run_id} knows no class {target!r}")
    return trained.classes.index(target)


def _without_inplace(network: nn.Module) -> nn.Module:
    """Have no layer overwrite what the layer before it gave: its map is read afterwards."""
    for layer in network.modules():
        if hasattr(layer, "inplace"):
            layer.inplace = False  # type: ignore[assignment]
    return network


def _in_place(maps: Tensor, size: int) -> Heat:
    """Scale each map to its own maximum, and lay it where the view lies in the image."""
    highest = maps.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
    inside = _inside(size, maps.shape[-1])
    whole = torch.zeros(len(maps), size, size)
    whole[:, inside, inside] = maps / highest
    heat: Heat = whole.clamp_(0, 1).numpy()
    return heat
