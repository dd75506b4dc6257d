"""Figures of peaks and of the time to get there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from analysis import figures
from analysis.curves import epochs_to
from analysis.gallery.subject import EPOCHS, Picture, Subject, band, short_difference
from analysis.stats import kaplan_meier
from analysis.times import reached_thresholds
from analysis.wording import PERCENT
from galaxy_mlflow.errors import AnalysisError

_SHORTER: Final = (4, 10)
"""The first arm is also looked at in this fraction of its budget: 50 and 20 of 200 epochs."""


def peak_accuracy(s: Subject) -> Iterator[Picture]:
    """Draw histograms of peak test accuracy."""
    words = "peak test accuracy"
    caption = f"The highest test accuracy of each run. Dashed: the mean. {s.runs}."
    figure = figures.value_histograms(s.peaks(), words, PERCENT)
    yield Picture("peak-accuracy", "Peak test accuracy", caption, figure)


def peak_epoch(s: Subject) -> Iterator[Picture]:
    """Draw histograms of the epoch of the peak."""
    figure = figures.value_histograms(
        s.peaks("epoch"), "epoch of peak test accuracy", EPOCHS, s.budgets
    )
    caption = (
        "The epoch (from 0) of the highest test accuracy of each run, the first on ties. Dashed: "
        f"the mean; dotted: the epochs an arm was given{_unequal(s)}. {s.runs}."
    )
    yield Picture("peak-epoch", "Epoch of peak test accuracy", caption, figure)


def _unequal(s: Subject) -> str:
    if len(set(s.budgets.values())) == 1:
        return ""
    return ", which differ: the arm with more of them tends to peak later for that alone"


def budget_differences(s: Subject) -> Iterator[Picture]:
    """Draw differences in peak test accuracy at full and at shorter budgets."""
    panels = list(_budget_panels(s))
    figure = figures.difference_histograms(panels, "difference in peak test accuracy", PERCENT)
    caption = (
        f"Differences in peak test accuracy on each split. {colours(panels)}Dashed: the mean"
        f"{band(*(panel.test for panel in panels))}. {s.runs}."
    )
    yield Picture("budget-differences", "Differences at several budgets", caption, figure)


def colours(panels: Sequence[figures.Differences]) -> str:
    """Return what the bars' colours and hatches mean; nothing where all lie on one side."""
    signs = {float(sign) for panel in panels for sign in np.sign(panel.values)}
    if len(signs) == 1:
        return ""
    left = "left of it" if 1.0 in signs else "left of zero"
    meanings = {1.0: "right of zero blue", -1.0: f"{left} orange and hatched"}
    meanings[0.0] = "equal pairs grey and crossed"
    return f"Bars: {', '.join(meanings[sign] for sign in meanings if sign in signs)}. "


def _budget_panels(s: Subject) -> Iterator[figures.Differences]:
    (first, second), full = s.arms, s.peaks()
    yield s.differences(f"{short_difference(s.arms)}, full budgets", full[first], full[second])
    least, longer = min(s.budgets.values()), max(s.arms, key=lambda arm: s.budgets[arm])
    if s.budgets[longer] > least:
        cut = s.peaks(budget=least)
        title = f"{short_difference(s.arms)}, {longer} cut to {least} epochs"
        yield s.differences(title, cut[first], cut[second])
    budget = s.budgets[first]
    for epochs in dict.fromkeys(budget // part for part in _SHORTER if budget // part):
        title = f"{first}: its {budget} epochs minus its first {epochs}"
        yield s.differences(title, full[first], s.peaks(budget=epochs)[first])


def times_to_accuracy(s: Subject) -> Iterator[Picture]:
    """Draw the share of runs still below each threshold, by epoch."""
    thresholds = s.thresholds
    if thresholds is None:
        thresholds = reached_thresholds(s.study, s.pairs)
    if not thresholds:
        raise AnalysisError("half of no arm's runs reach an accuracy of the grid")
    for threshold in thresholds:
        percent = f"{100 * threshold:g}"
        waiting = _waiting(s, threshold)
        figure = figures.survival_curves(waiting, f"runs below {percent} %")
        caption = (
            f"Share of runs whose test accuracy has not yet been {percent} % (Kaplan-Meier; band: "
            f"95 % interval, as if runs were independent). {_ends(waiting)}{s.runs}."
        )
        name = f"time-to-{percent.replace('.', '-')}"
        yield Picture(name, f"Epochs to {percent} % test accuracy", caption, figure)


def _ends(waiting: Mapping[str, figures.Waiting]) -> str:
    """Return what the marks at the ends of the curves mean: those that are there."""
    all_reached = [bool(arm.reached.all()) for arm in waiting.values()]
    cross = "" if all(all_reached) else "A cross: runs that ended below it. "
    disc = "A disc: all runs of the arm are there. " if any(all_reached) else ""
    return cross + disc


def _waiting(s: Subject, threshold: float) -> dict[str, figures.Waiting]:
    table = epochs_to(s.study, threshold)
    found = {}
    for arm in s.arms:
        mine = table.reindex(s.pairs.run_ids[arm])
        if mine["epochs"].isna().any():
            raise AnalysisError("some runs have no test accuracy by epoch")
        epochs, reached = mine["epochs"].to_numpy(float), mine["reached"].to_numpy(bool)
        found[arm] = figures.Waiting(epochs, reached, kaplan_meier(epochs, reached))
    return found
