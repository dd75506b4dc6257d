"""A durable record of one run on local disk, kept until the server has all of it.

A folder holds `run.json` (what the run is), `events.jsonl` (one line an epoch, artifact or end,
each made durable before the call returns), `sent.json` (how much of it the server has) and
`outbox/` (artifacts waiting). A line torn by a killed process is dropped when the spool opens.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from galaxy_mlflow import schema
from galaxy_mlflow.errors import BusyError, IdentityConflictError, SpoolError
from galaxy_mlflow.files import (
    files_below,
    link_or_copy,
    remove_drafts,
    sha256_of,
    sync_folder,
    write_json,
)
from galaxy_mlflow.schema import JobId

_OWNERS = 100
"""Workers remembered, at most: those since the server was last reached are the ones asked for."""
_TRIES = 10
"""To make a folder: another job's `discard` may take an empty one above it away meanwhile."""
_LOCK_WAIT = 3.0  # seconds: a process that was killed a moment ago may not be quite gone


class Kind(StrEnum):
    """What an event records."""

    EPOCH = "epoch"
    ARTIFACT = "artifact"
    END = "end"


@dataclass(frozen=True)
class RunStart:
    """What a run is: its job, tags and parameters by their names in `schema`."""

    job: JobId
    tags: dict[str, str]
    params: dict[str, str]
    page: dict[str, str] = field(default_factory=dict)  # tags of the study's experiment
    owners: tuple[str, ...] = ()  # tags of workers that wrote this record before
    data: dict[str, str] = field(default_factory=dict)  # fields of the run's data set in MLflow


@dataclass(frozen=True)
class Event:
    """One line of the record; which fields matter depends on the kind."""

    kind: Kind
    timestamp_ms: int
    epoch: int = -1
    metrics: dict[str, float] = field(default_factory=dict)
    file: str = ""  # name in the outbox
    artifact_path: str = ""  # where it goes on the server
    sha256: str = ""
    tags: dict[str, str] = field(default_factory=dict)


