"""Large files, against a real S3 server: straight there, through the server, broken, damaged."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from relay import Relay
from tracked import new_name, start_of

from galaxy_mlflow.errors import ServerError, ServerRefusedError
from galaxy_mlflow.home import Home
from galaxy_mlflow.spool import Event, Kind
from galaxy_mlflow.tracking import MlflowStore
from galaxy_mlflow.uploads import Route, route_to
from mlflow_server.local import LocalServer, free_port, serving, stop

MIB = 2**20
PATH = "checkpoints/last.safetensors"
KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "a-secret-for-tests"}


class ServerBeforeS3(LocalServer):
    """A server that takes artifacts and hands them on."""

    def command(self) -> list[str]:
        kept = super().command()
        kept[kept.index("--default-artifact-root") :] = ["--artifacts-destination", "s3://mlflow/a"]
        return kept


@dataclass(frozen=True)
class S3:
    """A real S3 server behind a relay, and a client that knows its keys."""

    port: int
    relay: Relay
    client: Any

    def etag(self, run_id: str) -> str | None:
        """Return the checkpoint's ETag, which counts the parts that it came in; None: not there."""
        listing = self.client.list_objects_v2(Bucket="mlflow")
        found = {item["Key"]: item["ETag"].strip('"') for item in listing.get("Contents", ())}
        (tag,) = [found[key] for key in found if f"/{run_id}/" in key] or [None]
        return tag

    @property
    def broken_uploads(self) -> int:
        return len(self.client.list_multipart_uploads(Bucket="mlflow").get("Uploads", ()))


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    folder, port = tmp_path_factory.mktemp("s3"), free_port()
    where = ["--host", "127.0.0.1", "--port", str(port), "--data-dir", str(folder)]
    keys = {"NANIO_ACCESS_KEY": "tester", "NANIO_SECRET_KEY": "a-secret-for-tests"}
    program = str(Path(sys.executable).parent / "nanio")
    with (folder.parent / "s3.log").open("wb") as log:
        command = [program, "serve", *where]
        process = subprocess.Popen(command, env={**os.environ, **keys}, stdout=log, stderr=log)
    relay = Relay(port)
    try:
        with pytest.MonkeyPatch.context() as patch:
            endpoint = f"http://localhost:{relay.port}"
            found = {**KEYS, "AWS_DEFAULT_REGION": "us-east-1", "MLFLOW_S3_ENDPOINT_URL": endpoint}
            for name, value in found.items():
                patch.setenv(name, value)
            yield S3(port, relay, _client(port))
    finally:
        relay.close()
        stop(process)


def _client(port: int) -> Any:
    import boto3
    from botocore.exceptions import EndpointConnectionError

    client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
    for _ in range(300):
        try:
            client.create_bucket(Bucket="mlflow")
            break
        except EndpointConnectionError:
            time.sleep(0.1)
    return client


