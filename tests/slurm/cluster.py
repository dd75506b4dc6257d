"""A Slurm of one machine: munged, slurmctld and slurmd on loopback, all their files in a folder.

A job of partition `high` takes the node from jobs of `low`: they are requeued.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mlflow_server.local import free_port

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "shellcheck", "unshare")
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
CPUS = 2
CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={controller}
SlurmdPort={daemon}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 State=UP
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF State=UP
"""
"""cred_expire is also how long a requeued job waits before it may start again: else 2 minutes."""


def require_programs() -> None:
    """Fail, and say what to do, where Slurm is not installed: nothing here is skipped unseen."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        pytest.fail(
            f"not installed: {', '.join(missing)}: apt-get install "
            "slurmctld slurmd slurm-client munge shellcheck util-linux"
        )


@dataclass
class Slurm:
    """The three daemons, and what a user does with them."""

    folder: Path
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": PATH, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        (self.folder / "munge.key").write_bytes(os.urandom(128))
        (self.folder / "munge.key").chmod(0o400)
        values = {"host": socket.gethostname().partition(".")[0], "user": getpass.getuser()}
        ports = {"controller": free_port(), "daemon": free_port()}
        text = CONFIGURATION.format(folder=self.folder, cpus=CPUS, **values, **ports)
        (self.folder / "slurm.conf").write_text(text)
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log"}
        munge = [f"--{option}={self.folder}/munge.{end}" for option, end in files.items()]
        munge += [f"--seed-file={self.folder}/munge.seed"]
        self._start("munged", "--foreground", "--force", *munge)
        self.wait_for(lambda: (self.folder / "munge.socket").exists(), "munged starts")
        self._start("slurmctld", "-D")
        self._start("slurmd", "-D")
        self.wait_for(lambda: "idle" in self.ask("sinfo", "--noheader"), "the node is idle")

    def stop(self) -> None:
        """End all jobs, then the daemons: jobs are processes of their own."""
        with suppress(subprocess.CalledProcessError, AssertionError):
            self.ask("scancel", "--user", getpass.getuser())
            self.wait_for(lambda: not self.ask("squeue", "--noheader"), "all jobs have ended")
        for daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(timeout=20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def submit(
        self, folder: Path, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> str:
        """Submit a job from a folder; return its number."""
        command = ["sbatch", "--parsable", *arguments]
        done = subprocess.run(
            command,
            cwd=folder,
            env={**self.environment, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def ask(self, *command: str) -> str:
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=True
        ).stdout

    def states(self, job: str) -> list[dict[str, str]]:
        """Return what Slurm says of a job, or of each job of an array."""
        lines = self.ask("scontrol", "--oneliner", "show", "job", job).splitlines()
        words = [[word.partition("=") for word in line.split()] for line in lines if line]
        return [{key: value for key, _, value in line} for line in words]

    def wait_until_done(self, job: str, timeout: float = 240) -> None:
        """Return when a job, or each job of an array, has ended well."""
        done = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")

        def ended() -> bool:
            return all(state["JobState"] in done for state in self.states(job))

        self.wait_for(ended, f"job {job} ends", timeout)
        found = [(state["JobState"], state["ExitCode"]) for state in self.states(job)]
        assert set(found) == {("COMPLETED", "0:0")}, found

    def wait_for(self, moment: Callable[[], bool], what: str, timeout: float = 60) -> None:
        deadline = time.monotonic() + timeout
        while not moment():
            fallen = [daemon.args for daemon in self.daemons if daemon.poll() is not None]
            assert not fallen, (fallen, self.words())
            assert time.monotonic() < deadline, f"never: {what}\n{self.words()}"
            time.sleep(0.2)

    def words(self) -> str:
        """Return the last words of the daemons."""
        return "\n".join(log.read_text()[-2000:] for log in self.folder.glob("*.out"))

    def _start(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.out").open("wb") as log:
            daemon = subprocess.Popen(
                [shutil.which(name, path=PATH) or name, *arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.daemons.append(daemon)
