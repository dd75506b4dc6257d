"""Who has a run when several want it, and what the others leave alone."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from test_courier import a_spool, epoch
from tracked import history, new_name, start_of

from galaxy_mlflow import schema
from galaxy_mlflow.claims import now_ms
from galaxy_mlflow.delivery import sync_spools
from galaxy_mlflow.display import Display
from galaxy_mlflow.errors import BusyError, ClaimLostError, FailedThereError
from galaxy_mlflow.home import Home
from galaxy_mlflow.sinks import Courier, MlflowSink
from galaxy_mlflow.spool import Event, Kind
from galaxy_mlflow.tracking import MlflowStore


def test_two_workers_that_create_the_same_run_end_with_one(
    store: MlflowStore, tmp_path: Path
) -> None:
    name = new_name()
    first = store.create(start_of(name))
    with pytest.raises(ClaimLostError, match="another worker created this run first"):
        store.create(start_of(name))
    assert [run.run_id for run in store.runs(name)] == [first.run_id]


def test_a_run_created_twice_for_the_same_worker_is_still_its_own(store: MlflowStore) -> None:
    start = start_of(new_name())
    first = store.create(start)
    assert store.create(start).run_id == first.run_id
    assert [run.run_id for run in store.runs(start.job.study)] == [first.run_id]


def test_of_two_runs_that_clocks_let_through_the_older_one_stays(
    store: MlflowStore, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    name, end = new_name(), Event(Kind.END, 2000, tags={schema.STATUS: schema.FINISHED})
    start = start_of(name)
    with a_spool(tmp_path / "spool", start) as spool:
        courier = Courier(spool, store)
        spool.append(epoch(0))
        courier.deliver()
        client = MlflowClient(tracking_uri=store.uri)
        experiment = client.get_experiment_by_name(name)
        assert experiment is not None
        other = client.create_run(experiment.experiment_id, start_time=1, tags=start.tags)
        spool.append(end)
        with pytest.raises(ClaimLostError, match="an older run"):
            courier.deliver()
    assert [run.run_id for run in store.runs(name)] == [other.info.run_id]


def test_an_older_attempt_stops_once_a_newer_one_has_taken_the_run_up(
    store: MlflowStore, tmp_path: Path
) -> None:
    name = new_name()
    with (
        a_spool(tmp_path / "old", start_of(name)) as old,
        a_spool(tmp_path / "new", start_of(name)) as new,
    ):
        courier = Courier(old, store)
        old.append(epoch(0))
        courier.deliver()
        new.append(epoch(0))
        new.append(epoch(1, loss=0.4))
        Courier(new, store).deliver()
        old.append(epoch(1, loss=0.3))
        with pytest.raises(ClaimLostError) as caught:
            courier.deliver()
    said = "split-004/scratch: taken up by a newer attempt (2) on {}: this one stops; "
    (run,) = store.runs(name)
    assert said.format(run.tags[schema.OWNER]) in str(caught.value)
    assert [row[:2] for row in history(store, run.run_id, "train_loss")] == [(0, 0.5), (1, 0.4)]


def test_an_older_attempt_overwrites_no_checkpoint_and_does_not_close_the_run(
    store: MlflowStore, tmp_path: Path
) -> None:
    name, file = new_name(), tmp_path / "weights.pt"
    file.write_bytes(b"older")
    end = Event(Kind.END, 2000, tags={schema.STATUS: schema.FAILED})
    with (
        a_spool(tmp_path / "old", start_of(name)) as old,
        a_spool(tmp_path / "new", start_of(name)) as new,
    ):
        courier = Courier(old, store)
        courier.connect()
        Courier(new, store).deliver()
        old.append(end)
        with pytest.raises(ClaimLostError, match="newer attempt"):
            courier.deliver()
        old.add_artifact(file, "checkpoints/last.pt", 1)
        with pytest.raises(ClaimLostError, match="newer attempt"):
            courier.deliver()
        assert old.waiting == 2
    (run,) = store.runs(name)
    assert run.status == schema.RUNNING
    assert store.fetch(run.run_id, "checkpoints/last.pt", tmp_path / "fetched") is None


def test_a_run_of_a_worker_that_is_alive_is_left_to_it_until_it_leaves(
    store: MlflowStore, tmp_path: Path
) -> None:
    name = new_name()
    owners = ({schema.OWNER: f"{host}:1:{host}"} for host in ("alpha", "beta"))
    first, second = (start_of(name, **owner) for owner in owners)
    with a_spool(tmp_path / "a", first) as one, a_spool(tmp_path / "b", second) as two:
        sink = MlflowSink(one, store, first)
        sink.begin()
        sink.log_epoch(0, {"train_loss": 0.5}, 1000)
        with pytest.raises(BusyError, match="split-004/scratch is being trained on alpha"):
            Courier(two, store).connect()
        assert sink.close(patience=30)
        Courier(two, store).connect()
    (run,) = store.runs(name)
    assert run.tags[schema.OWNER] == "beta:1:beta"
    assert run.tags[schema.ATTEMPT] == "2"


def test_delivering_takes_no_run_from_a_living_worker_of_the_same_session(
    store: MlflowStore, tmp_path: Path
) -> None:
    name = new_name()
    lost, alive = (start_of(name, **{schema.OWNER: f"{host}:1:weekly"}) for host in ("a", "b"))
    with a_spool(tmp_path / "a", lost) as one, a_spool(tmp_path / "b", alive) as two:
        Courier(one, store, training=True).connect()
        Courier(two, store, training=True).connect()  # the same driver gave it again
        one.append(epoch(0))
        with pytest.raises(BusyError, match="is being trained on b"):
            Courier(one, store).deliver()
    (run,) = store.runs(name)
    assert (run.tags[schema.OWNER], run.tags[schema.ATTEMPT]) == ("b:1:weekly", "2")


def test_who_wrote_a_spool_may_deliver_it_at_once(store: MlflowStore, tmp_path: Path) -> None:
    start = start_of(new_name(), **{schema.OWNER: "elsewhere:1:weekly"})
    with a_spool(tmp_path / "spool", start) as spool:
        Courier(spool, store, training=True).connect()
        spool.append(epoch(0))
        Courier(spool, store).deliver()
        assert spool.waiting == 0


FAILED = Event(
    Kind.END, 2000, tags={schema.STATUS: schema.FAILED, schema.REASON: "the loss is NaN"}
)


def test_a_run_that_failed_elsewhere_is_taken_up_only_when_asked_for(
    store: MlflowStore, tmp_path: Path
) -> None:
    name = new_name()
    with a_spool(tmp_path / "one", start_of(name)) as spool:
        spool.append(FAILED)
        Courier(spool, store).deliver()
    start = start_of(name)
    with a_spool(tmp_path / "two", start) as spool:
        sink = MlflowSink(spool, store, start, retry_failed=False)
        with pytest.raises(FailedThereError, match="the loss is NaN"):
            sink.begin()
        (run,) = store.runs(name)
        assert (run.status, run.tags[schema.ATTEMPT]) == (schema.FAILED, "1")
        Courier(spool, store, training=True, retry_failed=True).connect()
    assert store.runs(name)[0].tags[schema.ATTEMPT] == "2"


def test_sync_leaves_a_run_that_failed_elsewhere_as_it_is(
    server_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server_uri)
    name, home, said = new_name(), Home(tmp_path / "home"), io.StringIO()
    store = MlflowStore(server_uri, home)
    with a_spool(tmp_path / "elsewhere", start_of(name)) as spool:
        spool.append(FAILED)
        Courier(spool, store).deliver()
    start = start_of(name)
    with a_spool(home.spool_of(start.job), start) as spool:
        spool.append(epoch(0))
    assert sync_spools(home, store, Display(Console(file=said, width=500)))
    assert "failed elsewhere: the loss is NaN: left as it is" in said.getvalue()
    (run,) = store.runs(name)
    assert (run.status, run.tags[schema.ATTEMPT]) == (schema.FAILED, "1")


def test_a_failure_that_waits_here_arrives_although_the_run_is_marked_failed(
    store: MlflowStore, tmp_path: Path
) -> None:
    start = start_of(new_name())
    with a_spool(tmp_path / "spool", start) as spool:
        spool.append(FAILED)
        Courier(spool, store).deliver()
        spool.forget_sent()  # the answer was lost
        Courier(spool, store, training=True, retry_failed=False).deliver()
        assert spool.waiting == 0
    assert store.runs(start.job.study)[0].status == schema.FAILED


def test_a_checkpoint_on_the_server_is_not_replaced_by_an_earlier_one(
    store: MlflowStore, tmp_path: Path
) -> None:
    name, state, pointer = new_name(), tmp_path / "state.pt", tmp_path / "named.json"
    for folder, number in (("later", 9), ("earlier", 4), ("last", 12)):
        state.write_bytes(f"state {number}".encode())
        pointer.write_text(json.dumps({"epoch": number}))
        with a_spool(tmp_path / folder, start_of(name)) as spool:
            spool.add_artifact(pointer, "checkpoints/last.json", now_ms(), number)
            spool.add_artifact(state, "checkpoints/last.pt", now_ms(), number)
            Courier(spool, store).deliver()
            assert spool.waiting == 0
        (run,) = store.runs(name)
        there = store.fetch(run.run_id, "checkpoints/last.pt", tmp_path / "fetched")
        assert there is not None
        assert there.read_text() == f"state {max(9, number)}"
