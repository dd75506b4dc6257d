"""A real S3 server for the length of the tests, on loopback."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_server.local import free_port
from mlflow_server.objects import Objects
from mlflow_server.settings import Settings

ACCESS_KEY, SECRET_KEY = "tester", "s3cret-of-the-tests"


def _wait(address: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(address, timeout=2)
        except urllib.error.HTTPError:
            return  # unsigned requests are refused, and a refusal is an answer
        except OSError:
            time.sleep(0.1)
    pytest.fail("the S3 server does not start")


@pytest.fixture(scope="session")
def s3_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a container of the tracking server, whose S3 server runs."""
    folder, port = tmp_path_factory.mktemp("s3"), free_port()
    keys = {"tracking_s3_access_key": ACCESS_KEY, "tracking_s3_secret_key": SECRET_KEY}
    for name, value in keys.items():
        (folder / name).write_text(f"{value}\n")
    command = [str(Path(sys.executable).with_name("nanio")), "serve", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--data-dir", str(folder / "data"), "--no-access-log"]
    account = {"NANIO_ACCESS_KEY": ACCESS_KEY, "NANIO_SECRET_KEY": SECRET_KEY}
    process = subprocess.Popen(
        command,
        env={**os.environ, **account},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(f"http://127.0.0.1:{port}/")
        yield Settings({"S3_ENDPOINT": f"http://127.0.0.1:{port}"}, folder)
    finally:
        process.terminate()
        process.wait()


@pytest.fixture
def bucket(s3_settings: Settings, request: pytest.FixtureRequest) -> Objects:
    """A bucket of the test's own, empty."""
    name = f"test-{abs(hash(request.node.name)) % 10**10}"
    settings = Settings({**s3_settings.environment, "S3_BUCKET": name}, s3_settings.secrets)
    objects = Objects.of(settings)
    objects.client.create_bucket(Bucket=name)
    return objects
