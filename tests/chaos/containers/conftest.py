"""A stack of its own, on disks so small that they can be filled, with a Ray cluster in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from compose.stack import NO_ENGINE, Stack, copy_of_the_project, engine_answers, settings
from small_study import write_images

from chaos.containers.trial import DISKS, NAME, TEXT, Trial
from mlflow_server.local import free_port


@pytest.fixture(scope="session")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    """The stack, up and smoke-tested; removed with all it holds at the end."""
    studies = tmp_path_factory.mktemp("studies")
    studies.chmod(0o755)
    write_images(studies, n=60)
    (studies / f"{NAME}.toml").write_text(TEXT)
    folder = copy_of_the_project(tmp_path_factory.mktemp("clone"))
    (folder / "disks.yml").write_text(DISKS)
    own = {
        "COMPOSE_PROJECT_NAME": "galaxy-mlflow-chaos",
        "COMPOSE_FILE": "docker-compose.yml:disks.yml",
        "STUDIES_DIR": str(studies),
        "RAY_CPUS": "1",
        "RAY_DASHBOARD_PORT": str(free_port()),
        "OMP_NUM_THREADS": "1",
    }
    stack = Stack(folder, {**settings(), **own})
    try:
        stack.run("make", "up", timeout=1500)
        stack.compose("build", "worker", timeout=1500)
        yield Trial(stack)
    finally:
        stack.compose("--profile", "*", "down", "--volumes", "--timeout", "5", check=False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where there is no engine, skip what is here with one clear reason."""
    if not engine_answers():
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason=NO_ENGINE))
