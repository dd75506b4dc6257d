"""Fixtures shared by the tests."""

from __future__ import annotations

import os
import signal

import pytest

# Threads that wait for each other must not spin: the tests' machine may have other work to do.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell starts background jobs deaf to Ctrl-C, and they hand that on: tests of Ctrl-C would fail.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = [
    "fixtures_analysis",
    "fixtures_cli",
    "fixtures_postgres",
    "fixtures_predict",
    "fixtures_s3",
    "fixtures_tracking",
]

SLOWEST = ("test_readme", "test_kill", "test_cli", "test_paper_published", "test_report")
"""Files that take minutes: they start first, so that no worker is left with one at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slowest files first, and leave the order within files alone."""
    items.sort(key=lambda item: item.path.stem not in SLOWEST)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in the last lines what this run has not proven."""
    skipped = [str(report.longrepr) for report in terminalreporter.stats.get("skipped", [])]
    without = sum("NVIDIA GPU" in reason for reason in skipped)
    if without:
        terminalreporter.write_line(f"{without} tests did not run: they need an NVIDIA GPU.")
    ignored = terminalreporter.config.getoption("ignore") or ()
    for name in ("servers", "slurm", "compose"):
        if f"tests/{name}" in map(str, ignored):
            terminalreporter.write_line(
                f"The tests of tests/{name} did not run here: make test-{name}"
            )
