"""Fixtures shared by the tests."""

from __future__ import annotations

import os
import signal

# Threads that wait for each other must not spin: the tests' machine may have other work to do.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A shell starts background jobs deaf to Ctrl-C, and they hand that on: tests of Ctrl-C would fail.
signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["fixtures_analysis", "fixtures_cli", "fixtures_postgres", "fixtures_tracking"]
