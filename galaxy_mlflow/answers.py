"""Answers on disk: parts that outlive an interruption, joined into one Parquet or CSV at the end.

Beside `FILE.parquet` a folder `.FILE.parquet.parts` holds the question and the parts that are done;
it goes when the file is whole. `FILE-bad.csv` lists images without an answer, `FILE-about.json`
says what was asked, and of which networks.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from galaxy_mlflow.decoding import BadImage
from galaxy_mlflow.errors import ConfigError, did_you_mean
from galaxy_mlflow.files import write_atomically, write_json
from galaxy_mlflow.image_list import ImageRow

if TYPE_CHECKING:
    from galaxy_mlflow.predict import Answers

Question = Mapping[str, Any]
"""What decides the answers, as JSON: networks, temperatures, the list of images, the decoder."""

FORMATS: Final = (".parquet", ".csv")
_QUESTION: Final = "question.json"


def answer_table(rows: Sequence[ImageRow], answers: Answers, classes: Sequence[str]) -> pa.Table:
    """Return the answers' columns, in the order in which every file has them."""
    keys = np.asarray(classes, dtype=object)
    columns: dict[str, Any] = {
        "row": pa.array([row.row for row in rows], pa.int64()),
        "id": pa.array([row.id for row in rows], pa.string()),
        "path": pa.array([row.path for row in rows], pa.string()),
        "predicted": pa.array(keys[answers.predicted], pa.string()),
    }
    columns |= {f"p_{key}": answers.probabilities[:, i] for i, key in enumerate(classes)}
    for name in ("confidence", "entropy", "spread", "disagreement"):
        columns[name] = getattr(answers, name)
    return pa.table(columns)


@dataclass(frozen=True)
class Part:
    """The answers to some rows that follow each other in a list, and its bad images."""

    table: pa.Table
    bad: Sequence[BadImage]


@dataclass(frozen=True)
class AnswerFile:
    """The file that answers go to, and what stands beside it.

    Attributes
    ----------
    path : .parquet or .csv
    """

    path: Path

    def __post_init__(self) -> None:
        if self.path.suffix.lower() not in FORMATS:
            near = did_you_mean(self.path.suffix, FORMATS)
            raise ConfigError(f"--out {self.path}{near}: give a file .parquet or .csv")
        if self.path.is_dir():
            raise ConfigError(f"--out {self.path}: is a folder: give a file .parquet or .csv")

    @property
    def parts(self) -> Path:
        """The folder of what is done of an unfinished file."""
        return self.path.with_name(f".{self.path.name}.parts")

    @property
    def bad(self) -> Path:
        """The list of images that could not be used."""
        return self.path.with_name(f"{self.path.stem}-bad.csv")

    @property
    def about(self) -> Path:
        """What was asked of which networks, and how much came of it."""
        return self.path.with_name(f"{self.path.stem}-about.json")

    def refuse_existing(self, *, replace: bool) -> None:
        """Raise ConfigError where the file is there and not to be replaced."""
        if self.path.exists() and not replace:
            raise ConfigError(f"{self.path}: is there already: --replace writes it anew")

    @contextmanager
    def open(self, question: Question, *, replace: bool) -> Iterator[int]:
        """Make ready for the answers to a question; yield the number of parts that are there.

        Raises
        ------
        ConfigError
            The file is there already, or holds the beginning of another question's answers, or
            another process writes it.
        """
        self.refuse_existing(replace=replace)
        asked = json.loads(json.dumps(question))
        self.parts.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.parts.with_name(f"{self.parts.name}.lock"))
        try:
            with lock.acquire(timeout=0):
                yield self._begin(asked, replace=replace)
        except Timeout:
            raise ConfigError(f"{self.path}: another process writes it now") from None

    def _begin(self, asked: Question, *, replace: bool) -> int:
        note = self.parts / _QUESTION
        before = json.loads(note.read_text()) if note.is_file() else None
        if before is not None and before != asked and not replace:
            other = ", ".join(key for key in asked if asked[key] != before.get(key))
            raise ConfigError(
                f"{self.path}: another call was interrupted that differs in: {other}; call that "
                "one again, or begin anew with --replace"
            )
        if before != asked:
            shutil.rmtree(self.parts)
            write_json(note, asked)
        number = 0
        while self._part(number).is_file():
            number += 1
        return number

    def add(self, number: int, part: Part) -> None:
        """Write a part; it is there as soon as its table is."""
        bad = [(item.row, item.where, item.reason) for item in part.bad]
        write_json(self._bad_of(number), bad)
        write_atomically(self._part(number), lambda draft: pq.write_table(part.table, draft))

    def join(self, question: Question, count: int) -> tuple[int, int]:
        """Make one file of `count` parts, a part in memory at a time; return good and bad rows."""
        bad = self._join_bad(count)
        good = 0

        def write(draft: Path) -> None:
            nonlocal good
            good = self._write(draft, count)

        write_atomically(self.path, write)
        write_json(self.about, {**question, "images": good, "bad_images": bad})
        shutil.rmtree(self.parts)
        self.parts.with_name(f"{self.parts.name}.lock").unlink(missing_ok=True)
        return good, bad

    def _write(self, draft: Path, count: int) -> int:
        rows, form = pq.read_schema(self._part(0)), self.path.suffix.lower()
        make = pq.ParquetWriter if form == ".parquet" else pyarrow.csv.CSVWriter
        good = 0
        with make(draft, rows) as writer:
            for number in range(count):
                table = pq.read_table(self._part(number))
                good += table.num_rows
                writer.write_table(table)
        return good

    def _join_bad(self, count: int) -> int:
        """Write the list of bad images, if there is any; return how many there are."""
        found = [json.loads(self._bad_of(number).read_text()) for number in range(count)]
        rows = [row for part in found for row in part]
        if not rows:
            self.bad.unlink(missing_ok=True)
            return 0

        def write(draft: Path) -> None:
            with draft.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([("row", "where", "reason"), *rows])

        write_atomically(self.bad, write)
        return len(rows)

    def _part(self, number: int) -> Path:
        return self.parts / f"part-{number:07d}.parquet"

    def _bad_of(self, number: int) -> Path:
        return self.parts / f"bad-{number:07d}.json"
