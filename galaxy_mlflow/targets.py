"""Galaxies on the sky, of which pictures are to be fetched: from a CSV, or VizieR's answer."""

from __future__ import annotations

import io
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from galaxy_mlflow.errors import BadItem, DataError, did_you_mean
from galaxy_mlflow.listings import read_csv_columns

_SAFE: Final = re.compile(r"[\w.+-]{1,100}")  # an id is a file's name too
_MOST_BYTES: Final = 200  # file systems take names of 255, drafts of files have longer ones
_JNAME: Final = re.compile(r"(?:SDSS ?)?(J\d{6}\.\d+[+-]\d{6}\.\d+)")
_UCDS: Final = {"ra": "pos.eq.ra", "dec": "pos.eq.dec"}

PUBLISHED_TTYPES: Final = {
    -5: 2723, -3: 1056, -2: 966, 0: 1193, 1: 1322, 2: 893, 3: 1890, 4: 1207, 5: 1562, 6: 541,
    7: 173, 8: 52, 9: 68, 10: 35, 11: 10, 12: 5, 99: 338,
}  # fmt: skip
"""How often each T-type is in the catalogue of Nair & Abraham (2010), of 14,034 galaxies."""
_LEAST_OVERLAP: Final = 0.8


@dataclass(frozen=True)
class Target:
    """A galaxy: right ascension and declination in degrees (J2000), a radius in arcseconds."""

    id: str
    ra: float
    dec: float
    label: str = ""
    radius: float | None = None


@dataclass(frozen=True)
class Targets:
    """The galaxies of a table, in its order, and its rows that cannot be used."""

    good: tuple[Target, ...]
    problems: tuple[BadItem, ...] = ()


def read_targets(path: Path, radius_column: str | None = None) -> Targets:
    """Read a CSV with columns `id`, `ra`, `dec` (degrees) and perhaps `label`.

    Parameters
    ----------
    radius_column : the column of radii in arcseconds, where the field of view is to follow them

    Raises
    ------
    DataError
        The file cannot be read, or lacks a column.
    """
    radius = () if radius_column is None else (radius_column.lower(),)
    rows = read_csv_columns(path, ("id", "ra", "dec", *radius), ("label",))
    found: list[Target | BadItem] = []
    for row in rows:
        where = f"{path.name}:{row.line}"
        cells = {**row.cells, "radius": row.cells.get(radius[0], "") if radius else None}
        found.append(BadItem(where, row.problem) if row.problem else _target(cells, where))
    return _first_of_each(found)


def _target(cells: Mapping[str, str | None], where: str) -> Target | BadItem:
    name = cells["id"] or ""
    if problem := _id_problem(name):
        return BadItem(where, f"id {name!r}: {problem}")
    try:
        ra = _number(cells, "ra", 0, 360)
        dec = _number(cells, "dec", -90, 90)
        radius = None if cells.get("radius") is None else _number(cells, "radius", 0.1, 3600)
    except DataError as error:
        return BadItem(f"{where} {name}", str(error))
    return Target(name, ra, dec, cells.get("label") or "", radius)


def _id_problem(name: str) -> str:
    if not _SAFE.fullmatch(name) or not name.strip("."):
        return "expected letters, digits, and any of . _ + -, 100 at most"
    size = len(name.encode())
    return f"is {size} bytes as UTF-8: expected {_MOST_BYTES} at most" if size > _MOST_BYTES else ""


def _number(cells: Mapping[str, str | None], name: str, low: float, high: float) -> float:
    text = cells[name] or ""
    try:
        value = float(text)
    except ValueError:
        raise DataError(f"{name} {text!r} is no number (degrees or arcseconds)") from None
    if not (math.isfinite(value) and low <= value <= high):
        raise DataError(f"{name} {text} is not from {low:g} to {high:g}")
    return value


def _first_of_each(found: Sequence[Target | BadItem]) -> Targets:
    """Keep the first galaxy of each id; file systems may not tell upper case from lower."""
    targets = [item for item in found if isinstance(item, Target)]
    problems = [item for item in found if isinstance(item, BadItem)]
    first = {target.id.lower(): target for target in reversed(targets)}
    good = tuple(target for target in targets if first[target.id.lower()] is target)
    again = (target for target in targets if first[target.id.lower()] is not target)
    problems += [BadItem(target.id, "is there twice; the first row counts") for target in again]
    return Targets(good, tuple(problems))


@dataclass(frozen=True)
class Table:
    """VizieR's answer: texts by column, and what its metadata say each column is (UCD)."""

    columns: Mapping[str, tuple[str, ...]]
    ucds: Mapping[str, str]


def parse_vizier(content: bytes) -> Table:
    """Read an answer of VizieR: tab-separated (CDS, asu-tsv), or a VOTable (IVOA, 1.0 to 1.5).

    In the first, comment lines begin with `#`, of which `#Column` lines tell the columns; then come
    a line of names, one of units and one of dashes, and the rows.

    Raises
    ------
    DataError
        It is no such answer, an answer that tells of an error, or one cut short.
    """
    if content.lstrip()[:1] == b"<":
        return _parse_votable(content)
    text = content.decode("utf-8", errors="replace")
    if "QUERY_STATUS=ERROR" in text or "#***" in text:
        told = next((row for row in text.splitlines() if "ERROR" in row or "***" in row), "")
        raise DataError(f"VizieR answers with an error: {told.strip('# *')[:200]}")
    lines = [row for row in text.splitlines() if row.strip() and not row.startswith("#")]
    rule = next((i for i, row in enumerate(lines[:4]) if _is_rule(row)), 0)
    if rule < 1:
        raise DataError("is no table of VizieR (no line of dashes below its header)")
    names = [name.strip() for name in lines[0].split("\t")]
    rows = [[cell.strip() for cell in line.split("\t")] for line in lines[rule + 1 :]]
    for number, row in enumerate(rows, 1):
        if len(row) != len(names):
            raise DataError(f"row {number} has {len(row)} of {len(names)} columns: it is cut short")
    cells = zip(*rows, strict=True) if rows else [()] * len(names)
    return Table(dict(zip(names, cells, strict=True)), _ucds(text))


