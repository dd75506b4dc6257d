"""What a worker's own machine can do to it: a full disk, a clock that jumps, files that rot."""

from __future__ import annotations

import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from chaos.scene import Command, Reference, Scene, wait_for
from chaos.servers import Tracking, fill, small_disk
from galaxy_mlflow.home import Home

HOUR = 3600


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracking]:
    """A server on another disk than the worker's."""
    server = Tracking(tmp_path_factory.mktemp("tracking"))
    server.start()
    yield server
    server.kill()


def reach(scene: Scene, command: Command, epochs: int) -> None:
    """Wait until the spool holds so many epochs."""
    wait_for(lambda: scene.epochs() >= epochs or command.ended(), f"{epochs} epochs")
    assert not command.ended(), command.words


def flip(file: Path) -> None:
    """Change one byte in the middle of a file, and leave its size alone."""
    with file.open("r+b") as handle:
        handle.seek(file.stat().st_size // 2)
        byte = handle.read(1)
        handle.seek(-1, 1)
        handle.write(bytes([byte[0] ^ 255]))


def test_a_full_disk_is_waited_out(
    tracking: Tracking, study: Path, fault_free: Reference, tmp_path: Path
) -> None:
    with (
        small_disk(tmp_path / "small", 64) as disk,
        Scene(study, Home(disk / "home"), tracking.uri) as scene,
    ):
        command = scene.run("--splits", "0")
        reach(scene, command, 2)
        in_the_way = fill(disk)
        wait_for(lambda: "no space left" in command.words or command.ended(), "a word of it")
        assert not command.ended(), command.words
        in_the_way.unlink()
        command.succeed()
        assert 1 <= len(command.lines("no space left")) <= 4, command.words
        database = f"sqlite:///{tracking.home / 'mlflow.db'}"
        scene.assert_undisturbed(fault_free, jobs=2, database=database)


@dataclass
class Clock:
    """A wall clock that is set while processes run by it; other clocks go on as ever."""

    library: Path
    file: Path

    @classmethod
    def make(cls, folder: Path) -> Clock:
        """Compile the library that processes are started with."""
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip(
                "a C compiler makes the clock that jumps (Debian: apt install gcc libc6-dev)"
            )
        clock = cls(folder / "clock.so", folder / "clock")
        words = [compiler, "-shared", "-fPIC", "-O1", "-o", str(clock.library)]
        subprocess.run([*words, str(Path(__file__).with_name("clock.c"))], check=True)
        clock.jump(0)
        return clock

    def jump(self, seconds: int) -> None:
        """Set the clock so far from the true time."""
        with self.file.open("r+b" if self.file.exists() else "wb") as file:
            file.write(struct.pack("q", seconds))

    @property
    def environment(self) -> dict[str, str]:
        """What processes by this clock are started with."""
        return {"LD_PRELOAD": str(self.library), "CHAOS_CLOCK": str(self.file)}


def test_a_clock_that_jumps_changes_nothing(
    scene: Scene, fault_free: Reference, tmp_path: Path
) -> None:
    clock = Clock.make(tmp_path)
    scene.environment = clock.environment
    command = scene.run("--splits", "0", "--jobs", "2")
    for epochs, jump in ((4, HOUR), (10, -HOUR)):
        reach(scene, command, epochs)
        clock.jump(jump)
    command.succeed()
    scene.assert_undisturbed(fault_free, jobs=2)
    hours = {round((when - time.time()) / HOUR) for when in scene.times_of_epochs()}
    assert hours == {-1, 0, 1}, "the clock did not jump"


def test_the_command_is_killed_and_files_are_damaged_before_the_next_call(
    scene: Scene, fault_free: Reference
) -> None:
    both = ("--splits", "0", "--jobs", "2")
    for epochs, damage in ((2, _nothing), (10, _files_here), (12, _checkpoints_everywhere)):
        command = scene.run(*both)
        reach(scene, command, epochs)
        command.kill()
        damage(scene)
        if damage is _checkpoints_everywhere:
            assert len(command.lines("damaged: built again")) == 1, command.words
            assert 1 <= len(command.lines("damaged: sha256")) <= 2, command.words
    last = scene.run(*both)
    last.succeed()
    assert not last.lines("damaged: built again"), last.words
    assert 1 <= len(last.lines("damaged: sha256")) <= 4, last.words
    scene.assert_undisturbed(fault_free, jobs=2)


def _nothing(scene: Scene) -> None:
    """Leave all as the kill left it."""


def _files_here(scene: Scene) -> None:
    """Damage this machine's checkpoints and its decoded images."""
    for file in scene.home.spool.glob("**/checkpoints/epoch-*.pt"):
        flip(file)
    (images,) = scene.home.cache.glob("*/images.npy")
    flip(images)


def _checkpoints_everywhere(scene: Scene) -> None:
    """Damage the checkpoints here and on the server."""
    for file in scene.home.spool.glob("**/checkpoints/epoch-*.pt"):
        flip(file)
    for file in scene.home.artifacts.glob("**/last.pt"):
        flip(file)
