"""Runs of a study, read straight from the tracking database: read-only, a hundred times as fast.

Only SQLite and PostgreSQL, and only schemas that were tried; all else is for MLflow's own client.
"""

from __future__ import annotations

import importlib.util
import math
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from analysis.arrow_rows import SNAPSHOT, batches
from analysis.points import Points, metric_frame
from analysis.study import LoggedRun
from galaxy_mlflow.errors import GalaxyError, ServerError, StudyNotFoundError
from galaxy_mlflow.tracking import shown

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from sqlalchemy import Connection, Engine, Select, TableClause

URL_VARIABLE = "GALAXY_MLFLOW_DATABASE_URL"
KNOWN_SCHEMAS: Mapping[str, str] = {"dc11669786a5": "3.17", "f4a9b2c7d1e6": "3.18"}
"""Alembic versions of MLflow's database whose tables are the ones read here, and their MLflow."""

RUNS_A_QUERY = 500
FEW_METRICS = 4
"""So many are looked up; of more, a run's whole record is read."""
MOST = 3
"""Where a study has one of so many runs of the database, all of the table is read in its order."""
BUSY_SECONDS = 5
"""How long another process may hold a SQLite database before it counts as locked."""

CONNECT_SECONDS = 10

_NO_URL = (
    "the address of the tracking database is no URL: expected "
    "postgresql://USER:PASSWORD@HOST:PORT/NAME, with / # : @ in the password as %2F %23 %3A %40"
)
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "alembic_version": ("version_num",),
    "experiments": ("experiment_id", "name", "lifecycle_stage", "workspace"),
    "runs": ("run_uuid", "start_time", "lifecycle_stage", "experiment_id"),
    "tags": ("run_uuid", "key", "value"),
    "params": ("run_uuid", "key", "value"),
    "latest_metrics": ("run_uuid", "key", "value", "is_nan"),
    "metrics": ("run_uuid", "key", "value", "is_nan", "step", "timestamp"),
}


class UnknownDatabaseError(GalaxyError):
    """A database that this module does not know how to read: MLflow's client may."""


