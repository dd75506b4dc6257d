from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fixtures_analysis import ARMS, CLASSES, COUNTS, EPOCHS, Job, Writer, matrices

from analysis import Study, compare, load_study
from analysis.classes import class_counts, class_table
from analysis.compare import Question
from analysis.matrices import Matrices, class_matrices
from analysis.pairs import Pairs, match_runs
from analysis.report import write_report
from analysis.stats import corrected_t, holm
from analysis.tables import arm_table
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError, PairingError

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


def required(study: Study, pairs: Pairs) -> Matrices:
    """Return the matrices of a study that has them."""
    matrices = class_matrices(study, pairs)
    assert matrices is not None
    return matrices


@pytest.fixture(scope="module")
def report(demo: Study, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write the report of the study `demo`."""
    path = write_report(demo, tmp_path_factory.mktemp("report") / "new" / "report.html")
    return path.read_text(encoding="utf-8")


def test_the_report_is_one_file_that_refers_to_nothing_outside(report: str) -> None:
    words = re.sub(r"data:image/[^\"')]+", "", report)  # any four letters may stand in a picture
    assert len(words) < len(report)
    assert "http" not in words
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
    shown = set(re.findall(r'<figure id="([^"]+)"', report))
    assert {"differences", "slopes", "forest", "mean-curves", "run-curves", "evidence"} <= shown
    assert {"peak-accuracy", "class-recall", "confusion-mean", "confusion-sd"} <= shown
    assert len(shown) == report.count("<svg")
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
        write_report(demo, target, Question(metric="nonsense"))
    assert target.read_text() == "old"
    write_report(demo, target)
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_or_an_impossible_path_is_refused(demo: Study, tmp_path: Path) -> None:
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(AnalysisError, match="is a folder"):
        write_report(demo, tmp_path / "folder.html")
    (tmp_path / "file").write_text("")
    with pytest.raises(AnalysisError, match="is a file"):
        write_report(demo, tmp_path / "file")
    with pytest.raises(AnalysisError, match="cannot be written"):
        write_report(demo, tmp_path / "file" / "report.html")


def test_a_report_of_three_splits_is_refused_or_says_there_are_not_enough(
    demo: Study, tmp_path: Path
) -> None:
    few = replace(demo, runs=demo.runs[demo.runs["split"] < 3].reset_index(drop=True))
    with pytest.raises(PairingError, match="at least 6 needed"):
        write_report(few, tmp_path / "r.html")
    page = write_report(few, tmp_path / "r.html", Question(min_pairs=3))
    assert "Not enough pairs (3 of 6)" in page.read_text()


def test_a_folder_gets_the_page_the_latex_tables_and_every_figure_in_three_forms(
    demo: Study, tmp_path: Path
) -> None:
    page = write_report(demo, tmp_path / "out")
    assert page == tmp_path / "out" / "report.html"
    shown = set(re.findall(r'<figure id="([^"]+)"', page.read_text()))
    forms = {path.name for path in (tmp_path / "out" / "figures").iterdir()}
    assert forms == {f"{name}.{form}" for name in shown for form in ("svg", "pdf", "png")}
    tables = {path.stem for path in (tmp_path / "out" / "tables").iterdir()}
    assert {"comparison", "difference", "tests", "class-recall", "training", "facts"} <= tables
    latex = (tmp_path / "out" / "tables" / "class-recall.tex").read_text()
    assert latex.startswith(r"\begin{tabular}{lrrrrrr}")
    assert latex.count(r"\\") == 1 + len(CLASSES)


def test_a_report_of_three_arms_compares_all_pairs(writer: Writer, tmp_path: Path) -> None:
    writer.study("trio", [Job(k, arm) for k in range(6) for arm in (*ARMS, "frozen")])
    page = write_report(load_study("trio", writer.uri), tmp_path / "r.html").read_text()
    for pair in ("pretrained minus scratch", "pretrained minus frozen", "scratch minus frozen"):
        assert f"<td>{pair}</td>" in page


def test_a_report_leaves_out_a_failed_run_and_says_so(demo: Study, tmp_path: Path) -> None:
    runs = demo.runs.copy()
    runs.loc[3, "status"] = schema.FAILED
    lacking = replace(demo, runs=runs)
    with pytest.raises(PairingError, match="split-001/scratch: failed"):
        write_report(lacking, tmp_path / "r.html")
    page = write_report(lacking, tmp_path / "r.html", Question(allow_unfinished=True)).read_text()
    assert "1 (scratch failed)" in page
    assert "15 finished, 1 failed" in page


def test_a_report_without_matrices_or_predictions_says_what_it_cannot_show(
    writer: Writer, tmp_path: Path
) -> None:
    writer.study("bare", [Job(k, arm, artifacts=False) for k in range(6) for arm in ARMS])
    page = write_report(load_study("bare", writer.uri), tmp_path / "r.html").read_text()
    assert "Classes are not compared" in page
    assert "it does not apply here" in page
    assert "reliability:" in page


def test_class_table_compares_recall_at_the_selected_epoch_with_holm_over_the_classes(
    demo: Study,
) -> None:
    pairs = match_runs(demo)
    table = class_table(required(demo, pairs), pairs)
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
    found = required(demo, pairs)
    for stack in found.by_arm.values():
        stack[:, 3, :] = [0, 0, 0, 5]
    recall = class_table(found, pairs).query("score == 'recall'").set_index("class")
    assert recall.at["Irr+Misc", "p_value"] == 1
    assert recall.at["Irr+Misc", "difference"] == 0


def test_class_counts_are_of_the_test_sets(demo: Study) -> None:
    counts = class_counts(required(demo, match_runs(demo)))
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
        class_matrices(late, match_runs(late))


def test_a_report_of_ties_only_claims_nothing(demo: Study, tmp_path: Path) -> None:
    tied = replace(demo, runs=demo.runs.assign(peak_test_accuracy=0.8))
    question = Question(metric="peak_test_accuracy")
    page = write_report(tied, tmp_path / "r.html", question).read_text()
    assert "pretrained and scratch have the same peak test accuracy on each of 8 splits" in page
    assert "has the higher peak test accuracy" not in page
    assert not re.search(r">[^<]*\b(nan|inf)\b[^<]*<", page)
