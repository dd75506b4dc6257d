"""From cached uint8 images to what the network sees.

Training draws a crop, flips and a rotation for each image and applies them in one bilinear
resample; evaluation cuts the centre and draws nothing. Both return uint8 views; `to_network` makes
floats of them, with ImageNet's mean and deviation where an arm asks for it.

On a CPU, images go one by one through OpenCV's uint8 kernels, a share of the batch to each of
torch's threads; on a GPU, whole batches through torch's. Both give the same views, but for
differences of one grey level in 255 where the rounding of an interpolated value falls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from galaxy_mlflow.config import AugmentationSettings

IMAGENET_MEAN = (0.485, 0.456, 0.406)
"""Mean of ImageNet's red, green and blue in [0, 1], as torchvision's weights expect."""
IMAGENET_STD = (0.229, 0.224, 0.225)
"""Standard deviation of ImageNet's red, green and blue, as torchvision's weights expect."""

Corners = Literal["image", "black"]
_WARP = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
_IMAGES_A_TASK = 8

cv2.setNumThreads(1)  # images are shared out among threads here, not the rows of one image


def augment(
    images: Tensor,
    settings: AugmentationSettings,
    crop: int,
    generator: torch.Generator,
    among: tuple[int, int] | None = None,
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
    among : (int, int), optional
        Where the images begin in a batch, and its size: views are drawn for all of it. None: they
        are the batch.

    Returns
    -------
    Tensor, uint8, shape (n, crop, crop, 3)
        On the device of `images`.
    """
    start, whole = among or (0, len(images))
    affine = draw_views(whole, images.shape[1] - crop, settings, generator)
    affine = affine[start : start + len(images)]
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
    Tensor, uint8, shape (n, crop, crop, 3)
        A view of `images`.
    """
    start = (images.shape[1] - crop) // 2
    return images[:, start : start + crop, start : start + crop]


def to_network(
    views: Tensor, *, normalise: bool = False, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Return uint8 views as a network takes them.

    Parameters
    ----------
    views : Tensor, uint8, shape (n, height, width, 3)
    normalise : bool
        Subtract ImageNet's mean and divide by its deviation.
    dtype : float32 or bfloat16
        Each level is rounded to it.

    Returns
    -------
    Tensor, `dtype`, shape (n, 3, height, width)
        In [0, 1] unless normalised, in channels-last memory format, on the device of `views`.
    """
    levels = _levels(normalise=normalise)
    if views.device.type == "cpu":
        return _look_up(views, levels.to(dtype)).permute(0, 3, 1, 2)
    scale, zero = (levels[1] - levels[0]).to(views.device), levels[0].to(views.device)
    return (views * scale + zero).to(dtype).permute(0, 3, 1, 2)


def _look_up(views: Tensor, levels: Tensor) -> Tensor:
    """Return the level of each pixel; OpenCV has no bfloat16 and moves its bits as integers."""
    bits = torch.float32 if levels.dtype == torch.float32 else torch.int16
    found = torch.empty(views.shape, dtype=bits)
    pixels, table, out = views.numpy(), levels.view(bits).numpy()[None], found.numpy()

    def look_up(image: int) -> None:
        cv2.LUT(pixels[image], table, dst=out[image])

    _for_each(len(pixels), look_up)
    return found.view(levels.dtype)


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


def resample(images: Tensor, affine: Tensor, crop: int, corners: Corners = "image") -> Tensor:
    """Show each image through its affine map, bilinearly, rounded to whole grey levels.

    Parameters
    ----------
    images : Tensor, uint8, shape (n, side, side, 3)
    affine : Tensor, float32, shape (n, 2, 3)
        From view to image, as `draw_views` returns it.
    crop : int
        Pixels a side of the views.
    corners : {"image", "black"}
        With "black", what lies outside of the upright crop is zero; what lies outside of the image
        always is.

    Returns
    -------
    Tensor, uint8, shape (n, crop, crop, 3)
        On the device of `images`.
    """
    sources = images
    if corners == "black":
        sources, affine = _windows(images, affine, crop)
    if images.device.type == "cpu":
        return _warp(sources, affine, crop)
    return _sample(sources, affine, crop)


def _windows(images: Tensor, affine: Tensor, crop: int) -> tuple[Tensor, Tensor]:
    """Return the upright crops that views are turned in, and the maps into them."""
    margin = images.shape[1] - crop
    corners = (affine[:, :, 2] + margin / 2).round().long()
    unfolded = images.unfold(1, crop, 1).unfold(2, crop, 1)  # (n, margin + 1, margin + 1, 3, ...)
    rows = torch.arange(len(images))
    windows = unfolded[rows, corners[:, 1], corners[:, 0]].permute(0, 2, 3, 1).contiguous()
    turned = affine.clone()
    turned[:, :, 2] -= corners - margin / 2
    return windows, turned


def _warp(images: Tensor, affine: Tensor, crop: int) -> Tensor:
    """Resample on a CPU."""
    sources, maps = images.numpy(), _between_pixels(affine, images.shape[1], crop)
    views = np.empty((len(sources), crop, crop, 3), dtype=np.uint8)

    def warp(image: int) -> None:
        cv2.warpAffine(sources[image], maps[image], (crop, crop), dst=views[image], flags=_WARP)

    _for_each(len(sources), warp)
    return torch.from_numpy(views)


def _between_pixels(affine: Tensor, side: int, crop: int) -> NDArray[np.float64]:
    """Return maps between pixel numbers, counted from the corner: (n, 2, 3)."""
    maps = affine.double().numpy().copy()
    maps[:, :, 2] += (side - 1) / 2 - maps[:, :, :2].sum(axis=2) * (crop - 1) / 2
    return maps


def _sample(images: Tensor, affine: Tensor, crop: int) -> Tensor:
    """Resample on a GPU."""
    offset = torch.arange(crop, device=images.device) - (crop - 1) / 2
    maps = affine.to(images.device)
    along_x, along_y = (maps[:, :, axis, None] * offset for axis in (0, 1))
    turned = along_x[:, :, None, :] + along_y[:, :, :, None]
    grid = turned.add(maps[:, :, 2, None, None]).mul_(2 / images.shape[1]).permute(0, 2, 3, 1)
    planes = images.permute(0, 3, 1, 2).float()
    sampled = functional.grid_sample(planes, grid, align_corners=False)
    return sampled.round_().to(torch.uint8).permute(0, 2, 3, 1)


@lru_cache
def _levels(*, normalise: bool) -> Tensor:
    """Return what each grey level is to the network: float32 (256, 3)."""
    levels = torch.arange(256, dtype=torch.float64)[:, None].expand(256, 3) / 255
    if normalise:
        levels = (levels - torch.tensor(IMAGENET_MEAN)) / torch.tensor(IMAGENET_STD)
    return levels.float().contiguous()


def _for_each(n: int, work: Callable[[int], None]) -> None:
    """Do something for each image, with as many threads as torch has."""

    def some(start: int) -> None:
        for image in range(start, min(n, start + _IMAGES_A_TASK)):
            work(image)

    threads = torch.get_num_threads()
    starts = range(0, n, _IMAGES_A_TASK)
    if threads == 1 or len(starts) == 1:
        for start in starts:
            some(start)
    else:
        list(_pool(threads).map(some, starts))


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "images")