def _parse_votable(content: bytes) -> Table:
    from astropy.io.votable import parse
    from astropy.io.votable.exceptions import VOWarning

    try:
        answer = parse(io.BytesIO(content), verify="ignore")
        _refuse_error(info for part in (answer, *answer.resources) for info in part.infos)
        table = answer.get_first_table()
    except (VOWarning, IndexError, ValueError) as error:
        raise DataError(f"is no whole table of VizieR: {str(error).strip()}") from None
    columns = {field.name: tuple(map(_shown, table.array[field.ID])) for field in table.fields}
    return Table(columns, {field.name: field.ucd or "" for field in table.fields})


def _refuse_error(told: Iterable[Any]) -> None:
    """Raise what an INFO element tells of an error (DALI 1.1, section 4.4)."""
    for info in told:
        if info.name == "QUERY_STATUS" and info.value == "ERROR":
            raise DataError(f"VizieR answers with an error: {(info.content or '').strip()[:200]}")


def _shown(value: Any) -> str:
    """Return a cell as text; an empty one is masked."""
    return "" if np.ma.is_masked(value) else str(value).strip()


def _is_rule(line: str) -> bool:
    cells = [cell.strip() for cell in line.split("\t")]
    return any(cells) and all(set(cell) <= {"-"} for cell in cells)


def _ucds(text: str) -> dict[str, str]:
    found = re.findall(r"^#Column\t([^\t]+)\t.*\[ucd=([^\]]*)\]", text, re.MULTILINE)
    return {name.strip(): ucd for name, ucd in found}


def nair_abraham_targets(table: Table, radius_column: str | None = None) -> Targets:
    """Return the galaxies of the catalogue, with the T-type as label.

    Names of columns are never taken for granted: positions are told by their UCD, identifiers by
    their form, and the T-type by its values, which are those of Nair & Abraham (2010).

    Raises
    ------
    DataError
        One of them is not to be told.
    """
    chosen = {
        "id": _identifier(table),
        "ra": _position(table, "ra"),
        "dec": _position(table, "dec"),
        "label": _ttype_column(table),
    }
    if radius_column is not None:
        chosen["radius"] = _named(table, radius_column)
    rows = zip(*(table.columns[name] for name in chosen.values()), strict=True)
    found = []
    for number, row in enumerate(rows, 1):
        cells = dict(zip(chosen, row, strict=True))
        jname = _JNAME.fullmatch(cells["id"])
        cells["id"] = jname[1] if jname else cells["id"]
        found.append(_target(cells, f"row {number}"))
    return _first_of_each(found)


def _identifier(table: Table) -> str:
    for name, cells in table.columns.items():
        if cells and sum(bool(_JNAME.fullmatch(cell)) for cell in cells) > 0.9 * len(cells):
            return name
    raise DataError(f"no column of names like J112408.63-010927.83; found: {_names(table)}")


def _position(table: Table, axis: str) -> str:
    """Return the column of degrees whose UCD is that of the axis, VizieR's own (_RA...) first."""
    known = [n for n, ucd in table.ucds.items() if ucd.lower().startswith(_UCDS[axis])]
    named = [n for n in table.columns if n.lower().strip("_").startswith(axis[:2])]
    for name in sorted(dict.fromkeys([*known, *named]), key=lambda n: not n.startswith("_")):
        cells = table.columns.get(name, ())
        if cells and all(re.fullmatch(r"[+-]?\d+(\.\d*)?", cell) for cell in cells):
            return name
    raise DataError(f"no column of {axis} in degrees; found: {_names(table)}")


def _named(table: Table, wanted: str) -> str:
    found = {name.lower(): name for name in table.columns}
    if wanted.lower() not in found:
        near = did_you_mean(wanted, table.columns)
        raise DataError(f"no column {wanted!r}{near}; found: {_names(table)}")
    return found[wanted.lower()]


def _ttype_column(table: Table) -> str:
    shares = {name: _overlap(cells) for name, cells in table.columns.items()}
    best = max(shares, key=lambda name: shares[name], default="")
    if not best or shares[best] < _LEAST_OVERLAP:
        raise DataError(
            f"no column has the T-types of Nair & Abraham (2010); found: {_names(table)}"
        )
    return best


def _overlap(cells: Sequence[str]) -> float:
    """Return the share of the published T-types that are as often among these numbers."""
    counts = Counter(float(cell) for cell in cells if re.fullmatch(r"[+-]?\d+(\.0*)?", cell))
    total, published = len(cells), sum(PUBLISHED_TTYPES.values())
    if not total:
        return 0.0
    return sum(min(counts[t] / total, n / published) for t, n in PUBLISHED_TTYPES.items())


def _names(table: Table) -> str:
    return ", ".join(table.columns)
