"""`galaxy-mlflow status`: how a study stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from galaxy_mlflow import schema
from galaxy_mlflow.options import StudyArgument, console, say

if TYPE_CHECKING:
    from rich.table import Table

    from galaxy_mlflow.runs import ListedRun
    from galaxy_mlflow.schema import JobId
    from galaxy_mlflow.status import StudyState


def status(study: StudyArgument) -> None:
    """Say what is done, what runs where and how fast, when it will end, and what failed and why.

    Of a study file also the runs that are wanted and not begun are counted.

    Example: galaxy-mlflow status demo
    """
    from galaxy_mlflow.claims import now_ms
    from galaxy_mlflow.home import Home
    from galaxy_mlflow.spool import spools_under
    from galaxy_mlflow.status import state_of
    from galaxy_mlflow.study_file import study_name
    from galaxy_mlflow.tracking import MlflowStore

    home, name, now = Home.default(), study_name(study), now_ms()
    store = MlflowStore(home.tracking_uri, home)
    found = state_of(store.listing(name), _wanted(study), now)
    if any(found.named.values()):
        console().print(_table(found, name), highlight=False)
        for line in _reasons(found):
            say(line)
    else:
        say(f"{name}: no runs on the server yet")
    for line in _summary(found):
        say(line)
    waiting = spools_under(home.spool_here / name)
    if waiting:
        say(f"{len(waiting)} runs have records or checkpoints in the spool")


def _wanted(study: str) -> dict[JobId, int] | None:
    """Return the epochs of each run that a study file wants; None for a study's name."""
    from galaxy_mlflow.schema import JobId
    from galaxy_mlflow.study_file import load_study_file

    if not study.endswith(".toml"):
        return None
    settings = load_study_file(study)
    splits, arms = settings.splits.wanted, settings.arm.items()
    return {JobId(settings.name, k, name): arm.epochs for k in splits for name, arm in arms}


def _table(found: StudyState, name: str) -> Table:
    """Return a table of the runs worth naming, each kind in order of split."""
    from rich import box
    from rich.table import Column, Table

    from galaxy_mlflow.status import INTERRUPTED, ROOM

    heads = ("run", "status", "machine", "epochs", "test accuracy", "attempt")
    table = Table(*(Column(head, no_wrap=True) for head in heads), title=name, box=box.SIMPLE)
    room = ROOM
    for kind in (schema.RUNNING, schema.FAILED, INTERRUPTED, schema.FINISHED):
        for run in sorted(found.named.get(kind, ()), key=lambda run: run.job)[: max(room, 0)]:
            table.add_row(*_row(run, kind))
            room -= 1
    return table


def _row(run: ListedRun, kind: str) -> tuple[str, ...]:
    accuracy = run.test_accuracy
    epochs = f" of {run.epochs}" if run.epochs else ""
    return (
        run.job.run_name,
        kind,
        run.machine if kind == schema.RUNNING else "",
        f"{run.last_epoch + 1}{epochs}" if kind != schema.FINISHED else "",
        f"{accuracy:.1%}" if accuracy is not None else "",
        str(run.attempt),
    )


def _reasons(found: StudyState) -> list[str]:
    """Return a line for each run that failed or was given up: tables would fold the reason."""
    from galaxy_mlflow.status import INTERRUPTED

    runs = [run for kind in (schema.FAILED, INTERRUPTED) for run in found.named.get(kind, ())]
    told = sorted((run.job, run.reason) for run in runs if run.reason)
    return [f"{job.run_name}: {reason}" for job, reason in told]


def _summary(found: StudyState) -> list[str]:
    """Return a line each: counts, machines and speed, the end."""
    from galaxy_mlflow.status import ROOM

    total = sum(found.counts.values())
    done = f"{found.counts[schema.FINISHED]} of {total} runs done"
    others = [f"{n} {kind}" for kind, n in found.counts.items() if kind != schema.FINISHED and n]
    lines = [", ".join([done, *others])]
    if sum(len(runs) for runs in found.named.values()) > ROOM or total > ROOM:
        lines.append(f"the table is shortened: {ROOM} runs at most")
    if found.running:
        machines = ", ".join(f"{name} {count}" for name, count in found.machines.items())
        lines.append(f"at work: {machines}; {found.epochs_an_hour:,.4g} epochs an hour")
    return [*lines, *_end(found)]


def _end(found: StudyState) -> list[str]:
    """Say when the study will end, as far as it can be told."""
    from datetime import datetime, timedelta

    if not found.epochs_left:
        return []
    left = f"{found.epochs_left:,} epochs are left"
    if not found.running:
        return [f"{left}; nothing runs now: galaxy-mlflow run goes on"]
    if found.hours_left is None:
        return [f"{left}; no epoch is done yet that would tell how long they take"]
    end = datetime.now().astimezone() + timedelta(hours=found.hours_left)
    return [f"{left}: about {found.hours_left:.2g} hours, until {end:%Y-%m-%d %H:%M}"]
