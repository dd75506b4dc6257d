"""A report's page: sections of text, tables and figures, laid out by one template."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analysis import mistakes_page, paper, prose, tuning
from analysis.contents import Contents
from analysis.learning_curve import in_prose
from analysis.markup import is_wide, svg
from analysis.sheet import Table, table_to_html
from analysis.stats import effective_splits
from analysis.tables import pairs_in_words, pairs_table
from analysis.wording import in_words, unit_of
from galaxy_mlflow import schema

if TYPE_CHECKING:
    from analysis.gallery import Picture
    from analysis.mistakes_page import MistakesView

_NO_PREDICTIONS = (
    "McNemar's test needs each network's answer to each image, and these runs have left none: it "
    "does not apply here."
)
_NONE = "If a small difference is none"
_LONGEST = 20
"""Rows of a table that a page shows; a longer one is in the LaTeX tables only."""


@dataclass(frozen=True)
class Block:
    """One piece of a section: a heading, then text, galleries, a table, figures, a folded text."""

    heading: str = ""
    text: str = ""
    mistakes: MistakesView | None = None
    table: Table | None = None
    pictures: tuple[Picture, ...] = ()
    folded: str = ""


@dataclass(frozen=True)
class Section:
    """A part of the page under one title."""

    title: str
    blocks: tuple[Block, ...]


def render(found: Contents) -> str:
    """Return the report as one HTML page that needs nothing else; every text is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("analysis", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"table": table_to_html, "svg": svg, "wide": is_wide}
    c = found.comparison
    return environment.get_template("report.html.j2").render(
        c=c,
        title=found.study.question or f"{c.arms[0]} or {c.arms[1]}?",
        headline=prose.headline(c),
        cards=cards(found),
        sections=[section for section in sections(found) if section.blocks],
        limits=limits(found),
        samples=_samples(found),
    )


def cards(found: Contents) -> list[tuple[str, str, str]]:
    """Return the three numbers to see first: value, meaning, and what bounds it."""
    c = found.comparison
    unit, t, sign = unit_of(c.reading), c.tests["corrected_t"], c.tests["sign"]
    return [
        (
            unit.change(c.mean_difference),
            f"{c.arms[0]} minus {c.arms[1]}",
            f"95 % interval {unit.interval(t.ci_low, t.ci_high)}",
        ),
        (prose.p_equals(t), "corrected resampled t", "allows for overlap"),
        (
            f"{c.wins} of {c.n_pairs}",
            f"splits on which {c.arms[0]} is higher",
            f"sign test {prose.p_equals(sign)}",
        ),
    ]


def sections(found: Contents) -> Iterator[Section]:
    """Yield the evidence, then how the runs were made, then the limits."""
    yield Section(f"The comparison: {in_words(found.comparison.reading)}", _comparison(found))
    yield Section("The mistakes", _mistakes(found))
    yield Section("How each arm was tuned", _tuning(found))
    yield Section("How many labels", _labels(found))
    yield Section("The published numbers, one by one", _published(found))
    yield Section("Class by class", _classes(found))
    yield Section("Training", _training(found))
    yield Section("Time to accuracy", _times(found))
    yield Section("Energy", _energy(found))
    yield Section("How many splits are enough", _evidence(found))
    yield Section("Image by image", _images(found))
    yield Section("How it was run", _facts(found))


def limits(found: Contents) -> list[str]:
    """Return what to know before believing any of it, and what this study cannot show."""
    limits = list(found.comparison.notes)
    if found.published:
        limits += paper.limits()
    missing = [f"{name}: {why}" for name, why in found.gallery.missing.items()]
    if missing:
        limits.append(f"Figures that these runs cannot give: {'; '.join(missing)}.")
    return [*limits, *found.illustrations.missing]


def _comparison(found: Contents) -> tuple[Block, ...]:
    blocks = [
        Block(table=found.tables["arms"]),
        Block(table=found.tables["difference"], pictures=_named(found, "differences", "slopes")),
        Block("Tests", table=found.tables["tests"]),
        *(Block(_NONE, table=found.tables[name]) for name in ("bayes",) if name in found.tables),
        Block("Effect sizes", table=found.tables["effects"]),
    ]
    if found.all_pairs:
        text = pairs_in_words(pairs_table(found.all_pairs), found.comparison.reading)
        blocks.append(Block("Every two arms", text, table=found.tables["all-arms"]))
        blocks.append(Block(table=found.tables["all-pairs"]))
    return tuple(blocks)


def _mistakes(found: Contents) -> tuple[Block, ...]:
    if found.mistakes is None:
        return ()
    shown = mistakes_page.view(found.mistakes, found.illustrations)
    text = "Under an arm: the part of its answers to images of the class that were this wrong one."
    return (Block(mistakes=shown), Block("How often", text, table=found.tables["mistakes"]))


def _tuning(found: Contents) -> tuple[Block, ...]:
    shown = [found.tables[name] for name in ("tuning", "tuning-settings") if name in found.tables]
    text, pictures = tuning.in_prose(found.tuning), _named(found, "tuning")
    return (Block(text=text, pictures=pictures), *(Block(table=table) for table in shown))


def _labels(found: Contents) -> tuple[Block, ...]:
    if found.labels is None:
        return ()
    names = ("label-differences", "learning-curve")
    shown = [found.tables[name] for name in names if name in found.tables]
    pictures = _named(found, "learning-curve")
    return (
        Block(text=in_prose(found.labels), pictures=pictures),
        *(Block(table=table) for table in shown),
    )


def _published(found: Contents) -> tuple[Block, ...]:
    return tuple(Block(part.heading, part.text, table=part.table) for part in found.published)


