"""Where a run's records go: spooled MLflow for real runs, memory for tests and notebooks."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from galaxy_mlflow import schema
from galaxy_mlflow.errors import GalaxyError, ServerError, ServerRefusedError
from galaxy_mlflow.runs import RunRecord
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.spool import Event, Kind, RunStart, Spool
from galaxy_mlflow.tracking import MlflowStore

_FIRST_PAUSE = 1.0  # seconds between tries while the server is away, doubled each time
_LONGEST_PAUSE = 30.0


class Sink(Protocol):
    """Takes the records of one run; held to one shared test class."""

    def begin(self) -> int:
        """Find or create the run; return the last epoch it already has, -1 for none."""

    def log_epoch(self, epoch: int, metrics: Mapping[str, float], timestamp_ms: int) -> None:
        """Record one epoch; an epoch that the run already has is left as it is."""

    def log_artifact(self, file: Path, artifact_path: str) -> None:
        """Record a file; it may be changed or removed once this returns."""

    def end(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Close the run as `finished` or `failed`."""

    def close(self, patience: float) -> bool:
        """Wait at most `patience` seconds; return whether all records have arrived."""


@dataclass
class MemoryRun:
    """A run in memory."""

    start: RunStart
    epochs: dict[int, tuple[int, dict[str, float]]] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    status: str = schema.RUNNING
    metrics: dict[str, float] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class MemorySink:
    """Keeps runs in a dictionary that the caller owns, by job."""

    def __init__(self, runs: dict[JobId, MemoryRun], start: RunStart) -> None:
        self._runs = runs
        self._start = start

    @property
    def _run(self) -> MemoryRun:
        return self._runs[self._start.job]

    def begin(self) -> int:
        """Find or create the run; return its last epoch."""
        run = self._runs.setdefault(self._start.job, MemoryRun(self._start))
        run.status = schema.RUNNING
        return max(run.epochs, default=-1)

    def log_epoch(self, epoch: int, metrics: Mapping[str, float], timestamp_ms: int) -> None:
        """Record one epoch, once."""
        self._run.epochs.setdefault(epoch, (timestamp_ms, dict(metrics)))

    def log_artifact(self, file: Path, artifact_path: str) -> None:
        """Keep the file's bytes."""
        self._run.artifacts[artifact_path] = file.read_bytes()

    def end(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Close the run."""
        self._run.status = status
        self._run.metrics |= metrics
        self._run.tags |= tags

    def close(self, patience: float) -> bool:
        """Return True: everything has arrived."""
        del patience
        return True


class Courier:
    """Brings one spool to the server, in order; calling it again goes on where it was."""

    def __init__(self, spool: Spool, store: MlflowStore) -> None:
        self.spool = spool
        self.store = store
        self.run: RunRecord | None = None
        self.server_epoch = -1

    def connect(self) -> None:
        """Find or create the run on the server, once.

        Raises
        ------
        ServerError, IdentityConflictError, ClaimLostError
        """
        if self.run is not None:
            return
        start = self.spool.start()
        run = self.store.find(start.job)
        if run is None:
            self.spool.forget_sent()
            run = self.store.create(start)
        elif run.status == schema.FINISHED:
            self.spool.mark_all_sent()
        else:
            self.store.resume(run, start)
            self.server_epoch = self.store.last_epoch(run.run_id)
            if self.server_epoch < self.spool.last_sent_epoch:  # restored from an older backup
                self.spool.forget_sent()
        self.run = run

    def deliver(self) -> None:
        """Send all that is pending: epochs first, then artifacts, then the end.

        Raises
        ------
        ServerError, IdentityConflictError, ClaimLostError
        """
        self.connect()
        self._send_epochs()
        self._send_artifacts()
        for event in self.spool.pending(Kind.END):
            if self.spool.is_last(event):
                self.store.send_end(self._run_id, event)
            self.spool.mark_sent(event)

    @property
    def _run_id(self) -> str:
        if self.run is None:
            raise ServerError("the run is not known on the server yet")
        return self.run.run_id

    def _send_epochs(self) -> None:
        for event in self.spool.pending(Kind.EPOCH):
            if event.epoch > self.server_epoch:
                self.store.require_owner(self._run_id, self.spool.start())
                self.store.send_epoch(self._run_id, event)
            self.spool.mark_sent(event)

    def _send_artifacts(self) -> None:
        """Upload files; one that a later file of the same name replaces is passed over."""
        waiting = self.spool.pending(Kind.ARTIFACT)
        newest = {event.artifact_path: event for event in waiting}
        for event in waiting:
            file = self.spool.folder / "outbox" / event.file
            if newest[event.artifact_path] is event and file.is_file():
                self._upload(file, event)
                self._send_epochs()
            self.spool.mark_sent(event)

    def _upload(self, file: Path, event: Event) -> None:
        """Upload one file; a refusal does not stop the run: the file stays in the spool."""
        try:
            self.store.send_artifact(self._run_id, file, event)
        except ServerRefusedError as error:
            raise ServerError(f"upload of {event.artifact_path}: {error}") from None


class MlflowSink:
    """Writes each record to the spool, and sends it from a thread of its own.

    While the server is away, training goes on. An error that trying again cannot mend is raised
    from the next `log_epoch`.
    """

    def __init__(self, spool: Spool, store: MlflowStore, start: RunStart) -> None:
        self._spool = spool
        self._courier = Courier(spool, store)
        self._start = start
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._send_until_closed, daemon=True)
        self.away: str = ""
        self._refused: GalaxyError | None = None

    @property
    def run(self) -> RunRecord | None:
        """The run on the server; None while it could not be reached."""
        return self._courier.run

    @property
    def finished_elsewhere(self) -> bool:
        """Whether the server has this run as finished, whatever is recorded here."""
        return self.run is not None and self.run.status == schema.FINISHED

    def begin(self) -> int:
        """Find or create the run; with the server away, go by the spool alone."""
        self._spool.begin(self._start)
        try:
            self._courier.connect()
        except ServerRefusedError:
            raise
        except ServerError as error:
            self.away = str(error)
        self._thread.start()
        self._wake.set()
        return max(self._courier.server_epoch, self._spool.last_epoch)

    def log_epoch(self, epoch: int, metrics: Mapping[str, float], timestamp_ms: int) -> None:
        """Record one epoch, durably; one that the spool or the server has is left alone."""
        self._raise_refused()
        if epoch > max(self._courier.server_epoch, self._spool.last_epoch):
            self._append(Event(Kind.EPOCH, timestamp_ms, epoch=epoch, metrics=dict(metrics)))

    def log_artifact(self, file: Path, artifact_path: str) -> None:
        """Keep a file for upload in the background."""
        self._spool.add_artifact(file, artifact_path, _now_ms())
        self._wake.set()

    def end(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Close the run; `status` reaches the server after everything else has."""
        every = {**tags, schema.STATUS: status}
        self._append(Event(Kind.END, _now_ms(), metrics=dict(metrics), tags=every))

    def close(self, patience: float) -> bool:
        """Stop sending after at most `patience` seconds; what is left stays in the spool."""
        deadline = time.monotonic() + patience
        while self._spool.waiting and self._thread.is_alive() and time.monotonic() < deadline:
            self._wake.set()
            time.sleep(0.02)
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=max(patience, 5.0))
        self._raise_refused()
        return self._spool.waiting == 0

    def _append(self, event: Event) -> None:
        self._spool.append(event)
        self._wake.set()

    def _raise_refused(self) -> None:
        if self._refused is not None:
            raise self._refused

    def _send_until_closed(self) -> None:
        pause = _FIRST_PAUSE
        while not self._closing.is_set():
            self._wake.wait()
            self._wake.clear()
            try:
                self._courier.deliver()
                self.away, pause = "", _FIRST_PAUSE
            except ServerRefusedError as error:
                self._refused = error
                return
            except ServerError as error:
                self.away = str(error)
                self._closing.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                self._wake.set()
            except GalaxyError as error:
                self._refused = error
                return


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
