"""A backup of the running stack, restored into an empty one: the same runs, artifacts, accounts."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from compose.stack import Stack, copy_of_the_project
from compose.test_storage import in_bucket
from mlflow_server.local import free_port

STUDY = "backup"


@dataclass(frozen=True)
class Client:
    """MLflow's client, logged in to a stack as its admin."""

    stack: Stack

    def __enter__(self) -> Any:
        from mlflow import MlflowClient

        for name, value in self.stack.environ(self.stack.admin).items():
            if name.startswith("MLFLOW_"):
                os.environ[name] = value
        return MlflowClient(tracking_uri=self.stack.uri)

    def __exit__(self, *problem: object) -> None:
        return None


def log_runs(stack: Stack, folder: Path) -> None:
    """Log three runs with histories and artifacts, and put the third into the trash."""
    from mlflow.entities import Metric, Param

    with Client(stack) as client:
        experiment = client.create_experiment(STUDY, tags={"mlflow.note.content": "a note"})
        for split in range(3):
            run_id = client.create_run(experiment, run_name=f"split-{split}").info.run_id
            points = [Metric("loss", 1 / (n + 1 + split), 1000 + n, n) for n in range(7)]
            client.log_batch(run_id, metrics=points, params=[Param("epochs", "7")])
            client.set_tag(run_id, "split", str(split))
            for name, size in (("last.pt", 9_000_000), ("last.json", 80), ("nöte.txt", 1)):
                (folder / name).write_bytes(os.urandom(size))
                client.log_artifact(run_id, str(folder / name), "checkpoints")
            client.set_terminated(run_id)
        client.delete_run(run_id)


def contents(stack: Stack) -> dict[str, Any]:
    """Return all that the server holds of the study, artifacts by their sha256."""
    from mlflow.entities import ViewType

    with Client(stack) as client, tempfile.TemporaryDirectory() as folder:
        experiment = client.get_experiment_by_name(STUDY)
        found: dict[str, Any] = {"experiment": dict(experiment)}
        for run in client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL):
            history = client.get_metric_history(run.info.run_id, "loss")
            points = sorted((point.step, point.value, point.timestamp) for point in history)
            trashed = run.info.lifecycle_stage == "deleted"
            artifacts = {} if trashed else sums(client, run.info.run_id, Path(folder))
            found[run.info.run_id] = (run.to_dictionary(), points, artifacts)
    return found


def sums(client: Any, run_id: str, folder: Path) -> dict[str, str]:
    target = folder / run_id
    target.mkdir()
    client.download_artifacts(run_id, "checkpoints", str(target))
    files = sorted(file for file in target.rglob("*") if file.is_file())
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def backup(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of the stack, with an account of a researcher."""
    folder = tmp_path_factory.mktemp("backup")
    log_runs(stack, tmp_path_factory.mktemp("artifacts"))
    stack.exec("tracking", "galaxy-mlflow", "user", "add", "keeper")
    said = stack.run("./mlflow_server/backup", str(folder / "kept"))
    (made,) = (folder / "kept").iterdir()
    assert f"backup: {made}" in said
    return made


@pytest.fixture(scope="module")
def empty(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Another machine, as it were: a second clone with secrets of its own, and nothing running."""
    folder = copy_of_the_project(tmp_path_factory.mktemp("elsewhere"))
    own = {"COMPOSE_PROJECT_NAME": "galaxy-mlflow-restored", "TRACKING_PORT": str(free_port())}
    other = replace(stack, folder=folder, environment={**stack.environment, **own})
    try:
        other.run("./mlflow_server/init")
        yield other
    finally:
        other.compose("--profile", "*", "down", "--volumes", "--timeout", "5", check=False)


def test_a_backup_is_its_callers_alone_and_names_all_it_holds(backup: Path) -> None:
    files = {file.name: file.stat() for file in backup.iterdir()}
    assert set(files) == {"manifest.json", "mlflow.dump", "accounts.dump", "objects.tar"}
    assert stat.S_IMODE(backup.stat().st_mode) == 0o700
    for facts in files.values():
        assert (stat.S_IMODE(facts.st_mode), facts.st_uid) == (0o600, os.getuid())
    manifest = json.loads((backup / "manifest.json").read_text())
    for name, facts in manifest["files"].items():
        content = (backup / name).read_bytes()
        wanted = {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        assert facts == wanted
    assert manifest["counts"]["runs"] >= 3
    assert manifest["counts"]["users"] >= 3
    assert manifest["counts"]["objects"] == len(manifest["objects"]) >= 9
    assert manifest["versions"]["mlflow"].startswith("3.")


def test_no_secret_is_in_a_backup(stack: Stack, backup: Path) -> None:
    whole = b"".join((backup / name).read_bytes() for name in ("mlflow.dump", "manifest.json"))
    for name in ("db_password", "s3_secret_key", "worker_password", "tracking_admin_password"):
        assert stack.secret(name).encode() not in whole


def test_a_damaged_backup_restores_nothing(empty: Stack, backup: Path, tmp_path: Path) -> None:
    for file in backup.iterdir():
        content = bytearray(file.read_bytes())
        if file.name == "objects.tar":
            content[5000] ^= 1
        (tmp_path / file.name).write_bytes(content)
    said = empty.run("./mlflow_server/restore", str(tmp_path), check=False)
    assert "damaged" in said
    assert "restoring" not in said


def test_a_backup_restores_the_same_runs_artifacts_and_accounts(
    stack: Stack, empty: Stack, backup: Path
) -> None:
    said = empty.run("./mlflow_server/restore", str(backup), timeout=900)
    assert "restored: " in said
    assert contents(empty) == contents(stack)
    users = ("tracking", "galaxy-mlflow", "user", "list")
    assert "keeper" in empty.exec(*users)
    address = f"{empty.uri}/api/2.0/mlflow/experiments/search?max_results=1"
    assert empty.session(empty.worker).get(address).status_code == 200  # its own new secret


def test_a_server_with_runs_is_not_overwritten_unasked(stack: Stack, backup: Path) -> None:
    said = stack.run("./mlflow_server/restore", str(backup), check=False)
    assert "give --replace to lose them" in said
    assert "restoring" not in said


def test_a_restore_over_a_server_keeps_nothing_else(
    stack: Stack, empty: Stack, backup: Path
) -> None:
    in_bucket(empty, "o.client.put_object(Bucket=o.bucket, Key='artifacts/other', Body=b'x')")
    said = empty.run("./mlflow_server/restore", str(backup), "--replace", timeout=900)
    assert "1 other objects removed" in said
    assert contents(empty) == contents(stack)