def _classes(found: Contents) -> tuple[Block, ...]:
    scores = [name for name in found.tables if name.startswith("class-") and name != "class-counts"]
    if not scores:
        return ()
    return (
        Block(
            text="Intervals and p are those of the corrected resampled t test; Holm's adjustment "
            "is over the classes within one score. " + _which_matrices(found),
            table=found.tables[scores[0]],
            pictures=_named(found, "forest"),
        ),
        *(Block(table=found.tables[name]) for name in scores[1:]),
        Block(pictures=_starting(found, "confusion", "class")),
    )


def _training(found: Contents) -> tuple[Block, ...]:
    if "training" not in found.tables:
        return ()
    text = (
        "Test accuracy of each arm, by the epoch at which it is read: mean over splits and sd. "
        "The peak is chosen on the test set and is optimistic."
    )
    return (
        Block(pictures=_named(found, "mean-curves", "run-curves", "run-curves-loss")),
        Block(text=text, table=found.tables["training"]),
        Block("Peaks", pictures=_named(found, "peak-accuracy", "peak-epoch")),
        Block("At other budgets", pictures=_starting(found, "budget")),
        Block("One split", pictures=_starting(found, "split")),
    )


def _times(found: Contents) -> tuple[Block, ...]:
    if not found.times:
        return ()
    text = (
        "Epochs until test accuracy was first at or above a threshold. A run that never got there "
        "is censored at its own budget; means are restricted to the smallest budget, where every "
        f"pair was watched. Sooner and later count the splits on which {found.comparison.arms[0]} "
        "was so; open pairs had not got there by then."
    )
    if found.published:
        text += " The thresholds were chosen after the paper was read."
    pictures = _starting(found, "time-to")
    return (Block(text=text, table=found.tables["time-to-accuracy"], pictures=pictures),)


def _energy(found: Contents) -> tuple[Block, ...]:
    text = found.energy.note
    if not found.energy.uses:
        return (Block(text=text),)
    text += (
        " Epochs stand below, as the proxy they are. The peak and the thresholds are those within "
        "the smallest budget: a run that is not at a threshold by then counts all it used so far."
    )
    return (Block(text=text, table=found.tables["energy"]),)


def _evidence(found: Contents) -> tuple[Block, ...]:
    stop = found.evidence.may_stop()
    when = (
        f"it got there after {stop} splits"
        if stop
        else f"it has not got there in {found.comparison.n_pairs} splits"
    )
    text = (
        "A p-value is good for one look at a number of splits fixed beforehand. The e-value of the "
        "sign test may be watched after every split: at 20 a group may stop, with at most 5 % "
        f"chance of error (Ville's inequality); here {when}. Like the sign test it is about "
        "these galaxies. " + _worth(found)
    )
    return (
        Block(text=text, table=found.tables["evidence"], pictures=_starting(found, "evidence")),
    )


def _worth(found: Contents) -> str:
    c = found.comparison
    worth = effective_splits(c.n_pairs, c.n_pool, c.n_test)
    return (
        f"Overlapping as they do, {c.n_pairs} splits are worth {worth:.1f} independent ones, and "
        f"no number of them is worth more than {c.n_pool / c.n_test:.1f}."
    )


def _images(found: Contents) -> tuple[Block, ...]:
    pictures = _starting(found, "reliability")
    if found.mcnemar is None:
        why = paper.MCNEMAR if found.published else _NO_PREDICTIONS
        return (Block(text=why, pictures=pictures),)
    first, second = found.comparison.arms
    clear = found.mcnemar[found.mcnemar["p_holm"] < prose.LEVEL]
    ahead = int((clear["only_first"] > clear["only_second"]).sum())
    text = (
        "McNemar's test on each split: do the two networks err on other images than chance would "
        f"have it? After Holm's adjustment over {len(found.mcnemar)} splits, p is below 0.05 for "
        f"{first} on {ahead} of them and for {second} on {len(clear) - ahead}. The test is about "
        "two trained networks and one test set, not about two ways of training; test sets overlap, "
        "so splits are never pooled."
    )
    table = found.tables["mcnemar"]
    return (
        Block(text=text, table=table if len(table.rows) <= _LONGEST else None),
        Block("Calibration", pictures=pictures),
    )


def _facts(found: Contents) -> tuple[Block, ...]:
    c, study = found.comparison, found.study
    text = (
        f"Each split draws {c.n_train} training and {c.n_test} test images anew from the same "
        "galaxies; on each, both arms see the same images."
    )
    counts = found.tables.get("class-counts")
    run = str(found.pairs.run_ids[c.arms[0]].iloc[0])
    source = study.artifact(run, schema.STUDY_FILE)
    return (
        Block("The data", text, table=counts),
        Block("The runs", table=found.tables["facts"]),
        Block(folded=source.decode("utf-8", "replace") if source else ""),
    )


def _which_matrices(found: Contents) -> str:
    if schema.TEST_RECALL in "".join(found.study.metric_names):
        return "At the selected epoch."
    return "From the chosen network of each run, shown the test set once more."


def _named(found: Contents, *names: str) -> tuple[Picture, ...]:
    by_name = {picture.name: picture for picture in found.gallery.pictures}
    return tuple(by_name[name] for name in names if name in by_name)


def _starting(found: Contents, *prefixes: str) -> tuple[Picture, ...]:
    return tuple(p for p in found.gallery.pictures if p.name.startswith(prefixes))


def _samples(found: Contents) -> str:
    run = str(found.pairs.run_ids[found.comparison.arms[0]].iloc[0])
    samples = found.study.artifact(run, schema.SAMPLES_FILE)
    return base64.b64encode(samples).decode() if samples else ""
