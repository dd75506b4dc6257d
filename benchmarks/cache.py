"""Images a second a core: building the cache, against Pillow, ToTensor and Resize.

That is how the published study read its files, each epoch anew. Both do the same pictures on one
core, taking turns, so that what else the machine does weighs on both alike. The cache also hashes
what it reads, checks it, writes it and reads it back. The pictures are blobs on noise, saved as
JPEG. Exits with 1 below 3 times.

    python benchmarks/cache.py [--side 423] [--size 256] [--count 200] [--rounds 5]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from galaxy_mlflow.image_store import Plan, ensure_store
from galaxy_mlflow.pictures import FilePicture

BAR = 3.0


def make_pictures(folder: Path, count: int, side: int) -> list[Path]:
    """Save `count` JPEGs of a bright blob on noise, about as large as those of SDSS's cutouts."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    paths = []
    for number in range(count):
        width = rng.uniform(0.1, 0.4)
        blob = 200 * np.exp(-(x**2 + y**2 * rng.uniform(1, 4)) / width**2)
        pixels = np.clip(blob[..., None] + rng.normal(20, 3, (side, side, 3)), 0, 255)
        paths.append(folder / f"{number:05d}.jpg")
        Image.fromarray(pixels.astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def naive(paths: list[Path], size: int) -> None:
    """Decode each picture in full, make floats of it, and resize those."""
    transform = transforms.Compose([transforms.ToTensor(), transforms.Resize((size, size))])
    for path in paths:
        with Image.open(path) as image:
            transform(image.convert("RGB"))


def build(paths: list[Path], size: int) -> None:
    """Build a cache from nothing in this process: fingerprints, decoding, writing, checking."""
    pictures = tuple(FilePicture(path) for path in paths)
    with tempfile.TemporaryDirectory() as folder:
        fingerprints = tuple(picture.fingerprint() for picture in pictures)
        ensure_store(Path(folder), Plan(pictures, fingerprints, size), workers=1)


def seconds(work: Callable[[list[Path], int], None], paths: list[Path], size: int) -> float:
    """Return the wall time of one round."""
    start = time.perf_counter()
    work(paths, size)
    return time.perf_counter() - start


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in (("side", 423), ("size", 256), ("count", 200), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = make_pictures(Path(folder), given.count, given.side)
        naive(paths, given.size)  # warms the page cache for both
        rounds = [
            (seconds(naive, paths, given.size), seconds(build, paths, given.size))
            for _ in range(given.rounds)
        ]
    plain, cache = (given.count / statistics.median(times) for times in zip(*rounds, strict=True))
    ratio = statistics.median(a / b for a, b in rounds)
    print(f"{given.side} px JPEG to {given.size} px, {given.count} images, {given.rounds} rounds")
    print(f"Pillow, ToTensor, Resize: {plain:.0f} images/s a core")
    print(f"cache build: {cache:.0f} images/s a core, {ratio:.2f} times as many (bar {BAR:.0f})")
    return 0 if ratio >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
