"""`galaxy-mlflow run plan prepare sync`: the runs of a study."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from galaxy_mlflow.errors import ConfigError, did_you_mean
from galaxy_mlflow.options import (
    AddressOption,
    ArmsOption,
    DeviceOption,
    EngineOption,
    FailuresOption,
    JobsOption,
    OfflineOption,
    PartOption,
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
    from galaxy_mlflow.placement import Machine
    from galaxy_mlflow.plan import Selection

INTERRUPTED = 130
ENGINES = ("local", "ray")


def run(
    study: StudyArgument,
    override: SetOption = None,
    splits: SplitsOption = None,
    arms: ArmsOption = None,
    part: PartOption = None,
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
    offline: OfflineOption = False,
) -> None:
    """Train what is left of a study; call it again to go on.

    Example: galaxy-mlflow run experiments/csv.toml --splits 0-2 --set arm.scratch.epochs=10
    """
    from galaxy_mlflow.dispatch import Rules
    from galaxy_mlflow.placement import Machine

    if offline:
        _require_offline(engine, replace_runs)
    settings, wanted = read_study(study, override, splits, arms, part)
    if not wanted.splits:
        say(f"{settings.name}: part {part} has no split: nothing to do")
        return
    wanted = replace(wanted, retry_failed=retry_failed, replace=replace_runs)
    machine = Machine(
        jobs,
        threads,
        device,
        skip_bad,
        engine_of(engine, jobs, address),
        address,
        offline,
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
    from galaxy_mlflow.placement import Machine
    from galaxy_mlflow.runner import look_ahead

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


def prepare(
    study: StudyArgument,
    override: SetOption = None,
    splits: SplitsOption = None,
    arms: ArmsOption = None,
    skip_bad: SkipBadOption = False,
    features: Annotated[
        bool, typer.Option("--features", help="Also compute features of frozen backbones, on CPU.")
    ] = False,
) -> None:
    """Have here what training needs of the network, so that `run --offline` needs none.

    That is decoded images, initial weights, and a note of the runs that the server has.

    Example: galaxy-mlflow prepare experiments/paper.toml
    """
    from galaxy_mlflow.display import Display
    from galaxy_mlflow.placement import Machine
    from galaxy_mlflow.runner import compute_features, make_ready

    settings, wanted = read_study(study, override, splits, arms)
    display, machine = Display(console()), Machine(skip_bad=skip_bad)
    with told_when_stopped():
        ready = make_ready(settings, wanted, machine, display)
        if features:
            compute_features(ready, wanted.arms, "cpu", display)
    say(f"images:  {ready.data.labels.size:,} decoded")
    for arm, file in ready.weights.items():
        say(f"weights: {arm}: {file or settings.arm[arm].weights}")
    say(f"{settings.name}: ready for galaxy-mlflow run --offline with this home")


def sync() -> None:
    """Send what is waiting in the spool to the server.

    Example: galaxy-mlflow sync
    """
    from galaxy_mlflow.delivery import sync_spools
    from galaxy_mlflow.display import Display
    from galaxy_mlflow.home import Home
    from galaxy_mlflow.tracking import MlflowStore

    home = Home.default()
    with told_when_stopped():
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


@contextmanager
def told_when_stopped() -> Iterator[None]:
    """Have Ctrl-C and SIGTERM end the command with a word, and with the code that shells expect."""
    from galaxy_mlflow.processes import TERMINATED, Terminated, sigterm_like_ctrl_c

    try:
        with sigterm_like_ctrl_c(for_good=True):
            yield
    except KeyboardInterrupt as stop:
        complain("stopped; nothing is lost: call the same command again to go on")
        raise typer.Exit(TERMINATED if isinstance(stop, Terminated) else INTERRUPTED) from None


def _require_offline(engine: str, replace_runs: bool) -> None:
    """Refuse what cannot be done without asking anybody."""
    if engine != "local":
        raise ConfigError("--offline: Ray's machines ask the server: give --engine local")
    if replace_runs:
        raise ConfigError("--offline: --replace deletes runs on the server, which is not asked")


def _tell_of_spool(study: str) -> None:
    """Say how what was trained offline comes to the server."""
    from galaxy_mlflow.home import Home
    from galaxy_mlflow.known import waiting_runs
    from galaxy_mlflow.tracking import shown

    home = Home.default()
    waiting = waiting_runs(home, study)
    if waiting:
        say(f"{waiting} runs in the spool of {home.path} are for {shown(home.tracking_uri)}")
        say("where that can be reached, send them with the same settings: galaxy-mlflow sync")


def train(study: Study, wanted: Selection, machine: Machine) -> int:
    """Train what is left of a study and say what came of it; return the exit code."""
    from galaxy_mlflow.display import Display
    from galaxy_mlflow.runner import run_study

    with told_when_stopped():
        outcome = run_study(study, wanted, machine, Display(console()))
    if machine.offline:
        _tell_of_spool(study.name)
    counts = outcome.counts()
    nothing = "" if outcome.results else "nothing to do: "
    say(f"{study.name}: {nothing}{counts}")
    return 1 if outcome.unfinished or outcome.failed_before else 0
