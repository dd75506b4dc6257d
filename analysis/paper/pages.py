"""The published study's part of a report: its printed numbers judged, and what it left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import pandas as pd

from analysis.matrices import Matrices
from analysis.paper.beyond import (
    corrected_intervals,
    label_error,
    optimism,
    pictured_matrices,
    pictured_scores,
)
from analysis.paper.claims import DIFFERS, VERDICTS, verdicts
from analysis.paper.study import ARMS
from analysis.sheet import Table
from analysis.stats import format_p
from analysis.study import Study
from analysis.wording import PERCENT
from galaxy_mlflow import schema

THRESHOLDS: Final = (0.75, 0.80, 0.82)
"""Test accuracies asked of the published study: on the way to and at about what Cavanagh et al.
(2021) print (81 %, four classes). Chosen after the paper was read."""


@dataclass(frozen=True)
class Part:
    """A table of a report with its name, heading, and what to know of it."""

    name: str
    heading: str
    text: str
    table: Table


def parts(study: Study, matrices: Matrices | None) -> tuple[Part, ...]:
    """Return the published study's part of a report, in order.

    Raises
    ------
    AnalysisError, PairingError
        The study does not hold the published runs, whole and in pairs.
    """
    found = [_claims(study, matrices), _optimism(study), _intervals(study)]
    return (*found, *(_pictured(matrices) if matrices is not None else ()))


def limits() -> tuple[str, ...]:
    """Return what is to be known of the published runs before believing the report."""
    return (
        label_error().sentence,
        "The runs were read from the published figures: matrices without known error, test "
        "accuracies nearly all to the image, single losses to an unmeasured precision; points that "
        "could not be read are absent. The re-evaluation is a summary of a run, no epoch of its "
        "curve: the best epoch's network saw the test set once more, through random crops again.",
    )


def _claims(study: Study, matrices: Matrices | None) -> Part:
    found = verdicts(study, matrices)
    counts = Counter(verdict.verdict for verdict in found)
    listed = ", ".join(f"{counts[name]} {name}" for name in VERDICTS if counts[name])
    rows = tuple((v.place, v.printed, v.computed, v.verdict, v.note) for v in found)
    header = ("place", "printed", "from the runs", "verdict", "note")
    text = f"What thesis and article print of data, results and cost: {listed}."
    text += "".join(
        f" {v.verdict.capitalize()}: {v.printed!r} ({v.place}): {v.computed}."
        for v in found
        if v.verdict == DIFFERS
    )
    return Part(
        "claims", "Every printed number and its verdict", text, Table(header, "ppppp", rows)
    )


def _optimism(study: Study) -> Part:
    rows = tuple(
        (
            str(name),
            *(_of_an_arm_or_points(str(name), row[column]) for column in ("peak", "reevaluated")),
            PERCENT.signed(row["optimism"]),
            PERCENT.interval(row["ci_low"], row["ci_high"]),
            f"{row['lower']:.0f} of {len(study.runs) // 2}",
        )
        for name, row in optimism(study).iterrows()
    )
    header = ("", "peak on test", "evaluated again", "optimism", "95 % interval", "splits lower")
    text = (
        "The paper's accuracy is a peak: the highest of 200 or 400 evaluations, each through other "
        "random crops. The same network, shown the same test images once more, scores less. That "
        "gap is the noise's part only: the network was still chosen on its test set."
    )
    return Part("optimism", "Optimism of the peak", text, Table(header, "lrrrrr", rows))


def _of_an_arm_or_points(name: str, value: float) -> str:
    return PERCENT.value(value) if name in ARMS else PERCENT.change(value)


def _intervals(study: Study) -> Part:
    rows = tuple(_interval_row(row) for _, row in corrected_intervals(study).iterrows())
    header = (
        "metric",
        "pretrained",
        "scratch",
        "difference",
        "95 % interval",
        "p",
        "p, Holm",
        "splits, sign test",
    )
    text = (
        "The first line is the peak, all others the re-evaluation. Corrected resampled t test, "
        "with Holm's adjustment over the four classes within one score; beside it the splits on "
        "which pretrained is higher, lower, equal, and the paper's own sign test. Differences are "
        "in points; MCC and kappa are in hundredths."
    )
    table = Table(header, "lrrrrrrr", rows)
    return Part("corrected", "What the paper did not compute: intervals", text, table)


def _interval_row(row: pd.Series[Any]) -> tuple[str, ...]:
    name = _SCORES.get(metric := str(row["metric"]).removeprefix(schema.REEVALUATED), metric)
    values = {key: float(str(row[key])) for key in _NUMBERS}
    return (
        f"{name} {row['class']}".strip().replace("_", " "),
        PERCENT.value(values["first"]),
        PERCENT.value(values["second"]),
        PERCENT.signed(values["difference"]),
        PERCENT.interval(values["ci_low"], values["ci_high"]),
        format_p(values["p_value"]),
        format_p(values["p_holm"]) if row["class"] else "",
        f"{row['wins']}, {row['losses']}, {row['ties']}: {format_p(values['sign_p'])}",
    )


_SCORES = {"macro_f1": "macro-F1", "mcc": "MCC", "f1": "F1"}
_NUMBERS = ("first", "second", "difference", "ci_low", "ci_high", "p_value", "p_holm", "sign_p")


def _pictured(matrices: Matrices) -> Iterator[Part]:
    arms = tuple(matrices.by_arm)
    scores = tuple(
        (str(row["class"]), str(row["score"]), *(_mean_sd(row, f"_{arm}") for arm in arms))
        for _, row in pictured_scores(matrices).iterrows()
    )
    yield Part(
        "pictured-scores",
        "Article Table 4, an image: recomputed",
        "Mean and sd (n) over the splits, recomputed from the confusion matrices; the published "
        "picture was not compared number by number.",
        Table(("class", "score", *arms), "llrr", scores),
    )
    cells = tuple(
        (str(row["arm"]), str(row["true"]), str(row["predicted"]), _mean_sd(row, ""))
        for _, row in pictured_matrices(matrices).iterrows()
    )
    yield Part(
        "pictured-matrices",
        "Thesis Figure 4.9, an image: recomputed",
        "Share of each true class, mean and sd (n) over the splits.",
        Table(("arm", "true", "predicted", "share"), "lllr", cells),
    )


def _mean_sd(row: pd.Series[Any], suffix: str) -> str:
    mean, sd = (float(str(row[f"{name}{suffix}"])) for name in ("mean", "sd"))
    return f"{PERCENT.value(mean)}, {PERCENT.value(sd)}"
