"""The arithmetic of `status`, and the command over a real store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from fixtures_cli import Call
from small_study import write_study
from tracked import new_name, start_of

from galaxy_mlflow import schema
from galaxy_mlflow.claims import now_ms
from galaxy_mlflow.courier import Courier
from galaxy_mlflow.home import Home
from galaxy_mlflow.runs import ListedRun
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.spool import Event, Kind, RunStart, Spool
from galaxy_mlflow.status import INTERRUPTED, MISSING, state_of
from galaxy_mlflow.tracking import MlflowStore

NOW = 10_000_000


def run(split: int, status: str = schema.RUNNING, **others: object) -> ListedRun:
    made = ListedRun(
        run_id=f"r{split}",
        job=JobId("s", split, "a"),
        status=status,
        config_hash="",
        data_hash="",
        owner=f"m{split % 2}:1:x",
        attempt=1,
        alive_at=NOW,
        reason="",
        epochs=10,
        last_epoch=3,
        epoch_seconds=36.0,
        test_accuracy=0.5,
        selected_accuracy=None,
    )
    return replace(made, **others)  # type: ignore[arg-type]


def test_speed_and_end_come_from_those_at_work_and_the_rest_counts_as_left() -> None:
    runs = [
        run(0, schema.FINISHED, last_epoch=9),
        run(1),
        run(2, epoch_seconds=72.0),
        run(3, alive_at=NOW - 200_000),
        run(4, schema.FAILED),
        run(1),  # an older one of the same job counts
    ]
    wanted = {JobId("s", split, "a"): 10 for split in range(7)}
    found = state_of(runs, wanted, NOW)
    counts = {schema.FINISHED: 1, schema.RUNNING: 2, INTERRUPTED: 1, schema.FAILED: 1, MISSING: 2}
    assert found.counts == counts
    assert found.machines == {"m1": 1, "m0": 1}
    assert found.epochs_an_hour == 150
    assert found.epochs_left == 6 + 6 + 6 + 2 * 10
    assert found.hours_left == pytest.approx(38 / 150)


def test_the_end_is_not_before_that_of_the_longest_run() -> None:
    found = state_of([run(0, epoch_seconds=3600.0), *(run(k) for k in range(1, 20))], None, NOW)
    assert found.hours_left == 6


def test_without_a_run_at_work_nothing_tells_the_end() -> None:
    assert state_of([run(0, alive_at=0)], None, NOW).hours_left is None
    assert state_of([run(0, schema.FINISHED)], None, NOW).hours_left == 0


def test_status_shows_machine_epoch_speed_end_and_reasons(
    call: Call, store: MlflowStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    name = new_name()
    for split, end in ((0, None), (1, Event(Kind.END, 5, tags=FAILED))):
        send(store, start_in(name, split), tmp_path / str(split), end)
    shown = call("status", name).out
    for words in ("split-000/scratch", "running", "some-host", "2 of 3", "it diverged"):
        assert words in shown
    assert "0 of 2 runs done, 1 running, 1 failed" in shown
    assert "at work: some-host 1; 1,800 epochs an hour" in shown
    assert "1 epochs are left: about 0.00056 hours, until 20" in shown


FAILED = {schema.STATUS: schema.FAILED, schema.REASON: "it diverged"}


def start_in(name: str, split: int) -> RunStart:
    start = start_of(name, **{schema.OWNER: f"some-host:{split + 5}:x", schema.SPLIT: str(split)})
    return replace(start, job=JobId(name, split, "scratch"))


def send(store: MlflowStore, start: RunStart, folder: Path, end: Event | None) -> None:
    spool = Spool(folder)
    spool.acquire()
    spool.begin(start)
    for number in range(2):
        metrics = {schema.TRAIN_LOSS: 0.5, schema.EPOCH_SECONDS: 2.0}
        spool.append(Event(Kind.EPOCH, now_ms(), epoch=number, metrics=metrics))
    if end is not None:
        spool.append(end)
    Courier(spool, store, training=True).deliver()
    spool.release()


def test_of_a_study_file_what_is_missing_counts_too(call: Call, home: Home, tmp_path: Path) -> None:
    study = str(write_study(tmp_path))
    send(MlflowStore(home.database_uri, home), small(), tmp_path / "s", None)
    shown = call("status", study).out
    assert "0 of 4 runs done, 1 running, 3 missing" in shown
    assert "10 epochs are left" in shown


def small() -> RunStart:
    job = JobId("small", 0, "one")
    start = start_of("small")
    return replace(start, job=job, tags={**start.tags, **job.tags(), schema.OWNER: "h:1:x"})
