"""Statistics for paired comparisons over repeated splits, on numpy and scipy alone."""

from __future__ import annotations

from analysis.stats.adjust import benjamini_hochberg, holm
from analysis.stats.corrected import corrected_t, effective_splits
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

__all__ = [
    "Estimate",
    "Result",
    "a12",
    "benjamini_hochberg",
    "cohen_dz",
    "corrected_t",
    "effective_splits",
    "format_p",
    "holm",
    "mean_difference",
    "median_difference",
    "paired_t",
    "prob_superiority",
    "rank_biserial",
    "sign_test",
    "sign_test_counts",
    "wilcoxon",
]
