"""What the paper did not compute: optimism of the peak, corrected intervals, the label error."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

import numpy as np
import pandas as pd

from analysis.classes import paired_row
from analysis.matrices import Matrices
from analysis.pairs import Pairs, match_runs
from analysis.paper.study import ARMS, CLASSES, KEYS, N_TEST
from analysis.stats import corrected_t, holm
from analysis.stats.inputs import Floats
from analysis.study import Study
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError

OVERALL: Final = ("accuracy", "balanced_accuracy", "macro_f1", "mcc", "kappa")
INTERVAL_COLUMNS: Final = (
    "metric",
    "class",
    "first",
    "second",
    "difference",
    "ci_low",
    "ci_high",
    "p_value",
    "p_holm",
    "sign_p",
    "wins",
    "losses",
    "ties",
)


def optimism(study: Study) -> pd.DataFrame:
    """Return by how much the peak on the test set exceeds a fresh evaluation of the same network.

    The peak is the highest of many noisy evaluations (test images were cropped, flipped and turned
    at random); the re-evaluation is one more of them. The gap is the part of the optimism that this
    noise makes: the network was still chosen on its test set.

    Returns
    -------
    Rows `pretrained`, `scratch` and `advantage` (the first minus the second); columns peak,
    reevaluated, optimism (means over splits, fractions), ci_low, ci_high (corrected 95 % interval
    of the mean optimism) and lower (splits on which the re-evaluation is lower).

    Raises
    ------
    AnalysisError, PairingError
        The runs do not pair, or carry no re-evaluation.
    """
    pairs = match_runs(study, ARMS)
    peak = {arm: _column(study, pairs, arm, schema.PEAK_TEST_ACCURACY) for arm in ARMS}
    again = {arm: _column(study, pairs, arm, f"{schema.REEVALUATED}accuracy") for arm in ARMS}
    rows = {arm: _optimism(peak[arm], again[arm], pairs) for arm in ARMS}
    first, second = ARMS
    rows["advantage"] = _optimism(peak[first] - peak[second], again[first] - again[second], pairs)
    return pd.DataFrame.from_dict(rows, orient="index")


def _optimism(peak: Floats, again: Floats, pairs: Pairs) -> dict[str, float]:
    gap = corrected_t(peak, again, pairs.n_train, pairs.n_test)
    return {
        "peak": float(peak.mean()),
        "reevaluated": float(again.mean()),
        "optimism": gap.estimate,
        "ci_low": gap.ci_low,
        "ci_high": gap.ci_high,
        "lower": int((again < peak).sum()),
    }


def corrected_intervals(study: Study) -> pd.DataFrame:
    """Compare both arms with the corrected resampled t test, over metrics and over classes.

    Returns
    -------
    One row a metric and class, columns `INTERVAL_COLUMNS`: the peak, then the scores of the
    re-evaluation (class ""), then recall, precision and F1 of each class. Means over splits as
    fractions, their difference with its corrected 95 % interval and p-value, that p adjusted by
    Holm over the four classes within one score (nan where there is no family), the exact sign test
    and its counts. Scores that the runs do not carry have no row.

    Raises
    ------
    PairingError
        The runs do not pair.
    """
    pairs = match_runs(study, ARMS)
    rows = list(_rows(study, pairs))
    table = pd.DataFrame(rows, columns=[c for c in INTERVAL_COLUMNS if c != "p_holm"])
    table["p_holm"] = np.nan
    for _, family in table[table["class"] != ""].groupby("metric"):
        table.loc[family.index, "p_holm"] = holm(family["p_value"].to_numpy())
    return table[list(INTERVAL_COLUMNS)]


def _rows(study: Study, pairs: Pairs) -> Iterator[dict[str, Any]]:
    yield _row(study, pairs, schema.PEAK_TEST_ACCURACY, "")
    wanted = [(name, "") for name in OVERALL]
    wanted += [(score, c) for score in schema.PER_CLASS_SCORES for c in CLASSES]
    for metric, name in wanted:
        key = f"_{KEYS[CLASSES.index(name)]}" if name else ""
        column = f"{schema.REEVALUATED}{metric}{key}"
        if column in study.runs:
            yield _row(study, pairs, column, name)


def _row(study: Study, pairs: Pairs, column: str, name: str) -> dict[str, Any]:
    x, y = (_column(study, pairs, arm, column) for arm in ARMS)
    metric = column.removesuffix(f"_{KEYS[CLASSES.index(name)]}") if name else column
    return {"metric": metric, "class": name, **paired_row(x, y, pairs)}


def _column(study: Study, pairs: Pairs, arm: str, column: str) -> Floats:
    runs = study.runs.set_index("run_id")
    if column not in runs or runs[column].isna().any():
        raise AnalysisError(f"study {study.name}: not every run carries {column}")
    return pairs.run_ids[arm].map(runs[column]).to_numpy(np.float64)


def pictured_scores(matrices: Matrices) -> pd.DataFrame:
    """Return what article Table 4, an image, shows: precision, recall and F1 of each class.

    Returns
    -------
    One row a class and score: class, score, and for each arm mean_<arm> and sd_<arm> (with n) over
    the splits, as fractions; recomputed from the re-evaluation's confusion matrices.
    """
    scores = {arm: matrices.scores(arm) for arm in ARMS}
    rows = []
    for name, key in zip(matrices.classes, matrices.keys, strict=True):
        for score in ("precision", "recall", "f1"):
            row: dict[str, Any] = {"class": name, "score": score}
            for arm in ARMS:
                values = scores[arm][f"{score}_{key}"]
                row |= {f"mean_{arm}": values.mean(), f"sd_{arm}": values.std(ddof=0)}
            rows.append(row)
    return pd.DataFrame(rows)


def pictured_matrices(matrices: Matrices) -> pd.DataFrame:
    """Return what thesis Figure 4.9 shows: mean and SD over splits of the matrices' proportions.

    Returns
    -------
    One row a cell: arm, true, predicted, mean, sd (with n), as fractions of the true class.
    """
    rows = []
    for arm in ARMS:
        counts = matrices.by_arm[arm].astype(np.float64)
        shares = counts / counts.sum(axis=2, keepdims=True)
        mean, sd = shares.mean(axis=0), shares.std(axis=0)
        for i, true in enumerate(matrices.classes):
            for j, predicted in enumerate(matrices.classes):
                cell = {"arm": arm, "true": true, "predicted": predicted}
                rows.append(cell | {"mean": mean[i, j], "sd": sd[i, j]})
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class LabelError:
    """Galaxies of TType 11 and 12, which the paper's code counted as elliptical.

    Attributes
    ----------
    galaxies, of, ellipticals : how many, of all galaxies, and of the published ellipticals
    test_sets, agree_as_elliptical, agree_as_irr_misc : published test sets, and those whose class
        counts come out with either label; this is what proves the error
    """

    galaxies: int
    of: int
    ellipticals: int
    test_sets: int
    agree_as_elliptical: int
    agree_as_irr_misc: int
    source: str

    @property
    def in_a_test_set(self) -> float:
        """How many of them a test set holds on average."""
        return self.galaxies * N_TEST / self.of

    @property
    def sentence(self) -> str:
        """What is known of the error, and how much it can matter."""
        return (
            f"{self.galaxies} galaxies of TType 11 and 12, {_percent(self.galaxies / self.of)} % "
            f"of all and {_percent(self.galaxies / self.ellipticals)} % of the published "
            f"ellipticals, fit none of "
            f"the paper's label rules and were counted as elliptical: with that label the class "
            f"counts of {self.agree_as_elliptical} of {self.test_sets} published test sets come "
            f"out, with them as Irr+Misc those of {self.agree_as_irr_misc}. A test set holds "
            f"{self.in_a_test_set:.1f} of them on average, so that an accuracy averaged over the "
            f"splits can move by about {_percent(self.in_a_test_set / N_TEST)} points at most, "
            f"whatever the networks answered; what they answered for each is not public."
        )


def _percent(share: float) -> str:
    return f"{share * 100:.2f}"


def label_error() -> LabelError:
    """Return the label error of the published study, from the facts that the package ships."""
    text = (files("analysis.paper") / "data" / "printed.json").read_text(encoding="utf-8")
    return LabelError(**json.loads(text)["label_error"])
