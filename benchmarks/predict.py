"""Prediction from image files against the evaluation pass of training; and its peak of memory.

Evaluation reads images that were decoded once, when a study's data were opened: a first pass is
decoding and evaluation, and `galaxy-mlflow predict` always does both. So whole is compared with
whole: `open_data` into an empty cache and the trainer's own pass over all images, against the
list of files to the Parquet of answers. The network's part alone is compared too, on decoded
images. Times are medians of a few rounds, one after the other in this process. Memory is that of
the command and all its children, summed, on a CSV of many rows that name the same few hundred
files. Exits with 1 where predict has less than 0.9 of the speed of evaluation, or takes more than
1 GB.

    python benchmarks/predict.py [--images FOLDER] [--size 128] [--rows 100000] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from statistics import median

import numpy as np
import psutil
from PIL import Image

from galaxy_mlflow.answers import AnswerFile
from galaxy_mlflow.cache import GalaxyData, open_data
from galaxy_mlflow.home import Home
from galaxy_mlflow.image_list import open_images
from galaxy_mlflow.job import TrainingJob
from galaxy_mlflow.members import fetch_members
from galaxy_mlflow.predict import Member, Predictor
from galaxy_mlflow.predict_run import Request, local_parts, predict_to_file
from galaxy_mlflow.processes import available_cores
from galaxy_mlflow.simulate import simulate_galaxy
from galaxy_mlflow.splits import Split
from galaxy_mlflow.study_file import load_study_file
from galaxy_mlflow.tracking import MlflowStore
from galaxy_mlflow.train import Trainer, make_deterministic

SPEED, BYTES = 0.9, 1e9
CLASSES = ("elliptical", "spiral")
STUDY = """\
[data]
kind = "csv"
path = "{csv}"
image_size = {size}
[splits]
count = 1
n_test = {n_test}
[arm.one]
architecture = "{architecture}"
epochs = 1
"""


@dataclass(frozen=True)
class Material:
    """Images, and a run that was trained on a few of them."""

    folder: Path
    images: Path
    study: Path
    member: Member


@dataclass(frozen=True)
class Times:
    """Seconds for all images: whole passes, and the networks' parts."""

    evaluation: float
    prediction: float
    evaluation_network: float
    prediction_network: float


def simulated(folder: Path, count: int) -> Path:
    """Write JPEGs of simulated galaxies; return their folder."""
    (folder / "images").mkdir()
    for i in range(count):
        pixels = simulate_galaxy(CLASSES[i % 2], 0, i, 128)
        Image.fromarray(pixels).save(folder / "images" / f"{i:05d}.jpg")
    return folder / "images"


def write_list(file: Path, images: list[Path]) -> Path:
    """Write a CSV of images with made-up labels."""
    rows = [f"{i},{image},{CLASSES[i % 2]}" for i, image in enumerate(images)]
    file.write_text("\n".join(["id,path,label", *rows]) + "\n")
    return file


def prepare(folder: Path, given: argparse.Namespace) -> Material:
    """Train a network for one epoch on a few images."""
    images = given.images or simulated(folder, given.simulated)
    files = sorted(images.rglob("*.jpg"))
    few = write_list(folder / "few.csv", files[:60])
    study, home = folder / "bench.toml", Home(folder / "home")
    fields = {"size": given.size, "architecture": given.architecture, "n_test": 12}
    study.write_text(STUDY.format(csv=few, **fields))
    program = [str(Path(sys.executable).with_name("galaxy-mlflow")), "run", str(study)]
    environment = {**os.environ, "GALAXY_MLFLOW_HOME": str(home.path)}
    subprocess.run(program, check=True, env=environment, stdout=sys.stderr)
    store = MlflowStore(home.database_uri, home)
    (member,) = fetch_members(store, store.runs("bench")).members
    all_images = write_list(folder / "all.csv", files)
    study.write_text(STUDY.format(csv=all_images, **fields))
    return Material(folder, all_images, study, member)


def trainer_of(material: Material, data: GalaxyData) -> Trainer:
    """Return a trainer whose test part is all images."""
    rows = np.arange(len(data), dtype=np.int64)
    study = load_study_file(material.study)
    return Trainer(TrainingJob(study, "one", Split(0, rows, rows, rows), data))


