"""Images with their labels, as users give them: a CSV, or a folder of class folders."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from galaxy_mlflow.errors import BadItem, DataError, did_you_mean
from galaxy_mlflow.pictures import SUFFIXES, FilePicture, Picture


@dataclass(frozen=True, slots=True)
class Row:
    """One image with its label as given; `where` says where a user finds it."""

    id: str
    label: str
    where: str
    picture: Picture


@dataclass
class Listing:
    """What a data set holds: good rows in its own order, bad rows, and what is worth saying."""

    source: str
    rows: list[Row] = field(default_factory=list)
    problems: list[BadItem] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    label_order: tuple[str, ...] = ()  # empty: labels have no order of their own


@dataclass(frozen=True)
class CsvRow:
    """The wanted cells of a row, stripped; `problem` says why they are not to be had."""

    line: int
    cells: dict[str, str]
    problem: str | None = None


def read_csv_columns(path: Path, required: Sequence[str], optional: Sequence[str]) -> list[CsvRow]:
    """Read some columns of a comma-separated UTF-8 file with a header.

    Header names are stripped and their case does not count; other columns are ignored.

    Returns
    -------
    one CsvRow for each row that is not blank; one too short or too long has a problem

    Raises
    ------
    DataError
        The file cannot be read, is empty, or lacks a required column.
    """
    return list(stream_csv_columns(path, io.StringIO(_text(path), newline=""), required, optional))


def stream_csv_columns(
    path: Path, text: TextIO, required: Sequence[str], optional: Sequence[str]
) -> Iterator[CsvRow]:
    """Yield what `read_csv_columns` returns, from the open `text` of a file, row by row.

    Raises
    ------
    DataError
        At the first row: a required column is missing; at any: the text is not CSV.
    """
    reader = csv.reader(text, strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        _check_header(path, header, required, optional)
        places = {name: header.index(name) for name in (*required, *optional) if name in header}
        yield from (_csv_row(reader.line_num, row, places, len(header)) for row in reader if row)
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: is not CSV: {error}") from None


def read_csv_header(path: Path) -> tuple[str, ...]:
    """Return the header of a comma-separated UTF-8 file, stripped and in lower case.

    Raises
    ------
    DataError
        The file cannot be read, or is empty.
    """
    rows = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        return tuple(name.strip().lower() for name in next(rows, []))
    except csv.Error as error:
        raise DataError(f"{path}:1: is not CSV: {error}") from None


def read_csv_listing(path: Path) -> Listing:
    """List the images of a CSV with columns `path`, `label` and perhaps `id`.

    Paths are absolute or relative to the CSV. Where no id is given it is the file's stem, or the
    path as written where several files have that stem.

    Raises
    ------
    DataError
        The CSV as a whole cannot be used.
    """
    listing = Listing(source=str(path))
    rows = read_csv_columns(path, ("path", "label"), ("id",))
    if not rows:
        raise DataError(f"{path}: holds a header and no image")
    stems = Counter(Path(row.cells["path"]).stem for row in rows if not row.problem)
    for row in rows:
        where = f"{path.name}:{row.line} {row.cells.get('path', '')}".rstrip()
        problem = row.problem or _empty_cell(row.cells)
        if problem:
            listing.problems.append(BadItem(where, problem))
            continue
        written = row.cells["path"]
        stem = Path(written).stem
        own_id = row.cells.get("id") or (stem if stems[stem] == 1 else written)
        picture = FilePicture(path.parent / written)
        listing.rows.append(Row(own_id, row.cells["label"], where, picture))
    return listing


def read_folder_listing(root: Path) -> Listing:
    """List the images of a folder that holds one folder of images a class.

    An id is `class/stem`, with the suffix where two files of a class share the stem. Hidden files
    do not count; other files that are no images are mentioned once.

    Raises
    ------
    DataError
        There is no such folder, or no class folder in it.
    """
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; expected one with a folder of images a class")
    listing = Listing(source=str(root))
    entries = visible(root)
    folders = [entry for entry in entries if entry.is_dir()]
    if not folders:
        raise DataError(f"{root}: expected a folder of images a class; it holds no folder")
    others = [entry for entry in entries if not entry.is_dir()]
    for folder in folders:
        rows = _class_rows(root, folder)
        others += [file for file in visible(folder) if not is_image(file)]
        listing.rows += rows
        if not rows:
            listing.notices.append(f"{folder}: holds no image, so {folder.name!r} is no class")
    if others:
        listing.notices.append(_left_out(root, others))
    if not listing.rows:
        raise DataError(f"{root}: no image in its folders ({', '.join(SUFFIXES)})")
    return listing


def visible(folder: Path) -> list[Path]:
    """Return what a folder holds, hidden files left out, by name.

    Raises
    ------
    DataError
        The folder cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from None


def is_image(file: Path) -> bool:
    """Whether a file has the suffix of an image that can be decoded."""
    return file.suffix.lower() in SUFFIXES and not file.is_dir()


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a table.

    Raises
    ------
    DataError
        The file is missing, empty or cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if not content.strip():
        raise DataError(f"{path}: is empty")
    return content


def _text(path: Path) -> str:
    content = read_bytes(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: is not UTF-8 text: save it as CSV in UTF-8") from None


def _check_header(
    path: Path, header: list[str], required: Sequence[str], optional: Sequence[str]
) -> None:
    for name in (*required, *optional):
        if name in required and name not in header:
            near = did_you_mean(name, header)
            if len(header) == 1 and (";" in header[0] or "\t" in header[0]):
                near = "; its columns must be separated by commas"
            found = ", ".join(header)
            raise DataError(f"{path}:1: no column {name!r}; found: {found}{near}")
        if header.count(name) > 1:
            raise DataError(f"{path}:1: has {header.count(name)} columns {name!r}: leave one")


def _csv_row(line: int, row: list[str], places: dict[str, int], width: int) -> CsvRow:
    cells = {name: row[place].strip() for name, place in places.items() if place < len(row)}
    if len(cells) < len(places):
        return CsvRow(line, cells, f"row has {len(row)} of {width} columns")
    if any(cell.strip() for cell in row[width:]):  # an unquoted comma shifts cells unseen
        return CsvRow(line, cells, f"row has {len(row)} columns, the header {width}")
    return CsvRow(line, cells)


def _empty_cell(cells: dict[str, str]) -> str | None:
    return next((f"empty {name}" for name in ("path", "label") if not cells[name]), None)


def _class_rows(root: Path, folder: Path) -> list[Row]:
    images = [file for file in visible(folder) if is_image(file)]
    stems = Counter(image.stem for image in images)
    names = [image.stem if stems[image.stem] == 1 else image.name for image in images]
    return [
        Row(f"{folder.name}/{name}", folder.name, str(image.relative_to(root)), FilePicture(image))
        for name, image in zip(names, images, strict=True)
    ]


def _left_out(root: Path, others: list[Path]) -> str:
    example = others[0].relative_to(root)
    if len(others) == 1:
        return f"{root}: {example} is no image in a class folder and is left out"
    return f"{root}: {len(others)} entries are no images in a class folder, such as {example}"
