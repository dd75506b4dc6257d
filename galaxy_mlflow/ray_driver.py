"""The process that talks to Ray: it gives out tasks and tells its parent what becomes of them.

It is a process of its own because Ray ends a process whose cluster is gone. It says `Joined` or
`Refused` first; then it takes a `JobId` to be trained at a time, and None to stop.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from galaxy_mlflow.dispatch import Lost
from galaxy_mlflow.errors import ConfigError, GalaxyError
from galaxy_mlflow.files import write_json
from galaxy_mlflow.processes import watch_parent
from galaxy_mlflow.ray_cluster import Capacity, Cluster, capacity, join, largest
from galaxy_mlflow.ray_job import measure_there, task
from galaxy_mlflow.ray_mail import Mailbox, Placed, opened
from galaxy_mlflow.ray_parcel import Common, Parcel, RaySetting, common_of
from galaxy_mlflow.resources import Resources, cores, given
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.worker import JobResult, code_version

_LOOK = 3.0  # seconds between looks at the machines
GOODBYE = 20.0
"""Seconds that jobs have to close their records when they are stopped."""


@dataclass(frozen=True)
class Joined:
    """The cluster has let us in."""


@dataclass(frozen=True)
class Refused:
    """The cluster cannot be used."""

    error: GalaxyError


@dataclass(frozen=True)
class Offer:
    """What the cluster can do now, and what a job takes."""

    capacity: Capacity
    need: Resources
    largest: str


@dataclass(frozen=True)
class _Done:
    job: JobId
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
    signal.signal(signal.SIGINT, lambda *_: None)  # Ray lifts the mask we were born with
    log = setting.home.path / "ray.log"
    _write_to(log)
    try:
        cluster = join(setting.address, setting.home, log)
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


def _write_to(log: Path) -> None:
    """Have all that Ray prints go to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    os.close(handle)


class _Driver:
    def __init__(self, setting: RaySetting, cluster: Cluster, pipe: Connection) -> None:
        import ray

        self.setting = setting
        self.cluster = cluster
        self.pipe = pipe
        self.things: SimpleQueue[Any] = SimpleQueue()
        self.tasks: dict[JobId, Any] = {}  # what was given and has not ended
        self.placed: dict[JobId, Placed] = {}  # where it was last at work
        self.offer: Offer | None = None
        self.next_look = 0.0
        self.measuring = False
        common = common_of(setting, ray.cluster_resources())  # type: ignore[no-untyped-call]
        self.parcel = ray.put(Parcel.of(common))
        self.weights = {} if cluster.address is None else _sent(common)
        self.need = given(setting.study, common.device, setting.threads) or _known(self._note())
        self.on_gpu = common.device.startswith("cuda")
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
        if isinstance(thing, JobId):
            self._submit(thing)
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
        if self.need is None:
            self._measure()
            return
        try:
            nodes = ray.nodes()  # type: ignore[no-untyped-call]
        except Exception:  # the head is away: Ray waits for it a while, then ends this process
            return
        offer = Offer(capacity(nodes, self.need), self.need, largest(nodes))
        if not offer.capacity.jobs and self.cluster.address is None:
            raise ConfigError(
                f"a job needs {self.need}; this machine has {offer.largest}: "
                "see [resources] in the study file, or --threads"
            )
        if offer != self.offer:
            self.offer = offer
            self.pipe.send(offer)

    def _submit(self, job: JobId) -> None:
        reference = self._trainer(job).remote(self.parcel, self.weights, self.mailbox, job)
        self.tasks[job] = reference
        reference.future().add_done_callback(lambda future: self.things.put(_Done(job, future)))

    def _trainer(self, job: JobId) -> Any:
        """Return the task with its resources, drawn to where the job's spool is."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options = _options(self.need or Resources())
        if job in self.placed:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(
                self.placed[job].node, soft=True, _spill_on_unavailable=True
            )
        return self.train.options(**options)

    def _wait_for_letters(self) -> None:
        later = self.mailbox.wait.remote().future()
        later.add_done_callback(lambda future: self.things.put(_Letters(future)))

    def _read(self, letters: _Letters) -> None:
        # Without the mailbox there is no going on: its error ends this process.
        for letter in map(opened, letters.future.result()):
            if isinstance(letter, Placed):
                self.placed[letter.job] = letter
            else:
                self.pipe.send(letter)
        if letters.done is None:
            self._wait_for_letters()
        else:
            self._end(letters.done)

    def _end(self, done: _Done) -> None:
        self.tasks.pop(done.job, None)
        news = self._outcome(done)
        if isinstance(news, JobResult) and not news.again:
            self.placed.pop(done.job, None)
        self.pipe.send(news)

    def _outcome(self, done: _Done) -> JobResult | Lost:
        error = done.future.exception()
        if error is None:
            result: JobResult = done.future.result()
            return result
        where = self.placed.get(done.job)
        return Lost(done.job, _why(error, where.machine if where else "a machine"))

    def _measure(self) -> None:
        """Have a machine measure what a job takes, unless one is at it."""
        import ray

        if self.measuring:
            return
        self.measuring = True
        first = Resources(cores(self.setting.study, self.setting.threads), float(self.on_gpu))
        measuring = ray.remote(max_retries=0, max_calls=1)(measure_there)
        reference = measuring.options(**_options(first)).remote(self.parcel)
        reference.future().add_done_callback(lambda future: self.things.put(_Measured(future)))

    def _note_measured(self, future: Future[Any]) -> None:
        self.measuring = False
        error = future.exception()
        cause = getattr(error, "cause", None)
        if isinstance(cause, GalaxyError):
            raise cause
        if error is None:
            self.need = future.result()
            write_json(self._note(), asdict(self.need))
        self.next_look = time.monotonic() if error is None else self.next_look

    def _note(self) -> Path:
        """Return the file that keeps what was measured for this study."""
        setting = self.setting
        hashes = sorted(setting.study.config_hash(arm) for arm in setting.study.arm)
        said = setting.study.resources.model_dump_json()
        facts = [code_version(), setting.device, str(setting.threads), said, *hashes]
        name = sha256("\n".join(facts).encode()).hexdigest()[:16]
        return setting.home.cache / "resources" / f"{name}.json"

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


def _options(need: Resources) -> dict[str, Any]:
    options: dict[str, Any] = {"num_cpus": need.cpus, "memory": int(need.memory_gb * 1e9)}
    if need.gpus:  # the process may train its next job on another GPU: it must see all of them
        seen = {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}
        options |= {"num_gpus": need.gpus, "runtime_env": {"env_vars": seen}}
    return options


def _known(note: Path) -> Resources | None:
    try:
        return Resources(**json.loads(note.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _why(error: BaseException, machine: str) -> str:
    """Say what became of a task that gave no result."""
    from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError

    if isinstance(error, OutOfMemoryError):
        return f"{machine} ran out of memory: set memory_gb under [resources]"
    if isinstance(error, WorkerCrashedError):
        return f"its process on {machine} died"
    if isinstance(error, NodeDiedError):
        return f"{machine} is gone"
    if isinstance(error, RayTaskError):
        return f"{machine}: {str(error).strip().rpartition(chr(10))[2]}"
    return f"{machine}: {type(error).__name__}"
