"""The machine's load beside a run, where the worker is told to keep it."""

from __future__ import annotations

import time

import pytest
from tracked import history, new_name, start_of

from galaxy_mlflow.tracking import MlflowStore

LOAD = "system/cpu_utilization_percentage"


def test_the_load_is_logged_only_where_it_is_asked_for(
    store: MlflowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.create(start_of(new_name())).run_id
    with store.watching(run):
        time.sleep(0.1)
    assert history(store, run, LOAD) == []
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    for attempt in (1, 2):
        with store.watching(run):
            time.sleep(1.0)
        steps = [step for step, _, _ in history(store, run, LOAD)]
        assert len(steps) >= attempt
        assert len(set(steps)) == len(steps), "a second attempt goes on, it does not begin again"
