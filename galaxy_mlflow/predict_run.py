"""One call of `predict`: what is left of the rows of a list, part by part, into one file."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from galaxy_mlflow.answers import AnswerFile, Part, Question, answer_table
from galaxy_mlflow.decoding import BadImage, decode_ahead
from galaxy_mlflow.files import sha256_of
from galaxy_mlflow.image_list import ImageList, ImageRow, open_images
from galaxy_mlflow.pictures import DECODER
from galaxy_mlflow.predict import Answers, Member, Predictor

PART_ROWS: Final = 4096
"""Rows in a part: what an interruption costs at most."""

Progress = Callable[[int, int], None]
"""Called with (rows done, rows in all)."""
Parts = Callable[[int], Generator[Part, None, None]]
"""What an engine does: the parts from a number on, in order."""


@dataclass(frozen=True)
class Request:
    """What is asked: these networks, on these images, into this file."""

    members: tuple[Member, ...]
    images: ImageList
    out: AnswerFile
    part_rows: int = PART_ROWS

    @classmethod
    def of(cls, members: Sequence[Member], images: Path, out: AnswerFile) -> Request:
        """Open the list of images.

        Raises
        ------
        DataError
            It cannot be used.
        """
        return cls(tuple(members), open_images(images), out)

    @property
    def count(self) -> int:
        """The number of parts."""
        return -(-len(self.images) // self.part_rows)

    def question(self) -> Question:
        """Return what decides the answers."""
        return {
            "runs": [member.run.run_id for member in self.members],
            "weights": [sha256_of(member.run.weights_file) for member in self.members],
            "temperatures": [member.temperature for member in self.members],
            "classes": list(self.members[0].run.classes),
            "list": str(self.images.path.resolve()),
            "list_digest": self.images.digest,
            "rows": len(self.images),
            "rows_a_part": self.part_rows,
            "decoder": DECODER,
        }


@dataclass(frozen=True)
class Outcome:
    """What a call did.

    Attributes
    ----------
    images : with an answer, in the whole file
    bad : without one
    now : rows of them that were done by this call
    seconds : that these took
    """

    images: int
    bad: int
    now: int
    seconds: float


def predict_to_file(
    request: Request, parts: Parts, progress: Progress, *, replace: bool = False
) -> Outcome:
    """Do what is left of a request; called again after an interruption, it goes on.

    Parameters
    ----------
    parts : an engine
    replace : write a file anew that is there, or whose parts are another question's

    Raises
    ------
    GalaxyError
        The file is there already, or the list cannot be read on.
    """
    question, total = request.question(), len(request.images)
    with request.out.open(question, replace=replace) as there:
        started, before = time.perf_counter(), min(there * request.part_rows, total)
        progress(before, total)
        with closing(parts(there)) as coming:
            for number, part in enumerate(coming, there):
                request.out.add(number, part)
        seconds = time.perf_counter() - started
        images, bad = request.out.join(question, request.count)
    return Outcome(images, bad, total - before, seconds)


def local_parts(
    request: Request, device: str, progress: Progress, threads: int | None = None
) -> Parts:
    """Return the engine of this machine alone.

    Parameters
    ----------
    threads : that decode; None: one a core
    """

    def parts(first: int) -> Generator[Part, None, None]:
        predictor = Predictor(request.members, device)
        total = len(request.images)
        rows = request.images.rows(first * request.part_rows)
        for number in range(first, request.count):
            before = number * request.part_rows
            some = islice(rows, min(request.part_rows, total - before))
            advance = partial(_advance, progress, before, total)
            yield part_of(some, predictor, request.part_rows, advance, threads)

    return parts


def _advance(progress: Progress, before: int, total: int, done: int) -> None:
    progress(before + done, total)


def part_of(
    rows: Iterator[ImageRow],
    predictor: Predictor,
    most: int,
    advance: Callable[[int], None],
    threads: int | None = None,
) -> Part:
    """Return the answers to some rows; `advance` is called with the rows done.

    Answers are written to one place. Kept batch by batch they would settle in the memory that each
    batch of images leaves, which then could not be used again before the part ends.

    Parameters
    ----------
    most : rows there may be
    threads : that decode; None: one a core
    """
    size, at_once = predictor.image_size, predictor.batch
    answers = Answers.room(most, len(predictor.classes))
    good: list[ImageRow] = []
    bad: list[BadImage] = []
    with closing(decode_ahead(rows, size, at_once, threads)) as batches:
        for batch in batches:
            if batch.good:
                answers.write(len(good), predictor.answers(batch.pixels))
            good += batch.good
            bad += batch.bad
            advance(len(good) + len(bad))
    return Part(answer_table(good, answers.first(len(good)), predictor.classes), bad)
