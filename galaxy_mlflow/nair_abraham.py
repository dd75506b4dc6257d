"""The Nair & Abraham (2010) catalogue of visual morphology, joined with images on an ID."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from galaxy_mlflow.data_settings import PAPER_FRACTIONS
from galaxy_mlflow.errors import BadItem, DataError
from galaxy_mlflow.listings import Listing, Row, is_image, read_bytes, read_csv_columns, visible
from galaxy_mlflow.pictures import FilePicture

LabelMap = Literal["paper", "corrected"]

ID_COLUMNS: Final = ("jid", "sdss", "objid", "dr7objid", "spid", "fpcid", "id")
"""Columns that name a galaxy, the one that makes its stable id first."""

TTYPE_COLUMNS: Final = ("ttype", "tt", "t")
"""Names of the T-type, best first: the author's file has a column Tt of another meaning."""

_CLASS_OF_TTYPE: Final = {
    -5: "elliptical",
    **dict.fromkeys((-3, -2, -1, 0), "lenticular"),
    **dict.fromkeys(range(1, 10), "spiral"),
    **dict.fromkeys((10, 99), "irr_misc"),
}
_UNCERTAIN: Final = (11, 12)
_SEPARATORS: Final = ("\t", ";", ",", "|", None)  # None: any white space
_FPC = re.compile(r"(?:fpc-)?(\d+)-(\d+)-(\d+)-(\d+)-(\d+)")  # run-rerun-camcol-field-object
_OBJID = re.compile(r"(\d{17,19})(?:_.*)?")


def class_of_ttype(ttype: int, labels: LabelMap) -> str | None:
    """Return the class of a T-type by the rule of Schneider, Stenning & Elliott (2023), or None.

    -5 is elliptical, -3 to 0 lenticular, 1 to 9 spiral, 10 and 99 irregular or miscellaneous.
    The rule says nothing of 11 and 12; the paper's code counted those 15 galaxies as elliptical.

    Parameters
    ----------
    labels : "paper" repeats that; "corrected" puts 11 and 12 with the irregulars
    """
    if ttype in _UNCERTAIN:
        return "elliptical" if labels == "paper" else "irr_misc"
    return _CLASS_OF_TTYPE.get(ttype)


def read_nair_abraham(catalogue: Path, images: Path, labels: LabelMap) -> Listing:
    """List the galaxies of a catalogue that have an image, in the catalogue's order.

    The catalogue is the author's file (columns apart by white space), a table apart by tabs,
    commas, semicolons or bars, or VizieR's (units and dashes below the header). Comment lines and
    text before the header are passed over. Columns that name a galaxy are JID, SDSS, objid,
    dr7objid, spID, fpCid and id; the T-type is TType, TT or T.

    An image belongs to the galaxy that has its ID in any of these columns: by the file's stem, or
    by the `id` of a CSV with columns id and path. An SDSS object number also finds
    `fpC-<run>-<rerun>-<camcol>-<field>-<object>`, which it encodes.

    Parameters
    ----------
    images : a folder of images, or a CSV with columns `id` and `path`

    Raises
    ------
    DataError
        One of the two cannot be read, lacks a column, or no image belongs to any galaxy.
    """
    listing = Listing(source=str(catalogue), label_order=tuple(PAPER_FRACTIONS))
    shelf = _shelf(images)
    for galaxy in _galaxies(catalogue, listing):
        where = f"{catalogue.name}:{galaxy.line} {galaxy.id}".rstrip()
        try:
            file, label = _join(galaxy, shelf, labels)
        except DataError as error:
            listing.problems.append(BadItem(where, str(error)))
        else:
            where = f"{where} {file.name}"
            listing.rows.append(Row(galaxy.id, label, where, FilePicture(file)))
    if not shelf.taken:
        raise DataError(_nothing_joined(catalogue, shelf, listing))
    spare = sorted(set(shelf.files) - set(shelf.taken))
    if spare:
        count = f"{len(spare)} image{'s belong' if len(spare) > 1 else ' belongs'}"
        listing.notices.append(f"{images}: {count} to no galaxy of the catalogue: {spare[0].name}")
    return listing


