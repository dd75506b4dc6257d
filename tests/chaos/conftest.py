"""The study that all faults are tried on, and its record when nothing disturbs it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from small_study import write_images

from chaos.far import ANSWER, Far, far
from chaos.scene import NAME, TEXT, Reference, Scene
from galaxy_mlflow.home import Home


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study file: 40 jobs of 10 small epochs."""
    folder = tmp_path_factory.mktemp("chaos")
    write_images(folder, n=60)
    file = folder / f"{NAME}.toml"
    file.write_text(TEXT)
    return file


@pytest.fixture(scope="session")
def fault_free(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    """The study with nothing in its way."""
    with Scene(study, Home(tmp_path_factory.mktemp("fault-free") / "quiet")) as scene:
        yield Reference(scene)


@pytest.fixture
def scene(study: Path, tmp_path: Path) -> Iterator[Scene]:
    """A machine with a store of its own."""
    with Scene(study, Home(tmp_path / "home")) as scene:
        yield scene


@pytest.fixture(scope="session")
def slow(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    """A study with a server that takes its time."""
    with far(study, tmp_path_factory.mktemp("slow"), ANSWER) as slow:
        yield slow


@pytest.fixture(scope="session")
def cut(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Far]:
    """A study whose network is cut in the middle."""
    with far(study, tmp_path_factory.mktemp("cut")) as cut:
        cut.cut.start()
        yield cut


@pytest.fixture(scope="session", autouse=True)
def started_early(request: pytest.FixtureRequest) -> None:
    """Start first what takes minutes of waiting: other tests run meanwhile."""
    if any("test_network" in item.nodeid for item in request.session.items):
        request.getfixturevalue("slow")
        request.getfixturevalue("cut")
