"""What one task of the Ray engine does on its machine: make ready, check, train one job.

Images and initial weights are made ready there, once a process; their files serve all processes of
the machine. The task's own message is a split and an arm; what all jobs share comes once a process.
"""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import tempfile
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock

from galaxy_mlflow.cache import GalaxyData
from galaxy_mlflow.config import Study
from galaxy_mlflow.errors import ConfigError, DataError, GalaxyError, ServerError
from galaxy_mlflow.files import sha256_of, write_bytes
from galaxy_mlflow.home import HOME_VARIABLE, URI_VARIABLE, Home
from galaxy_mlflow.outcomes import STOPPED, JobEvent, JobResult, Report
from galaxy_mlflow.prepare import Splits, draw_samples, prepare_data, split_rule
from galaxy_mlflow.ray_mail import Unfit
from galaxy_mlflow.ray_parcel import Common, Order, Parcel
from galaxy_mlflow.resources import Resources, measure
from galaxy_mlflow.server_errors import shown
from galaxy_mlflow.tidy import tidy
from galaxy_mlflow.tracking import MlflowStore
from galaxy_mlflow.trial import Ask, TrialEvent, TrialSpec, run_trial, tuning_splits
from galaxy_mlflow.worker import JobSpec, code_version, run_job


def _goes_on(_: TrialEvent) -> bool:
    """Answer for nobody: a trial that nobody hears of is not stopped."""
    return False


Fetch = Callable[[str], bytes]
"""Returns the bytes of an initial-weights file by their sha256."""
ROOM = 64_000_000
"""Bytes that must be free on a machine's disk, lest every job there end at its first checkpoint."""


@dataclass(frozen=True)
class Bench:
    """A machine made ready: everything of a job but its split and arm."""

    common: Common
    home: Home
    uri: str
    data: GalaxyData
    samples: Path
    notices: deque[str] = field(default_factory=deque)  # to be told once

    def spec(self, order: Order, weights: Path | None, *devices: str) -> JobSpec:
        """Return what a worker needs for one job, on the devices of its ranks."""
        study, job = self.common.study, order.job
        splits = Splits(split_rule(study, self.data.labels.size), self.data.labels, [job.split])
        if weights is not None and study.arm[job.arm].weights.startswith("file:"):
            study = _with_weights_at(study, job.arm, weights)
        return JobSpec(
            study=study,
            arm=job.arm,
            split=splits.of(job.split, study.arm[job.arm]),
            data=self.data,
            home=self.home,
            uri=self.uri,
            weights_file=weights,
            samples=self.samples,
            device=devices[0],
            others=devices[1:],
            threads=self.common.threads,
            session=self.common.session,
            begun=order.begun,
            retry_failed=self.common.retry_failed,
        )

    def trial(self, order: Order, weights: Path | None, *devices: str) -> TrialSpec:
        """Return what a worker needs for one trial of a tuning, on the devices of its ranks."""
        assert order.trial is not None  # noqa: S101
        arm, whole = order.job.arm, self.common.study
        study = whole.model_copy(update={"arm": {**whole.arm, arm: order.trial.settings}})
        splits = Splits(split_rule(study, self.data.labels.size), self.data.labels, [])
        if weights is not None and order.trial.settings.weights.startswith("file:"):
            study = _with_weights_at(study, arm, weights)
        return TrialSpec(
            study=study,
            arm=arm,
            number=order.job.split,
            splits=tuning_splits(study, splits, arm),
            data=self.data,
            folder=self.home.path / "tuning" / order.trial.folder,
            home=self.home,
            own_batch_size=whole.arm[arm].batch_size,
            weights_file=weights,
            device=devices[0],
            others=devices[1:],
            threads=self.common.threads,
        )


def train(
    parcel: Parcel, order: Order, fetch: Fetch, report: Report, ask: Ask = _goes_on
) -> JobResult | Unfit:
    """Train one job on this machine: a run, or a trial, which asks after each epoch.

    A machine that is not fit for it (other version, no data or other data, full disk) says so: the
    job is for another.
    """
    try:
        bench = make_ready(parcel)
        weights = _weights_here(bench, order.job.arm, fetch)
        devices = _devices(bench.common)
        is_trial = order.trial is not None
        spec = (bench.trial if is_trial else bench.spec)(order, weights, *devices)
    except (GalaxyError, OSError) as error:
        return _unfit(order, str(error), lasting=isinstance(error, GalaxyError))
    while bench.notices:
        report(JobEvent(order.job, message=f"{socket.gethostname()}: {bench.notices.popleft()}"))
    result = run_trial(spec, ask) if isinstance(spec, TrialSpec) else run_job(spec, report)
    if result.status == STOPPED and result.again and not _has_room(bench.home):
        return _unfit(order, result.reason, lasting=False)
    return result


def _unfit(order: Order, reason: str, *, lasting: bool) -> Unfit:
    return Unfit(order.job, socket.gethostname(), reason, lasting)


def _has_room(home: Home) -> bool:
    """Whether files can be written below a home, as its disk and its quota have it."""
    try:
        with tempfile.TemporaryFile(dir=home.path) as file:
            file.write(bytes(1_000_000))
        return shutil.disk_usage(home.path).free >= ROOM
    except OSError:
        return False


