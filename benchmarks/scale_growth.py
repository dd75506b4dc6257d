"""What grows how: rows and bytes of the database, time to plan and to load, files of a run.

Finished runs are written straight into MLflow's store, first few, then more, with two numbers of
epochs; slopes are fitted to what that took. Then one small job is trained at two numbers of epochs
with nothing made up, and the bytes of its files are compared.

    python benchmarks/scale_growth.py [--sizes 100,400,1000] [--epochs 5,20] [--uri URI]

The store is a SQLite file unless `--uri` names an empty PostgreSQL database
(postgresql+psycopg2://USER:PASSWORD@HOST/NAME).
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scale_dispatch import Scale, write_study
from sqlalchemy import Engine, create_engine, text

from analysis import load_study
from galaxy_mlflow import schema
from galaxy_mlflow.config import Study
from galaxy_mlflow.display import Display
from galaxy_mlflow.home import HOME_VARIABLE, Home
from galaxy_mlflow.machine import hardware, software
from galaxy_mlflow.placement import Machine
from galaxy_mlflow.plan import Selection, make_plan
from galaxy_mlflow.runner import run_study
from galaxy_mlflow.runs import WholeRun
from galaxy_mlflow.spool import Event, Kind
from galaxy_mlflow.tracking import MlflowStore

TABLES = ("runs", "tags", "params", "metrics", "latest_metrics")
CLASSES = ("elliptical", "lenticular", "spiral", "irr_misc")
DATA = "d" * 64


@dataclass(frozen=True)
class Point:
    """A store at one size."""

    runs: int
    epochs: int  # all runs together
    rows: Mapping[str, int]
    size: int  # bytes
    plan: float  # seconds for the runs of the last study
    load: float
    planned: int  # runs of the last study


@dataclass
class Growing:
    """A store that runs are written to."""

    study: Study
    store: MlflowStore
    engine: Engine
    runs: int = 0
    epochs: int = 0

    def add(self, name: str, splits: range, epochs: int) -> None:
        """Write finished runs of both arms for some splits."""
        rng = np.random.default_rng(splits.start)
        for split in splits:
            for arm in self.study.arm:
                job = schema.JobId(name, split, arm)
                self.store.write(self._run(job, rng.random((epochs, 40))))
                self.runs += 1
                self.epochs += epochs

    def _run(self, job: schema.JobId, numbers: NDArray[np.float64]) -> WholeRun:
        names = schema.epoch_metrics(CLASSES, with_validation=True)
        curves = {name: dict(enumerate(map(float, numbers[:, i]))) for i, name in enumerate(names)}
        summary = dict.fromkeys(schema.SUMMARY, 0.5)
        params = {**self.study.arm_params(job.arm), schema.THREADS: "1"}
        return WholeRun(job, self._tags(job), params, curves, summary, timestamp_ms=1)

    def _tags(self, job: schema.JobId) -> dict[str, str]:
        hashes = dict.fromkeys(schema.HASH_TAGS, "h" * 64)
        hashes |= {schema.CONFIG_HASH: self.study.config_hash(job.arm), schema.DATA_HASH: DATA}
        others = {schema.HARDWARE: hardware("cpu"), schema.SOFTWARE: software()}
        owner = {schema.OWNER: "machine-17:12345:0123abcd", schema.ATTEMPT: "1"}
        said = {schema.PROTOCOL: "honest", schema.SELECTED_ON: "val_loss", schema.LABELS: "given"}
        return {**hashes, **others, **owner, **said, schema.ARMS: ",".join(self.study.arm)}

    def look(self, name: str) -> Point:
        """Measure the store, and how long the study `name` in it takes to plan and to load."""
        study = self.study.model_copy(update={"name": name})
        wanted = Selection(list(study.splits.wanted), list(study.arm))
        with _timed() as plan:
            done = make_plan(study, DATA, self.store, wanted).counts()[schema.FINISHED]
        with _timed() as load:
            loaded = load_study(name, self.store.uri)
            assert len(loaded.runs) == done  # noqa: S101
            assert len(loaded.metrics)  # noqa: S101
        return Point(self.runs, self.epochs, self._rows(), self._size(), plan[0], load[0], done)

    def _rows(self) -> dict[str, int]:
        with self.engine.connect() as connection:
            count = "select count(*) from {}"
            return {
                name: connection.execute(text(count.format(name))).scalar_one() for name in TABLES
            }

    def _size(self) -> int:
        if self.engine.dialect.name == "sqlite":
            return Path(str(self.engine.url.database)).stat().st_size
        with self.engine.connect() as connection:
            size = connection.execute(text("select pg_database_size(current_database())"))
            return int(size.scalar_one())


@contextmanager
def _timed() -> Iterator[list[float]]:
    taken: list[float] = []
    start = time.perf_counter()
    yield taken
    taken.append(time.perf_counter() - start)


def grow(growing: Growing, sizes: Sequence[int], epochs: Sequence[int]) -> list[Point]:
    """Write studies of more and more runs; print and return what each size took."""
    head = ("runs", "epochs", "rows", "MB", "write ms/run", "plan ms/run", "load ms/run")
    print("".join(f"{name:>13}" for name in head))
    points = []
    for number in epochs:
        name, before = f"growing-{number}", 0
        for size in sizes:
            start, written = time.perf_counter(), (size - before) // 2 * 2
            growing.add(name, range(before // 2, size // 2), number)
            write = (time.perf_counter() - start) / max(1, written)
            before = size
            points.append(point := growing.look(name))
            times = (write, point.plan / point.planned, point.load / point.planned)
            print(
                f"{point.runs:>13,}{point.epochs:>13,}{sum(point.rows.values()):>13,}"
                f"{point.size / 1e6:>13.1f}" + "".join(f"{1e3 * t:>13.2f}" for t in times)
            )
    return points


def print_slopes(points: Sequence[Point]) -> None:
    """Fit rows and bytes to runs and epochs, and print the slopes."""
    base = np.array([[1.0, point.runs, point.epochs] for point in points])

    def slopes(values: Sequence[float]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = np.linalg.lstsq(base, np.array(values), rcond=None)[0]
        return found

    print(f"\n{'':<24}{'a run':>12}{'an epoch':>12}")
    for name in TABLES:
        _, run, epoch = slopes([point.rows[name] for point in points])
        print(f"{'rows of ' + name:<24}{run:>12.1f}{epoch:>12.1f}")
    empty, run, epoch = slopes([point.size for point in points])
    print(
        f"{'bytes of the database':<24}{run:>12,.0f}{epoch:>12,.0f}   ({empty / 1e6:.1f} MB empty)"
    )
    each = len(schema.epoch_metrics(CLASSES, with_validation=True))
    values = dict.fromkeys(schema.epoch_metrics(CLASSES, True), 0.123456789012345)
    line = json.dumps(asdict(Event(Kind.EPOCH, 1_700_000_000_000, epoch=1, metrics=values)))
    print(f"{'spool, bytes':<24}{'':>12}{len(line) + 1:>12,}")
    print(f"{each} metrics an epoch: {epoch / each:.0f} bytes a value")


def print_files(study: Study, home: Home) -> None:
    """Train one job at two numbers of epochs; print the bytes of the files that it leaves."""
    found: list[dict[str, int]] = []
    epochs = (4, 12)
    for number in epochs:
        name = f"files-{number}"
        arms = {key: arm.model_copy(update={"epochs": number}) for key, arm in study.arm.items()}
        own = study.model_copy(update={"name": name, "arm": arms})
        with Path(os.devnull).open("w") as nowhere:
            from rich.console import Console

            run_study(
                own, Selection([0], list(arms)[:1]), Machine(), Display(Console(file=nowhere))
            )
        found.append(_bytes_under(home.artifacts / name))
    parameters = _parameters(study)
    print(f"\nfiles of a run, one network of {parameters:,} parameters, 12 test images")
    for path in sorted(found[0]):
        first, second = found[0][path], found[1][path]
        slope = (second - first) / (epochs[1] - epochs[0])
        each = f"{second / parameters:>10.2f} bytes a parameter" * path.startswith("checkpoints")
        print(f"{path:<32}{first:>12,} bytes {slope:>10.1f} more an epoch{each}")


def _parameters(study: Study) -> int:
    from galaxy_mlflow.models import build_model, count_parameters

    arm = next(iter(study.arm.values()))
    return count_parameters(build_model(arm, 3, study.data.crop, 0, None))


def _bytes_under(folder: Path) -> dict[str, int]:
    """Return the bytes of each artifact of the one run under a study's folder."""
    files = [path for path in folder.glob("*/artifacts/**/*") if path.is_file()]
    return {"/".join(path.parts[len(folder.parts) + 2 :]): path.stat().st_size for path in files}


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", default="100,400,1000", help="runs, one study after another")
    parser.add_argument("--epochs", default="5,20")
    parser.add_argument("--uri", default="")
    given = parser.parse_args()
    sizes, epochs = ([int(n) for n in s.split(",")] for s in (given.sizes, given.epochs))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        home = Home(folder / "home")
        os.environ[HOME_VARIABLE] = str(home.path)
        study = write_study(folder, Scale(max(sizes), 1, 5, 0))
        uri = given.uri or home.database_uri
        store = MlflowStore(uri, home)
        store.check()
        growing = Growing(study, store, create_engine(uri))
        print_slopes(grow(growing, sizes, epochs))
        print_files(study, home)


if __name__ == "__main__":
    main()
