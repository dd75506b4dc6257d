"""One study on three workers, and everything that can happen to a stack of containers."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from compose.cluster import Command
from compose.watch import log_in, wait_until_well

from chaos.containers.trial import CUT, EPOCHS, NAME, SPLITS, WORKERS, Trial, wait_for_words
from chaos.record import Record, Source, assert_finished, assert_undisturbed, read_record
from galaxy_mlflow.home import Home

SEED = 5
OUTAGES = 5  # of which a job in training tells: tracking, db, s3, the S3 disk, the network


@dataclass(frozen=True)
class Outcome:
    """A study that came to its end through all faults.

    Attributes
    ----------
    splits : how many were begun before the last fault, and so were to be finished
    first, second : the call that was killed with the head, and the one after it
    """

    splits: int
    first: Command
    second: Command


@pytest.fixture(scope="module")
def outcome(trial: Trial, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Train a study without end until all has happened to it; then let what is begun finish."""
    trial.cluster.scale(WORKERS)
    trial.cluster.wait_for_nodes(WORKERS)
    first = trial.start(SPLITS)
    trial.progress()
    _cut_a_worker_off_while_others_are_killed(trial)
    _fill_the_disks(trial)
    trial.kill_the_clusters_memory()
    wait_for_words(first, "is gone")
    wait_for_words(first, "head:6379 is back")
    trial.progress()
    assert not first.is_over, first.words
    _kill_the_head(trial, first)
    splits = _begun(trial, tmp_path_factory.mktemp("reader"))
    second = trial.start(splits)
    second.succeed(400)
    return Outcome(splits, first, second)


def _begun(trial: Trial, folder: Path) -> int:
    with pytest.MonkeyPatch.context() as patch:
        runs = log_in(trial.stack, folder, patch).runs(NAME)
    return max(run.job.split for run in runs) + 1


def _cut_a_worker_off_while_others_are_killed(trial: Trial) -> None:
    chosen = random.Random(SEED)
    apart = chosen.choice(trial.cluster.workers())
    trial.cut(apart)
    began = time.monotonic()
    trial.kill_a_worker(chosen, apart)
    for server in ("tracking", "db", "s3"):
        trial.kill_server(server)
        trial.progress()
    time.sleep(max(0.0, began + CUT - time.monotonic()))
    trial.mend(apart)


def _fill_the_disks(trial: Trial) -> None:
    for folder, seconds in (("/s3", 20), ("/home/galaxy", 5)):
        trial.fill(folder)
        time.sleep(seconds)
        trial.free(folder)
        trial.progress()


def _kill_the_head(trial: Trial, first: Command) -> None:
    """The user's command dies with the container."""
    trial.stack.run("docker", "kill", trial.stack.container("head"))
    first.process.wait(timeout=60)
    trial.stack.run("docker", "start", trial.stack.container("head"))
    wait_until_well(trial.stack, "head")


@pytest.fixture(scope="module")
def undisturbed(trial: Trial, outcome: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """The same splits in the same image, on a store of its own, with nothing in their way."""
    folder = tmp_path_factory.mktemp("undisturbed")
    folder.chmod(0o777)  # the container's user writes here
    trial.train_quietly(folder, outcome.splits)
    record = read_record(Source.of_home(NAME, Home(folder), folder))
    assert_finished(record)
    return record


def test_the_record_is_that_of_a_study_that_nothing_disturbed(
    trial: Trial, undisturbed: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_in(trial.stack, tmp_path, monkeypatch)
    assert_undisturbed(Source(NAME, trial.stack.uri, tmp_path), undisturbed, EPOCHS)


def test_the_user_was_told_once(outcome: Outcome) -> None:
    first, second = outcome.first, outcome.second
    assert len(first.said("is gone; its jobs go on when it is back")) == 1
    assert len(first.said("head:6379 is back")) == 1
    assert "Traceback" not in first.words + second.words
    for k in range(outcome.splits):
        for arm in ("one", "two"):
            away = first.said(f"split-{k:03d}/{arm}", "Training goes on")
            assert len(away) <= OUTAGES


def test_nothing_is_left_behind(trial: Trial, outcome: Outcome) -> None:
    del outcome
    assert trial.leftovers() == ""
    trial.cluster.wait_for_nodes(WORKERS)
