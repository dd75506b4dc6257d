"""What a spool's courier brings to a server, and what it refuses to do."""

from __future__ import annotations

import io
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from rich.console import Console
from tracked import history, new_name, start_of

from galaxy_mlflow import schema
from galaxy_mlflow.delivery import sync_spools
from galaxy_mlflow.display import Display
from galaxy_mlflow.errors import (
    IdentityConflictError,
    ServerError,
    ServerRefusedError,
)
from galaxy_mlflow.home import Home
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.sinks import Courier, MlflowSink
from galaxy_mlflow.spool import Event, Kind, RunStart, Spool
from galaxy_mlflow.tracking import MlflowStore
from mlflow_server.local import LocalServer, free_port, stop


@contextmanager
def a_spool(folder: Path, start: RunStart) -> Iterator[Spool]:
    spool = Spool(folder)
    spool.acquire()
    spool.begin(start)
    yield spool
    spool.release()


def epoch(number: int, loss: float = 0.5) -> Event:
    return Event(Kind.EPOCH, 1000 + number, epoch=number, metrics={"train_loss": loss})


def test_an_epoch_that_an_older_attempt_got_through_meanwhile_is_not_sent_again(
    store: MlflowStore, tmp_path: Path
) -> None:
    with a_spool(tmp_path / "new", start_of(new_name())) as spool:
        courier = Courier(spool, store)
        courier.connect()
        assert courier.run is not None
        store.send_epochs(courier.run.run_id, [epoch(0)], {})
        spool.append(Event(Kind.EPOCH, 7777, epoch=0, metrics={"train_loss": 0.5}))
        spool.append(epoch(1))
        courier.deliver()
        assert spool.waiting == 0
    rows = history(store, courier.run.run_id, "train_loss")
    assert rows == [(0, 0.5, 1000), (1, 0.5, 1001)]


class CountingStore(MlflowStore):
    """Notes how many epochs went in each request."""

    sizes: tuple[int, ...] = ()

    def send_epochs(self, run_id: str, epochs: Sequence[Event], tags: Mapping[str, str]) -> None:
        self.sizes += (len(epochs),)
        super().send_epochs(run_id, epochs, tags)


def test_epochs_that_wait_go_together_as_many_as_the_server_takes(
    store: MlflowStore, tmp_path: Path
) -> None:
    counting = CountingStore(store.uri, store.home)
    names = [schema.TRAIN_LOSS, *(f"metric_{number}" for number in range(29))]
    with a_spool(tmp_path / "spool", start_of(new_name())) as spool:
        for number in range(40):
            values = dict.fromkeys(names, float(number))
            spool.append(Event(Kind.EPOCH, 1000 + number, epoch=number, metrics=values))
        courier = Courier(spool, counting, training=True)
        courier.deliver()
        assert spool.waiting == 0
    assert counting.sizes == (33, 7)
    assert courier.run is not None
    for name in (names[0], names[-1]):
        rows = history(store, courier.run.run_id, name)
        assert rows == [(number, float(number), 1000 + number) for number in range(40)]


def test_a_finished_run_stays_finished_whatever_an_old_spool_holds(
    store: MlflowStore, tmp_path: Path
) -> None:
    name = new_name()
    with a_spool(tmp_path / "one", start_of(name)) as spool:
        spool.append(epoch(0))
        spool.append(Event(Kind.END, 2000, tags={schema.STATUS: schema.FINISHED}))
        Courier(spool, store).deliver()
    with a_spool(tmp_path / "two", start_of(name)) as spool:
        spool.append(epoch(0))
        spool.append(epoch(1))
        Courier(spool, store).deliver()
        assert spool.waiting == 0
    (run,) = store.runs(name)
    assert (run.status, run.tags[schema.ATTEMPT]) == (schema.FINISHED, "1")
    assert [row[0] for row in history(store, run.run_id, "train_loss")] == [0]


def test_the_end_of_an_attempt_that_was_gone_on_with_is_not_sent(
    store: MlflowStore, tmp_path: Path
) -> None:
    name = new_name()
    with a_spool(tmp_path / "spool", start_of(name)) as spool:
        spool.append(Event(Kind.END, 1500, tags={schema.STATUS: schema.FAILED}))
        spool.append(epoch(0))
        Courier(spool, store).deliver()
        assert spool.waiting == 0
    assert store.runs(name)[0].status == schema.RUNNING


