"""The process that talks to Ray: it gives out tasks and tells its parent what becomes of them.

It is a process of its own because Ray ends a process whose cluster is gone. It says `Joined` or
`Refused` first; then it takes an `Order` or an `Answer` at a time, and None to stop.
"""

from __future__ import annotations

import pickle
import signal
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from typing import Any

from galaxy_mlflow.dispatch import Lost
from galaxy_mlflow.errors import ConfigError, GalaxyError
from galaxy_mlflow.outcomes import STOPPED, JobEvent, JobResult
from galaxy_mlflow.processes import watch_parent
from galaxy_mlflow.ray_cluster import Cluster, capacity, join, largest, slots_of
from galaxy_mlflow.ray_log import RayLog
from galaxy_mlflow.ray_mail import Mailbox, Placed, Unfit, opened
from galaxy_mlflow.ray_need import Need, task_options, why
from galaxy_mlflow.ray_parcel import Answer, Common, Order, Parcel, RaySetting, common_of
from galaxy_mlflow.ray_pipe import Joined, Offer, Refused, Word
from galaxy_mlflow.ray_task import task
from galaxy_mlflow.resources import Resources
from galaxy_mlflow.schema import JobId

_LOOK = 3.0  # seconds between looks at the machines
GOODBYE = 14.0
"""Seconds that jobs have to close their records when they are stopped: after them the cluster and
the server are to end, all within the `LAST_MOMENT` of a command."""


@dataclass(frozen=True)
class _Done:
    job: JobId
    reference: Any
    future: Future[Any]


@dataclass(frozen=True)
class _Measured:
    future: Future[Any]


@dataclass(frozen=True)
class _Letters:
    future: Future[Any]
    done: _Done | None = None  # whose last letters these are


def drive(setting: RaySetting, pipe: Connection) -> None:
    """Serve a parent until it says None or is gone; the body of the process."""
    watch_parent()
    _stay_deaf()  # Ray lifts the mask we were born with
    log = RayLog.take_all(setting.home)
    try:
        cluster = join(setting.address, setting.home, log)
        _stay_deaf()  # Ray takes SIGTERM for its own
    except GalaxyError as error:
        pipe.send(Refused(error))
        return
    pipe.send(Joined())
    try:
        _Driver(setting, cluster, pipe).run()
    except GalaxyError as error:
        pipe.send(Refused(error))
    finally:
        cluster.leave()


