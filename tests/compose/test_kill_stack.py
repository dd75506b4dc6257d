"""Every part of the running stack is killed while a study trains: nothing is lost or doubled."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from compose.stack import COMMAND, Stack
from galaxy_mlflow import schema
from galaxy_mlflow.home import Home
from galaxy_mlflow.tracking import MlflowStore

EPOCHS = 125
STUDY = f"""\
[data]
kind = "simulated"
n = 160
image_size = 32

[splits]
count = 2

[training]
architecture = "mobilenet_v3_small"
epochs = {EPOCHS}
batch_size = 32
optimizer = "adamw"
learning_rate = 0.002

[checkpoints]
policy = "best"
upload_every = 2

[arm.one]
[arm.two]
schedule = "cosine"
"""
SERVERS = ("tracking", "db", "s3")
TIMING = (*schema.TIMING_METRICS, schema.TOTAL_SECONDS, schema.TOTAL_ENERGY)
ROWS = """copy (
  select t.value, m.key, m.step, m.value, m.is_nan
  from metrics m join runs r using (run_uuid) join experiments e using (experiment_id)
  join tags t on t.run_uuid = r.run_uuid and t.key = 'mlflow.runName'
  where e.name = 'survivor' and r.lifecycle_stage = 'active' and m.key not like 'system/%'
) to stdout with csv"""


@pytest.fixture(scope="module")
def survivor(with_worker: Stack, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """The stack with a study that trains for minutes."""
    folder = tmp_path_factory.mktemp("studies")
    folder.chmod(0o755)
    (folder / "survivor.toml").write_text(STUDY)
    own = {"STUDIES_DIR": str(folder), "STUDY": "experiments/survivor.toml"}
    return replace(with_worker, environment={**with_worker.environment, **own})


def rows(stack: Stack) -> list[tuple[str, str, int, float]]:
    """Return every row of the study's metrics, straight from the database."""
    psql = ["psql", "--username=mlflow", "--dbname=mlflow", "--quiet", "--command", ROWS]
    found = csv.reader(io.StringIO(stack.exec("db", *psql)))
    return [(name, key, int(step), float(value)) for name, key, step, value, _ in found]


def epochs_there(stack: Stack) -> int:
    return sum(1 for _, key, _, _ in rows(stack) if key == schema.TRAIN_LOSS)


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.5)


def state(stack: Stack, service: str) -> dict[str, object]:
    words = stack.run("docker", "inspect", stack.container(service))
    found = json.loads(words)[0]
    return {**found["State"], "RestartCount": found["RestartCount"]}


def is_well(stack: Stack, service: str) -> bool:
    health = state(stack, service).get("Health")
    return isinstance(health, dict) and health["Status"] == "healthy"


def progress(stack: Stack, before: int) -> None:
    """Wait until new epochs are on the server: the study trains and records are kept."""
    wait_for(lambda: epochs_there(stack) > before, 120, f"epochs after the {before} that are there")


def kill(stack: Stack, service: str) -> None:
    """`docker kill`, which Docker takes for the operator's will, and the operator's `up`."""
    stack.run("docker", "kill", stack.container(service))
    time.sleep(2)
    stack.compose("--profile", "worker", "up", "--detach", "--no-recreate")


def crash(stack: Stack, service: str) -> None:
    """Kill the container's processes from outside: the restart policy brings it back alone."""
    before = state(stack, service)
    os.kill(int(str(before["Pid"])), signal.SIGKILL)
    again = int(str(before["RestartCount"])) + 1
    wait_for(lambda: state(stack, service)["RestartCount"] == again, 30, f"{service} to restart")


BLOWS = [
    *[(kill, service) for service in (*SERVERS, "worker") * 2],
    (crash, "tracking"),
    (crash, "worker"),
]


def test_a_study_outlives_every_part_of_the_stack(survivor: Stack) -> None:
    survivor.compose("up", "--detach", "worker", timeout=300)
    progress(survivor, 0)
    for blow, service in BLOWS:
        before = epochs_there(survivor)
        assert state(survivor, "worker")["Running"], "the study ended before it was tried"
        blow(survivor, service)
        if service in SERVERS:
            wait_for(lambda name=service: is_well(survivor, name), 150, f"{service} to be well")
        progress(survivor, before)
    before = epochs_there(survivor)
    assert state(survivor, "worker")["Running"]
    survivor.compose("--profile", "worker", "down", "--timeout", "10")
    survivor.compose("--profile", "worker", "up", "--detach", timeout=300)
    wait_for(lambda: not state(survivor, "worker")["Running"], 600, "the study to end")
    assert state(survivor, "worker")["ExitCode"] == 0, survivor.compose("logs", "worker").stdout
    assert epochs_there(survivor) > before


def test_no_epoch_is_lost_or_doubled(survivor: Stack) -> None:
    found = rows(survivor)
    runs = {name for name, *_ in found}
    assert runs == {f"split-{k:03d}/{arm}" for k in (0, 1) for arm in ("one", "two")}
    doubled = [row for row, times in Counter(row[:3] for row in found).items() if times > 1]
    assert doubled == []
    for run in runs:
        steps = sorted(step for name, key, step, _ in found if (name, key) == (run, "train_loss"))
        assert steps == list(range(EPOCHS))


def test_every_checkpoint_has_its_sha256(
    survivor: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = log_in(survivor, tmp_path, monkeypatch)
    runs = store.runs("survivor")
    assert len(runs) == 4
    for run in runs:
        assert run.status == schema.FINISHED
        found = store.fetch_checkpoint(run.run_id, tmp_path / run.job.run_name)
        assert found is not None
        file, sha256 = found
        assert hashlib.sha256(file.read_bytes()).hexdigest() == sha256


def test_the_result_is_that_of_a_run_that_nothing_disturbed(
    survivor: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit: metrics and the selected weights, trained here without any server."""
    home = Home(tmp_path / "quiet")
    study = Path(survivor.environment["STUDIES_DIR"]) / "survivor.toml"
    command = [COMMAND, "run", str(study), "--splits", "0", "--arms", "two"]
    environment = {**survivor.environment, "GALAXY_MLFLOW_HOME": str(home.path)}
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=300)
    quiet, killed = MlflowStore(home.database_uri, home), log_in(survivor, tmp_path, monkeypatch)
    (expected,) = quiet.runs("survivor")
    (found,) = [r for r in killed.runs("survivor") if r.job == expected.job]
    assert without_timing(found.metrics) == without_timing(expected.metrics)
    left, right = (
        selected_weights(store, run.run_id, tmp_path / str(number))
        for number, (store, run) in enumerate([(quiet, expected), (killed, found)])
    )
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def selected_weights(store: MlflowStore, run_id: str, folder: Path) -> dict[str, torch.Tensor]:
    file = store.fetch(run_id, f"{schema.CHECKPOINTS}/best.safetensors", folder)
    assert file is not None
    return load_file(file)


def log_in(stack: Stack, folder: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowStore:
    """Return the stack's store as an administrator sees it from this machine."""
    for name, value in stack.environ(stack.admin).items():
        if name.startswith("MLFLOW_"):
            monkeypatch.setenv(name, value)
    return MlflowStore(stack.uri, Home(folder / "reader"))


def without_timing(metrics: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if key not in TIMING}
