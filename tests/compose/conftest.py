"""One real stack for all Compose tests: a clean copy of the project, brought up by `make up`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from compose.stack import NO_ENGINE, Stack, copy_of_the_project, engine_answers, settings


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """The stack, up and smoke-tested; removed with all it holds at the end."""
    folder = copy_of_the_project(tmp_path_factory.mktemp("clone"))
    made = Stack(folder, settings())
    try:
        made.run("make", "up", timeout=1500)
        yield made
    finally:
        made.compose("--profile", "*", "down", "--volumes", "--timeout", "5", check=False)


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
