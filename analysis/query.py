"""Runs of a study, read from MLflow into tidy frames. The one module here that imports mlflow.

Everything is read whole: pages are followed to the last, and what an API would cut is never cut.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd

from analysis.asking import clear_errors, environment
from analysis.database import (
    URL_VARIABLE,
    Database,
    UnknownDatabaseError,
    is_database,
    require_sqlite,
    sqlite_file,
    with_driver,
)
from analysis.exported import is_export, read_export
from analysis.points import Points, metric_frame
from analysis.study import LoggedRun, Study, study_of
from galaxy_mlflow import schema
from galaxy_mlflow.errors import ServerError, StudyNotFoundError, did_you_mean
from galaxy_mlflow.tracking import default_tracking_uri, shown

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

T = TypeVar("T")
R = TypeVar("R")

LOG = logging.getLogger(__name__)
PAGE = 1000
THREADS = 8
BULK = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
BULK_LIMIT = 25_000
"""Where the server cuts an answer, without a word: one that long is asked for again in halves."""
BULK_RUNS = 50
"""Runs in one request, at most 100: those of 400 epochs stay below the limit."""

_QUICK = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
}
"""For the first request to a server, so that a dead one is known in seconds."""
_QUIET = {
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false",  # it ends with an error out of reach of S3
}


class _NoBulkError(Exception):
    """The server does not know, or refuses, the request for many runs at once."""


@dataclass(frozen=True)
class Request:
    """One metric of some runs; `place` and the values of `runs` are what `Points` counts."""

    metric: str
    place: int
    runs: Mapping[str, int]

    def halves(self) -> list[Request]:
        """Return the same request, half of the runs each."""
        return list(self.parts((len(self.runs) + 1) // 2))

    def parts(self, size: int) -> Iterator[Request]:
        """Yield the same request for at most `size` runs each."""
        runs = list(self.runs.items())
        for start in range(0, len(runs), size):
            yield Request(self.metric, self.place, dict(runs[start : start + size]))

    def points(self, items: Iterable[tuple[str, int, int, float]]) -> Points:
        """Return an answer, rows of run_id, step, timestamp and value, as points."""
        runs, steps, times, values = list(zip(*items, strict=True)) or [(), (), (), ()]
        places = [self.runs[run] for run in runs]
        return Points.of(np.full(len(places), self.place), places, steps, times, values)


@dataclass(frozen=True)
class MlflowSource:
    """Reads what `Study` asks for later: metrics from a database where one is given, all else
    through MLflow's client.
    """

    uri: str
    database: Database | None = None
    _stores: dict[str, ArtifactRepository] = field(default_factory=dict, repr=False)

    @property
    def place(self) -> str:
        """The address that runs and metrics come from, without a user name or password."""
        return self.database.place if self.database is not None else shown(self.uri)

    @cached_property
    def client(self) -> MlflowClient:
        """MLflow's client, made at first use: importing it takes seconds."""
        if self.uri.startswith("sqlite"):
            require_sqlite(sqlite_file(self.uri))
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=with_driver(self.uri))

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return function(item) for each item, in order, several at a time over a network."""
        threads = 1 if self.uri.startswith("sqlite:") else THREADS
        with clear_errors(self.uri), environment(_QUIET), ThreadPoolExecutor(threads) as pool:
            return list(pool.map(function, items))

    def metrics(self, runs: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
        """Return every epoch of some metrics, as `points.metric_frame` does."""
        if self.database is not None:
            return self.database.metrics(runs, names)
        places = {run: place for place, run in enumerate(runs["run_id"])}
        requests = [Request(name, place, places) for place, name in enumerate(names)]
        return metric_frame(runs, names, Points.joined(self._answers(requests)))

    def read(self, run_id: str, path: str) -> bytes | None:
        """Return the bytes of an artifact, or None where the run has no such artifact."""
        store = self._store_of(run_id)
        folder = str(Path(path).parent) if "/" in path else None
        if path not in {item.path for item in store.list_artifacts(folder)}:
            return None
        if isinstance(store, _local_artifacts()):  # the file is here: no copy is made of it
            return _download(store, path)
        with TemporaryDirectory() as target:
            return _download(store, path, target)

    def _store_of(self, run_id: str) -> ArtifactRepository:
        """Return where a run's artifacts are; asked of the server once a run."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        if run_id not in self._stores:
            place = self.client.get_run(run_id).info.artifact_uri
            self._stores[run_id] = get_artifact_repository(place, tracking_uri=self.uri)
        return self._stores[run_id]

    def _answers(self, requests: Sequence[Request]) -> list[Points]:
        if self.uri.startswith("http"):
            try:
                return self.map(self.in_bulk, _parts(requests, BULK_RUNS))
            except _NoBulkError:
                pass
        return self.map(self.one_by_one, _parts(requests, 1))

    def in_bulk(self, request: Request) -> Points:
        """Ask the server for many runs at once, and again in halves where it cuts the answer."""
        points = request.points(self._ask(request))
        if len(points.step) < BULK_LIMIT:
            return points
        if len(request.runs) == 1:
            return self.one_by_one(request)
        return Points.joined(self.in_bulk(half) for half in request.halves())

    def one_by_one(self, request: Request) -> Points:
        """Ask MLflow's client run by run: it follows the pages of each to the last."""
        return request.points(
            (run, point.step, point.timestamp, point.value)
            for run in request.runs
            for point in self.client.get_metric_history(run, request.metric)
        )

    def _ask(self, request: Request) -> Iterator[tuple[str, int, int, float]]:
        from mlflow.utils.credentials import get_default_host_creds
        from mlflow.utils.rest_utils import http_request

        asked = [("metric_key", request.metric), ("max_results", BULK_LIMIT)]
        asked += [("run_id", run) for run in request.runs]
        account = get_default_host_creds(self.uri)  # type: ignore[no-untyped-call]
        answer = http_request(  # type: ignore[no-untyped-call]
            account, BULK, "GET", params=asked, raise_on_status=False, max_retries=2
        )
        try:
            answer.raise_for_status()
            points = answer.json()["metrics"]
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise _NoBulkError from error
        return ((p["run_id"], p["step"], p["timestamp"], p["value"]) for p in points)


