"""The learning curve: its numbers against sums done by hand, its refusals, its figure."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bare_runs import BareWriter
from fixtures_analysis import Job
from matplotlib.collections import PolyCollection

from analysis import Study, compare, load_study
from analysis.compare import Question, compare_all
from analysis.curves import Reading, read_metric_name
from analysis.figures import ARM_COLOURS, draw_learning_curve, new_figure
from analysis.gallery import gallery
from analysis.learning_curve import (
    curve_points,
    labels_needed,
    learning_curve,
    print_differences,
    print_points,
)
from analysis.pairs import match_runs
from analysis.report import write_report
from analysis.stats import corrected_t, holm
from analysis.wording import PERCENT
from galaxy_mlflow import schema
from galaxy_mlflow.errors import PairingError

LABELS = (30, 100, 300)
N_POOL, N_TEST = 525, 180
MEANS = {"pretrained": (0.60, 0.72, 0.80), "scratch": (0.50, 0.66, 0.78)}
QUANTILE = 2.570581835636314
"""Of Student's t at 0.975 with 5 degrees of freedom, from a table."""


def accuracy(way: str, labels: int, split: int) -> float:
    """Return an accuracy with a known mean over six splits: the steps add up to nothing."""
    step = (0.03, -0.02, 0.01, -0.03, 0.02, -0.01)[(split + (way == "scratch")) % 6]
    return MEANS[way][LABELS.index(labels)] + step


