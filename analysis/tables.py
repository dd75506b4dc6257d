"""Tables of a study as text: its arms, its classes, all its pairs of arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import prose
from analysis.compare import Comparison
from analysis.curves import Reading, budgets, read_metric_name, values
from analysis.energy import Energy, EnergyUse
from analysis.mistakes import Mistakes
from analysis.pairs import Pairs
from analysis.sheet import Table
from analysis.stats import Evidence, Result, format_p, holm
from analysis.study import Study
from analysis.times import TimeToAccuracy
from analysis.wording import PERCENT, Unit, in_words, unit_of
from galaxy_mlflow import schema

READINGS = ("selected", "peak", "last")
_HOURS = 3600
_PAIRS = 20
"""Confused pairs in a table; the rarer ones are in no report."""
_LOOKS = (6, 8, 10, 20, 30, 50, 100, 200)


def arm_table(study: Study, pairs: Pairs) -> pd.DataFrame:
    """Return, an arm: runs, epochs, mean and sd of test accuracy however it is read, hours in all.

    The columns `selected`, `peak` and `last` (and `_sd`) are test accuracy as a fraction; hours
    are nan where no run says how long it took.
    """
    epochs, runs = budgets(study), study.runs.set_index("run_id")
    readings = {
        how: values(study, read_metric_name(study, f"{how}_{schema.TEST_ACCURACY}"))
        for how in READINGS
    }
    return pd.DataFrame(
        [_arm_row(pairs.run_ids[arm], runs, epochs, readings) for arm in pairs.arms]
    )


def _arm_row(
    run_ids: pd.Series[Any],
    runs: pd.DataFrame,
    epochs: pd.Series[int],
    readings: Mapping[str, pd.Series[float]],
) -> dict[str, Any]:
    hours = runs[schema.TOTAL_SECONDS][run_ids].sum(min_count=1) / _HOURS
    row = {
        "arm": run_ids.name,
        "runs": len(run_ids),
        "epochs": epochs[run_ids].max(),
        "hours": hours,
    }
    for how, by_run in readings.items():
        accuracy = by_run[run_ids]
        row |= {how: accuracy.mean(), f"{how}_sd": accuracy.std()}
    return row


def pairs_table(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """Return one row for every two arms: difference, corrected interval, p, Holm over the pairs.

    Columns first, second, n_pairs, wins, losses, ties, difference, ci_low, ci_high, p_value,
    p_holm; the family of Holm's adjustment is all the pairs of arms.
    """
    rows = [
        {
            "first": c.arms[0],
            "second": c.arms[1],
            **{name: getattr(c, name) for name in ("n_pairs", "wins", "losses", "ties")},
            "difference": c.mean_difference,
            "ci_low": c.tests["corrected_t"].ci_low,
            "ci_high": c.tests["corrected_t"].ci_high,
            "p_value": c.tests["corrected_t"].p_value,
        }
        for c in comparisons
    ]
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p_value"]))


def print_pairs(table: pd.DataFrame, unit: Unit) -> Table:
    """Return `pairs_table` as text."""
    header = ("first minus second", "splits", "difference", "95 % interval", "p", "p, Holm")
    rows = [
        (
            f"{row['first']} minus {row['second']}",
            f"{row['n_pairs']}",
            unit.signed(row["difference"]),
            unit.interval(row["ci_low"], row["ci_high"]),
            format_p(row["p_value"]),
            format_p(row["p_holm"]),
        )
        for _, row in table.iterrows()
    ]
    return Table(header, "lrrrrr", tuple(rows))


def pairs_in_words(table: pd.DataFrame, reading: Reading) -> str:
    """Return which differences of `pairs_table` are established after Holm's adjustment."""
    unit, what = unit_of(reading), in_words(reading)
    clear = table[table["p_holm"] < prose.LEVEL]
    family = f"Holm's adjustment is over {prose.counted(len(table), 'pair')} of arms. "
    if clear.empty:
        return f"{family}No difference in {what} is established for any of them."
    listed = ", ".join(_ahead(row, unit) for _, row in clear.iterrows())
    rest = len(table) - len(clear)
    others = " For the others none is established, which is no proof of equality." if rest else ""
    return f"{family}A difference in {what} is established for {len(clear)}: {listed}.{others}"


def _ahead(row: pd.Series[Any], unit: Unit) -> str:
    names = (row["first"], row["second"])
    above, below = names if row["difference"] > 0 else names[::-1]
    size = unit.change(abs(row["difference"])).lstrip("+")
    return f"{above} is higher than {below} by {size}"


def print_all_arms(comparisons: Sequence[Comparison]) -> Table:
    """Return each arm's mean and standard deviation over splits, as its first pair has them."""
    unit = unit_of(comparisons[0].reading)
    first: dict[str, Comparison] = {}
    for c in comparisons:
        for arm in c.arms:
            first.setdefault(arm, c)
    rows = [
        (arm, f"{c.n_pairs}", unit.value(c.mean[arm]), unit.value(c.sd[arm]))
        for arm, c in first.items()
    ]
    return Table(("arm", "splits", "mean", "sd over splits"), "lrrr", tuple(rows))


def print_counts(counts: pd.DataFrame) -> Table:
    """Return `class_counts` as text."""
    rows = [
        (
            str(row["class"]),
            f"{row['mean']:.1f}",
            " to ".join(dict.fromkeys(f"{row[end]:.0f}" for end in ("lowest", "highest"))),
            PERCENT.value(row["share"]),
        )
        for _, row in counts.iterrows()
    ]
    return Table(
        ("class", "images in a test set", "range over splits", "share"), "lrrr", tuple(rows)
    )


