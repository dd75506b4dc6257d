"""Figures of the compared metric, and of the evidence in it."""

from __future__ import annotations

from collections.abc import Iterator

from analysis import figures
from analysis.compare import Comparison
from analysis.gallery.subject import Picture, Subject, band, sentence, short_difference
from analysis.stats import corrected_t, evidence_curve
from analysis.wording import in_words, unit_of


def differences(s: Subject) -> Iterator[Picture]:
    """Draw the difference on each split."""
    c, unit = s.comparison, unit_of(s.comparison.reading)
    x, y = (unit.scale * c.values[arm].to_numpy() for arm in c.arms)
    figure = figures.new_figure(height=3.2)
    test = corrected_t(x, y, c.n_pool, c.n_test)
    ax = figures.draw_differences(c.splits, x - y, test, figure.subplots())
    ax.set_ylabel(f"difference{',' * bool(unit.difference)}{unit.difference}")
    caption = (
        f"Differences on each split, {s.difference}: {in_words(c.reading)}. "
        f"Dashed: the mean{band(test)}. {s.runs}."
    )
    yield Picture("differences", "Difference on each split", caption, figure)


def slopes(s: Subject) -> Iterator[Picture]:
    """Draw both arms' values, split by split."""
    c = s.comparison
    figure = figures.new_figure(5.6, 4.0)
    words, unit = in_words(c.reading), unit_of(c.reading)
    figures.draw_slopes(c.values, words, unit, figure.subplots())
    caption = (
        f"One line a split, from {c.arms[0]} to {c.arms[1]}: {_lines(c)}. Thick: the means. "
        f"{s.runs}."
    )
    yield Picture("slopes", f"{sentence(words)}, split by split", caption, figure)


def _lines(c: Comparison) -> str:
    """Return what the lines of `slopes` mean: those that are there."""
    meanings = {
        f"solid where the first is higher ({c.wins})": c.wins,
        f"dashed where the second is higher ({c.losses})": c.losses,
        f"dotted where they are equal ({c.ties})": c.ties,
    }
    return ", ".join(words for words, n in meanings.items() if n)


def evidence(s: Subject) -> Iterator[Picture]:
    """Draw what the first n splits said."""
    c = s.comparison
    x, y = (c.values[arm].to_numpy() for arm in c.arms)
    evidence = evidence_curve(x, y, c.n_pool, c.n_test)
    figure = figures.evidence_panels(evidence, short_difference(s.arms), unit_of(c.reading))
    caption = (
        f"What the first n splits say of {in_words(c.reading)}: the mean difference, the p-values "
        "of a look at n fixed beforehand, and the e-value of the sign test, which may be watched: "
        f"at 20 the 5 % level is passed for good. {s.runs}."
    )
    yield Picture("evidence", "Evidence against the number of splits", caption, figure)
