"""A study on its way, as a user starts it: the command, its words, and the processes under it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from fixtures_cli import PROGRAM
from small_study import STUDY

from chaos.record import (
    Record,
    Source,
    assert_finished,
    assert_undisturbed,
    leftovers,
    read_record,
)
from galaxy_mlflow.home import Home

EPOCHS = 10
SPLITS = 20
NAME = "small"
TEXT = (
    STUDY.replace("count = 2", f"count = {SPLITS}")
    .replace("epochs = 3", f"epochs = {EPOCHS}")
    .replace("mobilenet_v3_small", "shufflenet_v2_x0_5")
    .replace("[arm.one]", "[checkpoints]\nupload_every = 3\n\n[arm.one]")
)
HOLD = 0.05  # seconds between looks
PATIENCE = 900.0  # seconds: a machine that is busy with other work may take ten times as long


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Wait until something is so; fail, and say what it was, when it never comes."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE:.0f} s for {what}"
        time.sleep(HOLD)


@dataclass
class Command:
    """One call of `run`, its output kept in a file."""

    process: subprocess.Popen[bytes]
    output: Path

    @property
    def words(self) -> str:
        """What the user has been told so far."""
        return self.output.read_text(errors="replace")

    def lines(self, *parts: str) -> list[str]:
        """Return the lines of the output that hold all of these."""
        return [line for line in self.words.splitlines() if all(part in line for part in parts)]

    def ended(self) -> bool:
        """Whether it is over."""
        return self.process.poll() is not None

    def kill(self) -> None:
        """SIGKILL, and wait until nothing of it is left."""
        under = self.under()
        self.process.kill()
        self.process.wait()
        psutil.wait_procs(under, timeout=30)

    def under(self) -> list[psutil.Process]:
        """Return all processes below this one."""
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.process.pid).children(recursive=True)
        return []

    def succeed(self) -> None:
        """Wait for the end: all went well, and no trace of a program's insides was printed."""
        self.process.wait(timeout=PATIENCE)
        assert self.process.returncode == 0, self.words
        assert "Traceback" not in self.words, self.words


@dataclass
class Scene:
    """A machine of a user's: one study file, one home, one server."""

    study: Path
    home: Home
    uri: str = ""  # "": the home's own store
    environment: dict[str, str] = field(default_factory=dict)
    commands: list[Command] = field(default_factory=list)

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind that trains on, whatever a test came to."""
        for command in self.commands:
            if not command.ended():
                command.kill()

    def run(self, *arguments: str) -> Command:
        """Call `run`."""
        self.home.path.mkdir(parents=True, exist_ok=True)
        output = self.home.path.parent / f"{self.home.path.name}-{len(self.commands)}.out"
        command = [PROGRAM, "run", str(self.study)]
        with output.open("wb") as words:
            process = subprocess.Popen(
                [*command, "--threads", "1", *arguments],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
            )
        self.commands.append(Command(process, output))
        return self.commands[-1]

    def _environment(self) -> Mapping[str, str]:
        server = {"MLFLOW_TRACKING_URI": self.uri} if self.uri else {}
        own = {"GALAXY_MLFLOW_HOME": str(self.home.path), "COLUMNS": "300", "OMP_NUM_THREADS": "1"}
        return {**os.environ, **own, **server, **self.environment}

    def recorded(self) -> dict[str, int]:
        """Return the last epoch that is in the spool of each run; -1 for none."""
        return {_run(file.parent): _last_epoch(file) for file in self._found("events.jsonl")}

    def checkpointed(self) -> dict[str, int]:
        """Return the epoch of the last checkpoint in the spool of each run."""
        found = {}
        for file in self._found("checkpoints/last.json"):
            with suppress(OSError, ValueError):  # a run that ends takes its spool away
                found[_run(file.parent.parent)] = int(json.loads(file.read_text())["epoch"])
        return found

    def epochs(self) -> int:
        """Return how many epochs the spool holds, all runs together."""
        return sum(epoch + 1 for epoch in self.recorded().values())

    def _found(self, name: str) -> list[Path]:
        with suppress(OSError):
            return list(self.home.spool.glob(f"**/{name}"))
        return []

    def source(self, database: str = "") -> Source:
        """Return where the study's record is; `database` is that of a server."""
        folder = self.home.path.with_name(f"{self.home.path.name}-read")
        if not self.uri:
            return Source.of_home(NAME, self.home, folder)
        return Source(NAME, self.uri, folder, database or None)

    def times_of_epochs(self) -> list[float]:
        """Return when epochs ended, in seconds, as the home's own store has it."""
        query = "select timestamp from metrics where key = 'train_loss'"
        with closing(sqlite3.connect(self.home.database)) as database:
            return [milliseconds / 1000 for (milliseconds,) in database.execute(query)]

    def assert_undisturbed(self, reference: Reference, *, jobs: int, database: str = "") -> None:
        """The study is on the server as if nothing had happened, and left nothing here."""
        found = assert_undisturbed(self.source(database), reference.first(jobs), EPOCHS)
        assert len(found.runs) == jobs
        assert leftovers(self.home) == []


@dataclass
class Reference:
    """The study with nothing in its way; trained as far as it is asked for."""

    scene: Scene
    record: Record | None = None

    def first(self, jobs: int) -> Record:
        """Return the record of the first so many jobs, in order of split."""
        if self.record is None or len(self.record.runs) < jobs:
            splits = f"0-{(jobs + 1) // 2 - 1}"
            self.scene.run("--jobs", "2", "--splits", splits).succeed()
            self.record = read_record(self.scene.source())
            assert_finished(self.record)
        return self.record.first(jobs)


def _run(spool: Path) -> str:
    return f"{spool.parent.name}/{spool.name}"


def _last_epoch(file: Path) -> int:
    """Return the last epoch in a spool, which may vanish or be in the middle of a line."""
    last = -1
    with suppress(OSError):
        for line in file.read_bytes().splitlines():
            with suppress(ValueError):
                event = json.loads(line)
                last = max(last, int(event["epoch"])) if event["kind"] == "epoch" else last
    return last
