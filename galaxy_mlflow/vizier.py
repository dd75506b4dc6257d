"""The catalogue of Nair & Abraham (2010), from VizieR."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from galaxy_mlflow.errors import DataError, DownloadError
from galaxy_mlflow.files import write_bytes
from galaxy_mlflow.service import Service
from galaxy_mlflow.targets import PUBLISHED_TTYPES, Targets, nair_abraham_targets, parse_vizier

VIZIER: Final = "https://vizier.cds.unistra.fr/viz-bin/asu-tsv"
_QUERY: Final = (
    "-source=J/ApJS/186/427/table2&-out.max=unlimited&-out.all"
    "&-out.add=_RAJ2000,_DEJ2000&-oc.form=dec"
)
CATALOGUE: Final = "catalogue.tsv"


def fetch_nair_abraham(
    folder: Path, service: Service, server: str = "", radius_column: str | None = None
) -> Targets:
    """Return the catalogue's galaxies; the answer is kept in the folder, asked for once.

    Parameters
    ----------
    server : the address of VizieR's asu-tsv, or votable; "" for asu-tsv at CDS
    radius_column : its column of radii in arcseconds, where the field of view is to follow them

    Raises
    ------
    DataError
        The answer that is kept is damaged, or lacks something.
    DownloadError
        VizieR does not give the catalogue, or not all of it.
    """
    file = folder / CATALOGUE
    if not file.exists():
        try:
            content = service.get(f"{server or VIZIER}?{_QUERY}", _whole)
        except DownloadError as error:
            raise DownloadError(f"{server or VIZIER}: {error}") from None
        write_bytes(file, content)
    try:
        return nair_abraham_targets(parse_vizier(file.read_bytes()), radius_column)
    except DataError as error:
        raise DataError(f"{file}: {error}") from None


def _whole(content: bytes) -> bytes:
    """Refuse an answer with fewer rows than the catalogue: services cut long answers unasked."""
    rows = len(next(iter(parse_vizier(content).columns.values()), ()))
    expected = sum(PUBLISHED_TTYPES.values())
    if rows < expected:
        raise DataError(f"sends {rows:,} of the catalogue's {expected:,} galaxies")
    return content
