"""A crew on a Ray cluster: jobs are tasks there; this process only hears of them.

Ray lives in a child process (`ray_driver.py`). Where that ends because the cluster went away, the
jobs are handed back, and the cluster is joined again as soon as it is there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from galaxy_mlflow.dispatch import Lost, News
from galaxy_mlflow.errors import ConfigError, GalaxyError, ServerError
from galaxy_mlflow.home import Home
from galaxy_mlflow.outcomes import JobEvent, JobResult
from galaxy_mlflow.placement import Machine
from galaxy_mlflow.prepare import Prepared
from galaxy_mlflow.processes import ctrl_c_held_back
from galaxy_mlflow.ray_cluster import check_address, check_device, wait_for_head, wrong_token
from galaxy_mlflow.ray_driver import GOODBYE, drive
from galaxy_mlflow.ray_log import last_line, last_start, log_of
from galaxy_mlflow.ray_mail import Placed
from galaxy_mlflow.ray_parcel import Answer, Order, RaySetting
from galaxy_mlflow.ray_pipe import Joined, Offer, Refused, Word
from galaxy_mlflow.schema import JobId

__all__ = ["RayCrew", "RaySetting", "setting_of"]

_FIRST_PAUSE = 1.0  # seconds before a lost cluster is tried again, doubled each time
_LONGEST_PAUSE = 30.0
_TRIES = 3  # to start a cluster here
HEAD_STARTS = 60.0
"""Seconds that a head may take to let us in for the first time: it may just have been started."""
_STARTING = 180.0  # seconds for a cluster to start or to let us in
_FALLS = 5  # of the child in a row, without an epoch between them, until the user is asked


def setting_of(prepared: Prepared, machine: Machine, uri: str) -> RaySetting:
    """Return what is equal for all jobs of a prepared study that is trained from this home."""
    home = Home.default()
    return RaySetting(
        study=prepared.study,
        data_hash=prepared.data.data_hash,
        weights=prepared.weights,
        device=machine.device,
        threads=machine.threads,
        skip_bad=machine.skip_bad,
        home=home,
        uri=uri,
        own_store=home.owns(home.tracking_uri),
        address=machine.address,
        session="",
    )


@dataclass
class _Child:
    """The process that talks to Ray."""

    process: SpawnProcess
    pipe: Connection
    joined: bool = False
    since: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, setting: RaySetting) -> _Child:
        context = get_context("spawn")
        pipe, theirs = context.Pipe()
        said = replace(setting, begun=frozenset())  # that goes with each job
        process = context.Process(target=drive, args=(said, theirs), daemon=True)
        with ctrl_c_held_back():  # Ctrl-C is our business alone
            process.start()
        theirs.close()
        return cls(process, pipe)

    def end(self, patience: float = 0.0) -> None:
        """Ask it to leave; kill it where it does not."""
        deadline = time.monotonic() + patience
        with suppress(EOFError, OSError):
            self.pipe.send(None)
            while (left := deadline - time.monotonic()) > 0:
                if self.pipe.poll(left):  # it may have much to tell before it hears us
                    self.pipe.recv()
        self.process.join(max(0.0, deadline - time.monotonic()))
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.pipe.close()


class RayCrew:
    """Trains jobs on a Ray cluster; starts one on this machine where no address is given.

    Parameters
    ----------
    say : told what the user should know

    Raises
    ------
    ConfigError
        Ray is not installed, the address or the device is none, or the token is another.
    ServerError
        The cluster does not answer.
    """

    def __init__(self, setting: RaySetting, say: Callable[[str], None]) -> None:
        check_device(setting.device)
        self._setting = replace(setting, address=check_address(setting.address))
        self._say = say
        self._given: dict[JobId, bool] = {}  # whether a machine has taken it up
        self._begun = set(setting.begun)
        self._falls = 0
        self._offer: Offer | None = None
        self._told_machines = -1
        self._told_gone = False
        self._has_joined = False
        self._pause = _FIRST_PAUSE
        self._next_try = 0.0
        self._child: _Child | None = None
        self._join()

    def room(self) -> int:
        """Return how many more jobs may be given: those at work, and a few that wait there."""
        if self._child is None or self._offer is None or not self._offer.capacity.jobs:
            return 0
        slots = self._offer.capacity.jobs
        return max(0, slots + max(2, slots // 4) - len(self._given))

    def give(self, job: JobId) -> None:
        """Have the cluster train a job as soon as a machine has room."""
        self._given[job] = False
        self._send(self._order(job))

    def _order(self, job: JobId) -> Order:
        return Order(job, job in self._begun)

    def _send(self, message: Order | Answer) -> None:
        if self._child is not None:
            with suppress(OSError):  # it ended: the next news tell
                self._child.pipe.send(message)

    def news(self, timeout: float) -> Sequence[News]:
        """Wait for news, at most `timeout` seconds.

        Raises
        ------
        ConfigError
            The cluster can no longer be used, and waiting will not help.
        ServerError
            What talks to Ray ends again and again.
        """
        if self._child is None and not self._try_again(timeout):
            return []
        child = self._child
        assert child is not None  # noqa: S101
        news: list[News] = []
        try:
            while child.pipe.poll(0 if news else timeout):
                self._take(child.pipe.recv(), news)
                if self._child is None:
                    break
                timeout = 0
        except (EOFError, OSError):
            self._fell()
            news += self._gone()
        if self._is_stuck():
            news += self._gone()
        return news

    def stop(self) -> None:
        """Have the jobs close their records, and leave the cluster."""
        if self._child is not None:
            self._child.end(GOODBYE + 5)
            self._child = None

    def _take(self, message: Any, news: list[News]) -> None:
        if isinstance(message, Refused):
            self._refused(message.error, news)
        elif isinstance(message, Joined):
            self._back()
        elif isinstance(message, Offer):
            self._offer = message
            self._tell_of_machines(message)
        elif isinstance(message, Word):
            self._say(message.text)
        elif message.job in self._given:  # what comes after a job's end is of no use
            self._hear(message, news)

    def _hear(self, message: JobEvent | JobResult | Lost | Placed, news: list[News]) -> None:
        """Hear of a job that is given."""
        if isinstance(message, Placed):
            self._given[message.job] = True
            self._begun.add(message.job)
            return
        if isinstance(message, JobResult | Lost):
            del self._given[message.job]
        elif message.epoch >= 0:
            self._falls = 0
        news.append(message)

    def _join(self) -> None:
        """Join for the first time; a busy machine, or a new head, may need more than one try."""
        address, until = self._setting.address, time.monotonic()
        if address is not None:
            until += HEAD_STARTS
            wait_for_head(address, until, self._say)
        tries = 0
        while True:
            tries += 1
            child = self._child = _Child.start(self._setting)
            try:
                return self._await_joining(child)
            except BaseException as error:
                child.end()
                again = tries < _TRIES if address is None else time.monotonic() < until
                if not isinstance(error, ServerError) or not again:
                    raise

    def _await_joining(self, child: _Child) -> None:
        if not child.pipe.poll(_STARTING):
            raise ServerError(f"{self._name} does not answer within {_STARTING:.0f} s")
        try:
            self._take(child.pipe.recv(), [])
        except (EOFError, OSError):
            raise self._fallen() from None
        if not child.joined:
            raise self._fallen()

    def _fallen(self) -> GalaxyError:
        """Return why the process that talks to Ray ended before it joined: Ray ends it so, too."""
        wrong = wrong_token(str(self._setting.address), last_start(log_of(self._setting.home)))
        return wrong or ServerError(f"{self._name} cannot be used: see {self._log}")

    def _refused(self, error: GalaxyError, news: list[News]) -> None:
        """Raise what waiting cannot mend; otherwise try again later."""
        joined = self._child is not None and self._child.joined
        if (isinstance(error, ConfigError) and joined) or not self._has_joined:
            raise error
        news += self._gone()

    def _back(self) -> None:
        if self._child is not None:
            self._child.joined = True
        self._has_joined = True
        if self._told_gone:
            self._say(f"{self._name} is back")
        self._told_gone, self._pause = False, _FIRST_PAUSE

    def _fell(self) -> None:
        """Note that the process ended by itself; it may do so for ever."""
        self._falls += 1
        if self._falls >= _FALLS:
            raise ServerError(
                f"{self._name} failed {_FALLS} times with no epoch between them; the last word in "
                f"{self._log}: {last_line(Path(self._log))}"
            )

    def _is_stuck(self) -> bool:
        """Whether the process tries to join again for too long."""
        child = self._child
        if child is None or child.joined:
            return False
        return time.monotonic() - child.since > _STARTING

    def _gone(self) -> list[News]:
        """Hand all jobs back, and say so once."""
        if self._child is not None:
            self._child.end()
        self._child = self._offer = None
        if not self._told_gone:
            self._say(f"{self._name} is gone; its jobs go on when it is back (see {self._log})")
        self._told_gone = True
        self._next_try = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        reason, alone = f"{self._name} went away", self._setting.address is None
        # Where there is but this machine, a job at work may have taken it down.
        lost = [Lost(job, reason, counts=alone and at_work) for job, at_work in self._given.items()]
        self._given.clear()
        return list(lost)

    def _try_again(self, timeout: float) -> bool:
        """Join again when it is time; return whether somebody is at it."""
        wait = self._next_try - time.monotonic()
        if wait > timeout:
            time.sleep(timeout)
            return False
        time.sleep(max(0.0, wait))
        self._child = _Child.start(self._setting)
        return True

    def _tell_of_machines(self, offer: Offer) -> None:
        """Say how many machines there are, once a change."""
        there = offer.capacity
        if there.machines == self._told_machines:
            return
        self._told_machines = there.machines
        if there.machines:
            self._say(f"{_count(there.machines, 'machine')}, {_count(there.jobs, 'job')} at once")
        else:
            self._say(
                f"no machine of {self._name} can take a job: each needs {offer.need}; the "
                f"largest of {there.others} has {offer.largest}. Waiting for one to join."
            )

    @property
    def _name(self) -> str:
        address = self._setting.address
        return f"the Ray cluster at {address}" if address else "Ray on this machine"

    @property
    def _log(self) -> str:
        return str(log_of(self._setting.home))


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
