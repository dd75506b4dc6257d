"""One call of `run`: prepare, plan, train what is left, and say what came of it."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property

from galaxy_mlflow import schema
from galaxy_mlflow.cache import GalaxyData
from galaxy_mlflow.config import Study
from galaxy_mlflow.dispatch import Crew, dispatch
from galaxy_mlflow.display import Display
from galaxy_mlflow.engine import OwnProcess, Processes
from galaxy_mlflow.errors import ServerError
from galaxy_mlflow.home import Home
from galaxy_mlflow.known import KnownRuns, note_runs
from galaxy_mlflow.outcomes import STOPPED, WAITING, JobResult, Report
from galaxy_mlflow.placement import Machine, checked, local_devices
from galaxy_mlflow.plan import Plan, Selection, differ, identity_hashes, make_plan
from galaxy_mlflow.prepare import (
    Prepared,
    Splits,
    class_warnings,
    draw_samples,
    draw_splits,
    label_warnings,
    prepare_data,
    prepare_features,
    prepare_weights,
    require_imagenet_here,
)
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.spool import Spool
from galaxy_mlflow.tidy import tidy
from galaxy_mlflow.tracking import MlflowStore
from galaxy_mlflow.worker import JobSpec
from mlflow_server.local import LocalServer, free_port, serving


@dataclass(frozen=True)
class Outcome:
    """What a call of `run` did."""

    plan: Plan
    results: tuple[JobResult, ...] = ()
    offline: bool = False

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
        """Jobs that were to be finished and are not; offline, those trained to the end are."""
        done = (schema.FINISHED, *[WAITING] * self.offline)
        return tuple(result for result in self.results if result.status not in done)


@dataclass(frozen=True)
class Ahead:
    """What a study has before it: its images, the wanted splits, and the runs left."""

    data: GalaxyData
    splits: Splits
    plan: Plan


def look_ahead(study: Study, wanted: Selection, machine: Machine, display: Display) -> Ahead:
    """Check a study's data, draw its splits, and ask the server what is left.

    Raises
    ------
    GalaxyError
        The study, its data or the server cannot be used.
    """
    data, splits = look_at_images(study, wanted.splits, machine, display)
    return Ahead(data, splits, make_plan(study, data.data_hash, _runs(study, machine), wanted))


def look_at_images(
    study: Study, numbers: Sequence[int], machine: Machine, display: Display
) -> tuple[GalaxyData, Splits]:
    """Check a study's data and draw some of its splits; say what is to be known of them.

    Raises
    ------
    GalaxyError
        The data cannot be used.
    """
    with display.step("images") as progress:
        data = prepare_data(study, Home.default(), skip_bad=machine.skip_bad, progress=progress)
    for notice in data.notices:
        display.say(notice)
    if data.skipped:
        display.say(f"{len(data.skipped)} images or rows are left out (--skip-bad)")
    splits = draw_splits(study, data, numbers)
    for warning in [*class_warnings(splits, data), *label_warnings(study, splits, data)]:
        display.say(f"warning: {warning}")
    return data, splits


def _runs(study: Study, machine: Machine) -> MlflowStore | KnownRuns:
    """Return what is asked for runs and their files: the server, or this home alone."""
    home = Home.default()
    return KnownRuns(home, study.name) if machine.offline else MlflowStore(home.tracking_uri, home)


def make_ready(study: Study, wanted: Selection, machine: Machine, display: Display) -> Prepared:
    """Have all here that training needs, and note what the server has: for `run --offline`.

    Raises
    ------
    GalaxyError
        The study, its data, its weights or the server cannot be used.
    """
    ahead = look_ahead(study, wanted, machine, display)
    prepared = _prepare(study, ahead, wanted.arms, machine, display)
    home = Home.default()
    note_runs(MlflowStore(home.tracking_uri, home), study.name)
    return prepared


def run_study(study: Study, wanted: Selection, machine: Machine, display: Display) -> Outcome:
    """Train what is left of a study.

    Raises
    ------
    GalaxyError
        The study, its data, its weights or the server cannot be used; nothing was started.
    """
    machine = checked(study, machine)
    ahead = look_ahead(study, wanted, machine, display)
    runs = _runs(study, machine)
    if isinstance(runs, MlflowStore):
        tidy(runs.home, runs, study.name)
    if not ahead.plan.todo:
        return Outcome(ahead.plan, offline=machine.offline)
    arms = [arm for arm in study.arm if any(run.job.arm == arm for run in ahead.plan.todo)]
    prepared = _prepare(study, ahead, arms, machine, display)
    if wanted.replace and isinstance(runs, MlflowStore):
        _make_way(ahead, study, runs)
    if machine.engine == "local":
        compute_features(prepared, arms, machine.device, display)
    results = tuple(_train(prepared, ahead.plan, machine, display))
    return Outcome(ahead.plan, results, machine.offline)


def compute_features(
    prepared: Prepared, arms: Sequence[str], device: str, display: Display
) -> None:
    """Compute the features of arms with frozen backbones, where they are not kept yet."""
    with display.step("features of frozen backbones") as progress:
        prepare_features(prepared, arms, Home.default(), device, progress)


def _prepare(
    study: Study, ahead: Ahead, arms: Sequence[str], machine: Machine, display: Display
) -> Prepared:
    """Make or fetch what some arms begin with, and draw the picture of the data."""
    if machine.offline:
        require_imagenet_here(study, arms)
    with display.step("initial weights") as progress:
        weights = prepare_weights(study, arms, _runs(study, machine), progress)
    samples = draw_samples(study, ahead.data, Home.default())
    return Prepared(study, ahead.data, ahead.splits, samples, weights)


def _train(
    prepared: Prepared, plan: Plan, machine: Machine, display: Display
) -> Iterator[JobResult]:
    epochs = {name: arm.epochs for name, arm in prepared.study.arm.items()}
    jobs = [run.job for run in plan.todo]
    home = Home.default()
    with _address(machine) as uri, display.running(plan, epochs):
        call = _Call(prepared, plan, machine, uri, display.say)
        results = dispatch(jobs, call.crew(len(jobs)), display.event, machine.rules)
        with closing(results):
            for result in results:
                display.result(result)
                if not machine.offline:
                    _leave_word(result, MlflowStore(uri, home))
                yield result


def _leave_word(result: JobResult, store: MlflowStore) -> None:
    """Leave the reason why a run was given up where `status` finds it, if the server is there."""
    if result.status != STOPPED:
        return
    with suppress(ServerError):
        run = store.find(result.job)
        if run is not None:
            store.send_tags(run.run_id, {schema.REASON: result.reason[:5000]})


@contextmanager
def _address(machine: Machine) -> Iterator[str]:
    """Yield where workers send records: several at once need a server before SQLite."""
    home = Home.default()
    alone = machine.jobs == 1 and machine.engine == "local"
    if machine.offline or alone or not home.owns(home.tracking_uri):
        yield home.tracking_uri
        return
    server = LocalServer(home.database_uri, home.artifacts, free_port(), home.path / "server.log")
    with serving(server) as uri:
        yield uri


@dataclass(frozen=True)
class _Call:
    """What all jobs of one call of `run` share."""

    prepared: Prepared
    plan: Plan
    machine: Machine
    uri: str  # where records are sent
    say: Callable[[str], None]
    session: str = field(default_factory=lambda: uuid.uuid4().hex[:8])

    def crew(self, jobs: int) -> Callable[[Report], Crew]:
        """Return what makes the engine's crew for this many jobs."""
        if self.machine.engine == "ray":
            return self._ray
        if self.machine.jobs == 1:
            return lambda report: OwnProcess(self._spec, report)
        return lambda _: Processes(self._spec, min(self.machine.jobs, jobs))

    @cached_property
    def _begun(self) -> frozenset[JobId]:
        """Jobs that the server has a run of already."""
        return frozenset(run.job for run in self.plan.todo if run.record is not None)

    @cached_property
    def _devices(self) -> tuple[str, ...]:
        """Of the ranks of a job of the local engine."""
        return local_devices(self.prepared.study, self.machine)

    def _spec(self, job: JobId) -> JobSpec:
        return JobSpec(
            study=self.prepared.study,
            arm=job.arm,
            split=self.prepared.splits.of(job.split, self.prepared.study.arm[job.arm]),
            data=self.prepared.data,
            home=Home.default(),
            uri=self.uri,
            weights_file=self.prepared.weights[job.arm],
            samples=self.prepared.samples,
            device=self._devices[0],
            others=self._devices[1:],
            threads=self.machine.threads_a_job,
            session=self.session,
            begun=job in self._begun,
            retry_failed=self.plan.retry_failed,
            offline=self.machine.offline,
        )

    def _ray(self, _: Report) -> Crew:
        from galaxy_mlflow.ray_crew import RayCrew, setting_of

        setting = replace(
            setting_of(self.prepared, self.machine, self.uri),
            session=self.session,
            begun=self._begun,
            retry_failed=self.plan.retry_failed,
        )
        return RayCrew(setting, self.say)


def _make_way(ahead: Ahead, study: Study, store: MlflowStore) -> None:
    """Delete runs that are to be replaced, on the server and in the spool."""
    for run in ahead.plan.todo:
        if run.replaces is not None:
            store.delete(run.replaces.run_id)
        spool = Spool(store.home.spool_of(run.job))
        if not spool.exists:
            continue
        hashes = identity_hashes(study, run.job.arm, ahead.data.data_hash)
        spool.acquire()
        if run.replaces is not None or differ(spool.start().tags, hashes):
            spool.discard()
        spool.release()
