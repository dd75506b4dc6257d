"""The weights of the selected epoch, whatever epochs came after it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_courier import a_spool
from test_resume import state
from tracked import new_name, start_of

from galaxy_mlflow.checkpoints import CheckpointFolder
from galaxy_mlflow.config import CheckpointSettings
from galaxy_mlflow.keeper import CheckpointKeeper
from galaxy_mlflow.sinks import MlflowSink
from galaxy_mlflow.tracking import MlflowStore


@contextmanager
def a_keeper(store: MlflowStore, home: Path, upload_every: int) -> Iterator[CheckpointKeeper]:
    start = start_of(new_name())
    with a_spool(home / "spool", start) as spool:
        folder = CheckpointFolder(home / "spool" / "checkpoints")
        rules = CheckpointSettings(upload_every=upload_every)
        yield CheckpointKeeper(folder, spool, MlflowSink(spool, store, start), rules)


@pytest.mark.parametrize("selections", [(0, 1, 2), (0, 0, 0), (0, 1, 1, 3, 3, 3, 6), (0, 1, 1)])
def test_the_best_weights_are_those_of_the_selected_epoch(
    store: MlflowStore, tmp_path: Path, selections: tuple[int, ...]
) -> None:
    with a_keeper(store, tmp_path, upload_every=2) as keeper:
        folder = keeper.folder
        for epoch, selected in enumerate(selections):
            keeper.keep(state(epoch, selected))
            keeper.wait()
            # As a kill would leave it: what is here is enough to go on from.
            held = folder.load_selected(selected) or {}
            assert selected == epoch or folder.holds_best(selected) or held["epoch"] == selected
        keeper.upload(epoch, selected)
        keeper.close()
        weights = load_file(folder.best(selected))
        assert int(weights["count"]) == selected
        assert float(weights["weight"].mean()) == selected
        assert len(list(folder.path.glob("best-*"))) == 1


def test_weights_are_written_when_they_are_asked_for_and_not_before(
    store: MlflowStore, tmp_path: Path
) -> None:
    with a_keeper(store, tmp_path, upload_every=9) as keeper:
        for epoch, selected in enumerate([0, 1, 1, 1]):
            keeper.keep(state(epoch, selected))
            keeper.wait()
        assert names(keeper) == {"epoch-00003.pt", "last.json", "selected-00001.pt"}
        keeper.upload(3, 1)
        keeper.keep(state(4, 1))
        keeper.close()
        there = {"best-00001.safetensors", "epoch-00004.pt", "last.json", "server.json"}
        assert names(keeper) == there


def names(keeper: CheckpointKeeper) -> set[str]:
    return {file.name for file in keeper.folder.path.iterdir()}
