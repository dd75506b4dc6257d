"""Figures of a study: each function draws data on axes, or builds a figure, and returns it.

No figure is opened or styled globally here. Importing this imports matplotlib.
"""

from __future__ import annotations

from analysis.figures.confusion import (
    FEW_CLASSES,
    confusion_matrices,
    draw_confusion,
    draw_confusion_spread,
)
from analysis.figures.curves import Lines, draw_mean_curves, run_curves, split_panel
from analysis.figures.distributions import (
    Differences,
    class_histograms,
    difference_histograms,
    draw_difference_histogram,
    value_histograms,
)
from analysis.figures.evidence import evidence_panels
from analysis.figures.learning import draw_learning_curve
from analysis.figures.paired import Interval, draw_differences, draw_slopes, forest_plot
from analysis.figures.reliability import reliability_diagrams
from analysis.figures.style import ARM_COLOURS, INK, fitted, lay_out, new_figure, save
from analysis.figures.survival import Waiting, survival_curves
from analysis.figures.trials import BestSoFar, draw_best_so_far

__all__ = [
    "ARM_COLOURS",
    "FEW_CLASSES",
    "INK",
    "BestSoFar",
    "Differences",
    "Interval",
    "Lines",
    "Waiting",
    "class_histograms",
    "confusion_matrices",
    "difference_histograms",
    "draw_best_so_far",
    "draw_confusion",
    "draw_confusion_spread",
    "draw_difference_histogram",
    "draw_differences",
    "draw_learning_curve",
    "draw_mean_curves",
    "draw_slopes",
    "evidence_panels",
    "fitted",
    "forest_plot",
    "lay_out",
    "new_figure",
    "reliability_diagrams",
    "run_curves",
    "save",
    "split_panel",
    "survival_curves",
    "value_histograms",
]
