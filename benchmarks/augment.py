"""The fused resample of training against torchvision's transforms, image by image.

Both make a random crop, two flips and a rotation of the same uint8 images, bilinearly, and end with
one float32 batch. They take turns; the ratio is that of the medians of five rounds.

    python benchmarks/augment.py [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2

from galaxy_mlflow.augment import augment, centre
from galaxy_mlflow.config import AugmentationSettings

ROUNDS = 5
SIZES = ((64, 56, 384), (256, 224, 48))
"""Pixels a side of image and crop, and images in a batch."""


def main() -> None:
    """Print one row an image size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    print("side  crop  torchvision  fused  fused, black corners  centre  (images/s)  ratio")
    for side, crop, n in SIZES:
        rates = measure(side, crop, n)
        ratio = rates["fused"] / rates["torchvision"]
        shown = "  ".join(f"{rate:,.0f}" for rate in rates.values())
        print(f"{side}  {crop}  {shown}  {ratio:.1f}x")


def measure(side: int, crop: int, n: int) -> dict[str, float]:
    """Return the median images a second of each way."""
    images = torch.randint(0, 256, (n, side, side, 3), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    ways: dict[str, Callable[[], Tensor]] = {
        "torchvision": lambda: one_by_one(images, crop),
        "fused": lambda: augment(images, AugmentationSettings(), crop, generator),
        "black": lambda: augment(images, AugmentationSettings(corners="black"), crop, generator),
        "centre": lambda: centre(images, crop),
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for counted in (False, *[True] * ROUNDS):
        for way, make in ways.items():
            started = time.perf_counter()
            make()
            if counted:
                seconds[way].append(time.perf_counter() - started)
    return {way: n / statistics.median(times) for way, times in seconds.items()}


def one_by_one(images: Tensor, crop: int) -> Tensor:
    """Return what a data set with torchvision's transforms and a collating loader give."""
    transform = v2.Compose(
        [
            v2.RandomCrop(crop),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomRotation(180, interpolation=InterpolationMode.BILINEAR),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    batch = torch.stack([transform(image) for image in images.permute(0, 3, 1, 2)])
    return batch.contiguous(memory_format=torch.channels_last)


if __name__ == "__main__":
    main()
