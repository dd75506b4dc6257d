"""The machine's load beside a run, where the worker is told to keep it."""

from __future__ import annotations

import sys
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
    for _ in range(2):
        before, deadline = len(history(store, run, LOAD)), time.monotonic() + 60
        with store.watching(run):
            while len(history(store, run, LOAD)) == before:
                assert time.monotonic() < deadline
                time.sleep(0.1)
        steps = [step for step, _, _ in history(store, run, LOAD)]
        assert len(set(steps)) == len(steps), "a second attempt goes on, it does not begin again"


@pytest.fixture
def no_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be a machine without psutil, which only an extra brings."""
    for name in [name for name in sys.modules if name.startswith("mlflow.system_metrics.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "psutil", None)


def test_without_psutil_a_run_goes_on_and_says_so_only_where_the_load_is_asked_for(
    store: MlflowStore, monkeypatch: pytest.MonkeyPatch, no_psutil: None
) -> None:
    trained = []
    with store.watching("any"):
        trained.append("off")
    assert not store.news
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    with store.watching("any"):
        trained.append("on")
    assert trained == ["off", "on"]
    (news,) = store.news
    assert "the machine's load is not logged: ModuleNotFoundError" in news
    assert "psutil" in news


def test_a_setting_that_is_neither_true_nor_false_costs_no_run(
    store: MlflowStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "perhaps")
    with store.watching("any"):
        pass
    assert "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING" in store.news[0]
