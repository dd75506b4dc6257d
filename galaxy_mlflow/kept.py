"""The weights of any epoch that a run kept, brought back from its server."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

from galaxy_mlflow import schema
from galaxy_mlflow.errors import CheckpointError
from galaxy_mlflow.files import write_atomically
from galaxy_mlflow.packing import Frame, needs, unpack
from galaxy_mlflow.processes import available_cores
from galaxy_mlflow.reading import Reader

KEY_EVERY = 8
"""Of so many epochs kept one is whole: each of the others needs those since the last whole one."""
_NAME = re.compile(r"epoch-(\d+)\.packed")


def packed_name(epoch: int) -> str:
    """Return the name on the server of an epoch's packed weights."""
    return f"epoch-{epoch:04d}.packed"


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
        names = self.store.artifacts(self.run_id, schema.CHECKPOINTS)
        found = (_NAME.fullmatch(name.rpartition("/")[2]) for name in names)
        return sorted(int(match.group(1)) for match in found if match)

    def weights(self, epoch: int) -> Frame:
        """Return the weights after an epoch, proven by their sha256.

        Raises
        ------
        ServerError
        CheckpointError
            They were not kept, or a file that is needed is damaged or missing.
        """
        kept = self.epochs()
        if epoch not in kept:
            known = ", ".join(map(str, kept)) or "none"
            raise CheckpointError(
                f"run {self.run_id} kept no weights of epoch {epoch}; kept: {known}. Runs keep "
                "them where the study file says so: every = 1 under [checkpoints]"
            )
        frame: Frame | None = None
        for content in self._chain([number for number in kept if number <= epoch]):
            frame = unpack(content, frame, available_cores())
        assert frame is not None  # noqa: S101  a chain has at least the epoch's own file
        return frame

    def _chain(self, epochs: list[int]) -> list[bytes]:
        """Return the files from the last whole one to the last of these epochs."""
        chain: list[bytes] = []
        with TemporaryDirectory() as folder:
            for epoch in reversed(epochs):
                path = f"{schema.CHECKPOINTS}/{packed_name(epoch)}"
                file = self.store.fetch(self.run_id, path, Path(folder))
                if file is None:
                    raise CheckpointError(f"{path} of run {self.run_id} is missing")
                chain.insert(0, file.read_bytes())
                file.unlink()
                if not needs(chain[0]):
                    return chain
        raise CheckpointError(
            f"run {self.run_id}: the whole weights before epoch {epochs[-1]} are missing"
        )


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
