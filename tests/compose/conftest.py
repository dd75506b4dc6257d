"""One real stack for all Compose tests: a clean copy of the project, brought up by `make up`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from compose.stack import NO_ENGINE, Stack, copy_of_the_project, engine_answers, settings


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Stack:
    """A clean copy of the project, with nothing running yet."""
    return Stack(copy_of_the_project(tmp_path_factory.mktemp("clone")), settings())


@pytest.fixture(scope="session")
def worker_build(clone: Stack) -> Iterator[subprocess.Popen[bytes]]:
    """The building of the worker's image, which goes on while other tests run."""
    log = clone.folder.parent / "worker-build.log"
    command = ["docker", "compose", "build", "worker"]
    with log.open("wb") as words:
        build = subprocess.Popen(
            command, cwd=clone.folder, env=clone.environment, stdout=words, stderr=words
        )
    yield build
    build.kill()


@pytest.fixture(scope="session")
def stack(clone: Stack, worker_build: subprocess.Popen[bytes]) -> Iterator[Stack]:
    """The stack, up and smoke-tested; removed with all it holds at the end."""
    del worker_build
    try:
        clone.run("make", "up", timeout=1500)
        yield clone
    finally:
        clone.compose("--profile", "*", "down", "--volumes", "--timeout", "5", check=False)


@pytest.fixture(scope="session")
def with_worker(stack: Stack, worker_build: subprocess.Popen[bytes]) -> Stack:
    """The stack, and the worker's image built."""
    words = stack.folder.parent / "worker-build.log"
    assert worker_build.wait(timeout=1500) == 0, words.read_text()[-4000:]
    return stack


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything here; where there is no engine, skip it with one clear reason."""
    reason = None if engine_answers() else pytest.mark.skip(reason=NO_ENGINE)
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.compose)
            if reason is not None:
                item.add_marker(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say aloud that nothing was proven."""
    skipped = terminalreporter.stats.get("skipped", [])
    if any(NO_ENGINE in str(report.longrepr) for report in skipped):
        terminalreporter.write_line(f"The Compose tests did NOT run: {NO_ENGINE}.", red=True)
