"""A study whose server is far away: slow to answer, or out of reach for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from relay import Relay

from chaos.scene import Command, Reference, Scene, wait_for
from chaos.servers import Tracking
from galaxy_mlflow.home import Home

ANSWER = 10.0
"""Seconds that each answer of the slow server takes."""
CUT = 140.0
"""Seconds without a network: longer than the client's three tries of 30 s and their pauses."""
ONE_JOB = ("--splits", "0", "--arms", "one")


@dataclass
class Far:
    """One job, with a relay between it and its server."""

    scene: Scene
    command: Command
    relay: Relay
    tracking: Tracking
    cut: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self.cut = threading.Thread(target=self._cut, daemon=True)

    def arrive(self, fault_free: Reference) -> None:
        """Wait for the end, and read the record past the relay."""
        self.command.succeed()
        self.scene.uri = self.tracking.uri
        database = f"sqlite:///{self.tracking.home / 'mlflow.db'}"
        self.scene.assert_undisturbed(fault_free, jobs=1, database=database)

    def _cut(self) -> None:
        """Cut the network once the study trains, and mend it later."""
        wait_for(lambda: self.scene.epochs() >= 2 or self.command.ended(), "2 epochs")
        self.relay.unplug()
        time.sleep(CUT)
        self.relay.plug_in()


@contextmanager
def far(study: Path, folder: Path, delay: float = 0.0) -> Iterator[Far]:
    """Start a study with its own server behind a relay."""
    tracking = Tracking(folder / "tracking")
    tracking.start()
    relay = Relay(tracking.server.port, delay)
    uri = f"http://127.0.0.1:{relay.port}"
    try:
        with Scene(study, Home(folder / "home"), uri) as scene:
            yield Far(scene, scene.run(*ONE_JOB), relay, tracking)
    finally:
        relay.close()
        tracking.kill()
