"""`galaxy-mlflow predict`: trained runs on new images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galaxy_mlflow.cli_runs import ENGINES, INTERRUPTED
from galaxy_mlflow.errors import ConfigError, did_you_mean
from galaxy_mlflow.options import (
    AddressOption,
    BestOption,
    DeviceOption,
    EngineOption,
    EnsembleOption,
    RunOption,
    ThreadsOption,
    complain,
    console,
    say,
)

if TYPE_CHECKING:
    from galaxy_mlflow.answers import AnswerFile
    from galaxy_mlflow.chosen import Choice
    from galaxy_mlflow.predict_run import Outcome, Parts, Progress, Request

_NO_IMAGE = 1


def predict(
    images: Annotated[
        Path,
        typer.Argument(
            metavar="IMAGES",
            help="A folder; a CSV with a column path; a Parquet with a column path or image.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="A .parquet or .csv file.")],
    run: RunOption = None,
    best: BestOption = None,
    ensemble: EnsembleOption = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    engine: EngineOption = "local",
    address: AddressOption = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Write the file anew where it is there already.")
    ] = False,
) -> None:
    """Say what trained runs make of new images: probabilities, class, and how sure they are.

    Call it again after an interruption: it goes on. What cannot be read costs no other image.

    Example: galaxy-mlflow predict --ensemble demo/pretrained images --out predictions.parquet
    """
    from galaxy_mlflow.answers import AnswerFile
    from galaxy_mlflow.chosen import Choice

    choice, file = Choice.of(run, best, ensemble), AnswerFile(out)
    file.refuse_existing(replace=replace)
    where = _Where(device, threads, _engine(engine, address), address)
    listed = images.absolute() if where.engine == "ray" else images  # workers run in other folders
    try:
        outcome = _predict(_request(choice, listed, file), where, replace=replace)
    except KeyboardInterrupt:
        complain("stopped; nothing is lost: call the same command again to go on")
        raise typer.Exit(INTERRUPTED) from None
    _tell(outcome, file)
    raise typer.Exit(0 if outcome.images else _NO_IMAGE)


@dataclass(frozen=True)
class _Where:
    """Where the networks compute."""

    device: str
    threads: int | None
    engine: str
    address: str | None


def _engine(name: str, address: str | None) -> str:
    """Read `--engine`."""
    if name not in ENGINES:
        raise ConfigError(f"--engine {name}{did_you_mean(name, ENGINES)}: {' or '.join(ENGINES)}")
    if name == "local" and address is not None:
        raise ConfigError("--address is a Ray cluster's: give --engine ray too")
    return name


def _request(choice: Choice, images: Path, file: AnswerFile) -> Request:
    """Fetch the networks, in a process of its own: MLflow takes memory that images may need."""
    from galaxy_mlflow.home import Home
    from galaxy_mlflow.image_list import open_images
    from galaxy_mlflow.processes import run_apart

    listed = open_images(images)
    say(f"{images}: {len(listed):,} images")
    home = Home.default()
    there = run_apart("galaxy_mlflow.fetched", "fetch_chosen", choice, home)
    from galaxy_mlflow.fetched import FetchedStore
    from galaxy_mlflow.members import fetch_members

    fetched = fetch_members(FetchedStore(home, there), there.runs, there.temperatures)
    for notice in (*there.notices, *fetched.notices):
        complain(f"note: {notice}")
    for member in fetched.members:
        say(f"{member.run.job.run_name}  {member.run.run_id}  temperature {member.temperature:.3g}")
    from galaxy_mlflow.predict_run import Request

    return Request(fetched.members, listed, file)


def _predict(request: Request, where: _Where, *, replace: bool) -> Outcome:
    from galaxy_mlflow.display import Display
    from galaxy_mlflow.predict_run import predict_to_file

    with Display(console()).step("images", rate="images") as progress:
        parts = _parts(request, where, progress)
        return predict_to_file(request, parts, progress, replace=replace)


def _parts(request: Request, where: _Where, progress: Progress) -> Parts:
    """Return the engine that is asked for."""
    if where.engine == "ray":
        from galaxy_mlflow.ray_predict import RayPlace, ray_parts

        return ray_parts(request, RayPlace(where.device, where.threads, where.address), progress)
    from galaxy_mlflow.machine import device_of
    from galaxy_mlflow.predict_run import local_parts
    from galaxy_mlflow.processes import available_cores
    from galaxy_mlflow.train import make_deterministic

    make_deterministic(where.threads or available_cores())
    return local_parts(request, device_of(where.device), progress, where.threads)


def _tell(outcome: Outcome, file: AnswerFile) -> None:
    """Say what came of it."""
    speed = outcome.now / outcome.seconds if outcome.seconds else 0.0
    before = outcome.images + outcome.bad - outcome.now
    resumed = f" ({before:,} were done before)" if before else ""
    say(
        f"{file.path}: {outcome.images:,} images{resumed}, {outcome.seconds:,.1f} s, "
        f"{speed:,.0f} images/s"
    )
    if outcome.bad:
        complain(f"{outcome.bad:,} images could not be used: {file.bad} says which, and why")