def evaluate(material: Material, number: int) -> tuple[float, float]:
    """Return the seconds of decoding and evaluation, and of evaluation alone."""
    study = load_study_file(material.study)
    trainer = trainer_of(material, open_data(study.data, material.folder / "known"))
    started = time.perf_counter()
    data = open_data(study.data, material.folder / f"cache-{number}")
    decoded = time.perf_counter()
    trainer._evaluate(np.arange(len(data), dtype=np.int64), None)
    ended = time.perf_counter()
    return ended - started, ended - decoded


def predict(material: Material, number: int) -> tuple[float, float]:
    """Return the seconds from the list of files to the file of answers, and of the network."""
    started = time.perf_counter()
    out = AnswerFile(material.folder / f"out-{number}.parquet")
    request = Request.of([material.member], material.images, out)
    silent = lambda done, total: None  # noqa: E731
    outcome = predict_to_file(request, local_parts(request, "cpu", silent), silent)
    whole = time.perf_counter() - started
    if outcome.bad:
        sys.exit(f"{outcome.bad} images could not be used: see {out.bad}")
    predictor = Predictor([material.member])
    study = load_study_file(material.study)
    data = open_data(study.data, material.folder / "known")
    pixels = data.batch(range(len(data)))
    started = time.perf_counter()
    predictor.answers(pixels)
    return whole, time.perf_counter() - started


def measure(material: Material, rounds: int) -> Times:
    """Return median times; the two kinds of pass take turns."""
    make_deterministic(available_cores())
    evaluate(material, -1)  # files into the page cache, kernels made
    pairs = [(*evaluate(material, i), *predict(material, i)) for i in range(rounds)]
    whole, network, predicted, predicted_network = map(median, zip(*pairs, strict=True))
    return Times(whole, predicted, network, predicted_network)


def peak_of(command: list[str], environment: dict[str, str]) -> float:
    """Run a command; return the largest sum of its and its children's resident bytes."""
    process, peak = psutil.Popen(command, env=environment, stdout=sys.stderr), 0.0
    while process.poll() is None:
        try:
            family = [process, *process.children(recursive=True)]
            peak = max(peak, sum(one.memory_info().rss for one in family))
        except psutil.NoSuchProcess:
            continue
        time.sleep(0.05)
    if process.returncode:
        sys.exit(f"predict ended with {process.returncode}")
    return peak


def memory(material: Material, rows: int) -> float:
    """Return the peak of `galaxy-mlflow predict` on a CSV of many rows."""
    listed = [row.path for row in islice(open_images(material.images).rows(), 300)]
    many = write_list(material.folder / "many.csv", [Path(p) for p in islice(cycle(listed), rows)])
    program = str(Path(sys.executable).with_name("galaxy-mlflow"))
    out = str(material.folder / "many.parquet")
    command = [program, "predict", "--run", material.member.run.run_id, str(many), "--out", out]
    home = {"GALAXY_MLFLOW_HOME": str(material.folder / "home")}
    return peak_of(command, {**os.environ, **home})


def report_times(times: Times, given: argparse.Namespace, count: int) -> bool:
    """Print times and ratios; return whether the bar is met."""
    whole = times.evaluation / times.prediction
    network = times.evaluation_network / times.prediction_network
    print(f"{given.architecture}, {given.size} pixels, {count:,} images, {given.rounds} rounds")
    print(f"evaluation, decoding included: {times.evaluation:.1f} s")
    print(f"predict, files to answers: {times.prediction:.1f} s: speed {whole:.2f} (bar 0.9)")
    print(f"network alone: {times.evaluation_network:.1f} s and {times.prediction_network:.1f} s")
    print(f"there predict has {network:.2f} of the speed", flush=True)
    return whole >= SPEED


def report_memory(peak: float, rows: int) -> bool:
    """Print the peak; return whether the bar is met."""
    print(f"peak of memory on {rows:,} rows: {peak / 1e6:.0f} MB (bar 1,000)")
    return peak <= BYTES


def main() -> int:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=Path)
    parser.add_argument("--simulated", type=int, default=600)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--architecture", default="resnet18")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        material = prepare(Path(folder), given)
        count = len(open_images(material.images))
        fast = report_times(measure(material, given.rounds), given, count)
        small = report_memory(memory(material, given.rows), given.rows)
    return 0 if fast and small else 1


if __name__ == "__main__":
    sys.exit(main())
