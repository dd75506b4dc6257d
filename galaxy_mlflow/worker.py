"""One job from claim to finish: resume, train, record, and leave nothing half done."""

from __future__ import annotations

import json
import os
import socket
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from galaxy_mlflow import schema
from galaxy_mlflow.cache import GalaxyData
from galaxy_mlflow.checkpoints import BEST, LAST, POINTER, CheckpointFolder, State, load_checkpoint
from galaxy_mlflow.config import Study
from galaxy_mlflow.errors import CheckpointError, DivergedError, GalaxyError
from galaxy_mlflow.files import write_atomically, write_bytes, write_json
from galaxy_mlflow.home import Home
from galaxy_mlflow.job import TrainingJob
from galaxy_mlflow.machine import hardware, software
from galaxy_mlflow.run_figures import draw_or_say
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.sinks import MlflowSink
from galaxy_mlflow.splits import Split
from galaxy_mlflow.spool import RunStart, Spool
from galaxy_mlflow.study_note import page_tags
from galaxy_mlflow.tracking import MlflowStore
from galaxy_mlflow.train import EpochRecord, Trainer, make_deterministic

WAITING = "waiting"
"""Trained to the end; the server does not have all of it yet."""
STOPPED = "stopped"
"""Not trained to the end, and not the run's own fault."""


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
    threads: int = 1
    patience: float = 60.0  # seconds to wait for the server once training has ended

    @property
    def job(self) -> JobId:
        """The identity of the run."""
        return JobId(self.study.name, self.split.number, self.arm)


@dataclass(frozen=True)
class JobEvent:
    """News of a job in training: an epoch done, or a word for the user."""

    job: JobId
    epoch: int = -1
    accuracy: float = float("nan")
    message: str = ""


@dataclass(frozen=True)
class JobResult:
    """How a job ended: `finished`, `failed`, `waiting` or `stopped`, and why."""

    job: JobId
    status: str
    reason: str = ""


Report = Callable[[JobEvent], None]


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
            spool.release()
    except (GalaxyError, OSError) as error:
        return JobResult(spec.job, STOPPED, str(error))
    except Exception as error:  # whatever a network or a driver throws before training begins
        return JobResult(spec.job, STOPPED, f"{type(error).__name__}: {error}")


