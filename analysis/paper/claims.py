"""Verdicts on what the paper prints: each number and sentence beside the same, computed anew.

Standard deviations over the 100 runs divide by n, as the published ones seem to; where dividing by
n - 1 gives other printed digits, the verdict says so. Words without a number are read the same way
throughout, and the reading is part of what was checked: "most" is more than half of the runs,
"almost always" at least 90 of 100, "often" at least one in four. A sentence of which one check
fails and another does not holds in part.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from analysis.matrices import Matrices
from analysis.paper.printed import Check, Claim, Expression, PrintedNumber, claims
from analysis.paper.recompute import Recomputed
from analysis.study import Study
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError

EQUAL: Final = "equal to the printed digits"
WITHIN: Final = "within the stated reading error"
HOLDS: Final = "holds"
IN_PART: Final = "holds in part"
NOT_REPRODUCIBLE: Final = "not reproducible from what is public"
DIFFERS: Final = "differs"
VERDICTS: Final = (EQUAL, WITHIN, HOLDS, IN_PART, NOT_REPRODUCIBLE, DIFFERS)

MCNEMAR: Final = (
    "McNemar's test does not apply here: it needs the answers of both networks image by image, and "
    "of the published runs only confusion matrices are public."
)


@dataclass(frozen=True)
class Verdict:
    """One printed number or sentence, and what the runs say of it.

    Attributes
    ----------
    id, place, printed : which, where and as printed
    computed : the same computed anew, at the printed digits and in brackets with more; for a
        sentence, what was checked and found; "" where it cannot be computed
    computed_exact : the unrounded value as data hold it (fractions stay fractions); nan for none
    verdict : one of `VERDICTS`
    note : the reason, the difference, or what else to know; may be ""
    """

    id: str
    place: str
    printed: str
    computed: str
    computed_exact: float
    verdict: str
    note: str


def is_published(study: Study) -> bool:
    """Return whether a study holds the published runs (by its name)."""
    return study.name == schema.PUBLISHED


def verdicts(study: Study, matrices: Matrices | None = None) -> tuple[Verdict, ...]:
    """Return a verdict on everything that thesis and article print, in the order of the papers.

    Parameters
    ----------
    study : the published runs, as `import_published` writes them
    matrices : confusion matrices of all its pairs, where the caller has read them already

    Raises
    ------
    AnalysisError, PairingError
        The study does not hold finished runs of both arms in pairs.
    """
    stated = {claim.id: claim.states for claim in claims() if claim.states is not None}
    facts = Recomputed(study, matrices, stated)
    facts.require_complete()
    return tuple(_verdict(claim, facts) for claim in claims())


def _verdict(claim: Claim, facts: Recomputed) -> Verdict:
    if claim.unavailable:
        return _of(claim, "", math.nan, NOT_REPRODUCIBLE, claim.unavailable)
    try:
        if claim.number is not None:
            return _on_number(claim, claim.number, facts)
        return _on_words(claim, facts)
    except AnalysisError as error:
        return _of(claim, "", math.nan, NOT_REPRODUCIBLE, f"not from these runs: {error}")


def _of(claim: Claim, computed: str, exact: float, verdict: str, *notes: str) -> Verdict:
    said = "; ".join(note for note in (*notes, claim.note) if note)
    return Verdict(claim.id, claim.place, claim.text, computed, exact, verdict, said)


def _on_number(claim: Claim, number: PrintedNumber, facts: Recomputed) -> Verdict:
    exact = facts.value(number.recompute)
    text = _joined(claim, [number.text(exact)], facts)
    other = _other_convention(number, facts, exact)
    if number.rounded(exact) == number.digits:
        return _of(claim, text, exact, EQUAL, other)
    away, unit = number.distance(exact), number.unit.difference
    if abs(away) <= number.reading_error:
        error = f"the reading may be off by {number.reading_error:g}{unit}"
        return _of(claim, text, exact, WITHIN, error, other)
    return _of(claim, text, exact, DIFFERS, f"computed less printed: {away:+.3g}{unit}", other)


def _other_convention(number: PrintedNumber, facts: Recomputed, exact: float) -> str:
    """Return, for a standard deviation, what dividing by n - 1 gives where it prints otherwise."""
    operand: Expression | None = number.recompute.get("sd")
    if operand is None:
        return ""
    sample = facts.value({"sample_sd": operand})
    if number.rounded(sample) == number.rounded(exact):
        return ""
    return f"n - 1 in place of n gives {number.text(sample)}"


def _on_words(claim: Claim, facts: Recomputed) -> Verdict:
    values = [facts.value(check.recompute) for check in claim.checks]
    text = _joined(claim, _found(claim.checks, values), facts)
    failed = [c.what for c, v in zip(claim.checks, values, strict=True) if not c.holds(v)]
    exact = values[0] if len(values) == 1 else math.nan
    if not failed:
        return _of(claim, text, exact, HOLDS)
    verdict = DIFFERS if len(failed) == len(values) else IN_PART
    return _of(claim, text, exact, verdict, f"does not hold: {'; '.join(failed)}")


def _joined(claim: Claim, found: list[str], facts: Recomputed) -> str:
    """Return what was found, from what, and what is told beside it."""
    first = "; ".join(found) + (f", {claim.basis}" if claim.basis else "")
    told = _found(claim.told, (facts.value(check.recompute) for check in claim.told))
    return "; ".join((first, *told))


def _found(checks: Iterable[Check], values: Iterable[float]) -> list[str]:
    return [f"{c.what}: {c.unit.text(v)}" for c, v in zip(checks, values, strict=True)]