def _download(store: ArtifactRepository, path: str, target: str | None = None) -> bytes:
    return Path(store.download_artifacts(path, target)).read_bytes()  # type: ignore[no-untyped-call]


def _local_artifacts() -> type[ArtifactRepository]:
    from mlflow.store.artifact.local_artifact_repo import LocalArtifactRepository

    return LocalArtifactRepository


def load_study(
    name: str | Path, tracking_uri: str | None = None, database_url: str | None = None
) -> Study:
    """Read the runs of a study; epochs and artifacts follow when they are asked for.

    Parameters
    ----------
    name : the study; or a folder that `Study.export` wrote: a Path, a text with a `/`, or the
        name of such a folder here. An export is read as it is, with no server.
    tracking_uri : an MLflow server or store; None means MLFLOW_TRACKING_URI, or else the default
        store (GALAXY_MLFLOW_HOME, or `.galaxy-mlflow` in the current folder)
    database_url : the server's own database (SQLite or PostgreSQL), to be read directly and
        read-only, which is many times as fast; artifacts still come from the server. None means a
        `tracking_uri` that is a database, or else GALAXY_MLFLOW_DATABASE_URL, or else the
        default store. One that cannot be used is named in a logged warning, and the server asked.

    Raises
    ------
    StudyNotFoundError
        No such store or study, or a study without runs. Nothing is created by asking.
    ServerError
        The server does not answer within seconds, or refuses; the database cannot be read, and
        it is what the tracking URI names.
    AnalysisError
        An export is missing, damaged, or of an unknown format.
    """
    if is_export(name):
        return read_export(Path(name))
    source = _source(tracking_uri, database_url)
    runs, source = _logged(str(name), source)
    jobs = [run for run in runs if run.is_job]
    if any(run.tags.get(schema.KIND) == schema.TUNING for run in runs):
        raise StudyNotFoundError(
            f"{name} holds the trials of a tuning, which are not compared: see it in MLflow; the "
            "report of the tuned study says how its arms were tuned"
        )
    if not jobs:
        maker = "import-paper" if str(name) == schema.PUBLISHED else f"run {name}"
        raise StudyNotFoundError(
            f"study {name} has no runs yet at {source.place}: `galaxy-mlflow {maker}` makes them"
        )
    return study_of(str(name), jobs, source)


def _source(tracking_uri: str | None, database_url: str | None) -> MlflowSource:
    own = tracking_uri if tracking_uri and is_database(tracking_uri) else None
    database = database_url or own or os.environ.get(URL_VARIABLE)
    uri = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI") or database
    uri = uri or default_tracking_uri()
    if database is None and is_database(uri):
        database = uri
    return MlflowSource(uri, Database(database) if database else None)


def _logged(study: str, source: MlflowSource) -> tuple[list[LoggedRun], MlflowSource]:
    """Return a study's runs and where they came from: the database, or else MLflow's client."""
    if source.database is None:
        return _from_client(study, source), source
    try:
        runs = source.database.runs(study)
    except (UnknownDatabaseError, ServerError, StudyNotFoundError) as error:
        direct = source.database.url == source.uri
        if direct and not isinstance(error, UnknownDatabaseError):
            raise
        instead = "MLflow's own client" if direct else shown(source.uri)
        LOG.warning("%s; reading through %s instead", error, instead)
        return _logged(study, MlflowSource(source.uri))
    if runs is None:
        raise _not_found(study, source.place, source.database.studies())
    return runs, source


def _from_client(study: str, source: MlflowSource) -> list[LoggedRun]:
    with clear_errors(source.uri):
        search, where = source.client.search_runs, [_find_experiment(source, study)]
        runs = _pages(lambda token: search(where, max_results=PAGE, page_token=token))
        return [
            LoggedRun(r.info.run_id, r.info.start_time, r.data.tags, r.data.params, r.data.metrics)
            for r in runs
        ]


def _find_experiment(source: MlflowSource, name: str) -> str:
    client = source.client
    with environment(_QUICK):
        experiment = client.get_experiment_by_name(name)
    if experiment is not None and experiment.lifecycle_stage == "active":
        return str(experiment.experiment_id)
    pages = _pages(lambda token: client.search_experiments(max_results=PAGE, page_token=token))
    raise _not_found(name, source.place, [item.name for item in pages])


def _not_found(name: str, place: str, studies: Iterable[str]) -> StudyNotFoundError:
    known = sorted(study for study in studies if study != "Default")
    listed = f"known: {', '.join(known)}" if known else "there is no study yet"
    return StudyNotFoundError(f"no study {name!r} at {place}{did_you_mean(name, known)}; {listed}")


def _parts(requests: Iterable[Request], runs: int) -> Iterator[Request]:
    return (part for request in requests for part in request.parts(runs))


def _pages(ask: Callable[[str | None], Any]) -> Iterator[Any]:
    """Yield the items of every page."""
    token: str | None = None
    while True:
        page = ask(token)
        yield from page
        token = page.token
        if not token:
            return
