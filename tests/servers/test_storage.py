"""What uses space, what may go, and backups of objects: on a real S3 server."""

from __future__ import annotations

import io
import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from fixtures_cli import Call

from galaxy_mlflow import checkpoints, schema
from galaxy_mlflow.errors import ConfigError, DataError, ServerError
from galaxy_mlflow.home import Home
from mlflow_server import storage
from mlflow_server.archive import FILES
from mlflow_server.backup import manifest, pack
from mlflow_server.bucket import BROKEN_UPLOADS, with_ours
from mlflow_server.objects import Objects, StoredObject
from mlflow_server.restore import remove_others, require_empty, unpack, verify
from mlflow_server.storage import Inventory, KnownRun
from mlflow_server.stores import Store

GONE = "0" * 32
LAST, BEST = b"l" * 1000, b"b" * 100
EVERY_KIND = {
    "checkpoints/last.pt": LAST,
    "checkpoints/last.json": b"{}",
    "checkpoints/best.safetensors": BEST,
    "checkpoints/epoch-0004.safetensors": b"e" * 50,
    "predictions/selected.parquet": b"p" * 20,
    "confusion/test.json": b"c",
    "figures/samples.png": b"f",
    "study.json": b"s",
}


class Server:
    """A database of MLflow's and a bucket, as the group's server has them."""

    def __init__(self, home: Home, bucket: Objects) -> None:
        from mlflow import MlflowClient

        self.client = MlflowClient(tracking_uri=home.database_uri)
        self.bucket, self.store = bucket, Store(bucket, home.database_uri)
        self.study = f"study-{time.monotonic_ns()}"
        root = f"mlflow-artifacts:/{self.study}"
        self.experiment = self.client.create_experiment(self.study, root)

    def run(self, files: dict[str, bytes], status: str = schema.FINISHED) -> str:
        tags = {schema.STATUS: status}
        run_id = str(self.client.create_run(self.experiment, tags=tags).info.run_id)
        self.put(run_id, files)
        return run_id

    def put(self, run_id: str, files: dict[str, bytes]) -> None:
        for path, content in files.items():
            key = f"artifacts/{self.experiment}/{run_id}/artifacts/{path}"
            self.bucket.client.put_object(Bucket=self.bucket.bucket, Key=key, Body=content)

    def left(self, run_id: str) -> set[str]:
        found = (storage.parts(file.key) for file in self.bucket.listing())
        return {path for run, path in found if run == run_id}

    def later(self, age: timedelta) -> Inventory:
        """Look around after some time has gone by."""
        now = self.store.look()
        return Inventory(now.files, now.uploads, now.runs, now.now + age)


@pytest.fixture
def server(database_home: Home, bucket: Objects) -> Server:
    return Server(database_home, bucket)


def test_the_kinds_are_what_workers_write() -> None:
    names = (checkpoints.LAST, checkpoints.POINTER, checkpoints.BEST)
    kinds = [storage.kind(f"{schema.CHECKPOINTS}/{name}") for name in names]
    assert kinds == ["last", "last", "best"]
    assert storage.kind(schema.PREDICTIONS_FILE) == "predictions"
    assert storage.kind(schema.CONFUSION_FILE) == "confusion"
    assert storage.kind(schema.SAMPLES_FILE) == "figures"
    assert storage.kind("report/report.html") == "report"
    assert storage.kind(schema.STUDY_FILE) == storage.kind("checkpoints/notes.txt") == "other"


def test_space_is_told_by_study_and_kind(server: Server) -> None:
    server.run(EVERY_KIND)
    server.run({"checkpoints/last.pt": LAST}, schema.RUNNING)
    server.put(GONE, {"checkpoints/last.pt": LAST})
    usage = server.store.look().usage()
    assert usage[server.study] == {
        "last": 2002,
        "best": 100,
        "every n": 50,
        "predictions": 20,
        "confusion": 1,
        "figures": 1,
        "other": 1,
    }
    assert usage[storage.NO_RUN] == {"last": 1000}


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("best", {"best.safetensors"}),
        ("last", {"last.pt", "last.json"}),
        ("none", set()),
    ],
)
def test_retention_touches_only_checkpoints_of_finished_runs(
    server: Server, keep: str, kept: set[str]
) -> None:
    finished, running = server.run(EVERY_KIND), server.run(EVERY_KIND, schema.RUNNING)
    lonely = server.run({"checkpoints/last.pt": LAST})
    plan = server.store.look().of_study(server.study).retention(keep)
    assert server.left(finished) == set(EVERY_KIND)
    server.store.apply([plan])
    others = {path for path in EVERY_KIND if not path.startswith("checkpoints/")}
    assert server.left(finished) == {f"checkpoints/{name}" for name in kept} | others
    assert server.left(running) == set(EVERY_KIND)
    assert server.left(lonely) == (set() if keep == "none" else {"checkpoints/last.pt"})


