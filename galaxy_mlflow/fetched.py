"""What prediction needs of chosen runs, brought here; torch is not loaded for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from galaxy_mlflow import schema
from galaxy_mlflow.chosen import Choice, chosen_runs
from galaxy_mlflow.fitted import temperatures
from galaxy_mlflow.home import Home
from galaxy_mlflow.runs import RunRecord
from galaxy_mlflow.tracking import MlflowStore

_NEEDED = (
    schema.STUDY_FILE,
    schema.CONFUSION_FILE,
    schema.BEST_WEIGHTS,
)


@dataclass(frozen=True)
class FetchedRuns:
    """Runs and the files of theirs that are here; None where the server has no such file.

    `temperatures` are of the runs that left what they are fitted on, by run_id.
    """

    runs: tuple[RunRecord, ...]
    files: Mapping[tuple[str, str], Path | None]
    temperatures: Mapping[str, float]
    notices: tuple[str, ...]


class FetchedStore(MlflowStore):
    """A store whose artifacts were fetched before: asked for one of those, it asks no server."""

    def __init__(self, home: Home, fetched: FetchedRuns) -> None:
        super().__init__(home.tracking_uri, home)
        self._files = fetched.files

    def fetch(self, run_id: str, artifact_path: str, folder: Path) -> Path | None:
        """Return a file that is here, or fetch it."""
        if (run_id, artifact_path) in self._files:
            return self._files[run_id, artifact_path]
        return super().fetch(run_id, artifact_path, folder)


def fetch_chosen(choice: Choice, home: Home) -> FetchedRuns:
    """Fetch the files of the runs that a choice means from the server in use.

    Raises
    ------
    GalaxyError
        See `chosen_runs`.
    """
    store = MlflowStore(home.tracking_uri, home)
    runs = chosen_runs(store, choice)
    files = {
        (run.run_id, path): store.fetch(run.run_id, path, home.weights / f"run-{run.run_id}")
        for run in runs
        for path in _NEEDED
    }
    return FetchedRuns(tuple(runs), files, temperatures(store, runs), tuple(store.news))
