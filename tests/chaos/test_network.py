"""A network that is cut for minutes, and a server that takes ten seconds for every answer."""

from __future__ import annotations

import sys

import pytest

from chaos.far import ANSWER, Far
from chaos.scene import EPOCHS, NAME, Reference
from galaxy_mlflow import schema


def test_a_network_that_is_cut_costs_nothing(cut: Far, fault_free: Reference) -> None:
    cut.cut.join()
    cut.arrive(fault_free)
    gone = ("the tracking server cannot be used", "the server has not taken all records yet")
    told = [line for words in gone for line in cut.command.lines(words)]
    assert 1 <= len(told) <= 2, cut.command.words
    assert len(cut.command.lines("the server is back")) <= 1


def test_a_slow_server_slows_only_start_and_end(
    slow: Far, fault_free: Reference, capsys: pytest.CaptureFixture[str]
) -> None:
    slow.arrive(fault_free)
    assert len(slow.command.lines("cannot be used")) <= 1, slow.command.words
    with capsys.disabled():
        words = f"\nanswers of {ANSWER:.0f} s: {EPOCHS} epochs in {_seconds(slow):.0f} s\n"
        sys.stdout.write(words)


def _seconds(far: Far) -> float:
    """Return the seconds from the end of the first epoch to that of the last one."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=far.tracking.uri)
    experiment = client.get_experiment_by_name(NAME)
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    ends = [m.timestamp for m in client.get_metric_history(run.info.run_id, schema.TRAIN_LOSS)]
    return (max(ends) - min(ends)) / 1000