@dataclass(frozen=True)
class Database:
    """MLflow's tracking database at a SQLAlchemy URL; every read is a transaction of its own."""

    url: str

    @property
    def place(self) -> str:
        """The URL, without a user name or password."""
        return shown(self.url)

    def runs(self, study: str) -> list[LoggedRun] | None:
        """Return the runs of a study, neither it nor they deleted; None where there is no such.

        Raises
        ------
        StudyNotFoundError
            There is no SQLite file, or it is no MLflow database. Nothing is created by asking.
        ServerError
            The database cannot be reached or read.
        UnknownDatabaseError
            Of another kind, or its tables may not be those known here.
        """
        with self._reading() as connection:
            self._require_known_schema(connection)
            found = connection.scalars(_experiment(study)).all()
            return _logged_runs(connection, found[0]) if found else None

    def studies(self) -> list[str]:
        """Return the names of all studies."""
        experiments = _table("experiments")
        query = _select(experiments, "name").where(experiments.c.lifecycle_stage == "active")
        with self._reading() as connection:
            return list(connection.scalars(query))

    def metrics(self, runs: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
        """Return every epoch of some metrics, as `points.metric_frame` does."""
        ids, keys = list(runs["run_id"]), list(names)
        found = self._batches(self._metrics_queries(ids, keys))
        return metric_frame(runs, names, Points.joined(_arrays(b, keys, ids) for b in found))

    def _metrics_queries(self, ids: Sequence[str], keys: Sequence[str]) -> list[Select[Any]]:
        """Ask for all that is wanted; for more, to be dropped here, where that is faster."""
        parts = [ids[i : i + RUNS_A_QUERY] for i in range(0, len(ids), RUNS_A_QUERY)]
        if len(keys) <= FEW_METRICS:
            return [_metrics_query(part, keys) for part in parts]
        if len(ids) * MOST >= self._run_count():
            return [_metrics_query()]
        return [_metrics_query(part) for part in parts]

    def _run_count(self) -> int:
        from sqlalchemy import func, select

        with self._reading() as connection:
            return int(connection.scalar(select(func.count()).select_from(_table("runs"))) or 0)

    def _batches(self, queries: Sequence[Select[Any]]) -> Iterator[RecordBatch]:
        """Yield answers in Arrow's columns."""
        from adbc_driver_manager import Error

        try:
            yield from batches(self._engine(), self._address, queries)
        except Error as error:
            raise ServerError(self._explain(error)) from None

    @property
    def _address(self) -> str:
        """What ADBC's driver is given."""
        from sqlalchemy import make_url

        if self.url.startswith("sqlite"):
            return _read_only(sqlite_file(self.url))
        url = make_url(self.url).set(drivername="postgresql")
        patient = url.update_query_dict({"connect_timeout": str(CONNECT_SECONDS)})
        return patient.render_as_string(hide_password=False)

    def _require_known_schema(self, connection: Connection) -> None:
        found = connection.scalars(_select(_table("alembic_version"), "version_num")).all()
        if len(found) != 1 or found[0] not in KNOWN_SCHEMAS:
            raise UnknownDatabaseError(
                f"the database {self.place} has schema version {', '.join(found) or 'none'}, which "
                f"is not among the known ({', '.join(KNOWN_SCHEMAS)})"
            )

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """Yield a connection inside one read-only transaction."""
        from sqlalchemy import text
        from sqlalchemy.exc import SQLAlchemyError

        try:
            engine = self._engine()
            with engine.connect() as connection:
                if engine.dialect.name == "postgresql":
                    connection.execute(text(SNAPSHOT))
                yield connection
        except (SQLAlchemyError, ImportError) as error:
            raise ServerError(self._explain(error)) from None

    def _engine(self) -> Engine:
        from sqlalchemy import create_engine
        from sqlalchemy.pool import NullPool

        if self.url.startswith("sqlite"):
            file = sqlite_file(self.url)
            require_sqlite(file)
            return create_engine("sqlite://", creator=lambda: _open(file), poolclass=NullPool)
        if self.url.startswith("postgres"):
            patience = {"connect_timeout": CONNECT_SECONDS}
            try:
                return create_engine(
                    with_driver(self.url), poolclass=NullPool, connect_args=patience
                )
            except ValueError:  # SQLAlchemy quotes the URL, and in it the password
                raise ServerError(_NO_URL) from None
        raise UnknownDatabaseError(f"the database {self.place} is neither SQLite nor PostgreSQL")

    def _explain(self, error: Exception) -> str:
        reason = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
        reason = reason.replace(self.url, self.place)
        if "database is locked" in reason:
            advice = "another process is writing to it: try again when it has finished"
        elif self.url.startswith("sqlite"):
            advice = "is the file whole, and may you read it?"
        else:
            advice = "is it running, and are the URL, user name and password right?"
        return f"the tracking database {self.place} cannot be read: {reason[:200]}; {advice}"


def is_database(uri: str) -> bool:
    """Whether a tracking URI means a database, and no server or folder."""
    return re.match(r"(sqlite|postgres(ql)?|mysql|mssql)(\+\w+)?:", uri) is not None


def with_driver(url: str) -> str:
    """Return a PostgreSQL URL that names a driver which is installed; others as they are."""
    match = re.match(r"postgres(?:ql)?:", url)
    if match is None:
        return url
    driver = "psycopg2" if importlib.util.find_spec("psycopg2") else "psycopg"
    return f"postgresql+{driver}:{url[match.end() :]}"


def sqlite_file(uri: str) -> Path:
    """Return the file that a `sqlite:///` URI names."""
    return Path(uri.partition(":///")[2].partition("?")[0])


def require_sqlite(file: Path) -> None:
    """Refuse where MLflow would make a database by the mere asking."""
    missing = f"{file}: no runs are stored there; `galaxy-mlflow run STUDY` makes the store"
    if not file.is_file():
        raise StudyNotFoundError(missing)
    try:
        with closing(_open(file)) as database:
            database.execute("SELECT 1 FROM experiments LIMIT 1")
    except sqlite3.DatabaseError as error:
        if _passing(error):
            raise ServerError(Database(f"sqlite:///{file}")._explain(error)) from None
        raise StudyNotFoundError(f"{missing} (it is no MLflow database: {error})") from None


def _passing(error: sqlite3.DatabaseError) -> bool:
    """Whether SQLite's complaint is of the moment or the disk, and not of what the file is."""
    text = str(error)
    return not ("no such table" in text or "not a database" in text)


def _open(file: Path) -> sqlite3.Connection:
    return sqlite3.connect(_read_only(file), timeout=BUSY_SECONDS, uri=True)


def _read_only(file: Path) -> str:
    return f"{file.resolve().as_uri()}?mode=ro"


def _table(name: str) -> TableClause:
    """Return a table whose columns have no types, so that rows come as the driver gives them."""
    from sqlalchemy import column, table

    return table(name, *(column(key) for key in COLUMNS[name]))


def _select(table: TableClause, *columns: str) -> Select[Any]:
    from sqlalchemy import select

    return select(*(table.c[name] for name in columns))


def _experiment(study: str) -> Select[Any]:
    """Ask for the study in the workspace that MLflow's client would look in."""
    experiments = _table("experiments")
    return _select(experiments, "experiment_id").where(
        experiments.c.name == study,
        experiments.c.lifecycle_stage == "active",
        experiments.c.workspace == (os.environ.get("MLFLOW_WORKSPACE") or "default"),
    )


def _logged_runs(connection: Connection, experiment: int) -> list[LoggedRun]:
    runs = _table("runs")
    mine = (runs.c.experiment_id == experiment, runs.c.lifecycle_stage == "active")
    started = connection.execute(_select(runs, "run_uuid", "start_time").where(*mine)).all()
    tags, params, metrics = (
        _by_run(connection.execute(_of_runs(_table(name), runs).where(*mine)))
        for name in ("tags", "params", "latest_metrics")
    )
    return [
        LoggedRun(run, start or 0, tags.get(run, {}), params.get(run, {}), metrics.get(run, {}))
        for run, start in started
    ]


def _of_runs(table: TableClause, runs: TableClause) -> Select[Any]:
    """Ask for a table's keys and values, a nan as a null, beside the runs they belong to."""
    from sqlalchemy import case

    value = (
        case((table.c.is_nan, None), else_=table.c.value) if "is_nan" in table.c else table.c.value
    )
    query = _select(table, "run_uuid", "key").add_columns(value)
    return query.join_from(table, runs, table.c.run_uuid == runs.c.run_uuid)


def _by_run(rows: Iterable[Sequence[Any]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for run, key, value in rows:
        found.setdefault(run, {})[key] = math.nan if value is None else value
    return found


def _metrics_query(runs: Sequence[str] = (), names: Sequence[str] = ()) -> Select[Any]:
    """Ask for values, of some runs and metrics where any are named."""
    metrics = _table("metrics")
    query = _select(metrics, "key", "run_uuid", "step", "timestamp", "value", "is_nan")
    for column, wanted in ((metrics.c.run_uuid, runs), (metrics.c.key, names)):
        query = query.where(column.in_(wanted)) if wanted else query
    return query


def _arrays(batch: RecordBatch, names: Sequence[str], runs: Sequence[str]) -> Points:
    """Return those rows that are asked for, counted by their places in the lists."""
    import pyarrow as pa
    import pyarrow.compute as pc

    metric = pc.index_in(batch["key"], pa.array(names, pa.string()))
    run = pc.index_in(batch["run_uuid"], pa.array(runs, pa.string()))
    wanted = pc.and_(metric.is_valid(), run.is_valid())
    if not pc.all(wanted).as_py():
        batch, metric, run = (each.filter(wanted) for each in (batch, metric, run))
    is_nan = batch["is_nan"].cast(pa.bool_()).to_numpy(zero_copy_only=False)
    return Points.of(
        metric.to_numpy(),
        run.to_numpy(),
        batch["step"].to_numpy(),
        batch["timestamp"].to_numpy(),
        np.where(is_nan, np.nan, batch["value"].to_numpy()),
    )