@dataclass(frozen=True)
class _Galaxy:
    line: int
    ids: tuple[str, ...]  # in the order of ID_COLUMNS
    ttype: str

    @property
    def id(self) -> str:
        return next(filter(None, self.ids), "")


@dataclass
class _Shelf:
    """Images by the IDs they are named with."""

    source: Path
    by_key: dict[str, list[Path]] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    taken: dict[Path, _Galaxy] = field(default_factory=dict)

    def put(self, name: str, file: Path) -> None:
        self.files.append(file)
        for key in _keys(name):
            self.by_key.setdefault(key, []).append(file)

    def find(self, ids: Sequence[str]) -> list[Path]:
        """Return the images named by the first of these IDs that names any."""
        keys = (key for identifier in ids if identifier for key in _keys(identifier))
        return next((self.by_key[key] for key in keys if key in self.by_key), [])


def _join(galaxy: _Galaxy, shelf: _Shelf, labels: LabelMap) -> tuple[Path, str]:
    """Return image and class of a galaxy; a DataError says why it has none."""
    if not galaxy.id:
        raise DataError("empty ID")
    found = shelf.find(galaxy.ids)
    first = shelf.taken.setdefault(found[0], galaxy) if found else galaxy
    label = _class_of(galaxy.ttype, labels)
    if label is None:
        raise DataError(f"unmapped TType {galaxy.ttype!r}")
    if not found:
        raise DataError(f"missing file: no image in {shelf.source} has its ID")
    if len(found) > 1:
        raise DataError(f"{len(found)} images have its ID: {found[0].name} and {found[1].name}")
    if first.id != galaxy.id:
        raise DataError(f"its image {found[0].name} is already that of line {first.line}")
    return found[0], label


def _class_of(ttype: str, labels: LabelMap) -> str | None:
    try:
        value = float(ttype)
    except ValueError:
        return None
    return class_of_ttype(int(value), labels) if value.is_integer() else None


def _shelf(images: Path) -> _Shelf:
    shelf = _Shelf(images)
    if images.is_dir():
        for file in filter(is_image, visible(images)):
            shelf.put(file.stem, file)
    else:
        for row in read_csv_columns(images, ("id", "path"), ()):
            if row.problem or not all(row.cells.values()):
                raise DataError(f"{images}:{row.line}: {row.problem or 'empty id or path'}")
            shelf.put(row.cells["id"], images.parent / row.cells["path"])
    if not shelf.files:
        raise DataError(f"{images}: holds no image")
    return shelf


def _keys(name: str) -> list[str]:
    """Return what an ID is compared by: itself, and the SDSS numbers it stands for."""
    plain = re.sub(r"^sdss|\s", "", name.strip().lower())
    keys = [plain]
    frame, number = _FPC.fullmatch(plain), _OBJID.fullmatch(plain)
    if frame:
        keys.append("-".join(str(int(part)) for part in frame.groups()))
    elif number:
        keys += [number[1], _frame_of_objid(int(number[1]))]
    return list(dict.fromkeys(keys))


def _frame_of_objid(objid: int) -> str:
    """Return run-rerun-camcol-field-object of an SDSS objID (bit layout: SDSS algorithms)."""
    run, rerun, camcol = objid >> 32 & 0xFFFF, objid >> 48 & 0x7FF, objid >> 29 & 0x7
    return f"{run}-{rerun}-{camcol}-{objid >> 16 & 0xFFF}-{objid & 0xFFFF}"


