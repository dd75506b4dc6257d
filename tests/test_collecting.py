"""The app that serves one person's machine: MLflow's own, with Python's collector held back."""

from __future__ import annotations

import json
import subprocess
import sys

ASKED = """
import gc, json
import mlflow_server.plain as plain
from mlflow.server import fastapi_app
print(json.dumps([gc.get_threshold()[0], gc.get_freeze_count(), plain.app is fastapi_app.app]))
"""


def test_the_local_server_is_mlflows_and_looks_for_garbage_seldom() -> None:
    done = subprocess.run([sys.executable, "-c", ASKED], capture_output=True, text=True, check=True)
    threshold, frozen, is_mlflows = json.loads(done.stdout.splitlines()[-1])
    assert threshold == 100_000
    assert frozen > 100_000
    assert is_mlflows
