"""Child processes: how many, deaf to Ctrl-C while they start, and gone when their parent is."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext, SpawnContext
from types import FrameType

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl


def available_cores() -> int:
    """Return the number of processor cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def ctrl_c_held_back() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach, from their birth on: they inherit the mask.

    It reaches this process at the end of the context.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def load_ahead(modules: Sequence[str]) -> None:
    """Begin to load what worker processes need, in a process that they will be forked from.

    It only imports: threads that training starts would be missing in what is forked. Other systems
    than Linux have libraries that do not stand a fork; there, each worker loads for itself.
    """
    if sys.platform == "linux":
        forkserver.set_forkserver_preload(list(modules))
        with ctrl_c_held_back():
            forkserver.ensure_running()


def worker_context() -> ForkServerContext | SpawnContext:
    """Return how worker processes are started: from what `load_ahead` loads, or from nothing."""
    if sys.platform == "linux":
        return multiprocessing.get_context("forkserver")
    return multiprocessing.get_context("spawn")


def hear_ctrl_c() -> None:
    """Have Ctrl-C reach this process again, as KeyboardInterrupt, once.

    A terminal sends it to parent and children alike, and the parent asks its children to stop: the
    second time, a child is closing its records already.
    """
    signal.signal(signal.SIGINT, _interrupt_once)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def watch_parent() -> None:
    """Leave when the parent, a `multiprocessing` process or not, was killed."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def ask_to_end_with_parent() -> None:
    """Have Linux end this process, which need not be Python, with its parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    signal.default_int_handler(number, frame)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
