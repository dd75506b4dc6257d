"""Reading a whole study: by REST, from the database, and by the plain loop over MLflow's client.

A store is made (runs by MLflow's API, their epochs by SQL into the same SQLite file) and served by
a real `mlflow server`. Each way then reads all of it in a process of its own; rows, a checksum of
the values, wall seconds and that process's peak memory are printed. The plain loop,
`client.get_metric_history` for each run and metric, is measured on a few runs and scaled, so its
seconds leave the imports out; the others' have them in.

    python benchmarks/load_study.py [--runs 200] [--epochs 300] [--metrics 25] [--sample 4]
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from galaxy_mlflow import schema
from mlflow_server.local import LocalServer, free_port, serving

STUDY = "benchmark"
ARMS = ("pretrained", "scratch")
INSERT = "INSERT INTO {} (key, value, timestamp, step, run_uuid, is_nan) VALUES (?, ?, ?, ?, ?, 0)"


@dataclass(frozen=True)
class Size:
    """How much is stored."""

    runs: int
    epochs: int
    metrics: int

    @property
    def rows(self) -> int:
        """Values in all."""
        return self.runs * self.epochs * self.metrics


def make_store(database: Path, size: Size, study: str = STUDY) -> list[str]:
    """Make a study of `size` in a SQLite store; return the IDs of its runs."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{database}")
    experiment = client.create_experiment(study)
    runs = []
    for number in range(size.runs):
        job = schema.JobId(study, number // 2, ARMS[number % 2])
        runs.append(client.create_run(experiment, tags=job.tags()).info.run_id)
    names = ["test_accuracy", *(f"metric_{i:02d}" for i in range(1, size.metrics))]
    with closing(sqlite3.connect(database)) as connection, connection:
        for number, run in enumerate(runs):
            rows = list(values(run, names, size.epochs, number))
            connection.executemany(INSERT.format("metrics"), rows)
            connection.executemany(INSERT.format("latest_metrics"), rows[-len(names) :])
    return runs


def values(
    run: str, names: Sequence[str], epochs: int, seed: int
) -> Iterator[tuple[str, float, int, int, str]]:
    """Yield the rows of one run: the last epoch of every metric comes last."""
    numbers = np.random.default_rng(seed).random((epochs, len(names))).tolist()
    for epoch, row in enumerate(numbers):
        for name, value in zip(names, row, strict=True):
            yield name, value, 1_000 * epoch, epoch, run


def read(uri: str) -> tuple[int, float]:
    """Read the study as a user would; return rows and the sum of the values."""
    import analysis

    frame = analysis.load_study(STUDY, uri).metrics
    return len(frame), float(frame["value"].sum())


def loop(uri: str, sample: int) -> tuple[int, float]:
    """Ask for each metric of each of the first runs, as a script would."""
    import pandas as pd
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(STUDY)
    rows = [
        {"run_id": run.info.run_id, "metric": name, "epoch": point.step, "value": point.value}
        for run in client.search_runs([experiment.experiment_id], max_results=sample)
        for name in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, name)
    ]
    frame = pd.DataFrame(rows)
    return len(frame), float(frame["value"].sum())


def report(uri: str, sample: int) -> None:
    """Read in this process, and print what it took; a loop that is scaled counts no imports."""
    if sample:
        import mlflow  # noqa: F401
        import pandas as pd  # noqa: F401
    start = time.perf_counter()
    rows, total = loop(uri, sample) if sample else read(uri)
    seconds = time.perf_counter() - start
    print(json.dumps({"rows": rows, "sum": total, "seconds": seconds, "peak": peak_memory()}))


def peak_memory() -> int:
    """Return the most memory that this process has held, in bytes.

    Linux's getrusage counts what the parent held before the program began, so it comes second.
    """
    status = Path("/proc/self/status")
    if status.exists():
        lines = dict(row.split(":", 1) for row in status.read_text().splitlines())
        return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(uri: str, sample: int = 0) -> dict[str, float]:
    """Run `report` in a process of its own."""
    command = [sys.executable, __file__, "--read", uri, "--sample", str(sample)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def line(name: str, found: dict[str, float]) -> str:
    """Return one row of the printed table."""
    return (
        f"{name:<34}{found['rows']:>11,.0f}{found['seconds']:>10.1f}{found['peak'] / 1e6:>11,.0f}"
        f"{found['sum']:>18.6f}"
    )


def compare(folder: Path, size: Size, sample: int) -> None:
    """Make, serve and read a store; print what each way took."""
    database = folder / "mlflow.db"
    start = time.perf_counter()
    make_store(database, size)
    print(f"{size.runs} runs x {size.epochs} epochs x {size.metrics} metrics = {size.rows:,} rows")
    print(f"stored in {time.perf_counter() - start:.0f} s, {database.stat().st_size / 1e6:.0f} MB")
    uri = f"sqlite:///{database}"
    with serving(LocalServer(uri, folder / "artifacts", free_port(), folder / "log")) as server:
        rest, direct = measured(server), measured(uri)
        naive = measured(server, sample)
    scaled = naive["seconds"] * size.runs / sample
    print(f"\n{'':<34}{'rows':>11}{'seconds':>10}{'peak MB':>11}{'sum of values':>18}")
    print(line("load_study(...).metrics, REST", rest))
    print(line("load_study(...).metrics, database", direct))
    print(line(f"plain loop, {sample} of {size.runs} runs", naive))
    print(f"plain loop scaled to all runs: {scaled:.0f} s, ", end="")
    print(f"{scaled / rest['seconds']:.1f} times REST, {scaled / direct['seconds']:.1f} database")
    same = abs(rest["sum"] - direct["sum"]) < 1e-6
    complete = rest["rows"] == direct["rows"] == size.rows and same
    print("complete and equal" if complete else "NOT COMPLETE OR NOT EQUAL")


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in {"runs": 200, "epochs": 300, "metrics": 25, "sample": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--read", metavar="URI", help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    if given.read:
        report(given.read, given.sample)
        return
    with tempfile.TemporaryDirectory() as folder:
        sample = min(given.sample, given.runs)
        compare(Path(folder), Size(given.runs, given.epochs, given.metrics), sample)


if __name__ == "__main__":
    main()
