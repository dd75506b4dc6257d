"""Two arms image by image: predictions on one test set, McNemar's test, reliability.

A split's two runs saw the same test set, so their answers pair on the image's id. Test sets of
different splits overlap: each split has its own table, and nothing here pools them.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from analysis.pairs import Pairs
from analysis.stats import holm, mcnemar
from analysis.study import Study
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError, PairingError

MCNEMAR_COLUMNS: Final = ("split", "only_first", "only_second", "p_value", "mid_p", "p_holm")
RELIABILITY_COLUMNS: Final = ("low", "high", "n", "confidence", "accuracy")
PROBABILITY: Final = "p_"
"""Prefix of the column with the probability of a class."""
_COLUMNS: Final = ("id", "true", "predicted")


@dataclass(frozen=True, eq=False)
class PairedPredictions:
    """The answers of both arms to the test set of one split, at each run's selected epoch.

    Attributes
    ----------
    split : number of the split
    table : one row an image, sorted by id; columns id, true (class keys, str), and for each arm
        predicted_<arm> (class key) and confidence_<arm> (float64 in [0, 1], the probability that
        the arm gave its answer)
    """

    split: int
    table: pd.DataFrame = field(repr=False)

    def right(self, arm: str) -> pd.Series[bool]:
        """Return whether the arm's answer to each image is right."""
        return self.table[f"predicted_{arm}"] == self.table["true"]


def paired_predictions(study: Study, pairs: Pairs) -> tuple[PairedPredictions, ...]:
    """Return the predictions of every pair, matched on the image's id; () where no run has any.

    Raises
    ------
    AnalysisError
        Only some of the runs have predictions, or a file of them is not one.
    PairingError
        The two runs of a split have predicted other images, or disagree on their true classes.
    """
    run_ids = [str(run) for arm in pairs.arms for run in pairs.run_ids[arm]]
    files = study.artifacts(run_ids, schema.PREDICTIONS_FILE)
    if not files:
        return ()
    _refuse_lacking(pairs, set(files))
    return tuple(
        PairedPredictions(split, _paired(split, {arm: files[str(row[arm])] for arm in pairs.arms}))
        for split, (_, row) in zip(pairs.splits, pairs.run_ids.iterrows(), strict=True)
    )


def mcnemar_table(predictions: Sequence[PairedPredictions], arms: tuple[str, str]) -> pd.DataFrame:
    """Test on each split by itself whether both arms are right on equally many images.

    Its null is that an image on which only one arm is right is as likely the first's as the
    second's (McNemar 1947): about these two trained networks, not about the ways they were
    trained. Splits share test images, so counts are never added up over splits.

    Returns
    -------
    One row a split, columns `MCNEMAR_COLUMNS`: images on which only the first or only the second
    arm is right, the exact p-value, the mid-p, and the exact p-values adjusted by Holm over the
    splits. No predictions: no rows.
    """
    rows = [_mcnemar_row(each, arms) for each in predictions]
    table = pd.DataFrame(rows, columns=list(MCNEMAR_COLUMNS[:-1]))
    return table.assign(p_holm=holm(table["p_value"]) if rows else [])


def reliability(confidence: ArrayLike, correct: ArrayLike, bins: int = 10) -> pd.DataFrame:
    """Return the points of a reliability diagram (Guo et al. 2017, section 2), equal-width bins.

    Parameters
    ----------
    confidence : probability of the predicted class, shape (n,), in [0, 1]
    correct : whether the prediction is right, shape (n,)
    bins : number of bins, at least 1; each is (low, high], and the first holds 0 too

    Returns
    -------
    One row a bin, columns `RELIABILITY_COLUMNS`: its edges, its images n (int64), their mean
    confidence and the share that is right (nan where a bin is empty). Weighted by n, the gaps
    between the last two add up to `galaxy_mlflow.metrics.expected_calibration_error`.

    Raises
    ------
    AnalysisError
        Lengths differ, a confidence lies outside [0, 1], or there is no bin.
    """
    sure, right = np.asarray(confidence, np.float64), np.asarray(correct, np.float64)
    _check_confidence(sure, right, bins)
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, sure, side="left") - 1, 0, bins - 1)
    images = pd.DataFrame({"confidence": sure, "accuracy": right}).groupby(index)
    means = images.mean().reindex(range(bins))
    n = images.size().reindex(range(bins), fill_value=0).astype(np.int64)
    return means.assign(low=edges[:-1], high=edges[1:], n=n)[list(RELIABILITY_COLUMNS)]


