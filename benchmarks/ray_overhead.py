"""What Ray costs: the pause between two jobs of a place, and a job's start from claim to batch.

Two small studies run on a Ray cluster that the command starts on this machine: many jobs of one
epoch, which are all scheduling, and some of several epochs. All times are read from what the
server has of the runs: when each was claimed, when its epochs ended, when it was closed. The pause
is from the end of a job to the claim of the job that takes its place. Images are decoded before.

    python benchmarks/ray_overhead.py [--jobs 24] [--epochs 6] [--places 2]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from scale_dispatch import Scale, write_study

from galaxy_mlflow import schema
from galaxy_mlflow.home import HOME_VARIABLE, Home

EPOCH = 5.0  # seconds of the epochs that overhead is set against
BAR_SHARE, BAR_START = 0.03, 5.0


@dataclass(frozen=True)
class Times:
    """One run by the clock of its machine, in seconds."""

    claimed: float
    first_batch: float
    recording: float  # a run's seconds between the end of an epoch's work and the next, an epoch
    closed: float


def run(folder: Path, name: str, *arguments: str) -> float:
    """Call `run`; return its seconds."""
    home = {HOME_VARIABLE: str(folder / "home"), "OMP_NUM_THREADS": "1"}
    study = [str(folder / "large.toml"), "--set", f"name={name}", "--threads", "1"]
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "galaxy_mlflow.cli", "run", *study, *arguments],
        env={**os.environ, **home},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stdout)
    return time.perf_counter() - start


def times_of(folder: Path, name: str) -> list[Times]:
    """Read the times of a study's runs."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=Home(folder / "home").database_uri)
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        raise SystemExit(f"no study {name} was recorded")
    found = []
    for run in client.search_runs([experiment.experiment_id]):
        history = client.get_metric_history(run.info.run_id, schema.EPOCH_SECONDS)
        history.sort(key=lambda point: point.step)
        spans = [
            (after.timestamp - before.timestamp) / 1e3 - after.value
            for before, after in pairwise(history)
        ]
        first = history[0].timestamp / 1e3 - history[0].value
        claimed, closed = run.info.start_time / 1e3, run.info.end_time / 1e3
        found.append(Times(claimed, first, median(spans or [0.0]), closed))
    return sorted(found, key=lambda times: times.claimed)


def pauses(runs: Sequence[Times], places: int) -> list[float]:
    """Return the seconds from each end of a job to the claim of the one that follows it."""
    ends = sorted(times.closed for times in runs)
    return [after.claimed - end for end, after in zip(ends, runs[places:], strict=False)]


def report(name: str, runs: Sequence[Times], places: int, epochs: int) -> bool:
    """Print what the runs took; return whether it is within the bars."""
    pause = median(pauses(runs, places))
    starts = [times.first_batch - times.claimed for times in runs]
    recording = median(times.recording for times in runs)
    share = max(0.0, pause) / (epochs * EPOCH)
    print(
        f"{name}: {len(runs)} jobs of {epochs} epochs, {places} at a time\n"
        f"  pause between jobs {pause:.2f} s: {share:.2%} of {epochs} epochs of {EPOCH:.0f} s "
        f"(bar {BAR_SHARE:.0%}: {share / BAR_SHARE:.2f} of it)\n"
        f"  claim to first batch {median(starts):.2f} s, at most {max(starts):.2f} s "
        f"(bar {BAR_START:.0f} s: {max(starts) / BAR_START:.2f} of it)\n"
        f"  record and checkpoint {recording:.3f} s an epoch"
    )
    return share <= BAR_SHARE and max(starts) <= BAR_START


def measure(folder: Path, jobs: int, epochs: int, places: int) -> bool:
    """Run both studies; print what they took."""
    write_study(folder, Scale(jobs, places, 1, 0))
    once = ("--set", "training.epochs=1", "--splits", "0", "--arms", "scratch")
    print(f"images decoded, one job here: {run(folder, 'warm', *once):.1f} s")
    good = True
    for name, count, number in (("short", jobs, 1), ("longer", jobs // 3, epochs)):
        splits = f"0-{max(2, count // 2) - 1}"
        how = ("--engine", "ray", "--splits", splits, "--set", f"training.epochs={number}")
        print(f"\n{run(folder, name, *how):.1f} s for the whole command")
        good = report(name, times_of(folder, name), places, number) and good
    return good


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=24)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--places", type=int, default=2, help="jobs at a time on this machine")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return 0 if measure(Path(folder), given.jobs, given.epochs, given.places) else 1


if __name__ == "__main__":
    sys.exit(main())
