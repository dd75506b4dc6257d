"""MLflow, PostgreSQL and S3 are killed, or out of disk, while a study trains."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from chaos.scene import Command, Reference, Scene, wait_for
from chaos.servers import KEYS, Database, ObjectStore, Tracking, database, fill, small_disk

JOBS = 20
AWAY = 4.0  # seconds that a server stays away: it may be back before anybody has to be told
FAULTS = 4
FAILS = "the tracking server cannot be used: it fails (5"


@dataclass
class Stack:
    """The three servers of a group's stack."""

    tracking: Tracking
    database: Database
    objects: ObjectStore
    disk: Path  # of the S3 server


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Run all three, S3 on a disk of its own."""
    folder = tmp_path_factory.mktemp("stack")
    with small_disk(folder / "disk", 256) as disk, database() as db:
        objects = ObjectStore(disk / "objects")
        tracking = Tracking(folder / "tracking", db.uri, bucket="s3")
        with pytest.MonkeyPatch.context() as patch:
            here = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL_S3": objects.endpoint}
            for name, value in {**KEYS, **here}.items():
                patch.setenv(name, value)
            try:
                objects.start()
                tracking.start()
                yield Stack(tracking, db, objects, disk)
            finally:
                tracking.kill()
                objects.kill()


def trains_on(scene: Scene, command: Command) -> None:
    """Wait until an epoch is recorded that was not there before."""
    before = scene.recorded()

    def has_trained() -> bool:
        return any(epoch > before.get(run, -1) for run, epoch in scene.recorded().items())

    wait_for(lambda: command.ended() or has_trained(), "an epoch more")
    assert not command.ended(), command.words


def test_a_study_outlives_its_servers(stack: Stack, scene: Scene, fault_free: Reference) -> None:
    scene.uri = stack.tracking.uri
    command = scene.run("--jobs", "2", "--splits", f"0-{JOBS // 2 - 1}")
    wait_for(lambda: scene.epochs() > 0 or command.ended(), "the first epoch")
    for server in ("tracking", "database", "objects"):
        trains_on(scene, command)
        _kill_and_start(stack, server)
    trains_on(scene, command)
    in_the_way = fill(stack.disk)
    wait_for(lambda: bool(command.lines(FAILS)) or command.ended(), "a word of the full disk")
    in_the_way.unlink()
    command.succeed()
    scene.assert_undisturbed(fault_free, jobs=JOBS, database=stack.database.uri)
    told = command.lines("the tracking server cannot be used")
    assert 1 <= len(told) <= FAULTS + 1, command.words  # one more by a run that waits for its end
    assert len(command.lines("the server is back")) <= len(told)


def _kill_and_start(stack: Stack, server: str) -> None:
    if server == "database":
        stack.database.kill()
        time.sleep(AWAY)
        stack.database.again()
        return
    process = stack.tracking if server == "tracking" else stack.objects
    process.kill()
    time.sleep(AWAY)
    process.start()
