"""Fixtures shared by the tests."""

from __future__ import annotations

pytest_plugins = ["fixtures_analysis", "fixtures_tracking"]
