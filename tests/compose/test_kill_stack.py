"""Every part of the running stack is killed while a study trains: nothing is lost or doubled."""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from compose.stack import COMMAND, Stack
from compose.watch import (
    crash,
    epochs_there,
    log_in,
    progress,
    rows,
    state,
    wait_for,
    wait_until_well,
)
from galaxy_mlflow import schema
from galaxy_mlflow.home import Home
from galaxy_mlflow.tracking import MlflowStore

NAME = "survivor"
SPLITS, EPOCHS = 3, 125
STUDY = f"""\
[data]
kind = "simulated"
n = 160
image_size = 32

[splits]
count = {SPLITS}

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


@pytest.fixture(scope="module")
def survivor(with_worker: Stack, tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """The stack with a study that trains for minutes."""
    folder = tmp_path_factory.mktemp("studies")
    folder.chmod(0o755)
    (folder / "survivor.toml").write_text(STUDY)
    own = {"STUDIES_DIR": str(folder), "STUDY": "experiments/survivor.toml"}
    return replace(with_worker, environment={**with_worker.environment, **own})


def alive(stack: Stack) -> bool:
    """Whether the worker is at work."""
    return bool(state(stack, stack.container("worker"))["Running"])


def kill(stack: Stack, service: str) -> None:
    """`docker kill`, which Docker takes for the operator's will, and the operator's `up`."""
    stack.run("docker", "kill", stack.container(service))
    time.sleep(2)
    stack.compose("--profile", "worker", "up", "--detach", "--no-recreate")


BLOWS = [
    *[(kill, service) for service in (*SERVERS, "worker") * 2],
    (crash, "tracking"),
    (crash, "worker"),
]


def test_a_study_outlives_every_part_of_the_stack(survivor: Stack) -> None:
    survivor.compose("up", "--detach", "worker", timeout=300)
    progress(survivor, NAME, 0)
    for blow, service in BLOWS:
        before = epochs_there(survivor, NAME)
        assert alive(survivor), "the study ended before it was tried"
        blow(survivor, service)
        if service in SERVERS:
            wait_until_well(survivor, service)
        progress(survivor, NAME, before)
    before = epochs_there(survivor, NAME)
    assert alive(survivor)
    survivor.compose("--profile", "worker", "down", "--timeout", "10")
    survivor.compose("--profile", "worker", "up", "--detach", timeout=300)
    wait_for(lambda: not alive(survivor), 600, "the study to end")
    ended = state(survivor, survivor.container("worker"))
    assert ended["ExitCode"] == 0, survivor.compose("logs", "worker").stdout
    assert epochs_there(survivor, NAME) > before


def test_no_epoch_is_lost_or_doubled(survivor: Stack) -> None:
    found = rows(survivor, NAME)
    runs = {name for name, *_ in found}
    assert runs == {f"split-{k:03d}/{arm}" for k in range(SPLITS) for arm in ("one", "two")}
    doubled = [row for row, times in Counter(row[:3] for row in found).items() if times > 1]
    assert doubled == []
    for run in runs:
        steps = sorted(step for name, key, step, _ in found if (name, key) == (run, "train_loss"))
        assert steps == list(range(EPOCHS))


def test_every_checkpoint_has_its_sha256(
    survivor: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = log_in(survivor, tmp_path, monkeypatch)
    runs = store.runs(NAME)
    assert len(runs) == 2 * SPLITS
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
    (expected,) = quiet.runs(NAME)
    (found,) = [r for r in killed.runs(NAME) if r.job == expected.job]
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


def without_timing(metrics: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if key not in TIMING}
