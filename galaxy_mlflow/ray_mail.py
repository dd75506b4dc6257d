"""Letters from jobs at work on a Ray cluster to the driver.

The process of the mailbox stays small: letters pass through it unopened.
"""

from __future__ import annotations

import asyncio
import pickle
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from galaxy_mlflow.schema import JobId

if TYPE_CHECKING:
    from galaxy_mlflow.outcomes import JobEvent

_GATHERING = 0.05  # seconds in which letters are collected
_FLUSH = 10.0  # seconds


@dataclass(frozen=True)
class Placed:
    """Word that a job has been taken up by a process of a node."""

    job: JobId
    node: str  # Ray's id
    machine: str  # name of the host


@dataclass(frozen=True)
class Unfit:
    """Word that a machine cannot train a job through no fault of the job: it is given back.

    Attributes
    ----------
    lasting : no time mends it, as with another version or no data
    node : Ray's id; the task puts it in
    """

    job: JobId
    machine: str
    reason: str
    lasting: bool
    node: str = ""


class Mailbox:
    """What jobs have to tell; an actor on the driver's machine, which empties it."""

    def __init__(self) -> None:
        self._letters: list[bytes] = []
        self._answers: dict[bytes, asyncio.Future[bool]] = {}
        self._some = asyncio.Event()

    async def put(self, letter: bytes) -> None:
        """Take a letter."""
        self._letters.append(letter)
        self._some.set()

    async def wait(self) -> list[bytes]:
        """Wait for letters; return those of a moment together."""
        await self._some.wait()
        await asyncio.sleep(_GATHERING)
        return await self.take()

    async def ask(self, sender: bytes, letter: bytes) -> bool:
        """Take a letter; return what it is answered."""
        self._answers[sender] = asyncio.get_running_loop().create_future()
        await self.put(letter)
        return await self._answers[sender]

    async def answer(self, sender: bytes, answer: bool) -> None:
        """Answer the last letter of a sender, if it waits."""
        waiting = self._answers.pop(sender, None)
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    async def take(self) -> list[bytes]:
        """Return the letters that are there."""
        letters, self._letters = self._letters, []
        self._some.clear()
        return letters


class Post:
    """Sends letters; ends the task where nobody is left to read them."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox
        self._last: Any = None

    def send(self, letter: JobEvent | Placed | Unfit) -> None:
        """Send a letter; it arrives after those sent before.

        Raises
        ------
        KeyboardInterrupt
            The driver is gone.
        """
        if self._last is not None:
            self._check(0)
        self._last = self._mailbox.put.remote(pickle.dumps(letter))

    def ask(self, letter: JobEvent) -> bool:
        """Send a letter and wait for its answer.

        Raises
        ------
        KeyboardInterrupt
            The driver is gone.
        """
        import ray
        from ray.exceptions import RayError

        sender = pickle.dumps(letter.job)
        try:
            return bool(ray.get(self._mailbox.ask.remote(sender, pickle.dumps(letter))))
        except RayError:
            raise KeyboardInterrupt from None

    def flush(self) -> None:
        """Wait a little until all has arrived."""
        self._check(_FLUSH)

    def _check(self, timeout: float) -> None:
        import ray
        from ray.exceptions import GetTimeoutError, RayError

        try:
            ray.get(self._last, timeout=timeout)
        except GetTimeoutError:
            return
        except RayError:
            raise KeyboardInterrupt from None


def opened(letter: bytes) -> JobEvent | Placed | Unfit:
    """Return what a letter says."""
    content: JobEvent | Placed | Unfit = pickle.loads(letter)  # noqa: S301  from our own tasks
    return content
