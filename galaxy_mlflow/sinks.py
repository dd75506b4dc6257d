"""Where a run's records go: the spool, and from there MLflow; memory for tests and notebooks."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from galaxy_mlflow import schema
from galaxy_mlflow.claims import SIGN_OF_LIFE, now_ms
from galaxy_mlflow.courier import Courier
from galaxy_mlflow.errors import GalaxyError, ServerError, ServerRefusedError
from galaxy_mlflow.runs import RunRecord
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.spool import Event, Kind, RunStart, Spool
from galaxy_mlflow.tracking import MlflowStore

__all__ = ["Courier", "MemoryRun", "MemorySink", "MlflowSink", "Sink", "SpoolSink"]

_GATHER = 0.5
"""Seconds in which epochs that follow each other fast come together, to go in one request."""
_FIRST_PAUSE = 1.0  # seconds between tries while the server is away, doubled each time
_LONGEST_PAUSE = 30.0
_GOODBYE = 5.0  # seconds for a request that is under way when the sink is closed


class Sink(Protocol):
    """Takes the records of one run; held to one shared test class."""

    def begin(self) -> int:
        """Find or create the run; return the last epoch it already has, -1 for none."""

    def log_epoch(self, epoch: int, metrics: Mapping[str, float], timestamp_ms: int) -> None:
        """Record one epoch; an epoch that the run already has is left as it is."""

    def log_artifact(self, file: Path, artifact_path: str, epoch: int = -1) -> None:
        """Record a file; it may be changed or removed once this returns.

        One of a checkpoint says the epoch; that of a later epoch is not replaced by it.
        """

    def end(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Close the run as `finished` or `failed`."""

    def close(self, patience: float, longest: float = math.inf) -> bool:
        """Wait until no record has arrived for `patience` seconds; return whether all have.

        `longest` bounds the whole wait, in seconds.
        """


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

    def log_artifact(self, file: Path, artifact_path: str, epoch: int = -1) -> None:
        """Keep the file's bytes."""
        del epoch  # one process has it all: nobody else was further
        self._run.artifacts[artifact_path] = file.read_bytes()

    def end(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Close the run."""
        self._run.status = status
        self._run.metrics |= metrics
        self._run.tags |= tags

    def close(self, patience: float, longest: float = math.inf) -> bool:
        """Return True: everything has arrived."""
        del patience, longest
        return True


class SpoolSink:
    """Writes each record to the spool, for `sync` to send; no server is asked anything.

    Attributes
    ----------
    away : why the server cannot be reached; empty while it can, or is not asked
    """

    def __init__(self, spool: Spool, start: RunStart) -> None:
        self._spool = spool
        self._start = start
        self.away = ""

    @property
    def run(self) -> RunRecord | None:
        """The run on the server; None while that is not known."""
        return None

    @property
    def finished_elsewhere(self) -> bool:
        """Whether the server has this run as finished, whatever is recorded here."""
        return self.run is not None and self.run.status == schema.FINISHED

    @property
    def recorded(self) -> int:
        """The last epoch on record; -1 for none."""
        return self._spool.last_epoch

    def begin(self) -> int:
        """Go on with the record, or begin one; return its last epoch."""
        self._spool.begin(self._start)
        return self.recorded

    def log_epoch(self, epoch: int, metrics: Mapping[str, float], timestamp_ms: int) -> None:
        """Record one epoch, durably; one that is on record is left alone."""
        if epoch > self.recorded:
            self._append(Event(Kind.EPOCH, timestamp_ms, epoch=epoch, metrics=dict(metrics)))

    def log_artifact(self, file: Path, artifact_path: str, epoch: int = -1) -> None:
        """Keep a file; an earlier one of this name goes: nobody is sending it."""
        self._spool.add_artifact(file, artifact_path, now_ms(), epoch)
        self._spool.drop_replaced(artifact_path)

    def end(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Close the record."""
        every = {**tags, schema.STATUS: status}
        self._append(Event(Kind.END, now_ms(), metrics=dict(metrics), tags=every))

    def close(self, patience: float, longest: float = math.inf) -> bool:
        """Return whether the server has everything, at once."""
        del patience, longest
        return self._spool.waiting == 0

    def _append(self, event: Event) -> None:
        self._spool.append(event)


class MlflowSink(SpoolSink):
    """Writes each record to the spool, and sends it from a thread of its own.

    While the server is away, training goes on. An error that trying again cannot mend is raised
    from the next `log_epoch`. Another thread shows signs of life, whatever is being sent.
    """

    def __init__(
        self, spool: Spool, store: MlflowStore, start: RunStart, *, retry_failed: bool = True
    ) -> None:
        self._courier = Courier(spool, store, training=True, retry_failed=retry_failed)
        super().__init__(spool, start)
        self._wake = threading.Event()
        self._hurry = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._send_until_closed, daemon=True)
        self._pulse = threading.Thread(target=self._show_life_until_closed, daemon=True)
        self._refused: GalaxyError | None = None

    @property
    def run(self) -> RunRecord | None:
        """The run on the server; None while it could not be reached."""
        return self._courier.run

    @property
    def recorded(self) -> int:
        """The last epoch on record, here or on the server; -1 for none."""
        return max(self._courier.server_epoch, super().recorded)

    def begin(self) -> int:
        """Find or create the run; with the server away, go by the spool alone."""
        super().begin()
        try:
            self._courier.connect()
        except ServerRefusedError:
            raise
        except ServerError as error:
            self.away = str(error)
        self._pulse.start()
        self._thread.start()
        self._wake.set()
        return self.recorded

    def log_epoch(self, epoch: int, metrics: Mapping[str, float], timestamp_ms: int) -> None:
        """Record one epoch, durably; one that the spool or the server has is left alone."""
        self._raise_refused()
        super().log_epoch(epoch, metrics, timestamp_ms)

    def log_artifact(self, file: Path, artifact_path: str, epoch: int = -1) -> None:
        """Keep a file for upload in the background."""
        self._spool.add_artifact(file, artifact_path, now_ms(), epoch)
        self._wake.set()

    def end(self, status: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Close the run; `status` reaches the server after everything else has."""
        self._hurry.set()
        super().end(status, metrics, tags)

    def close(self, patience: float, longest: float = math.inf) -> bool:
        """Stop sending once all has arrived, or nothing has for `patience` seconds.

        What is left, then or after `longest` seconds, stays in the spool.
        """
        self._hurry.set()
        try:
            self._wait_for_arrival(patience, time.monotonic() + longest)
        finally:  # Ctrl-C while it waits must not leave a thread that shows signs of life
            self._leave()
        self._raise_refused()
        return self._spool.waiting == 0

    def _wait_for_arrival(self, patience: float, end: float) -> None:
        left, deadline = self._spool.waiting, time.monotonic() + patience
        while left and self._refused is None and time.monotonic() < min(deadline, end):
            self._wake.set()
            time.sleep(0.02)
            if self._spool.waiting < left:
                left, deadline = self._spool.waiting, time.monotonic() + patience

    def _leave(self) -> None:
        self._courier.leaving = True
        self._closing.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout=_GOODBYE)

    def _append(self, event: Event) -> None:
        super()._append(event)
        self._wake.set()

    def _raise_refused(self) -> None:
        if self._refused is not None:
            raise self._refused

    def _send_until_closed(self) -> None:
        pause = _FIRST_PAUSE
        while not self._closing.is_set():
            self._wake.wait()
            self._hurry.wait(_GATHER)
            self._wake.clear()
            pause = self._deliver(pause)
            if self._refused is not None:
                self._closing.wait()
        self._pulse.join(timeout=_GOODBYE / 2)  # its sign of life must not come after the goodbye
        if not self.away:
            with suppress(GalaxyError):  # the others find out in a few minutes
                self._courier.leave()

    def _deliver(self, pause: float) -> float:
        """Send what waits; return how long to pause after the next try that fails."""
        try:
            self._courier.deliver()
        except ServerRefusedError as error:
            self._refused = error
        except (ServerError, OSError) as error:  # a full disk takes no note of what was sent
            self.away = str(error)
            self._closing.wait(pause)
            self._wake.set()
            return min(2 * pause, _LONGEST_PAUSE)
        except GalaxyError as error:
            self._refused = error
        else:
            self.away = ""
        return _FIRST_PAUSE

    def _show_life_until_closed(self) -> None:
        while not self._closing.wait(SIGN_OF_LIFE / 2):
            try:
                self._courier.show_life()
            except ServerError:
                continue  # the thread that sends says so
            except GalaxyError as error:
                self._refused = error
                return
