"""The command line: parse, call, print."""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.table import Column, Table

from galaxy_mlflow import cli_data
from galaxy_mlflow.errors import ConfigError, GalaxyError, did_you_mean
from galaxy_mlflow.options import (
    ArmsOption,
    DeviceOption,
    FormatOption,
    JobsOption,
    MetricOption,
    ReplaceOption,
    RetryOption,
    SetOption,
    SkipBadOption,
    SplitsOption,
    StudyArgument,
    ThreadsOption,
    UnfinishedOption,
    console,
    errors,
    read_study,
    say,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from galaxy_mlflow.config import Study
    from galaxy_mlflow.plan import Selection
    from galaxy_mlflow.runner import Machine

app = typer.Typer(
    help="Paired machine-learning experiments on galaxy images, tracked in MLflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(cli_data.app, name="data")


@app.command()
def demo(
    jobs: JobsOption = 2,
    out: Annotated[Path, typer.Option(help="Where the report goes.")] = Path("reports/demo.html"),
) -> None:
    """Run a small study whole: simulate, pretrain, train, compare, report.

    Example: `galaxy-mlflow demo`
    """
    from galaxy_mlflow.runner import Machine

    code = _train(*read_study("demo", None, None, None), Machine(jobs=jobs))
    if code:
        raise typer.Exit(code)
    compare("demo")
    report("demo", out)
    say(f"browse the runs:  {_own_command()} server")


@app.command()
def run(
    study: StudyArgument,
    override: SetOption = None,
    splits: SplitsOption = None,
    arms: ArmsOption = None,
    jobs: JobsOption = 1,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    skip_bad: SkipBadOption = False,
    retry_failed: RetryOption = False,
    replace_runs: ReplaceOption = False,
) -> None:
    """Train what is left of a study; call it again to go on.

    Example: `galaxy-mlflow run experiments/csv.toml --splits 0-2 --set arm.scratch.epochs=10`
    """
    from galaxy_mlflow.runner import Machine

    settings, wanted = read_study(study, override, splits, arms)
    wanted = replace(wanted, retry_failed=retry_failed, replace=replace_runs)
    machine = Machine(jobs, threads, device, skip_bad)
    raise typer.Exit(_train(settings, wanted, machine))


@app.command()
def plan(
    study: StudyArgument,
    override: SetOption = None,
    splits: SplitsOption = None,
    arms: ArmsOption = None,
    skip_bad: SkipBadOption = False,
    retry_failed: RetryOption = False,
) -> None:
    """Say what is left to run and what it will cost.

    Example: `galaxy-mlflow plan experiments/paper.toml --splits 0-9`
    """
    from galaxy_mlflow.display import Display
    from galaxy_mlflow.estimate import estimate
    from galaxy_mlflow.runner import Machine, look_ahead

    settings, wanted = read_study(study, override, splits, arms)
    wanted = replace(wanted, retry_failed=retry_failed)
    ahead = look_ahead(settings, wanted, Machine(skip_bad=skip_bad), Display(console))
    counts = ahead.plan.counts()
    shown = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    say(f"{settings.name}: {len(ahead.plan.runs)} runs wanted: {shown}")
    if not ahead.plan.todo:
        say("there is nothing to do")
        return
    cost = estimate(settings, ahead.plan, ahead.splits, len(ahead.data.classes))
    say(f"to do: {cost.runs} runs, {cost.epochs:,} epochs, {cost.images:,} images")
    say(f"about {cost.hours:.2g} hours on this machine's CPU, one run at a time")
    say(f"about {cost.gigabytes:.2g} GB of checkpoints on the server")


@app.command()
def status(study: StudyArgument) -> None:
    """Say which runs are finished, running, failed or waiting in the spool.

    Example: `galaxy-mlflow status demo`
    """
    from galaxy_mlflow import schema
    from galaxy_mlflow.home import Home
    from galaxy_mlflow.spool import spools_under
    from galaxy_mlflow.study_file import study_name
    from galaxy_mlflow.tracking import MlflowStore

    home, name = Home.default(), study_name(study)
    store = MlflowStore(home.tracking_uri, home)
    runs = sorted(store.runs(name), key=lambda record: record.job)
    table = Table(
        Column("run", no_wrap=True),
        "status",
        "last epoch",
        "test accuracy",
        "attempt",
        "reason",
        title=name,
    )
    for record in runs:
        accuracy = record.metrics.get("test_accuracy")
        table.add_row(
            record.job.run_name,
            record.status,
            "" if record.status == schema.FINISHED else str(store.last_epoch(record.run_id)),
            f"{accuracy:.1%}" if accuracy is not None else "",
            record.tags.get(schema.ATTEMPT, ""),
            record.tags.get(schema.REASON, "") if record.status == schema.FAILED else "",
        )
    console.print(table if runs else f"{name}: no runs on the server yet", highlight=False)
    waiting = spools_under(home.spool_here / name)
    if waiting:
        say(f"{len(waiting)} runs have records or checkpoints in the spool")


@app.command()
def compare(
    study: StudyArgument,
    metric: MetricOption = None,
    arms: ArmsOption = None,
    allow_unfinished: UnfinishedOption = False,
    output: FormatOption = "text",
) -> None:
    """Compare two arms in pairs: first minus second, split by split.

    Example: `galaxy-mlflow compare demo --metric test_macro_f1`
    """
    import json

    import analysis
    from galaxy_mlflow.study_file import study_name

    record = analysis.compare(
        analysis.load_study(study_name(study)),
        metric=metric,
        arms=_pair(arms),
        allow_unfinished=allow_unfinished,
    )
    forms: dict[str, Callable[[], str]] = {
        "text": record.to_text,
        "markdown": record.to_markdown,
        "latex": record.to_latex,
        "html": record.to_html,
        "json": lambda: json.dumps(record.to_dict(), indent=1),
    }
    if output not in forms:
        near = did_you_mean(output, forms)
        raise ConfigError(f"--format {output}{near}; known: {', '.join(forms)}")
    typer.echo(forms[output]())


@app.command()
def report(
    study: StudyArgument,
    out: Annotated[Path | None, typer.Option(help="The HTML file; reports/STUDY.html.")] = None,
    metric: MetricOption = None,
    arms: ArmsOption = None,
    allow_unfinished: UnfinishedOption = False,
) -> None:
    """Write one HTML file with the whole study in it.

    Example: `galaxy-mlflow report demo --out demo.html`
    """
    import analysis
    from analysis.report import write_report
    from galaxy_mlflow.study_file import study_name

    name = study_name(study)
    path = out or Path("reports") / f"{name}.html"
    loaded = analysis.load_study(name)
    write_report(loaded, path, metric, _pair(arms), allow_unfinished=allow_unfinished)
    say(f"report: {path}")


@app.command()
def sync() -> None:
    """Send what is waiting in the spool to the server.

    Example: `galaxy-mlflow sync`
    """
    from galaxy_mlflow.display import Display
    from galaxy_mlflow.home import Home
    from galaxy_mlflow.runner import sync_spools
    from galaxy_mlflow.tracking import MlflowStore

    home = Home.default()
    complete = sync_spools(home, MlflowStore(home.tracking_uri, home), Display(console))
    say("the server has everything" if complete else "some records are still waiting")
    raise typer.Exit(0 if complete else 1)


@app.command()
def server(port: Annotated[int, typer.Option(min=1, max=65535)] = 5000) -> None:
    """Serve the local store on loopback, for browsing; Ctrl-C ends it.

    Example: `galaxy-mlflow server --port 5000`
    """
    from galaxy_mlflow.home import Home
    from mlflow_server.local import LocalServer, serving

    home = Home.default()
    home.path.mkdir(parents=True, exist_ok=True)
    local = LocalServer(home.database_uri, home.artifacts, port, home.path / "server.log")
    say(f"starting a tracking server over {home.path} ...")
    with suppress(KeyboardInterrupt), serving(local) as uri:
        say(f"browse {uri}   (Ctrl-C ends it)")
        while True:
            time.sleep(3600)


@app.command()
def doctor() -> None:
    """Check this machine, and say what to do about what is wrong.

    Example: `galaxy-mlflow doctor`
    """
    from galaxy_mlflow.doctor import examine
    from galaxy_mlflow.home import Home

    fine = True
    for finding in examine(Home.default()):
        mark = "[green]ok[/]   " if finding.fine else "[red]wrong[/]"
        console.print(f"{mark} {finding.what:<17}", end="")
        console.print(finding.found, markup=False, highlight=False)
        if not finding.fine:
            console.print(f"      {finding.remedy}", markup=False, highlight=False)
        fine = fine and finding.fine
    raise typer.Exit(0 if fine else 2)


def _train(study: Study, wanted: Selection, machine: Machine) -> int:
    """Train and report; return the exit code."""
    from galaxy_mlflow.display import Display
    from galaxy_mlflow.runner import run_study

    try:
        outcome = run_study(study, wanted, machine, Display(console))
    except KeyboardInterrupt:
        errors.print("stopped; nothing is lost: call the same command again to go on")
        return _INTERRUPTED
    counts = outcome.counts()
    if not outcome.results:
        say(f"{study.name}: nothing to do: {counts}")
        return 0 if not outcome.failed_before else 1
    say(f"{study.name}: {counts}")
    return 1 if outcome.unfinished else 0


def _own_command() -> str:
    """Return how this program was called, shortened where the short name would find it."""
    return "galaxy-mlflow" if shutil.which("galaxy-mlflow") else sys.argv[0]


def _pair(arms: str | None) -> tuple[str, str] | None:
    """Read `--arms a,b` of a comparison."""
    if arms is None:
        return None
    names = [name.strip() for name in arms.split(",")]
    if len(names) != 2 or not all(names):
        raise ConfigError(f"--arms {arms}: a comparison takes two arms, such as pretrained,scratch")
    return names[0], names[1]


_INTERRUPTED = 130


def main() -> None:
    """Run the command line; a user's error becomes a few clear lines, never a traceback."""
    try:
        app()
    except GalaxyError as error:
        _fail(error, error.exit_code)
    except OSError as error:
        _fail(error, 2)


def _fail(error: Exception, code: int) -> NoReturn:
    errors.print(f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
