"""The confusion matrices that a study is compared on, one a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.pairs import Pairs
from analysis.study import Confusion, Study
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError, PairingError
from galaxy_mlflow.metrics import Matrix, metrics_from_confusion


@dataclass(frozen=True)
class Matrices:
    """Confusion matrices on the test sets, of every pair.

    Attributes
    ----------
    classes : names of the classes, in the order of rows (true) and columns (predicted)
    by_arm : int64 arrays of shape (J, n_classes, n_classes), in the order of the splits
    reevaluated : whether they come from showing the test set once more to a finished network,
        and not from the selected epoch itself
    """

    classes: tuple[str, ...]
    by_arm: Mapping[str, NDArray[np.int64]]
    reevaluated: bool

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the classes as they appear in metrics."""
        return schema.class_keys(self.classes)

    def scores(self, arm: str) -> pd.DataFrame:
        """Return the scores of `metrics_from_confusion`: one row a split, one column a score."""
        return pd.DataFrame([metrics_from_confusion(m, self.keys) for m in self.by_arm[arm]])


def class_matrices(study: Study, pairs: Pairs) -> Matrices | None:
    """Return the confusion matrices of all paired runs; None where no run has any.

    They are of the selected epoch, or of the re-evaluation where that is all there is.

    Raises
    ------
    AnalysisError
        Some runs have no matrix of their selected epoch.
    PairingError
        Runs have different classes.
    """
    run_ids = [str(run) for arm in pairs.arms for run in pairs.run_ids[arm]]
    confusions = study.confusions(run_ids)
    found = _selected(study, confusions) if confusions else _reevaluated(study, run_ids)
    if not confusions and not found:
        return None
    lacking = [run for run in run_ids if run not in found]
    if lacking:
        raise AnalysisError(
            f"{len(lacking)} run(s) have no confusion matrix of their selected epoch in "
            f"{schema.CONFUSION_FILE}: {', '.join(lacking[:5])}"
        )
    classes = _same_classes(found)
    by_arm = {
        arm: np.stack([_in_order(found[str(run)], classes) for run in pairs.run_ids[arm]])
        for arm in pairs.arms
    }
    return Matrices(classes, by_arm, reevaluated=not confusions)


Named = tuple[tuple[str, ...], Matrix]
"""A matrix and the names of its classes."""


def _selected(study: Study, confusions: Mapping[str, Confusion]) -> dict[str, Named]:
    selected = study.runs.set_index("run_id")[schema.SELECTED_EPOCH]
    return {
        run: (confusion.classes, confusion.epochs[int(selected[run])])
        for run, confusion in confusions.items()
        if selected[run] in confusion.epochs
    }


def _reevaluated(study: Study, run_ids: list[str]) -> dict[str, Named]:
    texts = study.artifacts(run_ids, schema.REEVALUATED_FILE)
    return {run: _read(text, run) for run, text in texts.items()}


def _read(text: bytes, run: str) -> Named:
    try:
        content = json.loads(text)
        return tuple(content["classes"]), np.asarray(content["matrix"], dtype=np.int64)
    except (ValueError, KeyError, TypeError) as error:
        where = f"{schema.REEVALUATED_FILE} of run {run}"
        raise AnalysisError(f"{where}: not a confusion matrix ({error!r})") from None


def _same_classes(found: Mapping[str, Named]) -> tuple[str, ...]:
    """Return the classes of all matrices, in the order that the first of them has."""
    orders = list(dict.fromkeys(names for names, _ in found.values()))
    if len({frozenset(names) for names in orders}) > 1:
        listed = " and ".join(", ".join(names) for names in orders)
        raise PairingError(f"runs have different classes: {listed}")
    return orders[0]


def _in_order(named: Named, classes: tuple[str, ...]) -> Matrix:
    names, matrix = named
    order = [names.index(name) for name in classes]
    return matrix[np.ix_(order, order)]
