"""`galaxy-mlflow import csv|tensorboard`: histories of other systems as the runs of a study."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galaxy_mlflow.cli_runs import INTERRUPTED
from galaxy_mlflow.errors import ConfigError
from galaxy_mlflow.options import ArmsOption, ReplaceOption, complain, console, say
from galaxy_mlflow.schema import STUDY_NAME, TEST_ACCURACY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from galaxy_mlflow.histories import Part, Reading, Source
    from galaxy_mlflow.importing import Progress
    from galaxy_mlflow.runs import WholeRun

app = typer.Typer(
    help="Bring runs of other systems into a study, for the analysis.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

StudyOption = Annotated[str, typer.Option("--study", help="The study that the runs go into.")]
MapOption = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="THEIRS=OURS", help="What a name is; may be repeated."),
]
IgnoreOption = Annotated[
    list[str] | None,
    typer.Option("--ignore", metavar="NAME", help="Leave a name out; * is anything."),
]
PatternOption = Annotated[
    str | None,
    typer.Option(metavar="'{arm}/split-{split}'", help="Where the path says arm and split."),
]
TensorboardPatternOption = Annotated[
    str, typer.Option("--pattern", help="Where a folder's path says arm and split.")
]
FirstEpochOption = Annotated[
    int, typer.Option("--first-epoch", min=0, help="What the source calls the first epoch.")
]
PercentOption = Annotated[
    bool, typer.Option("--percent", help="Accuracies and the like are in percent.")
]
TrainOption = Annotated[
    int | None, typer.Option("--n-train", min=1, help="Images of the training part.")
]
TestOption = Annotated[int | None, typer.Option("--n-test", min=1, help="Images of the test part.")]
DryOption = Annotated[bool, typer.Option("--dry-run", help="Check everything, write nothing.")]


@app.command()
def csv(
    source: Annotated[Path, typer.Argument(help="A CSV file, or a folder of them.")],
    study: StudyOption,
    pattern: PatternOption = None,
    names: MapOption = None,
    ignore: IgnoreOption = None,
    arms: ArmsOption = None,
    n_train: TrainOption = None,
    n_test: TestOption = None,
    first_epoch: FirstEpochOption = 0,
    percent: PercentOption = False,
    dry_run: DryOption = False,
    replace_runs: ReplaceOption = False,
) -> None:
    """Read split, arm, epoch, metric and value from CSV; or a column a metric.

    Example: galaxy-mlflow import csv results.csv --study theirs --n-train 800 --n-test 200
    """
    from galaxy_mlflow.history_csv import CsvSource
    from galaxy_mlflow.history_names import Names, PathPattern

    known = Names.of(names or [], ignore or [])
    there = CsvSource(source, known, PathPattern(pattern) if pattern is not None else None)
    reading = _reading(arms, (n_train, n_test), first_epoch, percent=percent)
    _Import("csv", study, dry_run, replace_runs).bring(there, reading)


@app.command()
def tensorboard(
    source: Annotated[Path, typer.Argument(help="A folder with event files below it.")],
    study: StudyOption,
    pattern: TensorboardPatternOption = "{arm}/split-{split}",
    names: MapOption = None,
    ignore: IgnoreOption = None,
    arms: ArmsOption = None,
    n_train: TrainOption = None,
    n_test: TestOption = None,
    first_epoch: FirstEpochOption = 0,
    percent: PercentOption = False,
    dry_run: DryOption = False,
    replace_runs: ReplaceOption = False,
) -> None:
    """Read TensorBoard's event files, a folder a run.

    Example: galaxy-mlflow import tensorboard logs --study theirs --n-train 800 --n-test 200
    """
    from galaxy_mlflow.history_names import Names, PathPattern
    from galaxy_mlflow.tensorboard_logs import TensorboardSource

    known = Names.of(names or [], ignore or [], columns=False)
    there = TensorboardSource(source, known, PathPattern(pattern))
    reading = _reading(arms, (n_train, n_test), first_epoch, percent=percent)
    _Import("tensorboard", study, dry_run, replace_runs).bring(there, reading)


def _reading(
    arms: str | None, sizes: tuple[int | None, int | None], first_epoch: int, *, percent: bool
) -> Reading:
    from galaxy_mlflow.histories import Reading
    from galaxy_mlflow.history_names import SIZES

    names = [name.strip() for name in arms.split(",")] if arms is not None else None
    return Reading(first_epoch, percent, dict(zip(SIZES, sizes, strict=True)), names)


@dataclass(frozen=True)
class _Import:
    kind: str
    study: str
    dry_run: bool
    replace: bool

    def bring(self, source: Source, reading: Reading) -> None:
        """Read and check all of a source, then write its runs; say what came of it."""
        from galaxy_mlflow.display import Display

        if re.fullmatch(STUDY_NAME, self.study) is None:
            raise ConfigError(f"--study {self.study}: use letters, digits, _ . and - only")
        display = Display(console())
        try:
            with display.step("reading") as progress:
                runs = self._read(source, reading, progress)
            with display.step("runs") as progress:
                done = self._write(runs, progress)
        except KeyboardInterrupt:
            complain("stopped; nothing is lost: call the same command again to go on")
            raise typer.Exit(INTERRUPTED) from None
        for name in source.left_out():
            say(f"left out: {name} is not as --pattern has it")
        say(f"{self.study}: {done}")

    def _read(self, source: Source, reading: Reading, progress: Progress) -> list[WholeRun]:
        from galaxy_mlflow.histories import histories_of, whole_runs

        parts = source.parts()
        return whole_runs(histories_of(_counted(parts, progress), reading), self.study, self.kind)

    def _write(self, runs: list[WholeRun], progress: Progress) -> str:
        from galaxy_mlflow.histories import require_imported
        from galaxy_mlflow.home import Home
        from galaxy_mlflow.importing import import_runs, plan_import
        from galaxy_mlflow.tracking import MlflowStore

        home = Home.default()
        store = MlflowStore(home.tracking_uri, home)
        there = store.runs(self.study)
        require_imported(there)
        if not self.dry_run:
            return str(import_runs(runs, store, progress, replace=self.replace))
        plan = plan_import(runs, there, replace=self.replace)
        epochs = sum(len(run.curves[TEST_ACCURACY]) for run in runs)
        return (
            f"{len(runs)} runs of {epochs} epochs read; {len(plan.write)} to be written, "
            f"{plan.keep} there already, {len(plan.delete)} to be removed; nothing was changed"
        )


def _counted(parts: list[Part], progress: Progress) -> Iterator[Part]:
    """Yield parts, telling how many have been read."""
    for done, part in enumerate(parts):
        progress(done, len(parts))
        yield part
    progress(len(parts), len(parts))
