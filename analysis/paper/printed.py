"""The numbers and sentences that the thesis and the article print, as data (`printed.json`)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal
from functools import cache
from importlib.resources import files
from typing import Any

Expression = Mapping[str, Any]


@dataclass(frozen=True)
class Unit:
    """How a computed value is written: times `scale`, with so many decimals and a unit."""

    scale: float = 1
    decimals: int = 0
    unit: str = ""

    @property
    def difference(self) -> str:
        """The unit of a difference: of percentages, points."""
        return " points" if self.unit == " %" else self.unit

    def text(self, exact: float) -> str:
        """Return a value in this unit, half rounded up; thousands have a comma."""
        if exact and abs(exact * self.scale) < 10.0 ** -(self.decimals + 1):
            return f"{exact * self.scale:.2e}{self.unit}"
        step = Decimal(1).scaleb(-self.decimals)
        return f"{_decimal(exact * self.scale).quantize(step, ROUND_HALF_UP):,}{self.unit}"


@dataclass(frozen=True)
class PrintedNumber:
    """A number as printed, and how it is computed anew.

    Attributes
    ----------
    digits : as printed, in its unit; its last decimal says how it was rounded
    unit : how the computed fraction, count or epoch becomes that unit
    recompute : expression of `recompute`
    reading_error : by how much the figures' reading may move it, in its unit
    """

    digits: Decimal
    unit: Unit
    recompute: Expression
    reading_error: float

    def rounded(self, exact: float) -> Decimal:
        """Return a computed value at the printed digits, by whichever rounding meets them."""
        last = self._step(0)
        scaled = _decimal(exact * self.unit.scale)
        up, even = (scaled.quantize(last, rule) for rule in (ROUND_HALF_UP, ROUND_HALF_EVEN))
        return even if even == self.digits else up

    def text(self, exact: float) -> str:
        """Return a computed value as it would have been printed; in brackets with more digits."""
        scaled, rounded = _decimal(exact * self.unit.scale), self.rounded(exact)
        unit = self.unit.unit.removesuffix("s") if abs(rounded) == 1 else self.unit.unit
        text = f"{_plain(rounded)}{unit}"
        if scaled == rounded:
            return text
        finer = scaled.quantize(self._step(1 if self.unit.decimals else 2), ROUND_HALF_UP)
        return f"{text} ({_plain(finer)})"

    def _step(self, more_digits: int) -> Decimal:
        """One of the last printed decimal, or of one further to the right."""
        return Decimal(1).scaleb(int(self.digits.as_tuple().exponent) - more_digits)

    def distance(self, exact: float) -> float:
        """Return how far a computed value lies from the printed one, in its unit."""
        return exact * self.unit.scale - float(self.digits)


@dataclass(frozen=True)
class Check:
    """A value computed anew, and the limits within which it makes a printed sentence true.

    One without limits judges nothing: it is told beside a number or sentence (`Claim.told`).
    """

    what: str
    recompute: Expression
    unit: Unit
    above: float | None = None
    below: float | None = None
    between: tuple[float, float] | None = None
    equals: float | None = None

    def holds(self, value: float) -> bool:
        """Whether a computed value passes."""
        return (
            (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (self.between is None or self.between[0] <= value <= self.between[1])
            and (self.equals is None or value == self.equals)
        )


@dataclass(frozen=True)
class Claim:
    """A printed number, a printed sentence with what was checked of it, or what cannot be had.

    Exactly one of `number`, `checks` and `unavailable` is set.

    Attributes
    ----------
    basis : from what it is computed, where not from the runs; "" for the runs
    told : what else is computed and said beside the verdict, without a part in it
    states : the number that the text states in data's own unit, for expressions that refer to it
        (None for no number)
    """

    id: str
    place: str
    text: str
    note: str
    number: PrintedNumber | None
    checks: tuple[Check, ...]
    told: tuple[Check, ...]
    basis: str
    unavailable: str
    states: float | None


@cache
def claims() -> tuple[Claim, ...]:
    """Return everything that is printed, in the order of the file."""
    text = (files("analysis.paper") / "data" / "printed.json").read_text(encoding="utf-8")
    return tuple(_claim(entry) for entry in json.loads(text)["claims"])


def _claim(entry: Mapping[str, Any]) -> Claim:
    number = _number(entry) if "number" in entry else None
    states = float(number.digits) / number.unit.scale if number is not None else None
    return Claim(
        id=entry["id"],
        place=entry["place"],
        text=entry["text"],
        note=entry.get("note", ""),
        number=number,
        checks=tuple(_check(check) for check in entry.get("checks", ())),
        told=tuple(_check(check) for check in entry.get("told", ())),
        basis=entry.get("basis", ""),
        unavailable=entry.get("unavailable", ""),
        states=entry.get("states", states),
    )


def _number(entry: Mapping[str, Any]) -> PrintedNumber:
    digits = Decimal(entry["number"])
    decimals = max(0, -int(digits.as_tuple().exponent))
    unit = Unit(entry["scale"], decimals, entry["unit"])
    return PrintedNumber(digits, unit, entry["recompute"], entry.get("reading_error", 0.0))


def _check(entry: Mapping[str, Any]) -> Check:
    limits = {key: entry[key] for key in ("above", "below", "equals") if key in entry}
    if "between" in entry:
        limits["between"] = (entry["between"][0], entry["between"][1])
    unit = Unit(entry["scale"], entry["decimals"], entry["unit"])
    return Check(entry["what"], entry["recompute"], unit, **limits)


def _plain(value: Decimal) -> str:
    """Return a number with commas, or with an exponent where it is tiny."""
    return f"{value:e}" if value and abs(value) < Decimal("1e-6") else f"{value:,}"


def _decimal(value: float) -> Decimal:
    """Return a float without the dust of its last binary digits."""
    return Decimal(f"{value:.13g}")
