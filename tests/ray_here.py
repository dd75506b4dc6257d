"""Real Ray clusters for tests: heads and machines as processes, on loopback, with a token."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from galaxy_mlflow.config import Study
from galaxy_mlflow.home import Home
from galaxy_mlflow.ray_parcel import RaySetting
from mlflow_server.local import free_port

RAY = str(Path(sys.executable).with_name("ray"))
LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
STORE = "--object-store-memory=80000000"


def setting_of(study: Study, data_hash: str, home: Home, *, uri: str) -> RaySetting:
    """Return what the Ray engine is told of a study: on the CPU, into a home's own store."""
    return RaySetting(
        study=study,
        data_hash=data_hash,
        weights=dict.fromkeys(study.arm),
        device="cpu",
        threads=1,
        skip_bad=False,
        home=home,
        uri=uri,
        own_store=True,
        address=None,
        session=secrets.token_hex(4),
    )


@dataclass
class RayHere:
    """A cluster of several nodes on this machine; each is killed as a whole."""

    folder: Path
    port: int = field(default_factory=free_port)
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.token = self.folder / "token"
        self.token.write_text(secrets.token_hex(16))
        self.short = Path(tempfile.mkdtemp(prefix="rt-"))  # paths of sockets are short

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token),
            LOOPBACK: "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
            "OMP_NUM_THREADS": "1",
        }

    def head(self, cpus: int, **also: str) -> subprocess.Popen[bytes]:
        folder = tempfile.mkdtemp(dir=self.short, prefix="")
        # Those that join ask for the head by this machine's other address: Ray's own choice.
        process = self._start(
            ["--head", f"--port={self.port}", "--include-dashboard=false", f"--temp-dir={folder}"],
            cpus,
            **{LOOPBACK: "1"},
            **also,
        )
        self._wait_for_port(process)
        return process

    def join(self, cpus: int, **also: str) -> subprocess.Popen[bytes]:
        # Ray takes the setting that keeps it on loopback for a system where none may join.
        return self._start([f"--address={self.address}"], cpus, **{LOOPBACK: "1"}, **also)

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """Kill all processes of a node at once."""
        self.nodes.remove(node)
        with suppress(psutil.NoSuchProcess):
            for process in psutil.Process(node.pid).children(recursive=True):
                process.kill()
        with suppress(ProcessLookupError):
            os.killpg(node.pid, signal.SIGKILL)
        node.wait()

    def stop(self) -> None:
        for node in list(self.nodes):
            self.kill(node)

    def _start(self, how: Sequence[str], cpus: int, **also: str) -> subprocess.Popen[bytes]:
        command = [RAY, "start", "--block", "--node-ip-address=127.0.0.1", f"--num-cpus={cpus}"]
        with (self.folder / "ray-start.log").open("ab") as log:
            process = subprocess.Popen(
                [*command, STORE, *how],
                env={**os.environ, **self.environment, **also},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
            )
        self.nodes.append(process)
        return process

    def _wait_for_port(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            assert process.poll() is None, (self.folder / "ray-start.log").read_text()
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            time.sleep(0.2)
        raise AssertionError("the head of the Ray cluster does not start")


def training_processes(driver: int) -> list[psutil.Process]:
    """Return the processes that train for a cluster which a process has started."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.Error):
            if process.cmdline()[:1] == ["ray::task"]:
                found.append(process)
    return found
