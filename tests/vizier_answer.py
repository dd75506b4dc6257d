"""Answers in the form of VizieR's asu-tsv, with the T-types of Nair & Abraham (2010)."""

from __future__ import annotations

import io
import random

from astropy.io.votable import from_table
from astropy.table import Column, Table

from galaxy_mlflow.targets import PUBLISHED_TTYPES, parse_vizier

HEADER = """#
#   VizieR Astronomical Server vizier.cds.unistra.fr
#    Date: 2026-11-22T12:00:00 [V7.5]
#   In case of problem, please report to:\tcds-question@unistra.fr
#
#Coosys\tJ2000:\teq_FK5 J2000
#INFO\tservice_protocol=ASU\tIVOID of the protocol
#INFO\t-ref=VIZ1\t
#INFO\t-out.max=unlimited\t

#RESOURCE=yCat_21860427
#Name: J/ApJS/186/427
#Title: Detailed morphology of SDSS galaxies (Nair+, 2010)
#Table\tJ_ApJS_186_427_table2:
#Name: J/ApJS/186/427/table2
#Title: Morphological classifications
"""
_COLUMNS = (
    ("_RAJ2000", "(F10.6)", "Right ascension (FK5, Equinox=J2000.0)", "pos.eq.ra", "deg"),
    ("_DEJ2000", "(F10.6)", "Declination (FK5, Equinox=J2000.0)", "pos.eq.dec", "deg"),
    ("SDSS", "(a19)", "SDSS identification", "meta.id;meta.main", ""),
    ("zs", "(F7.5)", "Redshift", "src.redshift", ""),
    ("Bar", "(I2)", "Bar type", "src.morph", ""),
    ("Rp90", "(F5.2)", "Petrosian 90% radius", "phys.angSize", "arcsec"),
    ("{ttype}", "(I2)", "T-type", "src.morph.type", ""),
)


def vizier_answer(rows: int, ttype: str = "TT", *, spoiled: bool = False) -> bytes:
    """Return an answer; with as many rows as the catalogue, it has its T-types.

    Parameters
    ----------
    ttype : what the column of T-types is called
    spoiled : whether it holds other numbers
    """
    types = [t for t, count in PUBLISHED_TTYPES.items() for _ in range(count)]
    random.Random(1).shuffle(types)
    columns = [(name.format(ttype=ttype), *rest) for name, *rest in _COLUMNS]
    lines = [f"#Column\t{n}\t{form}\t{told}\t[ucd={ucd}]" for n, form, told, ucd, _ in columns]
    lines.append("\t".join(column[0] for column in columns))
    lines.append("\t".join(column[-1] for column in columns))
    lines.append("\t".join("-" * max(3, len(column[0])) for column in columns))
    for row, value in enumerate(types[:rows]):
        cells = (
            row / 2 % 360,
            -1 + row % 4 / 4,
            f"J{row:06d}.00-010000.00",
            0.05,
            row % 3,
            5 + row % 4,
        )
        lines.append("\t".join(map(str, (*cells, row % 7 if spoiled else value))))
    return (HEADER + "\n".join(lines) + "\n\n").encode()


def as_votable(content: bytes) -> bytes:
    """Return the same answer as VizieR's `votable` gives it: numbers as numbers, UCDs, a mask."""
    known = parse_vizier(content)
    columns = []
    for name, cells in known.columns.items():
        number = int if "(I" in _form(content, name) else float
        values = cells if name == "SDSS" else [number(cell) for cell in cells]
        columns.append(Column(values, name=name, meta={"ucd": known.ucds[name]}))
    written = io.BytesIO()
    from_table(Table(columns)).to_xml(written)
    return written.getvalue()


def _form(content: bytes, name: str) -> str:
    line = next(x for x in content.decode().splitlines() if x.startswith(f"#Column\t{name}\t"))
    return line.split("\t")[2]
