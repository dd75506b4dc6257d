"""Prediction on a Ray cluster: the parts of a list by Ray Data, in order, same answers as here.

The workers read the list and its images themselves, by the paths that it has here; a Parquet may
hold the images' bytes. The weights are sent to them.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from galaxy_mlflow.answers import Part
from galaxy_mlflow.errors import DataError, ServerError
from galaxy_mlflow.home import Home
from galaxy_mlflow.image_list import ImageList, ImageRow
from galaxy_mlflow.predict import Member, Predictor
from galaxy_mlflow.predict_run import Parts, Progress, Request, part_of
from galaxy_mlflow.processes import ctrl_c_held_back
from galaxy_mlflow.ray_cluster import check_address, check_device, join
from galaxy_mlflow.ray_log import RayLog, log_of

Batch = dict[str, Any]


@dataclass(frozen=True)
class RayPlace:
    """Where and how a cluster computes.

    Attributes
    ----------
    device : auto, cpu or cuda
    threads : of each worker; None: one
    address : HOST:PORT of the head; None: as RAY_ADDRESS has it, or a cluster started here
    """

    device: str = "auto"
    threads: int | None = None
    address: str | None = None


@dataclass(frozen=True)
class _Work:
    """What every worker is told."""

    members: tuple[Member, ...]
    weights: tuple[Any, ...]  # in Ray's store; none where workers read this machine's files
    images: ImageList
    part_rows: int
    threads: int
    decoders: int | None  # threads; None: one a core
    device: str


def ray_parts(request: Request, place: RayPlace, progress: Progress) -> Parts:
    """Return the engine of a Ray cluster.

    Raises
    ------
    ConfigError
        Ray is not installed, or cannot be used like this.
    """
    address = check_address(place.address)
    check_device(place.device)
    total = len(request.images)

    def parts(first: int) -> Generator[Part, None, None]:
        home = Home.default()
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else it warns on the screen
        with ctrl_c_held_back():  # Ray's processes shall not hear it
            cluster = join(address, home, RayLog(log_of(home)))
        try:
            for number, part in enumerate(_answered(request, place, first, address), first + 1):
                yield part
                progress(min(number * request.part_rows, total), total)
        finally:
            cluster.leave()

    return parts


def _answered(request: Request, place: RayPlace, first: int, address: str | None) -> Iterator[Part]:
    """Yield the parts from a number on, in order, as workers answer them."""
    import ray

    numbers = range(first, request.count)
    if not numbers:
        return
    threads = place.threads or 1
    there = ray.cluster_resources()  # type: ignore[no-untyped-call]
    gpus = int(there.get("GPU", 0)) if place.device != "cpu" else 0
    workers = gpus or max(1, int(there.get("CPU", 1)) // threads)
    work = _work_of(request, place, "cuda" if gpus else "cpu", send=address is not None)
    _keep_quiet()
    # Not ray.data.range: to make numbers takes a core, which workers may have all of.
    listed = ray.data.from_items(list(numbers), override_num_blocks=len(numbers))
    answered = listed.map_batches(
        _Worker,
        fn_constructor_args=(work,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(numbers))),
        num_cpus=threads,
        num_gpus=1 if gpus else 0,
    )
    try:
        for row in answered.iter_rows():
            yield pickle.loads(row["part"])  # noqa: S301  our own workers'
    except ray.exceptions.RayError as error:
        raise _clear(error) from None


def _clear(error: Exception) -> Exception:
    """Return a worker's own error where it is one that users understand."""
    cause: BaseException | None = error
    while cause is not None:
        inner = getattr(cause, "cause", None) or cause.__cause__
        if isinstance(cause, DataError):
            return DataError(str(cause).strip().splitlines()[-1])
        cause = inner
    last = str(error).strip().splitlines()[-1]
    return ServerError(f"the Ray cluster could not go on: {last}; call the same command again")


def _work_of(request: Request, place: RayPlace, device: str, *, send: bool) -> _Work:
    import ray

    threads = place.threads or 1
    decoders = threads if device == "cpu" else place.threads  # one cannot feed a GPU
    files = [member.run.weights_file for member in request.members] if send else []
    weights = tuple(ray.put(file.read_bytes()) for file in files)
    rows = request.part_rows
    return _Work(request.members, weights, request.images, rows, threads, decoders, device)


def _keep_quiet() -> None:
    """Have Ray Data keep rows in order, and its bars and words to itself."""
    import ray

    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)


class _Worker:
    """An actor with all networks; it answers one part after another."""

    def __init__(self, work: _Work) -> None:
        from galaxy_mlflow.train import make_deterministic

        make_deterministic(work.threads)
        with TemporaryDirectory() as folder:
            self._predictor = Predictor(_local(work, Path(folder)), work.device)
        self._work = work
        self._at, self._rows = 0, work.images.rows()

    def __call__(self, batch: Batch) -> Batch:
        """Answer the parts whose numbers are the items of a batch."""
        parts = [self._part(int(number)) for number in batch["item"]]
        found = np.empty(len(parts), dtype=object)
        found[:] = [pickle.dumps(part) for part in parts]
        return {"part": found}

    def _part(self, number: int) -> Part:
        work = self._work
        rows = self._rows_from(number * work.part_rows)
        return part_of(rows, self._predictor, work.part_rows, lambda _: None, work.decoders)

    def _rows_from(self, start: int) -> Iterator[ImageRow]:
        """Return the rows of a part; where parts come in order, the list is read once."""
        if start != self._at:
            self._rows = self._work.images.rows(start)
        self._at = start + self._work.part_rows
        return islice(self._rows, self._work.part_rows)


def _local(work: _Work, folder: Path) -> Sequence[Member]:
    """Return the members with files of weights that this machine has."""
    if not work.weights:
        return work.members
    import ray

    members = []

    for number, (member, kept) in enumerate(zip(work.members, work.weights, strict=True)):
        file = folder / str(number) / member.run.weights_file.name
        file.parent.mkdir()
        file.write_bytes(ray.get(kept))
        members.append(replace(member, run=replace(member.run, weights_file=file)))
    return members