class LabelWriter(BareWriter):
    """Writes runs of arms such as `scratch-100`, as a worker does for few labels."""

    def run(self, experiment: str, study: str, job: Job) -> str:
        way, _, labels = job.arm.rpartition("-")
        self.curves = {(job.split, job.arm): [accuracy(way, int(labels), job.split)]}
        self.sizes = (round(int(labels) * 7 / 8), N_TEST)
        run = super().run(experiment, study, job)
        self.client.log_param(run, schema.N_LABELS, labels)
        self.client.log_param(run, schema.N_POOL, N_POOL)
        return run

    def _tags(self, job: Job) -> dict[str, str]:
        arms = ",".join(f"{way}-{n}" for n in LABELS for way in MEANS)
        return super()._tags(job) | {schema.ARMS: arms}


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Load a study of two ways, three numbers of labels, six splits."""
    writer = LabelWriter(tmp_path_factory.mktemp("few"))
    writer.study("few", [Job(k, f"{way}-{n}") for k in range(6) for n in LABELS for way in MEANS])
    return load_study("few", writer.uri)


def reading_of(study: Study) -> Reading:
    return read_metric_name(study, "test_accuracy")


def test_each_point_is_the_mean_with_the_interval_of_the_corrected_variance(few: Study) -> None:
    points = curve_points(few, reading_of(few)).set_index("arm")
    steps = [0.03, -0.02, 0.01, -0.03, 0.02, -0.01]
    sd = math.sqrt(sum(step**2 for step in steps) / 5)
    half = QUANTILE * math.sqrt((1 / 6 + 180 / 525) * sd**2)
    for way, means in MEANS.items():
        for labels, mean in zip(LABELS, means, strict=True):
            point = points.loc[f"{way}-{labels}"]
            assert (point["way"], point["labels"], point["splits"]) == (way, labels, 6)
            assert (point["n_train"], point["n_pool"]) == (round(labels * 7 / 8), 525)
            assert point["mean"] == pytest.approx(mean)
            assert point["sd"] == pytest.approx(sd)
            assert point["ci_high"] - mean == pytest.approx(half)
            assert mean - point["ci_low"] == pytest.approx(half)


def test_differences_are_the_comparisons_with_holm_over_the_numbers_of_labels(few: Study) -> None:
    curve = learning_curve(few)
    assert curve is not None
    assert curve.ways == ("pretrained", "scratch")
    table = curve.differences
    assert table["labels"].tolist() == list(LABELS)
    for row in table.itertuples():
        c = compare(few, arms=(f"pretrained-{row.labels}", f"scratch-{row.labels}"))
        assert (row.difference, row.wins) == (c.mean_difference, c.wins)
        assert row.p_value == c.tests["corrected_t"].p_value
        assert (row.ci_low, row.ci_high) == (
            c.tests["corrected_t"].ci_low,
            c.tests["corrected_t"].ci_high,
        )
    assert table["p_holm"].tolist() == holm(table["p_value"]).tolist()
    assert table["difference"].tolist() == pytest.approx([0.10, 0.06, 0.02])


def test_the_labels_that_scratch_needs_lie_on_a_straight_line_over_log_labels(few: Study) -> None:
    curve = learning_curve(few)
    assert curve is not None
    by_hand = [
        30 * (100 / 30) ** ((0.60 - 0.50) / (0.66 - 0.50)),
        100 * 3 ** ((0.72 - 0.66) / (0.78 - 0.66)),
    ]
    assert curve.differences["needed"].tolist() == pytest.approx([*by_hand, math.inf])
    rows = print_differences(curve).rows
    assert [row[-1] for row in rows] == ["about 64", "about 170", "more than 300"]


def test_a_curve_that_begins_above_needs_no_more_than_its_first_number() -> None:
    labels, means = np.array([30.0, 100.0]), np.array([0.5, 0.7])
    assert labels_needed(labels, means, 0.4) == 30
    assert labels_needed(labels, means, 0.7) == pytest.approx(100)
    assert labels_needed(labels, means, 0.71) == math.inf


def test_lower_is_better_for_a_loss(few: Study) -> None:
    curve = learning_curve(few, Question(metric="test_loss"))
    assert curve is not None
    assert curve.differences["needed"].iloc[0] == pytest.approx(30 * (100 / 30) ** (0.10 / 0.16))


def test_arms_of_other_labels_make_no_pair_and_the_reason_is_said(few: Study) -> None:
    with pytest.raises(PairingError, match="different n_train") as caught:
        match_runs(few, ("pretrained-30", "scratch-100"))
    assert "compare arms of equal n_labels" in str(caught.value)
    assert [c.arms for c in compare_all(few, Question())] == [
        (f"pretrained-{n}", f"scratch-{n}") for n in LABELS
    ]


def test_every_corrected_test_of_few_labels_goes_by_the_pool(few: Study) -> None:
    c = compare(few, arms=("pretrained-100", "scratch-100"))
    x, y = (c.values[arm] for arm in c.arms)
    assert (c.n_train, c.n_pool) == (88, 525)
    assert c.tests["corrected_t"].p_value == corrected_t(x, y, 525, N_TEST).p_value
    assert any("88 of the 525 training images" in note for note in c.notes)
    assert "n_test/n_pool = 180/525" in c.to_text()


def test_an_ordinary_study_has_no_curve_and_its_pool_is_its_training_part(demo: Study) -> None:
    assert learning_curve(demo) is None
    pairs = match_runs(demo)
    assert (pairs.n_train, pairs.n_pool) == (700, 700)
    c = compare(demo)
    assert "n_test/n_train = 200/700" in c.to_text()
    pictures = gallery(demo, pairs, c)
    assert "learning-curve" not in {*pictures.missing, *(p.name for p in pictures.pictures)}


def test_a_single_split_has_a_point_without_an_interval(few: Study) -> None:
    one = Study(**{**public(few), "runs": few.runs[few.runs["split"] == 0]})
    points = curve_points(one, reading_of(one))
    assert points[["ci_low", "ci_high", "sd"]].isna().all(axis=None)
    assert points["mean"].notna().all()


def public(study: Study) -> dict[str, object]:
    """Return what a study is made of."""
    names = ("name runs arms question metric_names tags params source classes").split()
    return {name: getattr(study, name) for name in names}


def test_the_figure_has_a_line_a_band_and_a_name_for_each_way(few: Study) -> None:
    points = curve_points(few, reading_of(few))
    ax = draw_learning_curve(points, "test accuracy", PERCENT, new_figure().subplots())
    assert ax.get_xscale() == "log"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["30", "100", "300"]
    bands = [band for band in ax.collections if isinstance(band, PolyCollection)]
    for i, (way, mine) in enumerate(points.groupby("way")):
        line = next(line for line in ax.lines if line.get_label() == way)
        assert line.get_color() == ARM_COLOURS[i]
        assert np.asarray(line.get_ydata()) == pytest.approx(100 * mine["mean"].to_numpy())
        heights = bands[i].get_paths()[0].vertices[:, 1]
        assert heights.min() == pytest.approx(100 * mine["ci_low"].min())
        assert heights.max() == pytest.approx(100 * mine["ci_high"].max())
    assert {text.get_text() for text in ax.texts} == set(MEANS)


def test_names_of_lines_that_end_together_stand_apart() -> None:
    points = pd.DataFrame(
        [
            (f"way{i}", labels, 0.5 + labels / 1e3, 0.4, 0.9)
            for i in range(3)
            for labels in (30, 100)
        ],
        columns=["way", "labels", "mean", "ci_low", "ci_high"],
    )
    ax = draw_learning_curve(points, "test accuracy", PERCENT, new_figure().subplots())
    heights = sorted(text.xy[1] for text in ax.texts)
    assert np.diff(heights).min() > 0.07 * np.diff(ax.get_ylim())[0]


def test_the_report_has_the_section_the_figure_and_both_tables(few: Study, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    page = write_report(few, folder).read_text(encoding="utf-8")
    assert "<h2>How many labels</h2>" in page
    assert '<figure id="learning-curve"' in page
    assert "about 170" in page
    assert (folder / "figures" / "learning-curve.pdf").is_file()
    for name in ("learning-curve", "label-differences"):
        assert (folder / "tables" / f"{name}.tex").is_file()
    assert "<td>pretrained-30 minus scratch-30</td>" in page
    assert "pretrained-30 minus pretrained-100" not in page


def test_points_are_printed_in_percent_by_number_of_labels(few: Study) -> None:
    curve = learning_curve(few)
    assert curve is not None
    rows = print_points(curve).rows
    assert [row[:2] for row in rows[:2]] == [("30", "pretrained"), ("30", "scratch")]
    assert rows[0][3:] == ("26", "60.0 %", "55.7 % to 64.3 %")


def test_intervals_by_the_pool_hold_what_they_promise_with_few_labels() -> None:
    """Nearest means on Gaussian classes: 95 % of studies should hold the true accuracy."""
    rng = np.random.default_rng(3)
    centres = rng.normal(0, 0.7, (3, 6))

    def draw(n: int) -> tuple[np.ndarray, np.ndarray]:
        classes = rng.integers(0, 3, n)
        return centres[classes] + rng.normal(size=(n, 6)), classes

    def accuracy_of(train: tuple[np.ndarray, np.ndarray], test: tuple[np.ndarray, ...]) -> float:
        means = np.stack([train[0][train[1] == c].mean(axis=0) for c in range(3)])
        distance = ((test[0][:, None] - means) ** 2).sum(axis=-1)
        return float((distance.argmin(axis=1) == test[1]).mean())

    labels, n_test, n = 30, 180, 900
    truth = np.mean([accuracy_of(draw(labels), draw(2000)) for _ in range(400)])
    held = {"pool": 0, "own": 0}
    for _ in range(400):
        x, y = draw(n)
        found = []
        for _split in range(6):
            rows = rng.permutation(n)
            train, test = rows[n_test : n_test + labels], rows[:n_test]
            found.append(accuracy_of((x[train], y[train]), (x[test], y[test])))
        for name, size in (("pool", n - n_test), ("own", labels)):
            interval = corrected_t(found, np.zeros(6), size, n_test)
            held[name] += interval.ci_low <= truth <= interval.ci_high
    assert 0.93 < held["pool"] / 400 < 0.995
    assert held["own"] == 400  # by the few images themselves: far too wide
