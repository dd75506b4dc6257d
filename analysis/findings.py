"""What a comparison found, as tables of text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from analysis import prose
from analysis.prose import chance
from analysis.sheet import Sheet, Table
from analysis.stats import Result, format_p
from analysis.wording import PERCENT, in_words, unit_of

if TYPE_CHECKING:
    from analysis.compare import Comparison

_TESTS = {
    "corrected_t": "corrected resampled t",
    "sign": "sign test",
    "wilcoxon": "Wilcoxon signed-rank",
    "permutation": "sign-flip permutation",
    "paired_t": "paired t, naive",
}
_FLOOR = 1.5
"""Below this many patterns, a Monte Carlo p-value is as small as its number of draws allows."""


def sheet_of(c: Comparison) -> Sheet:
    """Return a comparison as a sheet of text."""
    classes = [classes_table(c.classes, c.arms, score) for score in _scores(c.classes)]
    values = (arms_table(c), difference_table(c), tests_table(c), effects_table(c))
    bayes = () if prose.no_spread(c) else (bayes_table(c),)
    return Sheet(
        title=f"Study {c.study}: {in_words(c.reading)}, {c.n_pairs} paired splits",
        headline=prose.paragraph(c),
        tables=(*values, *bayes, *classes),
        notes=c.notes,
        footer=", ".join(f"{name} {version}" for name, version in c.versions.items()),
    )


def arms_table(c: Comparison) -> Table:
    """Return each arm's mean, median and standard deviation over splits."""
    unit = unit_of(c.reading)
    rows = [
        (arm, *(unit.value(column[arm]) for column in (c.mean, c.median, c.sd))) for arm in c.arms
    ]
    return Table(("arm", "mean", "median", "sd over splits"), "lrrr", tuple(rows))


def difference_table(c: Comparison) -> Table:
    """Return the paired difference: mean with its corrected interval, median, sd, counts."""
    unit, test, middle = unit_of(c.reading), c.tests["corrected_t"], c.intervals["median"]
    rows = (
        ("mean difference", unit.change(c.mean_difference)),
        ("95 % interval, corrected", unit.range(test.ci_low, test.ci_high)),
        ("median difference", unit.change(c.median_difference)),
        ("its 95 % interval, over these splits", unit.range(middle.low, middle.high)),
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
        "sign": f"{c.wins} of {sign.n}, win rate {_rate(sign)}" if sign.n else "only ties",
        "permutation": f"mean of {c.n_pairs} signed differences",
        "wilcoxon": f"W = {ranks.statistic:g}, n = {ranks.n}",
        **{key: _t_statistic(test) for key, test in t.items()},
    }


def _t_statistic(test: Result) -> str:
    if "degenerate" in test.detail:
        return "no spread; p by the signs"
    return f"t = {test.statistic:.2f}, {test.detail['df']} df"


def _questions(c: Comparison) -> dict[str, str]:
    ranks = c.tests["wilcoxon"].detail
    return {
        "corrected_t": "null: the mean difference is 0, for splits that overlap "
        f"(n_test/{'n_train' if c.n_pool == c.n_train else 'n_pool'} = {c.n_test}/{c.n_pool})",
        "sign": f"null: on a random split of these galaxies {c.arms[0]} is as often higher as "
        "lower; exact, ties dropped",
        "wilcoxon": "null: over such splits the differences are symmetric about 0; "
        f"{ranks['method']}, zeros by the rule {ranks['zero']!r}",
        "permutation": "null: over such splits each difference is as likely to have the other "
        f"sign; {_permutation_method(c.tests['permutation'])}",
        "paired_t": "for comparison only: takes overlapping splits as independent",
    }


def _permutation_method(test: Result) -> str:
    method, patterns = str(test.detail["method"]), test.detail["patterns"]
    if "p_standard_error" in test.detail and test.p_value * (patterns + 1) < _FLOOR:
        return f"{method}, of which {patterns:,} can give no smaller p"
    return method


def _rate(sign: Result) -> str:
    return f"{sign.ci_low:.3f} to {sign.ci_high:.3f}"


def bayes_table(c: Comparison) -> Table:
    """Return the posterior probabilities of the Bayesian correlated t test."""
    unit, b, (first, second) = unit_of(c.reading), c.bayes, c.arms
    size = unit.size(b.rope)
    more = f" by more than {size}" if b.rope else ""
    rows = [(f"{first} is higher{more}", chance(b.p_right))]
    if b.rope:
        rows.append((f"the difference is at most {size}", chance(b.p_rope)))
    rows.append((f"{second} is higher{more}", chance(b.p_left)))
    return Table(("Bayesian correlated t", "probability"), "lr", tuple(rows))


def classes_table(classes: pd.DataFrame, arms: tuple[str, str], score: str) -> Table:
    """Return one score's rows of `classes.class_table` as text, in percent and points."""
    header = (score_name(score), *arms, "difference", "95 % interval", "p", "p, Holm")
    rows = [
        (
            str(row["class"]),
            PERCENT.value(row["first"]),
            PERCENT.value(row["second"]),
            PERCENT.signed(row["difference"]),
            PERCENT.interval(row["ci_low"], row["ci_high"]),
            format_p(row["p_value"]),
            format_p(row["p_holm"]),
        )
        for _, row in classes[classes["score"] == score].iterrows()
    ]
    return Table(header, "lrrrrrr", tuple(rows))


def score_name(score: str) -> str:
    """`Recall`, `Precision`, `F1`."""
    return score.capitalize()


def _scores(classes: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(classes["score"]))


def effects_table(c: Comparison) -> Table:
    """Return the effect sizes with what they mean."""
    rows = (
        (
            "Cohen's d_z",
            _number(c.effects["cohen_dz"]),
            "mean difference over its sd; it grows with the pairing",
        ),
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
        ("A12", f"{c.effects['a12']:.2f}", "the same with the pairing forgotten; descriptive"),
    )
    return Table(("effect size", "value", "meaning"), "lrl", rows)


def _number(value: float) -> str:
    return f"{value:+.2f}" if math.isfinite(value) else "undefined"
