"""Killed at any moment, started again: the same metrics and weights, every epoch once."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import closing
from pathlib import Path

import psutil
import pytest
import torch
from fixtures_cli import PROGRAM
from small_study import STUDY, write_study

from galaxy_mlflow import schema
from galaxy_mlflow.home import Home
from galaxy_mlflow.tracking import MlflowStore
from mlflow_server.local import LocalServer, free_port, serving, stop

EPOCHS = 14
ONE_RUN = ["--arms", "one", "--splits", "0", "--threads", "1"]
KILLS_AT_RANDOM = 5


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study")
    return write_study(folder, STUDY.replace("epochs = 3", f"epochs = {EPOCHS}"))


@pytest.fixture(scope="module")
def whole(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The home of a run that nothing disturbed."""
    home = Home(tmp_path_factory.mktemp("whole"))
    run_whole(study, home, *ONE_RUN)
    return home


def start(
    study: Path,
    home: Home,
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    said: Path = Path(os.devnull),
) -> subprocess.Popen[bytes]:
    command = [PROGRAM, "run", str(study), *arguments]
    environment = {**os.environ, "GALAXY_MLFLOW_HOME": str(home.path), **(environment or {})}
    with said.open("wb") as output:
        return subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.PIPE)


def run_whole(study: Path, home: Home, *arguments: str) -> None:
    process = start(study, home, *arguments)
    _, words = process.communicate(timeout=400)
    assert process.returncode == 0, words.decode()


def raw_metrics(home: Home) -> dict[tuple[str, int], list[float]]:
    """Return every row that the database holds, timing left out."""
    rows: dict[tuple[str, int], list[float]] = {}
    with closing(sqlite3.connect(home.database)) as database:
        for key, step, value in database.execute("select key, step, value from metrics"):
            if key not in (*schema.TIMING_METRICS, schema.TOTAL_SECONDS, schema.TOTAL_ENERGY):
                rows.setdefault((key, step), []).append(value)
    return rows


def weights(home: Home, folder: Path) -> dict[str, torch.Tensor]:
    store = MlflowStore(home.database_uri, home)
    (run,) = store.runs("small")
    assert run.status == schema.FINISHED
    found = store.fetch_checkpoint(run.run_id, folder)
    assert found is not None
    model: dict[str, torch.Tensor] = torch.load(found[0], weights_only=True)["model"]
    return model


def assert_same_outcome(one: Home, two: Home, folder: Path) -> None:
    expected, found = raw_metrics(one), raw_metrics(two)
    assert all(len(values) == 1 for values in found.values()), "an epoch is there twice"
    assert found == expected
    left, right = weights(one, folder / "a"), weights(two, folder / "b")
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def kill_when(process: subprocess.Popen[bytes], moment: Callable[[], bool]) -> bool:
    """SIGKILL the process at a moment; return whether it came before the process ended."""
    while process.poll() is None:
        if moment():
            process.send_signal(signal.SIGKILL)
            process.communicate()
            return True
        time.sleep(0.0005)
    process.communicate()
    return False


def records(home: Home) -> int:
    """Return how many epochs the spool of the only run holds."""
    events = list(home.spool.glob("**/events.jsonl"))
    return events[0].read_bytes().count(b"epoch") if events else 0


def test_a_run_killed_many_times_equals_an_uninterrupted_one_bit_for_bit(
    study: Path, whole: Home, tmp_path: Path
) -> None:
    killed = Home(tmp_path / "killed")
    rng, kills = random.Random(20261122), 0
    while kills < KILLS_AT_RANDOM:
        before = records(killed)
        process = start(study, killed, *ONE_RUN)
        while records(killed) == before and process.poll() is None:
            time.sleep(0.005)
        deadline = time.monotonic() + rng.uniform(0, 0.4)
        assert kill_when(process, lambda end=deadline: time.monotonic() > end)
        kills += 1
    run_whole(study, killed, *ONE_RUN)
    assert_same_outcome(whole, killed, tmp_path)
    assert list(killed.spool.glob("*")) == [], "a finished run left something in the spool"


def test_a_run_killed_inside_the_writing_of_a_checkpoint_loses_nothing(
    study: Path, whole: Home, tmp_path: Path
) -> None:
    killed = Home(tmp_path / "killed")
    folder = killed.spool / "default" / "small" / "split-000" / "one" / "checkpoints"

    def half_written() -> bool:
        return any(".pt." in name for name in _names(folder))

    for _ in range(2):
        assert kill_when(start(study, killed, *ONE_RUN), half_written)
    assert any(".pt." in name for name in _names(folder)), "the kill came too late"
    run_whole(study, killed, *ONE_RUN)
    assert_same_outcome(whole, killed, tmp_path)


