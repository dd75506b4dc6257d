"""Bytes and seconds to keep every epoch of an AlexNet run, against the published study's files.

AlexNet (57 million parameters) is trained on simulated galaxies by the product's own loop, as many
steps an epoch as the published study took. After each epoch its weights are packed on one thread,
and read back as `checkpoint get` does, from the last whole one on. The published study kept weights
and optimizer of every epoch: 8 bytes a parameter.

    python benchmarks/checkpoints.py [--epochs 12] [--steps 31] [--batch 32]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from galaxy_mlflow.home import Home
from galaxy_mlflow.job import TrainingJob
from galaxy_mlflow.kept import KEY_EVERY, base_of
from galaxy_mlflow.packing import Frame, pack, unpack
from galaxy_mlflow.prepare import Splits, prepare_data, split_rule
from galaxy_mlflow.processes import available_cores
from galaxy_mlflow.study_file import load_study_file
from galaxy_mlflow.train import Trainer, make_deterministic

SHARE, SPEED, READ = 0.25, 300.0, 2.0
PUBLISHED_TERABYTES = 27
STUDY = """\
[data]
kind = "simulated"
n = {n}
image_size = 72
crop_size = 64
[splits]
count = 1
n_test = 64
[training]
architecture = "alexnet"
batch_size = {batch}
learning_rate = 0.001
precision = "bf16"
epochs = {epochs}
[arm.scratch]
"""


@dataclass
class Kept:
    """What packing a run's epochs took."""

    sizes: list[int] = field(default_factory=list)
    packing: list[float] = field(default_factory=list)  # MB/s, one thread
    frames: list[Frame] = field(default_factory=list)  # since the last whole one
    chains: list[list[bytes]] = field(default_factory=list)  # the way to each of them
    reads: list[float] = field(default_factory=list)  # seconds, all cores

    def take(self, frame: Frame) -> None:
        """Pack an epoch, and read it from its whole one on: it comes back to the bit."""
        base = base_of(len(self.sizes)) % KEY_EVERY
        if len(self.sizes) % KEY_EVERY == 0:
            self.frames, self.chains = [], []
        start = time.perf_counter()
        content = pack(frame, self.frames[base] if self.frames else None)
        seconds = time.perf_counter() - start
        self.sizes.append(len(content))
        self.packing.append(frame.numbers.nbytes / 1e6 / seconds)
        self.frames.append(frame)
        self.chains.append([*(self.chains[base] if self.chains else []), content])
        self.reads.append(self._read(frame.digest))

    def _read(self, digest: str) -> float:
        start = time.perf_counter()
        found = unpack(self.chains[-1], available_cores())
        seconds = time.perf_counter() - start
        if found.digest != digest:
            raise SystemExit("the weights did not come back as they were")
        return seconds


def trainer(folder: Path, given: argparse.Namespace) -> Trainer:
    """Return a trainer of AlexNet on simulated galaxies."""
    n_train = given.steps * given.batch
    file = folder / "checkpoints.toml"
    n = round((n_train + 1) * 8 / 7) + 64
    file.write_text(STUDY.format(n=n, batch=given.batch, epochs=given.epochs))
    study = load_study_file(file, ())
    data = prepare_data(study, Home(folder / "home"))
    split = Splits(split_rule(study, data.labels.size), data.labels, [0])[0]
    return Trainer(TrainingJob(study, "scratch", split, data))


def measure(training: Trainer) -> Kept:
    """Train, and pack each epoch."""
    kept = Kept()
    for record in training.epochs():
        state = training.model.state_dict()
        kept.take(Frame.of({name: tensor.numpy() for name, tensor in state.items()}))
        print(
            f"epoch {record.epoch:3}  train loss {record.metrics['train_loss']:.4f}  "
            f"{kept.sizes[-1] / 1e6:6.1f} MB  packed at {kept.packing[-1]:5.0f} MB/s  "
            f"read in {kept.reads[-1]:.2f} s",
            flush=True,
        )
    return kept


def report(kept: Kept, parameters: int) -> bool:
    """Print the ratios; return whether all bars are met."""
    published = 8 * parameters
    whole, others = kept.sizes[0], [s for i, s in enumerate(kept.sizes) if i % KEY_EVERY]
    mean = (whole + (KEY_EVERY - 1) * sum(others) / len(others)) / KEY_EVERY
    share, speed, read = mean / published, median(kept.packing), max(kept.reads)
    print(
        f"\n{parameters:,} parameters; published: {published / 1e6:.0f} MB an epoch; packed, one "
        f"of {KEY_EVERY} whole: {mean / 1e6:.0f} MB\n"
        f"{share:.3f} of the published bytes (bar {SHARE}): of {PUBLISHED_TERABYTES} TB "
        f"{PUBLISHED_TERABYTES * share:.1f} TB\n"
        f"packed at {speed:.0f} MB/s a core, sha256 and all (bar {SPEED:.0f}); the longest read "
        f"{read:.2f} s (bar {READ:.0f})\n"
        f"policies, whatever the epochs: last {published / 1e6:.0f} MB a run, best "
        f"{1.5 * published / 1e6:.0f} MB a run: 200 runs {200 * published / 1e9:.0f} and "
        f"{300 * published / 1e9:.0f} GB"
    )
    return share <= SHARE and speed >= SPEED and read <= READ


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    for name, default in {"epochs": 12, "steps": 31, "batch": 32}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    make_deterministic(available_cores())
    with tempfile.TemporaryDirectory() as folder:
        training = trainer(Path(folder), given)
        parameters = sum(p.numel() for p in training.model.parameters())
        return 0 if report(measure(training), parameters) else 1


if __name__ == "__main__":
    sys.exit(main())
