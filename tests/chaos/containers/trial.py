"""The study, the disks and the faults of the trial by containers."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from pathlib import Path

from compose.cluster import Cluster, Command
from compose.stack import Stack
from compose.watch import epochs_there, progress, wait_for, wait_until_well
from small_study import STUDY

NAME = "battered"
SPLITS, EPOCHS = 200, 40
"""More splits than are begun before the last fault, on the fastest machine."""
TEXT = (
    STUDY.replace("count = 2", f"count = {SPLITS}")
    .replace("epochs = 3", f"epochs = {EPOCHS}")
    .replace("mobilenet_v3_small", "shufflenet_v2_x0_5")
    .replace(
        "[arm.one]",
        "[checkpoints]\nupload_every = 5\n\n[resources]\ncpus = 1\nmemory_gb = 1.0\n\n[arm.one]",
    )
)
WORKERS = 3
CUT = 90.0
"""Seconds that a worker is off the network: longer than its tries to reach the server."""

# In memory, so that nobody needs to be root; they last as long as a container holds them.
DISKS = """\
volumes:
  s3data: {driver_opts: {type: tmpfs, device: tmpfs, o: "size=400m,uid=1000,gid=1000"}}
  home: {driver_opts: {type: tmpfs, device: tmpfs, o: "size=200m,uid=10002,gid=10002"}}

services:
  tracking: {depends_on: {holder: {condition: service_started}}}
  holder:
    image: ${POSTGRES_IMAGE:-postgres:17-trixie}
    entrypoint: ["sleep", "infinity"]
    init: true
    network_mode: none
    volumes: ["s3data:/s3", "home:/home/galaxy"]
"""

# Quotes inside the name, or the shell that runs this would find and kill itself.
KILL_GCS = """
for process in /proc/[0-9]*; do
  words=$(tr '\\0' ' ' <"$process/cmdline") || continue  # it has ended
  case $words in *"/gcs_""server "*) kill -9 "${process#/proc/}" ;; esac
done
"""


@dataclass(frozen=True)
class Trial:
    """A study on three workers, and what may happen to it."""

    stack: Stack

    @property
    def cluster(self) -> Cluster:
        return Cluster(self.stack)

    def train_quietly(self, folder: Path, splits: int) -> None:
        """Train the first splits in a container alone, with nothing in their way."""
        own = ["--env", "MLFLOW_TRACKING_URI=", "--env", f"GALAXY_MLFLOW_HOME={folder}"]
        alone = ["run", "--rm", "--no-deps", *own, "--volume", f"{folder}:{folder}", "worker"]
        self.stack.compose(*alone, "run", *study(splits), "--jobs", "2", timeout=900)

    def start(self, splits: int) -> Command:
        """Call `run` in the head's container, as the user does."""
        return self.cluster.run(*study(splits))

    def progress(self) -> None:
        """Wait until new epochs are on the server."""
        progress(self.stack, NAME, epochs_there(self.stack, NAME))

    def kill_a_worker(self, chosen: random.Random, spared: str) -> None:
        """SIGKILL one of the workers, all its processes at once, and start it again."""
        victim = chosen.choice([name for name in self.cluster.workers() if name != spared])
        self.stack.run("docker", "kill", victim)
        time.sleep(2)
        self.stack.run("docker", "start", victim)

    def kill_server(self, service: str) -> None:
        """SIGKILL a server; the operator starts it again."""
        self.stack.run("docker", "kill", self.stack.container(service))
        time.sleep(2)
        self.stack.run("docker", "start", self.stack.container(service))
        wait_until_well(self.stack, service)

    def kill_the_clusters_memory(self) -> None:
        """SIGKILL the one process of the head that knows the cluster."""
        self.stack.exec("head", "sh", "-c", KILL_GCS)

    def cut(self, container: str) -> None:
        """Take a container off the network."""
        self.stack.run("docker", "network", "disconnect", self._network, container)

    def mend(self, container: str) -> None:
        """Put it on the network again."""
        self.stack.run("docker", "network", "connect", self._network, container)

    def fill(self, folder: str) -> None:
        """Fill one of the disks to its last byte."""
        self.stack.exec("holder", "sh", "-c", f"cat /dev/zero >{folder}/in-the-way || true")

    def free(self, folder: str) -> None:
        """Give the space back."""
        self.stack.exec("holder", "rm", f"{folder}/in-the-way")

    def leftovers(self) -> str:
        """Return what a finished study must not leave: records, drafts, half files."""
        names = ["-path", "*/spool/*", "-o", "-name", ".building-*", "-o", "-name", "*.tmp"]
        find = ["find", "/home/galaxy/store", "-type", "f", "(", *names, ")"]
        return self.stack.exec("holder", *find)

    @property
    def _network(self) -> str:
        return f"{self.stack.environment['COMPOSE_PROJECT_NAME']}_workers"


def study(splits: int) -> list[str]:
    """Return the arguments of the user's command."""
    return [f"experiments/{NAME}.toml", "--threads", "1", "--splits", f"0-{splits - 1}"]


def wait_for_words(command: Command, *parts: str) -> None:
    """Wait until the user has been told something."""
    wait_for(lambda: bool(command.said(*parts)), 180, " ".join(parts))
