"""From runs on a tracking server to paired comparisons that a referee accepts."""

from __future__ import annotations

from analysis.compare import Comparison, compare
from analysis.learning_curve import learning_curve
from analysis.mistakes import Mistakes, find_mistakes
from analysis.query import load_study
from analysis.study import Study

__all__ = [
    "Comparison",
    "Mistakes",
    "Study",
    "compare",
    "find_mistakes",
    "learning_curve",
    "load_study",
]