@pytest.fixture(scope="module")
def uri(s3: S3, database_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("server")
    home = database_home
    server = ServerBeforeS3(home.database_uri, home.artifacts, free_port(), folder / "server.log")
    with serving(server) as address:
        yield address


@pytest.fixture
def store(uri: str, tmp_path: Path) -> MlflowStore:
    """A store as a new process has it: nothing is known about the way to its files."""
    route_to.cache_clear()
    return MlflowStore(uri, Home(tmp_path / "home"))


@pytest.fixture
def run_id(store: MlflowStore) -> str:
    return store.create(start_of(new_name())).run_id


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    file = tmp_path / "000007-last"
    file.write_bytes(os.urandom(40 * MIB))
    return file


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take 40 MiB for a large file, to be quick."""
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", str(20 * MIB))
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE", str(5 * MIB))


def send(store: MlflowStore, run_id: str, file: Path) -> None:
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    store.send_artifact(run_id, file, Event(Kind.ARTIFACT, 0, artifact_path=PATH, sha256=digest))


def arrived(store: MlflowStore, run_id: str, file: Path, folder: Path) -> bool:
    back = store.fetch(run_id, PATH, folder / "back")
    return back is not None and back.read_bytes() == file.read_bytes()


def test_a_large_file_goes_straight_to_the_object_store(
    store: MlflowStore, run_id: str, s3: S3, tmp_path: Path
) -> None:
    file = tmp_path / "000006-last"
    file.write_bytes(os.urandom(50 * MIB))
    send(store, run_id, file)
    assert str(s3.etag(run_id)).endswith("-2"), "parts of 32 MiB"
    assert arrived(store, run_id, file, tmp_path)
    assert not store.news


def test_where_the_object_store_is_out_of_reach_it_goes_through_the_server_and_says_so_once(
    store: MlflowStore,
    run_id: str,
    checkpoint: Path,
    s3: S3,
    tmp_path: Path,
    small_parts: None,
    unreachable: str,
) -> None:
    send(store, run_id, checkpoint)
    assert str(s3.etag(run_id)).endswith("-5"), "the server sends parts of 8 MiB"
    assert arrived(store, run_id, checkpoint, tmp_path)
    (news,) = store.news
    assert f"{unreachable} cannot be used from here: no connection" in news
    assert "S3_PUBLIC_ENDPOINT" in news
    assert "Signature" not in news
    assert s3.broken_uploads == 0
    next_job = MlflowStore(store.uri, store.home)
    send(next_job, run_id, checkpoint)
    assert not next_job.news


@pytest.fixture
def unreachable(s3: S3, monkeypatch: pytest.MonkeyPatch) -> str:
    """Put a proxy that is not there before all hosts but the tracking server's."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return f"http://localhost:{s3.relay.port}"


def test_an_upload_that_breaks_leaves_nothing_and_goes_well_the_next_time(
    store: MlflowStore,
    run_id: str,
    checkpoint: Path,
    s3: S3,
    tmp_path: Path,
    small_parts: None,
) -> None:
    send(store, store.create(start_of(new_name())).run_id, checkpoint)
    s3.relay.break_after(33 * MIB)
    with pytest.raises(ServerError, match="an upload broke off"):
        send(store, run_id, checkpoint)
    assert s3.etag(run_id) is None
    assert s3.broken_uploads == 0
    send(store, run_id, checkpoint)
    assert str(s3.etag(run_id)).endswith("-8")
    assert arrived(store, run_id, checkpoint, tmp_path)
    assert not store.news


@dataclass(frozen=True)
class _Refused:
    """The S3 server, where each part is refused: the upload it belongs to is thrown away first."""

    bucket: Any

    def create_multipart_upload(
        self, local_file: str, num_parts: int, artifact_path: str | None
    ) -> Any:
        begun = self.bucket.create_multipart_upload(local_file, num_parts, artifact_path)
        self.abort_multipart_upload(local_file, begun.upload_id, artifact_path)
        return begun

    def complete_multipart_upload(self, *parts: Any) -> None:
        raise AssertionError("there is nothing to complete")

    def abort_multipart_upload(self, *upload: Any) -> None:
        self.bucket.abort_multipart_upload(*upload)


def test_a_refused_part_closes_a_way_that_was_good(
    s3: S3, addresses: None, checkpoint: Path, small_parts: None
) -> None:
    digest = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    event = Event(Kind.ARTIFACT, 0, artifact_path="refused.bin", sha256=digest)
    route, said = Route(), list[str]()
    assert route.send(artifacts(), checkpoint, event, said.append)
    assert not route.send(_Refused(artifacts()), checkpoint, event, said.append)
    assert not route.takes(checkpoint)
    (news,) = said
    assert "it answers 404" in news


def test_an_upload_through_the_server_that_breaks_leaves_nothing(
    uri: str, run_id: str, store: MlflowStore, s3: S3
) -> None:
    from mlflow import MlflowClient

    root = MlflowClient(uri).get_run(run_id).info.artifact_uri.partition("mlflow-artifacts:")[2]
    head = f"PUT /api/2.0/mlflow-artifacts/artifacts{root}/{PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    place = urlsplit(uri)
    with socket.create_connection((str(place.hostname), int(place.port or 0))) as line:
        line.sendall(f"{head}Content-Length: {9 * MIB}\r\n\r\n".encode() + bytes(6 * MIB))
    time.sleep(1)
    assert s3.etag(run_id) is None
    assert store.fetch(run_id, PATH, Path("nowhere")) is None


def test_a_damaged_file_never_appears(
    store: MlflowStore, run_id: str, checkpoint: Path, s3: S3, small_parts: None
) -> None:
    event = Event(Kind.ARTIFACT, 0, artifact_path=PATH, sha256="0" * 64)
    with pytest.raises(ServerRefusedError, match="its sha256 has changed"):
        store.send_artifact(run_id, checkpoint, event)
    assert s3.etag(run_id) is None
    assert s3.broken_uploads == 0


def test_a_small_file_goes_through_the_server_in_one_piece(
    store: MlflowStore, run_id: str, s3: S3, tmp_path: Path
) -> None:
    file = tmp_path / "000008-small"
    file.write_bytes(b"weights")
    send(store, run_id, file)
    assert "-" not in str(s3.etag(run_id))


@pytest.fixture
def addresses(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be the server for one test: leave MLflow's own way of handing out addresses behind."""
    from mlflow.store.artifact import artifact_repository_registry as registry
    from mlflow.store.artifact.s3_artifact_repo import S3ArtifactRepository

    monkeypatch.setenv("MLFLOW_S3_ENDPOINT_URL", f"http://127.0.0.1:{s3.port}")
    yield
    registry._artifact_repository_registry.register("s3", S3ArtifactRepository)


def artifacts() -> Any:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    return get_artifact_repository("s3://mlflow/a")


def test_signed_addresses_name_the_public_host_and_work_there_alone(
    s3: S3, addresses: None, tmp_path: Path
) -> None:
    from mlflow.entities.multipart_upload import MultipartUploadPart

    from mlflow_server.presign import use_public_endpoint

    public = f"http://localhost:{s3.port}"
    use_public_endpoint(public)
    begun = artifacts().create_multipart_upload("public.bin")
    (url,) = [credential.url for credential in begun.credentials]
    assert url.startswith(f"{public}/mlflow/a/public.bin?")
    elsewhere = url.replace("localhost", "127.0.0.1")
    assert requests.put(elsewhere, data=b"weights").status_code == 403
    etag = requests.put(url, data=b"weights").headers["ETag"]
    done = [MultipartUploadPart(part_number=1, etag=etag)]
    artifacts().complete_multipart_upload("public.bin", begun.upload_id, done)
    download = artifacts().get_download_presigned_url("public.bin")
    assert download.url.startswith(f"{public}/")
    assert requests.get(download.url).content == b"weights"


def test_without_a_public_host_only_uploads_get_signed_addresses(
    s3: S3, addresses: None, tmp_path: Path
) -> None:
    from mlflow.store.artifact.artifact_repo import MultipartDownloadMixin, MultipartUploadMixin

    from mlflow_server.presign import use_public_endpoint

    use_public_endpoint("")
    store = artifacts()
    assert isinstance(store, MultipartUploadMixin)
    assert not isinstance(store, MultipartDownloadMixin)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/one.txt").write_text("one")
    store.log_artifact(str(tmp_path / "in/one.txt"), "plain")
    store.log_artifacts(str(tmp_path / "in"), "plain/folder")
    back = Path(store.download_artifacts("plain", str(tmp_path)))
    assert sorted(str(file.relative_to(back)) for file in back.rglob("*.txt")) == [
        "folder/one.txt",
        "one.txt",
    ]
    store.delete_artifacts("plain")
    assert store.list_artifacts("plain") == []
    begun = store.create_multipart_upload("x.bin", 2, "plain")
    assert len(begun.credentials) == 2
    store.abort_multipart_upload("x.bin", begun.upload_id, "plain")
    assert s3.broken_uploads == 0
