"""What brings one spool to the server, in order, and stops where a newer attempt has the run.

What is not ruled out: MLflow has no compare-and-set, so that between looking at the owner and
sending, another worker may take the run up. Then both have a request for the same epoch under way,
and the server keeps its values twice, under two timestamps. That is at most the requests under way
at that moment: each look covers one, and of files also those begun in the next second. On a CPU
both say the same: an epoch does not depend on who trains it. `analysis` counts the latest, as
MLflow does. Where clocks differ, two workers may each create a run of one job; the younger run is
deleted when it would end. A file is overwritten by a whole one of the same name and run, and a
checkpoint that is not the one named beside it is not gone on from.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from galaxy_mlflow import schema
from galaxy_mlflow.claims import (
    LEFT,
    SIGN_OF_LIFE,
    Claimant,
    is_alive,
    now_ms,
    owner_tag,
    place,
    who_has_it,
)
from galaxy_mlflow.errors import (
    BusyError,
    ClaimLostError,
    FailedThereError,
    ServerError,
    ServerRefusedError,
)
from galaxy_mlflow.runs import RunRecord
from galaxy_mlflow.spool import Event, Kind, RunStart, Spool
from galaxy_mlflow.tracking import METRICS_A_CALL, MlflowStore

_FRESH = 1.0
"""Seconds in which a look at the owner covers further files: a run ends with a dozen small ones."""


class Courier:
    """Brings one spool to the server, in order; calling it again goes on where it was.

    Parameters
    ----------
    training : whether more is being recorded, so that the run shows signs of life
    retry_failed : whether a run that another worker marked failed is taken up again
    """

    def __init__(
        self,
        spool: Spool,
        store: MlflowStore,
        *,
        training: bool = False,
        retry_failed: bool = True,
    ) -> None:
        self.spool = spool
        self.store = store
        self.training = training
        self.retry_failed = retry_failed
        self.run: RunRecord | None = None
        self.server_epoch = -1
        self.leaving = False
        """Set from another thread: nothing more is begun."""
        self._shown = 0.0  # when the last sign of life went out
        self._looked = -_FRESH  # when the owner was last asked for
        self._state_there: int | None = None  # epoch of the server's last state; None: not asked

    def connect(self) -> None:
        """Find or create the run on the server, once.

        Raises
        ------
        ServerError, IdentityConflictError, ClaimLostError
            BusyError where a worker that is alive has the run.
        FailedThereError
            Another worker marked it failed.
        """
        if self.run is not None:
            return
        start = self._begun_now()
        run = self.store.find(start.job)
        if self.leaving:
            return
        if run is None:
            self.spool.forget_sent()
            run = self.store.create(start)
            self._state_there = -1
        elif run.status == schema.FINISHED:
            self.spool.mark_all_sent()
        else:
            run = self._take_up(run, start)
        self._shown = time.monotonic()
        self.run = run

    def deliver(self) -> None:
        """Send all that is pending: epochs first, then artifacts, then the end.

        Raises
        ------
        ServerError, IdentityConflictError, ClaimLostError
        """
        self.connect()
        ends = self.spool.pending(Kind.END)  # read first: all recorded before an end is sent before
        self._send_epochs()
        self._send_artifacts()
        for event in ends:
            if self.leaving:
                return
            if self.spool.is_last(event):
                self._require_own()
                self._require_first()
                self.store.send_end(self._known.run_id, event)
            self.spool.mark_sent(event)

    def show_life(self) -> None:
        """Send a sign of life, unless an epoch has been one in the last minute.

        Raises
        ------
        ServerError, ClaimLostError
        """
        if self.run is None or time.monotonic() - self._shown < SIGN_OF_LIFE:
            return
        if not self.leaving:
            self._require_own()
        if not self.leaving:
            self._show(str(now_ms()))

    def leave(self) -> None:
        """Tell others that they need not wait for this worker to finish the run.

        Raises
        ------
        ServerError, ClaimLostError
        """
        if self.run is None or self.run.status == schema.FINISHED:
            return
        if self.spool.ended and not self.spool.waiting:
            return
        self._require_own()
        self._show(LEFT)

    @property
    def _known(self) -> RunRecord:
        if self.run is None:
            raise ServerError("the run is not known on the server yet")
        return self.run

    def _begun_now(self) -> RunStart:
        start = self.spool.start()
        life = str(now_ms()) if self.training else LEFT
        return replace(start, tags={**start.tags, schema.ALIVE_AT: life})

    def _take_up(self, run: RunRecord, start: RunStart) -> RunRecord:
        """Go on with a run that is there, if that is allowed."""
        closed_here = self.spool.ended and self.spool.waiting
        if run.status == schema.FAILED and not (self.retry_failed or closed_here):
            raise FailedThereError(run.tags.get(schema.REASON, "marked failed, without a reason"))
        self._require_free(run, start)
        taken = self.store.resume(run, start)
        self.server_epoch = self.store.last_epoch(run.run_id)
        if self.server_epoch < self.spool.last_sent_epoch:  # restored from an older backup
            self.spool.forget_sent()
        return taken

    def _require_free(self, run: RunRecord, start: RunStart) -> None:
        """Refuse to take a run over from a worker that is alive.

        Whoever only delivers was not given the job: what else its session trains is not its own.
        """
        mine = Claimant.of(start.tags, start.owners)
        if not self.training:
            writers = (*start.owners, start.tags.get(schema.OWNER, ""))
            mine = Claimant(owner_tag(), place(), writers)
        host = who_has_it(run.tags, mine, now_ms(), is_alive)
        if host:
            raise BusyError(f"{run.job.run_name} is being trained on {host}")

    def _show(self, life: str) -> None:
        self.store.send_tags(self._known.run_id, {schema.ALIVE_AT: life})
        self._shown = time.monotonic()

    def _require_own(self) -> None:
        """Look, in one request, whether the run is still ours and how far it is on the server."""
        mine, asked = self._known.tags, time.monotonic()
        there = self.store.standing(self._known.run_id)
        if (there.owner, there.attempt) != (mine[schema.OWNER], mine[schema.ATTEMPT]):
            raise ClaimLostError(
                f"{self._known.job.run_name}: taken up by a newer attempt ({there.attempt}) on "
                f"{there.owner.partition(':')[0]}: this one stops; nothing it sent is lost"
            )
        self.server_epoch = max(self.server_epoch, there.last_epoch)
        self._looked = asked

    def _require_first(self) -> None:
        """Give way to an older run of this job: where clocks differ, two may have been created."""
        mine, first = self._known, self.store.find(self._known.job)
        if first is not None and first.run_id != mine.run_id:
            self.store.delete(mine.run_id)
            raise ClaimLostError(
                f"{mine.job.run_name}: another worker has an older run of it: this one was deleted"
            )

    def _send_epochs(self) -> None:
        """Send epochs that the server lacks, as many in one request as it takes."""
        while not self.leaving and (pending := self.spool.pending(Kind.EPOCH)):
            batch = list(_first_batch(pending))
            if batch[-1].epoch > self.server_epoch:
                self._require_own()
            new = [event for event in batch if event.epoch > self.server_epoch]
            if new:
                self._send(new)
            self.spool.mark_sent(*batch)

    def _send(self, epochs: list[Event]) -> None:
        tags = {schema.ALIVE_AT: str(now_ms())} if self.training else {}
        self.store.send_epochs(self._known.run_id, epochs, tags)
        self._shown = time.monotonic()

    def _send_artifacts(self) -> None:
        """Upload files; one that a later file of the same name replaces is passed over."""
        waiting = self.spool.pending(Kind.ARTIFACT)
        newest = {event.artifact_path: event for event in waiting}
        for event in waiting:
            if self.leaving:
                return
            file = self.spool.folder / "outbox" / event.file
            wanted = newest[event.artifact_path] is event and file.is_file()
            if wanted and not self._is_outdated(event):
                self._upload(event)
                self._send_epochs()
            self.spool.mark_sent(event)

    def _is_outdated(self, event: Event) -> bool:
        """Whether a file is of an earlier checkpoint than the server has from another machine."""
        if event.epoch < 0:
            return False
        if self._state_there is None:
            self._state_there = state_epoch(self.store, self._known.run_id)
        return event.epoch < self._state_there

    def _upload(self, event: Event) -> None:
        """Upload one file; a refusal does not stop the run: the file stays in the spool."""
        if time.monotonic() - self._looked > _FRESH:
            self._require_own()
        file = self.spool.folder / "outbox" / event.file
        try:
            self.store.send_artifact(self._known.run_id, file, event)
        except ServerRefusedError as error:
            raise ServerError(f"upload of {event.artifact_path}: {error}") from None


def state_epoch(store: MlflowStore, run_id: str) -> int:
    """Return the epoch of the last state on the server; -1 for none, or none that is named.

    Raises
    ------
    ServerError
    """
    with TemporaryDirectory() as folder:
        pointer = store.fetch(run_id, f"{schema.CHECKPOINTS}/last.json", Path(folder))
        try:
            return int(json.loads(pointer.read_text())["epoch"]) if pointer is not None else -1
        except (ValueError, KeyError, TypeError):
            return -1


def _first_batch(pending: list[Event]) -> Iterator[Event]:
    """Yield the first epochs, at least one, whose metrics go in one request."""
    room = METRICS_A_CALL
    for event in pending:
        room -= len(event.metrics)
        if room < 0 and event is not pending[0]:
            return
        yield event
