"""The spool: durable, whole after any kill, one writer."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from galaxy_mlflow import schema
from galaxy_mlflow.errors import ClaimLostError, IdentityConflictError, SpoolError
from galaxy_mlflow.files import files_below, write_atomically, write_bytes
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.spool import Event, Kind, RunStart, Spool, spools_under

JOB = JobId("study", 3, "scratch")
START = RunStart(JOB, {schema.CONFIG_HASH: "c", schema.DATA_HASH: "d"}, {"epochs": "2"})


def opened(folder: Path) -> Spool:
    spool = Spool(folder)
    spool.acquire()
    spool.begin(START)
    return spool


def epoch(number: int) -> Event:
    return Event(Kind.EPOCH, 1000 + number, epoch=number, metrics={"train_loss": 0.5})


def test_what_was_appended_is_there_when_the_spool_opens_again(tmp_path: Path) -> None:
    spool = opened(tmp_path / "run")
    spool.append(epoch(0))
    spool.append(epoch(1))
    spool.release()
    again = opened(tmp_path / "run")
    assert again.last_epoch == 1
    assert again.pending(Kind.EPOCH) == [epoch(0), epoch(1)]
    assert again.start() == START


@pytest.mark.parametrize("torn", range(1, 60, 7))
def test_a_line_torn_by_a_kill_is_dropped_and_the_rest_is_kept(tmp_path: Path, torn: int) -> None:
    spool = opened(tmp_path / "run")
    spool.append(epoch(0))
    spool.append(epoch(1))
    spool.release()
    events = tmp_path / "run" / "events.jsonl"
    events.write_bytes(events.read_bytes()[:-torn])
    again = opened(tmp_path / "run")
    assert again.last_epoch == 0
    again.append(epoch(1))
    again.release()
    assert opened(tmp_path / "run").pending(Kind.EPOCH) == [epoch(0), epoch(1)]


def test_what_the_server_has_is_not_pending_after_opening_again(tmp_path: Path) -> None:
    spool = opened(tmp_path / "run")
    spool.append(epoch(0))
    spool.append(epoch(1))
    spool.mark_sent(epoch(0))
    spool.release()
    again = opened(tmp_path / "run")
    assert again.pending(Kind.EPOCH) == [epoch(1)]
    assert again.waiting == 1
    again.forget_sent()
    assert again.waiting == 2


def test_an_artifact_survives_the_removal_of_its_file_until_it_is_sent(tmp_path: Path) -> None:
    spool = opened(tmp_path / "run")
    file = tmp_path / "weights.pt"
    file.write_bytes(b"weights")
    spool.add_artifact(file, "checkpoints/last.pt", 5)
    file.unlink()
    (event,) = spool.pending(Kind.ARTIFACT)
    kept = tmp_path / "run" / "outbox" / event.file
    assert kept.read_bytes() == b"weights"
    spool.mark_sent(event)
    assert not kept.exists()


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    first = opened(tmp_path / "run")
    with pytest.raises(ClaimLostError, match="another process is at work"):
        opened(tmp_path / "run")
    first.release()


def test_records_of_another_configuration_are_refused(tmp_path: Path) -> None:
    opened(tmp_path / "run").release()
    spool = Spool(tmp_path / "run")
    spool.acquire()
    other = RunStart(JOB, {**START.tags, schema.CONFIG_HASH: "other"}, {})
    with pytest.raises(IdentityConflictError, match="another config_hash"):
        spool.begin(other)


@pytest.mark.parametrize("name", ["run.json", "events.jsonl"])
def test_a_damaged_record_is_named_with_what_to_do(tmp_path: Path, name: str) -> None:
    spool = opened(tmp_path / "run")
    spool.append(epoch(0))
    spool.release()
    (tmp_path / "run" / name).write_bytes(b"{rubbish\n")
    with pytest.raises(SpoolError, match=r"damaged.*move the folder away"):
        opened(tmp_path / "run")


def test_not_knowing_what_was_sent_means_sending_it_again(tmp_path: Path) -> None:
    spool = opened(tmp_path / "run")
    spool.append(epoch(0))
    spool.mark_sent(epoch(0))
    spool.release()
    (tmp_path / "run" / "sent.json").write_text("{rubbish")
    assert opened(tmp_path / "run").waiting == 1


def test_a_run_keeps_the_parameters_it_first_began_with(tmp_path: Path) -> None:
    opened(tmp_path / "run").release()
    spool = Spool(tmp_path / "run")
    spool.acquire()
    spool.begin(RunStart(JOB, START.tags, {"epochs": "2", "threads": "8"}))
    assert spool.start().params == START.params
    spool.release()


def test_a_line_torn_by_a_full_disk_goes_with_the_next_append(tmp_path: Path) -> None:
    spool = opened(tmp_path / "run")
    spool.append(epoch(0))
    with (tmp_path / "run" / "events.jsonl").open("ab") as file:
        file.write(b'{"kind": "epo')  # all that there was room for
    spool.append(epoch(1))
    spool.release()
    assert opened(tmp_path / "run").pending(Kind.EPOCH) == [epoch(0), epoch(1)]


def test_opening_clears_what_killed_processes_left_and_keeps_what_waits(tmp_path: Path) -> None:
    spool, file = opened(tmp_path / "run"), tmp_path / "weights.pt"
    file.write_bytes(b"weights")
    spool.add_artifact(file, "checkpoints/last.pt", 5)
    spool.release()
    left = [
        "checkpoints/.epoch-00003.pt.4711.tmp",
        ".sent.json.4711.tmp",
        "outbox/000009-epoch.pt",
        "outbox/.000009-epoch.pt.4711.tmp",
        "fetched/last.pt",
    ]
    for name in [*left, "checkpoints/epoch-00002.pt"]:
        (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "run" / name).write_bytes(b"part")
    again = opened(tmp_path / "run")
    assert not any((tmp_path / "run" / name).exists() for name in left)
    assert (tmp_path / "run" / "checkpoints/epoch-00002.pt").exists()
    (event,) = again.pending(Kind.ARTIFACT)
    assert (tmp_path / "run" / "outbox" / event.file).read_bytes() == b"weights"


def test_a_spool_in_which_nothing_was_recorded_goes_when_it_is_left(tmp_path: Path) -> None:
    opened(tmp_path / "default" / "study" / "split-000" / "arm").leave()
    assert list(tmp_path.iterdir()) == []
    kept = opened(tmp_path / "run")
    kept.append(epoch(0))
    kept.leave()
    assert opened(tmp_path / "run").last_epoch == 0


def test_a_spool_remembers_who_wrote_it(tmp_path: Path) -> None:
    for owner in ("a:1:x", "b:2:y", "b:2:y", "c:3:z"):
        spool = Spool(tmp_path / "run")
        spool.acquire()
        spool.begin(RunStart(JOB, {**START.tags, schema.OWNER: owner}, START.params))
        spool.release()
    assert spool.start().owners == ("a:1:x", "b:2:y")


def test_a_spool_given_back_notes_nothing_any_more(tmp_path: Path) -> None:
    first = opened(tmp_path / "run")
    first.append(epoch(0))
    first.release()
    first.mark_sent(epoch(0))
    assert opened(tmp_path / "run").waiting == 1


def test_a_discarded_spool_leaves_nothing_behind(tmp_path: Path) -> None:
    spool = opened(tmp_path / "default" / "study" / "split-000" / "arm")
    assert spools_under(tmp_path) == [spool.folder]
    spool.discard()
    assert list(tmp_path.iterdir()) == []


def test_two_jobs_of_a_pair_may_discard_and_begin_at_the_same_moment(tmp_path: Path) -> None:
    def come_and_go(arm: str) -> None:
        for _ in range(200):
            spool = Spool(tmp_path / "default" / "study" / "split-000" / arm)
            spool.acquire()
            spool.discard()

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(come_and_go, ("one", "two")))
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_file_do_not_take_each_others_draft(tmp_path: Path) -> None:
    def write(draft: Path) -> None:
        draft.write_bytes(b"mine")
        write_bytes(tmp_path / "file", b"theirs")

    write_atomically(tmp_path / "file", write)
    assert (tmp_path / "file").read_bytes() == b"mine"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_folders_that_go_while_they_are_searched_are_passed_over(tmp_path: Path) -> None:
    for split in range(4):
        folder = tmp_path / f"split-{split:03d}"
        (folder / "one").mkdir(parents=True)
        (folder / "run.json").touch()
    found = files_below(tmp_path)
    first = next(found)
    for folder in tmp_path.iterdir():
        if folder != first.parent:
            shutil.rmtree(folder)
    assert list(found) == []
