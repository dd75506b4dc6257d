"""What uses the space of the artifacts, and what of it may go: plans only, nothing is deleted."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from galaxy_mlflow import schema
from galaxy_mlflow.errors import ConfigError
from mlflow_server.objects import StoredObject, Upload

LAST, BEST, EVERY, OTHER = "last", "best", "every n", "other"
_FOLDERS = (schema.PREDICTIONS, schema.CONFUSION, schema.FIGURES, schema.REPORT)
KINDS: Final = (LAST, BEST, EVERY, *_FOLDERS, OTHER)
NO_RUN: Final = "(no run)"
NO_ARTIFACT: Final = "(others)"

KEEP: Final = {BEST: (BEST, LAST), LAST: (LAST, BEST), "none": ()}
"""For each --retention the kinds of checkpoint in the order of choice: the first that is there."""
YOUNG: Final = timedelta(hours=1)
"""Files younger than this are never taken for orphans."""
STALE: Final = timedelta(days=1)
"""Age from which an upload that nobody completed counts as broken."""

_CHECKPOINTS = {"last.pt": LAST, "last.json": LAST, "best.safetensors": BEST}
_ARTIFACT = re.compile(r"(?:[^/]+/)+?(?P<run>[0-9a-f]{32})/artifacts/(?P<path>.+)")


@dataclass(frozen=True)
class KnownRun:
    """A run on the server: its study, whether it is done, when it was deleted if that is known."""

    study: str
    finished: bool
    deleted: datetime | None = None


@dataclass(frozen=True)
class Plan:
    """What would be deleted, and why."""

    reason: str
    files: tuple[StoredObject, ...] = ()
    uploads: tuple[Upload, ...] = ()
    runs: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes that would be free."""
        return sum(file.size for file in self.files) + sum(part.size for part in self.uploads)


@dataclass(frozen=True)
class Inventory:
    """All files, open uploads and runs of a server at one time."""

    files: tuple[StoredObject, ...]
    uploads: tuple[Upload, ...]
    runs: dict[str, KnownRun]
    now: datetime = field(default_factory=lambda: datetime.now(UTC))

    def usage(self) -> dict[str, Counter[str]]:
        """Return bytes by study and kind; files of no run have lines of their own."""
        found: dict[str, Counter[str]] = defaultdict(Counter)
        for file in self.files:
            run_id, path = parts(file.key)
            run = self.runs.get(run_id)
            line = run.study if run is not None else NO_RUN if run_id else NO_ARTIFACT
            found[line][kind(path)] += file.size
        return dict(found)

    def of_study(self, study: str) -> Inventory:
        """Return the part that belongs to one study.

        Raises
        ------
        ConfigError
            The server has no run of it.
        """
        runs = {run_id: run for run_id, run in self.runs.items() if run.study == study}
        if not runs:
            raise ConfigError(f"study {study!r} has no runs here: galaxy-mlflow storage lists all")
        files = tuple(file for file in self.files if parts(file.key)[0] in runs)
        uploads = tuple(upload for upload in self.uploads if parts(upload.key)[0] in runs)
        return Inventory(files, uploads, runs, self.now)

    def retention(self, keep: str) -> Plan:
        """Plan to keep one kind of checkpoint, or none, of the finished runs.

        A run without the wanted kind keeps the other one: it stays fit for `run:RUN_ID`.

        Raises
        ------
        ConfigError
            `keep` is none of KEEP.
        """
        if keep not in KEEP:
            raise ConfigError(f"--retention {keep}: expected one of {', '.join(KEEP)}")
        doomed: list[StoredObject] = []
        for found in self._checkpoints().values():
            kept = next((one for one in KEEP[keep] if one in found), None)
            doomed += [file for one, files in found.items() if one != kept for file in files]
        return Plan(f"checkpoints that --retention {keep} does not keep", tuple(doomed))

    def orphans(self) -> Plan:
        """Plan to remove files whose run is not on the server, not even in its trash.

        Raises
        ------
        ConfigError
            The database has no run at all: it was lost, rather than every single run.
        """
        doomed = tuple(
            file
            for file in self.files
            if (run_id := parts(file.key)[0])
            and run_id not in self.runs
            and self.now - file.modified > YOUNG
        )
        if doomed and not self.runs:
            raise ConfigError(
                f"the database has no runs, and there are {len(doomed)} files of runs: restore the "
                "database first (docs/operations.md, Backups); nothing is deleted"
            )
        return Plan("files of runs that are gone", doomed)

    def broken_uploads(self) -> Plan:
        """Plan to give up uploads that nobody completed within a day."""
        stale = tuple(upload for upload in self.uploads if self.now - upload.begun > STALE)
        return Plan("uploads broken off", uploads=stale)

    def trash(self, days: float) -> Plan:
        """Plan to remove for good the runs that were deleted at least `days` ago."""
        before = self.now - timedelta(days=days)
        doomed = {
            run_id
            for run_id, run in self.runs.items()
            if run.deleted is not None and run.deleted <= before
        }
        files = tuple(file for file in self.files if parts(file.key)[0] in doomed)
        return Plan(f"runs deleted {days:g} days ago or before", files, runs=tuple(sorted(doomed)))

    def _checkpoints(self) -> dict[str, dict[str, list[StoredObject]]]:
        """Return the checkpoints of finished runs, by run and kind."""
        found: dict[str, dict[str, list[StoredObject]]] = defaultdict(lambda: defaultdict(list))
        for file in self.files:
            run_id, path = parts(file.key)
            run = self.runs.get(run_id)
            if run is not None and run.finished and kind(path) in (LAST, BEST, EVERY):
                found[run_id][kind(path)].append(file)
        return found


def parts(key: str) -> tuple[str, str]:
    """Return the run and the path of an artifact; an empty run where a key is no run's artifact."""
    found = _ARTIFACT.fullmatch(key)
    return (found["run"], found["path"]) if found else ("", key)


def kind(path: str) -> str:
    """Return the kind of an artifact: one of KINDS."""
    folder, _, name = path.partition("/")
    if folder == schema.CHECKPOINTS:
        return _CHECKPOINTS.get(name, EVERY if name.startswith("epoch-") else OTHER)
    return folder if folder in _FOLDERS else OTHER
