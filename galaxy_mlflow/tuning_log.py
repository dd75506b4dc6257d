"""The trials of a study in MLflow: a run for each arm, and below it one for each trial.

They stand in an experiment of their own, `STUDY-tuning`, so that the study's holds nothing but
runs that are compared. All of it is made from what is in the storage of the trials: where the
server is away, the next call brings what it lacks.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from galaxy_mlflow import schema
from galaxy_mlflow.config import Study
from galaxy_mlflow.errors import ServerError
from galaxy_mlflow.objective import Curves
from galaxy_mlflow.search import Search, TrialRecord
from galaxy_mlflow.side_runs import Point, SideRun
from galaxy_mlflow.tracking import MlflowStore
from galaxy_mlflow.trial import trial_name
from galaxy_mlflow.tune_settings import in_words

_PAUSE: Final = 60.0  # seconds in which a server that did not answer is left alone
_CLOSED: Final = {
    schema.FINISHED: "FINISHED",
    schema.PRUNED: "KILLED",
    schema.FAILED: "FAILED",
}
_PAGE: Final = """\
**How the arms of the study `{study}` were tuned**: `galaxy-mlflow tune {study}`

Below `tuning/ARM` stand its trials. Each is trained on the training part of split {splits} with \
settings that were drawn, and judged on the validation part; no trial has seen a test part. \
`objective` is what it reached ({metric}, at the epoch of lowest validation loss). Trial 0 has the \
settings of the study file. All arms have the same space, trials, sampler, pruner and seed."""


@dataclass
class _Logged:
    """A trial's run on the server, and how many of its epochs and whether its params are there."""

    run_id: str
    epochs: int = 0
    state: str = schema.RUNNING
    named: bool = False


