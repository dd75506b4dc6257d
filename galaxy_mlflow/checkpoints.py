"""Checkpoints: atomic, verified, and enough to go on as if nothing had happened."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from galaxy_mlflow import schema
from galaxy_mlflow.errors import CheckpointError
from galaxy_mlflow.files import link_or_copy, sha256_of, write_atomically, write_bytes, write_json

State = dict[str, Any]
POINTER = "last.json"
LAST = "last.pt"
BEST = schema.BEST_WEIGHTS.rpartition("/")[2]
"""Name of the best weights on the server."""
_SELECTED = "selected"
_SHARED = "server.json"
_BEFORE = 9
"""States before the last one whose checksums are kept in any case: an upload may be passed over."""


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one run on this machine.

    A new checkpoint gets a new file; then the pointer `last.json` (file, epoch, sha256) is put in
    its place in one step; then older files go. Whenever the process is killed, the pointer names
    a whole file. The state of the selected epoch stays until its weights are in a file of their
    own: many an epoch is the best for a while, and writing its weights takes as long as training.
    """

    path: Path

    def save(self, state: State, selected: int | None = None) -> Path:
        """Write the state after `state["epoch"]` and make it the last; return its file.

        Parameters
        ----------
        selected : the epoch whose state is to stay as well, where its weights are in no other file
        """
        epoch = int(state["epoch"])
        file = self.path / f"epoch-{epoch:05d}.pt"
        held = self._hold(selected) if selected not in (None, epoch) else {}
        write_atomically(file, lambda draft: _save_state(state, draft))
        pointer = {"file": file.name, "epoch": epoch, "sha256": sha256_of(file)}
        write_json(self.path / POINTER, {**pointer, **({_SELECTED: held} if held else {})})
        needed = {file.name, held.get("file")}
        for old in [*self.path.glob("epoch-*"), *self.path.glob(f"{_SELECTED}-*")]:
            if old.name not in needed:  # a state, or weights that a kill left behind
                old.unlink()
        return file

    def _hold(self, selected: int) -> dict[str, Any]:
        """Give the state of the selected epoch a name that outlives it as the last; return both."""
        if self._weights_of(selected).is_file():
            return {}
        last = self._named()
        if last.get("epoch") != selected:
            held: dict[str, Any] = last.get(_SELECTED, {})
            return held if held.get("epoch") == selected else {}
        name = f"{_SELECTED}-{selected:05d}.pt"
        link_or_copy(self.path / last["file"], self.path / name)
        return {"file": name, "epoch": selected, "sha256": last["sha256"]}

    def for_server(self, *, arrived: bool) -> tuple[Path, Path]:
        """Return the last state and what names it on the server.

        States have one name there. What names it also knows the states before, so that an upload
        which is cut between the two leaves a state that can be gone on from.

        Parameters
        ----------
        arrived : whether the state named before is on the server; else it may be any before it
        """
        last = json.loads((self.path / POINTER).read_text())
        before = self._meant_for_server()
        self.name_on_server(last["epoch"], last["sha256"], before[: _BEFORE if arrived else None])
        return self.path / last["file"], self.path / _SHARED

    def name_on_server(self, epoch: int, sha256: str, before: Sequence[str] = ()) -> None:
        """Note what the server has, or is to have, as the last state."""
        named = {"file": LAST, "epoch": epoch, "sha256": sha256, "before": list(before)}
        write_json(self.path / _SHARED, named)

    def _meant_for_server(self) -> list[str]:
        """Return the checksums of states named before, the last one first; none if damaged."""
        try:
            named = json.loads((self.path / _SHARED).read_text())
            return [str(named["sha256"]), *map(str, named.get("before", []))]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def save_weights(self, state: State, name: str) -> Path:
        """Write only the weights of a state, as safetensors with their digest; return the file."""
        file = self.path / name
        tensors = {key: value.cpu().contiguous() for key, value in state["model"].items()}
        metadata = {"epoch": str(state["epoch"]), "digest": _digest(tensors), **state["identity"]}
        write_bytes(file, save(tensors, metadata=metadata))
        return file

    def save_best(self, state: State) -> None:
        """Write the weights of an epoch that is the best so far, beside the best before it."""
        self.save_weights(state, self._weights_of(int(state["epoch"])).name)

    def holds_best(self, epoch: int) -> bool:
        """Whether the best weights here are those of this epoch, and whole."""
        return _is_whole(self._weights_of(epoch), epoch)

    def best(self, epoch: int) -> Path:
        """Return the file of the weights of the best epoch; those of other epochs go."""
        kept = self._weights_of(epoch)
        for old in self.path.glob("best-*.safetensors"):
            if old != kept:
                old.unlink()
        return kept

    def _weights_of(self, epoch: int) -> Path:
        return self.path / f"best-{epoch:05d}.safetensors"

    def adopt_best(self, file: Path, epoch: int) -> bool:
        """Take in best weights fetched from elsewhere, if they are those of this epoch, whole."""
        if not _is_whole(file, epoch):
            return False
        self.path.mkdir(parents=True, exist_ok=True)
        file.replace(self.best(epoch))
        return True

    def load(self) -> State | None:
        """Return the last state, or None where there is none.

        Raises
        ------
        CheckpointError
            The file is damaged: its sha256 is not the one recorded.
        """
        return self._load(self._named())

    def load_selected(self, epoch: int) -> State | None:
        """Return the state of the selected epoch, where it was kept beside the last one.

        Raises
        ------
        CheckpointError
            The file is damaged.
        """
        held = self._named().get(_SELECTED, {})
        return self._load(held) if held.get("epoch") == epoch else None

    def _named(self) -> dict[str, Any]:
        """Return what the pointer says; nothing where there is none."""
        pointer = self.path / POINTER
        if not pointer.is_file():
            return {}
        try:
            named = json.loads(pointer.read_text())
            return {"file": named["file"], "sha256": named["sha256"], **named}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{pointer}: cannot be read: {error!r}") from None

    def _load(self, named: Mapping[str, Any]) -> State | None:
        if not named:
            return None
        try:
            return load_checkpoint(self.path / named["file"], named["sha256"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.path / POINTER}: cannot be read: {error!r}") from None


def _save_state(state: State, draft: Path) -> None:
    """Write a state; what the system says of a full disk is said, and not what torch makes of it.

    Raises
    ------
    OSError
        It cannot be written.
    """
    with draft.open("wb") as file:
        kept = _ErrorKeeper(file)
        try:
            torch.save(state, cast(BinaryIO, kept))
        except RuntimeError:
            if kept.error is not None:
                raise kept.error from None
            raise


class _ErrorKeeper:
    """A file that remembers why it could not be written: torch tells of any error but not which."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, content: bytes) -> int:
        try:
            return self._file.write(content)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self._file.flush()


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 of names and bytes of all tensors."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        found.update(name.encode())
        found.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _is_whole(file: Path, epoch: int) -> bool:
    """Whether a file holds the weights of an epoch, all of them as they were written."""
    try:
        with safe_open(file, "pt") as weights:
            told = weights.metadata() or {}
            tensors = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return False
    return told.get("epoch") == str(epoch) and told.get("digest") == _digest(tensors)


def load_checkpoint(file: Path, sha256: str) -> State:
    """Load one checkpoint file.

    Raises
    ------
    CheckpointError
        The file is missing, unreadable, or has another sha256.
    """
    if not file.is_file():
        raise CheckpointError(f"{file}: checkpoint is missing")
    found = sha256_of(file)
    if found != sha256:
        raise CheckpointError(f"{file}: damaged: sha256 is {found[:12]}, recorded {sha256[:12]}")
    state: State = torch.load(file, map_location="cpu", weights_only=True)
    return state


def random_state() -> State:
    """Return the states of the global generators of torch, numpy and python."""
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    words = torch.from_numpy(np.asarray(keys).astype(np.int64))
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": [kind, words, position, has_gauss, cached],
        "python": random.getstate(),
    }


def restore_random_state(state: State) -> None:
    """Set the global generators to a state from `random_state`."""
    kind, keys, position, has_gauss, cached = state["numpy"]
    torch.set_rng_state(state["torch"])
    for gpu, saved in enumerate(state["cuda"][: torch.cuda.device_count()]):  # it may have had more
        torch.cuda.set_rng_state(saved, gpu)
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    random.setstate(state["python"])