def measure_there(parcel: Parcel) -> Resources:
    """Make this machine ready and measure what a job takes on it.

    Raises
    ------
    GalaxyError
        The machine is not fit for the study.
    """
    try:
        bench = make_ready(parcel)
        common = bench.common
        classes = len(bench.data.classes)
        return measure(common.study, classes, _devices(common)[0], common.threads)
    except (GalaxyError, OSError) as error:
        raise ConfigError(f"machine {socket.gethostname()}: {error}") from None


def make_ready(parcel: Parcel) -> Bench:
    """Make this machine ready for a study's jobs; once a process.

    Raises
    ------
    GalaxyError
        It is not fit: it has another version of this package, or not the driver's data.
    """
    if parcel.version != code_version():
        raise ConfigError(
            f"has galaxy-mlflow {code_version()}, the command was called with {parcel.version}: "
            "install the same version there, or take it out of the cluster"
        )
    return _make_ready(parcel.content)


@lru_cache(maxsize=2)
def _make_ready(content: bytes) -> Bench:
    common: Common = pickle.loads(content)  # noqa: S301  from the driver, over Ray's own channel
    home, uri = _home(common), _address(common)
    try:
        data = prepare_data(common.study, home, skip_bad=common.skip_bad)
    except DataError as error:
        raise DataError(f"{error}\n{_SAME_DATA}") from None
    if data.data_hash != common.data_hash:
        raise DataError(f"its images are not those of the command's machine.\n{_SAME_DATA}")
    with suppress(ServerError, OSError):  # another time, then
        tidy(home, MlflowStore(uri, home), common.study.name)
    # The driver has told the others: it has the same data.
    damage = deque(notice for notice in data.notices if _DAMAGE in notice)
    return Bench(common, home, uri, data, draw_samples(common.study, data, home), damage)


_DAMAGE = "damaged: built again"


_SAME_DATA = (
    "Every machine needs the same data under the same path: "
    "put them there, or take the machine out of the cluster."
)


def _home(common: Common) -> Home:
    """Return where this machine keeps things: as told there, or with the driver's."""
    if common.own_store:
        return common.home
    if not os.environ.get(HOME_VARIABLE) and _is_drivers(common) and common.home.path.is_dir():
        return common.home
    return Home.default()


def _is_drivers(common: Common) -> bool:
    return socket.gethostname() == common.machine


def _address(common: Common) -> str:
    """Return where this machine sends records, and have the spool go by it.

    Raises
    ------
    ConfigError
        The driver's address is of no use here.
    """
    if common.own_store:
        if not _is_drivers(common):
            raise ConfigError(f"cannot reach the records on {common.machine}: {_GIVE_ADDRESS}")
        return common.uri
    uri = os.environ.get(URI_VARIABLE) or _for_others(common)
    os.environ[URI_VARIABLE] = uri  # the spool's folder, and MLflow's own look-ups
    return uri


def _for_others(common: Common) -> str:
    if not common.uri:
        raise ConfigError(f"has no address to send records to: {_GIVE_ADDRESS}")
    host = urlsplit(common.uri).hostname
    if not _is_drivers(common) and host in (None, "localhost", "127.0.0.1", "::1"):
        there = f"{shown(common.uri)} is an address of {common.machine} alone"
        raise ConfigError(f"{there}: {_GIVE_ADDRESS}")
    return common.uri


_GIVE_ADDRESS = (
    "set MLFLOW_TRACKING_URI (and MLFLOW_TRACKING_USERNAME, MLFLOW_TRACKING_PASSWORD) to a server "
    "that all machines reach, before Ray is started there"
)


def _weights_here(bench: Bench, arm: str, fetch: Fetch) -> Path | None:
    """Return an arm's initial weights on this machine, written from what the driver sent."""
    known = bench.common.weights[arm]
    if known is None or (_is_drivers(bench.common) and known.path.is_file()):
        return known.path if known is not None else None
    file = bench.home.weights / "received" / known.digest[:16] / known.path.name
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.with_name("lock")):
        if not file.is_file() or sha256_of(file) != known.digest:
            write_bytes(file, _checked(fetch(known.digest), known.digest))
    return file


def _checked(content: bytes, digest: str) -> bytes:
    if sha256(content).hexdigest() != digest:
        raise OSError("initial weights did not arrive as they were sent")
    return content


def _with_weights_at(study: Study, arm: str, file: Path) -> Study:
    """Return a study that finds an arm's weights where this machine has them."""
    here = study.arm[arm].model_copy(update={"weights": f"file:{file}"})
    return study.model_copy(update={"arm": {**study.arm, arm: here}})


def _devices(common: Common) -> tuple[str, ...]:
    """Return the devices of this task's ranks: Ray says which GPUs are its own."""
    if not common.device.startswith("cuda"):
        return (common.device,) * common.study.resources.ranks_on(common.device)
    import ray

    mine = [str(number) for number in ray.get_gpu_ids()]
    return cuda_devices(mine, os.environ.get("CUDA_VISIBLE_DEVICES"))


def cuda_devices(mine: list[str], visible: str | None) -> tuple[str, ...]:
    """Return PyTorch's names of the GPUs in `mine`, given what the process can see."""
    seen = visible.split(",") if visible else []
    names = (f"cuda:{seen.index(gpu) if gpu in seen else gpu}" for gpu in mine)
    return tuple(names) or ("cuda",)
