"""What goes on in a running stack: its containers' states, and the raw rows in its database."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from compose.stack import Stack
from galaxy_mlflow import schema
from galaxy_mlflow.home import Home
from galaxy_mlflow.tracking import MlflowStore

ROWS = """copy (
  select t.value, m.key, m.step, m.value, m.is_nan
  from metrics m join runs r using (run_uuid) join experiments e using (experiment_id)
  join tags t on t.run_uuid = r.run_uuid and t.key = 'mlflow.runName'
  where e.name = '{study}' and r.lifecycle_stage = 'active' and m.key not like 'system/%'
) to stdout with csv"""


def rows(stack: Stack, study: str) -> list[tuple[str, str, int, float]]:
    """Return every row of a study's metrics, straight from the database."""
    query = ROWS.format(study=study)
    psql = ["psql", "--username=mlflow", "--dbname=mlflow", "--quiet", "--command", query]
    found = csv.reader(io.StringIO(stack.exec("db", *psql)))
    return [(name, key, int(step), float(value)) for name, key, step, value, _ in found]


def epochs_there(stack: Stack, study: str) -> int:
    """Return how many epochs of a study are in the database."""
    return sum(1 for _, key, _, _ in rows(stack, study) if key == schema.TRAIN_LOSS)


def wait_for(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until something is so; fail, and say what it was, when it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.5)


def progress(stack: Stack, study: str, before: int) -> None:
    """Wait until new epochs are on the server: the study trains and records are kept."""
    there = f"epochs after the {before} that are there"
    wait_for(lambda: epochs_there(stack, study) > before, 120, there)


def state(stack: Stack, container: str) -> dict[str, object]:
    """Return the state of a container, and how often it was restarted."""
    found = json.loads(stack.run("docker", "inspect", container))[0]
    return {**found["State"], "RestartCount": found["RestartCount"]}


def health(stack: Stack, service: str) -> str:
    """Return what the health check of a service's container says."""
    found = state(stack, stack.container(service)).get("Health")
    return str(found["Status"]) if isinstance(found, dict) else "none"


def wait_until_well(stack: Stack, service: str) -> None:
    """Wait until the health check of a service's container is content."""
    wait_for(lambda: health(stack, service) == "healthy", 150, f"{service} to be well")


def crash(stack: Stack, service: str) -> None:
    """Kill the container's processes from outside: the restart policy brings it back alone."""
    container = stack.container(service)
    before = state(stack, container)
    pid = int(str(before["Pid"]))
    assert pid > 0, f"{service} is not running"  # 0 means all of our own group
    os.kill(pid, signal.SIGKILL)
    again = int(str(before["RestartCount"])) + 1
    wait_for(lambda: state(stack, container)["RestartCount"] == again, 30, f"{service} to restart")


def log_in(stack: Stack, folder: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowStore:
    """Return the stack's store as an administrator sees it from this machine."""
    for name, value in stack.environ(stack.admin).items():
        if name.startswith("MLFLOW_"):
            monkeypatch.setenv(name, value)
    return MlflowStore(stack.uri, Home(folder / "reader"))
