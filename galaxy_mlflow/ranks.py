"""The processes of one run: this one, rank 0, and those that it starts, watches and ends.

They are on one machine, meet by a file, and talk over loopback (gloo) or between GPUs (NCCL).
torchrun's launcher is not used: it starts all ranks as children of an agent, while here rank 0 is
the worker itself, which claims the run and has the records; and its children end with it however
it ends, killed too.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import IO, cast

import torch
from torch import distributed as dist

from galaxy_mlflow import schema
from galaxy_mlflow.checkpoints import State
from galaxy_mlflow.errors import RankLostError
from galaxy_mlflow.features import ensure_features
from galaxy_mlflow.job import TrainingJob
from galaxy_mlflow.outcomes import memory_lacked
from galaxy_mlflow.processes import ask_to_end_with_parent, ctrl_c_held_back
from galaxy_mlflow.team import ALONE, Team
from galaxy_mlflow.train import Trainer, make_deterministic

_READY = b"ready\n"
_MEET = timedelta(seconds=60)  # of ranks that have said that they are ready
_WAIT = timedelta(days=7)  # for each other, in training: one that is gone is noticed otherwise
_LOOK = 0.2  # seconds between looks at the other ranks
_GRACE = 3.0  # seconds in which a rank that broke a connection is seen to have ended
_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"
_QUIET = {"PYTHONWARNINGS": "ignore", "TORCH_CPP_LOG_LEVEL": "ERROR"}
_AT_HOME = {"GLOO_SOCKET_IFNAME": _LOOPBACK, "NCCL_SOCKET_IFNAME": _LOOPBACK}


@dataclass(frozen=True)
class _Order:
    """What a further rank needs to know.

    Attributes
    ----------
    job : on its own device
    features : folder of kept features; None where the run is trained on images
    """

    job: TrainingJob
    features: Path | None
    rank: int
    ranks: int
    threads: int
    folder: Path


@contextmanager
def team_of(trainer: Trainer, threads: int, features: Path | None = None) -> Iterator[Team]:
    """Start the other ranks of a trainer's job, in its state; they end with the context.

    Parameters
    ----------
    threads : of the whole job, shared among its ranks, each of which has at least one
    features : folder of kept features, where the run is trained on them

    Raises
    ------
    RankLostError
        One of them died, for want of memory perhaps. All have ended then.
    """
    ranks = len(trainer.job.devices)
    make_deterministic(max(1, threads // ranks))
    if ranks == 1:
        yield ALONE
        return
    with tempfile.TemporaryDirectory(prefix="galaxy-ranks-") as folder:
        others = _Others(Path(folder), ranks)
        try:
            others.start(_orders(trainer.job, features, Path(folder)), _bytes_of(trainer))
            yield Team(0, ranks, others.require_all)
        except RuntimeError:  # what torch raises where a connection ends
            others.blame()
            raise
        finally:
            others.end()


def change_of_ranks(begun_with: Mapping[str, str], job: TrainingJob) -> str:
    """Say so where a run that is gone on with was begun by another number of ranks.

    Parameters
    ----------
    begun_with : the run's params
    """
    before, now = int(begun_with.get(schema.RANKS, 1)), len(job.devices)
    if before == now:
        return ""
    return f", by {now} processes instead of {before}: the same to rounding"


def _orders(job: TrainingJob, features: Path | None, folder: Path) -> list[_Order]:
    """Return what each further rank needs to know."""
    ranks, threads = len(job.devices), torch.get_num_threads()
    return [
        _Order(replace(job, device=device, others=()), features, rank, ranks, threads, folder)
        for rank, device in enumerate(job.others, start=1)
    ]


def _bytes_of(trainer: Trainer) -> bytes:
    """Return a trainer's state as bytes, with its own GPU's generator for every GPU."""
    state: State = trainer.state()
    if trainer.job.device.startswith("cuda"):
        own = torch.cuda.get_rng_state(trainer.job.device)
        state["random"]["cuda"] = [own] * len(state["random"]["cuda"])
    content = io.BytesIO()
    torch.save(state, content)
    return content.getvalue()


class _Others:
    """The other ranks, as rank 0 sees them."""

    def __init__(self, folder: Path, ranks: int) -> None:
        self._folder, self._ranks = folder, ranks
        self._processes: list[subprocess.Popen[bytes]] = []
        self._ended = threading.Event()
        self._lost = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def start(self, orders: Sequence[_Order], state: bytes) -> None:
        """Start processes, hand each its order and the state to begin in, and meet them."""
        for order in orders:
            self._processes.append(self._launch(order.rank))
        for process, order in zip(self._processes, orders, strict=True):
            with suppress(BrokenPipeError):  # it died: it will not be ready
                pickle.dump((order, state), _input_of(process))
                _input_of(process).flush()
        for process in self._processes:
            if _READY not in iter(cast(IO[bytes], process.stdout).readline, b""):
                process.wait()
                self._lost.set()
                self.require_all()
        self._watcher.start()
        _meet(self._folder, 0, self._ranks, on_gpu=orders[0].job.device.startswith("cuda"))

    def _launch(self, rank: int) -> subprocess.Popen[bytes]:
        """Start a process that Ctrl-C does not reach: a terminal sends it to all."""
        with (self._folder / f"rank-{rank}").open("wb") as words, ctrl_c_held_back():
            return subprocess.Popen(  # noqa: S603
                [sys.executable, "-c", f"from {__name__} import serve; serve()"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=words,
                env={**os.environ, **_QUIET},
            )

    def _watch(self) -> None:
        """Have rank 0 stop waiting for a rank that died."""
        while not self._ended.wait(_LOOK):
            if any(process.poll() is not None for process in self._processes):
                self._lost.set()
                _abort()
                return

    def require_all(self) -> None:
        """Raise if a rank was lost."""
        if self._lost.is_set():
            raise RankLostError(self._why())

    def blame(self) -> None:
        """Raise if what broke here may be a lost rank's doing: see for a moment whether it was."""
        if self._lost.wait(_GRACE):
            raise RankLostError(self._why()) from None

    def _why(self) -> str:
        """Say how the rank that ended first ended: of several, the one that was killed."""
        ended = enumerate((process.poll() for process in self._processes), start=1)
        code, rank = min((code, rank) for rank, code in ended if code is not None)
        if code < 0:
            return f"rank {rank} of {self._ranks} was killed ({signal.Signals(-code).name})"
        words = (self._folder / f"rank-{rank}").read_text(errors="replace").strip()
        last = words.rpartition("\n")[2] or f"exit code {code}"
        return f"rank {rank} of {self._ranks} ended: {last}"

    def end(self) -> None:
        """End all other ranks at once: they have nothing to close."""
        self._ended.set()
        if self._watcher.is_alive():
            self._watcher.join()  # it may be about to look at the group, which ends below
        _abort()
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
            for stream in (process.stdin, process.stdout):
                with suppress(OSError):
                    cast(IO[bytes], stream).close()
        if dist.is_initialized():
            dist.destroy_process_group()


