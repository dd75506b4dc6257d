"""CSV files of numbers, read strictly: what is wrong is named by file, line and column."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from typing import Any

import numpy as np
import pandas as pd

from galaxy_mlflow.errors import DataError

_HEADER_LINES = 2  # the first row of a frame is line 2 of its file


@dataclass(frozen=True)
class CsvFile:
    """A table of text, and the name of the file it came from.

    Attributes
    ----------
    name : the file
    table : every cell as text, "" where empty; row i is line i + 2
    """

    name: str
    table: pd.DataFrame

    @classmethod
    def read(cls, folder: Traversable, name: str, columns: Sequence[str]) -> CsvFile:
        """Read a file with exactly these columns (others may follow); `.gz` is decompressed.

        Raises
        ------
        DataError
            The file is missing, damaged, no CSV, or lacks a column.
        """
        file = folder / name
        if not file.is_file():
            raise DataError(f"{file}: no such file; a source folder has {name}")
        try:
            with file.open("rb") as content:
                plain = gzip.GzipFile(fileobj=content) if name.endswith(".gz") else content
                table = pd.read_csv(plain, dtype=str, keep_default_na=False)
        except (OSError, EOFError, zlib.error, ValueError) as error:
            raise DataError(f"{file}: damaged, or not a CSV file: {error}") from None
        lacking = [column for column in columns if column not in table.columns]
        if lacking:
            raise DataError(
                f"{file}, line 1: no column {', '.join(lacking)}; expected {', '.join(columns)}"
            )
        return cls(str(file), table.fillna(""))

    def numbers(self, column: str, *, empty: bool = False) -> pd.Series[float]:
        """Return a column as float64; with `empty`, an empty cell is nan.

        Raises
        ------
        DataError
            A cell is not a finite number.
        """
        text = self.table[column]
        values = pd.to_numeric(text, errors="coerce").astype("float64")
        wrong = ~np.isfinite(values) & ~(empty & (text == ""))
        self.refuse(wrong, column, "a number" + (" or nothing" if empty else ""))
        return values

    def integers(self, column: str, low: int, high: int) -> pd.Series[int]:
        """Return a column as int64.

        Raises
        ------
        DataError
            A cell is not a whole number from `low` to `high`.
        """
        values = pd.to_numeric(self.table[column], errors="coerce").astype("float64")
        wrong = ~(values.between(low, high) & (values == np.floor(values)))
        self.refuse(wrong, column, f"a whole number from {low} to {high}")
        return values.astype("int64")

    def fractions(self, column: str, *, empty: bool = False) -> pd.Series[float]:
        """Return a column as float64 in [0, 1]; DataError for any other number."""
        values = self.numbers(column, empty=empty)
        self.refuse((values < 0) | (values > 1), column, "a fraction from 0 to 1")
        return values

    def one_of(self, column: str, known: Sequence[str]) -> pd.Series[str]:
        """Return a column of names; DataError where one is not among `known`."""
        self.refuse(~self.table[column].isin(known), column, f"one of {', '.join(known)}")
        return self.table[column]

    def refuse(self, wrong: Any, column: str, expected: str) -> None:
        """Raise DataError for the first row where `wrong` (one bool a row) is true."""
        rows = np.flatnonzero(np.asarray(wrong, dtype=bool))
        if rows.size:
            row = int(rows[0])
            found = self.table[column].iloc[row] if column in self.table else ""
            raise DataError(
                f"{self.name}, line {row + _HEADER_LINES}, column {column}: "
                f"{found!r} found, {expected} expected"
            )
