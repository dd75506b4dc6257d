"""What a run goes on from when a file of its is damaged, and what is left on disk of runs done."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_courier import a_spool, epoch
from tracked import new_name, start_of

from galaxy_mlflow import schema
from galaxy_mlflow.checkpoints import (
    BEST,
    LAST,
    POINTER,
    CheckpointFolder,
    State,
    random_state,
    restore_random_state,
)
from galaxy_mlflow.home import Home
from galaxy_mlflow.resume import Resumption
from galaxy_mlflow.sinks import Courier
from galaxy_mlflow.spool import Event, Kind, Spool, spools_under
from galaxy_mlflow.tidy import tidy
from galaxy_mlflow.tracking import MlflowStore


def state(number: int, selected: int) -> State:
    model = {"weight": torch.full((64, 3), float(number)), "count": torch.tensor(number)}
    progress = {"selected_epoch": selected}
    return {"epoch": number, "model": model, "identity": {"arm": "a"}, "progress": progress}


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)


class Search:
    """Looks for a state beside a run on a real store that has a checkpoint of epoch 4."""

    def __init__(self, store: MlflowStore, folder: Path, *, cut: int = 0) -> None:
        self.said: list[str] = []
        self.here = CheckpointFolder(folder / "here" / "checkpoints")
        self.there = CheckpointFolder(folder / "there")
        self.there.save_best(state(3, 3))
        self.there.save(state(4, 3))
        last, pointer = self.there.for_server(arrived=True)
        if cut:  # of that many more, the name of the last one arrived alone
            last = Path(shutil.copy(last, folder))
        for number in range(cut):
            self.there.save(state(6 + number, 3))
            pointer = self.there.for_server(arrived=not number)[1]
        files = {POINTER: pointer, LAST: last, BEST: self.there.best(3)}
        with a_spool(folder / "spool", start_of(new_name())) as spool:
            for name, file in files.items():
                spool.add_artifact(file, f"{schema.CHECKPOINTS}/{name}", 1)
            courier = Courier(spool, store)
            courier.deliver()
        assert courier.run is not None
        self.run_id = courier.run.run_id
        self._store = store

    def leave_server(self) -> None:
        self._store = MlflowStore("http://127.0.0.1:9", self._store.home)

    def epoch(self, run_id: str | None = None) -> int | None:
        run_id = self.run_id if run_id is None else run_id
        search = Resumption(self.here, self._store, run_id, True, self.said.append)
        found = search.state(recorded=100)
        assert not (self.here.path.parent / "fetched").exists()
        return int(found["epoch"]) if found is not None else None


@pytest.fixture
def search(store: MlflowStore, tmp_path: Path) -> Search:
    return Search(store, tmp_path)


def test_the_checkpoint_here_is_gone_on_from_and_the_servers_where_there_is_none(
    search: Search,
) -> None:
    assert search.epoch() == 4
    assert search.here.holds_best(3)
    search.here.save_best(state(8, 8))
    search.here.save(state(9, 8))
    assert search.epoch() == 9
    assert search.said == []


@pytest.mark.parametrize("cut", [1, 20])
def test_an_upload_cut_between_a_state_and_its_name_leaves_the_state_before(
    store: MlflowStore, tmp_path: Path, cut: int
) -> None:
    search = Search(store, tmp_path, cut=cut)
    assert search.epoch() == 4
    assert search.said == []


def test_a_damaged_checkpoint_here_is_said_and_the_servers_gone_on_from(search: Search) -> None:
    search.here.save_best(state(8, 8))
    flip(search.here.save(state(9, 8)))
    assert search.epoch() == 4
    assert "damaged: sha256" in search.said[0]
    assert search.here.holds_best(3)


def test_of_two_checkpoints_the_later_is_gone_on_from(search: Search) -> None:
    search.here.save_best(state(2, 2))
    search.here.save(state(2, 2))
    assert search.epoch() == 4
    assert search.here.holds_best(3)
    assert search.said == []


def test_an_earlier_checkpoint_here_will_do_where_the_server_is_away(
    tmp_path: Path, database_home: Home
) -> None:
    search = Search(MlflowStore(database_home.database_uri, database_home), tmp_path)
    search.here.save_best(state(2, 2))
    search.here.save(state(2, 2))
    search.leave_server()
    assert search.epoch() == 2


@pytest.mark.parametrize("content", ["[]", "{", '{"file": 5}'])
def test_a_damaged_name_of_the_last_checkpoint_is_said(search: Search, content: str) -> None:
    search.here.save(state(9, 9))
    (search.here.path / POINTER).write_text(content)
    assert search.epoch() == 4
    assert "cannot be read" in search.said[0]


@pytest.mark.parametrize("content", ["[]", "{", "{}"])
def test_a_damaged_note_of_what_the_server_has_costs_no_run(tmp_path: Path, content: str) -> None:
    folder = CheckpointFolder(tmp_path)
    file = folder.save(state(9, 9))
    (tmp_path / "server.json").write_text(content)
    assert folder.for_server(arrived=False)[0] == file


def test_the_servers_state_is_gone_on_from_with_the_servers_weights(search: Search) -> None:
    other = state(3, 3)  # of an attempt on another kind of machine, which came to other numbers
    other["model"]["weight"] += 0.5
    search.here.save_best(other)
    search.here.save(state(2, 2))
    assert search.epoch() == 4
    assert float(load_file(search.here.best(3))["weight"].mean()) == 3.0


def test_a_run_of_many_gpus_goes_on_where_there_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    restored: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda _, gpu: restored.append(gpu))
    restore_random_state({**random_state(), "cuda": [torch.zeros(16, dtype=torch.uint8)] * 4})
    assert restored == [0]


def test_damaged_selected_weights_are_noticed_and_the_servers_taken(search: Search) -> None:
    search.here.save_best(state(3, 3))
    search.here.save(state(9, 3))
    flip(search.here.best(3))
    assert search.epoch() == 9
    assert search.here.holds_best(3)


def test_damaged_selected_weights_that_nobody_has_mean_an_older_checkpoint_or_the_start(
    search: Search,
) -> None:
    search.here.save_best(state(8, 8))
    search.here.save(state(9, 8))
    flip(search.here.best(8))
    assert search.epoch(run_id="") is None
    assert "the weights of epoch 8, the selected one" in search.said[0]
    assert search.epoch() == 4


def test_selected_weights_are_taken_from_the_state_that_was_kept_for_them(search: Search) -> None:
    search.here.save(state(8, 8))
    search.here.save(state(9, 8), 8)
    assert search.epoch() == 9
    assert search.here.holds_best(8)
    assert search.said == []


def test_a_damaged_state_of_the_selected_epoch_is_said_and_the_servers_weights_taken(
    search: Search,
) -> None:
    search.here.save(state(3, 3))
    search.here.save(state(9, 3), 3)
    flip(search.here.path / "selected-00003.pt")
    assert search.epoch() == 9
    assert "selected-00003.pt: damaged: sha256" in search.said[0]
    assert search.here.holds_best(3)


def test_weights_of_the_last_epoch_are_written_again_from_its_state(search: Search) -> None:
    search.here.save_best(state(9, 9))
    search.here.save(state(9, 9))
    flip(search.here.best(9))
    assert search.epoch() == 9
    assert search.here.holds_best(9)


def test_tidy_discards_records_of_finished_runs_alone_and_none_that_is_held(
    store: MlflowStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    name, home = new_name(), store.home
    moved = home.spool_here / name / "split-004" / "scratch"
    with a_spool(moved, start_of(name)) as spool:
        spool.append(epoch(0))
        Courier(spool, store).deliver()
        spool.append(epoch(1))
    assert tidy(home, store, name) == 0
    with a_spool(tmp_path / "elsewhere", start_of(name)) as spool:
        spool.append(Event(Kind.END, 2000, tags={schema.STATUS: schema.FINISHED}))
        Courier(spool, store).deliver()
    held = Spool(moved)
    held.acquire()
    assert tidy(home, store, name) == 0
    held.release()
    assert tidy(home, store, name) == 1
    assert spools_under(home.spool_here / name) == []


def test_a_spool_that_cannot_be_read_does_not_stop_tidying(
    store: MlflowStore, tmp_path: Path
) -> None:
    home = Home(tmp_path)
    (home.spool_here / "study" / "split-004" / "scratch" / "run.json").mkdir(parents=True)
    assert tidy(home, store, "study") == 0