def _input_of(process: subprocess.Popen[bytes]) -> IO[bytes]:
    return cast(IO[bytes], process.stdin)


def _meet(folder: Path, rank: int, ranks: int, *, on_gpu: bool) -> None:
    """Make the ranks one group of torch's, on this machine alone.

    Raises
    ------
    RuntimeError
        They did not all come.
    """
    os.environ.update(_AT_HOME)
    store = dist.FileStore(str(folder / "meeting"), ranks)  # type: ignore[attr-defined]
    store.set_timeout(_MEET)
    backend = "nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=_WAIT)


def _abort() -> None:
    """End what waits for other ranks on GPUs; gloo notices by itself that a connection closed."""
    group = dist.group.WORLD
    if group is not None and dist.get_backend() == dist.Backend.NCCL:
        group.abort()


def serve() -> None:
    """Train as one of the further ranks; the body of their processes."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # sent to all of a job: rank 0 decides
    ask_to_end_with_parent(signal.SIGKILL)
    try:
        _train_along()
    except Exception as error:  # rank 0 tells of it
        sys.stderr.write(f"{memory_lacked(error) or _in_a_line(error)}\n")
        sys.stderr.flush()
        os._exit(1)


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _train_along() -> None:
    order, state = pickle.load(sys.stdin.buffer)  # noqa: S301  our parent's
    threading.Thread(target=_leave_with_rank_0, daemon=True).start()
    make_deterministic(order.threads)
    trainer = _trainer(order, state)
    del state  # as large as the checkpoint
    sys.stdout.buffer.write(_READY)
    sys.stdout.buffer.flush()
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # nobody reads the pipe any more
    _meet(order.folder, order.rank, order.ranks, on_gpu=order.job.device.startswith("cuda"))
    for _ in trainer.epochs(Team(order.rank, order.ranks)):
        pass
    threading.Event().wait()  # until rank 0 has closed its record


def _trainer(order: _Order, state: bytes) -> Trainer:
    """Return a trainer in the state that rank 0 is in."""
    if order.job.device.startswith("cuda"):
        torch.cuda.set_device(order.job.device)
    features = None if order.features is None else ensure_features(order.job, order.features)
    trainer = Trainer(order.job, features=features)
    trainer.restore(torch.load(io.BytesIO(state), map_location="cpu", weights_only=True))
    return trainer


def _leave_with_rank_0() -> None:
    """Leave when rank 0 has ended: then the pipe from it closes."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(1)