def _stay_deaf() -> None:
    """Leave it to the parent to say when to stop, whoever else is told by a signal."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)


@dataclass
class _Machines:
    """What is known of the machines: where jobs are, and who cannot train any."""

    placed: dict[JobId, Placed]  # where a job was last at work: its spool is there
    ended_there: set[JobId]  # without a result, and without an epoch since
    unfit: dict[str, Unfit]  # by node
    trained: bool = False  # an epoch, by any of them

    def hear(self, event: JobEvent) -> None:
        """Note that an epoch was trained."""
        if event.epoch < 0:
            return
        self.trained = True
        self.ended_there.discard(event.job)
        if self.unfit and event.job in self.placed:
            self.unfit.pop(self.placed[event.job].node, None)

    def note_unfit(self, letter: Unfit) -> bool:
        """Note that a machine trains nothing for now; return whether that is new."""
        self.placed.pop(letter.job, None)
        self.ended_there.discard(letter.job)
        known = self.unfit.get(letter.node)
        self.unfit[letter.node] = letter
        return known is None or known.lasting != letter.lasting

    def note_end(self, news: JobResult | Lost) -> None:
        """Draw a job back to where its spool is once; where it ends again, others shall try."""
        if isinstance(news, JobResult) and news.again and news.status != STOPPED:
            return
        last = isinstance(news, JobResult) and not news.again
        if last or news.job in self.ended_there:
            self.placed.pop(news.job, None)
            self.ended_there.discard(news.job)
        else:
            self.ended_there.add(news.job)

    def require_one(self, nodes: set[str]) -> None:
        """Stop the call where no machine can train this study, and none ever did.

        Raises
        ------
        ConfigError
        """
        found = [self.unfit.get(node) for node in nodes]
        reasons = {f"machine {one.machine}: {one.reason}" for one in found if one and one.lasting}
        if self.trained or not nodes or not all(one and one.lasting for one in found):
            return
        raise ConfigError("no machine can train this study\n" + "\n".join(sorted(reasons)[:5]))


class _Driver:
    def __init__(self, setting: RaySetting, cluster: Cluster, pipe: Connection) -> None:
        import ray

        self.setting = setting
        self.cluster = cluster
        self.pipe = pipe
        self.things: SimpleQueue[Any] = SimpleQueue()
        self.tasks: dict[JobId, Any] = {}  # what was given and has not ended
        self.machines = _Machines({}, set(), {})
        self.offer: Offer | None = None
        self.next_look = 0.0
        there = ray.cluster_resources()  # type: ignore[no-untyped-call]
        common = common_of(setting, there)
        if cluster.address is None and common.device == "cuda" and not there.get("GPU"):
            raise ConfigError("--device cuda: Ray finds no GPU on this machine; try auto or cpu")
        self.parcel = ray.put(Parcel.of(common))
        self.weights = {} if cluster.address is None else _sent(common)
        self.need = Need.of(setting, common)
        self.mailbox = _actor(cluster.node)
        # max_calls=0: a process that has trained on a GPU stays, and trains the next job
        self.train = ray.remote(max_retries=0, max_calls=0)(task)

    def run(self) -> None:
        threading.Thread(target=self._listen, daemon=True).start()
        self._wait_for_letters()
        while True:
            if time.monotonic() >= self.next_look:
                self._look()
            try:
                thing = self.things.get(timeout=max(0.0, self.next_look - time.monotonic()))
            except Empty:
                continue
            if thing is None:
                return self._stop()
            self._take(thing)

    def _listen(self) -> None:
        """Pass on what the parent says."""
        try:
            while True:
                self.things.put(self.pipe.recv())
        except (EOFError, OSError):
            self.things.put(None)

    def _take(self, thing: Any) -> None:
        if isinstance(thing, Order):
            self._submit(thing)
        elif isinstance(thing, Answer):
            self.mailbox.answer.remote(pickle.dumps(thing.job), thing.stop)
        elif isinstance(thing, _Done):  # its last letters first
            later = self.mailbox.take.remote().future()
            later.add_done_callback(lambda future: self.things.put(_Letters(future, thing)))
        elif isinstance(thing, _Letters):
            self._read(thing)
        elif isinstance(thing, _Measured):
            self._note_measured(thing.future)

    def _look(self) -> None:
        """See which machines are there; tell the parent of a change."""
        import ray

        self.next_look = time.monotonic() + _LOOK
        try:
            nodes = ray.nodes()  # type: ignore[no-untyped-call]
        except Exception:  # the head is away: Ray waits for it a while, then ends this process
            return
        need = self.need.known or self.need.first
        offer = Offer(capacity(nodes, need), need, largest(nodes))
        if not offer.capacity.jobs and self.cluster.address is None:
            raise ConfigError(
                f"a job needs {need}; this machine has {offer.largest}: "
                "see [resources] in the study file, or --threads"
            )
        if offer.capacity.jobs and self.need.known is None:
            self._measure(nodes)
            return
        able = [node for node in nodes if node["Alive"] and slots_of(node["Resources"], need)]
        self.machines.require_one({node["NodeID"] for node in able})
        if offer != self.offer:
            self.offer = offer
            self.pipe.send(offer)

    def _submit(self, order: Order) -> None:
        job = order.job
        reference = self._trainer(job).remote(self.parcel, self.weights, self.mailbox, order)
        self.tasks[job] = reference
        reference.future().add_done_callback(
            lambda future: self.things.put(_Done(job, reference, future))
        )

    def _trainer(self, job: JobId) -> Any:
        """Return the task with its resources, drawn to where the job's spool is."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options = task_options(self.need.known or Resources())
        if job in self.machines.placed:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(
                self.machines.placed[job].node, soft=True, _spill_on_unavailable=True
            )
        return self.train.options(**options)

    def _wait_for_letters(self) -> None:
        later = self.mailbox.wait.remote().future()
        later.add_done_callback(lambda future: self.things.put(_Letters(future)))

    def _read(self, letters: _Letters) -> None:
        # Without the mailbox there is no going on: its error ends this process.
        for letter in map(opened, letters.future.result()):
            self._open(letter)
        if letters.done is None:
            self._wait_for_letters()
        else:
            self._end(letters.done)

    def _open(self, letter: JobEvent | Placed | Unfit) -> None:
        if letter.job not in self.tasks:  # it came late
            return
        if isinstance(letter, Unfit):
            self._give_back(letter)
            return
        if isinstance(letter, Placed):
            self.machines.placed[letter.job] = letter
        else:
            self.machines.hear(letter)
        self.pipe.send(letter)

    def _give_back(self, letter: Unfit) -> None:
        """Take a job back from a machine that is not fit; the task there keeps its place busy."""
        del self.tasks[letter.job]
        if self.machines.note_unfit(letter):
            words = f"machine {letter.machine}: {letter.reason}"
            self.pipe.send(Word(f"{words}\nIt gets no work for now, and is tried again later."))
        self.next_look = 0.0
        self.pipe.send(Lost(letter.job, letter.reason, counts=False))

    def _end(self, done: _Done) -> None:
        if self.tasks.get(done.job) is not done.reference:  # it was given back before
            return
        del self.tasks[done.job]
        news = self._outcome(done)
        self.machines.note_end(news)
        self.pipe.send(news)

    def _outcome(self, done: _Done) -> JobResult | Lost:
        error = done.future.exception()
        if error is None:
            news: JobResult | Lost = done.future.result()
            return news
        where = self.machines.placed.get(done.job)
        return Lost(done.job, why(error, where.machine if where else "a machine"))

    def _measure(self, nodes: list[dict[str, Any]]) -> None:
        """Have a machine measure what a job takes, unless one is at it."""
        if not self.need.measuring:
            reference = self.need.start(self.parcel, nodes)
            reference.future().add_done_callback(lambda future: self.things.put(_Measured(future)))

    def _note_measured(self, future: Future[Any]) -> None:
        error = future.exception()
        if error is None:
            self.need.take(future.result())
            self.next_look = 0.0
            return
        reason = why(error, "a machine")
        self.need.failed(reason)
        if self.need.failures == 1:
            self.pipe.send(Word(f"what a job takes could not be measured: {reason}; once more"))

    def _stop(self) -> None:
        """Have jobs close their records; wait until they have, but not for ever."""
        import ray

        for reference in self.tasks.values():
            ray.cancel(reference)
        waiting = list(self.tasks.values())
        if waiting:
            ray.wait(waiting, num_returns=len(waiting), timeout=GOODBYE)


def _sent(common: Common) -> dict[str, Any]:
    """Put the initial weights where all machines can get them; return them by their sha256."""
    import ray

    files = {file.digest: file.path for file in common.weights.values() if file is not None}
    return {digest: ray.put(path.read_bytes()) for digest, path in files.items()}


def _actor(node: str) -> Any:
    """Start the mailbox on this machine."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(node, soft=False)
    options = {"num_cpus": 0, "max_concurrency": 1000, "scheduling_strategy": here}
    return ray.remote(Mailbox).options(**options).remote()
