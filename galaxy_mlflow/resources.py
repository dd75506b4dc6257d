"""What one job takes of a machine: processor cores, a share of a GPU, main memory.

Measured where the study file does not say: one short epoch of each arm in a process of its own.
"""

from __future__ import annotations

import json
import math
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from galaxy_mlflow.cache import GalaxyData
from galaxy_mlflow.config import ArmSettings, Study
from galaxy_mlflow.errors import ConfigError
from galaxy_mlflow.processes import ask_to_end_with_parent
from galaxy_mlflow.splits import Split

_MARGIN = 1.2
_OTHERS_GB = 0.4  # of memory: the libraries that training proper does not load
_CONTEXT_BYTES = 600e6  # of a GPU's memory: what CUDA itself takes in each process
_SAMPLING = 0.01  # seconds between looks at the memory


@dataclass(frozen=True)
class Resources:
    """What one job takes, all its ranks together.

    Attributes
    ----------
    cpus : cores
    gpus : share of one GPU, or a whole number of them
    memory_gb : main memory, 10^9 bytes
    """

    cpus: int = 1
    gpus: float = 0.0
    memory_gb: float = 0.0

    def __str__(self) -> str:
        share = f", {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.cpus} CPU{share}, {self.memory_gb:.1f} GB of memory"


def given(study: Study, device: str, threads: int | None = None) -> Resources | None:
    """Return what a study file says that a job takes; None where something must be measured.

    Parameters
    ----------
    threads : of a job, if they were asked for
    """
    gpus, memory_gb = _gpus_said(study, device), study.resources.memory_gb
    if gpus is None or memory_gb is None:
        return None
    return Resources(cores(study, device, threads), gpus, memory_gb)


def _gpus_said(study: Study, device: str) -> float | None:
    """Return the GPUs of a job by its study file; several ranks take one each."""
    said, ranks = study.resources, study.resources.ranks_on(device)
    if not device.startswith("cuda"):
        return said.gpus or 0.0
    return float(ranks) if ranks > 1 else said.gpus


def cores(study: Study, device: str, threads: int | None) -> int:
    """Return the cores of a job: as said, else one a rank: jobs side by side use the others best.

    Each rank has at least one.
    """
    said = study.resources
    return max(said.cpus or threads or 1, said.ranks_on(device))


def measure(study: Study, n_classes: int, device: str, threads: int | None = None) -> Resources:
    """Measure what the largest arm of a study takes; what the study file says goes before.

    Raises
    ------
    ConfigError
        An arm cannot be trained at all on this machine.
    """
    peak = _peak_of(study, n_classes, device)
    ranks, said = study.resources.ranks_on(device), _gpus_said(study, device)
    memory = ranks * (_MARGIN * peak.memory_bytes / 1e9 + _OTHERS_GB)
    return Resources(
        cores(study, device, threads),
        said if said is not None else gpu_share(_MARGIN * peak.gpu_part),
        study.resources.memory_gb or math.ceil(10 * memory) / 10,
    )


def gpu_share(part: float) -> float:
    """Return the share of a GPU to ask for, so that as many jobs as fit make up the whole."""
    if part <= 0:
        return 0.0
    jobs = max(1, int(1 / part))
    return math.floor(1e4 / jobs) / 1e4  # Ray counts in 1/10,000


@dataclass(frozen=True)
class Peak:
    """The most that one process took."""

    memory_bytes: float  # without files that are mapped: those are shared
    gpu_part: float = 0.0  # of the GPU's memory


def _peak_of(study: Study, n_classes: int, device: str) -> Peak:
    """Train short epochs in a fresh process; return its peak."""
    with tempfile.TemporaryDirectory() as folder:  # ours: it goes too where the process is killed
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            input=pickle.dumps((study, n_classes, device, folder)),
            capture_output=True,
            check=False,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
            preexec_fn=ask_to_end_with_parent,
        )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ConfigError(
            f"what a job takes could not be measured ({last or 'its process died'}): "
            "give cpus, gpus and memory_gb under [resources]"
        )
    return Peak(**json.loads(done.stdout.splitlines()[-1]))


def serve() -> None:
    """Measure what standard input asks for; print it. The body of the fresh process."""
    work = pickle.loads(sys.stdin.buffer.read())  # noqa: S301  our parent's
    study, n_classes, device, folder = work
    with _Watch() as watch:
        for arm in _unlike(study):
            data = _noise(study, arm, n_classes, Path(folder))
            _train_a_little(_one_epoch(study, arm, device), arm, data, device)
    peak = Peak(watch.peak, _gpu_part(device))
    sys.stdout.write(json.dumps(asdict(peak)) + "\n")


def _unlike(study: Study) -> list[str]:
    """Return the arms that may differ in what they take: one of each kind."""
    alike = {"weights", "epochs", "warmup_epochs", "schedule", "learning_rate", "weight_decay"}
    return list(
        {arm.model_dump_json(exclude=alike): name for name, arm in study.arm.items()}.values()
    )


def _train_a_little(study: Study, arm: str, data: GalaxyData, device: str) -> None:
    """Train one epoch and write a checkpoint."""
    from galaxy_mlflow.checkpoints import CheckpointFolder
    from galaxy_mlflow.job import TrainingJob
    from galaxy_mlflow.train import Trainer

    rows = np.arange(len(data), dtype=np.int64)
    size = study.arm[arm].batch_size
    split = Split(0, rows[: 2 * size], rows[2 * size : 3 * size], rows[3 * size :])
    trainer = Trainer(TrainingJob(study, arm, split, data, None, device))
    next(trainer.epochs())
    CheckpointFolder(data.file.parent).save(trainer.state())


def _gpu_part(device: str) -> float:
    """Return the part of the GPU's memory that this process took."""
    if not device.startswith("cuda"):
        return 0.0
    import torch

    total = torch.cuda.get_device_properties(device).total_memory
    return (torch.cuda.max_memory_reserved(device) + _CONTEXT_BYTES) / total


def _one_epoch(study: Study, arm: str, device: str) -> Study:
    """Return the study with a short epoch of this arm, from random weights: as large as any.

    A rank passes its part of each batch.
    """
    part = math.ceil(study.arm[arm].batch_size / study.resources.ranks_on(device))
    changes = {"epochs": 1, "warmup_epochs": 0, "weights": "none", "batch_size": max(2, part)}
    short: ArmSettings = study.arm[arm].model_copy(update=changes)
    return study.model_copy(update={"arm": {arm: short}})


def _noise(study: Study, arm: str, n_classes: int, folder: Path) -> GalaxyData:
    """Write as many random images as a few batches take."""
    n, side = 4 * study.arm[arm].batch_size, study.data.image_size
    n = max(n, 4 * n_classes)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    file = folder / "images.npy"
    np.save(file, images)
    labels = np.arange(n, dtype=np.int64) % n_classes
    names = tuple(f"class{i}" for i in range(n_classes))
    ids = tuple(str(i) for i in range(n))
    rows = np.arange(n, dtype=np.int64)
    return GalaxyData(rows, labels, ids, names, "", (), (), file, images.shape)


class _Watch:
    """Looks at this process's memory from a thread of its own."""

    def __init__(self) -> None:
        self.peak = 0.0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, _memory_now())

    def _look(self) -> None:
        while not self._done.wait(_SAMPLING):
            self.peak = max(self.peak, _memory_now())


def _memory_now() -> float:
    """Return the bytes of this process's own memory; where that is not told, its largest size."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    sizes = {name: rest for name, _, rest in (line.partition(":") for line in lines)}
    return 1024.0 * sum(int(sizes[name].split()[0]) for name in ("RssAnon", "RssShmem"))
