"""Processes and what stops them: Ctrl-C, SIGTERM, and the end of their parent."""

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
from pathlib import Path
from types import FrameType
from typing import Any

from galaxy_mlflow.errors import ServerError

TERMINATED = 128 + signal.SIGTERM
"""The exit code of a command that SIGTERM stopped, as shells have it."""
LAST_MOMENT = 25
"""Seconds after SIGTERM in which a process has to close its records; then the system ends it."""
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux's prctl
_CPU_MAX = Path("/sys/fs/cgroup/cpu.max")
"""What a container may use of its machine's processors: quota and period (Linux, cgroup v2)."""
_STOPS = {signal.SIGINT, signal.SIGTERM}


class Terminated(KeyboardInterrupt):
    """SIGTERM came, from a batch system or a container's: stop as by Ctrl-C."""


def available_cores() -> int:
    """Return the number of processor cores this process may use, at least 1.

    A container's limit counts too, rounded down: Kubernetes lets a pod see all cores of its
    machine, and slows it down when it uses more than its limit.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = len(os.sched_getaffinity(0))
    return max(1, min(cores, _quota(cores)))


def _quota(otherwise: int) -> int:
    """Return how many cores the container's quota comes to, or the other number without one."""
    try:
        quota, period = _CPU_MAX.read_text().split()
        return int(quota) // int(period)
    except (OSError, ValueError):  # no such file, or `max`: no limit
        return otherwise


@contextmanager
def ctrl_c_held_back() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach, from their birth on: they inherit the mask.

    It reaches this process at the end of the context. The same goes for SIGTERM.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def hear_ctrl_c() -> None:
    """Have Ctrl-C and SIGTERM reach this process again, as KeyboardInterrupt, once.

    A terminal, or Slurm, sends it to parent and children alike, and the parent asks its children
    to stop: the second time, a child is closing its records already.
    """
    for number in _STOPS:
        signal.signal(number, _interrupt_for_good)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)


def hear_no_more() -> None:
    """Have Ctrl-C and SIGTERM change nothing: this process is closing its records."""
    for number in _STOPS:
        signal.signal(number, _heard)


def ignore_stops() -> None:
    """Ignore Ctrl-C and SIGTERM while Python ends, which forgets handlers of its own."""
    hear_no_more()
    for number in _STOPS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def sigterm_like_ctrl_c(*, for_good: bool = False) -> Iterator[None]:
    """Have SIGTERM raise `Terminated`, once, and end this process for sure soon after.

    Batch systems send it more than once. In another thread than the first one, nothing changes.

    Parameters
    ----------
    for_good : whether this process ends with it: then the second one is ignored to its last moment
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, _interrupt_once)
    try:
        yield
    finally:
        came = signal.getsignal(signal.SIGTERM) is _heard
        signal.signal(signal.SIGTERM, signal.SIG_IGN if for_good and came else before)


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


def was_interrupted(error: BaseException) -> bool:
    """Whether an error may be one of stopping: what Ctrl-C or SIGTERM cut short raises its own."""
    if signal.getsignal(signal.SIGTERM) is _heard:
        return True
    before = error.__context__
    return isinstance(error, KeyboardInterrupt) or (before is not None and was_interrupted(before))


def interruption() -> KeyboardInterrupt:
    """Return what is to be raised where an error was one of stopping, as `was_interrupted` says."""
    return Terminated() if signal.getsignal(signal.SIGTERM) is _heard else KeyboardInterrupt()


def _interrupt_for_good(number: int, frame: FrameType | None) -> None:
    hear_no_more()
    _interrupt_once(number, frame)


def _heard(number: int, frame: FrameType | None) -> None:
    """Do nothing: Python complains of a signal that comes while it is set to be ignored."""


def _interrupt_once(number: int, frame: FrameType | None) -> None:
    signal.signal(number, _heard)
    if number == signal.SIGINT:
        signal.default_int_handler(number, frame)
    signal.alarm(LAST_MOMENT)  # not a thread: it works whatever this process waits for
    raise Terminated


def _leave_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
