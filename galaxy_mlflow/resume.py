"""Where a run goes on: the last checkpoint that is whole, here or on the server, or the start."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from galaxy_mlflow import schema
from galaxy_mlflow.checkpoints import BEST, CheckpointFolder, State, load_checkpoint
from galaxy_mlflow.courier import state_epoch
from galaxy_mlflow.errors import CheckpointError, ServerError
from galaxy_mlflow.tracking import MlflowStore


@dataclass(frozen=True)
class Resumption:
    """Looks for the state that a run goes on from.

    Attributes
    ----------
    folder : checkpoints on this machine
    run_id : the run on the server; "" while it is not known
    keeps_best : whether the run's end needs the weights of its selected epoch
    say : takes a word for the user
    """

    folder: CheckpointFolder
    store: MlflowStore
    run_id: str
    keeps_best: bool
    say: Callable[[str], None]

    def state(self, recorded: int) -> State | None:
        """Return the latest state to go on from, and have it here; None: from the start.

        Parameters
        ----------
        recorded : the last epoch on record; a later checkpoint is not gone on from

        Raises
        ------
        ServerError
            The server, whose checkpoint is needed, cannot be reached.
        """
        try:
            here = self._here(recorded)
            epoch = int(here["epoch"]) if here is not None else -1
            if here is not None and (epoch == recorded or not self._is_later_there(epoch)):
                return here
            return self._there(recorded, epoch) or here
        finally:
            shutil.rmtree(self._fetched, ignore_errors=True)

    @property
    def _fetched(self) -> Path:
        return self.folder.path.parent / "fetched"

    def _here(self, recorded: int) -> State | None:
        try:
            state = self.folder.load()
        except CheckpointError as error:
            self.say(f"{error}\nGoing on from the server's checkpoint, or from the start.")
            return None
        return state if self._is_whole(state, recorded) else None

    def _is_later_there(self, epoch: int) -> bool:
        """Whether the server has the state of a later epoch: another machine went on meanwhile."""
        try:
            return bool(self.run_id) and state_epoch(self.store, self.run_id) > epoch
        except ServerError:  # what is here will do
            return False

    def _there(self, recorded: int, after: int) -> State | None:
        """Return the server's state, if it is one of a later epoch than `after`."""
        if not self.run_id:
            return None
        try:
            found = self.store.fetch_checkpoint(self.run_id, self._fetched)
            state = load_checkpoint(*found) if found is not None else None
        except CheckpointError as error:
            self.say(f"{error}\nThe server's checkpoint is not gone on from.")
            return None
        if found is None or state is None or int(state["epoch"]) <= after:
            return None
        if not self._is_whole(state, recorded, there=True):
            return None
        self.folder.save(state)  # from now on it is here too
        self.folder.name_on_server(int(state["epoch"]), found[1])
        return state

    def _is_whole(self, state: State | None, recorded: int, *, there: bool = False) -> bool:
        """Whether a state can be gone on from; its selected weights are here then.

        Parameters
        ----------
        there : the state is the server's: on GPUs, weights of that epoch here may be others
        """
        if state is None or int(state["epoch"]) > recorded:
            return False
        selected = int(state["progress"]["selected_epoch"])
        if not self.keeps_best or (there and self._fetch_best(selected)):
            return True
        if self.folder.holds_best(selected):
            return True
        holder = state if selected == int(state["epoch"]) else self._selected_here(selected)
        if holder is not None:
            self.folder.save_best(holder)
            return True
        if self._fetch_best(selected):
            return True
        self.say(
            f"the weights of epoch {selected}, the selected one, are missing or damaged, here and "
            f"on the server: the checkpoint after epoch {state['epoch']} is not gone on from"
        )
        return False

    def _selected_here(self, selected: int) -> State | None:
        """Return the state of the selected epoch, where it was kept and is whole."""
        try:
            return self.folder.load_selected(selected)
        except CheckpointError as error:
            self.say(str(error))
            return None

    def _fetch_best(self, selected: int) -> bool:
        """Take the selected weights from the server, if it has them whole."""
        if not self.run_id:
            return False
        best = self.store.fetch(self.run_id, f"{schema.CHECKPOINTS}/{BEST}", self._fetched)
        return best is not None and self.folder.adopt_best(best, selected)