class _Worker:
    def __init__(self, spec: JobSpec, spool: Spool, report: Report) -> None:
        self.spec = spec
        self.spool = spool
        self.report = report
        self.store = MlflowStore(spec.uri, spec.home)
        self.folder = CheckpointFolder(spool.folder / "checkpoints")
        job = TrainingJob(
            spec.study, spec.arm, spec.split, spec.data, spec.weights_file, spec.device
        )
        self.trainer = Trainer(job)
        self.sink = MlflowSink(spool, self.store, self._start())
        self.told_away = False

    def run(self) -> JobResult:
        recorded = self.sink.begin()
        if self.sink.finished_elsewhere:
            self.sink.close(patience=5)
            self.spool.discard()
            return JobResult(self.spec.job, schema.FINISHED)
        self._tell_of_server()
        try:
            if self.spool.ended == schema.FAILED and self.spool.waiting:
                return self._arrive(schema.FAILED, "it failed before; the server knows it now")
            if self.spool.ended != schema.FINISHED:
                make_deterministic(self._threads())
                self._resume(recorded)
                with self._watched():
                    self._train()
            return self._arrive(schema.FINISHED)
        except (DivergedError, CheckpointError) as error:
            return self._fail(str(error))
        except (GalaxyError, OSError, KeyboardInterrupt):
            self.sink.close(patience=5)
            raise
        except Exception as error:  # a broken run must not take the study with it
            return self._fail(f"{type(error).__name__}: {error}")

    def _watched(self) -> AbstractContextManager[None]:
        run = self.sink.run
        return nullcontext() if run is None else self.store.watching(run.run_id)

    def _train(self) -> None:
        for record in self.trainer.epochs():
            self._keep(record)
            accuracy = record.metrics[schema.TEST_ACCURACY]
            self.report(JobEvent(self.spec.job, record.epoch, accuracy))
            self._tell_of_server()
        self._finish()

    def _keep(self, record: EpochRecord) -> None:
        """Record an epoch; the checkpoint comes last, so that a killed run repeats at most it."""
        self.sink.log_epoch(record.epoch, record.metrics, record.timestamp_ms)
        state, rules = self.trainer.state(), self.spec.study.checkpoints
        if record.selected and rules.policy == "best":
            self.folder.save_best(state)
        if rules.every is not None and (record.epoch + 1) % rules.every == 0:
            name = f"epoch-{record.epoch:04d}.safetensors"
            weights = self.folder.save_weights(state, name)
            self.sink.log_artifact(weights, f"{schema.CHECKPOINTS}/{name}")
            weights.unlink()
        self.folder.save(state)
        self.folder.best(self.trainer.progress.selected_epoch)
        if (record.epoch + 1) % rules.upload_every == 0:
            self._upload_checkpoints()

    def _upload_checkpoints(self) -> None:
        pointer = json.loads((self.folder.path / POINTER).read_text())
        self._log_file(self.folder.path / pointer["file"], LAST)
        shared = self.folder.path / "server.json"
        write_json(shared, {**pointer, "file": LAST})
        self._log_file(shared, POINTER)
        if self.spec.study.checkpoints.policy == "best":
            self._log_file(self.folder.best(self.trainer.progress.selected_epoch), BEST)

    def _log_file(self, file: Path, name: str) -> None:
        self.sink.log_artifact(file, f"{schema.CHECKPOINTS}/{name}")

    def _tell_of_server(self) -> None:
        """Say once that the server went away, and once that it is back."""
        self._pass_news_on()
        away = bool(self.sink.away)
        if away and not self.told_away:
            self._say(f"{self.sink.away}\nTraining goes on; records wait in the spool.")
        elif self.told_away and not away:
            self._say("the server is back")
        self.told_away = away

    def _pass_news_on(self) -> None:
        while self.store.news:
            self._say(self.store.news.popleft())

    def _finish(self) -> None:
        """Leave every artifact and the summary; `finished` goes last."""
        drafts = self.spool.folder / "drafts"
        self._upload_checkpoints()
        self.sink.log_artifact(_write_predictions(self.trainer, drafts), schema.PREDICTIONS_FILE)
        self.sink.log_artifact(_write_confusion(self.trainer, drafts), schema.CONFUSION_FILE)
        for path, file in draw_or_say(self.trainer, drafts, self._say).items():
            self.sink.log_artifact(file, path)
        if self.spec.data.skipped:
            left_out = drafts / schema.SKIPPED_FILE
            write_bytes(left_out, "\n".join(map(str, self.spec.data.skipped)).encode())
            self.sink.log_artifact(left_out, schema.SKIPPED_FILE)
        settings = drafts / schema.STUDY_FILE
        write_bytes(settings, self.spec.study.model_dump_json(indent=1).encode())
        self.sink.log_artifact(settings, schema.STUDY_FILE)
        if self.spec.samples is not None:
            self.sink.log_artifact(self.spec.samples, schema.SAMPLES_FILE)
        self.sink.end(schema.FINISHED, self.trainer.summary(), {})

    def _fail(self, reason: str) -> JobResult:
        self.sink.end(schema.FAILED, {}, {schema.REASON: reason[:5000]})
        return self._arrive(schema.FAILED, reason)

    def _arrive(self, status: str, reason: str = "") -> JobResult:
        """Wait until the server has everything; then the spool has done its work."""
        arrived = self.sink.close(self.spec.patience)
        self._pass_news_on()
        if not arrived:
            kept = f"{self.sink.away}\nKept in the spool: send it later by galaxy-mlflow sync"
            return JobResult(self.spec.job, WAITING, kept)
        if status == schema.FINISHED:
            self.spool.discard()
        return JobResult(self.spec.job, status, reason)

    def _resume(self, recorded: int) -> None:
        """Go back to the last checkpoint, here or on the server, that the records reach."""
        local = self._local_state()
        state = local or self._server_state()
        if state is None or int(state["epoch"]) > recorded or not self._best_is_here(state):
            return
        self.trainer.restore(state)
        if local is None:  # what came from the server is from now on here too
            self.folder.save(state)
        self._say(f"resumed after epoch {self.trainer.epoch}")

    def _local_state(self) -> State | None:
        try:
            return self.folder.load()
        except CheckpointError as error:
            self._say(f"{error}\nGoing on from the server's checkpoint, or from the start.")
            return None

    def _server_state(self) -> State | None:
        if self.sink.run is None:
            return None
        found = self.store.fetch_checkpoint(self.sink.run.run_id, self.spool.folder / "fetched")
        if found is None:
            return None
        try:
            state = load_checkpoint(*found)
        except CheckpointError as error:
            self._say(f"{error}\nStarting from the beginning.")
            return None
        self._fetch_best(self.sink.run.run_id, state)
        return state

    def _fetch_best(self, run_id: str, state: State) -> None:
        fetched = self.spool.folder / "fetched"
        best = self.store.fetch(run_id, f"{schema.CHECKPOINTS}/{BEST}", fetched)
        if best is not None:
            self.folder.adopt_best(best, int(state["progress"]["selected_epoch"]))

    def _best_is_here(self, state: State) -> bool:
        """Whether the weights of the selected epoch, which the end needs, are still to be had."""
        selected = int(state["progress"]["selected_epoch"])
        if self.spec.study.checkpoints.policy != "best" or selected == int(state["epoch"]):
            return True
        return self.folder.holds_best(selected)

    def _threads(self) -> int:
        """Return the threads this run began with: another number would change its bits."""
        run = self.sink.run
        params = run.params if run is not None else self.spool.start().params
        return int(params.get(schema.THREADS, self.spec.threads))

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
            schema.HARDWARE: hardware(spec.device),
            schema.SOFTWARE: software(),
            schema.ATTEMPT: "1",
            schema.OWNER: f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}",
            schema.SELECTED_ON: "val_loss" if study.validates else "test_accuracy",
            schema.STATUS: schema.RUNNING,
            schema.ARMS: ",".join(study.arm),
            schema.QUESTION: study.question,
            schema.NOTE: study.question,
            schema.SKIPPED: "; ".join(str(item) for item in spec.data.skipped)[:5000],
        }
        params = {**study.arm_params(spec.arm), schema.THREADS: str(spec.threads)}
        page = page_tags(study, spec.data)
        return RunStart(spec.job, {k: value for k, value in tags.items() if value}, params, page)

    def _say(self, message: str) -> None:
        self.report(JobEvent(self.spec.job, message=f"{self.spec.job.run_name}: {message}"))


