"""The stack with a Ray cluster in it: a head, workers that come and go, and a study on them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from compose.stack import Stack
from compose.watch import wait_for

NODES = """
import logging, os, ray
ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level=logging.ERROR)
alive = [node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]]
print("alive", *alive)
"""


@dataclass(frozen=True)
class Command:
    """A command that goes on in a container, and what it has said so far."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def words(self) -> str:
        return self.output.read_text(errors="replace")

    @property
    def is_over(self) -> bool:
        return self.process.poll() is not None

    def said(self, *parts: str) -> list[str]:
        """Return the lines that hold all of these."""
        return [line for line in self.words.splitlines() if all(part in line for part in parts)]

    def succeed(self, seconds: float) -> None:
        """Wait for the end: all went well, and no trace of a program's insides was printed."""
        self.process.wait(timeout=seconds)
        assert self.process.returncode == 0, self.words
        assert "Traceback" not in self.words, self.words


@dataclass(frozen=True)
class Cluster:
    """A running stack, with profile `ray`."""

    stack: Stack

    def scale(self, workers: int) -> None:
        """Have so many workers, and a head; those that are there stay as they are."""
        up = ["up", "--detach", "--no-recreate", "--scale", f"worker={workers}"]
        self.stack.compose("--profile", "ray", *up, timeout=300)

    def remove(self) -> None:
        """Take head and workers away."""
        self.stack.compose("rm", "--stop", "--force", "head", "worker", timeout=300)

    def workers(self, *which: str) -> list[str]:
        """Return the ids of the workers' containers: those that run, or `--all`."""
        listing = ["ps", "--quiet", "--no-trunc", *which, "worker"]
        return sorted(self.stack.compose(*listing).stdout.split())

    def nodes(self) -> set[str]:
        """Return the host names of the cluster's nodes that are alive, the head's left out."""
        said = self.stack.exec("head", "python", "-c", NODES).splitlines()
        (line,) = [line for line in said if line.startswith("alive")]
        head = self.stack.container("head")
        return {name for name in line.split()[1:] if not head.startswith(name)}

    def wait_for_nodes(self, workers: int) -> None:
        """Wait until so many workers have joined."""
        wait_for(lambda: len(self.nodes()) == workers, 400, f"{workers} workers to join")

    def run(self, *arguments: str) -> Command:
        """Call `run --engine ray` in the head's container, as a user would."""
        calls = len(list(self.stack.folder.glob("run-*.out")))
        output = self.stack.folder / f"run-{calls}.out"
        command = ["docker", "compose", "exec", "--no-TTY", "head", "galaxy-mlflow", "run"]
        with output.open("wb") as words:
            process = subprocess.Popen(
                [*command, *arguments, "--engine", "ray"],
                cwd=self.stack.folder,
                env=self.stack.environment,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
            )
        return Command(process, output)
