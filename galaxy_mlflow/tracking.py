"""The MLflow store: how runs are found, made, written and read on a server.

This is the only module of the package that talks to MLflow while runs are trained. Sending the
same thing twice changes nothing: runs are found by their identity before they are created, a
metric's timestamp is fixed in the spool, and epochs that the server has are never sent again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galaxy_mlflow import schema
from galaxy_mlflow.errors import BusyError, ServerRefusedError
from galaxy_mlflow.home import Home
from galaxy_mlflow.importing import Imported, import_runs
from galaxy_mlflow.runs import RunRecord, WholeRun, data_digests, refuse_conflict
from galaxy_mlflow.server_errors import be_brief, redacted, server_error, shown
from galaxy_mlflow.side_runs import Point, SideRuns
from galaxy_mlflow.spool import Event, RunStart
from galaxy_mlflow.study_page import describe
from galaxy_mlflow.uploads import SERVED, PartStore, require_undamaged, route_to, under_its_name

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

__all__ = ["Imported", "MlflowStore", "RunRecord", "WholeRun", "default_tracking_uri",
           "import_runs", "redacted", "shown"]  # fmt: skip

_UNUSABLE = (OSError, ImportError, ValueError)
"""What an address raises that means no server or database, such as one without its driver."""
_PARAMS_A_CALL = 100
METRICS_A_CALL = 999
"""MLflow takes 1000 things in one request, and a tag may be among them."""


def default_tracking_uri() -> str:
    """Return `$MLFLOW_TRACKING_URI`, or the database of the default store."""
    return Home.default().tracking_uri


class MlflowStore(SideRuns):
    """A study's runs on one MLflow server.

    Parameters
    ----------
    uri : address of a server, or of a database opened directly
    home : folder of the default store; its experiments keep their artifacts there
    """

    def __init__(self, uri: str, home: Home) -> None:
        self.uri = uri
        self.home = home
        self.news: deque[str] = deque()  # for the user; whoever tells them takes them out
        self._client: MlflowClient | None = None
        self._experiments: dict[str, str] = {}

    @property
    def shown(self) -> str:
        """The address without a user's name or password."""
        return shown(self.uri)

    def create(self, start: RunStart) -> RunRecord:
        """Create a job's run, by the claim rule: the oldest run of the identity wins.

        Raises
        ------
        BusyError
            Another worker created it at the same time and was first.
        """
        with self._talking() as client:
            experiment = self._experiment(client, start.job.study)
            self._describe(client, experiment, start.page)
            run = client.create_run(experiment, run_name=start.job.run_name, tags=start.tags)
            mine = run.info.run_id
        winner = self.find(start.job)
        if winner is not None and winner.run_id != mine:
            self.delete(mine)
            # A lost answer has MLflow's client create a run twice: then the winner is ours too.
            if winner.tags.get(schema.OWNER) != start.tags[schema.OWNER]:
                raise BusyError(f"{start.job.run_name}: another worker created this run first")
            mine = winner.run_id
        self.send_params(mine, start.params)
        self._log_data(mine, start.data)
        return RunRecord(mine, start.job, schema.RUNNING, start.tags, start.params, {})

    def resume(self, run: RunRecord, start: RunStart) -> RunRecord:
        """Take an existing run up again as a new attempt; return it as it is now.

        Raises
        ------
        IdentityConflictError
            The run was made with other settings or other data.
        """
        refuse_conflict(run, start.tags, start.params)
        attempt = int(run.tags.get(schema.ATTEMPT, "1")) + 1
        tags = {**start.tags, schema.ATTEMPT: str(attempt)}
        with self._talking() as client:
            client.log_batch(run.run_id, tags=_tags(tags))
            client.update_run(run.run_id, status="RUNNING")
        self.send_params(run.run_id, {k: v for k, v in start.params.items() if k not in run.params})
        self._log_data(run.run_id, start.data)
        return replace(run, status=schema.RUNNING, tags={**run.tags, **tags})

    @contextmanager
    def watching(self, run_id: str) -> Iterator[None]:
        """Log the machine's load with a run, if MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING says so.

        MLflow's monitor ends for good when the server is away, and does not start without it:
        the load of the rest of that attempt is not logged.
        """
        monitor = self._monitor(run_id)
        try:
            yield
        finally:
            if monitor is not None:
                monitor.finish()

    def send_epochs(self, run_id: str, epochs: Sequence[Event], tags: Mapping[str, str]) -> None:
        """Send the metrics of some epochs, and tags beside them, in one call.

        More than `METRICS_A_CALL` metrics, which is one epoch alone, go in several; the one that
        says how far the run is comes last.
        """
        metrics = [metric for event in epochs for metric in _metrics(event, event.epoch)]
        metrics.sort(key=lambda metric: (metric.step, metric.key == schema.TRAIN_LOSS))
        self._send_metrics(run_id, metrics, tags)

    def send_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        with self._talking() as client:
            client.log_batch(run_id, tags=_tags(tags))

    def send_artifact(self, run_id: str, file: Path, event: Event) -> None:
        """Upload one file under its own name; a large one straight to the object store.

        Raises
        ------
        ServerRefusedError
            The file is not what was recorded: its sha256 differs.
        ServerError
            It did not arrive.
        """
        route = route_to(self.uri)
        with under_its_name(file, event) as named, self._talking() as client:
            store = _served(client.get_run(run_id), self.uri) if route.takes(named) else None
            if store is None or not route.send(store, named, event, self.news.append):
                require_undamaged(named, event.sha256)
                folder = event.artifact_path.rpartition("/")[0] or None
                client.log_artifact(run_id, str(named), folder)

    def send_end(self, run_id: str, event: Event) -> None:
        """Send the summary and close the run; the status tag comes last."""
        self._send_metrics(run_id, _metrics(event, step=0))
        status = event.tags[schema.STATUS]
        others = {key: value for key, value in event.tags.items() if key != schema.STATUS}
        with self._talking() as client:
            client.log_batch(run_id, tags=_tags(others))
            closed = "FINISHED" if status == schema.FINISHED else "FAILED"
            client.set_terminated(run_id, status=closed, end_time=event.timestamp_ms)
            client.set_tag(run_id, schema.STATUS, status)

    def write(self, run: WholeRun) -> str:
        """Write a finished run at once; whatever stops it leaves a run that is not `finished`."""
        with self._talking() as client:
            experiment = self._experiment(client, run.job.study)
            tags = {**run.job.tags(), **schema.SOURCE, **run.tags, schema.STATUS: schema.RUNNING}
            made = client.create_run(experiment, run_name=run.job.run_name, tags=tags)
            run_id = str(made.info.run_id)
            for path, text in run.artifacts.items():
                client.log_text(run_id, text, path)
        self.send_params(run_id, run.params)
        self.send_points(run_id, run.points(), {})
        with self._talking() as client:
            client.set_terminated(run_id)
            client.set_tag(run_id, schema.STATUS, schema.FINISHED)
        return run_id

    def send_points(self, run_id: str, points: Iterable[Point], tags: Mapping[str, str]) -> None:
        """Send values of metrics, in this order, and tags beside them."""
        from mlflow.entities import Metric

        self._send_metrics(run_id, [Metric(*point) for point in points])
        if tags:
            self.send_tags(run_id, tags)

    def delete(self, run_id: str) -> None:
        """Mark a run deleted; MLflow keeps it until `mlflow gc`."""
        with self._talking() as client:
            client.delete_run(run_id)

    def _experiment(self, client: MlflowClient, study: str) -> str:
        """Return the id of a study's experiment; create it where there is none."""
        if study not in self._experiments:
            # Only the default store says itself where a new experiment keeps its artifacts.
            own = (self.home.artifacts / study).as_uri() if self.home.owns(self.uri) else None
            self._experiments[study] = _find_or_create(client, study, own)
        return self._experiments[study]

    def _artifacts(self, run: Run) -> Any:
        return _artifacts_of(run, self.uri)

    def _monitor(self, run_id: str) -> Any:
        """Start MLflow's monitor where it is asked for; one that cannot start costs no run."""
        from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING

        try:
            if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():  # type: ignore[no-untyped-call]
                return None
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            where = {"resume_logging": True, "tracking_uri": self.uri}
            monitor: Any = SystemMetricsMonitor(run_id, **where)  # type: ignore[no-untyped-call]
            monitor.start()
        except Exception as error:  # psutil, which it needs, is an extra
            reason = redacted(self.uri, f"{type(error).__name__}: {error}")
            self.news.append(f"the machine's load is not logged: {reason}")
            return None
        return monitor

    def _describe(self, client: MlflowClient, experiment: str, page: Mapping[str, str]) -> None:
        """Bring the page of a study up to date."""
        from mlflow.exceptions import MlflowException

        with self._costing_no_run("the study's page in MLflow is not up to date"):
            try:
                describe(client, experiment, page)
            except MlflowException:  # another worker may have been first: what is there is left
                describe(client, experiment, page)

    def _log_data(self, run_id: str, data: Mapping[str, str]) -> None:
        """Name the data set of a run as its input, unless it is there."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if not data:  # a record of an older version
            return
        with self._talking() as client, self._costing_no_run("the run does not name its data set"):
            if data["digest"] not in data_digests(client.get_run(run_id)):
                item = DatasetInput(Dataset(**data), [InputTag(*schema.DATA_CONTEXT)])
                client.log_inputs(run_id, [item])

    @contextmanager
    def _costing_no_run(self, what: str) -> Iterator[None]:
        """Go on where the server refuses what a run can do without; say what, and why."""
        from mlflow.exceptions import MlflowException

        try:
            yield
        except MlflowException as error:
            self.news.append(f"{what}: {server_error(self.uri, error)}")

    def send_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Log parameters; those that are there already must be the same."""
        from mlflow.entities import Param

        items = [Param(key, value) for key, value in params.items()]
        with self._talking() as client:
            for first in range(0, len(items), _PARAMS_A_CALL):
                client.log_batch(run_id, params=items[first : first + _PARAMS_A_CALL])

    def _send_metrics(
        self, run_id: str, metrics: Sequence[Metric], tags: Mapping[str, str] | None = None
    ) -> None:
        with self._talking() as client:
            for first in range(0, len(metrics), METRICS_A_CALL):
                batch = metrics[first : first + METRICS_A_CALL]
                client.log_batch(run_id, metrics=batch, tags=_tags(tags or {}), synchronous=True)

    @contextmanager
    def _talking(self) -> Iterator[MlflowClient]:
        """Yield a client; turn whatever goes wrong into one clear error."""
        be_brief()
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from requests import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            if self._client is None:
                with self.home.alone_where_new(self.uri):
                    self._client = MlflowClient(tracking_uri=self.uri)
            yield self._client
        except (MlflowException, RequestException, SQLAlchemyError, *_UNUSABLE) as error:
            raise server_error(self.uri, error) from None


def _find_or_create(client: MlflowClient, study: str, artifacts: str | None) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(study)
    if experiment is None:
        try:
            return str(client.create_experiment(study, artifacts, schema.EXPERIMENT_TAGS))
        except MlflowException:
            experiment = client.get_experiment_by_name(study)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise ServerRefusedError(
            f"study {study!r} was deleted on the server: restore that experiment, "
            "or give the study a new name"
        )
    return str(experiment.experiment_id)


def _served(run: Run, uri: str) -> PartStore | None:
    """Return where a run's artifacts go, if that is through the tracking server."""
    return _artifacts_of(run, uri) if str(run.info.artifact_uri).startswith(SERVED) else None


def _artifacts_of(run: Run, uri: str) -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository(run.info.artifact_uri, tracking_uri=uri)


def _metrics(event: Event, step: int) -> list[Metric]:
    from mlflow.entities import Metric

    when = event.timestamp_ms
    return [Metric(key, value, when, step) for key, value in event.metrics.items()]


def _tags(tags: Mapping[str, str]) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(key, value) for key, value in tags.items()]
