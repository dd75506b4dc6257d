"""A run's checkpoints, written and passed on while the next epoch is trained."""

from __future__ import annotations

import copy
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from galaxy_mlflow import schema
from galaxy_mlflow.checkpoints import BEST, LAST, POINTER, CheckpointFolder, State
from galaxy_mlflow.config import CheckpointSettings
from galaxy_mlflow.errors import CheckpointError
from galaxy_mlflow.files import write_bytes
from galaxy_mlflow.kept import base_of, packed_name
from galaxy_mlflow.packing import Frame, pack
from galaxy_mlflow.sinks import SpoolSink
from galaxy_mlflow.spool import Kind, Spool


class _Kept(NamedTuple):
    """Weights that later ones are told apart from."""

    number: int  # of those that this process kept, from 0
    epoch: int
    frame: Frame


@dataclass
class CheckpointKeeper:
    """Keeps one state at a time, in a thread of its own.

    Whoever trains waits for it before the next epoch is put on record, so that a process that is
    killed repeats at most one recorded epoch.
    """

    folder: CheckpointFolder
    spool: Spool
    sink: SpoolSink
    rules: CheckpointSettings
    _thread: ThreadPoolExecutor = field(init=False)
    _work: Future[None] | None = field(init=False, default=None)
    _copy: State = field(init=False, default_factory=dict)  # of the state kept last
    _frames: list[_Kept] = field(init=False, default_factory=list)  # at most three
    _kept: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoints")

    def keep(self, state: State) -> None:
        """Begin to write a state; returns when there is a copy of it, and training may go on."""
        self.wait()
        self._copy = _renewed(self._copy, state)
        self._work = self._thread.submit(self._keep, self._copy)

    def wait(self) -> None:
        """Return when the state given last is written, and handed on where it is its turn.

        Raises
        ------
        OSError
            It could not be written.
        CheckpointError
            What it takes from the state before is damaged.
        """
        work, self._work = self._work, None
        if work is not None:
            work.result()

    def close(self) -> None:
        """Leave nothing at work; what went wrong is not told."""
        self._thread.shutdown(wait=True)

    def upload(self, epoch: int, selected: int) -> None:
        """Hand the last state and the weights of the selected epoch on to the server."""
        waiting = self.spool.pending(Kind.ARTIFACT)
        path = f"{schema.CHECKPOINTS}/{LAST}"
        arrived = all(event.artifact_path != path for event in waiting)
        file, pointer = self.folder.for_server(arrived=arrived)
        self._log(pointer, POINTER, epoch)  # first: it knows the state that it replaces too
        self._log(file, LAST, epoch)
        if self.rules.policy == "best":
            self._log(self._best(selected), BEST, epoch)

    def _keep(self, state: State) -> None:
        epoch, selected = int(state["epoch"]), int(state["progress"]["selected_epoch"])
        if self.rules.every is not None and (epoch + 1) % self.rules.every == 0:
            self._keep_for_good(state, epoch)
        self.folder.save(state, selected if self.rules.policy == "best" else None)
        self.folder.best(selected)
        if (epoch + 1) % self.rules.upload_every == 0:
            self.upload(epoch, selected)

    def _best(self, selected: int) -> Path:
        """Return the file of the selected weights; until now a state may have held them.

        Raises
        ------
        CheckpointError
            Somebody else changed the files of this run.
        """
        file = self.folder.best(selected)
        if file.is_file():
            return file
        own = self._copy.get("epoch") == selected
        state = self._copy if own else self.folder.load_selected(selected)
        if state is None:
            raise CheckpointError(f"{file}: the weights of epoch {selected} are gone from there")
        self.folder.save_best(state)
        return file

    def _keep_for_good(self, state: State, epoch: int) -> None:
        """Pack the weights, told apart from some kept before; the first ones here are whole."""
        frame = Frame.of({name: tensor.numpy() for name, tensor in state["model"].items()})
        before = self._before(base_of(self._kept))
        file = self.folder.path / packed_name(epoch, before.epoch if before else None)
        write_bytes(file, pack(frame, before.frame if before else None))
        self._log(file, file.name)
        file.unlink()
        self._frames.append(_Kept(self._kept, epoch, frame))
        self._kept += 1

    def _before(self, base: int) -> _Kept | None:
        """Forget what nothing later is told apart from; return the base, if there is one."""
        self._frames = [kept for kept in self._frames if kept.number <= base < self._kept]
        return self._frames[-1] if self._frames else None

    def _log(self, file: Path, name: str, epoch: int = -1) -> None:
        self.sink.log_artifact(file, f"{schema.CHECKPOINTS}/{name}", epoch)


def _renewed(old: State, new: State) -> State:
    """Return a copy of a state, in main memory; tensors of an old copy are written again.

    All tensors are written by one call: each call of its own would ask the threads that send and
    write for the interpreter again.
    """
    targets: list[Tensor] = []
    sources: list[Tensor] = []
    renewed: State = _laid_out(old, new, (targets, sources))
    if targets:
        torch._foreach_copy_(targets, sources)
    return renewed


def _laid_out(old: Any, new: Any, found: tuple[list[Tensor], list[Tensor]]) -> Any:
    """Return the copy; in `found`, its tensors and those that are to be written there.

    Nothing but tensors and lists is ever changed in place by training.
    """
    if isinstance(new, Tensor):
        fits = isinstance(old, Tensor) and (old.shape, old.dtype) == (new.shape, new.dtype)
        kept = old if fits else torch.empty_like(new, device="cpu")
        found[0].append(kept)
        found[1].append(new)
        return kept
    if isinstance(new, dict):
        before = old if isinstance(old, dict) else {}
        return {key: _laid_out(before.get(key), value, found) for key, value in new.items()}
    return copy.deepcopy(new) if isinstance(new, list) else new
