"""Tiny image files and CSVs for tests of data sets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image


def noise(seed: int, side: int = 24) -> np.ndarray:
    """Return uint8 (side, side, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def save(path: Path, seed: int, side: int = 24) -> Path:
    """Save an RGB image that no other seed makes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(noise(seed, side)).save(path)
    return path


def write_csv(folder: Path, rows: Sequence[Sequence[str]], header: str = "path,label") -> Path:
    """Write labels.csv in `folder`."""
    path = folder / "labels.csv"
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n", "utf-8")
    return path


def two_classes(folder: Path, count: int = 6, side: int = 24) -> Path:
    """Save `count` PNGs, classes a and b in turn, and return their CSV."""
    rows = []
    for number in range(count):
        save(folder / "images" / f"{number:03d}.png", number, side)
        rows.append((f"images/{number:03d}.png", "ab"[number % 2]))
    return write_csv(folder, rows)
