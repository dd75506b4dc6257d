"""The head of a Ray cluster is killed while a study trains, and started again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from fixtures_cli import PROGRAM

from chaos.scene import Reference, Scene, wait_for
from mlflow_server.local import free_port

AWAY = 5.0  # seconds that the head stays away


@dataclass
class Head:
    """A Ray cluster of this machine alone, with a token, as an administrator starts it."""

    folder: Path
    port: int

    @property
    def address(self) -> str:
        """Where a command joins."""
        return f"127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What lets a command join."""
        token = self.folder / "token"
        token.write_text("c0ffee" * 8)
        token.chmod(0o600)
        return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}

    def start(self) -> None:
        """Start it, for the first time or again."""
        ray = str(Path(sys.executable).parent / "ray")
        where = ["--head", "--node-ip-address=127.0.0.1", f"--port={self.port}", "--num-cpus=2"]
        small = ["--object-store-memory=80000000", "--include-dashboard=false"]
        own = [f"--temp-dir={self.folder / 'ray'}", "--disable-usage-stats"]
        words = subprocess.run(
            [ray, "start", *where, *small, *own],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=180,
            check=False,
        )
        assert words.returncode == 0, words.stdout.decode()

    def kill(self, name: str = "") -> None:
        """SIGKILL its processes of a name, all of them by default."""
        ours = [process for process in psutil.process_iter() if self._is_ours(process, name)]
        for process in ours:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(ours, timeout=30)

    def _is_ours(self, process: psutil.Process, name: str) -> bool:
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())
            inside = (
                str(self.folder) in words
                or process.environ().get("RAY_AUTH_TOKEN_PATH")
                == (self.environment["RAY_AUTH_TOKEN_PATH"])
            )
            return inside and name in words and PROGRAM not in words
        return False


@pytest.fixture
def head() -> Iterator[Head]:
    """Run a cluster of the test's own."""
    folder = Path(tempfile.mkdtemp(prefix="r-"))  # short: paths of sockets have at most 107 bytes
    head = Head(folder, free_port())
    try:
        head.start()
        yield head
    finally:
        head.kill()
        shutil.rmtree(folder, ignore_errors=True)


def test_a_study_outlives_the_head_of_its_cluster(
    scene: Scene, fault_free: Reference, head: Head
) -> None:
    scene.environment = head.environment
    command = scene.run("--engine", "ray", "--address", head.address, "--splits", "0-1")
    wait_for(lambda: scene.epochs() >= 3 or command.ended(), "3 epochs")
    assert not command.ended(), command.words
    head.kill("gcs_server")
    time.sleep(AWAY)
    _kill_the_rest(head)
    head.start()
    command.succeed()
    scene.assert_undisturbed(fault_free, jobs=4)
    assert len(command.lines(f"{head.address} is gone")) == 1, command.words
    assert len(command.lines(f"{head.address} is back")) == 1, command.words


def _kill_the_rest(head: Head) -> None:
    """Do what a supervisor does before it starts a head again; the command's own stay."""
    for name in ("raylet", "ray::", "/log_monitor.py", "/monitor.py", "agent"):
        head.kill(name)
