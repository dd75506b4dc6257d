"""Which trained runs are meant: one, the best of an arm, or all of an arm, one a split."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from galaxy_mlflow import schema
from galaxy_mlflow.errors import ConfigError, StudyNotFoundError, WeightsError, did_you_mean
from galaxy_mlflow.runs import RunRecord
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.study_file import study_name
from galaxy_mlflow.tracking import MlflowStore

Kind = Literal["run", "best", "ensemble"]


@dataclass(frozen=True)
class Choice:
    """What a user names: a run, or an arm of a study.

    Attributes
    ----------
    kind : "run", the "best" run of an arm, or the "ensemble" of an arm's runs
    study, arm : of the arm; empty for a run
    run_id : MLflow's name of the run, or STUDY/split-NNN/ARM; empty for an arm
    """

    kind: Kind
    study: str = ""
    arm: str = ""
    run_id: str = ""

    @classmethod
    def of(cls, run: str | None, best: str | None, ensemble: str | None) -> Choice:
        """Return what exactly one of --run, --best and --ensemble names.

        Raises
        ------
        ConfigError
            None or several of them are given, or an arm is not named as STUDY/ARM.
        """
        given = {"run": run, "best": best, "ensemble": ensemble}
        named = {option: text for option, text in given.items() if text is not None}
        if len(named) != 1:
            found = " and ".join(f"--{option}" for option in named) or "none of them"
            raise ConfigError(
                f"give one of --run ID, --best STUDY/ARM and --ensemble STUDY/ARM; there is {found}"
            )
        if run is not None:
            return cls("run", run_id=run)
        return _arm_choice("best", best) if best is not None else _arm_choice("ensemble", ensemble)

    def __str__(self) -> str:
        named = self.run_id if self.kind == "run" else f"{self.study}/{self.arm}"
        return f"--{self.kind} {named}"


def _arm_choice(kind: Kind, text: str | None) -> Choice:
    study, slash, arm = (text or "").rpartition("/")
    if not (study and slash and arm):
        raise ConfigError(f"--{kind} {text}: expected STUDY/ARM, such as demo/pretrained")
    return Choice(kind, study_name(study), arm)


def chosen_runs(store: MlflowStore, choice: Choice) -> list[RunRecord]:
    """Return the finished runs that a choice means, in order of split; one but for an ensemble.

    The best run is the one that scores best on its validation part at its selected epoch: the
    lowest validation loss, the earliest split on ties. Runs of the paper's protocol have no such
    part: then the highest accuracy on the test set counts, and `store.news` says so.

    Raises
    ------
    StudyNotFoundError
        The server has no such run, or no run of that study.
    ConfigError
        The study has no such arm.
    WeightsError
        The arm has no finished run, or the run is not finished.
    ServerError
        The server cannot be reached.
    """
    if choice.kind == "run":
        return [_finished(find_run(store, choice.run_id))]
    runs = _runs_of_arm(store, choice)
    return runs if choice.kind == "ensemble" else [_best(store, choice, runs)]


def find_run(store: MlflowStore, name: str) -> RunRecord:
    """Return the run of an ID, or of STUDY/split-NNN/ARM.

    Raises
    ------
    StudyNotFoundError
        The server has no such run of a job.
    """
    job = job_named(name)
    run = store.find(job) if job is not None else store.record(name)
    if run is None:
        shown = f"{job.run_name} of study {job.study}" if job is not None else name
        raise StudyNotFoundError(f"{store.shown} has no run {shown}")
    return run


def job_named(text: str) -> JobId | None:
    """Return the job that STUDY/split-NNN/ARM names; None for any other text."""
    named = re.fullmatch(r"(.+)/split-(\d+)/([^/]+)", text)
    if named is None:
        return None
    return JobId(study_name(named.group(1)), int(named.group(2)), named.group(3))


def _finished(run: RunRecord) -> RunRecord:
    if run.status != schema.FINISHED:
        raise WeightsError(f"run {run.run_id} is {run.status}: only a finished run can be used")
    return run


def _runs_of_arm(store: MlflowStore, choice: Choice) -> list[RunRecord]:
    """Return the arm's finished runs, one a split (the oldest), in order of split."""
    runs = store.runs(choice.study)
    if not runs:
        near = did_you_mean(choice.study, store.studies())
        raise StudyNotFoundError(f"{store.shown} has no run of a study {choice.study!r}{near}")
    arms = sorted({run.job.arm for run in runs})
    if choice.arm not in arms:
        near = did_you_mean(choice.arm, arms)
        known = ", ".join(arms)
        raise ConfigError(f"{choice}: no arm {choice.arm!r}{near}; {choice.study} has {known}")
    of_arm = [run for run in runs if run.job.arm == choice.arm]
    by_split: dict[int, RunRecord] = {}
    for run in (run for run in of_arm if run.status == schema.FINISHED):
        by_split.setdefault(run.job.split, run)
    if not by_split:
        raise WeightsError(
            f"{choice}: none of its {len(of_arm)} runs is finished: galaxy-mlflow status "
            f"{choice.study} says how they stand"
        )
    return [by_split[split] for split in sorted(by_split)]


def _best(store: MlflowStore, choice: Choice, runs: list[RunRecord]) -> RunRecord:
    if all(run.tags.get(schema.SELECTED_ON) == schema.VAL_LOSS for run in runs):
        return min(runs, key=lambda run: _selected_loss(store, run))
    store.news.append(
        f"{choice}: these runs have no validation part; the best is the one of the highest "
        "accuracy on the test set, which is then too high for what new images will give"
    )
    return max(runs, key=lambda run: run.metrics.get(schema.SELECTED_TEST_ACCURACY, -math.inf))


def _selected_loss(store: MlflowStore, run: RunRecord) -> float:
    """Return the validation loss at the selected epoch; infinite where the server lacks it."""
    epoch = int(run.metrics.get(schema.SELECTED_EPOCH, -1))
    return store.history(run.run_id, schema.VAL_LOSS).get(epoch, math.inf)