def code_version() -> str:
    """Return the version of this package."""
    return version("galaxy-mlflow")


def _write_predictions(trainer: Trainer, folder: Path) -> Path:
    """Write the selected epoch's predictions on the test part, sorted by id."""
    data, rows = trainer.job.data, trainer.job.split.test
    probabilities = trainer.progress.selected_probabilities
    if probabilities is None:
        raise CheckpointError("the checkpoint holds no predictions of its selected epoch")
    keys = schema.class_keys(data.classes)
    table: dict[str, object] = {
        "id": [data.ids[row] for row in rows],
        "true": [keys[label] for label in data.labels[rows]],
        "predicted": [keys[number] for number in probabilities.argmax(1).tolist()],
    }
    table |= {f"p_{key}": probabilities[:, i].numpy() for i, key in enumerate(keys)}
    file = folder / "selected.parquet"
    whole = pa.table(table).sort_by("id")
    write_atomically(file, lambda draft: pq.write_table(whole, draft))
    return file


def _write_confusion(trainer: Trainer, folder: Path) -> Path:
    """Write one confusion matrix an epoch, on the test part."""
    matrices = trainer.progress.confusion
    epochs = [{"epoch": epoch, "matrix": matrix} for epoch, matrix in enumerate(matrices)]
    file = folder / "test.json"
    content = {"classes": list(schema.class_keys(trainer.job.data.classes)), "epochs": epochs}
    write_bytes(file, json.dumps(content).encode())
    return file