def test_a_run_made_by_others_in_the_same_experiment_is_left_alone(
    store: MlflowStore, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    start = start_of(new_name())
    ours = store.create(start)
    client = MlflowClient(tracking_uri=store.uri)
    experiment = client.get_experiment_by_name(start.job.study)
    assert experiment is not None
    client.create_run(experiment.experiment_id, tags={"arm": "scratch", "split": "x"})
    assert [run.run_id for run in store.runs(start.job.study)] == [ours.run_id]


def test_a_run_of_other_settings_is_not_taken_up_and_the_difference_is_shown(
    store: MlflowStore, tmp_path: Path
) -> None:
    name = new_name()
    store.create(start_of(name))
    other = RunStart(
        JobId(name, 4, "scratch"), {**start_of(name).tags, "config_hash": "x"}, {"epochs": "9"}
    )
    with (
        a_spool(tmp_path / "spool", other) as spool,
        pytest.raises(IdentityConflictError, match="epochs: 3 there, 9 now"),
    ):
        Courier(spool, store).connect()


def test_a_batch_whose_receipt_was_lost_is_not_there_twice(
    store: MlflowStore, tmp_path: Path
) -> None:
    start = start_of(new_name())
    with a_spool(tmp_path / "spool", start) as spool:
        spool.append(epoch(0))
        Courier(spool, store).deliver()
        (tmp_path / "spool" / "sent.json").unlink()
    spool = Spool(tmp_path / "spool")
    spool.acquire()
    spool.append(epoch(1))
    Courier(spool, store).deliver()
    spool.release()
    (run,) = store.runs(start.job.study)
    assert [row[0] for row in history(store, run.run_id, "train_loss")] == [0, 1]
    assert run.tags[schema.ATTEMPT] == "2"


def test_epochs_that_another_machine_recorded_are_not_sent_again(
    store: MlflowStore, tmp_path: Path
) -> None:
    start = start_of(new_name())
    for folder, epochs in (("one", (0, 1, 2)), ("two", (0, 1, 2, 3))):
        with a_spool(tmp_path / folder, start) as spool:
            for number in epochs:
                spool.append(epoch(number, loss=0.5 if folder == "one" else 0.7))
            Courier(spool, store).deliver()
    (run,) = store.runs(start.job.study)
    rows = history(store, run.run_id, "train_loss")
    assert [row[:2] for row in rows] == [(0, 0.5), (1, 0.5), (2, 0.5), (3, 0.7)]


def test_a_run_deleted_on_the_server_is_made_anew_from_the_spool(
    store: MlflowStore, tmp_path: Path
) -> None:
    start = start_of(new_name())
    with a_spool(tmp_path / "spool", start) as spool:
        spool.append(epoch(0))
        Courier(spool, store).deliver()
        store.delete(store.runs(start.job.study)[0].run_id)
        spool.append(epoch(1))
        Courier(spool, store).deliver()
    (run,) = store.runs(start.job.study)
    assert [row[0] for row in history(store, run.run_id, "train_loss")] == [0, 1]


def test_epochs_that_a_restored_server_lacks_are_sent_again(
    database_home: Home, tmp_path: Path
) -> None:
    store, start = MlflowStore(database_home.database_uri, database_home), start_of(new_name())
    with a_spool(tmp_path / "spool", start) as spool:
        for number in range(5):
            spool.append(epoch(number))
        Courier(spool, store).deliver()
        run_id = store.runs(start.job.study)[0].run_id
        forget_epochs(store.uri, run_id, first=3)
        assert store.last_epoch(run_id) == 2
        spool.append(epoch(5))
        Courier(spool, store).deliver()
        assert spool.waiting == 0
    rows = history(store, run_id, "train_loss")
    assert rows == [(number, 0.5, 1000 + number) for number in range(6)]


def forget_epochs(uri: str, run_id: str, first: int) -> None:
    """Set a run in a database back to what it was before an epoch, as an older backup has it."""
    with closing(sqlite3.connect(uri.removeprefix("sqlite:///"))) as database, database:
        gone = "DELETE FROM metrics WHERE run_uuid = ? AND step >= ?"
        database.execute(gone, (run_id, first))
        latest = "UPDATE latest_metrics SET step = ? WHERE run_uuid = ?"
        database.execute(latest, (first - 1, run_id))


def test_what_was_found_on_the_way_is_told_also_when_sending_fails(
    server_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server_uri)
    home, start = Home(tmp_path), start_of(new_name())
    store, said = MlflowStore(server_uri, home), io.StringIO()
    with a_spool(home.spool_of(start.job), RunStart(start.job, start.tags, {"no!": "1"})) as spool:
        spool.append(epoch(0))
    store.news.append("a word for the user")
    assert not sync_spools(home, store, Display(Console(file=said, width=500)))
    assert "a word for the user" in said.getvalue()
    assert "refused" in said.getvalue()


def test_a_damaged_artifact_is_not_uploaded_and_epochs_still_arrive(
    store: MlflowStore, tmp_path: Path
) -> None:
    start, file = start_of(new_name()), tmp_path / "weights.pt"
    file.write_bytes(b"weights")
    with a_spool(tmp_path / "spool", start) as spool:
        sink = MlflowSink(spool, store, start)
        sink.begin()
        spool.add_artifact(file, "checkpoints/last.pt", 5)
        (kept,) = (tmp_path / "spool" / "outbox").iterdir()
        kept.unlink()
        kept.write_bytes(b"damaged")
        sink.log_epoch(0, {"train_loss": 0.5}, 1000)
        sink.end(schema.FINISHED, {}, {})
        assert not sink.close(patience=3)
        assert "its sha256 has changed" in sink.away
        assert kept.exists()
    (run,) = store.runs(start.job.study)
    assert [row[0] for row in history(store, run.run_id, "train_loss")] == [0]
    assert run.status == schema.RUNNING


def test_while_the_server_is_away_records_wait_and_arrive_when_it_is_back(tmp_path: Path) -> None:
    home = Home(tmp_path / "served")
    server = LocalServer(home.database_uri, home.artifacts, free_port(), tmp_path / "server.log")
    store = MlflowStore(server.uri, Home(tmp_path / "worker"))
    start = start_of(new_name())
    process = server.start()
    with a_spool(tmp_path / "spool", start) as spool:
        sink = MlflowSink(spool, store, start)
        sink.begin()
        sink.log_epoch(0, {"train_loss": 0.9}, 1000)
        os.sync()
        stop(process)
        sink.log_epoch(1, {"train_loss": 0.8}, 2000)
        assert not sink.close(patience=2)
        assert spool.waiting >= 1
        process = server.start()
        Courier(spool, store).deliver()
        assert spool.waiting == 0
    (run,) = store.runs(start.job.study)
    assert [row[0] for row in history(store, run.run_id, "train_loss")] == [0, 1]
    stop(process)


def test_a_server_that_refuses_stops_the_run_with_its_reason(
    server_uri: str, tmp_path: Path
) -> None:
    store = MlflowStore(server_uri, Home(tmp_path))
    start = start_of(new_name())
    unlawful = RunStart(start.job, start.tags, {"no such!": "key"})
    with (
        a_spool(tmp_path / "spool", unlawful) as spool,
        pytest.raises(ServerRefusedError, match="refused"),
    ):
        MlflowSink(spool, store, unlawful).begin()


def test_an_address_is_shown_without_its_password(tmp_path: Path) -> None:
    store = MlflowStore("http://ann:secret@127.0.0.1:5000", Home(tmp_path))
    assert store.shown == "http://127.0.0.1:5000"


def test_a_password_in_the_address_is_in_no_message(tmp_path: Path) -> None:
    store = MlflowStore("http://ann:hidden-word@127.0.0.1:9", Home(tmp_path))
    with pytest.raises(ServerError) as caught:
        store.check()
    assert "hidden-word" not in str(caught.value)
    assert "127.0.0.1:9" in str(caught.value)


def test_sync_leaves_a_run_in_training_alone_and_does_not_say_that_all_is_there(
    store: MlflowStore, tmp_path: Path
) -> None:
    home, start, said = Home(tmp_path / "home"), start_of(new_name()), io.StringIO()
    with a_spool(home.spool_of(start.job), start) as spool:
        spool.append(epoch(0))
        assert not sync_spools(home, store, Display(Console(file=said, width=500)))
    assert "another process is at work on this run: its records are left to it" in said.getvalue()
    assert sync_spools(home, store, Display(Console(file=said, width=500)))
