"""Histories from CSV files: a line a value, or a line an epoch with a column a metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from galaxy_mlflow import schema
from galaxy_mlflow.errors import DataError
from galaxy_mlflow.files import sha256_of
from galaxy_mlflow.histories import Part, Value, Where
from galaxy_mlflow.history_names import EPOCH, METRIC, SIZES, VALUE, Names, PathPattern
from galaxy_mlflow.listings import CsvRow, read_csv_columns, read_csv_header


@dataclass(frozen=True)
class CsvSource:
    """A CSV file, or a folder of them.

    Attributes
    ----------
    names : how columns become ours
    pattern : what the path of a file, below the folder, says of its run
    """

    path: Path
    names: Names
    pattern: PathPattern | None = None

    def parts(self) -> list[Part]:
        """Return the files to read.

        Raises
        ------
        DataError
            There is none.
        """
        found = {file: said for file, said in self._files.items() if said is not None}
        if not found:
            examples = ", ".join(self.left_out()[:3])
            pattern = self.pattern.text if self.pattern is not None else "*"
            raise DataError(
                f"{self.path}: no file is as --pattern {pattern} has it; there are {examples}"
            )
        return [
            Part(self._shown(file), sha256_of(file), self._values(file, said))
            for file, said in found.items()
        ]

    def left_out(self) -> list[str]:
        """Return the files that are not as the pattern has it."""
        return [self._shown(file) for file, said in self._files.items() if said is None]

    @cached_property
    def _files(self) -> dict[Path, dict[str, str] | None]:
        """Each file there with what its path says; None where that is not as the pattern has it."""
        if not self.path.exists():
            raise DataError(f"{self.path}: no such file or folder")
        there = sorted(self.path.rglob("*.csv")) if self.path.is_dir() else [self.path]
        if not there:
            raise DataError(f"{self.path}: holds no .csv file")
        return {
            file: self.pattern.read(self._shown(file)) if self.pattern is not None else {}
            for file in there
        }

    def _shown(self, file: Path) -> str:
        """Return a file's path below the source, its name where it is the source."""
        return file.relative_to(self.path).as_posix() if file != self.path else file.name

    def _values(self, file: Path, said: dict[str, str]) -> Iterator[Value]:
        header = read_csv_header(file)
        if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
            raise DataError(f"{file}, line 1: its columns must be separated by commas")
        columns = self.names.known([name for name in header if name], f"{file}, line 1")
        places = {ours: theirs for theirs, ours in columns.items()}
        long = {METRIC, VALUE} <= set(places)
        _require_columns(file, places, said, long=long)
        table = _Table(file, places, said)
        rows = read_csv_columns(file, (), tuple(columns))
        yield from self._long(table, rows) if long else table.wide(rows)

    def _long(self, table: _Table, rows: Sequence[CsvRow]) -> Iterator[Value]:
        where = f"{table.file}, column {METRIC}"
        theirs = dict.fromkeys(row.cells[table.places[METRIC]] for row in rows if not row.problem)
        metrics = Names(self.names.given, self.names.ignored, columns=False).known(theirs, where)
        yield from table.long(rows, metrics)


def _require_columns(
    file: Path, places: dict[str, str], said: dict[str, str], *, long: bool
) -> None:
    for name in (schema.SPLIT, schema.ARM):
        if name in places and name in said:
            raise DataError(f"{file}, line 1: {name} is a column, and stands in --pattern too")
        if name not in places and name not in said:
            raise DataError(
                f"{file}, line 1: no column {name}: add it, name it with --map, or say where it "
                "stands in the path with --pattern '{arm}/split-{split}/metrics.csv'"
            )
    if EPOCH not in places:
        raise DataError(f"{file}, line 1: no column epoch; name it as in --map step=epoch")
    metrics = set(places) - {schema.SPLIT, schema.ARM, EPOCH, METRIC, VALUE, *SIZES}
    if not long and not metrics:
        raise DataError(f"{file}, line 1: no column of a metric, such as test_accuracy")
    if long and metrics:
        raise DataError(
            f"{file}, line 1: columns metric and value, and {', '.join(sorted(metrics))} too: "
            "one form or the other"
        )


@dataclass(frozen=True)
class _Table:
    """The rows of a file, by our names of its columns."""

    file: Path
    places: dict[str, str]
    said: dict[str, str]

    def long(self, rows: Sequence[CsvRow], metrics: dict[str, str]) -> Iterator[Value]:
        for row in rows:
            self._check(row)
            metric = metrics.get(row.cells[self.places[METRIC]])
            if metric is not None:
                yield self._value(row, metric, VALUE)
                yield from self._sizes(row)

    def wide(self, rows: Sequence[CsvRow]) -> Iterator[Value]:
        metrics = [ours for ours in self.places if ours not in (*self.said, schema.SPLIT,
                   schema.ARM, EPOCH, *SIZES)]  # fmt: skip
        for row in rows:
            self._check(row)
            filled = [name for name in metrics if row.cells[self.places[name]]]
            for name in filled:  # Lightning writes an epoch's metrics to several lines
                yield self._value(row, name, name)
            if filled:
                yield from self._sizes(row)

    def _sizes(self, row: CsvRow) -> Iterator[Value]:
        for name in SIZES:
            if name in self.places:
                yield self._value(row, name, name)

    def _check(self, row: CsvRow) -> None:
        if row.problem:
            raise DataError(f"{self.file}, line {row.line}: {row.problem}")

    def _value(self, row: CsvRow, metric: str, column: str) -> Value:
        split, arm = self._whole(row, schema.SPLIT), self._text(row, schema.ARM)
        where = Where(f"{self.file}, line ", row.line, f", column {self.places[column]}")
        value = self._number(row, column)
        return Value(split, arm, metric, self._whole(row, EPOCH), value, where)

    def _text(self, row: CsvRow, name: str) -> str:
        return self.said[name] if name in self.said else row.cells[self.places[name]]

    def _whole(self, row: CsvRow, name: str) -> int:
        number = float(self.said[name]) if name in self.said else self._number(row, name)
        if not (number >= 0 and number.is_integer()):
            raise self._wrong(row, name, "a whole number, 0 or more,")
        return int(number)

    def _number(self, row: CsvRow, name: str) -> float:
        try:
            return float(row.cells[self.places[name]])
        except ValueError:
            raise self._wrong(row, name, "a number") from None

    def _wrong(self, row: CsvRow, name: str, expected: str) -> DataError:
        theirs = self.places[name]
        found = row.cells[theirs]
        return DataError(
            f"{self.file}, line {row.line}, column {theirs}: {found!r} found, {expected} expected"
        )
