"""Fixtures shared by the tests."""

from __future__ import annotations

import os

# Threads that wait for each other must not spin: the tests' machine may have other work to do.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

pytest_plugins = ["fixtures_analysis", "fixtures_tracking"]
