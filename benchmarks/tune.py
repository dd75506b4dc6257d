"""Time `galaxy-mlflow tune demo` whole: two arms, equal trials, against what it may take.

    python benchmarks/tune.py [--jobs 2] [--trials 12]

The demo's images and fractal weights are made on the way. Prints minutes and their ratio to the bar
(below 1 is within it); the trials of each arm and how they ended; and the seconds of a second call,
which finds nothing to do.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path

BAR_MINUTES = 10.0


def main() -> int:
    """Tune the demo in an empty folder, and check what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--trials", type=int, default=12)
    given = parser.parse_args()
    options = ["--jobs", str(given.jobs), "--trials", str(given.trials)]
    with tempfile.TemporaryDirectory() as folder:
        minutes = timed(folder, options) / 60
        print(f"tuning      {minutes:6.1f} min  {minutes / BAR_MINUTES:.2f} of the bar")
        equal = show_trials(Path(folder) / "demo-tuned.toml", given.trials)
        print(f"second call {timed(folder, options):6.1f} s")
    return 0 if minutes <= BAR_MINUTES and equal else 1


def timed(folder: str, options: list[str]) -> float:
    """Return the seconds of one call of `tune`."""
    command = [str(Path(sys.executable).with_name("galaxy-mlflow")), "tune", "demo", *options]
    environment = {**os.environ, "GALAXY_MLFLOW_HOME": f"{folder}/home"}
    started = time.monotonic()
    subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - started


def show_trials(file: Path, wanted: int) -> bool:
    """Print how each arm was tuned; return whether all had the same number of trials."""
    tuned = tomllib.loads(file.read_text())["tuned"]
    for arm, record in tuned.items():
        ended = ", ".join(f"{record[how]} {how}" for how in ("completed", "pruned", "failed"))
        worth = f"{record['untuned_value']:.3f} untuned, {record['best_value']:.3f} best"
        print(f"{arm}: {record['trials']} trials ({ended}), {record['epochs']} epochs, {worth}")
    return {record["trials"] for record in tuned.values()} == {wanted}


if __name__ == "__main__":
    sys.exit(main())
