"""What all jobs of a call of `run` share, and how it travels to machines."""

from __future__ import annotations

import pickle
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from galaxy_mlflow.config import ArmSettings, Study
from galaxy_mlflow.files import sha256_of
from galaxy_mlflow.home import Home
from galaxy_mlflow.resources import cores
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.server_errors import shown
from galaxy_mlflow.worker import code_version


@dataclass(frozen=True)
class RaySetting:
    """What is equal for all jobs.

    Attributes
    ----------
    weights : files of initial weights, by arm
    threads : of a job; None: the study file's cpus, or one
    uri : where to send records
    own_store : the records go to the default store, served on loopback: this machine only
    address : HOST:PORT of the cluster's head; None: a cluster is started here
    session : of this call of `run`
    begun : jobs of which the server has a run
    retry_failed : train runs too that others marked failed
    """

    study: Study
    data_hash: str
    weights: Mapping[str, Path | None]
    device: str
    threads: int | None
    skip_bad: bool
    home: Home
    uri: str
    own_store: bool
    address: str | None
    session: str
    begun: frozenset[JobId] = frozenset()
    retry_failed: bool = False


@dataclass(frozen=True)
class WeightsFile:
    """An arm's initial weights: where the driver has them, and their sha256."""

    path: Path
    digest: str


@dataclass(frozen=True)
class Common:
    """What all jobs of one call of `run` share; pickled once.

    Attributes
    ----------
    machine : name of the driver's host
    home : the driver's
    uri : "" where it holds an account: passwords stay on the driver's machine
    own_store : the records go to the driver's default store, served on loopback
    """

    study: Study
    data_hash: str
    weights: dict[str, WeightsFile | None]
    device: str
    threads: int
    skip_bad: bool
    machine: str
    home: Home
    uri: str
    own_store: bool
    session: str
    retry_failed: bool = False


@dataclass(frozen=True)
class Order:
    """A job to be trained, and whether it was begun before, here or elsewhere.

    Attributes
    ----------
    trial : what makes it a trial of a tuning; None: it is a run
    """

    job: JobId
    begun: bool = False
    trial: TrialOrder | None = None


@dataclass(frozen=True)
class TrialOrder:
    """What a trial is trained with, and a name for its checkpoints that no other has."""

    settings: ArmSettings
    folder: str


@dataclass(frozen=True)
class Answer:
    """Whether a trial that has told of an epoch is to stop."""

    job: JobId
    stop: bool


@dataclass(frozen=True)
class Parcel:
    """The same, as any version of this package can take it: its version, and pickled bytes."""

    version: str
    content: bytes

    @classmethod
    def of(cls, common: Common) -> Parcel:
        """Pack what all jobs share."""
        return cls(code_version(), pickle.dumps(common))


def common_of(setting: RaySetting, there: Mapping[str, float]) -> Common:
    """Settle what all jobs share, on a cluster that has these resources."""
    device = setting.device
    if device == "auto":
        device = "cuda" if there.get("GPU") else "cpu"
    return Common(
        study=setting.study,
        data_hash=setting.data_hash,
        weights={arm: _weights_file(file) for arm, file in setting.weights.items()},
        device=device,
        threads=setting.threads or cores(setting.study, device, None),
        skip_bad=setting.skip_bad,
        machine=socket.gethostname(),
        home=setting.home,
        uri=setting.uri if shown(setting.uri) == setting.uri else "",
        own_store=setting.own_store,
        session=setting.session,
        retry_failed=setting.retry_failed,
    )


def _weights_file(file: Path | None) -> WeightsFile | None:
    return None if file is None else WeightsFile(file, sha256_of(file))
