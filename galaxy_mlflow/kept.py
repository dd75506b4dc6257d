"""The weights of any epoch that a run kept, brought back from its server."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

from galaxy_mlflow import schema
from galaxy_mlflow.errors import CheckpointError
from galaxy_mlflow.files import write_atomically
from galaxy_mlflow.packing import Frame, unpack
from galaxy_mlflow.processes import available_cores
from galaxy_mlflow.reading import Reader

KEY_EVERY = 8
"""Of so many epochs kept one is whole."""
_NAME = re.compile(r"epoch-(\d+)(?:-on-(\d+))?\.packed")


def packed_name(epoch: int, base: int | None = None) -> str:
    """Return the name on the server of an epoch's packed weights.

    Parameters
    ----------
    base : the epoch whose weights they are told apart from; None where they are whole
    """
    return f"epoch-{epoch:04d}{'' if base is None else f'-on-{base:04d}'}.packed"


def base_of(number: int) -> int:
    """Return which of the weights kept before the number-th are told apart from; itself: whole.

    The lowest bit that is set goes: of eight the longest way is 7, 6, 4, 0, and half are told apart
    from those just before, where differences are smallest.
    """
    place = number % KEY_EVERY
    return number - place + (place & (place - 1))


@dataclass(frozen=True)
class KeptEpochs:
    """The epochs of one run whose weights are on the server."""

    store: Reader
    run_id: str

    def epochs(self) -> list[int]:
        """Return which, ascending.

        Raises
        ------
        ServerError
        """
        return sorted(self._bases())

    def weights(self, epoch: int) -> Frame:
        """Return the weights after an epoch, proven by their sha256.

        Raises
        ------
        ServerError
        CheckpointError
            They were not kept, or a file that is needed is damaged or missing.
        """
        bases = self._bases()
        if epoch not in bases:
            known = ", ".join(map(str, sorted(bases))) or "none"
            raise CheckpointError(
                f"run {self.run_id} kept no weights of epoch {epoch}; kept: {known}. Runs keep "
                "them where the study file says so: every = 1 under [checkpoints]"
            )
        names = [packed_name(*pair) for pair in _way(bases, epoch)]
        with TemporaryDirectory() as folder, ThreadPoolExecutor(len(names)) as pool:
            chain = list(pool.map(lambda name: self._content(name, Path(folder)), names))
        return unpack(chain, available_cores())

    def _bases(self) -> dict[int, int | None]:
        """Return what each epoch's weights are told apart from; whole ones go first."""
        names = self.store.artifacts(self.run_id, schema.CHECKPOINTS)
        found = [_NAME.fullmatch(name.rpartition("/")[2]) for name in names]
        pairs = [(int(m[1]), None if m[2] is None else int(m[2])) for m in found if m]
        return dict(sorted(pairs, key=lambda pair: pair[1] is None))

    def _content(self, name: str, folder: Path) -> bytes:
        path = f"{schema.CHECKPOINTS}/{name}"
        file = self.store.fetch(self.run_id, path, folder)
        if file is None:
            raise CheckpointError(f"{path} of run {self.run_id} is missing")
        return file.read_bytes()


def _way(bases: Mapping[int, int | None], epoch: int) -> list[tuple[int, int | None]]:
    """Return the epochs with their bases, from a whole one to this one."""
    way: list[tuple[int, int | None]] = []
    step: int | None = epoch
    while step is not None:
        if step not in bases:
            raise CheckpointError(f"the weights of epoch {step}, which {epoch} needs, are missing")
        way.insert(0, (step, bases[step]))
        step = bases[step]
    return way


def write_plain(weights: dict[str, NDArray[Any]], file: Path) -> None:
    """Write weights as a file that needs nothing of ours: .safetensors, or .pt for torch.load.

    Raises
    ------
    CheckpointError
        The file's name ends otherwise.
    """
    if file.suffix == ".safetensors":
        from safetensors.numpy import save_file

        whole = {name: array.copy(order="C") for name, array in weights.items()}
        write_atomically(file, lambda draft: save_file(whole, draft))
    elif file.suffix in (".pt", ".pth"):
        import torch

        tensors = {name: torch.from_numpy(array.copy()) for name, array in weights.items()}
        write_atomically(file, lambda draft: torch.save(tensors, draft))
    else:
        raise CheckpointError(f"{file}: end its name in .safetensors or .pt")
