"""What a comparison found, in plain English: headline, paragraph, notes.

Every sentence is made from the record's numbers, and none says more than they do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from analysis.curves import ENERGY_METRICS, EPOCH_METRICS, Reading
from analysis.pairs import FEWEST_PAIRS, Pairs, common_energy_source
from analysis.stats import Result, effective_splits
from analysis.study import Study
from analysis.tuning import NOT_ALIKE
from analysis.wording import PERCENT, in_words, unit_of
from galaxy_mlflow import schema

if TYPE_CHECKING:
    from analysis.compare import Comparison

LEVEL = 0.05
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
    "The epoch was chosen on the test set itself, so both arms look better than they are, and the "
    "more so with more epochs to choose from."
)
EPOCHS = "Epochs of a peak are descriptive: a late peak can mean that the budget cut the run short."


def paragraph(c: Comparison) -> str:
    """Return the finding in plain English: what is established, how surely, and what is not."""
    sentences = [headline(c), _tests(c), _bayes(c), _classes(c), _dropped(c)]
    if SELECTED_ON_TEST in c.notes:
        sentences.append(SELECTED_ON_TEST)
    sentences += [note for note in c.notes if note.startswith(NOT_ALIKE)]
    if c.n_pairs < FEWEST_PAIRS:
        sentences.append(f"{c.n_pairs} pairs are too few to conclude anything from.")
    return " ".join(sentence for sentence in sentences if sentence)


def headline(c: Comparison) -> str:
    """Return the finding in one sentence, no stronger than the corrected test allows."""
    first, second = c.arms
    what = in_words(c.reading)
    if c.ties == c.n_pairs:
        return f"{first} and {second} have the same {what} on each of {c.n_pairs} splits."
    test, unit = c.tests["corrected_t"], unit_of(c.reading)
    change = f"{first} minus {second} is {unit.change(c.mean_difference)}"
    if no_spread(c):
        return f"The {what} differs alike on every split: {change}; no interval can be given."
    by = (
        f"{change} on average, 95 % interval {unit.signed(test.ci_low)} to "
        f"{unit.signed(test.ci_high)}."
    )
    if test.p_value >= LEVEL:
        share = f"{first} is higher on {c.wins} of {c.n_pairs} splits"
        return f"No difference in {what} is established: {share}, {by}"
    ahead, count = (first, c.wins) if c.mean_difference > 0 else (second, c.losses)
    lower = " Lower is better." if c.reading.lower_is_better else ""
    return f"{ahead} has the higher {what}, on {count} of {c.n_pairs} splits: {by}{lower}"


def no_spread(c: Comparison) -> bool:
    """Return whether every pair differs by the same amount, which leaves the t tests nothing."""
    return "degenerate" in c.tests["corrected_t"].detail


def _tests(c: Comparison) -> str:
    corrected, sign = c.tests["corrected_t"], c.tests["sign"]
    if c.ties == c.n_pairs:
        return f"The sign test has only ties: {p_equals(sign)}. {SIGN_NULL}"
    counts = ", ".join(
        counted(n, word) for n, word in ((c.wins, "win"), (c.losses, "loss"), (c.ties, "tie"))
    )
    found = f"{counts}: {p_equals(sign)}"
    if no_spread(c):
        return f"The sign test has {found}. {SIGN_NULL} The t tests need differences that vary."
    text = (
        f"The corrected resampled t test, which allows for splits that overlap, has "
        f"{p_equals(corrected)}; the sign test, which does not, has {found}. {SIGN_NULL}"
    )
    if sign.p_value < LEVEL <= corrected.p_value:
        text += (
            " The sign test alone would call this a difference: it finds what lasts over splits "
            "of these galaxies, which chance in these galaxies can make."
        )
    return text


def _bayes(c: Comparison) -> str:
    b, (first, second) = c.bayes, c.arms
    if no_spread(c):
        return ""
    if not b.rope:
        return (
            f"By the Bayesian correlated t test the mean is higher for {first} with probability "
            f"{chance(b.p_right)}."
        )
    size = unit_of(c.reading).size(b.rope)
    return (
        f"By the Bayesian correlated t test {first} is higher by more than {size} with "
        f"probability {chance(b.p_right)}, {second} with {chance(b.p_left)}, and the two are "
        f"within {size} with {chance(b.p_rope)}."
    )


def _classes(c: Comparison) -> str:
    recall = c.classes[c.classes["score"] == "recall"]
    if recall.empty:
        return ""
    clear = recall[recall["p_holm"] < LEVEL]
    family = f"{counted(len(recall), 'class')}, corrected t with Holm's adjustment"
    if clear.empty:
        return f"No difference in recall {c.classes_from} is established for any class ({family})."
    listed = ", ".join(
        f"{row['class']} ({PERCENT.change(row['difference'])})" for _, row in clear.iterrows()
    )
    only = "" if len(clear) == len(recall) else "only "
    return f"A difference in recall {c.classes_from} is established {only}for {listed} ({family})."


def _dropped(c: Comparison) -> str:
    if not c.dropped:
        return ""
    listed = ", ".join(str(item.split) for item in c.dropped[:10])
    more = f" and {len(c.dropped) - 10} more" if len(c.dropped) > 10 else ""
    were = "was" if len(c.dropped) == 1 else "were"
    n = counted(len(c.dropped), "split")
    return f"{n} {were} left out for want of a finished pair: {listed}{more}."


def notes(study: Study, reading: Reading, pairs: Pairs) -> tuple[str, ...]:
    """Return what a reader must know before believing the numbers."""
    j = len(pairs.splits)
    worth = effective_splits(j, pairs.n_pool, pairs.n_test)
    found = [
        OVERLAP,
        f"{j} splits with {pairs.n_train} training and {pairs.n_test} test images are worth about "
        f"{worth:.1f} independent ones; more splits can raise that to at most "
        f"{pairs.n_pool / pairs.n_test:.1f}.",
    ]
    if pairs.n_pool != pairs.n_train:
        found.append(few_labels_note(pairs.n_train, pairs.n_pool))
    if _chosen_on_test(study, reading):
        found.append(SELECTED_ON_TEST)
    if reading.base in EPOCH_METRICS:
        found.append(EPOCHS)
    if reading.base in ENERGY_METRICS:
        found.append(energy_note(common_energy_source(study, pairs)))
    return tuple(found)


def few_labels_note(n_train: int, n_pool: int) -> str:
    """Return what the correction for overlap goes by where labels were left out."""
    return (
        f"The arms have {n_train} of the {n_pool} training images of each split. The correction "
        f"for overlap goes by all {n_pool} (n_pool): it stands for the test images that splits "
        "share, and labels that are left out of training add none."
    )


def energy_note(source: str) -> str:
    """Return what a number of joules is, and is not, of."""
    counted_by = source or "a meter that the runs do not name"
    return (
        f"Energy is what {counted_by} counted while the epochs were trained and tested. A counter "
        "is of a whole processor or GPU: whatever else ran there, other runs too, is in it."
    )


def _chosen_on_test(study: Study, reading: Reading) -> bool:
    if reading.name.startswith("peak_test_"):
        return True
    selected = "selected" in (reading.how, reading.name.split("_")[0])
    again = reading.base.startswith(schema.REEVALUATED)
    return selects_on_test(study) and (selected or again)


def selects_on_test(study: Study) -> bool:
    """Return whether any run chose its epoch on the test set, as the paper's protocol does."""
    return bool(study.runs[schema.SELECTED_ON].str.startswith("test_").any())


def p_equals(test: Result) -> str:
    """`p = 3.1e-5`, or `p < 1e-300`."""
    return f"p = {test.p_text}".replace("= <", "<")


def chance(probability: float) -> str:
    """Return a probability with three digits that is never rounded to 0 or 1."""
    if probability < 5e-4:
        return "below 0.001"
    return "above 0.999" if probability > 1 - 5e-4 else f"{probability:.3f}"


def counted(n: int, word: str) -> str:
    """`1 win`, `2 losses`."""
    if n == 1:
        return f"1 {word}"
    return f"{n} {word}{'es' if word.endswith('s') else 's'}"
