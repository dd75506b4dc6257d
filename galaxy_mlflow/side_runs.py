"""Runs that are no jobs of a study: its report, and the trials of its tuning."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from galaxy_mlflow import schema
from galaxy_mlflow.errors import ServerRefusedError
from galaxy_mlflow.reading import Reader
from galaxy_mlflow.runs import all_pages
from galaxy_mlflow.study_page import describe

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

Point = tuple[str, float, int, int]
"""Name, value, timestamp in ms, step."""


@dataclass(frozen=True)
class SideRun:
    """A run that is no job, before it is on the server.

    Attributes
    ----------
    experiment : its name
    tags : what tells it from all others there among them
    """

    experiment: str
    name: str
    tags: Mapping[str, str]


class SideRuns(Reader):
    """What `MlflowStore` does with such runs.

    Each of these raises ServerError where the server cannot be reached, or fails.
    """

    @property
    @abstractmethod
    def shown(self) -> str:
        """The address without a user's name or password."""

    @abstractmethod
    def _experiment(self, client: MlflowClient, study: str) -> str:
        """Return the id of an experiment; create it where there is none."""

    @abstractmethod
    def _artifacts(self, run: Run) -> Any:
        """Return where a run's artifacts are."""

    @abstractmethod
    def send_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Log parameters; those that are there already must be the same."""

    @abstractmethod
    def send_points(self, run_id: str, points: Iterable[Point], tags: Mapping[str, str]) -> None:
        """Send values of metrics, in this order, and tags beside them."""

    def side_runs(self, experiment: str, where: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """Return the tags of the runs that carry these tags, by run_id, the oldest first."""
        text = " and ".join(f"tags.`{key}` = '{value}'" for key, value in where.items())
        with self._talking() as client:
            known = client.get_experiment_by_name(experiment)
            if known is None or known.lifecycle_stage != "active":
                return {}
            runs = all_pages(client, known.experiment_id, text)
            return {run.info.run_id: dict(run.data.tags) for run in runs}

    def begin_side_run(self, run: SideRun) -> str:
        """Create a run with its tags; return its run_id. Its params are sent apart."""
        with self._talking() as client:
            experiment = self._experiment(client, run.experiment)
            made = client.create_run(experiment, run_name=run.name, tags=dict(run.tags))
        return str(made.info.run_id)

    def end_side_run(self, run_id: str, status: str, files: Mapping[str, str]) -> None:
        """Close a run with a status of MLflow's; its files are texts by path."""
        with self._talking() as client:
            for path, text in files.items():
                client.log_text(run_id, text, path)
            client.set_terminated(run_id, status=status)

    def describe_experiment(self, name: str, page: Mapping[str, str]) -> None:
        """Give an experiment its page and tags; what a person wrote there is left alone."""
        with self._talking() as client:
            describe(client, self._experiment(client, name), page)

    def log_report(self, study: str, folder: Path) -> str:
        """Put all files of a folder on the server as the study's one report; return its run_id.

        The report is a run without split or arm. A report that is there already is replaced.

        Raises
        ------
        ServerRefusedError
            The server has no such study; none is made for a report.
        """
        with self._talking() as client:
            known = client.get_experiment_by_name(study)
            if known is None or known.lifecycle_stage != "active":
                raise ServerRefusedError(f"{self.shown} has no study {study!r} to log a report to")
            experiment = str(known.experiment_id)
            where = f"tags.`{schema.KIND}` = '{schema.REPORT}'"
            run = next(all_pages(client, experiment, where), None)
            if run is None:
                tags = {schema.STUDY: study, schema.KIND: schema.REPORT, **schema.SOURCE}
                run = client.create_run(experiment, run_name=schema.REPORT, tags=tags)
            artifacts = self._artifacts(run)
            if artifacts.list_artifacts(schema.REPORT):  # uploading only adds and overwrites
                artifacts.delete_artifacts(schema.REPORT)
            client.log_artifacts(run.info.run_id, str(folder), schema.REPORT)
            client.set_terminated(run.info.run_id)
            return str(run.info.run_id)
