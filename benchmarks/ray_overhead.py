"""What Ray costs: the pause between two jobs of a place, and a job's start from claim to batch.

The same jobs of one epoch, which are mostly pauses, are trained by the local engine and on a Ray
cluster that the command starts on this machine, in turns. All times are read from what the server
has of the runs: when each was claimed, when its epochs ended, when it was closed. The pause is from
the end of a job to the claim of the job that takes its place: the last records are sent, the run is
closed, the next network is built. What it is longer on Ray is scheduling. Images are decoded
before.

    python benchmarks/ray_overhead.py [--jobs 16] [--rounds 5] [--places 2]
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
        first = history[0].timestamp / 1e3 - history[0].value
        claimed, closed = run.info.start_time / 1e3, run.info.end_time / 1e3
        found.append(Times(claimed, first, closed))
    return sorted(found, key=lambda times: times.claimed)


def pauses(runs: Sequence[Times], places: int) -> list[float]:
    """Return the seconds from each end of a job to the claim of the one that follows it."""
    ends = sorted(times.closed for times in runs)
    return [after.claimed - end for end, after in zip(ends, runs[places:], strict=False)]


def measure(folder: Path, jobs: int, rounds: int, places: int) -> dict[str, list[list[Times]]]:
    """Train the same jobs by both engines in turns; return the times of each round's runs."""
    write_study(folder, Scale(jobs, places, 1, 0))
    one = ("--set", "training.epochs=1", "--splits")
    print(f"images decoded, one job: {run(folder, 'warm', *one, '0', '--arms', 'scratch'):.1f} s")
    engines = {"local": ("--jobs", str(places)), "ray": ("--engine", "ray")}
    found: dict[str, list[list[Times]]] = {engine: [] for engine in engines}
    for number in range(rounds):
        for engine, how in engines.items():
            name = f"{engine}-{number}"
            seconds = run(folder, name, *one, f"0-{max(2, jobs // 2) - 1}", *how)
            found[engine].append(times_of(folder, name))
            pause = median(pauses(found[engine][-1], places))
            print(f"{engine:<6} {seconds:6.1f} s for the whole command, pause {pause:.2f} s")
    return found


def report(found: dict[str, list[list[Times]]], places: int) -> bool:
    """Print what the rounds took; return whether it is within the bars."""
    local, ray = (
        [median(pauses(runs, places)) for runs in found[engine]] for engine in ("local", "ray")
    )
    more = median(there - here for here, there in zip(local, ray, strict=True))
    starts = [times.first_batch - times.claimed for runs in found["ray"] for times in runs]
    share, whole = max(0.0, more) / EPOCH, median(ray)
    print(
        f"\npause between jobs: local {median(local):.2f} s, Ray {whole:.2f} s; "
        f"{whole / EPOCH:.1%} of a job of one epoch of {EPOCH:.0f} s, {whole / EPOCH / 10:.1%} of "
        f"one of ten\nscheduling: {more:+.3f} s a job, {share:.2%} of one epoch of {EPOCH:.0f} s "
        f"(bar {BAR_SHARE:.0%}: {share / BAR_SHARE:.2f} of it)\n"
        f"claim to first batch {median(starts):.2f} s, at most {max(starts):.2f} s "
        f"(bar {BAR_START:.0f} s: {max(starts) / BAR_START:.2f} of it)"
    )
    return share <= BAR_SHARE and max(starts) <= BAR_START


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--places", type=int, default=2, help="jobs at a time on this machine")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), given.jobs, given.rounds, given.places)
        return 0 if report(found, given.places) else 1


if __name__ == "__main__":
    sys.exit(main())
