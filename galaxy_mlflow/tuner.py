"""One call of `tune`: as many trials for every arm, and the study file that comes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from filelock import FileLock, Timeout

from galaxy_mlflow import schema
from galaxy_mlflow.config import Study
from galaxy_mlflow.dispatch import dispatch
from galaxy_mlflow.display import Display
from galaxy_mlflow.errors import BusyError, ConfigError, RunError
from galaxy_mlflow.home import Home
from galaxy_mlflow.outcomes import JobEvent, JobResult, Report
from galaxy_mlflow.placement import Machine, checked, local_devices
from galaxy_mlflow.prepare import Prepared, prepare_features, prepare_weights
from galaxy_mlflow.runner import look_at_images
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.search import Search
from galaxy_mlflow.tracking import MlflowStore
from galaxy_mlflow.trial import TrialEvent, TrialId, TrialSpec, trial_name, tuning_splits
from galaxy_mlflow.trial_crew import OwnTrials, TrialCrew, TrialProcesses
from galaxy_mlflow.trial_storage import open_storage
from galaxy_mlflow.tune_display import TuneDisplay
from galaxy_mlflow.tune_settings import TunedSettings
from galaxy_mlflow.tuned_file import refuse_to_overwrite, tuned_name, with_tuned, write_tuned
from galaxy_mlflow.tuning_log import TuningLog

_LOCK_WAIT = 3.0  # seconds: a process that was killed a moment ago may not be quite gone
_ENDED = (schema.FINISHED, schema.PRUNED, schema.FAILED)


@dataclass(frozen=True)
class Tuning:
    """What is to be tuned, how and where to.

    Attributes
    ----------
    arms : that are tuned; the others keep their settings
    storage : SQLAlchemy URL; None: `tuning.db` in the home
    out : the study file to be written
    """

    study: Study
    arms: Sequence[str]
    machine: Machine
    storage: str | None
    out: Path


@dataclass(frozen=True)
class TuneOutcome:
    """What a call of `tune` came to.

    Attributes
    ----------
    tuned : by arm; empty where trials are left
    left : trials that did not end, and why
    behind : the tracking server has not all of it
    """

    tuned: dict[str, TunedSettings] = field(default_factory=dict)
    left: tuple[JobResult, ...] = ()
    behind: bool = False


def tune_study(wanted: Tuning, display: Display) -> TuneOutcome:
    """Train the trials that are left; when all have ended, write the tuned study.

    Raises
    ------
    GalaxyError
        The study, its data, the storage or the place of the result cannot be used.
    """
    _refuse_what_cannot_be_tuned(wanted)
    machine = checked(wanted.study, wanted.machine)
    study, home = wanted.study, Home.default()
    data, splits = look_at_images(study, study.tuning_splits, machine, display)
    store = MlflowStore(home.tracking_uri, home)
    with display.step("initial weights") as progress:
        weights = prepare_weights(study, wanted.arms, store, progress)
    with _alone(home, study.name):
        storage = open_storage(wanted.storage, home)
        searches = [Search(study, arm, data.data_hash, storage) for arm in wanted.arms]
        _tell_of_others(searches, display)
        prepared = Prepared(study, data, splits, home.path, weights)
        if machine.engine == "local":
            with display.step("features of frozen backbones") as progress:
                prepare_features(prepared, list(wanted.arms), home, machine.device, progress)
        call = _Call(prepared, machine, {s.arm: s for s in searches}, display)
        return call.run(wanted.out)


def _refuse_what_cannot_be_tuned(wanted: Tuning) -> None:
    study = wanted.study
    if not study.validates:
        raise ConfigError(
            f"study {study.name}: the protocol {study.protocol!r} has no validation part, and what "
            "is tuned on a test part is no result.\nTune it under the honest protocol, --set "
            "protocol=honest: an eighth of each training part (splits.val_fraction) chooses the "
            "settings, and the study file that is written is of that protocol"
        )
    if len(tuned_name(study.name)) > 100:
        raise ConfigError(f"{tuned_name(study.name)} is too long a name: give --set name=...")
    _refuse_to_tune_again(study, wanted.arms)
    refuse_to_overwrite(wanted.out)


def _refuse_to_tune_again(study: Study, arms: Sequence[str]) -> None:
    """Keep the record of an arm's trials: a second one would tell of its own trials only."""
    for arm in arms:
        if arm in study.tuned:
            raise ConfigError(
                f"study {study.name}: [tuned.{arm}] says that {arm} was tuned, and tuned again its "
                f"earlier trials would not be counted.\nTune the study it came from, "
                f"{study.tuned[arm].study}, with more --trials; or take the table [tuned.{arm}] "
                "out; or give the arms that were not tuned with --arms"
            )


@contextmanager
def _alone(home: Home, study: str) -> Iterator[None]:
    """Let one call at a time tune a study from this home."""
    home.path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(home.path / f"tuning-{study}.lock", timeout=_LOCK_WAIT)
    try:
        lock.acquire()
    except Timeout:
        raise BusyError(
            f"study {study} is being tuned from this home by another process: wait for it; "
            "--jobs and --engine ray train several trials at once"
        ) from None
    try:
        yield
    finally:
        lock.release()


def _tell_of_others(searches: Sequence[Search], display: Display) -> None:
    for search in searches:
        others = search.other_trials()
        if others and not search.trials():
            display.say(
                f"{search.arm}: tuning begins anew: {others} trials are of other settings, another "
                "space or other data; they are kept, and do not count"
            )


