"""From cached uint8 images to what the network sees.

Training draws a crop, flips and a rotation for each image and applies them in one bilinear
resample; evaluation cuts the centre and draws nothing. Both return values in [0, 1];
`normalise` comes after, where an arm asks for it.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from galaxy_mlflow.config import AugmentationSettings

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's red, green and blue in [0, 1], as torchvision's weights expect."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of ImageNet's red, green and blue, as torchvision's weights expect."""

_SLICE_PIXELS = 2**17
"""Source pixels resampled at once on a CPU: what stays in its cache beats a whole batch."""
_NOWHERE = 2.0
"""A coordinate of `grid_sample` that lies outside of any image."""


def augment(
    images: Tensor, settings: AugmentationSettings, crop: int, generator: torch.Generator
) -> Tensor:
    """Draw a random view of each image, in one resample.

    Parameters
    ----------
    images : Tensor, uint8, shape (n, side, side, 3)
        On any device.
    settings : AugmentationSettings
        What is drawn. `corners = "black"` repeats a rotation after the crop: what turns in from
        outside of the crop is black. `corners = "image"` shows there what the image holds.
    crop : int
        Pixels a side of the views, at most `side`.
    generator : torch.Generator
        On the CPU, so that a seed gives the same views on every device.

    Returns
    -------
    Tensor, float32, shape (n, 3, crop, crop)
        In [0, 1], in channels-last memory format, on the device of `images`.
    """
    affine = draw_views(len(images), images.shape[1] - crop, settings, generator)
    return resample(images, affine, crop, settings.corners)


def centre(images: Tensor, crop: int) -> Tensor:
    """Cut the centre out of each image: what evaluation sees, with no resample.

    Parameters
    ----------
    images : Tensor, uint8, shape (n, side, side, 3)
    crop : int
        Pixels a side, at most `side`; an odd margin leaves its extra pixel on the far side.

    Returns
    -------
    Tensor, float32, shape (n, 3, crop, crop)
        In [0, 1], in channels-last memory format.
    """
    start = (images.shape[1] - crop) // 2
    window = images[:, start : start + crop, start : start + crop]
    return window.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.channels_last).div_(255)


def normalise(images: Tensor) -> Tensor:
    """Return images (n, 3, height, width) in [0, 1], less ImageNet's mean, over its deviation."""
    mean = images.new_tensor(IMAGENET_MEAN).view(3, 1, 1)
    deviation = images.new_tensor(IMAGENET_STD).view(3, 1, 1)
    return (images - mean).div_(deviation)


def draw_views(
    n: int, margin: int, settings: AugmentationSettings, generator: torch.Generator
) -> Tensor:
    """Draw the views of `n` images as affine maps from view to image.

    Five numbers are drawn for each image whatever the settings, so that one setting changes
    nothing but what it names.

    Parameters
    ----------
    n : int
        Number of views.
    margin : int
        Pixels by which an image is larger than its view.
    settings : AugmentationSettings
        What is random.
    generator : torch.Generator
        On the CPU.

    Returns
    -------
    Tensor, float32, shape (n, 2, 3)
        A point (x, y) of the view, in pixels from its centre, shows the point
        `affine @ (x, y, 1)` of the image, in pixels from the image's centre.
    """
    chance = torch.rand(5, n, generator=generator, dtype=torch.float64)
    start = torch.floor(chance[:2] * (margin + 1))
    if not settings.crop:
        start = torch.full_like(start, margin // 2)
    flip_x = 1 - 2.0 * (chance[2] < settings.horizontal_flip * 0.5)
    flip_y = 1 - 2.0 * (chance[3] < settings.vertical_flip * 0.5)
    angle = (2 * chance[4] - 1) * math.radians(settings.rotation)
    cos, sin = torch.cos(angle), torch.sin(angle)
    shift_x, shift_y = start - margin / 2
    rows = (flip_x * cos, -flip_x * sin, shift_x, flip_y * sin, flip_y * cos, shift_y)
    return torch.stack(rows, dim=1).view(n, 2, 3).float()


def resample(
    images: Tensor, affine: Tensor, crop: int, corners: Literal["image", "black"] = "image"
) -> Tensor:
    """Show each image through its affine map, bilinearly.

    Parameters
    ----------
    images : Tensor, uint8, shape (n, side, side, 3)
    affine : Tensor, float32, shape (n, 2, 3)
        From view to image, as `draw_views` returns it.
    crop : int
        Pixels a side of the views.
    corners : {"image", "black"}
        With "black", points outside of the upright crop are zero; points outside of the image
        always are.

    Returns
    -------
    Tensor, float32, shape (n, 3, crop, crop)
        In [0, 1], in channels-last memory format, on the device of `images`.
    """
    n, side = images.shape[:2]
    views = images.new_empty((n, 3, crop, crop), dtype=torch.float32)
    views = views.to(memory_format=torch.channels_last)
    affine = affine.to(images.device)
    at_once = max(1, _SLICE_PIXELS // side**2 if images.device.type == "cpu" else n)
    for start in range(0, n, at_once):
        part = slice(start, start + at_once)
        planes = images[part].permute(0, 3, 1, 2)
        planes = planes.to(torch.float32, memory_format=torch.contiguous_format)
        grid = _grid(affine[part], side, crop, black=corners == "black")
        sampled = functional.grid_sample(planes, grid, align_corners=False)
        torch.mul(sampled, 1 / 255, out=views[part])
    return views


def _grid(affine: Tensor, side: int, crop: int, *, black: bool) -> Tensor:
    """Return where `grid_sample` looks: (n, crop, crop, 2), stored as two planes."""
    offset = torch.arange(crop, device=affine.device) - (crop - 1) / 2
    along_x = affine[:, :, 0, None] * offset
    along_y = affine[:, :, 1, None] * offset
    turned = along_x[:, :, None, :] + along_y[:, :, :, None]
    planes = turned.add(affine[:, :, 2, None, None]).mul_(2 / side)
    if black:
        planes.masked_fill_(turned.abs() > crop / 2, _NOWHERE)
    return planes.permute(0, 2, 3, 1)
