"""One job from claim to finish: resume, train, record, and leave nothing half done."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from socket import gethostname

from galaxy_mlflow import schema
from galaxy_mlflow.cache import GalaxyData
from galaxy_mlflow.checkpoints import CheckpointFolder
from galaxy_mlflow.claims import owner_tag, place
from galaxy_mlflow.config import Study
from galaxy_mlflow.data_input import data_input
from galaxy_mlflow.errors import (
    CheckpointError,
    ClaimLostError,
    DivergedError,
    FailedThereError,
    GalaxyError,
    ServerError,
    ServerRefusedError,
)
from galaxy_mlflow.features import ensure_features
from galaxy_mlflow.home import Home
from galaxy_mlflow.job import TrainingJob
from galaxy_mlflow.keeper import CheckpointKeeper
from galaxy_mlflow.machine import hardware, software
from galaxy_mlflow.outcomes import (
    BUSY,
    WAITING,
    JobEvent,
    JobResult,
    Report,
    is_the_machines,
    stopped_by,
)
from galaxy_mlflow.processes import interruption, was_interrupted
from galaxy_mlflow.progress import EpochRecord
from galaxy_mlflow.ranks import change_of_ranks, team_of
from galaxy_mlflow.resume import Resumption
from galaxy_mlflow.run_files import write_run_files
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.sinks import MlflowSink, SpoolSink
from galaxy_mlflow.splits import Split
from galaxy_mlflow.spool import RunStart, Spool
from galaxy_mlflow.study_note import page_tags
from galaxy_mlflow.team import Team
from galaxy_mlflow.timm_names import is_timm
from galaxy_mlflow.tracking import MlflowStore
from galaxy_mlflow.train import Trainer


@dataclass(frozen=True)
class JobSpec:
    """All a worker needs to train one job, on this machine or another."""

    study: Study
    arm: str
    split: Split
    data: GalaxyData
    home: Home
    uri: str  # where to send records
    weights_file: Path | None = None
    samples: Path | None = None  # a picture of the data
    device: str = "cpu"
    others: tuple[str, ...] = ()  # devices of further ranks
    threads: int = 1  # of all ranks together
    patience: float = 60.0  # seconds to wait for the server once training has ended
    session: str = ""  # of whoever gives the jobs: they are given again only if the other is gone
    begun: bool = False  # the server has a run of it: without its checkpoint nothing is begun anew
    retry_failed: bool = False  # train it although another worker marked it failed
    offline: bool = False  # ask no server: records are for `sync` to send

    @property
    def job(self) -> JobId:
        """The identity of the run."""
        return JobId(self.study.name, self.split.number, self.arm)


def run_job(spec: JobSpec, report: Report) -> JobResult:
    """Train one job to its end, or go on with it where it stopped.

    A run that diverges or breaks is marked failed, and the result says so. KeyboardInterrupt
    passes through: the run stays `running` and resumes when it is asked for again.
    """
    spool = Spool(spec.home.spool_of(spec.job))
    try:
        spool.acquire()
        try:
            return _Worker(spec, spool, report).run()
        finally:
            spool.leave()
    except ClaimLostError as error:  # whoever has it is alive: its end is to be waited for
        return JobResult(spec.job, BUSY, str(error), again=True)
    except FailedThereError as error:
        return JobResult(spec.job, schema.FAILED, str(error))
    except Exception as error:
        return stopped_by(error, spec.job, spec.home)


_GOODBYE = 10.0
"""Seconds at most to send what waits when a run is stopped: a batch system soon kills it."""
_GIVE_WAY = 5e-4
"""Seconds for which training may wait for the threads that write and send its records."""


class _Worker:
    def __init__(self, spec: JobSpec, spool: Spool, report: Report) -> None:
        self.spec = spec
        self.spool = spool
        self.report = report
        self.store = MlflowStore(spec.uri, spec.home)
        self.folder = CheckpointFolder(spool.folder / "checkpoints")
        job = TrainingJob(
            spec.study, spec.arm, spec.split, spec.data, spec.weights_file, spec.device, spec.others
        )
        features = ensure_features(job, spec.home.features)
        self.features = spec.home.features if features is not None else None
        self.trainer = Trainer(job, features=features)
        start, retry = self._start(), spec.retry_failed
        self.sink = SpoolSink(spool, start)
        if not spec.offline:
            self.sink = MlflowSink(spool, self.store, start, retry_failed=retry)
        self.keeper = CheckpointKeeper(self.folder, spool, self.sink, spec.study.checkpoints)
        self.told_away = False

    def run(self) -> JobResult:
        try:
            self.sink.begin()
            return self._end_of_run()
        except BaseException:  # its threads must not show signs of life of a run nobody trains
            self.keeper.close()
            with suppress(GalaxyError):
                self.sink.close(patience=5, longest=_GOODBYE)
            raise
        finally:
            self.keeper.close()

    def _end_of_run(self) -> JobResult:
        if self.sink.finished_elsewhere:
            self.sink.close(patience=5)
            self.spool.discard()
            return JobResult(self.spec.job, schema.FINISHED)
        try:
            return self._train_and_send()
        except (DivergedError, CheckpointError) as error:
            return self._fail(str(error))
        except Exception as error:  # a broken run must not take the study with it
            if was_interrupted(error):
                raise interruption() from error
            if is_the_machines(error):
                raise
            return self._fail(f"{type(error).__name__}: {error}")

    def _train_and_send(self) -> JobResult:
        self._tell_of_server()
        if self.spool.ended == schema.FAILED and self.spool.waiting and not self.spec.offline:
            return self._arrive(schema.FAILED, "it failed before; the server knows it now")
        if self.spool.ended != schema.FINISHED:
            sys.setswitchinterval(_GIVE_WAY)
            self._resume()
            with self._watched(), team_of(self.trainer, self._threads(), self.features) as team:
                self._train(team)
        return self._arrive(schema.FINISHED)

    def _watched(self) -> AbstractContextManager[None]:
        run = self.sink.run
        return nullcontext() if run is None else self.store.watching(run.run_id)

    def _train(self, team: Team) -> None:
        for record in self.trainer.epochs(team):
            self._keep(record)
            accuracy = record.metrics[schema.TEST_ACCURACY]
            self.report(JobEvent(self.spec.job, record.epoch, accuracy, machine=gethostname()))
            self._tell_of_server()
        self._finish()

    def _keep(self, record: EpochRecord) -> None:
        """Record an epoch; the checkpoint comes last, so that a killed run repeats at most it."""
        self.keeper.wait()
        self.sink.log_epoch(record.epoch, record.metrics, record.timestamp_ms)
        self.keeper.keep(self.trainer.state())

    def _tell_of_server(self) -> None:
        """Say once that the server went away, and once that it is back."""
        self._pass_news_on()
        away = bool(self.sink.away)
        if away != self.told_away:
            words = f"{self.sink.away}\nTraining goes on; records wait in the spool."
            server, message = ("away", words) if away else ("back", "the server is back")
            self.report(
                JobEvent(self.spec.job, message=message, machine=gethostname(), server=server)
            )
        self.told_away = away

    def _pass_news_on(self) -> None:
        while self.store.news:
            self._say(self.store.news.popleft())

    def _finish(self) -> None:
        """Leave every artifact and the summary; `finished` goes last."""
        self.keeper.wait()
        self.keeper.upload(self.trainer.epoch, self.trainer.progress.selected_epoch)
        drafts = self.spool.folder / "drafts"
        for path, file in write_run_files(self.trainer, drafts, self._say).items():
            self.sink.log_artifact(file, path)
        if self.spec.samples is not None:
            self.sink.log_artifact(self.spec.samples, schema.SAMPLES_FILE)
        summary, source = self.trainer.summary(), self.trainer.progress.energy_source
        measured = schema.TOTAL_ENERGY in summary  # perhaps not where the run was begun
        self.sink.end(schema.FINISHED, summary, {schema.ENERGY_SOURCE: source} if measured else {})

    def _fail(self, reason: str) -> JobResult:
        self.keeper.close()
        self.sink.end(schema.FAILED, {}, {schema.REASON: reason[:5000]})
        return self._arrive(schema.FAILED, reason)

    def _arrive(self, status: str, reason: str = "") -> JobResult:
        """Wait until the server has everything; then the spool has done its work."""
        arrived = self.sink.close(self.spec.patience)
        self._pass_news_on()
        if self.spec.offline:
            return JobResult(
                self.spec.job, WAITING if status == schema.FINISHED else status, reason
            )
        if not arrived:
            why = self.sink.away or "the server has not taken all records yet"
            kept = f"{why}\nKept in the spool: send it later by galaxy-mlflow sync"
            return JobResult(self.spec.job, WAITING, kept, again=True)
        if status == schema.FINISHED:
            self.spool.discard()
        return JobResult(self.spec.job, status, reason)

    def _resume(self) -> None:
        """Go back to the last checkpoint, here or on the server, that the records reach."""
        run = self.sink.run  # once: the server may be back at any moment
        policy, run_id = self.spec.study.checkpoints.policy, run.run_id if run is not None else ""
        search = Resumption(self.folder, self.store, run_id, policy == "best", self._say)
        state = search.state(self.sink.recorded)
        if state is not None:
            self.trainer.restore(state)
            change = change_of_ranks(self._begun_with(), self.trainer.job)
            self._say(f"resumed after epoch {self.trainer.epoch}{change}")
        elif run is None and self.spec.begun:
            begun = "begun before, and its checkpoint is on the server"
            if self.spec.offline:
                raise ServerRefusedError(f"{begun}: go on with it where --offline is not needed")
            raise ServerError(f"{begun}: {self.sink.away}")

    def _threads(self) -> int:
        """Return the threads this run began with: another number would change its bits."""
        return int(self._begun_with().get(schema.THREADS, self.spec.threads))

    def _begun_with(self) -> Mapping[str, str]:
        run = self.sink.run
        return run.params if run is not None else self.spool.start().params

    def _start(self) -> RunStart:
        spec, study = self.spec, self.spec.study
        tags = {
            **spec.job.tags(),
            **schema.SOURCE,
            schema.PROTOCOL: study.protocol,
            schema.LABELS: study.data.labels,
            schema.CONFIG_HASH: study.config_hash(spec.arm),
            schema.DATA_HASH: spec.data.data_hash,
            schema.TRAIN_HASH: spec.split.train_hash,
            schema.TEST_HASH: spec.split.test_hash,
            schema.INIT_HASH: self.trainer.init_hash,
            schema.CODE_VERSION: code_version(),
            schema.HARDWARE: hardware(spec.device, *spec.others),
            schema.SOFTWARE: software(*["timm"] * is_timm(study.arm[spec.arm].architecture)),
            schema.ENERGY_SOURCE: self.trainer.progress.energy_source,
            schema.ATTEMPT: "1",
            schema.OWNER: owner_tag(spec.session),
            schema.PLACE: place(),
            schema.SELECTED_ON: schema.VAL_LOSS if study.validates else "test_accuracy",
            schema.STATUS: schema.RUNNING,
            schema.ARMS: ",".join(study.arm),
            schema.QUESTION: study.question,
            schema.NOTE: study.question,
            schema.SKIPPED: "; ".join(str(item) for item in spec.data.skipped)[:5000],
        }
        params = {**study.arm_params(spec.arm), schema.THREADS: str(spec.threads)}
        if spec.others:
            params[schema.RANKS] = str(1 + len(spec.others))
        if spec.split.n_pool is not None:
            params[schema.N_POOL] = str(spec.split.n_pool)
        tags |= {
            f"{schema.TUNED}{arm}": tuned.model_dump_json(exclude_none=True)
            for arm, tuned in study.tuned.items()
        }
        return RunStart(
            spec.job,
            {key: value for key, value in tags.items() if value},
            params,
            page=page_tags(study, spec.data),
            data=data_input(study.data, spec.data),
        )

    def _say(self, message: str) -> None:
        words = f"{self.spec.job.run_name}: {message}"
        self.report(JobEvent(self.spec.job, message=words, machine=gethostname()))


def code_version() -> str:
    """Return the version of this package."""
    return version("galaxy-mlflow")
