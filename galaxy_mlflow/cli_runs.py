"""`galaxy-mlflow run plan status sync`: the runs of a study."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import typer
from rich.table import Column, Table

from galaxy_mlflow.options import (
    ArmsOption,
    DeviceOption,
    JobsOption,
    ReplaceOption,
    RetryOption,
    SetOption,
    SkipBadOption,
    SplitsOption,
    StudyArgument,
    ThreadsOption,
    console,
    errors,
    read_study,
    say,
)

if TYPE_CHECKING:
    from galaxy_mlflow.config import Study
    from galaxy_mlflow.plan import Selection
    from galaxy_mlflow.runner import Machine

INTERRUPTED = 130


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
    raise typer.Exit(train(settings, wanted, machine))


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


def train(study: Study, wanted: Selection, machine: Machine) -> int:
    """Train what is left of a study and say what came of it; return the exit code."""
    from galaxy_mlflow.display import Display
    from galaxy_mlflow.runner import run_study

    try:
        outcome = run_study(study, wanted, machine, Display(console))
    except KeyboardInterrupt:
        errors.print("stopped; nothing is lost: call the same command again to go on")
        return INTERRUPTED
    counts = outcome.counts()
    if not outcome.results:
        say(f"{study.name}: nothing to do: {counts}")
        return 0 if not outcome.failed_before else 1
    say(f"{study.name}: {counts}")
    return 1 if outcome.unfinished else 0
