"""Predictions of two arms, image by image: pairing on the id, McNemar by split, reliability."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from bare_runs import read_back
from fixtures_analysis import ARMS, CLASSES, Writer
from numpy.typing import NDArray
from predicted_runs import Files, PredictionWriter, parquet
from small_study import job_of, load

from analysis.pairs import match_runs
from analysis.predictions import (
    MCNEMAR_COLUMNS,
    PairedPredictions,
    mcnemar_table,
    paired_predictions,
    reliability,
)
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError, PairingError
from galaxy_mlflow.metrics import expected_calibration_error

KEYS = schema.class_keys(CLASSES)
FIRST, SECOND = ARMS
SPLITS = 3
IMAGES = 40


def table_of(split: int, arm: str, images: int = IMAGES) -> pd.DataFrame:
    """Return predictions in the form a worker writes; true classes depend on the split alone."""
    true = np.random.default_rng(split).integers(0, len(KEYS), images)
    rng = np.random.default_rng([split, ARMS.index(arm)])
    scores = rng.random((images, len(KEYS))) + 0.3 * np.eye(len(KEYS))[true]
    chances = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
    table = {
        "id": [f"g{split:02d}{image:04d}" for image in range(images)],
        "true": [KEYS[k] for k in true],
        "predicted": [KEYS[k] for k in chances.argmax(1)],
    }
    return pd.DataFrame(table | {f"p_{key}": chances[:, k] for k, key in enumerate(KEYS)})


def all_files() -> dict[tuple[int, str], bytes]:
    return {(k, arm): parquet(table_of(k, arm)) for k in range(SPLITS) for arm in ARMS}


def predictions_of(store: Writer, files: Files) -> tuple[PairedPredictions, ...]:
    """Write a study with these files into the store, and read them as pairs."""
    study = read_back(PredictionWriter(store.folder, files), dict.fromkeys(ARMS, 1), SPLITS)
    return paired_predictions(study, match_runs(study, min_pairs=SPLITS))


@pytest.fixture(scope="module")
def predictions(writer: Writer) -> tuple[PairedPredictions, ...]:
    """Every split's predictions; those of one run are in another order."""
    shuffled = table_of(1, SECOND).sample(frac=1, random_state=1)
    files = all_files() | {(1, SECOND): parquet(shuffled)}
    return predictions_of(writer, files)


def test_predictions_are_matched_on_the_image(predictions: tuple[PairedPredictions, ...]) -> None:
    assert [pair.split for pair in predictions] == list(range(SPLITS))
    for pair in predictions:
        assert list(pair.table.columns) == [
            "id",
            "true",
            f"predicted_{FIRST}",
            f"confidence_{FIRST}",
            f"predicted_{SECOND}",
            f"confidence_{SECOND}",
        ]
        for arm in ARMS:
            wanted = table_of(pair.split, arm)
            assert list(pair.table["id"]) == list(wanted["id"])
            assert list(pair.table[f"predicted_{arm}"]) == list(wanted["predicted"])
            assert list(pair.right(arm)) == list(wanted["true"] == wanted["predicted"])
            highest = wanted[[f"p_{key}" for key in KEYS]].max(axis=1)
            assert pair.table[f"confidence_{arm}"].to_numpy() == pytest.approx(highest.to_numpy())


def test_mcnemar_stands_for_each_split_by_itself(
    predictions: tuple[PairedPredictions, ...],
) -> None:
    found = mcnemar_table(predictions, (FIRST, SECOND))
    assert tuple(found.columns) == MCNEMAR_COLUMNS
    assert list(found["split"]) == list(range(SPLITS))
    assert found["only_first"].sum() > 0
    for pair, (_, row) in zip(predictions, found.iterrows(), strict=True):
        first, second = pair.right(FIRST), pair.right(SECOND)
        assert row["only_first"] == (first & ~second).sum()
        assert row["only_second"] == (second & ~first).sum()
        differing = int(row["only_first"] + row["only_second"])
        exact = scipy.stats.binomtest(int(row["only_first"]), differing).pvalue
        assert row["p_value"] == pytest.approx(exact)
        assert row["mid_p"] < row["p_value"]
    smallest = found["p_value"].min()
    assert found["p_holm"].min() == pytest.approx(min(1, SPLITS * smallest))


def test_swapping_the_arms_swaps_the_counts(predictions: tuple[PairedPredictions, ...]) -> None:
    found = mcnemar_table(predictions, (FIRST, SECOND))
    turned = mcnemar_table(predictions, (SECOND, FIRST))
    assert list(turned["only_first"]) == list(found["only_second"])
    assert list(turned["p_holm"]) == list(found["p_holm"])


def test_arms_that_answer_alike_have_a_p_of_one() -> None:
    table = table_of(0, FIRST)
    same = pd.DataFrame(
        {
            "id": table["id"],
            "true": table["true"],
            f"predicted_{FIRST}": table["predicted"],
            f"predicted_{SECOND}": table["predicted"],
        }
    )
    row = mcnemar_table([PairedPredictions(0, same)], (FIRST, SECOND)).iloc[0]
    assert (row["only_first"], row["only_second"], row["p_value"]) == (0, 0, 1)


