"""What the commands share: their options, the console, and how a study is named."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from galaxy_mlflow.config import Study
    from galaxy_mlflow.plan import Selection

StudyArgument = Annotated[str, typer.Argument(help="A study file, or the name of a study.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override one setting; may be repeated."),
]
SplitsOption = Annotated[
    str | None, typer.Option(metavar="0-4,7", help="Only these splits, both ends included.")
]
ArmsOption = Annotated[str | None, typer.Option(metavar="A,B", help="Only these arms.")]
PartOption = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Only this share of the splits; I goes from 0 to N - 1."),
]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Ask no server; galaxy-mlflow sync sends what is spooled.")
]
SkipBadOption = Annotated[
    bool, typer.Option("--skip-bad", help="Go on without images that cannot be used.")
]
JobsOption = Annotated[int, typer.Option(min=1, help="Runs trained at once, each in a process.")]
ThreadsOption = Annotated[
    int | None, typer.Option(min=1, help="Processor threads a run; default: cores shared out.")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
EngineOption = Annotated[
    str, typer.Option(help="local: this machine; ray: a Ray cluster, or one started here.")
]
AddressOption = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="The Ray cluster's head; default: $RAY_ADDRESS."),
]
FailuresOption = Annotated[
    int,
    typer.Option(min=1, help="Give a job up after this many losses in a row without an epoch."),
]
PatienceOption = Annotated[
    float,
    typer.Option(min=0, help="Minutes to wait while a disk is full or the server is away."),
]
RetryOption = Annotated[bool, typer.Option("--retry-failed", help="Also run failed runs again.")]
ReplaceOption = Annotated[
    bool, typer.Option("--replace", help="Delete runs of other settings or data, and run anew.")
]
UnfinishedOption = Annotated[
    bool, typer.Option("--allow-unfinished", help="Leave out splits without two finished runs.")
]
MetricOption = Annotated[
    str | None, typer.Option(help="The metric; default: test accuracy at the selected epoch.")
]
MinPairsOption = Annotated[
    int, typer.Option(min=2, help="Refuse to compare fewer pairs than this.")
]
RopeOption = Annotated[
    float | None,
    typer.Option(min=0, help="Differences up to this size count as none; 0.01 for fractions."),
]
StoredStudyArgument = Annotated[
    str, typer.Argument(help="A study file, the name of a study, or the folder of an export.")
]
DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database",
        envvar="GALAXY_MLFLOW_DATABASE_URL",
        help="Read the runs straight from the tracking database: faster.",
    ),
]
RunOption = Annotated[
    str | None, typer.Option("--run", metavar="ID", help="One run: its ID, or STUDY/split-NNN/ARM.")
]
BestOption = Annotated[
    str | None,
    typer.Option("--best", metavar="STUDY/ARM", help="The arm's best run on validation."),
]
EnsembleOption = Annotated[
    str | None,
    typer.Option("--ensemble", metavar="STUDY/ARM", help="All finished runs of the arm, as one."),
]
FORMATS = ("text", "markdown", "latex", "html", "json")
FormatOption = Annotated[str, typer.Option("--format", help=f"{', '.join(FORMATS)}.")]


@lru_cache
def console(*, stderr: bool = False) -> Console:
    """Return the one console of standard output, or of standard error."""
    from rich.console import Console

    return Console(stderr=stderr)


def complain(text: str) -> None:
    """Print text as it is to standard error."""
    console(stderr=True).print(text, markup=False, highlight=False)


def say(text: str) -> None:
    """Print text as it is, lines unbroken."""
    console().print(text, markup=False, highlight=False, soft_wrap=True)


def read_study(
    study: str,
    override: list[str] | None,
    splits: str | None,
    arms: str | None,
    part: str | None = None,
) -> tuple[Study, Selection]:
    """Read a study file with its overrides, and the part of it that is wanted."""
    from galaxy_mlflow.plan import select
    from galaxy_mlflow.study_file import load_study_file

    settings = load_study_file(study, override or [])
    return settings, select(settings, splits, arms, part)
