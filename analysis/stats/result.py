"""One frozen record for the outcome of every test, and how a p-value is printed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import scipy

SMALLEST_P: Final = 1e-300
SMALLEST_FLOAT: Final = math.ulp(0.0)
PLAIN_P: Final = 1e-3
"""Smaller p-values are printed in scientific form."""
_LEVEL: Final = 0.05
"""Rounding carries no p-value over it."""


@dataclass(frozen=True)
class Result:
    """Outcome of a test on paired samples; differences are first minus second.

    Attributes
    ----------
    name : the test
    statistic : its statistic
    p_value : in (0, 1]
    estimate, ci_low, ci_high : what the test is about, with its 95 % interval (nan: none)
    n : pairs that the p-value rests on
    detail : what the test adds, always with `method`, `library` and `version`; `degenerate` says
        why where the input leaves a test without its usual law
    """

    name: str
    statistic: float
    p_value: float
    estimate: float
    ci_low: float
    ci_high: float
    n: int
    detail: Mapping[str, Any] = field(default_factory=dict)

    @property
    def p_text(self) -> str:
        """The p-value as it is printed; never 0."""
        return format_p(self.p_value)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that JSON can hold: None stands for nan and infinities."""
        return {
            "name": self.name,
            "statistic": plain(self.statistic),
            "p_value": plain(self.p_value),
            "estimate": plain(self.estimate),
            "ci_low": plain(self.ci_low),
            "ci_high": plain(self.ci_high),
            "n": self.n,
            "detail": {key: plain(value) for key, value in self.detail.items()},
        }


def probability(p: float) -> float:
    """Return a computed p-value in (0, 1]: one too small for a float is the smallest float."""
    return float(min(1.0, max(p, SMALLEST_FLOAT)))


def plain(value: Any) -> Any:
    """Return a numpy or Python value as JSON can hold it; None for a number that is not finite."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def format_p(p: float) -> str:
    """Return a p-value as text: `0.0316`, `3.1e-5`, `< 1e-300`; `undefined` for nan.

    A p-value is a probability above 0, so 0 is never printed.
    """
    if math.isnan(p):
        return "undefined"
    if p < SMALLEST_P:
        return f"< {SMALLEST_P:.0e}"
    if p < PLAIN_P:
        mantissa, exponent = f"{p:.1e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    texts = (f"{p:.{digits}g}" for digits in range(3, 18))
    return next(text for text in texts if (float(text) < _LEVEL) == (p < _LEVEL))


def provenance(method: str, **extra: Any) -> dict[str, Any]:
    """Return the `detail` of a result: its method, the library and version, and `extra`."""
    return {"method": method, "library": "scipy", "version": scipy.__version__, **extra}
