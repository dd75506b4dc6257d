"""`galaxy-mlflow data`: look at a study's images before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galaxy_mlflow import cli_fetch
from galaxy_mlflow.options import SetOption, SkipBadOption, StudyArgument, console, read_study, say

if TYPE_CHECKING:
    from galaxy_mlflow.cache import GalaxyData

app = typer.Typer(help="Look at a study's data, or fetch some.", no_args_is_help=True)
app.add_typer(cli_fetch.app, name="fetch")


@app.command("check")
def check(
    study: StudyArgument, override: SetOption = None, skip_bad: SkipBadOption = False
) -> None:
    """Read every image of a study, and list all that cannot be used.

    Example: galaxy-mlflow data check experiments/csv.toml --set data.path=labels.csv
    """
    import numpy as np
    from rich.table import Table

    data = _read(study, override, skip_bad)
    for notice in (*data.notices, *(f"left out: {item}" for item in data.skipped)):
        console().print(notice, markup=False, highlight=False)
    table = Table("class", "images", "share")
    for name, count in zip(data.classes, np.bincount(data.labels), strict=True):
        table.add_row(name, f"{count:,}", f"{count / data.labels.size:.1%}")
    console().print(table)
    console().print(f"{data.labels.size:,} images, digest {data.data_hash[:16]}", highlight=False)


@app.command("contact-sheet")
def contact_sheet(
    study: StudyArgument,
    override: SetOption = None,
    out: Annotated[Path, typer.Option(help="The PNG file.")] = Path("contact-sheet.png"),
    each: Annotated[int, typer.Option(min=1, help="Images of each class.")] = 16,
    skip_bad: SkipBadOption = False,
) -> None:
    """Draw a labelled sheet of a study's images.

    Example: galaxy-mlflow data contact-sheet experiments/demo.toml --out sheet.png
    """
    from galaxy_mlflow.contact_sheet import save_contact_sheet
    from galaxy_mlflow.prepare import first_of_each

    data = _read(study, override, skip_bad)
    rows = first_of_each(data, each)
    labels = [data.classes[number] for number in data.labels[rows]]
    save_contact_sheet(out, data.batch(rows), labels)
    say(f"{out}")


def _read(study: str, override: list[str] | None, skip_bad: bool) -> GalaxyData:
    from galaxy_mlflow.display import Display
    from galaxy_mlflow.home import Home
    from galaxy_mlflow.prepare import prepare_data

    settings, _ = read_study(study, override, None, None)
    with Display(console()).step("images") as progress:
        return prepare_data(settings, Home.default(), skip_bad=skip_bad, progress=progress)
