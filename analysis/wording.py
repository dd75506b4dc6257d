"""Metrics in words and in the units that reports print: fractions become percent and points."""

from __future__ import annotations

import math
from dataclasses import dataclass

from analysis.curves import ENERGY_METRICS, EPOCH_METRICS, Reading
from galaxy_mlflow import schema

_SCORES = ("_loss", "mcc", "kappa")
"""Scores about 1 in size, printed with decimals."""
_PLAIN = 1e6
"""Larger numbers are printed in scientific form."""
_FRACTIONS = ("accuracy", "recall", "precision", "f1", "ece")
_NAMES = {"f1": "F1", "mcc": "MCC", "ece": "calibration error (ECE)"}
_HOW = {
    "peak": " at its best epoch",
    "last": " at the last epoch",
    "selected": " at the selected epoch",
    "summary": "",
}
_SUMMARIES = {
    schema.PEAK_TEST_ACCURACY: "peak test accuracy",
    schema.PEAK_TEST_EPOCH: "epoch of peak test accuracy",
    schema.SELECTED_TEST_ACCURACY: "test accuracy at the selected epoch",
    schema.LAST_TEST_ACCURACY: "test accuracy at the last epoch",
    schema.TOTAL_ENERGY: "total energy in joules",
}


@dataclass(frozen=True)
class Unit:
    """How values of a metric are printed: scaled, rounded, and the words for a difference.

    Values have the digits that are published; differences, which are small, one more. Without
    `digits` a number has four that count, however large or small it is.
    """

    scale: float
    digits: int | None
    sign: str
    difference: str

    def value(self, number: float) -> str:
        """`83.5 %`; `unknown` for nan."""
        if math.isnan(number):
            return "unknown"
        return self._number(number, "", self.digits) + self.sign

    def signed(self, number: float) -> str:
        """`+1.59`, without its unit."""
        return self._number(number, "+", None if self.digits is None else self.digits + 1)

    def change(self, number: float) -> str:
        """`+1.59 points`."""
        return self.signed(number) + self.difference

    def size(self, number: float) -> str:
        """`1 point`, `0.5 points`: a size that somebody chose, as few digits as it needs."""
        text = f"{self.scale * number:g}{self.difference}"
        return text.removesuffix("s") if text == "1 points" else text

    def interval(self, low: float, high: float) -> str:
        """`[+0.87, +2.31]`, or `undefined`."""
        if math.isnan(low):
            return "undefined"
        return f"[{self.signed(low)}, {self.signed(high)}]"

    def range(self, low: float, high: float) -> str:
        """`[+0.87, +2.31] points`, or `undefined`."""
        return "undefined" if math.isnan(low) else self.interval(low, high) + self.difference

    def _number(self, number: float, plus: str, digits: int | None) -> str:
        if digits is None or abs(number) > _PLAIN:
            return f"{self.scale * number:{plus}.4g}"
        text = f"{self.scale * number:{plus}.{digits}f}"
        return text if float(text) else f"{0:.{digits}f}"


PERCENT = Unit(100, 1, " %", " points")
"""Of everything that is a fraction in the data."""


def unit_of(reading: Reading) -> Unit:
    """Return the unit in which a metric is printed."""
    if reading.base in EPOCH_METRICS:
        return Unit(1, 0, "", " epochs")
    if reading.base in (schema.TOTAL_SECONDS, schema.EPOCH_SECONDS):
        return Unit(1, 0, " s", " s")
    if reading.base in ENERGY_METRICS:
        return Unit(1, None, " J", " J")
    if any(word in _FRACTIONS for word in reading.base.split("_")):
        return PERCENT
    if reading.base.endswith(_SCORES):
        return Unit(1, 3, "", "")
    return Unit(1, None, "", "")


def in_words(reading: Reading) -> str:
    """`test accuracy at the selected epoch`."""
    if reading.base in _SUMMARIES:
        return _SUMMARIES[reading.base]
    if reading.base.startswith(schema.REEVALUATED):
        base = reading.base.removeprefix(schema.REEVALUATED)
        return f"re-evaluated {_metric_words(base)}"
    return _metric_words(reading.base) + _HOW[reading.how]


def _metric_words(metric: str) -> str:
    words = [_NAMES.get(word, word) for word in metric.split("_")]
    return " ".join(words).replace("macro F1", "macro-F1")
