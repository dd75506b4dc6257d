from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fixtures_analysis import ARMS, CLASSES, COUNTS, EPOCHS, Job, matrices
from matplotlib.figure import Figure

from analysis import Study, compare
from analysis.figures import draw_confusion, draw_differences, draw_mean_curves
from analysis.pairs import match_runs
from analysis.report import write_report
from analysis.stats import corrected_t, holm
from analysis.tables import arm_table, class_counts, class_table, selected_matrices
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError

VOID = {"meta", "img", "br", "hr", "link"}


class Balance(HTMLParser):
    """Fail where a tag is closed that is not the open one."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Open a tag."""
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the tag opened last."""
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def report(demo: Study, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write the report of the study `demo`."""
    path = write_report(demo, tmp_path_factory.mktemp("report") / "new" / "report.html")
    return path.read_text(encoding="utf-8")


def test_the_report_is_one_file_that_refers_to_nothing_outside(report: str) -> None:
    assert "http" not in report
    assert not re.findall(r"<(script|link|iframe|object)\b", report)
    assert set(re.findall(r'(?:src|href)="(#|data:|.)', report)) == {"#", "data:"}
    assert set(re.findall(r"url\((.)", report)) <= {"#"}


def test_every_tag_of_the_report_is_closed_in_order(report: str) -> None:
    balance = Balance()
    balance.feed(report)
    assert balance.open == []


def test_the_report_answers_the_question_with_the_numbers_of_the_comparison(
    report: str, demo: Study
) -> None:
    c = compare(demo)
    assert "<h1>Does pretraining help?</h1>" in report
    assert "pretrained has the higher test accuracy at the selected epoch, on 8 of 8" in report
    assert f"{100 * c.mean_difference:+.2f} points" in report
    for test in c.tests.values():
        assert test.p_text in report
    for note in c.notes:
        assert note.replace("'", "&#39;") in report


def test_the_report_shows_samples_counts_curves_classes_matrices_and_origin(report: str) -> None:
    assert "data:image/png;base64,iVBOR" in report
    assert report.count("<svg") == 5  # differences, accuracy, loss, a matrix an arm
    for name in CLASSES:
        assert name in report
    for fact in ("val_loss", "16 finished", "d" * 12, "700 training, 100 validation, 200 test"):
        assert fact in report


def test_texts_from_the_runs_are_escaped(report: str, demo: Study, tmp_path: Path) -> None:
    assert "Does &lt;b&gt;pretraining&lt;/b&gt; help?" in report  # from study.toml
    hostile = replace(demo, question="<script>alert(1)</script>")
    text = write_report(hostile, tmp_path / "r.html").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)" in text


def test_the_same_runs_give_the_same_bytes(report: str, demo: Study, tmp_path: Path) -> None:
    assert write_report(demo, tmp_path / "again.html").read_text() == report


def test_the_file_appears_whole_and_nothing_is_left_beside_it(demo: Study, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")
    with pytest.raises(AnalysisError, match="no metric"):
        write_report(demo, target, "nonsense")
    assert target.read_text() == "old"
    write_report(demo, target)
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_or_an_impossible_path_is_refused(demo: Study, tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="is a folder"):
        write_report(demo, tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(AnalysisError, match="cannot be written"):
        write_report(demo, tmp_path / "file" / "report.html")


def test_a_report_of_three_splits_says_there_are_not_enough(demo: Study, tmp_path: Path) -> None:
    few = replace(demo, runs=demo.runs[demo.runs["split"] < 3].reset_index(drop=True))
    assert "Not enough pairs (3 of 6)" in write_report(few, tmp_path / "r.html").read_text()


def test_class_table_compares_recall_at_the_selected_epoch_with_holm_over_the_classes(
    demo: Study,
) -> None:
    pairs = match_runs(demo)
    table = class_table(selected_matrices(demo, pairs), pairs)
    assert len(table) == 3 * len(CLASSES)
    recall = table[table["score"] == "recall"].set_index("class")
    truth = {
        arm: np.array([matrices(Job(k, arm))[EPOCHS - 2][2, 2] / COUNTS[2] for k in range(8)])
        for arm in ARMS
    }
    assert recall.at["Spiral", "first"] == pytest.approx(truth["pretrained"].mean())
    test = corrected_t(truth["pretrained"], truth["scratch"], 700, 200)
    assert recall.at["Spiral", "p_value"] == pytest.approx(test.p_value)
    assert recall["p_holm"].tolist() == pytest.approx(holm(recall["p_value"]).tolist())


def test_a_class_whose_scores_never_differ_has_no_p_and_does_not_count_for_holm(
    demo: Study,
) -> None:
    pairs = match_runs(demo)
    found = selected_matrices(demo, pairs)
    for stack in found.by_arm.values():
        stack[:, 3, :] = [0, 0, 0, 5]
    recall = class_table(found, pairs).query("score == 'recall'").set_index("class")
    assert recall.at["Irr+Misc", "p_value"] == 1
    assert recall.at["Irr+Misc", "difference"] == 0


def test_class_counts_are_of_the_test_sets(demo: Study) -> None:
    counts = class_counts(selected_matrices(demo, match_runs(demo)))
    assert counts["mean"].tolist() == COUNTS.tolist()
    assert counts["share"].sum() == pytest.approx(1)


def test_arm_table_reads_test_accuracy_in_all_three_ways(demo: Study) -> None:
    table = arm_table(demo, match_runs(demo)).set_index("arm")
    mine = demo.runs[demo.runs["arm"] == "scratch"]
    assert table.at["scratch", "peak"] == pytest.approx(mine[schema.PEAK_TEST_ACCURACY].mean())
    assert table.at["scratch", "last"] == pytest.approx(mine[schema.LAST_TEST_ACCURACY].mean())
    assert table.at["scratch", "epochs"] == EPOCHS
    assert table.at["scratch", "hours"] == pytest.approx(8 * 7.5 / 3600)


def test_a_run_without_its_confusion_matrix_is_named(demo: Study) -> None:
    late = replace(demo, runs=demo.runs.assign(selected_epoch=99.0))
    with pytest.raises(AnalysisError, match=r"16 run\(s\) have no confusion matrix"):
        selected_matrices(late, match_runs(late))


def test_figures_draw_on_the_axes_they_are_given_and_survive_odd_names(demo: Study) -> None:
    from analysis.curves import mean_curves

    figure = Figure(figsize=(6, 3))
    left, middle, right = figure.subplots(1, 3)
    c = compare(demo)
    d = (c.values["pretrained"] - c.values["scratch"]).to_numpy()
    curves = mean_curves(demo, match_runs(demo), "test_loss")
    assert draw_mean_curves(curves, left) is left
    assert len(left.get_lines()) == 2
    assert draw_differences(c.splits, d, c.tests["corrected_t"], middle) is middle
    assert draw_confusion([[8, 2], [0, 0]], ["a$b", "<c>"], right) is right
    assert [text.get_text() for text in right.texts][:2] == ["80.0 %\n8.0", "20.0 %\n2.0"]
    figure.canvas.draw()