class Spool:
    """The record of one run; one process at a time writes it (`acquire`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._events: list[Event] = []
        self._size = 0  # bytes of whole lines
        self._sent: dict[str, int] = dict.fromkeys(Kind, 0)
        # Not of one thread: the one that sends asks whether the lock is held.
        self._lock = FileLock(folder / "lock", timeout=_LOCK_WAIT, thread_local=False)

    def acquire(self) -> None:
        """Take the folder for this process, read what it holds, and clear what a kill left.

        Raises
        ------
        BusyError
            Another process on this machine is at work on the same run.
        SpoolError
            The record is damaged.
        """
        try:
            self._lock_folder()
        except Timeout:
            raise BusyError(f"{self.folder}: another process is at work on this run") from None
        try:
            self._events = list(self._read_events())
            self._sent |= self._read_sent()
            self._clear()
        except (ValueError, KeyError, TypeError) as error:
            self.release()
            raise self._damaged(error) from None
        except OSError:
            self.release()
            raise

    def _lock_folder(self) -> None:
        for left in reversed(range(_TRIES)):
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._lock.acquire()
                return
            except (FileNotFoundError, FileExistsError):
                if not left:
                    raise

    def release(self) -> None:
        """Give the folder back."""
        self._lock.release()

    def leave(self) -> None:
        """Give the folder back; one in which nothing was recorded goes."""
        if self._lock.is_locked and not self._events:
            self.discard()
        self.release()

    @property
    def exists(self) -> bool:
        """Whether anything of a run is recorded here."""
        return (self.folder / "run.json").is_file()

    def begin(self, start: RunStart) -> None:
        """Record what the run is.

        Raises
        ------
        IdentityConflictError
            The spool holds a run of the same identity with other settings or other data.
        """
        known = self.start() if (self.folder / "run.json").is_file() else start
        for tag in (schema.CONFIG_HASH, schema.DATA_HASH):
            if known.tags.get(tag) != start.tags.get(tag):
                raise IdentityConflictError(
                    f"{self.folder}: holds records of {start.job.run_name} with another {tag}: "
                    "give the study a new name, or go on with --replace to discard them"
                )
        before = [*known.owners, known.tags.get(schema.OWNER, "")]
        owners = tuple(dict.fromkeys(owner for owner in before if owner))[-_OWNERS:]
        begun = replace(start, params=known.params, owners=owners)
        write_json(self.folder / "run.json", asdict(begun))

    def start(self) -> RunStart:
        """Return what the run is, as recorded; its parameters are those it first began with.

        Raises
        ------
        SpoolError
            The file is damaged.
        """
        try:
            saved = json.loads((self.folder / "run.json").read_text())
            job, page = JobId(**saved["job"]), saved.get("page", {})
            owners, data = tuple(saved.get("owners", ())), saved.get("data", {})
            return RunStart(job, saved["tags"], saved["params"], page, owners, data)
        except (ValueError, KeyError, TypeError) as error:
            raise self._damaged(error) from None

    @property
    def last_epoch(self) -> int:
        """The last epoch recorded; -1 for none."""
        return max((event.epoch for event in self._events if event.kind == Kind.EPOCH), default=-1)

    @property
    def last_sent_epoch(self) -> int:
        """The last epoch that counts as sent; -1 for none."""
        epochs = [event.epoch for event in self._events if event.kind == Kind.EPOCH]
        return max(epochs[: self._sent[Kind.EPOCH]], default=-1)

    @property
    def ended(self) -> str:
        """The status the record is closed with; empty while it is open."""
        return self._events[-1].tags.get(schema.STATUS, "") if self._events else ""

    def is_last(self, event: Event) -> bool:
        """Whether nothing was recorded after this event."""
        return bool(self._events) and self._events[-1] is event

    def add_artifact(
        self, file: Path, artifact_path: str, timestamp_ms: int, epoch: int = -1
    ) -> None:
        """Keep a file for upload, as `artifact_path`; a later one of the same name replaces it.

        Parameters
        ----------
        epoch : of the checkpoint that it is part of; -1 where it is part of none
        """
        name = f"{len(self._events):06d}-{file.name}"
        kept = self.folder / "outbox" / name
        link_or_copy(file, kept)
        sync_folder(kept.parent)
        self.append(
            Event(
                Kind.ARTIFACT,
                timestamp_ms,
                epoch=epoch,
                file=name,
                artifact_path=artifact_path,
                sha256=sha256_of(kept),
            )
        )

    def drop_replaced(self, artifact_path: str) -> None:
        """Remove files that wait for upload under a name which a later one has; nobody sends."""
        waiting = [e for e in self.pending(Kind.ARTIFACT) if e.artifact_path == artifact_path]
        for event in waiting[:-1]:
            (self.folder / "outbox" / event.file).unlink(missing_ok=True)

    def append(self, event: Event) -> None:
        """Add an event; it is on disk when this returns.

        Raises
        ------
        OSError
            It cannot be written. What is there of its line goes with the next append.
        """
        line = (json.dumps(asdict(event)) + "\n").encode()
        with (self.folder / "events.jsonl").open("ab") as file:
            file.truncate(self._size)  # a full disk may have torn the line before
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        self._size += len(line)
        self._events.append(event)

    def pending(self, kind: Kind) -> list[Event]:
        """Return the events of a kind that the server does not have yet, oldest first."""
        return [event for event in self._events if event.kind == kind][self._sent[kind] :]

    def mark_sent(self, *events: Event) -> None:
        """Note that the oldest pending events of a kind are on the server.

        The files of a spool that was given back are left alone: another process may have it.
        """
        if not events:
            return
        self._sent[events[0].kind] += len(events)
        if not self._lock.is_locked:
            return
        for event in events:
            if event.file:
                (self.folder / "outbox" / event.file).unlink(missing_ok=True)
        self._note_sent()

    def mark_all_sent(self) -> None:
        """Note that the server needs nothing more of this record."""
        for kind in Kind:
            self.mark_sent(*self.pending(kind))

    def forget_sent(self) -> None:
        """Hold everything for unsent: the server does not know this run, or not all of it."""
        self._sent = dict.fromkeys(Kind, 0)
        if self._lock.is_locked:
            self._note_sent()

    def _note_sent(self) -> None:
        write_json(self.folder / "sent.json", self._sent)

    @property
    def waiting(self) -> int:
        """Number of events that the server does not have yet."""
        return sum(len(self.pending(kind)) for kind in Kind)

    def discard(self) -> None:
        """Remove the folder, with checkpoints and all, and folders above that it leaves empty."""
        (self.folder / "run.json").unlink(missing_ok=True)  # first: nobody sends a rest
        shutil.rmtree(self.folder, ignore_errors=True)
        self.release()  # last: whoever waits for the lock sees that its file is gone
        for parent in list(self.folder.parents)[:3]:
            try:
                parent.rmdir()
            except OSError:
                return

    def _clear(self) -> None:
        """Remove what killed processes left: drafts, downloads, and files no event waits for."""
        remove_drafts(self.folder)
        for name in ("fetched", "drafts"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        waiting = {event.file for event in self.pending(Kind.ARTIFACT)}
        for file in (self.folder / "outbox").glob("*"):
            if file.name not in waiting:
                file.unlink(missing_ok=True)

    def _damaged(self, error: Exception) -> SpoolError:
        return SpoolError(
            f"{self.folder}: the record of this run is damaged ({error!r}): "
            "move the folder away and call the same command again: what the server has of the "
            "run is safe there, and the run goes on from its last checkpoint there"
        )

    def _read_sent(self) -> dict[str, int]:
        """Return how much the server has; none where that is not known: sending again is safe."""
        file = self.folder / "sent.json"
        try:
            saved: dict[str, int] = json.loads(file.read_text()) if file.is_file() else {}
        except ValueError:
            return {}
        return {str(kind): int(saved.get(kind, 0)) for kind in Kind}

    def _read_events(self) -> Iterator[Event]:
        """Read whole lines; cut off a last line that a killed process left unfinished."""
        path = self.folder / "events.jsonl"
        self._size = 0
        if not path.is_file():
            return
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        self._size = len(whole)
        if len(whole) < len(content):
            os.truncate(path, len(whole))
        yield from map(_event_of, whole.splitlines())


def last_event(folder: Path) -> Event | None:
    """Return the last whole line of a record that others may be writing; None for none.

    Raises
    ------
    SpoolError
        The record is damaged.
    """
    file = folder / "events.jsonl"
    lines = file.read_bytes().split(b"\n")[:-1] if file.is_file() else []
    try:
        return _event_of(lines[-1]) if lines else None
    except (ValueError, KeyError, TypeError) as error:
        raise SpoolError(f"{file}: the record of this run is damaged ({error!r})") from None


def _event_of(line: bytes) -> Event:
    saved: dict[str, Any] = json.loads(line)
    return Event(**saved | {"kind": Kind(saved["kind"])})


def spools_under(folder: Path) -> list[Path]:
    """Return the folders of all runs that have a record below `folder`, in order."""
    return sorted(file.parent for file in files_below(folder) if file.name == "run.json")
