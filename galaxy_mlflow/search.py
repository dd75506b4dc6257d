"""The trials of one arm: drawn, heard, told to Optuna, and summed up.

Optuna's storage is the truth of what was tried. The draws of trial n come from the seed of the
tuning and n, whatever the process: a tuning that was stopped goes on as if it had not been, and
arms share the draws in which nothing is learned yet. With several trials at a time the sampler
knows less when it draws, and what it draws depends on which trial ends first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final
from uuid import uuid4

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from galaxy_mlflow import schema
from galaxy_mlflow.config import ArmSettings, Study
from galaxy_mlflow.objective import WORST, Curves, values_by_epoch
from galaxy_mlflow.trial_storage import talking_to
from galaxy_mlflow.tune_settings import Span, TunedSettings, TuneSettings, Value

_STARTUP: Final = 5
"""Trials drawn at random before the sampler learns, and completed before the pruner prunes."""
_CURVES, _REASON, _STOP, _IDENTITY = "curves", "failed", "stop", "identity"


@dataclass(frozen=True)
class TrialRecord:
    """One trial, as it is known now.

    Attributes
    ----------
    state : `running`, `finished`, `pruned` or `failed`
    values : what it was worth after each epoch
    objective : what it counts with; None while it runs
    settings : value of each setting of the space
    curves : of each split that it has come to
    """

    number: int
    state: str
    values: tuple[float, ...]
    objective: float | None
    settings: dict[str, Value]
    curves: tuple[Curves, ...] = ()
    reason: str = ""


@dataclass
class Search:
    """The trials of one arm of a study in a storage."""

    study: Study
    arm: str
    data_hash: str
    storage: optuna.storages.RDBStorage
    _curves: dict[int, list[Curves]] = field(default_factory=dict)

    @property
    def tune(self) -> TuneSettings:
        """How all arms are tuned."""
        return self.study.tune

    @property
    def epochs(self) -> int:
        """Epochs of a trial that is not stopped."""
        return self.study.arm[self.arm].epochs * len(self.study.tuning_splits)

    @cached_property
    def digest(self) -> str:
        """sha256 of all that decides the trials, but for their number."""
        tune = self.tune.model_dump(mode="json", exclude={"trials"})
        facts = [tune, self.study.tuning_splits, self.study.config_hash(self.arm), self.data_hash]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def _optuna(self) -> optuna.Study:
        directions = optuna.study.StudyDirection
        with self._talking():
            return optuna.create_study(
                study_name=f"{self._family}{self.digest[:16]}",
                storage=self.storage,
                load_if_exists=True,
                direction=directions.MINIMIZE if self._minimizes else directions.MAXIMIZE,
                pruner=self._pruner(),
            )

    @cached_property
    def identity(self) -> str:
        """What tells these trials from those of the same tuning in another storage."""
        with self._talking():
            if _IDENTITY not in self._optuna.user_attrs:
                self._optuna.set_user_attr(_IDENTITY, uuid4().hex)
            return str(self._optuna.user_attrs[_IDENTITY])

    def other_trials(self) -> int:
        """Return how many trials this arm has of other settings, another space or other data."""
        with self._talking():
            known = optuna.get_all_study_summaries(self.storage)
        mine = self._optuna.study_name
        others = [s for s in known if s.study_name.startswith(self._family)]
        return sum(s.n_trials for s in others if s.study_name != mine)

    def trials(self) -> list[TrialRecord]:
        """Return all trials by number."""
        with self._talking():
            return [self._record(trial) for trial in self._optuna.get_trials(deepcopy=False)]

    def settings(self, number: int) -> ArmSettings:
        """Return the settings of a trial, drawn now where the trial is new."""
        with self._talking():
            drawn = self._trial(number).params
        arm = self.study.arm[self.arm]
        return ArmSettings.model_validate(arm.model_dump() | drawn)

    def hear(self, number: int, place: int, curves: Curves) -> bool:
        """Take the curves of a split so far; return whether the trial is to stop.

        The first trial never is: it is what the others are compared with. An answer stands,
        whatever is asked again after a restart.
        """
        copied = {name: list(values) for name, values in curves.items()}
        known = self._curves.setdefault(number, [])
        known[place:] = [copied]
        values = self.values(number)
        with self._talking():
            trial = self._trial(number)
            news = self._report(trial, values)
            if trial.user_attrs.get(_STOP):
                return True
            # Hyperband notes what it has judged, and has nothing to say of it a second time.
            stop = news and number > 0 and len(values) < self.epochs and trial.should_prune()
            if stop:
                trial.set_user_attr(_STOP, True)
            return stop

    def _report(self, trial: Trial, values: Sequence[float]) -> bool:
        """Report the values that are not known yet; return whether there were any."""
        before = self._optuna.get_trials(deepcopy=False)[trial.number].intermediate_values
        new = range(len(before) + 1, len(values) + 1)
        for step in new:
            trial.report(values[step - 1], step)
        return bool(new)

    def end(self, number: int, state: str, reason: str = "") -> None:
        """Note how a trial ended; one that failed counts with the worst value there is."""
        values = self.values(number)
        with self._talking():
            trial = self._trial(number)
            trial.set_user_attr(_CURVES, list(self.curves(number)))
            if state == schema.PRUNED:
                self._optuna.tell(number, state=TrialState.PRUNED)
                return
            if state == schema.FAILED:
                trial.set_user_attr(_REASON, reason)
            worth = WORST[self.tune.metric] if state == schema.FAILED else values[-1]
            self._optuna.tell(number, worth)

    def curves(self, number: int) -> Sequence[Curves]:
        """Return what was heard of a trial in training, a split after the other."""
        return self._curves.get(number, ())

    def values(self, number: int) -> list[float]:
        """Return what a trial in training was worth after each epoch."""
        return values_by_epoch(self.curves(number), self.tune.metric)

    def best_of(self, trials: Sequence[TrialRecord]) -> TrialRecord | None:
        """Return the best trial that was trained to its end, of equals the first."""
        whole = [trial for trial in trials if trial.state == schema.FINISHED]
        sign = 1 if self._minimizes else -1
        return min(whole, key=lambda trial: sign * (trial.objective or 0.0), default=None)

    def tuned(self, count: int) -> TunedSettings | None:
        """Return the outcome of the first `count` trials, which have ended; None: all failed.

        Trials beyond them, from a call that wanted more, do not count: arms have the same number.
        """
        trials = self.trials()[:count]
        best = self.best_of(trials)
        if best is None or best.objective is None:
            return None
        states = [trial.state for trial in trials]
        return TunedSettings(
            study=self.study.name,
            trials=len(trials),
            completed=states.count(schema.FINISHED),
            pruned=states.count(schema.PRUNED),
            failed=states.count(schema.FAILED),
            epochs=sum(len(trial.values) for trial in trials),
            metric=self.tune.metric,
            best_trial=best.number,
            best_value=best.objective,
            untuned_value=trials[0].objective or 0.0,
            improved=self._improvements(trials),
            chosen=best.settings,
            untuned=trials[0].settings,
            splits=list(self.study.tuning_splits),
            **self.tune.model_dump(include={"sampler", "pruner", "grace_epochs", "seed"}),
            optuna=optuna.__version__,
            data_hash=self.data_hash,
            space=self.tune.space,
        )

    def _improvements(self, trials: Sequence[TrialRecord]) -> dict[str, float]:
        """Return the objectives of trials that were better than all before, by number."""
        bests = (self.best_of(trials[: n + 1]) for n in range(len(trials)))
        return {
            str(best.number): best.objective
            for best in bests
            if best is not None and best.objective is not None
        }

    @property
    def _family(self) -> str:
        return f"{self.study.name}/{self.arm}/"

    @property
    def _minimizes(self) -> bool:
        return self.tune.metric == schema.VAL_LOSS

    def _trial(self, number: int) -> Trial:
        """Return a trial, known or new, with all its settings drawn."""
        known = self._optuna.get_trials(deepcopy=False)
        self._optuna.sampler = self._sampler(number)
        if number < len(known) and known[number].state != TrialState.WAITING:
            identity = self.storage.get_study_id_from_name(self._optuna.study_name)
            id_ = self.storage.get_trial_id_from_study_id_trial_number(identity, number)
            trial = Trial(self._optuna, id_)
        else:
            if number == 0 and not known:
                self._optuna.enqueue_trial(self._within())
            trial = self._optuna.ask()
        for name in self._within() if number == 0 else self.tune.space.named:
            _draw(trial, name, self.tune.space.named[name])
        return trial

    def _sampler(self, number: int) -> optuna.samplers.BaseSampler:
        seed = int(np.random.SeedSequence([self.tune.seed, number]).generate_state(1)[0])
        if self.tune.sampler == "random":
            return optuna.samplers.RandomSampler(seed)
        # Each setting by itself: the first trial may lack one that the space does not hold.
        return optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=_STARTUP, multivariate=False, constant_liar=True
        )

    def _pruner(self) -> optuna.pruners.BasePruner:
        """Return the pruner; its steps count the epochs trained, from 1."""
        grace = min(self.tune.grace_epochs, self.epochs)
        if self.tune.pruner == "median":
            return optuna.pruners.MedianPruner(_STARTUP, grace)
        if self.tune.pruner == "hyperband":
            return optuna.pruners.HyperbandPruner(grace, self.epochs)
        return optuna.pruners.NopPruner()

    def _within(self) -> dict[str, Value]:
        """Return the arm's own settings, as far as the space holds them."""
        own = self._own()
        return {k: own[k] for k, values in self.tune.space.named.items() if _holds(values, own[k])}

    def _own(self) -> dict[str, Value]:
        arm = self.study.arm[self.arm]
        return {name: getattr(arm, name) for name in self.tune.space.named}

    def _record(self, trial: FrozenTrial) -> TrialRecord:
        reason = trial.user_attrs.get(_REASON)
        state = schema.FAILED if reason is not None else _STATES[trial.state]
        known = self._curves.get(trial.number, [])
        return TrialRecord(
            trial.number,
            state,
            tuple(value for _, value in sorted(trial.intermediate_values.items())),
            trial.value if trial.state.is_finished() else None,
            self._own() if trial.number == 0 else dict(trial.params),
            tuple(trial.user_attrs.get(_CURVES, known)),
            reason or "",
        )

    def _talking(self) -> Any:
        return talking_to(str(self.storage.url))


_STATES: Final = {
    TrialState.WAITING: schema.RUNNING,
    TrialState.RUNNING: schema.RUNNING,
    TrialState.COMPLETE: schema.FINISHED,
    TrialState.PRUNED: schema.PRUNED,
    TrialState.FAIL: schema.FAILED,
}


def _draw(trial: Trial, name: str, values: Sequence[Value] | Span[Any]) -> None:
    """Have a setting of a trial drawn, unless it is known."""
    if not isinstance(values, Span):
        trial.suggest_categorical(name, values)
    elif isinstance(values.low, int):
        trial.suggest_int(name, values.low, values.high, step=values.step or 1, log=values.log)
    else:
        trial.suggest_float(name, values.low, values.high, step=values.step, log=values.log)


def _holds(values: Sequence[Value] | Span[Any], own: Value) -> bool:
    """Whether a space has this value."""
    if not isinstance(values, Span):
        return own in values
    assert not isinstance(own, str)  # noqa: S101  settings with ranges are numbers
    steps = (own - values.low) / values.step if values.step else 0.0
    return bool(values.low <= own <= values.high and abs(steps - round(steps)) < 1e-9)
