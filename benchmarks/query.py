"""Reading a study of 1.5 million values: from the database, by REST, by MLflow's loop; its report.

The study (200 runs x 300 epochs x 25 metrics) is in SQLite and in a PostgreSQL that is started
here, and a real `mlflow server` of two processes serves the first. Taking turns, each in a process
of its own and timed without imports, these read it:

- *sqlite*, *postgres*: `analysis.load_study(STUDY, uri).metrics`, all of it;
- *rest*: the same over the server, for a study of 20 runs in the same store;
- *loop*: MLflow's client over the server, `get_metric_history` for each metric of two runs.

Ratios are of the medians of rows a second. Then `galaxy-mlflow report` runs once for studies of 50,
100 and 200 runs, imports and all. It ends with 1 where a bar is missed.

    python benchmarks/query.py [--runs 200] [--epochs 300] [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from stored_study import METRICS, Place, copy, insert, leave_artifacts, make_runs

from analysis.database import URL_VARIABLE
from mlflow_server.local import LocalServer, free_port, serving

sys.path.append(str(Path(__file__).parent.parent / "tests"))

from postgres_cluster import Cluster, running

if TYPE_CHECKING:
    import pandas as pd

STUDY, SMALL = "benchmark", "small"
SMALL_RUNS, SAMPLE = 20, 2
SERVER_WORKERS = 2
"""As many as the server of docker-compose.yml has."""
OVER_LOOP, REST_OVER_LOOP = 100, 5
MOST_SECONDS, MOST_MB = 3.0, 600.0
REPORT_SECONDS, REPORT_GROWTH = 60.0, 2.3
REPORT = "from galaxy_mlflow.cli import main; main()"


@dataclass(frozen=True)
class Found:
    """What one reading took, and a checksum of what it read."""

    rows: int
    total: float
    seconds: float
    peak: int

    @property
    def rate(self) -> float:
        """Rows a second."""
        return self.rows / self.seconds


@dataclass(frozen=True)
class Way:
    """How a study is read, and from where."""

    kind: str
    study: str
    uri: str

    def measured(self) -> Found:
        """Read in a process of its own."""
        command = [sys.executable, __file__, "--read", self.kind, self.study, self.uri]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        return Found(**json.loads(done.stdout.splitlines()[-1]))


@dataclass(frozen=True)
class Bar:
    """A promise, and what was found."""

    name: str
    found: float
    bar: float
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        """Whether it is kept."""
        return self.found >= self.bar if self.at_least else self.found <= self.bar

    def __str__(self) -> str:
        word = "at least" if self.at_least else "at most"
        end = "" if self.is_met else "  MISSED"
        return f"{self.name:<24}{self.found:9.1f}  ({word} {self.bar:g}){end}"


def load(study: str, uri: str) -> pd.DataFrame:
    """Read a study as a user would."""
    import analysis

    return analysis.load_study(study, uri).metrics


def loop(study: str, uri: str) -> pd.DataFrame:
    """Ask for each metric of each of the first runs, as a script would."""
    import pandas as pd
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name(study)
    rows = [
        {"run_id": run.info.run_id, "metric": name, "epoch": point.step, "value": point.value}
        for run in client.search_runs([experiment.experiment_id], max_results=SAMPLE)
        for name in run.data.metrics
        for point in client.get_metric_history(run.info.run_id, name)
    ]
    return pd.DataFrame(rows)


def read(kind: str, study: str, uri: str) -> None:
    """Read in this process, and print what it took without the imports."""
    _import(kind)
    work = loop if kind == "loop" else load
    start = time.perf_counter()
    frame = work(study, uri)
    seconds, peak = time.perf_counter() - start, peak_memory()
    total = math.fsum(frame["value"])
    print(json.dumps({"rows": len(frame), "total": total, "seconds": seconds, "peak": peak}))


def _import(kind: str) -> None:
    """Import what the way takes, which is not measured."""
    over_http = ("mlflow",)
    direct = ("sqlalchemy", "psycopg2", "adbc_driver_sqlite.dbapi", "adbc_driver_postgresql.dbapi")
    for name in ("analysis", "pyarrow.compute", *(direct if kind == "database" else over_http)):
        import_module(name)


def peak_memory() -> int:
    """Return the most memory that this process has held, in bytes.

    Linux's getrusage would count what the parent held before the program began.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(dict(row.split(":", 1) for row in lines)["VmHWM"].split()[0]) * 1024


def grow(place: Place, numbers: range, epochs: int, study: str = STUDY) -> None:
    """Add runs to a study in SQLite."""
    runs = make_runs(place, study, numbers, epochs)
    insert(Path(place.uri.removeprefix("sqlite:///")), runs, epochs)
    leave_artifacts(place, runs, epochs)


