"""`galaxy-mlflow data fetch`: pictures of galaxies from public surveys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from galaxy_mlflow.errors import BadItem, ConfigError, did_you_mean
from galaxy_mlflow.options import console, say

if TYPE_CHECKING:
    from galaxy_mlflow.fetch import Fetched
    from galaxy_mlflow.service import Service
    from galaxy_mlflow.surveys import Cutouts
    from galaxy_mlflow.targets import Targets

app = typer.Typer(help="Fetch pictures from public surveys.", no_args_is_help=True)

_SHOWN = 10
_NAIR_ABRAHAM = """\
[data]
kind = "nair-abraham"
path = "{manifest}"
images = "{images}"
"""
_CSV = """\
[data]
kind = "csv"
path = "{manifest}"
"""

OutOption = Annotated[Path, typer.Option(help="The folder; a stopped fetch goes on in it.")]
SurveyOption = Annotated[str, typer.Option(help="sdss or legacy.")]
PixelsOption = Annotated[int, typer.Option(help="Pixels of a side.")]
ArcsecOption = Annotated[float, typer.Option(min=1, max=3600, help="Field of view, a side.")]
RadiiOption = Annotated[
    float | None, typer.Option(min=0.1, help="Field of view in radii, in place of --arcsec.")
]
RadiusColumnOption = Annotated[
    str, typer.Option(help="The table's column of radii in arcseconds, for --radii.")
]
ServerOption = Annotated[str, typer.Option(metavar="URL", help="Another address of the service.")]
AtOnceOption = Annotated[int, typer.Option(min=1, max=16, help="Requests at a time.")]
RateOption = Annotated[float, typer.Option(min=0.1, max=100, help="Requests a second, at most.")]
AttemptsOption = Annotated[int, typer.Option(min=1, max=20, help="Of each picture.")]


@dataclass(frozen=True)
class _Fetch:
    """One command's fetch."""

    out: Path
    cutouts: Cutouts
    service: Service
    label: str = "label"

    def bring(self, targets: Targets) -> Fetched:
        """Fetch with a bar; rows that cannot be used are missing too."""
        from galaxy_mlflow.display import Display
        from galaxy_mlflow.fetch import MANIFEST, Folder, fetch_cutouts

        folder = Folder(self.out, self.label)
        try:
            with Display(console()).step("pictures") as progress:
                return fetch_cutouts(targets, folder, self.cutouts, self.service, progress)
        except KeyboardInterrupt:
            say(f"stopped: {self.out / MANIFEST} says what is there; the same command goes on")
            raise

    def tell(self, fetched: Fetched, credits: tuple[str, ...], study: str) -> None:
        """Write the data card, and say what came; end with 1 where a galaxy is missing."""
        from galaxy_mlflow.data_card import data_card
        from galaxy_mlflow.fetch import IMAGES, MANIFEST, MISSING
        from galaxy_mlflow.files import write_bytes

        lines = study.format(manifest=self.out / MANIFEST, images=self.out / IMAGES)
        card = data_card(self.cutouts, fetched, credits, lines)
        write_bytes(self.out / "README.md", card.encode())
        say(f"{len(fetched.had):,} pictures in {self.out}, {fetched.new:,} of them new")
        if fetched.missing:
            say(_listed(fetched.missing, self.out / MISSING))
            raise typer.Exit(1)


@app.command("cutouts")
def cutouts(
    catalogue: Annotated[Path, typer.Argument(help="A CSV with columns id, ra, dec (degrees).")],
    out: OutOption,
    survey: SurveyOption = "sdss",
    pixels: PixelsOption = 256,
    arcsec: ArcsecOption = 100.0,
    radii: RadiiOption = None,
    radius_column: RadiusColumnOption = "petrorad",
    server: ServerOption = "",
    at_once: AtOnceOption = 4,
    rate: RateOption = 8.0,
    attempts: AttemptsOption = 6,
) -> None:
    """Fetch a picture of each galaxy of a table.

    Example: galaxy-mlflow data fetch cutouts galaxies.csv --out galaxies
    """
    from galaxy_mlflow.targets import read_targets

    way = _cutouts(survey=survey, server=server, pixels=pixels, arcsec=arcsec, radii=radii)
    targets = read_targets(catalogue, None if radii is None else radius_column)
    fetch = _Fetch(out, way, _service(at_once, rate, attempts))
    fetch.tell(fetch.bring(targets), (), _CSV)


@app.command("nair-abraham")
def nair_abraham(
    out: OutOption,
    survey: SurveyOption = "sdss",
    pixels: PixelsOption = 256,
    arcsec: ArcsecOption = 100.0,
    radii: RadiiOption = None,
    radius_column: RadiusColumnOption = "petrorad",
    server: ServerOption = "",
    catalogue_server: Annotated[
        str, typer.Option(metavar="URL", help="Another address of VizieR's asu-tsv or votable.")
    ] = "",
    at_once: AtOnceOption = 4,
    rate: RateOption = 8.0,
    attempts: AttemptsOption = 6,
) -> None:
    """Fetch the published study's catalogue from VizieR, and a picture of each of its galaxies.

    Example: galaxy-mlflow data fetch nair-abraham --out nair-abraham
    """
    from galaxy_mlflow.data_card import NAIR_ABRAHAM, verdict
    from galaxy_mlflow.vizier import fetch_nair_abraham

    way = _cutouts(survey=survey, server=server, pixels=pixels, arcsec=arcsec, radii=radii)
    fetch = _Fetch(out, way, _service(at_once, rate, attempts), label="ttype")
    column = None if radii is None else radius_column
    targets = fetch_nair_abraham(out, fetch.service, catalogue_server, column)
    fetched = fetch.bring(targets)
    say("\n".join(verdict(fetched.had).lines()))
    fetch.tell(fetched, (NAIR_ABRAHAM,), _NAIR_ABRAHAM)


def _cutouts(**given: Any) -> Cutouts:
    from galaxy_mlflow.surveys import SERVERS, Cutouts

    survey = given["survey"]
    if survey not in SERVERS:
        raise ConfigError(
            f"--survey {survey!r}: expected sdss or legacy{did_you_mean(survey, SERVERS)}"
        )
    return Cutouts(**given)


def _service(at_once: int, rate: float, attempts: int) -> Service:
    from galaxy_mlflow.service import Manners, Service

    return Service(Manners(at_once=at_once, a_second=rate, attempts=attempts))


def _listed(missing: list[BadItem], file: Path) -> str:
    more = len(missing) - _SHOWN
    count = f"{len(missing):,} galaxies have" if len(missing) > 1 else "1 galaxy has"
    lines = [f"{count} no picture ({file}):"]
    lines += [f"  {item}" for item in missing[:_SHOWN]]
    lines += [f"  and {more:,} more"] if more > 0 else []
    return "\n".join([*lines, "The same command tries again."])
