"""Statistics for paired comparisons over repeated splits: pure functions of arrays."""

from __future__ import annotations

from analysis.stats.adjust import benjamini_hochberg, holm
from analysis.stats.bayes import Bayes, bayes_correlated_t
from analysis.stats.corrected import corrected_t, effective_splits
from analysis.stats.counts import mcnemar
from analysis.stats.effects import (
    Estimate,
    a12,
    cohen_dz,
    mean_difference,
    median_difference,
    prob_superiority,
    rank_biserial,
)
from analysis.stats.paired import paired_t, sign_test, sign_test_counts, wilcoxon
from analysis.stats.result import Result, format_p
from analysis.stats.sequential import Evidence, evidence_curve, sign_e_value
from analysis.stats.signflip import permutation
from analysis.stats.survival import KaplanMeier, kaplan_meier, rmst

__all__ = [
    "Bayes",
    "Estimate",
    "Evidence",
    "KaplanMeier",
    "Result",
    "a12",
    "bayes_correlated_t",
    "benjamini_hochberg",
    "cohen_dz",
    "corrected_t",
    "effective_splits",
    "evidence_curve",
    "format_p",
    "holm",
    "kaplan_meier",
    "mcnemar",
    "mean_difference",
    "median_difference",
    "paired_t",
    "permutation",
    "prob_superiority",
    "rank_biserial",
    "rmst",
    "sign_e_value",
    "sign_test",
    "sign_test_counts",
    "wilcoxon",
]
