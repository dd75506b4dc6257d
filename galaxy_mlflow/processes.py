"""Child processes: how many, deaf to Ctrl-C while they start, and gone when their parent is."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import pickle
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import Any

from galaxy_mlflow.errors import ServerError

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


def hear_ctrl_c() -> None:
    """Have Ctrl-C reach this process again, as KeyboardInterrupt, once.

    A terminal sends it to parent and children alike, and the parent asks its children to stop: the
    second time, a child is closing its records already.
    """
    signal.signal(signal.SIGINT, _interrupt_once)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def run_apart(module: str, function: str, *arguments: Any) -> Any:
    """Return what a function returns that runs in a process of its own, which has then ended.

    What only that function needs never comes into this process's memory.

    Raises
    ------
    ServerError
        The process died.
    Exception
        Whatever the function raises.
    """
    context = multiprocessing.get_context("spawn")
    try:
        with ProcessPoolExecutor(1, mp_context=context, initializer=watch_parent) as pool:
            with ctrl_c_held_back():
                coming = pool.submit(_call, module, function, arguments)
            content = coming.result()
    except BrokenProcessPool:
        raise ServerError(
            f"the process that ran {function} died: it may have run out of memory"
        ) from None
    return pickle.loads(content)  # noqa: S301  our own child's


def _call(module: str, function: str, arguments: tuple[Any, ...]) -> bytes:
    return pickle.dumps(getattr(import_module(module), function)(*arguments))


def watch_parent() -> None:
    """Leave when the parent, a `multiprocessing` process or not, was killed."""
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def ask_to_end_with_parent(by: signal.Signals = signal.SIGTERM) -> None:
    """Have Linux end this process, which need not be Python, with its parent."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, by)


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    signal.default_int_handler(number, frame)


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
