"""What a trial of a tuning is worth: its metric on validation parts, and nothing of a test part."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from galaxy_mlflow import schema

Curves = Mapping[str, Sequence[float]]
"""Losses and accuracies of a run by name, one value an epoch."""
WORST = {schema.VAL_LOSS: 1e3, schema.VAL_ACCURACY: 0.0}
"""What a trial that diverged counts with, in every arm: a loss at which runs are given up, or 0."""


def values_by_epoch(curves: Sequence[Curves], metric: str) -> list[float]:
    """Return what a trial is worth after each of its epochs.

    That is the metric at the epoch selected so far, the one of lowest validation loss, as for
    every run; where the trial trains on several splits, the mean over those it has come to.

    Parameters
    ----------
    curves : of each split in turn; all but the last are whole
    metric : `val_loss` or `val_accuracy`
    """
    values: list[float] = []
    before = 0.0
    for place, curve in enumerate(curves):
        lowest, selected = math.inf, WORST[metric]
        for loss, value in zip(curve[schema.VAL_LOSS], curve[metric], strict=True):
            if loss < lowest:
                lowest, selected = loss, value
            values.append((before + selected) / (place + 1))
        before += selected
    return values