def test_a_wrong_retention_is_refused(server: Server) -> None:
    with pytest.raises(ConfigError, match="best, last, none"):
        server.store.look().retention("all")


def test_orphans_are_files_whose_run_is_not_even_in_the_trash(server: Server) -> None:
    alive, trashed = server.run(EVERY_KIND), server.run(EVERY_KIND)
    server.client.delete_run(trashed)
    server.put(GONE, {"checkpoints/last.pt": LAST})
    assert not server.store.look().orphans().files  # it may belong to a run that is being made
    plan = server.later(timedelta(hours=2)).orphans()
    assert plan.size == 1000
    server.store.apply([plan])
    assert (server.left(GONE), server.left(alive)) == (set(), set(EVERY_KIND))
    assert server.left(trashed) == set(EVERY_KIND)


def test_a_file_belongs_to_the_outer_run_of_its_key() -> None:
    inner = f"mlruns/0/{GONE}/artifacts/x.pt"
    alive = "a" * 32
    assert storage.parts(f"artifacts/1/{alive}/artifacts/{inner}") == (alive, inner)


def test_a_database_without_runs_makes_no_file_an_orphan() -> None:
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    file = StoredObject(f"artifacts/1/{GONE}/artifacts/a", 1, long_ago)
    with pytest.raises(ConfigError, match="restore the database first"):
        Inventory((file,), (), {}).orphans()
    assert not Inventory((), (), {}).orphans().files
    other = {"a" * 32: KnownRun("moons", finished=True)}
    assert Inventory((file,), (), other).orphans().files == (file,)


def test_uploads_broken_off_are_given_up_after_a_day(server: Server) -> None:
    client, name = server.bucket.client, server.bucket.bucket
    begun = client.create_multipart_upload(Bucket=name, Key="artifacts/1/x")
    part = {"Bucket": name, "Key": "artifacts/1/x", "UploadId": begun["UploadId"], "PartNumber": 1}
    client.upload_part(**part, Body=b"x" * 300)
    assert not server.store.look().broken_uploads().uploads
    plan = server.later(timedelta(days=2)).broken_uploads()
    assert plan.size == 300
    server.store.apply([plan])
    assert list(server.bucket.uploads()) == []


def test_deleted_runs_go_for_good_after_some_days(server: Server) -> None:
    from mlflow.exceptions import MlflowException

    alive, trashed = server.run(EVERY_KIND), server.run(EVERY_KIND)
    server.client.delete_run(trashed)
    assert trashed not in server.store.look().trash(30).runs
    plan = server.later(timedelta(days=31)).of_study(server.study).trash(30)
    assert plan.runs == (trashed,)
    server.store.apply([plan])
    assert (server.left(trashed), server.left(alive)) == (set(), set(EVERY_KIND))
    with pytest.raises(MlflowException, match="not found"):
        server.client.get_run(trashed)


def test_a_run_deleted_nobody_knows_when_is_kept(server: Server) -> None:
    from sqlalchemy import create_engine, text

    trashed = server.run(EVERY_KIND)
    server.client.delete_run(trashed)
    forget = text("UPDATE runs SET deleted_time = NULL WHERE run_uuid = :run")
    with create_engine(server.store.database_uri).begin() as connection:
        connection.execute(forget, {"run": trashed})
    assert trashed not in server.store.look().trash(0).runs


def test_the_rules_of_a_bucket_stay_beside_ours() -> None:
    own = {"ID": "to-the-archive", "Status": "Enabled"}
    before = {**BROKEN_UPLOADS, "Status": "Disabled"}
    assert with_ours([before, own]) == [own, BROKEN_UPLOADS] == with_ours([own, BROKEN_UPLOADS])


