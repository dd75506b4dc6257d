"""One call of `run`: prepare, plan, train what is left, and say what came of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace

from galaxy_mlflow import schema
from galaxy_mlflow.cache import GalaxyData
from galaxy_mlflow.config import Study
from galaxy_mlflow.display import Display
from galaxy_mlflow.engine import run_here, run_in_processes
from galaxy_mlflow.errors import (
    ClaimLostError,
    ConfigError,
    IdentityConflictError,
    ServerError,
    ServerRefusedError,
    SpoolError,
)
from galaxy_mlflow.home import Home
from galaxy_mlflow.plan import Plan, Selection, differ, identity_hashes, make_plan
from galaxy_mlflow.prepare import (
    Prepared,
    class_warnings,
    draw_samples,
    draw_splits,
    prepare_data,
    prepare_weights,
)
from galaxy_mlflow.processes import available_cores
from galaxy_mlflow.sinks import Courier
from galaxy_mlflow.splits import Split
from galaxy_mlflow.spool import Spool, spools_under
from galaxy_mlflow.tracking import MlflowStore
from galaxy_mlflow.worker import WAITING, JobResult, JobSpec
from mlflow_server.local import LocalServer, free_port, serving


@dataclass(frozen=True)
class Machine:
    """How this machine is used; none of it changes what a run computes but `threads`."""

    jobs: int = 1
    threads: int | None = None  # a job; None: the cores shared out among the jobs
    device: str = "auto"
    skip_bad: bool = False

    @property
    def threads_a_job(self) -> int:
        """Processor threads of each job."""
        return self.threads or max(1, available_cores() // self.jobs)


@dataclass(frozen=True)
class Outcome:
    """What a call of `run` did."""

    plan: Plan
    results: tuple[JobResult, ...] = ()

    @property
    def failed_before(self) -> bool:
        """Whether a wanted run had failed already, and was not tried again."""
        return self.plan.counts()[schema.FAILED] > 0 and not self.plan.retry_failed

    def counts(self) -> str:
        """Say how many wanted runs are in which state now."""
        now = {result.job: result.status for result in self.results}
        counts = Counter(now.get(run.job, run.status) for run in self.plan.runs)
        return ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))

    @property
    def unfinished(self) -> tuple[JobResult, ...]:
        """Jobs that were to be finished and are not."""
        return tuple(result for result in self.results if result.status != schema.FINISHED)


@dataclass(frozen=True)
class Ahead:
    """What a study has before it: its images, the wanted splits, and the runs left."""

    data: GalaxyData
    splits: dict[int, Split]
    plan: Plan


def look_ahead(study: Study, wanted: Selection, machine: Machine, display: Display) -> Ahead:
    """Check a study's data, draw its splits, and ask the server what is left.

    Raises
    ------
    GalaxyError
        The study, its data or the server cannot be used.
    """
    home = Home.default()
    with display.step("images") as progress:
        data = prepare_data(study, home, skip_bad=machine.skip_bad, progress=progress)
    for notice in data.notices:
        display.say(notice)
    if data.skipped:
        display.say(f"{len(data.skipped)} images or rows are left out (--skip-bad)")
    splits = draw_splits(study, data, wanted.splits)
    for warning in class_warnings(splits, data):
        display.say(f"warning: {warning}")
    store = MlflowStore(home.tracking_uri, home)
    return Ahead(data, splits, make_plan(study, data.data_hash, store, wanted))


def run_study(study: Study, wanted: Selection, machine: Machine, display: Display) -> Outcome:
    """Train what is left of a study on this machine.

    Raises
    ------
    GalaxyError
        The study, its data, its weights or the server cannot be used; nothing was started.
    """
    device = _device(machine.device)
    ahead = look_ahead(study, wanted, machine, display)
    if not ahead.plan.todo:
        return Outcome(ahead.plan)
    home = Home.default()
    arms = [arm for arm in study.arm if any(run.job.arm == arm for run in ahead.plan.todo)]
    store = MlflowStore(home.tracking_uri, home)
    with display.step("initial weights") as progress:
        weights = prepare_weights(study, arms, store, progress)
    samples = draw_samples(study, ahead.data, home)
    if wanted.replace:
        _make_way(ahead, study, store)
    prepared = Prepared(study, ahead.data, ahead.splits, samples, weights)
    machine = replace(machine, device=device)
    results = tuple(_train(prepared, ahead.plan, machine, display))
    return Outcome(ahead.plan, tuple(_try_again(result, store, display) for result in results))


def sync_spools(home: Home, store: MlflowStore, display: Display) -> bool:
    """Send what earlier runs left in the spool; return whether everything arrived.

    Raises
    ------
    ServerError
        The server cannot be reached; everything is kept.
    """
    arrived = [_sync(Spool(folder), store, display) for folder in spools_under(home.spool_here)]
    return all(arrived)


def _try_again(result: JobResult, store: MlflowStore, display: Display) -> JobResult:
    """Send what a job could not send at its end: the server may be back by now."""
    if result.status != WAITING:
        return result
    try:
        arrived = _sync(Spool(store.home.spool_of(result.job)), store, display)
    except ServerError:
        return result
    return replace(result, status=schema.FINISHED, reason="") if arrived else result


def _sync(spool: Spool, store: MlflowStore, display: Display) -> bool:
    """Send one spool; what is wrong with it alone is said and does not keep others waiting."""
    try:
        return _deliver(spool, store, display)
    except ClaimLostError as error:
        display.say(f"{error}: left to it")
        return True
    except (ServerRefusedError, IdentityConflictError, SpoolError) as error:
        display.say(f"{spool.folder}: {error}")
        return False


def _deliver(spool: Spool, store: MlflowStore, display: Display) -> bool:
    spool.acquire()
    try:
        job, waiting = spool.start().job, spool.waiting
        if waiting:
            try:
                Courier(spool, store).deliver()
            finally:
                while store.news:
                    display.say(store.news.popleft())
            display.say(f"{job.study} {job.run_name}: {waiting - spool.waiting} records sent")
        if spool.ended == schema.FINISHED and not spool.waiting:
            spool.discard()
        return not spool.waiting
    finally:
        spool.release()


def _train(
    prepared: Prepared, plan: Plan, machine: Machine, display: Display
) -> Iterator[JobResult]:
    study = prepared.study
    epochs = {name: arm.epochs for name, arm in study.arm.items()}
    with _address(machine) as uri, display.running(plan, epochs):
        specs = list(_specs(prepared, plan, machine, uri))
        if machine.jobs == 1:
            results = run_here(specs, display.event)
        else:
            results = run_in_processes(specs, machine.jobs, display.event)
        with closing(results):
            for result in results:
                display.result(result)
                yield result


@contextmanager
def _address(machine: Machine) -> Iterator[str]:
    """Yield where workers send records: several at once need a server before SQLite."""
    home = Home.default()
    if machine.jobs == 1 or not home.owns(home.tracking_uri):
        yield home.tracking_uri
        return
    server = LocalServer(home.database_uri, home.artifacts, free_port(), home.path / "server.log")
    with serving(server) as uri:
        yield uri


def _specs(prepared: Prepared, plan: Plan, machine: Machine, uri: str) -> Iterator[JobSpec]:
    for run in plan.todo:
        yield JobSpec(
            study=prepared.study,
            arm=run.job.arm,
            split=prepared.splits[run.job.split],
            data=prepared.data,
            home=Home.default(),
            uri=uri,
            weights_file=prepared.weights[run.job.arm],
            samples=prepared.samples,
            device=machine.device,
            threads=machine.threads_a_job,
        )


def _device(wanted: str) -> str:
    """Return the device to train on.

    Raises
    ------
    ConfigError
        This machine has no such device.
    """
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    known = ["cpu", "cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    if wanted not in known or (wanted == "cuda" and not torch.cuda.is_available()):
        raise ConfigError(f"--device {wanted}: this machine has no such device; try auto or cpu")
    return wanted


def _make_way(ahead: Ahead, study: Study, store: MlflowStore) -> None:
    """Delete runs that are to be replaced, on the server and in the spool."""
    for run in ahead.plan.todo:
        if run.replaces is not None:
            store.delete(run.replaces.run_id)
        spool = Spool(store.home.spool_of(run.job))
        if not (spool.folder / "run.json").is_file():
            continue
        hashes = identity_hashes(study, run.job.arm, ahead.data.data_hash)
        spool.acquire()
        if run.replaces is not None or differ(spool.start().tags, hashes):
            spool.discard()
        spool.release()
