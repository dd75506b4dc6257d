"""Checkpoints: atomic, verified, and enough to go on as if nothing had happened."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from galaxy_mlflow.errors import CheckpointError
from galaxy_mlflow.files import sha256_of, write_atomically, write_json

State = dict[str, Any]
POINTER = "last.json"
LAST = "last.pt"
BEST = "best.safetensors"
"""Name of the best weights on the server."""


@dataclass(frozen=True)
class CheckpointFolder:
    """The checkpoints of one run on this machine.

    A new checkpoint gets a new file; then the pointer `last.json` (file, epoch, sha256) is put in
    its place in one step; then older files go. Whenever the process is killed, the pointer names
    a whole file.
    """

    path: Path

    def save(self, state: State) -> Path:
        """Write the state after `state["epoch"]` and make it the last; return its file."""
        epoch = int(state["epoch"])
        file = self.path / f"epoch-{epoch:05d}.pt"
        write_atomically(file, lambda draft: torch.save(state, draft))
        pointer = {"file": file.name, "epoch": epoch, "sha256": sha256_of(file)}
        write_json(self.path / POINTER, pointer)
        for old in self.path.glob("epoch-*.pt"):
            if old != file:
                old.unlink()
        return file

    def save_weights(self, state: State, name: str) -> Path:
        """Write only the weights of a state, as safetensors; return the file."""
        file = self.path / name
        tensors = {key: value.contiguous() for key, value in state["model"].items()}
        metadata = {"epoch": str(state["epoch"]), **state["identity"]}
        write_atomically(file, lambda draft: save_file(tensors, draft, metadata=metadata))
        return file

    def save_best(self, state: State) -> None:
        """Write the weights of an epoch that is the best so far, beside the best before it."""
        self.save_weights(state, f"best-{int(state['epoch']):05d}.safetensors")

    def holds_best(self, epoch: int) -> bool:
        """Whether the best weights here are those of this epoch."""
        return (self.path / f"best-{epoch:05d}.safetensors").is_file()

    def best(self, epoch: int) -> Path:
        """Return the file of the weights of the best epoch; those of other epochs go."""
        kept = self.path / f"best-{epoch:05d}.safetensors"
        for old in self.path.glob("best-*.safetensors"):
            if old != kept:
                old.unlink()
        return kept

    def adopt_best(self, file: Path, epoch: int) -> None:
        """Take in best weights fetched from elsewhere, if they are those of this epoch."""
        with safe_open(file, "pt") as weights:
            found = weights.metadata().get("epoch")
        if found == str(epoch):
            self.path.mkdir(parents=True, exist_ok=True)
            file.replace(self.best(epoch))

    def load(self) -> State | None:
        """Return the last state, or None where there is none.

        Raises
        ------
        CheckpointError
            The file is damaged: its sha256 is not the one recorded.
        """
        pointer = self.path / POINTER
        if not pointer.is_file():
            return None
        try:
            last = json.loads(pointer.read_text())
            return load_checkpoint(self.path / last["file"], last["sha256"])
        except (OSError, ValueError, KeyError) as error:
            raise CheckpointError(f"{pointer}: cannot be read: {error!r}") from None


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
    if state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state((kind, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    random.setstate(state["python"])