@dataclass
class TuningLog:
    """Writes trials to the tracking server as far as it can be reached.

    Attributes
    ----------
    say : told once where the server is away
    behind : whether something has not arrived
    """

    study: Study
    store: MlflowStore
    say: Callable[[str], None]
    behind: bool = False
    _told: bool = False
    _next_try: float = 0.0
    _parents: dict[str, str] = field(default_factory=dict)
    _known: dict[tuple[str, int], _Logged] = field(default_factory=dict)

    def catch_up(self, searches: Sequence[Search]) -> None:
        """Bring the server what it lacks of all trials that have ended."""
        self.behind, self._next_try = False, 0.0
        for search in searches:
            for trial in search.trials():
                if trial.state != schema.RUNNING:
                    self.end(search, trial)

    def epoch(self, search: Search, number: int) -> None:
        """Send the epochs of a trial in training that the server has not."""
        self._try(lambda: self._send_epochs(search, number, search.curves(number)))

    def end(self, search: Search, trial: TrialRecord) -> None:
        """Send the rest of a trial that has ended, and close its run."""
        self._try(lambda: self._send_end(search, trial))

    def close(self, search: Search, record: str) -> None:
        """Leave with an arm's run how it was tuned, and all its trials."""
        self._try(lambda: self._send_outcome(search, record))

    def _try(self, send: Callable[[], None]) -> None:
        """Send, unless the server did not answer a moment ago: trials must not wait for it."""
        if self.behind and time.monotonic() < self._next_try:
            return
        try:
            send()
        except ServerError as error:
            self.behind, self._next_try = True, time.monotonic() + _PAUSE
            if not self._told:
                self.say(f"{error}\nTuning goes on; the server gets the trials later.")
            self._told = True

    def _send_outcome(self, search: Search, record: str) -> None:
        parent = self._parent(search)
        self.store.send_tags(parent, {f"{schema.TUNED}{search.arm}": record})
        trials = json.dumps([_plain(trial) for trial in search.trials()], indent=1)
        self.store.end_side_run(parent, "FINISHED", {schema.TRIALS_FILE: f"{trials}\n"})

    def _send_end(self, search: Search, trial: TrialRecord) -> None:
        self._send_epochs(search, trial.number, trial.curves)
        logged = self._known[search.arm, trial.number]
        if logged.state == trial.state:
            return
        self.store.send_points(logged.run_id, _outcome(trial), {})
        self.store.end_side_run(logged.run_id, _CLOSED[trial.state], {})
        self._note_best(search, trial.number)
        # The state comes last: a run that has it is never looked at again.
        self.store.send_tags(logged.run_id, _state(trial))
        logged.state = trial.state

    def _send_epochs(self, search: Search, number: int, curves: Sequence[Curves]) -> None:
        logged = self._run(search, number)
        points = [p for p in _points(curves) if p[3] >= logged.epochs]
        if points:
            self.store.send_points(logged.run_id, points, {})
            logged.epochs = points[-1][3] + 1

    def _note_best(self, search: Search, number: int) -> None:
        best = search.best_of(search.trials())
        if best is not None and best.objective is not None:
            point = (schema.BEST_OBJECTIVE, best.objective, _now(), number)
            self.store.send_points(self._parent(search), [point], {})

    def _run(self, search: Search, number: int) -> _Logged:
        """Return a trial's run, created where there is none."""
        parent = self._parent(search)
        key = search.arm, number
        if key not in self._known:
            run = self._trial_run(search, number, parent)
            self._known[key] = _Logged(self.store.begin_side_run(run))
        logged = self._known[key]
        if not logged.named:
            self.store.send_params(logged.run_id, self._trial_params(search, number))
            logged.named = True
        return logged

    def _parent(self, search: Search) -> str:
        """Return the run above an arm's trials; learn which of them the server has."""
        if search.arm not in self._parents:
            run = self._arm_run(search)
            found = self.store.side_runs(run.experiment, _told_by(run.tags))
            parent = next(iter(found), None) or self._begin(run)
            self.store.send_params(parent, self._arm_params(search))
            self._learn(search.arm, run.experiment, parent)
            self._parents[search.arm] = parent
        return self._parents[search.arm]

    def _begin(self, run: SideRun) -> str:
        tune = self.study.tune
        splits = ", ".join(map(str, self.study.tuning_splits))
        page = _PAGE.format(study=self.study.name, splits=splits, metric=tune.metric)
        higher = str(tune.metric != schema.VAL_LOSS)
        name, better = "mlflow.experiment.primaryMetric.name", "primaryMetric.greaterIsBetter"
        tags = {schema.NOTE: page, name: schema.OBJECTIVE, f"mlflow.experiment.{better}": higher}
        self.store.describe_experiment(run.experiment, tags)
        return self.store.begin_side_run(run)

    def _learn(self, arm: str, experiment: str, parent: str) -> None:
        for run_id, tags in self.store.side_runs(experiment, {schema.PARENT: parent}).items():
            epochs = self.store.last_epoch(run_id) + 1
            state = tags.get(schema.STATUS, schema.RUNNING)
            number = int(tags[schema.TRIAL_NUMBER])
            self._known[arm, number] = _Logged(run_id, epochs, state, named=epochs > 0)

    def _arm_params(self, search: Search) -> dict[str, str]:
        said = search.tune.model_dump(
            include={"metric", "sampler", "pruner", "grace_epochs", "seed"}
        )
        params = {f"tune.{name}": str(value) for name, value in said.items()}
        params["tune.splits"] = ", ".join(map(str, self.study.tuning_splits))
        space = search.tune.space.named
        return params | {f"space.{name}": in_words(values) for name, values in space.items()}

    def _arm_run(self, search: Search) -> SideRun:
        tags = {
            **schema.TUNE_SOURCE,
            schema.KIND: schema.TUNING,
            schema.STUDY: self.study.name,
            schema.ARM: search.arm,
            schema.TUNING_HASH: search.digest,
            schema.TUNING_STORAGE: search.identity,
        }
        name = f"{schema.TUNING}/{search.arm}"
        return SideRun(schema.tuning_of(self.study.name), name, tags)

    def _trial_params(self, search: Search, number: int) -> dict[str, str]:
        arms = {**self.study.arm, search.arm: search.settings(number)}
        return self.study.model_copy(update={"arm": arms}).arm_params(search.arm)

    def _trial_run(self, search: Search, number: int, parent: str) -> SideRun:
        tags = {
            **schema.TUNE_SOURCE,
            schema.KIND: schema.TRIAL,
            schema.STUDY: self.study.name,
            schema.ARM: search.arm,
            schema.PARENT: parent,
            schema.TRIAL_NUMBER: str(number),
            schema.SAMPLED: ",".join(self.study.tune.space.named) if number else "",
            schema.STATUS: schema.RUNNING,
        }
        return SideRun(schema.tuning_of(self.study.name), trial_name(number), tags)


def _told_by(tags: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that tell an arm's run from all others."""
    told = (schema.KIND, schema.ARM, schema.TUNING_HASH, schema.TUNING_STORAGE)
    return {key: tags[key] for key in told}


def _points(curves: Sequence[Curves]) -> list[Point]:
    """Return every value of a trial; the epochs of several splits follow each other."""
    now, points, before = _now(), [], 0
    for curve in curves:
        for name, values in curve.items():
            points += [(name, value, now, before + i) for i, value in enumerate(values)]
        before += len(curve[schema.VAL_LOSS])
    # The one that says how far the run is comes last: a cut request is sent again.
    return sorted(points, key=lambda point: (point[3], point[0] == schema.TRAIN_LOSS))


def _outcome(trial: TrialRecord) -> list[Point]:
    if trial.objective is None:
        return []
    return [(schema.OBJECTIVE, trial.objective, _now(), 0)]


def _state(trial: TrialRecord) -> dict[str, str]:
    tags = {schema.STATUS: trial.state, schema.REASON: trial.reason[:5000]}
    return {key: value for key, value in tags.items() if value}


def _plain(trial: TrialRecord) -> dict[str, Any]:
    return {
        "trial": trial.number,
        "state": trial.state,
        "objective": trial.objective,
        "epochs": len(trial.values),
        "settings": trial.settings,
    }


def _now() -> int:
    return time.time_ns() // 1_000_000
