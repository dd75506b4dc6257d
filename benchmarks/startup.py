"""Seconds until something happens: `--help`, and the first batch of a run whose cache is warm.

Everything is measured in new processes, sides taking turns, as medians over the rounds:

- `--help`, beside bare Python and `import typer`, which the command line is made of;
- from the start of `run` to its first batch, beside `import torch` alone, which is its floor; the
  first batch is when the first epoch began, as the run's own record has it;
- from claim to first batch in a process that is up: the second run of the same command.

    python benchmarks/startup.py [--rounds 5]

Returns 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median

from cache import make_pictures

HELP_SECONDS = 0.3
RUN_SECONDS = 2.0
STUDY = """\
[data]
kind = "csv"
path = "labels.csv"
image_size = 72
crop_size = 64
[splits]
count = 1000
n_test = 16
[training]
architecture = "alexnet"
batch_size = 16
learning_rate = 0.001
epochs = 1
[arm.ours]
"""
CLI = ("-m", "galaxy_mlflow.cli")
BEGUN = """
SELECT runs.start_time, metrics.timestamp - 1000 * metrics.value
FROM runs JOIN metrics USING (run_uuid)
WHERE metrics.key = 'epoch_seconds' ORDER BY runs.start_time DESC LIMIT 2
"""


def seconds(*words: str) -> float:
    """Return the wall time of a Python process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def make_study(folder: Path) -> None:
    """Write a study over a few pictures, and run it once: that fills its cache."""
    files = make_pictures(folder, 64, 96)
    rows = [f"{file.name},{'ab'[place % 2]}" for place, file in enumerate(files)]
    (folder / "labels.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    (folder / "study.toml").write_text(STUDY)
    train(folder, "0")


def train(folder: Path, splits: str) -> None:
    """Train splits of the study in one process."""
    environment = {**os.environ, "GALAXY_MLFLOW_HOME": str(folder / "home")}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, *CLI, "run", "study.toml", "--splits", splits]
    subprocess.run(command, check=True, cwd=folder, env=environment, stdout=subprocess.DEVNULL)


def to_first_batch(folder: Path, split: int) -> tuple[float, float]:
    """Return seconds to the first batch: of a new process, and of the next run in it."""
    started = time.time()
    train(folder, f"{split}-{split + 1}")
    with closing(sqlite3.connect(folder / "home" / "mlflow.db")) as database:
        (claimed, next_batch), (_, first_batch) = database.execute(BEGUN).fetchall()
    return first_batch / 1000 - started, (next_batch - claimed) / 1000


def measure_help(rounds: int) -> bool:
    """Print the seconds of `--help`; return whether they are within the bar."""
    sides = (("-c", "pass"), ("-c", "import typer"), (*CLI, "--help"))
    times = [[seconds(*words) for words in sides] for _ in range(rounds)]
    python, typer, shown = (median(side) for side in zip(*times, strict=True))
    print(f"--help {shown:.2f} s, {shown / HELP_SECONDS:.2f} of the bar of {HELP_SECONDS} s")
    print(f"  bare Python {python:.2f} s, import typer {typer:.2f} s ({shown / typer:.1f} times)")
    return shown <= HELP_SECONDS


def measure_run(rounds: int) -> bool:
    """Print the seconds to the first batch; return whether they are within the bar."""
    with tempfile.TemporaryDirectory() as name:
        make_study(Path(name))
        times = [
            (seconds("-c", "import torch"), *to_first_batch(Path(name), 1 + 2 * place))
            for place in range(rounds)
        ]
    torch, first, following = (median(side) for side in zip(*times, strict=True))
    print(f"first batch {first:.2f} s, {first / RUN_SECONDS:.2f} of the bar of {RUN_SECONDS:.0f} s")
    print(f"  import torch {torch:.2f} s ({first / torch:.1f} times)")
    print(f"  claim to first batch where the process is up: {following:.2f} s")
    return first <= RUN_SECONDS


def main() -> int:
    """Measure and print; return 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    within = [measure_help(given.rounds), measure_run(given.rounds)]
    return int(not all(within))


if __name__ == "__main__":
    sys.exit(main())