def report_seconds(place: Place, out: Path) -> float:
    """Return the seconds of the whole command, from its start to its end."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": place.uri}
    command = [sys.executable, "-c", REPORT, "report", STUDY, "--out", str(out)]
    start = time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def grown(place: Place, given: argparse.Namespace, out: Path) -> dict[int, float]:
    """Make the study; return the seconds of the reports of a quarter, a half and all of it."""
    seconds, before = {}, 0
    for runs in (given.runs // 4, given.runs // 2, given.runs):
        grow(place, range(before, runs), given.epochs)
        seconds[runs], before = report_seconds(place, out), runs
        print(f"report of {runs:>3} runs {seconds[runs]:8.1f} s", flush=True)
    return seconds


def take_turns(ways: Mapping[str, Way], rounds: int) -> dict[str, list[Found]]:
    """Read each way once a round."""
    found: dict[str, list[Found]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            found[name].append(way.measured())
            print(line(name, found[name][-1:], f"round {number + 1}"), flush=True)
    return found


def line(name: str, found: Sequence[Found], prefix: str) -> str:
    """Return one row of the printed table: medians, and the most memory."""
    seconds, rate = median(f.seconds for f in found), median(f.rate for f in found)
    peak = max(f.peak for f in found)
    return (
        f"{prefix:<8} {name:<9}{found[0].rows:>10,} rows{seconds:8.2f} s{rate:>12,.0f} rows/s"
        f"{peak / 1e6:>7.0f} MB   sum {found[0].total:.6f}"
    )


def bars(found: Mapping[str, list[Found]], reports: Mapping[int, float]) -> Iterator[Bar]:
    """Yield what is promised, from medians."""
    rate = {name: median(f.rate for f in each) for name, each in found.items()}
    for name in ("sqlite", "postgres"):
        yield Bar(f"{name} over loop", rate[name] / rate["loop"], OVER_LOOP, at_least=True)
        yield Bar(f"{name} seconds", median(f.seconds for f in found[name]), MOST_SECONDS)
        yield Bar(f"{name} MB", max(f.peak for f in found[name]) / 1e6, MOST_MB)
    yield Bar("rest over loop", rate["rest"] / rate["loop"], REST_OVER_LOOP, at_least=True)
    _, half, whole = reports.values()
    yield Bar("report seconds", whole, REPORT_SECONDS)
    yield Bar("report, twice the runs", whole / half, REPORT_GROWTH)


def is_complete(found: Mapping[str, list[Found]], small: Found, given: argparse.Namespace) -> bool:
    """Return whether every value came, and the same values each way."""
    a_run = given.epochs * len(METRICS)
    whole, part = [*found["sqlite"], *found["postgres"]], [small, *found["rest"]]
    return all(
        {f.rows for f in each} == {runs * a_run} and len({f.total for f in each}) == 1
        for runs, each in ((given.runs, whole), (SMALL_RUNS, part))
    )


def measure(folder: Path, cluster: Cluster, given: argparse.Namespace) -> bool:
    """Make, serve and read the stores; print what each way took, and return whether all is well."""
    place = Place(f"sqlite:///{folder / 'mlflow.db'}", folder / "artifacts")
    reports = grown(place, given, folder / "report")
    grow(place, range(SMALL_RUNS), given.epochs, SMALL)
    copied = Place(cluster.url.replace(":", "+psycopg2:", 1), folder / "artifacts")
    copy(cluster.url, make_runs(copied, STUDY, range(given.runs), given.epochs), given.epochs)
    log, port = folder / "log", free_port()
    with serving(LocalServer(place.uri, place.artifacts, port, log, SERVER_WORKERS)) as server:
        ways = {
            "sqlite": Way("database", STUDY, place.uri),
            "postgres": Way("database", STUDY, cluster.url),
            "rest": Way("rest", SMALL, server),
            "loop": Way("loop", STUDY, server),
        }
        found = take_turns(ways, given.rounds)
    small = Way("database", SMALL, place.uri).measured()
    complete = is_complete(found, small, given)
    return told(found, list(bars(found, reports)), complete)


def told(found: Mapping[str, list[Found]], bars: Sequence[Bar], complete: bool) -> bool:
    """Print medians and bars; return whether all are met."""
    print()
    for name, each in found.items():
        print(line(name, each, "median"))
    print("complete and equal" if complete else "NOT COMPLETE OR NOT EQUAL")
    print(*bars, sep="\n")
    return complete and all(bar.is_met for bar in bars)


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in {"runs": 200, "epochs": 300, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--read", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    for name in ("MLFLOW_TRACKING_URI", URL_VARIABLE):
        os.environ.pop(name, None)
    if given.read:
        read(*given.read)
        return 0
    with tempfile.TemporaryDirectory() as folder, running() as cluster:
        return 0 if measure(Path(folder), cluster, given) else 1


if __name__ == "__main__":
    sys.exit(main())