def _galaxies(catalogue: Path, listing: Listing) -> Iterator[_Galaxy]:
    """Read the catalogue's rows; rows too short become problems of the listing."""
    lines = _lines(catalogue)
    header = _find_header(lines)
    if header is None:
        raise DataError(_no_header(catalogue, lines))
    separator, names = header.separator, [name.lower() for name in header.names]
    id_places = [names.index(name) for name in ID_COLUMNS if name in names]
    type_place = names.index(next(name for name in TTYPE_COLUMNS if name in names))
    for line, text in _body(lines[header.index + 1 :], separator):
        cells = _cells(text, separator)
        if len(cells) != len(names):
            where = f"{catalogue.name}:{line} {cells[0]}"
            listing.problems.append(BadItem(where, f"row has {len(cells)} of {len(names)} columns"))
            continue
        yield _Galaxy(line, tuple(cells[place] for place in id_places), cells[type_place])


@dataclass(frozen=True)
class _Header:
    index: int  # in the list of lines
    separator: str | None
    names: list[str]


def _lines(catalogue: Path) -> list[tuple[int, str]]:
    """Return the lines that are not blank, with their numbers."""
    content = read_bytes(catalogue)
    if content.startswith(b"SIMPLE  =") or b"\0" in content:
        raise DataError(f"{catalogue}: is no text table: save it as text, with tabs or commas")
    text = content.decode("utf-8-sig", errors="replace")
    return [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]


def _find_header(lines: list[tuple[int, str]]) -> _Header | None:
    """Return the first line that names an ID and a T-type and has the next row's width."""
    for index, (_, line) in enumerate(lines):
        if not any(name in line.lower() for name in ID_COLUMNS):
            continue
        below = next((text for _, text in lines[index + 1 :] if not text.startswith("#")), "")
        for separator in _SEPARATORS:
            names = _names(line, separator)
            lowered = {name.lower() for name in names}
            known = lowered & set(ID_COLUMNS) and lowered & set(TTYPE_COLUMNS)
            if known and len(_cells(below, separator)) == len(names):
                return _Header(index, separator, names)
    return None


def _body(lines: list[tuple[int, str]], separator: str | None) -> Iterator[tuple[int, str]]:
    """Yield the rows below a header: no comments, and neither VizieR's units nor its dashes."""
    rows = [(number, line) for number, line in lines if not line.startswith("#")]
    dashes = next((i for i, (_, line) in enumerate(rows[:3]) if _is_rule(line, separator)), -1)
    yield from rows[dashes + 1 :]


def _is_rule(line: str, separator: str | None) -> bool:
    return all(set(cell) == {"-"} for cell in _cells(line, separator) if cell)


def _names(line: str, separator: str | None) -> list[str]:
    return [name.lstrip("# ") for name in _cells(line.lstrip("# "), separator)]


def _cells(line: str, separator: str | None) -> list[str]:
    if separator is None:
        return line.split()
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]


def _no_header(catalogue: Path, lines: list[tuple[int, str]]) -> str:
    """Say which column is missing from the line that looks most like a header."""
    candidates = [_names(line, separator) for _, line in lines for separator in _SEPARATORS]
    known = {*ID_COLUMNS, *TTYPE_COLUMNS}
    best = max(candidates, key=lambda names: len(known & {name.lower() for name in names}))
    if not known & {name.lower() for name in best}:
        best = _names(next((t for _, t in lines if not t.startswith("#")), lines[0][1]), None)
    return (
        f"{catalogue}: expected a header with an ID (JID, SDSS, objid, spID or id) and a T-type "
        f"(TType, TT or T), and galaxies below it; its columns are {', '.join(best)}"
    )


def _nothing_joined(catalogue: Path, shelf: _Shelf, listing: Listing) -> str:
    example = listing.problems[0].where if listing.problems else catalogue.name
    return (
        f"no image in {shelf.source} is named by an ID of {catalogue} "
        f"(an image: {shelf.files[0].name}; a galaxy: {example}): images are never joined by "
        "order; name them by an ID, or give a CSV with columns id and path as data.images"
    )
