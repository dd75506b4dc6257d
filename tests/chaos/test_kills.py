"""Workers are killed, again and again: the study is as if they were not."""

from __future__ import annotations

import random
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field

import psutil
import pytest

from chaos.scene import EPOCHS, SPLITS, Command, Reference, Scene, wait_for

JOBS = 2 * SPLITS
PAUSE = (1.0, 4.0)  # seconds from one kill to the next, at least: an epoch comes between, too
PATIENT = ("--max-failures", "30")


@dataclass
class Killer:
    """Kills processes that train, and notes what that costs."""

    scene: Scene
    command: Command
    rng: random.Random = field(default_factory=lambda: random.Random(20261122))
    kills: int = 0
    again: int = 0  # epochs that were recorded, and have to be trained a second time

    def strike(self) -> None:
        """Kill one of those at work, some time after the next epoch."""
        before = self.scene.recorded()
        wait_for(lambda: self._moved(before), "an epoch between two kills")
        time.sleep(self.rng.uniform(*PAUSE))
        wait_for(lambda: bool(training(self.command)), "a process that trains")
        victim = self.rng.choice(training(self.command))
        victim.kill()
        victim.wait(timeout=10)
        self.kills += 1
        self._count()

    def _moved(self, before: dict[str, int]) -> bool:
        assert not self.command.ended(), f"ended after {self.kills} kills: {self.command.words}"
        return any(epoch > before.get(run, -1) for run, epoch in self.scene.recorded().items())

    def _count(self) -> None:
        """Add up how far the checkpoints are behind the records: a new process starts there.

        Seen while the others train on: one of those may just be between record and checkpoint.
        """
        recorded = self.scene.recorded()
        kept = self.scene.checkpointed()  # later: others may have checkpoints of what came since
        behind = {run: epoch - kept[run] for run, epoch in recorded.items() if run in kept}
        assert max(behind.values(), default=0) <= 1, f"more than one epoch lost: {behind}"
        self.again += any(epochs > 0 for epochs in behind.values())


def training(command: Command) -> list[psutil.Process]:
    """Return the processes that train jobs: not the server, not the engine's own helpers."""
    found = []
    for process in command.under():
        with suppress(psutil.Error):
            words = " ".join(process.cmdline())
            local = "multiprocessing.spawn" in words and process.ppid() == command.process.pid
            if local or (words.startswith("ray::task")):
                found.append(process)
    return found


def say(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Have the test's output hold a number that was asked for."""
    with capsys.disabled():
        sys.stdout.write(f"\n{words}\n")


@pytest.mark.parametrize(("engine", "kills", "splits"), [("local", 4, 4), ("ray", 20, SPLITS)])
def test_a_study_outlives_random_kills_of_its_workers(
    scene: Scene,
    fault_free: Reference,
    engine: str,
    kills: int,
    splits: int,
    capsys: pytest.CaptureFixture[str],
) -> None:
    how = ("--jobs", "2") if engine == "local" else ("--engine", "ray")
    command = scene.run(*how, *PATIENT, "--splits", f"0-{splits - 1}")
    killer = Killer(scene, command)
    while killer.kills < kills:
        killer.strike()
    command.succeed()
    scene.assert_undisturbed(fault_free, jobs=2 * splits)
    told = len(command.lines("trying again"))
    assert told <= killer.kills, command.words
    say(
        f"{engine}: {killer.kills} kills of workers in {2 * splits} jobs x {EPOCHS} epochs; "
        f"epochs recorded and trained again: {killer.again}; told of {told}",
        capsys,
    )
