"""Where things live by default: one folder with the database, artifacts, spool, cache, weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from galaxy_mlflow.schema import JobId

HOME_VARIABLE = "GALAXY_MLFLOW_HOME"
URI_VARIABLE = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class Home:
    """The default store and the local files of a worker."""

    path: Path

    @classmethod
    def default(cls) -> Home:
        """Return `$GALAXY_MLFLOW_HOME`, or `.galaxy-mlflow` in the current folder."""
        return cls(Path(os.environ.get(HOME_VARIABLE) or ".galaxy-mlflow").resolve())

    @property
    def database(self) -> Path:
        """The SQLite file of the default store."""
        return self.path / "mlflow.db"

    @property
    def database_uri(self) -> str:
        """The default store's own tracking URI."""
        return f"sqlite:///{self.database}"

    @property
    def artifacts(self) -> Path:
        """Artifacts of the default store, one folder an experiment."""
        return self.path / "artifacts"

    @property
    def cache(self) -> Path:
        """Decoded images."""
        return self.path / "cache"

    @property
    def features(self) -> Path:
        """What frozen backbones made of the images."""
        return self.cache / "features"

    @property
    def weights(self) -> Path:
        """Initial weights made or fetched here."""
        return self.path / "weights"

    @property
    def spool(self) -> Path:
        """What runs have recorded and the server may not have yet."""
        return self.path / "spool"

    @property
    def spool_here(self) -> Path:
        """The part of the spool that is for the server in use."""
        if self.owns(self.tracking_uri):
            return self.spool / "default"
        return self.spool / hashlib.sha256(self.tracking_uri.encode()).hexdigest()[:12]

    def spool_of(self, job: JobId) -> Path:
        """Return the folder of one job's records and checkpoints."""
        return self.spool_here / job.study / f"split-{job.split:03d}" / job.arm

    def note_of(self, study: str) -> Path:
        """Return the note of what the server in use had of a study (`known.note_runs`)."""
        return self.path / "known" / self.spool_here.name / f"{study}.json"

    @property
    def tracking_uri(self) -> str:
        """`$MLFLOW_TRACKING_URI`, or the default store."""
        return os.environ.get(URI_VARIABLE) or self.database_uri

    def owns(self, tracking_uri: str) -> bool:
        """Whether `tracking_uri` is the default store, opened directly."""
        return tracking_uri == self.database_uri

    @contextmanager
    def alone_where_new(self, tracking_uri: str) -> Iterator[None]:
        """Let one process at a time make the default store's database: MLflow's way is no race."""
        if not self.owns(tracking_uri) or self.database.exists():
            yield
            return
        self.path.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path / "mlflow.db.lock"):
            yield
