"""The answers of all networks of a study, image by image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import pandas as pd

from analysis.predictions import probabilities, read_predictions
from analysis.study import Study
from galaxy_mlflow import schema

ANSWER_COLUMNS: Final = (schema.SPLIT, schema.ARM, "id", "true", "predicted", "confidence")
IMAGE_COLUMNS: Final = ("id", "true", "arm", "tested", "wrong", "answer", "times", "probability")
IMAGE: Final = ["id", "true"]
"""What tells one image from another."""
DIGITS: Final = 9
"""Of means: the order of adding must not decide what comes first."""


def all_answers(study: Study, arms: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the answers of all finished networks of some arms (None: all) to their test sets.

    Returns
    -------
    One row an answer, columns `ANSWER_COLUMNS`: split (int64), arm, id of the image, its class and
    the class that was answered (keys, str), and the probability of that answer; then one column
    p_<class> for the probability of each class. All are in [0, 1]. A run that has left no
    predictions has no rows.

    Raises
    ------
    AnalysisError
        A file of predictions is not one.
    """
    runs = study.runs[study.runs["status"] == schema.FINISHED]
    runs = runs[runs[schema.ARM].isin(list(arms or study.arms))]
    files = study.artifacts([str(run) for run in runs["run_id"]], schema.PREDICTIONS_FILE)
    parts = [
        _answers(files[run], schema.JobId("", int(split), str(arm)))
        for run, split, arm in runs[["run_id", schema.SPLIT, schema.ARM]].itertuples(index=False)
        if run in files
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=ANSWER_COLUMNS)


def image_table(answers: pd.DataFrame) -> pd.DataFrame:
    """Return what each arm's networks say of each image.

    Returns
    -------
    One row an image and arm, columns `IMAGE_COLUMNS`, sorted by id and arm: splits in which the
    image was `tested` and `wrong` (int64), the most frequent wrong `answer` ("" for none; of
    equally frequent ones the more probable, then the first by name), how many `times` it
    was given, and the mean `probability` of it then (nan for none).
    """
    key = [*IMAGE, schema.ARM]
    wrong = answers["predicted"] != answers["true"]
    found = answers.assign(wrong=wrong).groupby(key)["wrong"].agg(tested="size", wrong="sum")
    kinds = answers[wrong].groupby([*key, "predicted"])["confidence"].agg(["size", "mean"])
    kinds["mean"] = kinds["mean"].round(DIGITS)
    kinds = kinds.reset_index().sort_values(
        [*key, "size", "mean", "predicted"], ascending=[True, True, True, False, False, True]
    )
    names = {"predicted": "answer", "size": "times", "mean": "probability"}
    first = kinds.drop_duplicates(key).rename(columns=names).set_index(key)
    table = found.join(first).fillna({"answer": "", "times": 0}).astype({"times": "int64"})
    rows: pd.DataFrame = table.reset_index()[list(IMAGE_COLUMNS)]
    return rows


def _answers(content: bytes, job: schema.JobId) -> pd.DataFrame:
    table = read_predictions(content, f"{schema.PREDICTIONS_FILE} of {job.run_name}")
    found = table.reset_index().assign(split=job.split, arm=job.arm)
    return found[[*ANSWER_COLUMNS, *probabilities(table)]]
