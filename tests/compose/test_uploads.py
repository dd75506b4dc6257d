"""Large checkpoints on the running stack: from a worker inside, and from machines outside.

How a file came is read off its ETag: a worker sends parts of 32 MiB, the tracking server 8 MiB.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from compose.stack import Stack
from mlflow_server.local import free_port

DIRECT, THROUGH_THE_SERVER = "-2", "-8"
SEND = """
import hashlib, json, os, sys, tempfile
from pathlib import Path
from galaxy_mlflow import uploads
from galaxy_mlflow.home import Home
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.spool import Event, Kind, RunStart
from galaxy_mlflow.tracking import MlflowStore, default_tracking_uri

uploads._TO_ANSWER = 15.0  # a machine with other work to do: which way is taken is what is asked
secret = Path("/run/secrets/worker_password")
if secret.is_file():
    os.environ["MLFLOW_TRACKING_PASSWORD"] = secret.read_text().strip()
with tempfile.TemporaryDirectory() as name:
    folder = Path(name)
    store = MlflowStore(default_tracking_uri(), Home(folder))
    job = JobId("uploads", 0, os.urandom(4).hex())
    run_id = store.create(RunStart(job, job.tags(), {})).run_id
    file, path = folder / "file", "checkpoints/last.bin"
    file.write_bytes(os.urandom(60 * 2**20))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    for _ in range(2):
        event = Event(Kind.ARTIFACT, 0, artifact_path=path, sha256=digest)
        store.send_artifact(run_id, file, event)
    back = store.fetch(run_id, path, folder / "back")
    whole = hashlib.sha256(back.read_bytes()).hexdigest() == digest
print(json.dumps({"run": run_id, "whole": whole, "news": list(store.news)}))
"""
ETAGS = """
import json
from mlflow_server.objects import s3_client
from mlflow_server.settings import Settings
settings = Settings.here()
client = s3_client(settings)
pages = client.get_paginator("list_objects_v2").paginate(Bucket=settings.bucket)
found = {item["Key"]: item["ETag"] for page in pages for item in page.get("Contents", ())}
uploads = client.list_multipart_uploads(Bucket=settings.bucket).get("Uploads", [])
print(json.dumps({"etags": found, "begun": [item["Key"] for item in uploads]}))
"""


@dataclass(frozen=True)
class Sent:
    """A checkpoint that was sent twice, and what was said meanwhile."""

    run: str
    whole: bool
    news: list[str]


def sent(words: str) -> Sent:
    return Sent(**json.loads(words.splitlines()[-1]))


def sent_from_here(stack: Stack) -> Sent:
    return sent(stack.run(sys.executable, "-c", SEND, **stack.environ(stack.worker)))


def way(stack: Stack, run: str) -> str:
    """Return how a run's checkpoint came: the end of its ETag."""
    stored = json.loads(stack.exec("tracking", "python", "-c", ETAGS))
    (tag,) = [tag for key, tag in stored["etags"].items() if f"/{run}/" in key]
    assert not [key for key in stored["begun"] if f"/{run}/" in key], "an upload was left open"
    return "-" + str(tag).strip('"').rpartition("-")[2]


def test_a_worker_inside_sends_it_straight_to_the_object_store(with_worker: Stack) -> None:
    stack = with_worker
    options = ["--rm", "--no-TTY", "--no-deps", "--entrypoint", "python"]
    done = sent(stack.compose("run", *options, "worker", "-c", SEND).stdout)
    assert done.whole
    assert done.news == []
    assert way(stack, done.run) == DIRECT


def test_from_outside_it_goes_through_the_server_and_that_is_said_once(stack: Stack) -> None:
    done = sent_from_here(stack)
    assert done.whole
    (news,) = done.news
    assert "http://s3:8333 cannot be used from here: no connection" in news
    assert way(stack, done.run) == THROUGH_THE_SERVER


@pytest.fixture
def remote(stack: Stack) -> Iterator[Stack]:
    """The stack as docker-compose.remote.yml makes it; afterwards as it was."""
    port = str(free_port())
    more = {
        "COMPOSE_FILE": "docker-compose.yml:docker-compose.remote.yml",
        "S3_PORT": port,
        "S3_PUBLIC_ENDPOINT": f"http://127.0.0.1:{port}",
    }
    changed = replace(stack, environment={**stack.environment, **more})
    changed.compose("up", "--detach", "--wait", "s3", "tracking", timeout=300)
    yield changed
    stack.compose("up", "--detach", "--wait", "s3", "tracking", timeout=300)


def test_with_a_public_address_it_goes_straight_from_outside_too(remote: Stack) -> None:
    done = sent_from_here(remote)
    assert done.whole
    assert done.news == []
    assert way(remote, done.run) == DIRECT
