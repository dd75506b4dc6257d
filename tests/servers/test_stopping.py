"""SIGTERM, as batch systems send it: gone well within 30 seconds, and nothing lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import torch
from fixtures_cli import PROGRAM
from small_study import STUDY, write_images, write_study

from galaxy_mlflow import schema
from galaxy_mlflow.claims import LEFT
from galaxy_mlflow.files import sha256_of
from galaxy_mlflow.home import Home
from galaxy_mlflow.processes import (
    LAST_MOMENT,
    TERMINATED,
    Terminated,
    hear_ctrl_c,
    sigterm_like_ctrl_c,
)
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.spool import Event, Kind, Spool
from galaxy_mlflow.tracking import MlflowStore

EPOCHS = 16
GONE = 30.0
"""Seconds that Slurm leaves a job, as it comes."""
OFFLINE = ["--offline", "--threads", "1", "--splits", "0"]
TIMING = schema.TIMING_METRICS


def start(study: Path, home: Home, *arguments: str) -> subprocess.Popen[bytes]:
    """Start a command in a group of its own, so that a signal can reach all of its processes."""
    return subprocess.Popen(
        [PROGRAM, "run", str(study), *arguments],
        env={**os.environ, "GALAXY_MLFLOW_HOME": str(home.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen[bytes], moment: Callable[[], bool]) -> None:
    while not moment():
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.02)


def events(home: Home, arm: str = "one") -> list[Event]:
    spool = Spool(home.spool_of(JobId("small", 0, arm)))
    spool.acquire()
    spool.release()
    return [event for kind in Kind for event in spool.pending(kind)]


def epochs(home: Home, arm: str = "one") -> dict[int, dict[str, float]]:
    """Return the metrics of each epoch on record, timing left out; none is there twice."""
    found = [event for event in events(home, arm) if event.kind == Kind.EPOCH]
    assert len({event.epoch for event in found}) == len(found)
    return {
        event.epoch: {name: v for name, v in event.metrics.items() if name not in TIMING}
        for event in found
    }


def weights(home: Home, arm: str = "one") -> dict[str, torch.Tensor]:
    folder = home.spool_of(JobId("small", 0, arm)) / "checkpoints"
    (file,) = folder.glob("epoch-*.pt")
    model: dict[str, torch.Tensor] = torch.load(file, weights_only=True)["model"]
    return model


def assert_same(one: Home, two: Home) -> None:
    for arm in ("one", "two"):
        assert epochs(one, arm) == epochs(two, arm)
        left, right = weights(one, arm), weights(two, arm)
        assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    return write_study(folder, STUDY.replace("epochs = 3", f"epochs = {EPOCHS}"))


@pytest.fixture(scope="module")
def whole(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The home of runs that nothing disturbed."""
    home = Home(tmp_path_factory.mktemp("whole"))
    process = start(study, home, *OFFLINE)
    words = process.communicate(timeout=300)[0].decode()
    assert process.returncode == 0, words
    assert "2 runs in the spool" in words
    assert "galaxy-mlflow sync" in words
    return home


def long_study(folder: Path) -> Path:
    """Write a study whose epochs take minutes, of few pictures that have many names."""
    write_images(folder)
    lines = (folder / "labels.csv").read_text().splitlines()
    rows = [f"{i:03d}{line}" for i in range(100) for line in lines[1:]]
    (folder / "labels.csv").write_text("\n".join([lines[0], *rows]) + "\n")
    (folder / "small.toml").write_text(STUDY.replace("batch_size = 16", "batch_size = 2"))
    return folder / "small.toml"


def test_sigterm_in_the_middle_of_an_epoch_of_minutes_ends_the_command_in_seconds(
    tmp_path: Path,
) -> None:
    home = Home(tmp_path / "home")
    folder = home.spool_of(JobId("small", 0, "one"))
    process = start(long_study(tmp_path), home, *OFFLINE, "--arms", "one")
    wait_for(process, lambda: (folder / "run.json").is_file())
    time.sleep(3)  # into its first epoch
    asked = time.monotonic()
    process.send_signal(signal.SIGTERM)
    words = process.communicate(timeout=GONE)[0].decode()
    assert time.monotonic() - asked < GONE
    assert process.returncode == TERMINATED == 143
    assert "stopped; nothing is lost: call the same command again to go on" in words
    assert "Traceback" not in words
    assert not events(home), "the epoch was not that long"