def test_the_command_plans_first_and_deletes_when_told(call: Call, clean_environ: Path) -> None:
    from mlflow import MlflowClient

    home = Home(clean_environ)
    home.path.mkdir()
    client = MlflowClient(tracking_uri=home.database_uri)
    experiment = client.create_experiment("moons", (home.artifacts / "moons").as_uri())
    run_id = client.create_run(experiment, tags={schema.STATUS: schema.FINISHED}).info.run_id
    for path, content in EVERY_KIND.items():
        folder, _, _ = path.rpartition("/")
        (home.path / "draft").mkdir(exist_ok=True)
        file = home.path / "draft" / Path(path).name
        file.write_bytes(content)
        client.log_artifact(run_id, str(file), folder or None)
    planned = call("storage", "--retention", "best", "--sweep", "--deleted", "0")
    assert planned.code == 0
    assert "3 files, 1.05 kB would go" in planned.out
    assert "without --apply" in planned.out
    assert "moons" in planned.out
    done = call("storage", "--study", "moons", "--retention", "best", "--apply")
    assert "3 files, 1.05 kB deleted" in done.out
    left = {file.name for file in home.artifacts.rglob("*") if file.is_file()}
    assert left == {Path(path).name for path in EVERY_KIND} - {
        "last.pt",
        "last.json",
        "epoch-0004.safetensors",
    }
    assert call("storage", "--study", "mooons").code == 2


def test_the_storage_of_a_distant_server_is_seen_from_its_machine(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://galaxies.example.org:5000")
    outcome = call("storage")
    assert outcome.code == 2
    assert "docker compose exec tracking galaxy-mlflow storage" in outcome.err


class Backup:
    """A backup of a bucket, in memory."""

    def __init__(self, objects: Objects) -> None:
        tar = io.BytesIO()
        self.count = pack(objects, tar)
        self.parts = [b"runs", b"accounts!", tar.getvalue()]
        facts = [f"{name}={len(part)}" for name, part in zip(FILES, self.parts, strict=True)]
        facts += [
            "created=2026-11-22T08:00:00Z",
            "experiments=1",
            "runs=2",
            "users=2",
            "alembic=a",
            "postgres=17",
        ]
        self.manifest = manifest(io.BytesIO(b"".join(self.parts)), facts)

    def verify(self) -> str:
        text = json.dumps(self.manifest).encode()
        whole = b"".join([text, *self.parts])
        return verify(io.BytesIO(whole), [str(len(part)) for part in (text, *self.parts)])


def test_a_backup_brings_every_object_back(bucket: Objects, s3_settings: object) -> None:
    long = "artifacts/1/" + "ü long name/" * 20
    contents = {f"{long}{n}": bytes([n]) * n for n in range(40)}
    contents["artifacts/1/large"] = b"0123456789abcdef" * 2**20  # sent in several parts
    for key, content in contents.items():
        bucket.client.put_object(Bucket=bucket.bucket, Key=key, Body=content)
    backup = Backup(bucket)
    assert backup.manifest["counts"]["objects"] == backup.count == 41
    assert "41 objects" in backup.verify()
    other = Objects(bucket.client, f"{bucket.bucket}-2")
    bucket.client.create_bucket(Bucket=other.bucket)
    require_empty(other)
    unpack(other, io.BytesIO(backup.parts[2]))
    restored = {
        file.key: bucket.client.get_object(Bucket=other.bucket, Key=file.key)["Body"].read()
        for file in other.listing()
    }
    assert restored == contents


def test_a_restore_keeps_nothing_of_what_it_replaces(bucket: Objects) -> None:
    bucket.client.put_object(Bucket=bucket.bucket, Key="wanted", Body=b"old")
    backup = Backup(bucket)
    bucket.client.put_object(Bucket=bucket.bucket, Key="wanted", Body=b"new")
    bucket.client.put_object(Bucket=bucket.bucket, Key="other", Body=b"new")
    with pytest.raises(ServerError, match="--replace"):
        require_empty(bucket)
    unpack(bucket, io.BytesIO(backup.parts[2]))
    assert [file.key for file in bucket.listing()] == ["other", "wanted"]  # until all else is back
    remove_others(bucket, json.dumps(backup.manifest).encode())
    assert [file.key for file in bucket.listing()] == ["wanted"]


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_damaged_backup_is_refused(bucket: Objects, part: int) -> None:
    bucket.client.put_object(Bucket=bucket.bucket, Key="a", Body=b"content" * 100)
    backup = Backup(bucket)
    whole = backup.parts[part]
    for damaged in (whole[:-1], whole[: len(whole) // 4], whole.replace(b"n", b"m", 1)):
        backup.parts[part] = damaged
        with pytest.raises(DataError, match=r"damaged|whole"):
            backup.verify()
