"""What a tracking server is asked; nothing here changes anything on it."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from galaxy_mlflow import schema
from galaxy_mlflow.errors import CheckpointError
from galaxy_mlflow.files import sha256_of
from galaxy_mlflow.runs import (
    ListedRun,
    RunRecord,
    Standing,
    all_pages,
    is_job,
    listed,
    record_of,
    standing_of,
)
from galaxy_mlflow.schema import JobId

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_NO_SUCH_RUN = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")
"""What MLflow says of an id that no run has, and of text that can be no id."""


class Reader(ABC):
    """The questions of `MlflowStore`, which says how the server is talked to.

    Each of them raises ServerError where the server cannot be reached, or fails.
    """

    @abstractmethod
    def _talking(self) -> AbstractContextManager[MlflowClient]:
        """Return a context with a client, which turns what goes wrong into one clear error."""

    def check(self) -> None:
        """Ask the server for anything at all.

        Raises
        ------
        ServerError
            It does not answer, or refuses.
        """
        with self._talking() as client:
            client.search_experiments(max_results=1)

    def runs(self, study: str) -> list[RunRecord]:
        """Return all runs of a study that are not deleted, oldest first."""
        with self._talking() as client:
            return [record_of(run) for run in _jobs(client, study, "")]

    def listing(self, study: str) -> Iterator[ListedRun]:
        """Yield the little that a listing keeps of each run that is not deleted, oldest first.

        One page is in memory at a time, whatever the size of the study.
        """
        with self._talking() as client:
            yield from (listed(run) for run in _jobs(client, study, ""))

    def find(self, job: JobId) -> RunRecord | None:
        """Return the run of a job: the oldest where there are several."""
        where = " and ".join(f"tags.`{key}` = '{value}'" for key, value in job.tags().items())
        with self._talking() as client:
            return next((record_of(run) for run in _jobs(client, job.study, where)), None)

    def record(self, run_id: str) -> RunRecord | None:
        """Return a job's run by its id; None where there is no such run."""
        with self._talking() as client:
            try:
                run = client.get_run(run_id)
            except Exception as error:
                if getattr(error, "error_code", None) in _NO_SUCH_RUN:
                    return None
                raise
        there = run.info.lifecycle_stage == "active" and is_job(run.data.tags)
        return record_of(run) if there else None

    def studies(self) -> list[str]:
        """Return the names of all experiments that are not deleted, the server's own among them."""
        with self._talking() as client:
            return [str(experiment.name) for experiment in client.search_experiments()]

    def history(self, run_id: str, metric: str) -> dict[int, float]:
        """Return a metric's values by epoch; empty where the run has no such metric."""
        with self._talking() as client:
            points = client.get_metric_history(run_id, metric)
        return {int(point.step): float(point.value) for point in points}

    def standing(self, run_id: str) -> Standing:
        """Return who has a run, and its last epoch, in one request."""
        with self._talking() as client:
            return standing_of(client.get_run(run_id))

    def last_epoch(self, run_id: str) -> int:
        """Return the last epoch on the server; -1 for none."""
        return self.standing(run_id).last_epoch

    def fetch(self, run_id: str, artifact_path: str, folder: Path) -> Path | None:
        """Download one artifact into `folder`; None where the run has no such artifact."""
        with self._talking() as client:
            parent = artifact_path.rpartition("/")[0]
            if artifact_path not in {item.path for item in client.list_artifacts(run_id, parent)}:
                return None
            folder.mkdir(parents=True, exist_ok=True)
            return Path(client.download_artifacts(run_id, artifact_path, str(folder)))

    def artifacts(self, run_id: str, folder: str) -> list[str]:
        """Return the paths of a run's artifacts in a folder."""
        with self._talking() as client:
            return [str(item.path) for item in client.list_artifacts(run_id, folder)]

    def fetch_checkpoint(self, run_id: str, folder: Path) -> tuple[Path, str] | None:
        """Download the last checkpoint; return its file and recorded sha256.

        Raises
        ------
        CheckpointError
            What names it is damaged.
        """
        pointer = self.fetch(run_id, f"{schema.CHECKPOINTS}/last.json", folder)
        if pointer is None:
            return None
        try:
            last = json.loads(pointer.read_text())
            name, known = str(last["file"]), [str(last["sha256"]), *last.get("before", ())]
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"the server's last.json cannot be read: {error!r}") from None
        file = self.fetch(run_id, f"{schema.CHECKPOINTS}/{name}", folder)
        if file is None:
            return None
        found = sha256_of(file)  # the state before, where an upload was cut between the two
        return file, found if found in known else known[0]


def _jobs(client: MlflowClient, study: str, where: str) -> Iterator[Run]:
    """Yield the runs of a study's jobs that a filter leaves; none where there is no such study."""
    experiment = client.get_experiment_by_name(study)
    if experiment is None or experiment.lifecycle_stage != "active":
        return
    runs = all_pages(client, experiment.experiment_id, where)
    yield from (run for run in runs if is_job(run.data.tags))