def read_predictions(content: bytes, where: str) -> pd.DataFrame:
    """Return the rows of a file of predictions.

    Parameters
    ----------
    where : what messages call the file

    Returns
    -------
    Index id (str), sorted; columns true and predicted (class keys, str), p_<class> for each class
    (float32 in [0, 1]), and confidence: the probability of the answer (float64).

    Raises
    ------
    AnalysisError
        It is not a Parquet file, lacks a column, or holds an image twice.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(io.BytesIO(content)).to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise AnalysisError(f"{where}: not a Parquet file ({error})") from None
    named = (key for column in ("predicted", "true") for key in table.get(column, ()))
    wanted = [*_COLUMNS, *(PROBABILITY + str(key) for key in named)]
    lacking = sorted(set(wanted) - set(table.columns))
    if lacking:
        raise AnalysisError(f"{where}: no column {', '.join(lacking)}")
    if table["id"].duplicated().any():
        twice = table.loc[table["id"].duplicated(), "id"].iloc[0]
        raise AnalysisError(f"{where}: the image {twice} is in it twice")
    confidence = probability_of(table, "predicted")
    rows: pd.DataFrame = table.assign(confidence=confidence).set_index("id").sort_index()
    return rows


def probabilities(table: pd.DataFrame) -> list[str]:
    """Return the names of the columns p_<class>."""
    return [str(name) for name in table if str(name).startswith(PROBABILITY)]


def probability_of(table: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """Return row by row the probability of the class that a column names, from p_<class>."""
    probability = np.zeros(len(table))
    for key in table[column].unique():
        mine = (table[column] == key).to_numpy()
        probability[mine] = table.loc[mine, f"{PROBABILITY}{key}"]
    return probability


def _mcnemar_row(pair: PairedPredictions, arms: tuple[str, str]) -> dict[str, float]:
    first, second = (pair.right(arm) for arm in arms)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    test = mcnemar(only_first, only_second)
    counts = {"split": pair.split, "only_first": only_first, "only_second": only_second}
    return {**counts, "p_value": test.p_value, "mid_p": test.detail["mid_p"]}


def _refuse_lacking(pairs: Pairs, having: set[str]) -> None:
    lacking = [
        f"{schema.JobId('', split, arm).run_name} ({run})"
        for arm in pairs.arms
        for split, run in zip(pairs.splits, pairs.run_ids[arm], strict=True)
        if str(run) not in having
    ]
    if lacking:
        raise AnalysisError(
            f"{len(lacking)} run(s) have no {schema.PREDICTIONS_FILE}, and the others have: "
            f"{', '.join(lacking[:5])}. Train them again, or leave their splits out"
        )


def _paired(split: int, files: dict[str, bytes]) -> pd.DataFrame:
    """Return the table of one split from the two files of its arms."""
    tables = {
        arm: read_predictions(content, f"{schema.PREDICTIONS_FILE} of {_run_name(split, arm)}")
        for arm, content in files.items()
    }
    _refuse_other_images(split, tables)
    _refuse_other_labels(split, tables)
    paired = next(iter(tables.values()))[["true"]].copy()
    for arm, table in tables.items():
        paired[f"predicted_{arm}"] = table["predicted"]
        paired[f"confidence_{arm}"] = table["confidence"]
    return paired.reset_index()


def _refuse_other_images(split: int, tables: dict[str, pd.DataFrame]) -> None:
    ids = {arm: set(table.index) for arm, table in tables.items()}
    (first, mine), (second, theirs) = ids.items()
    if mine != theirs:
        raise PairingError(
            f"split {split}: the runs of {first} and {second} predict other images: "
            f"{_only(first, mine - theirs)}, {_only(second, theirs - mine)}. "
            "Predictions are compared on the same test set only"
        )


def _refuse_other_labels(split: int, tables: dict[str, pd.DataFrame]) -> None:
    (first, mine), (second, theirs) = ((arm, table["true"]) for arm, table in tables.items())
    differing = mine.index[mine != theirs]
    if len(differing):
        image = differing[0]
        raise PairingError(
            f"split {split}: the runs of {first} and {second} disagree on the true class of "
            f"{len(differing)} image(s); {image} is {mine[image]} in one and {theirs[image]} in "
            "the other. Both must be trained on the same labels"
        )


def _only(arm: str, ids: set[str]) -> str:
    example = f" (such as {min(ids)})" if ids else ""
    return f"{len(ids)} only in {arm}{example}"


def _run_name(split: int, arm: str) -> str:
    return schema.JobId("", split, arm).run_name


def _check_confidence(sure: NDArray[np.float64], right: NDArray[np.float64], bins: int) -> None:
    if bins < 1:
        raise AnalysisError(f"bins is {bins}: at least 1 needed")
    if sure.ndim != 1 or sure.shape != right.shape:
        raise AnalysisError(
            f"confidence has shape {sure.shape} and correct {right.shape}: one of each an image"
        )
    if not ((sure >= 0) & (sure <= 1)).all():
        raise AnalysisError("confidence holds a value outside [0, 1]: it is a probability")
