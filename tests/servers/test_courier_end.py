"""The end of a delivery: what must have gone before it, and what must not come after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from test_courier import a_spool, epoch
from tracked import new_name, start_of

from galaxy_mlflow import schema
from galaxy_mlflow.claims import LEFT
from galaxy_mlflow.runs import RunRecord
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.sinks import Courier
from galaxy_mlflow.spool import Event, Kind
from galaxy_mlflow.tracking import MlflowStore


class LateStore(MlflowStore):
    """Has the rest of a run recorded while its first file is on the way."""

    rest: tuple[Callable[[], None], ...] = ()
    waiting: Callable[[], int]
    waiting_at_end = -1

    def send_artifact(self, run_id: str, file: Path, event: Event) -> None:
        super().send_artifact(run_id, file, event)
        rest, self.rest = self.rest, ()
        for record in rest:
            record()

    def send_end(self, run_id: str, event: Event) -> None:
        self.waiting_at_end = self.waiting()
        super().send_end(run_id, event)


def test_a_run_is_not_closed_before_what_was_recorded_during_an_upload(
    store: MlflowStore, tmp_path: Path
) -> None:
    start, file = start_of(new_name()), tmp_path / "any.bin"
    late = LateStore(store.uri, store.home)
    file.write_bytes(b"content")
    with a_spool(tmp_path / "spool", start) as spool:
        end = Event(Kind.END, 2000, tags={schema.STATUS: schema.FINISHED})
        late.rest = (
            lambda: spool.append(epoch(0)),
            lambda: spool.add_artifact(file, "confusion/test.json", 2),
            lambda: spool.append(end),
        )
        late.waiting = lambda: len(spool.pending(Kind.EPOCH) + spool.pending(Kind.ARTIFACT))
        spool.add_artifact(file, "checkpoints/last.pt", 1)
        courier = Courier(spool, late)
        while spool.waiting:
            courier.deliver()
    assert late.waiting_at_end == 0
    (run,) = store.runs(start.job.study)
    assert run.status == schema.FINISHED
    assert store.fetch(run.run_id, "confusion/test.json", tmp_path / "fetched") is not None


class AskedStore(MlflowStore):
    """Does something once it has answered who has a run."""

    then: Callable[[], None]

    def find(self, job: JobId) -> RunRecord | None:
        found = super().find(job)
        self.then()
        return found


def test_nothing_is_begun_after_leaving_and_no_folder_made_again(
    store: MlflowStore, tmp_path: Path
) -> None:
    start, asked = start_of(new_name()), AskedStore(store.uri, store.home)
    with a_spool(tmp_path / "spool", start) as spool:
        spool.append(epoch(0))
        courier = Courier(spool, asked, training=True)

        def leave() -> None:
            courier.leaving = True
            spool.discard()

        asked.then = leave
        courier.deliver()
        spool.forget_sent()
    assert store.runs(start.job.study) == []
    assert not spool.folder.exists()


def test_no_sign_of_life_comes_after_the_goodbye(
    store: MlflowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("galaxy_mlflow.courier.SIGN_OF_LIFE", 0.0)
    start = start_of(new_name())
    with a_spool(tmp_path / "spool", start) as spool:
        courier = Courier(spool, store, training=True)
        courier.connect()
        courier.leaving = True
        courier.leave()
        courier.show_life()
    (run,) = store.runs(start.job.study)
    assert run.tags[schema.ALIVE_AT] == LEFT
