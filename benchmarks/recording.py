"""Milliseconds that tracking holds the training loop, against one `log_metric` call a metric.

A run of the demo's network trains on simulated galaxies and sends its epochs to a real MLflow
server, with its last state and the weights of its best epoch. After each epoch, the same metrics
go to another run of that server by `log_metric`, one after another, as scripts do. What counts is
the time in which training stands still: waiting for the checkpoint before, the spool, a copy of
the state. Exits with 1 above 5 ms, 1 % of a 2-second epoch, or below 50 times less.

    python benchmarks/recording.py [--epochs 25] [--galaxies 300]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from mlflow import MlflowClient

from galaxy_mlflow.home import Home
from galaxy_mlflow.prepare import Splits, prepare_data, split_rule
from galaxy_mlflow.progress import EpochRecord
from galaxy_mlflow.spool import Spool
from galaxy_mlflow.study_file import load_study_file
from galaxy_mlflow.worker import JobSpec, _Worker
from mlflow_server.local import LocalServer, free_port, serving

MILLISECONDS, EPOCH_SECONDS, SHARE, TIMES_LESS = 5.0, 2.0, 0.01, 50.0
STUDY = """\
[data]
kind = "simulated"
n = {galaxies}
image_size = 64
[splits]
count = 1
[training]
architecture = "shufflenet_v2_x0_5"
epochs = {epochs}
batch_size = 32
[arm.one]
"""


class Timed(_Worker):
    """A worker that looks at the clock, and logs each epoch the other way too."""

    client: MlflowClient
    other_run: str
    held: list[float]
    one_by_one: list[float]

    def _keep(self, record: EpochRecord) -> None:
        start = time.perf_counter()
        super()._keep(record)
        self.held.append(time.perf_counter() - start)
        start = time.perf_counter()
        for name, value in record.metrics.items():
            self.client.log_metric(self.other_run, name, value, step=record.epoch)
        self.one_by_one.append(time.perf_counter() - start)


def spec_in(folder: Path, uri: str, given: argparse.Namespace) -> JobSpec:
    """Write the study, simulate its galaxies, and return its one job."""
    file = folder / "recording.toml"
    file.write_text(STUDY.format(galaxies=given.galaxies, epochs=given.epochs))
    study, home = load_study_file(file, ()), Home(folder / "home")
    data = prepare_data(study, home)
    split = Splits(split_rule(study, data.labels.size), data.labels, [0])[0]
    return JobSpec(study, "one", split, data, home, uri)


def measure(folder: Path, given: argparse.Namespace) -> Timed:
    """Train the job; return the worker with its times."""
    server = LocalServer(
        f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts", free_port(), folder / "log"
    )
    with serving(server) as uri:
        spec = spec_in(folder, uri, given)
        spool = Spool(spec.home.spool_of(spec.job))
        spool.acquire()
        worker = Timed(spec, spool, lambda event: None)
        worker.client = MlflowClient(uri)
        experiment = worker.client.create_experiment("one-by-one")
        worker.other_run = worker.client.create_run(experiment).info.run_id
        worker.held, worker.one_by_one = [], []
        result = worker.run()
    if result.status != "finished":
        sys.exit(f"the run ended as {result.status}: {result.reason}")
    return worker


def report(worker: Timed) -> bool:
    """Print times and ratios; return whether all bars are met."""
    held, one_by_one = (median(times) for times in (worker.held, worker.one_by_one))
    share, ratio = held / EPOCH_SECONDS, one_by_one / held
    print(f"{len(worker.held)} epochs, medians (longest)")
    print(f"held by tracking: {1e3 * held:.1f} ms ({1e3 * max(worker.held):.1f}) an epoch")
    print(f"log_metric, one by one: {1e3 * one_by_one:.0f} ms ({1e3 * max(worker.one_by_one):.0f})")
    print(f"{1e3 * held:.1f} ms (bar {MILLISECONDS:.0f}), {100 * share:.2f} % of 2 s (bar 1)")
    print(f"{ratio:.0f} times less than one call a metric (bar {TIMES_LESS:.0f})")
    return 1e3 * held <= MILLISECONDS and share <= SHARE and ratio >= TIMES_LESS


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--galaxies", type=int, default=300)
    with tempfile.TemporaryDirectory() as folder:
        return 0 if report(measure(Path(folder), parser.parse_args())) else 1


if __name__ == "__main__":
    sys.exit(main())
