"""`galaxy-mlflow run plan sync`: the runs of a study."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import typer

from galaxy_mlflow.errors import ConfigError, did_you_mean
from galaxy_mlflow.options import (
    AddressOption,
    ArmsOption,
    DeviceOption,
    EngineOption,
    FailuresOption,
    JobsOption,
    PatienceOption,
    ReplaceOption,
    RetryOption,
    SetOption,
    SkipBadOption,
    SplitsOption,
    StudyArgument,
    ThreadsOption,
    complain,
    console,
    read_study,
    say,
)

if TYPE_CHECKING:
    from galaxy_mlflow.config import Study
    from galaxy_mlflow.plan import Selection
    from galaxy_mlflow.runner import Machine

INTERRUPTED = 130
ENGINES = ("local", "ray")


def run(
    study: StudyArgument,
    override: SetOption = None,
    splits: SplitsOption = None,
    arms: ArmsOption = None,
    jobs: JobsOption = 1,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    engine: EngineOption = "local",
    address: AddressOption = None,
    max_failures: FailuresOption = 5,
    patience: PatienceOption = 10,
    skip_bad: SkipBadOption = False,
    retry_failed: RetryOption = False,
    replace_runs: ReplaceOption = False,
) -> None:
    """Train what is left of a study; call it again to go on.

    Example: galaxy-mlflow run experiments/csv.toml --splits 0-2 --set arm.scratch.epochs=10
    """
    from galaxy_mlflow.dispatch import Rules
    from galaxy_mlflow.runner import Machine

    settings, wanted = read_study(study, override, splits, arms)
    wanted = replace(wanted, retry_failed=retry_failed, replace=replace_runs)
    machine = Machine(
        jobs,
        threads,
        device,
        skip_bad,
        engine_of(engine, jobs, address),
        address,
        Rules(failures=max_failures, patience=60 * patience),
    )
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

    Example: galaxy-mlflow plan experiments/paper.toml --splits 0-9
    """
    from galaxy_mlflow.display import Display
    from galaxy_mlflow.estimate import estimate
    from galaxy_mlflow.runner import Machine, look_ahead

    settings, wanted = read_study(study, override, splits, arms)
    wanted = replace(wanted, retry_failed=retry_failed)
    ahead = look_ahead(settings, wanted, Machine(skip_bad=skip_bad), Display(console()))
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


def sync() -> None:
    """Send what is waiting in the spool to the server.

    Example: galaxy-mlflow sync
    """
    from galaxy_mlflow.delivery import sync_spools
    from galaxy_mlflow.display import Display
    from galaxy_mlflow.home import Home
    from galaxy_mlflow.tracking import MlflowStore

    home = Home.default()
    complete = sync_spools(home, MlflowStore(home.tracking_uri, home), Display(console()))
    say("the server has everything" if complete else "some records are still waiting")
    raise typer.Exit(0 if complete else 1)


def engine_of(name: str, jobs: int, address: str | None) -> Literal["local", "ray"]:
    """Read `--engine`, and refuse options of the other one."""
    if name == "ray":
        if jobs != 1:
            raise ConfigError("--jobs: Ray runs as many at once as fit; see [resources] in a study")
        return "ray"
    if name != "local":
        raise ConfigError(f"--engine {name}{did_you_mean(name, ENGINES)}: {' or '.join(ENGINES)}")
    if address is not None:
        raise ConfigError("--address is a Ray cluster's: give --engine ray too")
    return "local"


def train(study: Study, wanted: Selection, machine: Machine) -> int:
    """Train what is left of a study and say what came of it; return the exit code."""
    from galaxy_mlflow.display import Display
    from galaxy_mlflow.runner import run_study

    try:
        outcome = run_study(study, wanted, machine, Display(console()))
    except KeyboardInterrupt:
        complain("stopped; nothing is lost: call the same command again to go on")
        return INTERRUPTED
    counts = outcome.counts()
    if not outcome.results:
        say(f"{study.name}: nothing to do: {counts}")
        return 0 if not outcome.failed_before else 1
    say(f"{study.name}: {counts}")
    return 1 if outcome.unfinished else 0
