"""`galaxy-mlflow tune`: settings for all arms, found alike on validation parts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from galaxy_mlflow.cli_runs import engine_of, told_when_stopped
from galaxy_mlflow.options import (
    AddressOption,
    ArmsOption,
    DeviceOption,
    EngineOption,
    JobsOption,
    SetOption,
    SkipBadOption,
    StudyArgument,
    ThreadsOption,
    console,
    read_study,
    say,
)

if TYPE_CHECKING:
    from galaxy_mlflow.tuner import TuneOutcome, Tuning

TrialsOption = Annotated[
    int | None, typer.Option(min=1, help="Trials of each arm; default: [tune] in the study file.")
]
StorageOption = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="GALAXY_MLFLOW_TUNING_STORAGE",
        show_envvar=False,
        help="Where trials are kept: sqlite:///FILE or postgresql://...; default: the home.",
    ),
]
OutOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The study file; default: STUDY-tuned.toml.")
]


def tune(
    study: StudyArgument,
    override: SetOption = None,
    trials: TrialsOption = None,
    arms: ArmsOption = None,
    jobs: JobsOption = 1,
    threads: ThreadsOption = None,
    device: DeviceOption = "auto",
    engine: EngineOption = "local",
    address: AddressOption = None,
    storage: StorageOption = None,
    skip_bad: SkipBadOption = False,
    out: OutOption = None,
) -> None:
    """Find settings for all arms, alike, on validation parts; write them as a study file.

    Every arm has the same space, trials, sampler and seed ([tune] in the study file). No trial sees
    a test part. Call it again to go on.

    Example: galaxy-mlflow tune demo --trials 12
    """
    from galaxy_mlflow.placement import Machine
    from galaxy_mlflow.tuned_file import tuned_name
    from galaxy_mlflow.tuner import Tuning

    more = [f"tune.trials={trials}"] if trials is not None else []
    settings, wanted = read_study(study, [*(override or []), *more], None, arms)
    machine = Machine(jobs, threads, device, skip_bad, engine_of(engine, jobs, address), address)
    target = out or Path(f"{tuned_name(settings.name)}.toml")
    raise typer.Exit(_tune(Tuning(settings, wanted.arms, machine, storage, target)))


def _tune(wanted: Tuning) -> int:
    """Tune, and say what came of it; return the exit code."""
    from galaxy_mlflow.display import Display
    from galaxy_mlflow.tuner import tune_study

    with told_when_stopped():
        outcome = tune_study(wanted, Display(console()))
    if outcome.left:
        say(f"{len(outcome.left)} trials did not end: call the same command again to go on")
        return 1
    for line in _words(wanted, outcome):
        say(line)
    return 0


def _words(wanted: Tuning, outcome: TuneOutcome) -> list[str]:
    from galaxy_mlflow.tune_settings import shown

    lines = [
        f"{arm}: {tuned.metric} {tuned.best_value:.4f}, untuned {tuned.untuned_value:.4f}: "
        f"{shown(tuned.chosen)} (trial {tuned.best_trial} of {tuned.trials}: {tuned.completed} "
        f"complete, {tuned.pruned} pruned, {tuned.failed} failed)"
        for arm, tuned in outcome.tuned.items()
    ]
    left_out = [arm for arm in wanted.study.arm if arm not in outcome.tuned]
    if left_out:
        lines.append(
            f"warning: {', '.join(left_out)} is not tuned: a comparison with it is not fair. "
            "Call the command without --arms"
        )
    if outcome.behind:
        lines.append("the tracking server has not all trials: call the same command again")
    return [*lines, f"study: {wanted.out}", f"next: galaxy-mlflow run {wanted.out}"]
