"""What a comparison found, in words: headline, tables, notes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from analysis.curves import EPOCH_METRICS, Reading
from analysis.pairs import Pairs
from analysis.sheet import Sheet, Table
from analysis.stats import effective_splits
from analysis.study import Study
from analysis.wording import in_words, unit_of
from galaxy_mlflow import schema

if TYPE_CHECKING:
    from analysis.compare import Comparison

LEVEL = 0.05
_TESTS = {
    "corrected_t": "corrected resampled t",
    "sign": "sign test",
    "wilcoxon": "Wilcoxon signed-rank",
    "paired_t": "paired t, naive",
}
OVERLAP = (
    "The sign test and Wilcoxon's are about other random splits of these same galaxies. Splits "
    "share images, so their p-values say nothing of new galaxies, and on many splits they get "
    "small for any lasting difference. Only the corrected t allows for the overlap, by a "
    "heuristic (Nadeau and Bengio 2003)."
)
SELECTED_ON_TEST = (
    "The epoch was chosen on the test set itself, so the accuracies are optimistic for both arms, "
    "and more so for an arm with more epochs to choose from."
)
EPOCHS = "Epochs of a peak are descriptive: a late peak can mean that the budget cut the run short."


def sheet_of(c: Comparison) -> Sheet:
    """Return a comparison as a sheet of text."""
    return Sheet(
        title=f"Study {c.study}: {in_words(c.reading)}, {c.n_pairs} paired splits",
        headline=headline(c),
        tables=(arms_table(c), difference_table(c), tests_table(c), effects_table(c)),
        notes=c.notes,
        footer=", ".join(f"{name} {version}" for name, version in c.versions.items()),
    )


def headline(c: Comparison) -> str:
    """Return the finding in one sentence, no stronger than the corrected test allows."""
    test, unit, what = c.tests["corrected_t"], unit_of(c.reading), in_words(c.reading)
    first, second = c.arms
    by = f"{unit.change(c.mean_difference)} ({first} minus {second})"
    if math.isnan(test.ci_low):
        return f"Every split gives the same difference in {what}: {by}; no interval can be given."
    spread = f"95 % interval {unit.signed(test.ci_low)} to {unit.signed(test.ci_high)}"
    if test.p_value < LEVEL:
        ahead, count = (first, c.wins) if c.mean_difference > 0 else (second, c.losses)
        return (
            f"{ahead} has the higher {what}, on {count} of {c.n_pairs} splits: on average {by}, "
            f"{spread}."
        )
    return (
        f"No difference in {what} is established: on average {by}, {spread}; {first} is higher on "
        f"{c.wins} of {c.n_pairs} splits."
    )


def arms_table(c: Comparison) -> Table:
    """Return each arm's mean and standard deviation over splits."""
    unit = unit_of(c.reading)
    rows = [(arm, unit.value(c.mean[arm]), unit.value(c.sd[arm])) for arm in c.arms]
    return Table(("arm", "mean", "sd over splits"), "lrr", tuple(rows))


def difference_table(c: Comparison) -> Table:
    """Return the paired difference: mean with its corrected interval, median, sd, counts."""
    unit, test = unit_of(c.reading), c.tests["corrected_t"]
    rows = (
        ("mean difference", unit.change(c.mean_difference)),
        ("95 % interval, corrected", unit.interval(test.ci_low, test.ci_high) + unit.difference),
        ("median difference", unit.change(c.median_difference)),
        ("sd of the differences", unit.change(c.sd_difference).lstrip("+")),
        ("splits higher, lower, equal", f"{c.wins}, {c.losses}, {c.ties}"),
    )
    return Table((f"{c.arms[0]} minus {c.arms[1]}", "value"), "ll", rows)


def tests_table(c: Comparison) -> Table:
    """Return the p-values, what each test looked at, and its null in words."""
    asked = _questions(c)
    statistics = _statistics(c)
    rows = tuple(
        (name, c.tests[key].p_text, statistics[key], asked[key]) for key, name in _TESTS.items()
    )
    return Table(("test, two-sided", "p", "statistic", "what it asks"), "lrll", rows)


def _statistics(c: Comparison) -> dict[str, str]:
    sign, ranks = c.tests["sign"], c.tests["wilcoxon"]
    t = {key: c.tests[key] for key in ("corrected_t", "paired_t")}
    return {
        "sign": f"{c.wins} of {sign.n}",
        "wilcoxon": f"W = {ranks.statistic:g}, n = {ranks.n}",
        **{key: f"t = {test.statistic:.2f}, {test.detail['df']} df" for key, test in t.items()},
    }


def _questions(c: Comparison) -> dict[str, str]:
    ranks = c.tests["wilcoxon"].detail
    return {
        "corrected_t": "null: the mean difference is 0, for splits that overlap "
        f"(n_test/n_train = {c.n_test}/{c.n_train})",
        "sign": f"null: on a random split of these galaxies {c.arms[0]} is as often higher as "
        "lower; exact, ties dropped",
        "wilcoxon": "null: over such splits the differences are symmetric about 0; "
        f"{ranks['method']}, zeros by the rule {ranks['zero']!r}",
        "paired_t": "for comparison only: takes overlapping splits as independent",
    }


def effects_table(c: Comparison) -> Table:
    """Return the effect sizes with what they mean."""
    rows = (
        ("Cohen's d_z", _number(c.effects["cohen_dz"]), "mean difference over its sd; not a d"),
        (
            "rank biserial",
            _number(c.effects["rank_biserial"]),
            "share of ranks for minus against, -1 to 1",
        ),
        (
            "probability of superiority",
            f"{c.effects['prob_superiority']:.2f}",
            f"share of splits on which {c.arms[0]} is higher, ties half",
        ),
    )
    return Table(("effect size", "value", "meaning"), "lrl", rows)


def notes(study: Study, reading: Reading, pairs: Pairs) -> tuple[str, ...]:
    """Return what a reader must know before believing the numbers."""
    j = len(pairs.splits)
    worth = effective_splits(j, pairs.n_train, pairs.n_test)
    found = [
        OVERLAP,
        f"{j} splits with {pairs.n_train} training and {pairs.n_test} test images are worth about "
        f"{worth:.1f} independent ones; more splits can raise that to at most "
        f"{pairs.n_train / pairs.n_test:.1f}.",
    ]
    on_test = selects_on_test(study) and "selected" in (reading.how, reading.name.split("_")[0])
    if on_test or reading.name.startswith("peak_test_"):
        found.append(SELECTED_ON_TEST)
    if reading.base in EPOCH_METRICS:
        found.append(EPOCHS)
    return tuple(found)


def selects_on_test(study: Study) -> bool:
    """Return whether any run chose its epoch on the test set, as the paper's protocol does."""
    return bool(study.runs[schema.SELECTED_ON].str.startswith("test_").any())


def _number(value: float) -> str:
    return f"{value:+.2f}" if math.isfinite(value) else "undefined"