@dataclass
class _Call:
    """What all trials of one call share."""

    prepared: Prepared
    machine: Machine
    searches: dict[str, Search]
    display: Display
    crew: TrialCrew | None = None

    @property
    def study(self) -> Study:
        return self.prepared.study

    @cached_property
    def log(self) -> TuningLog:
        home = Home.default()
        return TuningLog(self.study, MlflowStore(home.tracking_uri, home), self.display.say)

    @cached_property
    def _devices(self) -> tuple[str, ...]:
        """Of the ranks of a trial of the local engine."""
        return local_devices(self.study, self.machine)

    @cached_property
    def shown(self) -> TuneDisplay:
        return TuneDisplay(self.display, self.study.tune.trials)

    def run(self, out: Path) -> TuneOutcome:
        """Train what is left, then write the result."""
        searches = list(self.searches.values())
        self.log.catch_up(searches)
        left = tuple(self._train())
        if left:
            return TuneOutcome(left=left, behind=self.log.behind)
        tuned = {search.arm: self._tuned(search) for search in searches}
        write_tuned(with_tuned(self.study, tuned), out)
        if self.log.behind:
            self.log.catch_up(searches)
        for search in searches:
            self.log.close(search, tuned[search.arm].model_dump_json(exclude_none=True))
        return TuneOutcome(tuned, behind=self.log.behind)

    def _train(self) -> Iterator[JobResult]:
        """Train the trials that are left; yield those that did not end."""
        jobs = self._jobs()
        if not jobs:
            return
        with self.shown.running(list(self.searches.values())):
            results = dispatch(jobs, self._crew_for(len(jobs)), self._hear, self.machine.rules)
            with closing(results):
                for result in results:
                    if not self._end(result):
                        yield result

    def _jobs(self) -> list[TrialId]:
        """Return the trials that have not ended, arms in turn: none is ahead of the others."""
        wanted = range(self.study.tune.trials)
        ended = {
            (arm, trial.number)
            for arm, search in self.searches.items()
            for trial in search.trials()
            if trial.state != schema.RUNNING
        }
        return [
            TrialId.of(self.study.name, arm, number)
            for number in wanted
            for arm in self.searches
            if (arm, number) not in ended
        ]

    def _crew_for(self, jobs: int) -> Callable[[Report], TrialCrew]:
        def crew(report: Report) -> TrialCrew:
            if self.machine.engine == "ray":
                self.crew = self._on_ray()
            elif self.machine.jobs == 1:
                self.crew = OwnTrials(self._spec, report)
            else:
                self.crew = TrialProcesses(self._spec, min(self.machine.jobs, jobs))
            return self.crew

        return crew

    def _on_ray(self) -> TrialCrew:
        from galaxy_mlflow.ray_crew import setting_of
        from galaxy_mlflow.ray_parcel import TrialOrder
        from galaxy_mlflow.ray_trials import RayTrials

        setting = setting_of(self.prepared, self.machine, Home.default().tracking_uri)

        def order(job: JobId) -> TrialOrder:
            search = self.searches[job.arm]
            return TrialOrder(search.settings(job.split), _folder(search, job.split))

        return RayTrials(setting, order, self.display.say)

    def _spec(self, job: JobId) -> TrialSpec:
        search = self.searches[job.arm]
        return TrialSpec(
            study=_with_settings(self.study, search, job.split),
            arm=job.arm,
            number=job.split,
            splits=tuning_splits(self.study, self.prepared.splits, job.arm),
            data=self.prepared.data,
            folder=Home.default().path / "tuning" / _folder(search, job.split),
            home=Home.default(),
            own_batch_size=self.study.arm[job.arm].batch_size,
            weights_file=self.prepared.weights[job.arm],
            device=self._devices[0],
            others=self._devices[1:],
            threads=self.machine.threads_a_job,
        )

    def _hear(self, event: JobEvent) -> None:
        """Hear of an epoch, and answer whether the trial is to stop."""
        if not isinstance(event, TrialEvent):
            if event.message:
                self.shown.say(event.message)
            return
        search, number = self.searches[event.job.arm], event.job.split
        stop = search.hear(number, event.place, event.curves)
        if self.crew is not None:
            self.crew.answer(event.job, stop)
        self.shown.epoch(event, search)
        self.log.epoch(search, number)

    def _end(self, result: JobResult) -> bool:
        """Note how a trial ended; return False where it did not."""
        search, number = self.searches[result.job.arm], result.job.split
        if result.status not in _ENDED:
            self.shown.result(search, result, None)
            return False
        search.end(number, result.status, result.reason)
        trial = search.trials()[number]
        self.shown.result(search, result, trial)
        self.log.end(search, trial)
        return True

    def _tuned(self, search: Search) -> TunedSettings:
        tuned = search.tuned(self.study.tune.trials)
        if tuned is None:
            raise RunError(
                f"arm {search.arm}: no trial was trained to its end: see the reasons in the "
                f"experiment {schema.tuning_of(self.study.name)}; a lower learning_rate may help"
            )
        return tuned


def _with_settings(study: Study, search: Search, number: int) -> Study:
    """Return the study with the settings that were drawn for a trial."""
    arms: Mapping[str, object] = {**study.arm, search.arm: search.settings(number)}
    return study.model_copy(update={"arm": arms})


def _folder(search: Search, number: int) -> str:
    """Return the name of a trial's folder, which no other trial has."""
    return f"{search.digest[:16]}/{search.arm}/{trial_name(number)}"
