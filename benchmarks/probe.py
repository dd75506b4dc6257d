"""Linear probes of one hundred splits on kept features, against the same epochs on images.

    python benchmarks/probe.py [--csv labels.csv] [--galaxies 3531] [--splits 100]

Without a CSV of images (columns path, label) the galaxies are simulated. One run makes images,
initial weights and features; then all splits are trained, 20 epochs each, three at once, tracked as
ever: seconds and their ratio to the bar (below 1 is within it). Last, an epoch in both ways.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from galaxy_mlflow.features import ensure_features
from galaxy_mlflow.home import Home
from galaxy_mlflow.job import TrainingJob
from galaxy_mlflow.prepare import draw_splits, prepare_data, prepare_weights
from galaxy_mlflow.study_file import load_study_file
from galaxy_mlflow.tracking import MlflowStore
from galaxy_mlflow.train import Trainer

BAR_SECONDS = 120.0
JOBS = 3
"""A run waits for the server at its end; meanwhile its core has another one to do."""
STUDY = """\
name = "probe"
[data]
{data}
image_size = 64
[splits]
count = {splits}
[training]
architecture = "shufflenet_v2_x0_5"
freeze = "features"
epochs = 20
batch_size = 64
optimizer = "adamw"
learning_rate = 0.001
schedule = "cosine"
[arm.fractal]
weights = "fractal"
"""


def main() -> int:
    """Time the study, then one epoch of it in both ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--galaxies", type=int, default=3531)
    parser.add_argument("--splits", type=int, default=100)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulated = f'kind = "simulated"\nn = {given.galaxies}'
        own = f'kind = "csv"\npath = "{given.csv.resolve()}"' if given.csv else simulated
        study = folder / "probe.toml"
        study.write_text(STUDY.format(data=own, splits=given.splits + 1))
        os.environ["GALAXY_MLFLOW_HOME"] = str(folder / "home")
        seconds = time_splits(study, given.splits)
        print(f"{given.splits} splits {seconds:6.1f} s    {seconds / BAR_SECONDS:.2f} of the bar")
        compare_epochs(study)
        return 0 if seconds <= BAR_SECONDS else 1


def time_splits(study: Path, splits: int) -> float:
    """Return the seconds of all splits but the one that makes the features."""
    galaxy_mlflow(study, "0", 1)
    started = time.perf_counter()
    galaxy_mlflow(study, f"1-{splits}", JOBS)
    return time.perf_counter() - started


def galaxy_mlflow(study: Path, splits: str, jobs: int) -> None:
    """Train some splits by the command line."""
    command = str(Path(sys.executable).with_name("galaxy-mlflow"))
    options = ["--splits", splits, "--jobs", str(jobs)]
    subprocess.run([command, "run", study, *options], check=True, stdout=subprocess.DEVNULL)


def compare_epochs(file: Path) -> None:
    """Time the second epoch of one split on images and on features."""
    study, home = load_study_file(str(file), []), Home.default()
    data = prepare_data(study, home)
    weights = prepare_weights(study, ["fractal"], MlflowStore(home.tracking_uri, home))
    split = draw_splits(study, data, [0])[0]
    job = TrainingJob(study, "fractal", split, data, weights["fractal"])
    on_images = second_epoch(Trainer(job))
    on_features = second_epoch(Trainer(job, features=ensure_features(job, home.features)))
    print(
        f"an epoch {on_images:.2f} s on images, {on_features:.3f} s on features: "
        f"{on_images / on_features:.0f} times"
    )


def second_epoch(trainer: Trainer) -> float:
    """Return the seconds of a run's second epoch."""
    epochs = trainer.epochs()
    next(epochs)
    started = time.perf_counter()
    next(epochs)
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
