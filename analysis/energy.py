"""Energy of two arms: of whole runs, and until something is reached, beside the epochs it took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import prose
from analysis.compare import paired_values
from analysis.curves import best_within, budgets, epochs_to, read_metric_name
from analysis.pairs import Pairs, common_energy_source
from analysis.stats import Result, corrected_t
from analysis.study import Study
from analysis.wording import PERCENT
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError

_NOT_MEASURED = "Energy was not measured: epochs are only a proxy for it."


@dataclass(frozen=True, eq=False)
class EnergyUse:
    """Joules that two arms used up to some epoch, and the epochs, their proxy.

    Attributes
    ----------
    until : up to where, in words
    joules, epochs : mean over splits, by arm
    difference, epochs_difference : corrected resampled t, first minus second; of joules, epochs
    """

    until: str
    joules: Mapping[str, float]
    epochs: Mapping[str, float]
    difference: Result
    epochs_difference: Result


@dataclass(frozen=True, eq=False)
class Energy:
    """What the runs of two arms used; `uses` is empty where it cannot be compared.

    Attributes
    ----------
    arms : first and second
    note : what was counted, or why nothing is compared
    """

    arms: tuple[str, str]
    uses: tuple[EnergyUse, ...]
    note: str


def energy_of(study: Study, pairs: Pairs, thresholds: Sequence[float] = ()) -> Energy:
    """Return the energy of two arms for a report, or in words why it is not compared."""
    if study.runs[schema.TOTAL_ENERGY].isna().all():
        return Energy(pairs.arms, (), _NOT_MEASURED)
    try:
        uses = energy_used(study, pairs, thresholds)
    except AnalysisError as error:
        return Energy(pairs.arms, (), f"Energy is not compared: {error}.")
    return Energy(pairs.arms, uses, prose.energy_note(common_energy_source(study, pairs)))


def energy_used(
    study: Study, pairs: Pairs, thresholds: Sequence[float] = ()
) -> tuple[EnergyUse, ...]:
    """Compare the joules of whole runs, up to the peak, and up to thresholds of test accuracy.

    The peak is that of the epochs within the smallest budget, the horizon. A run that is not at a
    threshold by then counts what it used up to the horizon, as in `times.TimeToAccuracy.rmst`.

    Raises
    ------
    AnalysisError
        A run without its energy, in all or of an epoch that is asked for.
    PairingError
        The runs were counted by different meters.
    """
    common_energy_source(study, pairs)
    reading = read_metric_name(study, schema.TOTAL_ENERGY)
    whole = paired_values(study, reading, pairs)
    trained = _by_arm(pairs, budgets(study), "epochs")
    uses = [_use("the end of the run", pairs, whole, trained)]
    for until, epochs in _milestones(study, pairs, int(trained.to_numpy().min()), thresholds):
        uses.append(_use(until, pairs, _joules_until(study, pairs, epochs), epochs))
    return tuple(uses)


def _milestones(
    study: Study, pairs: Pairs, horizon: int, thresholds: Sequence[float]
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield names of what is reached, and how many epochs each run took, one column an arm."""
    if schema.TEST_ACCURACY not in study.metric_names:
        return
    peak = best_within(study, schema.TEST_ACCURACY, horizon)["epoch"] + 1
    yield "the peak of test accuracy", _by_arm(pairs, peak, "a curve of test accuracy")
    for threshold in thresholds:
        took = epochs_to(study, threshold)["epochs"].clip(upper=horizon)
        yield f"test accuracy {PERCENT.value(threshold)}", _by_arm(pairs, took, "epochs")


def _joules_until(study: Study, pairs: Pairs, epochs: pd.DataFrame) -> pd.DataFrame:
    """Return the joules of each run's first epochs, so many as the table has for it."""
    points = study.history(schema.ENERGY_JOULES)
    spent = points.pivot(index="epoch", columns="run_id", values="value").cumsum(skipna=False)
    by_run = spent.unstack()
    last = (epochs - 1).astype("int64")
    table = pd.DataFrame(
        {
            arm: by_run.reindex(pd.MultiIndex.from_arrays([pairs.run_ids[arm], last[arm]])).array
            for arm in pairs.arms
        },
        index=epochs.index,
    )
    _require_whole(table, f"energy of every epoch ({schema.ENERGY_JOULES})")
    return table


def _use(until: str, pairs: Pairs, joules: pd.DataFrame, epochs: pd.DataFrame) -> EnergyUse:
    def difference(table: pd.DataFrame) -> Result:
        x, y = (table[arm].to_numpy(dtype=np.float64) for arm in pairs.arms)
        return corrected_t(x, y, pairs.n_pool, pairs.n_test)

    return EnergyUse(
        until=until,
        joules={arm: float(joules[arm].mean()) for arm in pairs.arms},
        epochs={arm: float(epochs[arm].mean()) for arm in pairs.arms},
        difference=difference(joules),
        epochs_difference=difference(epochs),
    )


def _by_arm(pairs: Pairs, by_run: pd.Series[Any], what: str) -> pd.DataFrame:
    """Return a value of each run, one column an arm; AnalysisError where a run has none."""
    table = pd.DataFrame({arm: pairs.run_ids[arm].map(by_run) for arm in pairs.arms})
    _require_whole(table, what)
    return table


def _require_whole(table: pd.DataFrame, what: str) -> None:
    lacking = table.index[table.isna().any(axis=1)]
    if len(lacking):
        listed = ", ".join(str(split) for split in lacking[:10])
        raise AnalysisError(f"there are runs without {what}, on splits {listed}")
