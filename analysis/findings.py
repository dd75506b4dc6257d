"""What a comparison found, in words: headline, paragraph, tables, notes.

Every sentence is made from the record's numbers, and none says more than they do.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pandas as pd

from analysis.curves import EPOCH_METRICS, Reading
from analysis.pairs import Pairs
from analysis.sheet import Sheet, Table
from analysis.stats import Result, effective_splits, format_p
from analysis.study import Study
from analysis.wording import PERCENT, in_words, unit_of
from galaxy_mlflow import schema

if TYPE_CHECKING:
    from analysis.compare import Comparison

LEVEL = 0.05
_TESTS = {
    "corrected_t": "corrected resampled t",
    "sign": "sign test",
    "wilcoxon": "Wilcoxon signed-rank",
    "permutation": "sign-flip permutation",
    "paired_t": "paired t, naive",
}
OVERLAP = (
    "The sign test, Wilcoxon's and the permutation test are about other random splits of these "
    "same galaxies. Splits share images, so their p-values say nothing of new galaxies, and on "
    "many splits they get small for any lasting difference. Only the corrected t allows for the "
    "overlap, by a heuristic (Nadeau and Bengio 2003)."
)
SIGN_NULL = (
    "The null of the sign test is about random splits of these galaxies, on which either arm "
    "would be as often ahead; it says nothing about new galaxies."
)
SELECTED_ON_TEST = (
    "The epoch was chosen on the test set itself, so the accuracies are optimistic for both arms, "
    "and more so for an arm with more epochs to choose from."
)
EPOCHS = "Epochs of a peak are descriptive: a late peak can mean that the budget cut the run short."


def sheet_of(c: Comparison) -> Sheet:
    """Return a comparison as a sheet of text."""
    classes = [classes_table(c.classes, c.arms, score) for score in _scores(c.classes)]
    values = (arms_table(c), difference_table(c), tests_table(c), bayes_table(c), effects_table(c))
    return Sheet(
        title=f"Study {c.study}: {in_words(c.reading)}, {c.n_pairs} paired splits",
        headline=paragraph(c),
        tables=(*values, *classes),
        notes=c.notes,
        footer=", ".join(f"{name} {version}" for name, version in c.versions.items()),
    )


def paragraph(c: Comparison) -> str:
    """Return the finding in plain English: what is established, how surely, and what is not."""
    sentences = [headline(c), _tests_sentence(c), SIGN_NULL, _bayes_sentence(c)]
    sentences += [_classes_sentence(c), _dropped_sentence(c)]
    sentences += [SELECTED_ON_TEST] if SELECTED_ON_TEST in c.notes else []
    return " ".join(sentence for sentence in sentences if sentence)


def headline(c: Comparison) -> str:
    """Return the finding in one sentence, no stronger than the corrected test allows."""
    test, unit, what = c.tests["corrected_t"], unit_of(c.reading), in_words(c.reading)
    first, second = c.arms
    if c.ties == c.n_pairs:
        return f"{first} and {second} have the same {what} on each of {c.n_pairs} splits."
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


def _tests_sentence(c: Comparison) -> str:
    corrected, sign = c.tests["corrected_t"], c.tests["sign"]
    counts = f"{c.wins} wins, {c.losses} losses, {c.ties} ties: {p_equals(sign)}"
    if c.ties == c.n_pairs:
        return ""
    if math.isnan(corrected.ci_low):
        return f"The sign test has {counts}; the corrected t test needs differences that vary."
    text = (
        f"The corrected resampled t test, which allows for splits that overlap, has "
        f"{p_equals(corrected)}; the sign test, which does not, has {counts}."
    )
    if sign.p_value < LEVEL <= corrected.p_value:
        text += (
            " The sign test alone would call this a difference: it finds what lasts over splits "
            "of these galaxies, which chance in these galaxies can make."
        )
    return text


def _bayes_sentence(c: Comparison) -> str:
    b, (first, second) = c.bayes, c.arms
    if math.isnan(c.tests["corrected_t"].ci_low):
        return ""
    if not b.rope:
        return (
            f"By the Bayesian correlated t test the mean difference favours {first} with "
            f"probability {_chance(b.p_right)}."
        )
    size = unit_of(c.reading).size(b.rope)
    return (
        f"By the Bayesian correlated t test {first} is higher by more than {size} with "
        f"probability {_chance(b.p_right)}, {second} with {_chance(b.p_left)}, and the two are "
        f"within {size} with {_chance(b.p_rope)}."
    )


def _classes_sentence(c: Comparison) -> str:
    recall = c.classes[c.classes["score"] == "recall"]
    if recall.empty:
        return ""
    clear = recall[recall["p_holm"] < LEVEL]
    family = f"over {len(recall)} classes, by the corrected t with Holm's adjustment"
    if clear.empty:
        return f"No class differs in recall beyond doubt ({family})."
    listed = ", ".join(
        f"{row['class']} ({PERCENT.change(row['difference'])})" for _, row in clear.iterrows()
    )
    only = "" if len(clear) == len(recall) else "only "
    return f"Recall differs beyond doubt {only}in {listed} ({family})."


def _dropped_sentence(c: Comparison) -> str:
    if not c.dropped:
        return ""
    listed = ", ".join(str(item.split) for item in c.dropped[:10])
    more = f" and {len(c.dropped) - 10} more" if len(c.dropped) > 10 else ""
    return f"{len(c.dropped)} split(s) were left out for want of a finished pair: {listed}{more}."


def p_equals(test: Result) -> str:
    """`p = 3.1e-5`, or `p < 1e-300`."""
    return f"p = {test.p_text}".replace("= <", "<")


def _chance(probability: float) -> str:
    """Return a probability with three digits that is never rounded to 0 or 1."""
    if probability < 5e-4:
        return "below 0.001"
    return "above 0.999" if probability > 1 - 5e-4 else f"{probability:.3f}"


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
        ("95 % interval, corrected", unit.interval(test.ci_low, test.ci_high) + unit.difference),
        ("median difference", unit.change(c.median_difference)),
        ("its 95 % interval, over these splits", unit.interval(middle.low, middle.high)),
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
        "sign": f"{c.wins} of {sign.n}, win rate {_rate(sign)}",
        "permutation": f"mean of {c.n_pairs} signed differences",
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
        "permutation": "null: over such splits each difference is as likely to have the other "
        f"sign; {c.tests['permutation'].detail['method']}",
        "paired_t": "for comparison only: takes overlapping splits as independent",
    }


def _rate(sign: Result) -> str:
    return f"{sign.ci_low:.3f} to {sign.ci_high:.3f}"


def bayes_table(c: Comparison) -> Table:
    """Return the posterior probabilities of the Bayesian correlated t test."""
    unit, b, (first, second) = unit_of(c.reading), c.bayes, c.arms
    size = unit.size(b.rope)
    more = f" by more than {size}" if b.rope else ""
    rows = [(f"{first} is higher{more}", _chance(b.p_right))]
    if b.rope:
        rows.append((f"the difference is at most {size}", _chance(b.p_rope)))
    rows.append((f"{second} is higher{more}", _chance(b.p_left)))
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
        ("A12", f"{c.effects['a12']:.2f}", "the same with the pairing forgotten; descriptive"),
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
