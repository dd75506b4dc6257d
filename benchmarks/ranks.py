"""Images a second of one and of two processor ranks, and how far apart their evaluations are.

    python benchmarks/ranks.py [--architecture resnet18] [--galaxies 480] [--side 64] [--rounds 3]

Simulated galaxies; each way trains three epochs in its turn, the first of which is not counted.
Two ranks are set against one with as many threads in all (what being two processes costs), and with
as many each (what a second core brings). Last, how long the second rank takes to start, and the
largest difference of any metric where both evaluate the same weights. No bar: ranks of one
processor are there for tests; GPUs are what ranks are for.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from galaxy_mlflow.home import Home
from galaxy_mlflow.job import TrainingJob
from galaxy_mlflow.prepare import draw_splits, prepare_data
from galaxy_mlflow.ranks import team_of
from galaxy_mlflow.schema import IMAGES_PER_SECOND, TIMING_METRICS
from galaxy_mlflow.study_file import load_study_file
from galaxy_mlflow.train import Trainer

STUDY = """\
name = "ranks"
[data]
kind = "simulated"
n = {galaxies}
image_size = {side}
[splits]
count = 1
[arm.one]
architecture = "{architecture}"
epochs = 3
learning_rate = 1e-20
"""
"""With this rate no weight ever changes: both ways evaluate the same ones."""


TWO = "two ranks of one thread"
WAYS = {"one rank, two threads": (1, 2), "one rank, one thread": (1, 1), TWO: (2, 2)}
"""Ranks, and threads of all of them together."""


@dataclass(frozen=True)
class Found:
    """What one way of training gave."""

    images_per_second: float
    seconds_to_start: float
    metrics: dict[str, float]  # of the first epoch


def main() -> None:
    """Train in each way in turn, and print what came of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--architecture", default="resnet18")
    parser.add_argument("--galaxies", type=int, default=480)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        job = job_in(Path(folder), asked)
        rounds = [{way: train(job, *WAYS[way]) for way in WAYS} for _ in range(asked.rounds)]
    for one in ("one rank, two threads", "one rank, one thread"):
        compare(rounds, one)
    start = median(found[TWO].seconds_to_start for found in rounds)
    print(f"the second rank takes {start:.1f} s to start")
    apart = max(difference(found["one rank, one thread"], found[TWO]) for found in rounds)
    print(f"metrics of the same weights differ by at most {apart:.1e}")


def job_in(folder: Path, asked: argparse.Namespace) -> TrainingJob:
    """Make the galaxies and return the job that all ways train."""
    file = folder / "ranks.toml"
    file.write_text(STUDY.format(**vars(asked)))
    study, home = load_study_file(str(file), []), Home(folder / "home")
    data = prepare_data(study, home)
    return TrainingJob(study, "one", draw_splits(study, data, [0])[0], data)


def train(job: TrainingJob, ranks: int, threads: int) -> Found:
    """Train a job by some ranks that have some threads together."""
    trainer = Trainer(replace(job, others=("cpu",) * (ranks - 1)))
    started = time.perf_counter()
    with team_of(trainer, threads) as team:
        ready = time.perf_counter() - started
        epochs = [record.metrics for record in trainer.epochs(team)]
    speeds = [metrics[IMAGES_PER_SECOND] for metrics in epochs[1:]]
    return Found(sum(speeds) / len(speeds), ready, epochs[0])


def compare(rounds: Sequence[Mapping[str, Found]], one: str) -> None:
    """Print the throughput of one way and of two ranks, and their ratio: medians over rounds."""
    alone, both = (median(found[way].images_per_second for found in rounds) for way in (one, TWO))
    ratio = median(f[TWO].images_per_second / f[one].images_per_second for f in rounds)
    print(f"{one}: {alone:.0f} images/s; {TWO}: {both:.0f}; ratio {ratio:.2f}")


def difference(one: Found, two: Found) -> float:
    """Return the largest difference of any metric but those of time."""
    names = one.metrics.keys() - set(TIMING_METRICS)
    return max(abs(one.metrics[name] - two.metrics[name]) for name in names)


if __name__ == "__main__":
    main()
