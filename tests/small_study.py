"""A study small enough for tests: three classes of made-up pictures, a small real network."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from galaxy_mlflow.cache import GalaxyData, open_data
from galaxy_mlflow.config import Study
from galaxy_mlflow.job import TrainingJob
from galaxy_mlflow.prepare import draw_splits
from galaxy_mlflow.study_file import load_study_file

CLASSES = ("disk", "ring", "noise")
STUDY = """\
[data]
kind = "csv"
path = "labels.csv"
image_size = 32

[splits]
count = 2

[training]
architecture = "mobilenet_v3_small"  # dropout and batch norm: both keep state that must resume
epochs = 3
batch_size = 16
optimizer = "adamw"
learning_rate = 0.002

[arm.one]
[arm.two]
schedule = "cosine"
"""


def write_images(folder: Path, n: int = 60, side: int = 32) -> Path:
    """Write `n` pictures in three classes and the CSV that lists them; return the CSV."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(n):
        label = CLASSES[i % 3]
        radius = np.hypot(x - rng.normal(0, 0.1), y - rng.normal(0, 0.1))
        shape = {"disk": radius < 0.5, "ring": abs(radius - 0.6) < 0.15, "noise": radius < 0}
        picture = 90.0 * shape[label][..., None] + rng.normal(80, 30, (side, side, 3))
        name = f"images/{i:03d}.png"
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(folder / name)
        rows.append({"id": f"g{i:03d}", "path": name, "label": label})
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "path", "label"])
        writer.writeheader()
        writer.writerows(rows)
    return folder / "labels.csv"


def write_study(folder: Path, text: str = STUDY) -> Path:
    """Write the pictures and a study file about them; return the study file."""
    write_images(folder)
    path = folder / "small.toml"
    path.write_text(text)
    return path


def load(folder: Path, *overrides: str) -> tuple[Study, GalaxyData]:
    """Return the small study and its data, decoded."""
    study = load_study_file(write_study(folder), overrides)
    return study, open_data(study.data, folder / "cache")


def job_of(study: Study, data: GalaxyData, arm: str = "one", split: int = 0) -> TrainingJob:
    """Return one job of the small study."""
    return TrainingJob(study, arm, draw_splits(study, data, [split])[split], data)
