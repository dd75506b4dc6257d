"""The driver of a very large study: its memory, and its time a job, with nothing trained.

The study is read, its images are opened, its splits are set out, the plan is made against a real
and empty MLflow store, and every job goes through the real dispatcher and the real display. Only
the workers are made up: they take jobs, send one event an epoch, are lost at random and find some
jobs trained by others, in a time of their own that passes as fast as the driver can follow.

    python benchmarks/scale_dispatch.py [--jobs 100000] [--workers 1000] [--epochs 5] [--loss 0.02]
"""

from __future__ import annotations

import argparse
import heapq
import os
import random
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from load_study import peak_memory
from PIL import Image
from rich.console import Console

from galaxy_mlflow import schema
from galaxy_mlflow.config import Study
from galaxy_mlflow.dispatch import Lost, News, Rules, dispatch
from galaxy_mlflow.display import Display
from galaxy_mlflow.home import HOME_VARIABLE
from galaxy_mlflow.outcomes import BUSY, JobEvent, JobResult
from galaxy_mlflow.placement import Machine
from galaxy_mlflow.plan import Plan, select
from galaxy_mlflow.runner import look_ahead
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.study_file import load_study_file

MOST_SECONDS, MOST_BYTES = 0.005, 1e9
EPOCH = 5.0  # made-up seconds
TEXT = """\
[data]
kind = "csv"
path = "labels.csv"
image_size = 32
[splits]
count = {splits}
[training]
architecture = "shufflenet_v2_x0_5"
epochs = {epochs}
[arm.pretrained]
learning_rate = 0.001
[arm.scratch]
"""


@dataclass(frozen=True)
class Scale:
    """How much there is to do, and how much of it goes wrong."""

    jobs: int
    workers: int
    epochs: int
    loss: float  # share of jobs whose worker is lost, each time that they are given


@dataclass
class MadeUpCrew:
    """So many workers, in a time of their own."""

    scale: Scale
    now: float = 0.0
    given: int = 0
    most_given: int = 0
    losses: int = 0
    busy: int = 0
    waiting: deque[JobId] = field(default_factory=deque)
    coming: list[tuple[float, int, News]] = field(default_factory=list)
    serial: int = 0
    rng: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311

    def room(self) -> int:
        """Return how many more jobs fit: a quarter more than there are workers."""
        return self.scale.workers + self.scale.workers // 4 - self.given

    def give(self, job: JobId) -> None:
        """Take a job."""
        self.given += 1
        self.most_given = max(self.most_given, self.given)
        self.waiting.append(job)
        self._start_some()

    def news(self, timeout: float) -> Sequence[News]:
        """Let time pass to the next thing that happens, or for `timeout`."""
        end = self.now + timeout
        if not self.coming or self.coming[0][0] > end:
            self.now = end
            return []
        self.now = self.coming[0][0]
        found = []
        while self.coming and self.coming[0][0] <= self.now:
            found.append(heapq.heappop(self.coming)[2])
        self.given -= sum(not isinstance(news, JobEvent) for news in found)
        self._start_some()
        return found

    def stop(self) -> None:
        """Leave."""

    def _start_some(self) -> None:
        while self.waiting and self.given - len(self.waiting) < self.scale.workers:
            self._start(self.waiting.popleft())

    def _start(self, job: JobId) -> None:
        end = self.now + EPOCH * self.scale.epochs * self.rng.uniform(0.8, 1.2)
        fate = self.rng.random()
        if fate < self.scale.loss / 10:
            self.busy += 1
            self._later(self.now + 1, JobResult(job, BUSY, f"{job.run_name} is trained elsewhere"))
            return
        lost = fate < self.scale.loss
        epochs = self.rng.randrange(self.scale.epochs) if lost else self.scale.epochs
        for epoch in range(epochs):
            when = self.now + (end - self.now) * (epoch + 1) / (self.scale.epochs + 1)
            self._later(when, JobEvent(job, epoch, self.rng.random()))
        self.losses += lost
        over: News = Lost(job, "its machine is gone") if lost else JobResult(job, schema.FINISHED)
        self._later(end, over)

    def _later(self, when: float, news: News) -> None:
        self.serial += 1
        heapq.heappush(self.coming, (when, self.serial, news))


def write_study(folder: Path, scale: Scale) -> Study:
    """Write a study file about sixty pictures; return the study."""
    (folder / "images").mkdir()
    rng, rows = np.random.default_rng(3), ["id,path,label"]
    for i in range(60):
        pixels = rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        rows.append(f"g{i},images/{i}.png,{'abc'[i % 3]}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "large.toml").write_text(TEXT.format(splits=scale.jobs // 2, epochs=scale.epochs))
    return load_study_file(folder / "large.toml")


def drive(plan: Plan, study: Study, scale: Scale, display: Display) -> MadeUpCrew:
    """Give out all jobs of a plan; return the crew that had them."""
    crew = MadeUpCrew(scale)
    finished = 0
    epochs = {name: arm.epochs for name, arm in study.arm.items()}
    jobs = [run.job for run in plan.todo]
    with display.running(plan, epochs):
        rules = Rules()
        for result in dispatch(jobs, lambda _: crew, display.event, rules, lambda: crew.now):
            display.result(result)
            finished += result.status == schema.FINISHED
    if finished != scale.jobs:
        raise SystemExit(f"{scale.jobs - finished} jobs did not end")
    return crew


def measure(folder: Path, scale: Scale) -> bool:
    """Run a study of this scale; print what it took; return whether that is within the bars."""
    os.environ[HOME_VARIABLE] = str(folder / "home")
    study = write_study(folder, scale)
    with (folder / "output").open("w") as output:
        display = Display(Console(file=output))
        start, processor = time.perf_counter(), time.process_time()
        ahead = look_ahead(study, select(study, None, None), Machine(), display)
        planned = time.perf_counter()
        crew = drive(ahead.plan, study, scale, display)
        end, processor = time.perf_counter(), time.process_time() - processor
    peak, a_job = peak_memory(), (end - start) / scale.jobs
    print(
        f"{scale.jobs:,} jobs of {scale.epochs} epochs on {scale.workers:,} made-up workers, "
        f"{crew.losses:,} losses, {crew.busy:,} found busy, {crew.now / 3600:.1f} h of their time\n"
        f"plan {planned - start:.1f} s, dispatch {end - planned:.1f} s; "
        f"at most {crew.most_given:,} jobs given at once\n"
        f"time a job {a_job * 1e3:.2f} ms (bar {MOST_SECONDS * 1e3:.0f} ms: "
        f"{a_job / MOST_SECONDS:.2f} of it), {processor / scale.jobs * 1e3:.2f} ms of a processor\n"
        f"driver's peak memory {peak / 1e6:.0f} MB (bar {MOST_BYTES / 1e6:.0f} MB: "
        f"{peak / MOST_BYTES:.2f} of it)"
    )
    return a_job <= MOST_SECONDS and peak <= MOST_BYTES


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--loss", type=float, default=0.02)
    given = parser.parse_args()
    scale = Scale(given.jobs // 2 * 2, given.workers, given.epochs, given.loss)
    with tempfile.TemporaryDirectory() as folder:
        return 0 if measure(Path(folder), scale) else 1


if __name__ == "__main__":
    sys.exit(main())
