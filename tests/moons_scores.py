"""ROC AUC, times 25, of two kernels in scikit-learn's "Statistical comparison of models using grid
search": 10 times 10-fold cross-validation on 100 moons, so 90 train and 10 test.

Computed by that example's code (auto_examples/model_selection/plot_grid_search_stats).
"""

from __future__ import annotations

_TEXT = """
23 18 19 23 25 25 25 25 24 25 24 25 25 23 21 23 25 25 20 25 20 23 22 23 25 25 22 23 25 25 20
24 21 25 25 25 25 24 23 25 25 23 25 23 25 19 25 25 25 25 25 21 25 25 25 18 23 25 25 25 23 23
25 25 20 22 25 23 24 25 24 23 21 23 25 25 25 22 23 23 25 23 24 25 18 25 25 25 25 19 24 22 25
18 23 25 24 25 25 21
24 21 19 23 25 24 24 25 23 25 23 24 24 22 20 24 25 25 20 25 21 24 21 25 25 24 21 22 25 25 21
23 21 25 24 25 25 23 22 25 24 23 25 23 25 19 25 23 25 25 25 20 24 24 25 17 24 23 25 25 23 23
25 20 21 22 24 23 24 25 24 22 20 21 25 24 25 23 23 23 24 25 23 25 17 25 25 25 25 19 24 23 25
19 23 25 23 23 25 21
"""
_SCORES = [int(score) / 25 for score in _TEXT.split()]
RBF, LINEAR = _SCORES[:100], _SCORES[100:]
