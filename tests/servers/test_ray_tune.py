"""A study tuned on a real Ray cluster: the same trials, pruned there, and a killed process."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest
from fixtures_cli import PROGRAM, Call
from ray_here import RayHere, training_processes
from small_study import write_study
from test_tune import STUDY, logged
from tracked import history

from galaxy_mlflow import schema
from galaxy_mlflow.home import Home
from galaxy_mlflow.study_file import load_study_file
from galaxy_mlflow.tracking import MlflowStore
from mlflow_server.local import LocalServer, free_port, serving

SAID = "\n[resources]\ncpus = 1\nmemory_gb = 1.0\n"
RANDOM = ("--set", "tune.sampler=random", "--set", "training.epochs=4")

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = write_study(tmp_path / "study", STUDY + SAID)
    monkeypatch.chdir(tmp_path)
    return path


def test_trials_on_ray_are_those_of_this_process_bit_for_bit(
    call: Call, home: Home, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = call("tune", str(file), *RANDOM, "--engine", "ray", "--out", "ray.toml")
    assert (there.code, there.err) == (0, "")
    assert "1 machine, " in there.out
    monkeypatch.setenv("GALAXY_MLFLOW_HOME", str(tmp_path / "other"))
    assert call("tune", str(file), *RANDOM, "--threads", "1", "--out", "here.toml").code == 0
    assert Path("ray.toml").read_bytes() == Path("here.toml").read_bytes()


def test_a_trial_is_pruned_on_its_machine(call: Call, home: Home, file: Path) -> None:
    rates = "tune.space.learning_rate=[0.002, 0.0000001]"
    options = ["--set", rates, "--set", "tune.grace_epochs=1", "--arms", "one", "--trials", "14"]
    done = call("tune", str(file), *RANDOM, *options, "--engine", "ray")
    assert done.code == 0, done.err
    record = load_study_file("small-tuned.toml").tuned["one"]
    assert record.pruned > 0
    assert record.epochs < 14 * 4


def start(file: Path, home: Home, *options: str) -> subprocess.Popen[bytes]:
    command = [PROGRAM, "tune", str(file), *RANDOM]
    return subprocess.Popen(
        [*command, "--engine", "ray", *options],
        env={**os.environ, "GALAXY_MLFLOW_HOME": str(home.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for_second_trials(process: subprocess.Popen[bytes], home: Home) -> None:
    deadline = time.monotonic() + 200
    while not any(home.path.glob("tuning/*/*/trial-00[12]/*/last.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def check_all_ended(store: MlflowStore) -> None:
    """Each arm has its three trials, once each, and every epoch of them once."""
    study = load_study_file("small-tuned.toml")
    assert [study.tuned[arm].completed for arm in study.arm] == [3, 3]
    trials = logged(store, **{schema.KIND: schema.TRIAL})
    assert len(trials) == 6
    for run in trials:
        assert [step for step, *_ in history(store, run.info.run_id, "val_loss")] == [0, 1, 2, 3]


def test_a_killed_process_costs_no_trial(home: Home, file: Path) -> None:
    process = start(file, home)
    wait_for_second_trials(process, home)
    training_processes(process.pid)[0].kill()
    out, words = process.communicate(timeout=300)
    assert process.returncode == 0, words
    assert b"its process on" in out
    check_all_ended(MlflowStore(home.database_uri, home))


def test_a_machine_of_a_cluster_that_is_lost_costs_no_trial(
    home: Home, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = RayHere(tmp_path)
    log = tmp_path / "server.log"
    try:
        with serving(LocalServer(home.database_uri, home.artifacts, free_port(), log)) as uri:
            for name, value in {**cluster.environment, "MLFLOW_TRACKING_URI": uri}.items():
                monkeypatch.setenv(name, value)
            cluster.head(cpus=1)
            second = cluster.join(cpus=1)
            process = start(file, home, "--address", cluster.address)
            wait_for_second_trials(process, home)
            cluster.kill(second)
            out, words = process.communicate(timeout=400)
            assert process.returncode == 0, words + out
            check_all_ended(MlflowStore(uri, home))
    finally:
        cluster.stop()
