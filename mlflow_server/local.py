"""A real `mlflow server` on loopback over one SQLite store."""

from __future__ import annotations

import http.client
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from galaxy_mlflow.errors import ServerError
from galaxy_mlflow.processes import ask_to_end_with_parent

_PORTS = range(20_000, 32_000)
START_UP = 120.0
"""Seconds that a first start, which makes the database, may take on a small machine."""


@dataclass(frozen=True)
class LocalServer:
    """What to serve, and where; the server listens on loopback only.

    Attributes
    ----------
    workers : processes that answer, each with some 250 MB; one is enough for one reader
    """

    database_uri: str
    artifacts: Path
    port: int = 5000
    log: Path | None = None
    workers: int = 1

    @property
    def uri(self) -> str:
        """The address of the server."""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        """Return the command that starts it."""
        server = [sys.executable, "-m", "mlflow", "server", "--app-name", "galaxy-mlflow-local"]
        stores = ["--backend-store-uri", self.database_uri]
        stores += ["--default-artifact-root", self.artifacts.as_uri()]
        server += ["--host", "127.0.0.1"]
        return [*server, "--port", str(self.port), "--workers", str(self.workers), *stores]

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server and wait until it answers.

        Raises
        ------
        ServerError
            The port is taken, or the server does not come up.
        """
        if not _is_free(self.port):
            raise ServerError(
                f"port {self.port} on 127.0.0.1 is taken: choose another with --port, "
                "or stop what listens there"
            )
        self.artifacts.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") if self.log is not None else nullcontext() as log:
            process = subprocess.Popen(  # noqa: S603
                self.command(),
                env={**os.environ, **_ENVIRONMENT},
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=ask_to_end_with_parent,
            )
        try:
            self._wait(process)
        except BaseException:
            stop(process)
            raise
        return process

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_UP
        while time.monotonic() < deadline:
            if process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):  # noqa: S310
                    return
            except (OSError, http.client.HTTPException):  # or another program has the port
                time.sleep(0.2)
        words = f"; its words are in {self.log}" if self.log is not None else ""
        raise ServerError(f"the tracking server did not start on {self.uri}{words}")


@contextmanager
def serving(server: LocalServer) -> Iterator[str]:
    """Run a server for the length of a block; yield its address."""
    process = server.start()
    try:
        yield server.uri
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop a server and its workers."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def free_port() -> int:
    """Return a port on loopback that nothing listens on now.

    It is below those that Linux gives to whoever asks for any, and above those of Ray's workers:
    nobody takes it before the server does.

    Raises
    ------
    ServerError
        All that were tried are taken.
    """
    for port in random.SystemRandom().sample(_PORTS, 100):
        if _is_free(port):
            return port
    raise ServerError(f"no free port from {_PORTS.start} to {_PORTS.stop - 1} on 127.0.0.1")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


_ENVIRONMENT = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its runners cost more memory than the server
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
