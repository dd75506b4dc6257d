"""Images a second of the whole training loop, against the published study's way and the limit.

AlexNet at 224 pixels, 384 images a batch, on the same pictures, taken in turns:

- *paper*: JPEG files -> Pillow -> tensor -> resize -> crop, flips and rotation of one image after
  another in DataLoader workers -> a step in fp32;
- *ours*: an epoch's training part as `run` does it: cached images, one fused resample, a step in
  bf16 and channels-last, loss and hits;
- *limit*: the same steps on one batch that is already in memory.

Ratios are of the medians over rounds. The same command runs on a GPU (`--device cuda`).

    python benchmarks/train.py [--device cpu] [--rounds 5] [--batches 2] [--architecture alexnet]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import median

import torch
from cache import make_pictures
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision.models import get_model
from torchvision.transforms import v2

from galaxy_mlflow.config import Study
from galaxy_mlflow.feed import Feed
from galaxy_mlflow.home import Home
from galaxy_mlflow.job import TrainingJob
from galaxy_mlflow.prepare import Splits, prepare_data, split_rule
from galaxy_mlflow.processes import available_cores
from galaxy_mlflow.splits import Indices
from galaxy_mlflow.study_file import load_study_file
from galaxy_mlflow.train import Trainer, make_deterministic

BATCH = 384
N_TEST = 64
SIDE = 423  # pixels of the files, as SDSS cutouts of the study's size
OVER_PAPER, OF_LIMIT = 4.0, 0.85
STUDY = """\
[data]
kind = "csv"
path = "labels.csv"
image_size = 256
crop_size = 224
[splits]
count = 1
n_test = {n_test}
[training]
architecture = "{architecture}"
batch_size = {batch}
learning_rate = 0.001
precision = "bf16"
epochs = 1000000
[arm.ours]
"""


@dataclass(frozen=True)
class Pictures(Dataset[tuple[Tensor, int]]):
    """The published data set: a file is decoded and transformed each time it is asked for."""

    files: list[Path]
    transform: Callable[[Image.Image], Tensor]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        with Image.open(self.files[place]) as image:
            return self.transform(image.convert("RGB")), place % 4


def published_loader(files: list[Path], batches: int) -> DataLoader[tuple[Tensor, int]]:
    """Return the published study's way to batches, on as many processes as there are cores."""
    transform = v2.Compose(
        [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Resize((256, 256)),
            v2.RandomCrop(224),
            v2.RandomHorizontalFlip(),
            v2.RandomVerticalFlip(),
            v2.RandomRotation(180),
        ]
    )
    pictures = Pictures(files, transform)
    return DataLoader(
        pictures,
        batch_size=BATCH,
        sampler=RandomSampler(pictures, replacement=True, num_samples=batches * BATCH),
        num_workers=available_cores(),
        persistent_workers=True,
        pin_memory=torch.cuda.is_available(),
    )


class Published:
    """The published study's loop: a step in fp32 while other processes make the next batches."""

    def __init__(self, files: list[Path], given: argparse.Namespace) -> None:
        self.device, self.batches = given.device, given.batches
        model = get_model(given.architecture, num_classes=4)
        self.model = model.to(given.device).train()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.001, momentum=0.9)
        self.loader = published_loader(files, given.batches + available_cores())

    def rate(self) -> float:
        """Return images a second in the midst of an epoch.

        The clock starts when the first batch is there. There are batches in the making until it
        stops, and none while others have their turn.
        """
        start, passed = 0.0, 0.0
        for number, (images, labels) in enumerate(self.loader):
            start = start or time.perf_counter()
            if number < self.batches:
                self._step(images.to(self.device), labels.to(self.device))
                passed = time.perf_counter() - start
        return float(self.batches * BATCH / passed)

    def _step(self, images: Tensor, labels: Tensor) -> None:
        loss = nn.functional.cross_entropy(self.model(images), labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        loss.item()


def study_of(folder: Path, files: list[Path], architecture: str) -> Study:
    """Write a study file over the pictures, and read it."""
    rows = [f"{file.name},{'abcd'[place % 4]}" for place, file in enumerate(files)]
    (folder / "labels.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    study = folder / "train.toml"
    study.write_text(STUDY.format(n_test=N_TEST, architecture=architecture, batch=BATCH))
    return load_study_file(study, ())


class Unmeasured(Trainer):
    """A trainer whose epochs are their training part alone."""

    def seconds(self) -> float:
        """Train one epoch; return its seconds."""
        start = time.perf_counter()
        self._train_pass(self.epoch + 1)
        self.epoch += 1
        return time.perf_counter() - start


class Ready(Feed):
    """One batch that is in memory, each time."""

    def __init__(self, job: TrainingJob, batch: tuple[Tensor, Tensor]) -> None:
        super().__init__(job)
        self._ready = batch

    def batch(self, rows: Indices, stream: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Return it."""
        return self._ready


def trainers(folder: Path, study: Study, device: str) -> tuple[Unmeasured, Unmeasured]:
    """Return the product's trainer, and one that has its batch in memory."""
    data = prepare_data(study, Home(folder / "home"))
    split = Splits(split_rule(study, data.labels.size), data.labels, [0])[0]
    job = TrainingJob(study, "ours", split, data, device=device)
    ours, limit = Unmeasured(job), Unmeasured(job)
    ready = ours.feed.batch(split.train[:BATCH], torch.Generator().manual_seed(0))
    limit.feed = Ready(job, ready)
    return ours, limit


def measure(folder: Path, given: argparse.Namespace) -> dict[str, list[float]]:
    """Take turns; return images a second of each round, by way."""
    n_train = given.batches * BATCH
    rest = next(n for n in count(n_train) if n - round(n / 8) == n_train)  # an eighth validates
    files = make_pictures(folder, rest + N_TEST, SIDE)
    ours, limit = trainers(folder, study_of(folder, files, given.architecture), given.device)
    paper = Published(files, given)
    found: dict[str, list[float]] = {"paper": [], "ours": [], "limit": []}
    ways: dict[str, Callable[[], float]] = {
        "paper": paper.rate,
        "ours": lambda: n_train / ours.seconds(),
        "limit": lambda: n_train / limit.seconds(),
    }
    for counted in (False, *[True] * given.rounds):
        for way, work in ways.items():
            rate = work()
            if counted:
                found[way].append(rate)
                print(f"{way:<6}{rate:9.1f} images/s", flush=True)
    return found


def report(found: dict[str, list[float]]) -> bool:
    """Print the ratios; return whether both bars are met."""
    paper, ours, limit = (median(found[way]) for way in ("paper", "ours", "limit"))
    print(f"\npaper {paper:.1f}, ours {ours:.1f}, limit {limit:.1f} images/s")
    print(f"{ours / paper:.2f} times the paper's way (bar {OVER_PAPER:.0f})")
    print(f"{ours / limit:.3f} of the limit (bar {OF_LIMIT})")
    return ours / paper >= OVER_PAPER and ours / limit >= OF_LIMIT


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=2, help="of 384 images, a round and way")
    parser.add_argument("--architecture", default="alexnet")
    given = parser.parse_args()
    make_deterministic(available_cores())
    with tempfile.TemporaryDirectory() as folder:
        return 0 if report(measure(Path(folder), given)) else 1


if __name__ == "__main__":
    sys.exit(main())
