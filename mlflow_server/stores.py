"""Where a server's files and runs are, opened directly: its S3 server or folder, its database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from galaxy_mlflow import schema
from galaxy_mlflow.errors import ConfigError
from galaxy_mlflow.home import Home
from galaxy_mlflow.server_errors import be_brief, server_error, shown
from mlflow_server.lock import deleting
from mlflow_server.objects import Objects, StoredObject, Upload
from mlflow_server.settings import Settings
from mlflow_server.storage import Inventory, KnownRun, Plan

_RUNS = """
SELECT runs.run_uuid, experiments.name, runs.lifecycle_stage, runs.deleted_time, tags.value
FROM runs JOIN experiments ON runs.experiment_id = experiments.experiment_id
LEFT JOIN tags ON tags.run_uuid = runs.run_uuid AND tags.key = :status
"""


class Files(Protocol):
    """Where artifacts are."""

    def listing(self) -> Iterator[StoredObject]:
        """Yield every file."""

    def delete(self, keys: Sequence[str]) -> None:
        """Remove files."""

    def uploads(self) -> Iterator[Upload]:
        """Yield every upload that nobody completed."""

    def abort(self, upload: Upload) -> None:
        """Give an upload up."""


@dataclass(frozen=True)
class Folder:
    """The artifacts of a local store; a key is a path from the folder's parent on."""

    path: Path

    def listing(self) -> Iterator[StoredObject]:
        """Yield every file."""
        for file in sorted(self.path.rglob("*")):
            if file.is_file():
                facts = file.stat()
                key = file.relative_to(self.path.parent).as_posix()
                modified = datetime.fromtimestamp(facts.st_mtime, UTC)
                yield StoredObject(key, facts.st_size, modified)

    def delete(self, keys: Sequence[str]) -> None:
        """Remove files."""
        for key in keys:
            (self.path.parent / key).unlink(missing_ok=True)

    def uploads(self) -> Iterator[Upload]:
        """Yield nothing: a folder has no uploads."""
        return iter(())

    def abort(self, upload: Upload) -> None:
        """Do nothing: a folder has no uploads."""


@dataclass(frozen=True)
class Store:
    """The files and the runs of one server."""

    files: Files
    database_uri: str

    @classmethod
    def here(cls, home: Home) -> Store:
        """Return the store of the server whose container this is, or else the local store.

        Raises
        ------
        ConfigError
            The tracking server is elsewhere, there is no local store, or a setting is wrong.
        """
        settings = Settings.here()
        if (settings.secrets / "tracking_s3_access_key").exists():
            return cls(Objects.of(settings), settings.database_uri("mlflow"))
        if not home.owns(home.tracking_uri):
            raise ConfigError(
                f"{shown(home.tracking_uri)}: what a server stores is seen from its own machine: "
                "docker compose exec tracking galaxy-mlflow storage"
            )
        if not home.database.exists():
            raise ConfigError(f"{home.database}: there is no local store yet")
        return cls(Folder(home.artifacts), home.database_uri)

    def look(self) -> Inventory:
        """Return all files and all runs; files first, so that no file's run is missed.

        Raises
        ------
        ServerError
            The database or the S3 server cannot be used.
        """
        files, uploads = tuple(self.files.listing()), tuple(self.files.uploads())
        return Inventory(files, uploads, _known_runs(self.database_uri))

    def apply(self, plans: Sequence[Plan]) -> None:
        """Delete what plans name: files, uploads, and last the runs themselves.

        Raises
        ------
        ServerError
            A backup is under way, or the database or the S3 server cannot be used.
        """
        with deleting(self.database_uri):
            for plan in plans:
                self.files.delete([file.key for file in plan.files])
                for upload in plan.uploads:
                    self.files.abort(upload)
                _forget(self.database_uri, plan.runs)


def _known_runs(database_uri: str) -> dict[str, KnownRun]:
    from sqlalchemy import create_engine, text
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with create_engine(database_uri).connect() as connection:
            rows = connection.execute(text(_RUNS), {"status": schema.STATUS}).all()
    except SQLAlchemyError as error:
        raise server_error(database_uri, error) from None
    return {
        run_id: _known_run(study, stage, deleted, status)
        for run_id, study, stage, deleted, status in rows
    }


def _known_run(study: str, stage: str, deleted: int | None, status: str | None) -> KnownRun:
    """Return a run from its row, where times are milliseconds."""
    if stage == "active":
        return KnownRun(study, finished=status == schema.FINISHED)
    when = None if deleted is None else datetime.fromtimestamp(deleted / 1000, UTC)
    return KnownRun(study, finished=False, deleted=when)


def _forget(database_uri: str, run_ids: Sequence[str]) -> None:
    """Remove runs from the database as `mlflow gc` does; their files are gone already."""
    if not run_ids:
        return
    be_brief()
    from mlflow.exceptions import MlflowException
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    try:
        store: Any = SqlAlchemyStore(database_uri, "mlflow-artifacts:/")  # type: ignore[no-untyped-call]
        for run_id in run_ids:
            store._hard_delete_run(run_id)
    except MlflowException as error:
        raise server_error(database_uri, error) from None
