"""What is told of a job: an epoch, a word, and how it ended; and what stopped it, in words."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from galaxy_mlflow.errors import GalaxyError, RankLostError, ServerError, ServerRefusedError
from galaxy_mlflow.home import Home
from galaxy_mlflow.schema import JobId

WAITING: Final = "waiting"
"""Trained to the end; the server does not have all of it yet."""
STOPPED: Final = "stopped"
"""Not trained to the end, and not the run's own fault."""
BUSY: Final = "busy"
"""In training elsewhere, by a worker that is alive."""

_THE_USERS = (PermissionError, FileNotFoundError, NotADirectoryError, FileExistsError)
"""Errors of a disk that waiting does not mend."""
_ON_GPU: Final = "the GPU is out of memory: others use it too, or set gpus under [resources]"
_ON_HOST: Final = "the machine is out of memory: others use it too, or give fewer --jobs"
_ALLOCATORS: Final = {
    "ALLOC_FAILED": _ON_GPU,
    "CUDA error: out of memory": _ON_GPU,
    "can't allocate memory": _ON_HOST,
    "not enough memory": _ON_HOST,
}
"""What allocators of torch say in a RuntimeError, which has no class of its own."""


@dataclass(frozen=True)
class JobEvent:
    """News of a job in training: an epoch done, or a word for the user."""

    job: JobId
    epoch: int = -1
    accuracy: float = float("nan")
    message: str = ""
    machine: str = ""  # name of the host that trains it
    server: str = ""  # `away` or `back`, where the message is about the tracking server


@dataclass(frozen=True)
class JobResult:
    """How a job ended: `finished`, `failed`, `waiting`, `busy` or `stopped`, and why."""

    job: JobId
    status: str
    reason: str = ""
    again: bool = False  # trying again may help: the fault is the machine's or the server's


Report = Callable[[JobEvent], None]


def stopped_by(error: Exception, job: JobId, home: Home) -> JobResult:
    """Return how a job stands that an error stopped which is not its own fault."""
    import torch  # takes seconds, and whoever hears of jobs has no need of it

    if isinstance(error, ServerError | RankLostError):
        return JobResult(job, STOPPED, str(error), not isinstance(error, ServerRefusedError))
    if isinstance(error, GalaxyError):
        return JobResult(job, STOPPED, str(error))
    if isinstance(error, OSError):
        return JobResult(job, STOPPED, _of_disk(error, home), not isinstance(error, _THE_USERS))
    if lacked := memory_lacked(error):
        return JobResult(job, STOPPED, lacked, again=True)
    again = isinstance(error, torch.AcceleratorError)
    return JobResult(job, STOPPED, f"{type(error).__name__}: {error}", again)


def is_the_machines(error: Exception) -> bool:
    """Whether an error is one of the machine or the surroundings, whatever was trained there."""
    import torch

    known = (GalaxyError, OSError, torch.AcceleratorError)
    return isinstance(error, known) or bool(memory_lacked(error))


def memory_lacked(error: Exception) -> str:
    """Return which memory an error says is used up, and what to do; nothing: it does not."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return _ON_GPU
    if isinstance(error, MemoryError):
        return _ON_HOST
    said = str(error)
    if isinstance(error, RankLostError):  # it has said so in our words
        return next((lacked for lacked in (_ON_GPU, _ON_HOST) if lacked in said), "")
    known = _ALLOCATORS if isinstance(error, RuntimeError) else {}
    return next((lacked for words, lacked in known.items() if words in said), "")


def _of_disk(error: OSError, home: Home) -> str:
    """Return what to tell of an error of a disk, in the same words for all jobs of the home."""
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return str(error)
    file = Path(error.filename or home.path)
    place = home.path if file.is_relative_to(home.path) else file
    return (
        f"{place}: no space left: free some there and call the same command again: nothing is lost"
    )
