"""A study's report: one page that holds everything, LaTeX tables, and all figures as files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from analysis import mistakes_page
from analysis.compare import Question
from analysis.contents import Contents, contents
from analysis.illustrations import Pictures
from analysis.page import render
from analysis.sheet import table_to_latex, to_latex
from analysis.study import Study
from galaxy_mlflow.errors import AnalysisError

PAGE = "report.html"
FIGURES = "figures"
TABLES = "tables"


def write_report(
    study: Study,
    out: Path | str,
    question: Question | None = None,
    pictures: Pictures | None = None,
) -> Path:
    """Write a study's report and return the path of its page.

    The page appears whole or not at all, and last; the same runs give the same bytes.

    Parameters
    ----------
    out : a folder, for the page, `tables/*.tex`, `figures/*` (SVG, PDF, PNG) and `disputed.csv`;
        or a file that ends in .html, for the page alone, which holds all it needs
    question : what is compared; None means what `compare` takes without arguments
    pictures : gives the images of the mistakes; None: they are named by id alone

    Raises
    ------
    AnalysisError
        As `compare`; or the place cannot be written.
    """
    target = Path(out)
    alone = target.suffix.lower() in (".html", ".htm")
    _refuse_wrong_kind(target, alone)
    found = contents(study, question or Question(), pictures)
    page = render(found)
    with _clear_errors(target):
        if alone:
            return _write_whole(target, page)
        _write_tables(found, target / TABLES)
        _write_figures(found, target / FIGURES)
        if found.mistakes is not None:
            disputed = mistakes_page.disputed_csv(found.mistakes, found.illustrations)
            _write_whole(target / mistakes_page.FILE, disputed)
        return _write_whole(target / PAGE, page)


def _refuse_wrong_kind(target: Path, alone: bool) -> None:
    if alone and target.is_dir():
        raise AnalysisError(f"{target} is a folder: give the page a file name, as report.html")
    if not alone and target.is_file():
        raise AnalysisError(f"{target} is a file: give the report a folder, or a name in .html")
    place = next(folder for folder in target.absolute().parents if folder.exists())
    if not (place.is_dir() and os.access(place, os.W_OK)):
        raise AnalysisError(f"{target}: the report cannot be written: {place} takes no files")


def _write_tables(found: Contents, folder: Path) -> None:
    """Write each table as LaTeX, to be input, and the whole comparison in one file."""
    _write_whole(folder / "comparison.tex", to_latex(found.sheet))
    for name, table in found.tables.items():
        _write_whole(folder / f"{name}.tex", table_to_latex(table) + "\n")


def _write_figures(found: Contents, folder: Path) -> None:
    from analysis.figures import save

    for picture in found.gallery.pictures:
        save(picture.figure, folder, picture.name)


def _write_whole(target: Path, text: str) -> Path:
    """Write beside the target and rename: a reader sees the old file or the new one."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        return Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


@contextmanager
def _clear_errors(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AnalysisError(f"{target}: the report cannot be written ({error.strerror})") from None