@pytest.mark.parametrize("jobs", [1, 2])
def test_after_sigterm_to_all_processes_the_same_command_goes_on_bit_for_bit(
    study: Path, whole: Home, tmp_path: Path, jobs: int
) -> None:
    home, often = Home(tmp_path / "home"), [*OFFLINE, "--jobs", str(jobs)]
    for stop in range(3 - jobs):
        process = start(study, home, *often)
        record = home.spool_of(JobId("small", 0, "one")) / "events.jsonl"
        before = lines_of(record) if stop else 0
        wait_for(process, lambda to=record, n=before: to.is_file() and lines_of(to) > n + 1)
        everybody = [psutil.Process(process.pid), *children_of(process)]
        for one in everybody:  # as Slurm does: each process of the step, and once more later
            with suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGTERM)
        words = process.communicate(timeout=GONE)[0].decode()
        assert process.returncode == TERMINATED, words
        assert "Traceback" not in words, words
        assert not psutil.wait_procs(everybody, timeout=GONE)[1]
        assert len(epochs(home)) < EPOCHS, "the signal came too late"
    process = start(study, home, *often)
    words = process.communicate(timeout=300)[0].decode()
    assert process.returncode == 0, words
    assert "resumed after epoch" in words
    assert_same(whole, home)


def test_a_second_sigterm_does_not_cut_short_what_the_first_one_began() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def close_records() -> None:
        try:
            with sigterm_like_ctrl_c(for_good=True):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # with no handler of Python's it ends the process

    try:
        with pytest.raises(Terminated):
            close_records()
    finally:
        assert signal.alarm(0) > 0
        signal.signal(signal.SIGTERM, before)


def test_a_child_that_is_told_to_stop_in_two_ways_is_interrupted_once() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        hear_ctrl_c()
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # its parent's, while it closes its records
    finally:
        assert signal.alarm(0) > 0
        for number, handler in before.items():
            signal.signal(number, handler)


def lines_of(file: Path) -> int:
    return file.read_bytes().count(b"\n")


def children_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_a_checkpoint_in_writing_is_whole_or_the_one_before_it_is(
    study: Path, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    folder = home.spool_of(JobId("small", 0, "one")) / "checkpoints"
    process = start(study, home, *OFFLINE, "--arms", "one")
    wait_for(process, lambda: folder.is_dir() and any(".tmp" in n for n in os.listdir(folder)))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=GONE)
    named = json.loads((folder / "last.json").read_text())
    assert sha256_of(folder / named["file"]) == named["sha256"]
    assert not [name for name in os.listdir(folder) if ".tmp" in name]


def test_a_run_that_sigterm_stopped_is_left_to_others_at_once(study: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    process = start(study, home, "--arms", "one", "--splits", "0", "--threads", "1")
    record = home.spool / "default/small/split-000/one/events.jsonl"
    wait_for(process, lambda: record.is_file() and lines_of(record) > 1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=GONE)
    assert process.returncode == TERMINATED
    (run,) = MlflowStore(home.database_uri, home).runs("small")
    assert (run.status, run.tags[schema.ALIVE_AT]) == (schema.RUNNING, LEFT)


def test_a_process_that_cannot_stop_is_ended_by_the_system(tmp_path: Path) -> None:
    stuck = """
import time
from galaxy_mlflow import processes
processes.LAST_MOMENT = 1
with processes.sigterm_like_ctrl_c():
    while True:
        try:
            print("ready", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            pass
"""
    with subprocess.Popen([sys.executable, "-c", stuck], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == -signal.SIGALRM
    assert LAST_MOMENT < GONE