def print_arms(arms: pd.DataFrame) -> Table:
    """Return `arm_table` as text: test accuracy as mean and sd over splits, in percent."""
    header = ("arm", "runs", "epochs", "selected epoch", "peak epoch", "last epoch", "hours")
    rows = [
        (
            str(row["arm"]),
            f"{row['runs']:.0f}",
            f"{row['epochs']:.0f}",
            *(
                f"{PERCENT.value(row[how])} (sd {PERCENT.value(row[f'{how}_sd'])})"
                for how in READINGS
            ),
            f"{row['hours']:.2f}" if np.isfinite(row["hours"]) else "unknown",
        )
        for _, row in arms.iterrows()
    ]
    return Table(header, "lrrrrrr", tuple(rows))


def print_times(times: Sequence[TimeToAccuracy]) -> Table:
    """Return time to accuracy as text: one column a threshold."""
    first = times[0]
    columns = [_times_column(time) for time in times]
    names = (
        *(f"{arm}: runs that got there, in {first.budgets[arm]} epochs" for arm in first.arms),
        *(f"{arm}: median epochs" for arm in first.arms),
        *(f"{arm}: mean epochs below, of the first {first.horizon}" for arm in first.arms),
        "difference of these means",
        "its 95 % interval, corrected",
        "p, corrected t",
        f"splits on which {first.arms[0]} is sooner, later; open",
    )
    rows = tuple(zip(names, *columns, strict=True))
    header = ("test accuracy", *(PERCENT.value(time.threshold) for time in times))
    return Table(header, "l" + "r" * len(times), rows)


def _times_column(time: TimeToAccuracy) -> tuple[str, ...]:
    difference, sign = time.difference, time.sign.detail
    return (
        *(f"{time.reached[arm]}" for arm in time.arms),
        *(_median(time.median[arm]) for arm in time.arms),
        *(f"{time.rmst[arm]:.1f}" for arm in time.arms),
        f"{difference.estimate:+.1f}",
        _epochs_interval(difference),
        difference.p_text,
        f"{sign['wins']}, {sign['losses']}; {time.undecidable}",
    )


def _median(epochs: float) -> str:
    return f"{epochs:.0f}" if np.isfinite(epochs) else "not reached"


def _epochs_interval(test: Result) -> str:
    if np.isnan(test.ci_low):
        return "none"
    return f"[{test.ci_low:+.1f}, {test.ci_high:+.1f}]"


def print_energy(energy: Energy) -> Table:
    """Return the energy of two arms as text: one column for each thing it was used until."""
    joules = unit_of(Reading(schema.TOTAL_ENERGY, schema.TOTAL_ENERGY, "summary"))
    names = (
        *(f"{arm}: mean energy" for arm in energy.arms),
        "difference of energy",
        "its 95 % interval, corrected",
        "p, corrected t",
        *(f"{arm}: mean epochs" for arm in energy.arms),
        "difference of epochs",
        "its 95 % interval, corrected",
    )
    columns = [_energy_column(use, joules) for use in energy.uses]
    header = ("until", *(use.until for use in energy.uses))
    return Table(header, "l" + "r" * len(columns), tuple(zip(names, *columns, strict=True)))


def _energy_column(use: EnergyUse, joules: Unit) -> tuple[str, ...]:
    used, took = use.difference, use.epochs_difference
    return (
        *(joules.value(mean) for mean in use.joules.values()),
        joules.change(used.estimate),
        joules.range(used.ci_low, used.ci_high),
        used.p_text,
        *(f"{mean:.1f}" for mean in use.epochs.values()),
        f"{took.estimate:+.1f}",
        _epochs_interval(took),
    )


def print_evidence(evidence: Evidence, unit: Unit) -> Table:
    """Return what the first n splits said, at a few n."""
    header = (
        "splits",
        "higher, lower, equal",
        "mean difference",
        "95 % interval, corrected",
        "p, corrected t",
        "p, sign test",
        "e-value",
    )
    last = int(evidence.n[-1])
    shown = sorted({n for n in _LOOKS if n < last} | {last})
    return Table(header, "rrrrrrr", tuple(_evidence_row(evidence, n - 1, unit) for n in shown))


def _evidence_row(evidence: Evidence, i: int, unit: Unit) -> tuple[str, ...]:
    e = evidence
    return (
        f"{e.n[i]}",
        f"{e.wins[i]}, {e.losses[i]}, {e.ties[i]}",
        unit.change(float(e.mean[i])),
        unit.interval(float(e.ci_low[i]), float(e.ci_high[i])),
        format_p(float(e.corrected_p[i])),
        format_p(float(e.sign_p[i])),
        f"{e.e_value[i]:.3g}",
    )


def print_mcnemar(table: pd.DataFrame, arms: tuple[str, str]) -> Table:
    """Return `mcnemar_table` as text: one row a split."""
    header = ("split", *(f"only {arm} right" for arm in arms), "p, exact", "mid-p", "p, Holm")
    rows = [
        (
            f"{row['split']:.0f}",
            f"{row['only_first']:.0f}",
            f"{row['only_second']:.0f}",
            *(format_p(row[name]) for name in ("p_value", "mid_p", "p_holm")),
        )
        for _, row in table.iterrows()
    ]
    return Table(header, "rrrrrr", tuple(rows))


def print_mistakes(mistakes: Mistakes) -> Table:
    """Return the confused pairs: how many images, and the part of each arm's answers."""
    header = ("class", "taken for", "images", "wrong answers", *mistakes.arms)
    rows = tuple(
        (
            pair.true,
            pair.predicted,
            f"{pair.images:,}",
            f"{pair.answers:,}",
            *(PERCENT.value(share) for share in pair.shares),
        )
        for pair in mistakes.pairs[:_PAIRS]
    )
    return Table(header, "llrr" + "r" * len(mistakes.arms), rows)