def test_a_study_without_predictions_has_none(writer: Writer) -> None:
    assert predictions_of(writer, {}) == ()
    assert mcnemar_table((), (FIRST, SECOND)).empty


def test_a_run_without_predictions_among_runs_with_them_is_named(writer: Writer) -> None:
    files = all_files()
    del files[2, SECOND]
    with pytest.raises(AnalysisError, match=rf"1 run\(s\).*split-002/{SECOND}"):
        predictions_of(writer, files)


def test_predictions_of_other_images_are_refused(writer: Writer) -> None:
    table = table_of(2, SECOND)
    table.loc[0, "id"] = "elsewhere"
    with pytest.raises(PairingError) as refused:
        predictions_of(writer, all_files() | {(2, SECOND): parquet(table)})
    message = str(refused.value)
    assert message.startswith("split 2: ")
    assert f"1 only in {FIRST} (such as g020000)" in message
    assert f"1 only in {SECOND} (such as elsewhere)" in message


def test_predictions_of_fewer_images_are_refused(writer: Writer) -> None:
    short = parquet(table_of(1, FIRST).head(IMAGES - 3))
    with pytest.raises(PairingError, match=rf"split 1: .* 0 only in {FIRST}, 3 only in {SECOND}"):
        predictions_of(writer, all_files() | {(1, FIRST): short})


def test_other_true_classes_are_refused(writer: Writer) -> None:
    table = table_of(2, FIRST)
    other = KEYS[1] if table.loc[7, "true"] == KEYS[0] else KEYS[0]
    table.loc[7, "true"] = other
    with pytest.raises(PairingError, match=rf"split 2: .* 1 image.*g020007 is {other} in one"):
        predictions_of(writer, all_files() | {(2, FIRST): parquet(table)})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not a table", "not a Parquet file"),
        (parquet(table_of(0, FIRST).drop(columns="true")), "no column true"),
        (parquet(table_of(0, FIRST).drop(columns=f"p_{KEYS[2]}")), f"no column p_{KEYS[2]}"),
        (parquet(pd.concat([table_of(0, FIRST)] * 2)), "the image g000000 is in it twice"),
    ],
)
def test_a_file_that_is_not_one_is_named(writer: Writer, content: bytes, words: str) -> None:
    with pytest.raises(AnalysisError, match=rf"selected\.parquet of split-000/{FIRST}: {words}"):
        predictions_of(writer, all_files() | {(0, FIRST): content})


def test_what_a_worker_writes_is_read(writer: Writer, tmp_path: Path) -> None:
    from galaxy_mlflow.run_files import write_predictions
    from galaxy_mlflow.train import Trainer

    study, data = load(tmp_path / "small", "training.epochs=1")
    files: dict[tuple[int, str], bytes] = {}
    selected = {}
    for arm, theirs in zip(ARMS, ("one", "two"), strict=True):
        trainer = Trainer(job_of(study, data, theirs))
        list(trainer.epochs())
        selected[arm] = trainer.summary()[schema.SELECTED_TEST_ACCURACY]
        content = write_predictions(trainer, tmp_path / theirs).read_bytes()
        files |= {(split, arm): content for split in range(SPLITS)}
    found = predictions_of(writer, files)
    for arm in ARMS:
        assert found[0].right(arm).mean() == pytest.approx(selected[arm])
        assert found[0].table[f"confidence_{arm}"].between(1 / 3 - 1e-6, 1).all()


def drawn(n: int = 500) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    rng = np.random.default_rng(3)
    confidence = rng.uniform(0.25, 1, n)
    return confidence, rng.random(n) < confidence**2


@pytest.mark.parametrize("bins", [1, 3, 10, 15])
def test_reliability_adds_up_to_the_calibration_error(bins: int) -> None:
    confidence, correct = drawn()
    confidence[:4] = [0.0, 0.2, 0.6, 1.0]  # on edges
    found = reliability(confidence, correct, bins)
    assert len(found) == bins
    assert found["n"].sum() == len(confidence)
    gaps = found["n"] * (found["accuracy"] - found["confidence"]).abs()
    error = expected_calibration_error(confidence, correct, bins)
    assert gaps.sum() / len(confidence) == pytest.approx(error)


def test_bins_hold_their_upper_edge_and_empty_ones_stay_empty() -> None:
    found = reliability([0.0, 0.5, 0.5, 0.75], [1, 1, 0, 1], bins=4)
    assert list(found["low"]) == [0, 0.25, 0.5, 0.75]
    assert list(found["n"]) == [1, 2, 1, 0]
    assert list(found["accuracy"][:3]) == [1, 0.5, 1]
    assert found["accuracy"].isna().tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("confidence", "correct", "bins", "words"),
    [
        ([0.5, 1.2], [1, 0], 10, "outside"),
        ([0.5, np.nan], [1, 0], 10, "outside"),
        ([0.5], [1, 0], 10, r"shape \(1,\) and correct \(2,\)"),
        ([0.5], [1], 0, "bins is 0"),
    ],
)
def test_reliability_refuses_what_is_no_probability(
    confidence: list[float], correct: list[int], bins: int, words: str
) -> None:
    with pytest.raises(AnalysisError, match=words):
        reliability(confidence, correct, bins)


def test_reliability_of_no_image_is_empty_bins() -> None:
    assert reliability([], [])["n"].sum() == 0
