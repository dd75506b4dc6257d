"""`tune` stopped, killed, and called twice at once: the trials that nothing disturbed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fixtures_cli import PROGRAM, Call
from small_study import write_study
from test_tune import STUDY, logged
from tracked import history

from galaxy_mlflow import schema
from galaxy_mlflow.home import Home
from galaxy_mlflow.tracking import MlflowStore


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study file in a folder of its own, and the current folder another one."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return write_study(tmp_path / "study", STUDY)


def start(file: Path, home: Home, *more: str) -> subprocess.Popen[bytes]:
    command = [PROGRAM, "tune", str(file), "--threads", "1"]
    options = ["--set", "training.epochs=4", *more]
    environment = {**os.environ, "GALAXY_MLFLOW_HOME": str(home.path)}
    return subprocess.Popen(
        [*command, *options], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def wait_for(process: subprocess.Popen[bytes], moment: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not moment():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_stopped_and_killed_it_goes_on_to_the_trials_nothing_disturbed(
    home: Home, file: Path, tmp_path: Path
) -> None:
    whole = Home(tmp_path / "whole")
    (tmp_path / "there").mkdir()
    undisturbed = tmp_path / "there" / "small-tuned.toml"
    process = start(file, whole, "--out", str(undisturbed))
    assert process.wait(timeout=300) == 0, process.communicate()
    process.communicate()
    for number, end in ((1, signal.SIGINT), (2, signal.SIGKILL)):
        process = start(file, home)
        folder = f"tuning/*/*/trial-00{number}/split-002/last.json"
        wait_for(process, lambda folder=folder: any(home.path.glob(folder)))  # type: ignore[misc]
        process.send_signal(end)
        _, words = process.communicate(timeout=60)
        if end == signal.SIGINT:
            assert process.returncode == 130
            assert b"call the same command again to go on" in words
    process = start(file, home)
    assert process.wait(timeout=300) == 0
    out, _ = process.communicate()
    assert b"trial-000" not in out
    assert Path("small-tuned.toml").read_bytes() == undisturbed.read_bytes()
    store = MlflowStore(home.database_uri, home)
    trials = logged(store, **{schema.KIND: schema.TRIAL})
    assert len(trials) == 6
    for run in trials:  # every epoch once
        assert [step for step, *_ in history(store, run.info.run_id, "val_loss")] == [0, 1, 2, 3]
    assert {run.data.tags[schema.STATUS] for run in trials} == {schema.FINISHED}


def test_one_call_at_a_time_tunes_a_study(call: Call, home: Home, file: Path) -> None:
    process = start(file, home, "--set", "training.epochs=5000")
    wait_for(process, lambda: any(home.path.glob("tuning/*/*/trial-000")))
    done = call("tune", str(file), "--set", "training.epochs=5000")
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143
    assert done.code == 1
    assert "is being tuned from this home by another process" in done.err