def _names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def test_ctrl_c_stops_a_study_cleanly_and_the_next_call_goes_on(
    study: Path, whole: Home, tmp_path: Path
) -> None:
    stopped = Home(tmp_path / "stopped")
    process = start(study, stopped, *ONE_RUN)
    while records(stopped) < 2 and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "call the same command again" in " ".join(words.decode().split())
    assert "Traceback" not in words.decode()
    (run,) = MlflowStore(stopped.database_uri, stopped).runs("small")
    assert run.status == schema.RUNNING
    run_whole(study, stopped, *ONE_RUN)
    assert_same_outcome(whole, stopped, tmp_path)


def test_a_server_that_stops_mid_run_costs_no_epoch_and_doubles_none(
    study: Path, whole: Home, tmp_path: Path
) -> None:
    served = Home(tmp_path / "served")
    server = LocalServer(served.database_uri, served.artifacts, free_port(), tmp_path / "log")
    worker = Home(tmp_path / "worker")
    serving = server.start()
    environment = {"MLFLOW_TRACKING_URI": server.uri}
    process = start(study, worker, *ONE_RUN, environment=environment)
    while records(worker) < 2 and process.poll() is None:
        time.sleep(0.01)
    stop(serving)
    time.sleep(5)
    serving = server.start()
    _, words = process.communicate(timeout=400)
    stop(serving)
    assert process.returncode == 0, words.decode()
    assert raw_metrics(served) == raw_metrics(whole)


def test_a_machine_that_lost_its_disk_goes_on_from_the_servers_checkpoint(
    study: Path, whole: Home, tmp_path: Path
) -> None:
    home = Home(tmp_path / "home")
    often = ["--set", "checkpoints.upload_every=2"]

    def uploaded() -> bool:
        return records(home) >= 8 and any(home.artifacts.glob("**/last.json"))

    assert kill_when(start(study, home, *ONE_RUN, *often), uploaded)
    shutil.rmtree(home.spool)
    run_whole(study, home, *ONE_RUN, *often)
    assert_same_outcome(whole, home, tmp_path)


def test_workers_and_server_of_a_killed_command_end_with_it(study: Path, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    process = start(study, home, "--arms", "one", "--jobs", "2", "--threads", "1")
    while records(home) < 1 and process.poll() is None:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 3
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive
    run_whole(study, home, "--arms", "one", "--threads", "1")
    assert all(len(values) == 2 for values in runs_of_each_epoch(home))


def test_two_calls_from_two_homes_share_the_runs_and_train_none_twice(
    study: Path, tmp_path: Path
) -> None:
    served = Home(tmp_path / "served")
    server = LocalServer(served.database_uri, served.artifacts, free_port(), tmp_path / "log")
    environment = {"MLFLOW_TRACKING_URI": server.uri}
    with serving(server):
        homes = [Home(tmp_path / name) for name in ("ann", "ben")]
        calls = [start(study, home, "--threads", "1", environment=environment) for home in homes]
        words = [call.communicate(timeout=600)[1].decode() for call in calls]
    assert [call.returncode for call in calls] == [0, 0], words
    runs = MlflowStore(served.database_uri, served).runs("small")
    assert {run.tags[schema.ATTEMPT] for run in runs} == {"1"}, "a run was taken from its worker"
    assert [run.status for run in runs] == [schema.FINISHED] * 4
    assert len({run.tags[schema.OWNER] for run in runs}) > 1, "one of the two did everything"
    assert [len(runs) for runs in runs_of_each_epoch(served)] == [4] * EPOCHS
    assert not [file for home in homes for file in home.spool.glob("**/run.json")]


def runs_of_each_epoch(home: Home) -> list[set[str]]:
    """Return, for each epoch, the runs that the database has it of, none of them twice."""
    with closing(sqlite3.connect(home.database)) as database:
        query = (
            "select step, run_uuid from metrics join runs using (run_uuid) "
            "where key = 'train_loss' and lifecycle_stage = 'active' order by step"
        )
        rows = database.execute(query).fetchall()
    assert len(rows) == len(set(rows))
    return [{run for step, run in rows if step == epoch} for epoch in range(EPOCHS)]
