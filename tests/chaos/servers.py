"""Real servers that can be killed without a word, and started again where they were."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest
from postgres_cluster import SETTINGS, Cluster

from mlflow_server.local import LocalServer, free_port

KEYS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "a-secret-for-tests"}
BUCKET = "mlflow"


def end(process: psutil.Process) -> None:
    """SIGKILL a process and all below it, and wait until they are gone."""
    family = [process, *process.children(recursive=True)]
    for member in family:
        with suppress(psutil.NoSuchProcess):
            member.kill()
    psutil.wait_procs(family, timeout=30)


@dataclass
class Tracking:
    """An MLflow server; `bucket` where artifacts go to S3 through it."""

    home: Path
    database: str = ""
    bucket: str = ""
    server: LocalServer = field(init=False)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        database = self.database or f"sqlite:///{self.home / 'mlflow.db'}"
        kind = _BeforeS3 if self.bucket else LocalServer
        self.home.mkdir(parents=True, exist_ok=True)
        log = self.home / "server.log"
        self.server = kind(database, self.home / "artifacts", free_port(), log)

    @property
    def uri(self) -> str:
        """Its address."""
        return self.server.uri

    def start(self) -> None:
        """Start it, for the first time or again."""
        self.process = self.server.start()

    def kill(self) -> None:
        """SIGKILL the server and its workers."""
        if self.process is not None:
            end(psutil.Process(self.process.pid))
            self.process.wait()
            self.process = None


class _BeforeS3(LocalServer):
    """A server that takes artifacts and hands them on."""

    def command(self) -> list[str]:
        kept = super().command()
        kept[kept.index("--default-artifact-root") :] = [
            "--artifacts-destination",
            f"s3://{BUCKET}/a",
        ]
        return kept


@dataclass
class ObjectStore:
    """A real S3 server over a folder."""

    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, for the first time or again, and wait until it answers."""
        program = [str(Path(sys.executable).parent / "nanio"), "serve", "--no-access-log"]
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--data-dir", str(self.folder)]
        keys = dict(zip(("NANIO_ACCESS_KEY", "NANIO_SECRET_KEY"), KEYS.values(), strict=True))
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(
            [*program, *where], env={**os.environ, **keys}, stdout=quiet, stderr=quiet
        )
        _make_bucket(self.endpoint)

    def kill(self) -> None:
        """SIGKILL it."""
        if self.process is not None:
            end(psutil.Process(self.process.pid))
            self.process.wait()
            self.process = None


def _make_bucket(endpoint: str) -> None:
    import boto3
    from botocore.exceptions import EndpointConnectionError

    keys = {name.lower(): value for name, value in KEYS.items()}
    client: Any = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", **keys)
    for _ in range(300):
        try:
            client.create_bucket(Bucket=BUCKET)
            return
        except EndpointConnectionError:
            time.sleep(0.1)
        except client.exceptions.BucketAlreadyOwnedByYou:
            return
        except client.exceptions.BucketAlreadyExists:
            return
    pytest.fail("the S3 server does not start")


class Database(Cluster):
    """PostgreSQL that can lose its power."""

    def kill(self) -> None:
        """SIGKILL all of its processes."""
        first, *_ = (self.folder / "data" / "postmaster.pid").read_text().splitlines()
        end(psutil.Process(int(first)))

    def again(self) -> None:
        """Start it where it was, which has it recover from its log."""
        log = str(self.folder / "log")
        self.run("pg_ctl", "-w", "-l", log, "-o", f"-p {self.port} {SETTINGS}", "start")

    @property
    def uri(self) -> str:
        """Its address for MLflow."""
        return self.url.replace("postgresql:", "postgresql+psycopg2:")


@contextmanager
def database() -> Iterator[Database]:
    """Run a PostgreSQL of the test's own."""
    folder = Path(tempfile.mkdtemp(prefix="galaxy-chaos-postgres-"))
    cluster = Database(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        with suppress(OSError, psutil.NoSuchProcess):
            cluster.kill()
        shutil.rmtree(folder)


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """Mount a disk of so many megabytes at a folder."""
    if os.geteuid() != 0:
        pytest.skip("a small disk is mounted, which root may do")
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("a small disk is mounted, and this machine does not let it be")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Fill a disk to its last byte; return the file to be removed."""
    file = folder / "in-the-way"
    with file.open("wb", buffering=0) as handle, suppress(OSError):
        while handle.write(bytes(4096)):
            pass
    return file
