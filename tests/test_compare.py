from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
from fixtures_analysis import ARMS, CLASSES, EPOCHS, Job, Writer, matrices

from analysis import Study, compare, load_study
from analysis.compare import Question, compare_all
from analysis.curves import mean_curves
from analysis.pairs import match_runs
from analysis.stats import corrected_t, holm
from analysis.tables import pairs_table
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError, PairingError

TESTS = ("corrected_t", "sign", "wilcoxon", "permutation", "paired_t")


def accuracy(epoch: int) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Test accuracy at one epoch of every split, by arm, from the matrices that were written."""
    return {
        arm: np.array(
            [np.trace(m) / m.sum() for m in (matrices(Job(k, arm))[epoch] for k in range(8))]
        )
        for arm in ARMS
    }


def test_the_default_is_test_accuracy_at_the_selected_epoch_under_the_honest_protocol(
    demo: Study,
) -> None:
    c, truth = compare(demo), accuracy(EPOCHS - 2)
    assert c.metric == "test_accuracy"
    for arm in ARMS:
        assert c.values[arm].tolist() == truth[arm].tolist()
    d = truth["pretrained"] - truth["scratch"]
    assert c.mean_difference == pytest.approx(d.mean())
    assert c.median_difference == pytest.approx(np.median(d))
    assert c.sd["scratch"] == pytest.approx(truth["scratch"].std(ddof=1))
    assert (c.wins, c.losses, c.ties) == ((d > 0).sum(), (d < 0).sum(), (d == 0).sum())


def test_the_corrected_test_uses_the_logged_sizes_of_training_and_test_part(demo: Study) -> None:
    c, truth = compare(demo), accuracy(EPOCHS - 2)
    assert c.tests["corrected_t"] == corrected_t(truth["pretrained"], truth["scratch"], 700, 200)
    naive = scipy.stats.ttest_rel(truth["pretrained"], truth["scratch"]).pvalue
    assert c.tests["paired_t"].p_value == pytest.approx(naive)
    assert c.tests["corrected_t"].p_value > naive


def test_the_default_is_the_peak_where_runs_select_on_the_test_set(demo: Study) -> None:
    paper = replace(demo, runs=demo.runs.assign(selected_on="test_accuracy"))
    c = compare(paper)
    assert c.metric == schema.PEAK_TEST_ACCURACY
    assert any("chosen on the test set itself" in note for note in c.notes)
    assert not any("chosen on the test set itself" in note for note in compare(demo).notes)


@pytest.mark.parametrize(
    ("name", "epoch"),
    [
        ("test_accuracy", EPOCHS - 2),
        ("selected_test_accuracy", EPOCHS - 2),
        ("last_test_accuracy", EPOCHS - 1),
    ],
)
def test_prefixes_choose_the_epoch(demo: Study, name: str, epoch: int) -> None:
    assert compare(demo, name).values["scratch"].tolist() == accuracy(epoch)["scratch"].tolist()


def test_the_peak_is_the_highest_score_and_the_lowest_loss(demo: Study) -> None:
    best = np.max([accuracy(e)["scratch"] for e in range(EPOCHS)], axis=0)
    assert compare(demo, "peak_test_accuracy").values["scratch"].tolist() == best.tolist()
    history = demo.history("test_macro_f1")
    by_split = history[history["arm"] == "scratch"].groupby("split")["value"].max()
    assert compare(demo, "peak_test_macro_f1").values["scratch"].tolist() == by_split.tolist()
    assert compare(demo, "peak_test_loss").values["scratch"].tolist() == pytest.approx(1 - best)


def test_differences_are_first_minus_second_and_turn_with_the_arms(demo: Study) -> None:
    forth, back = compare(demo), compare(demo, arms=["scratch", "pretrained"])
    assert back.mean_difference == -forth.mean_difference
    assert (back.wins, back.losses) == (forth.losses, forth.wins)
    assert back.tests["sign"].p_value == forth.tests["sign"].p_value
    assert back.effects["rank_biserial"] == -forth.effects["rank_biserial"]


def test_to_dict_has_the_keys_of_the_contract_and_is_json(demo: Study) -> None:
    record = compare(demo).to_dict()
    assert tuple(record) == schema.COMPARISON_KEYS
    again = json.loads(json.dumps(record, allow_nan=False))
    assert again["splits"] == list(range(8))
    assert set(again["tests"]) == set(TESTS)
    assert again["mean"]["pretrained"] == pytest.approx(accuracy(3)["pretrained"].mean())
    assert again["versions"]["scipy"] == scipy.__version__


def test_text_fits_100_columns_and_prints_percent_points_and_no_p_of_0(demo: Study) -> None:
    c = compare(demo)
    text = c.to_text()
    assert max(len(line) for line in text.splitlines()) <= 100
    assert f"{100 * c.mean_difference:+.2f} points" in text
    assert f"{100 * c.mean['scratch']:.1f} %" in text
    assert "for comparison only" in text
    assert "new galaxies" in text
    assert "exact, zeros by the rule 'wilcox'" in " ".join(text.split())
    assert " 0.000 " not in text


def test_a_difference_is_claimed_only_where_the_corrected_test_allows(demo: Study) -> None:
    assert "pretrained has the higher test accuracy" in compare(demo).to_text()
    few = replace(demo, runs=demo.runs[demo.runs["split"] < 3].reset_index(drop=True))
    text = compare(few, min_pairs=3).to_text()
    assert "No difference in test accuracy at the selected epoch is established" in text
    assert "Not enough pairs (3 of 6)" in text


def test_losses_are_printed_in_their_own_unit_and_the_higher_arm_is_called_higher(
    demo: Study,
) -> None:
    text = compare(demo, "test_loss").to_text()
    assert "scratch has the higher test loss" in text
    assert "points" not in text


def test_the_four_forms_tell_the_same_and_escape_what_they_must(demo: Study) -> None:
    c = compare(demo)
    p = c.tests["corrected_t"].p_text
    for form in (c.to_text(), c.to_markdown(), c.to_latex(), c.to_html()):
        assert p in form
        assert f"{100 * c.mean_difference:+.2f}" in form
    assert r"Cohen\'s d\_z".replace("\\'", "'") in c.to_markdown()
    assert r"95 \%" in c.to_latex()
    assert r"d\_z" in c.to_latex()
    assert "Cohen&#x27;s d_z" in c.to_html()


def test_latex_environments_and_rows_are_balanced(demo: Study) -> None:
    latex = compare(demo).to_latex()
    for kind in ("tabular", "tabularx", "itemize"):
        assert latex.count(rf"\begin{{{kind}}}") == latex.count(rf"\end{{{kind}}}")
    assert latex.count(r"\toprule") == latex.count(r"\bottomrule") == 8


def test_an_unknown_metric_is_refused_with_the_nearest(demo: Study) -> None:
    with pytest.raises(AnalysisError, match="did you mean 'test_accuracy'"):
        compare(demo, "test_acuracy")
    with pytest.raises(AnalysisError, match="no metric 'peak_nothing'"):
        compare(demo, "peak_nothing")


def test_a_run_without_a_finite_value_is_named(demo: Study) -> None:
    with pytest.raises(AnalysisError, match=r"16 run\(s\) .* split-000/pretrained \(nan\)"):
        compare(demo, schema.TOTAL_ENERGY)


def test_epochs_are_compared_at_equal_budgets_only(writer: Writer, demo: Study) -> None:
    assert compare(demo, schema.PEAK_TEST_EPOCH).n_pairs == 8
    jobs = [Job(k, a, epochs=4 + (a == "scratch"), artifacts=False) for k in range(6) for a in ARMS]
    writer.study("budgets", jobs)
    unequal = load_study("budgets", writer.uri)
    with pytest.raises(PairingError, match=r"pretrained 4, scratch 5"):
        compare(unequal, schema.PEAK_TEST_EPOCH)
    assert compare(unequal, "peak_test_accuracy").n_pairs == 6


def test_a_comparison_whose_pairs_are_all_equal_says_so_without_a_crash(demo: Study) -> None:
    c = compare(demo, schema.N_VAL)
    assert (c.wins, c.losses, c.ties) == (0, 0, 8)
    assert c.tests["sign"].p_value == c.tests["wilcoxon"].p_value == 1
    assert math.isnan(c.tests["corrected_t"].ci_low)
    assert "the same n val on each of 8 splits" in c.to_text()
    json.dumps(c.to_dict(), allow_nan=False)


def test_mean_curves_are_means_over_splits_by_arm_and_epoch(demo: Study) -> None:
    curves = mean_curves(demo, match_runs(demo), "test_accuracy")
    assert list(dict.fromkeys(curves["arm"])) == list(ARMS)
    assert len(curves) == 2 * EPOCHS
    last = curves[(curves["arm"] == "scratch") & (curves["epoch"] == EPOCHS - 1)].iloc[0]
    truth = accuracy(EPOCHS - 1)["scratch"]
    assert (last["mean"], last["sd"], last["n"]) == pytest.approx(
        (truth.mean(), truth.std(ddof=1), 8)
    )


def test_classes_are_compared_with_holm_within_each_score(demo: Study) -> None:
    classes = compare(demo).classes
    assert list(classes["class"]) == list(CLASSES) * 3
    recall = classes[classes["score"] == "recall"]
    assert recall["p_holm"].tolist() == holm(recall["p_value"]).tolist()
    truth = {
        arm: [m[2, 2] / m[2].sum() for m in (matrices(Job(k, arm))[3] for k in range(8))]
        for arm in ARMS
    }
    spiral = recall[recall["class"] == "Spiral"].iloc[0]
    expected = corrected_t(truth["pretrained"], truth["scratch"], 700, 200)
    assert (spiral["difference"], spiral["p_value"]) == (expected.estimate, expected.p_value)
    assert spiral["wins"] + spiral["losses"] + spiral["ties"] == 8


def test_the_bayesian_answer_counts_differences_within_a_point_as_none(demo: Study) -> None:
    c = compare(demo)
    assert c.bayes.rope == 0.01
    assert c.bayes.p_left + c.bayes.p_rope + c.bayes.p_right == pytest.approx(1)
    assert compare(demo, rope=0.5).bayes.p_rope > 0.99
    assert compare(demo, "test_loss").bayes.rope == 0
    assert "within 1 point" in c.paragraph


def test_the_paragraph_says_what_the_sign_test_is_about_and_what_was_left_out(demo: Study) -> None:
    c = compare(demo)
    assert c.paragraph.startswith("pretrained has the higher test accuracy")
    assert "random splits of these galaxies" in c.paragraph
    assert "nothing about new galaxies" in c.paragraph
    runs = demo.runs.copy()
    runs.loc[3, "status"] = schema.FAILED
    dropped = compare(replace(demo, runs=runs), allow_unfinished=True)
    assert dropped.n_pairs == 7
    assert "1 split was left out for want of a finished pair: 1." in dropped.paragraph
    assert dropped.to_dict()["dropped"] == [{"split": 1, "reason": "scratch failed"}]


def test_a_sign_test_that_rejects_alone_is_not_called_a_difference(demo: Study) -> None:
    lasting = demo.runs.assign(
        peak_test_accuracy=[
            0.8 + 0.001 * (1 + 30 * (split == 0)) * (arm == "pretrained")
            for split, arm in zip(demo.runs["split"], demo.runs["arm"], strict=True)
        ]
    )
    c = compare(replace(demo, runs=lasting), "peak_test_accuracy")
    assert c.tests["sign"].p_value < 0.05 < c.tests["corrected_t"].p_value
    assert c.paragraph.startswith("No difference in peak test accuracy is established")
    assert "The sign test alone would call this a difference" in c.paragraph


def test_every_two_of_three_arms_are_compared(writer: Writer) -> None:
    writer.study("three", [Job(k, arm) for k in range(6) for arm in (*ARMS, "frozen")])
    study = load_study("three", writer.uri)
    found = compare_all(study, Question())
    assert [c.arms for c in found] == [
        ("pretrained", "scratch"),
        ("pretrained", "frozen"),
        ("scratch", "frozen"),
    ]
    table = pairs_table(found)
    assert table["p_holm"].tolist() == holm(table["p_value"]).tolist()
    assert compare(study).arms == ("pretrained", "scratch")


def test_a_loss_says_that_lower_is_better_and_its_peak_is_its_minimum(demo: Study) -> None:
    c = compare(demo, "test_loss")
    assert c.paragraph.startswith("scratch has the higher test loss")
    assert "Lower is better." in c.paragraph
    assert "the mean is higher for pretrained with probability" in c.paragraph
    assert compare(demo, "peak_epoch_seconds").reading.lower_is_better


def test_differences_without_a_spread_are_told_apart_from_evidence(demo: Study) -> None:
    same = demo.runs.assign(peak_test_accuracy=0.8 + 0.01 * (demo.runs["arm"] == "pretrained"))
    c = compare(replace(demo, runs=same), "peak_test_accuracy")
    text = c.to_text()
    assert c.paragraph.startswith("The peak test accuracy differs alike on every split")
    assert "no spread; p by the signs" in text
    for word in ("inf", "nan", "Bayesian"):
        assert word not in text


def test_few_pairs_and_a_choice_on_the_test_set_are_said_in_the_paragraph(demo: Study) -> None:
    few = replace(demo, runs=demo.runs[demo.runs["split"] < 3].reset_index(drop=True))
    assert "3 pairs are too few" in compare(few, min_pairs=3).paragraph
    again = demo.runs.assign(
        selected_on="test_accuracy", reevaluated_accuracy=demo.runs["last_test_accuracy"]
    )
    c = compare(replace(demo, runs=again), "reevaluated_accuracy")
    assert "chosen on the test set itself" in c.paragraph


def test_a_class_that_test_sets_lack_is_noted_and_an_order_of_classes_does_not_matter(
    writer: Writer,
) -> None:
    writer.study("lacking", [Job(k, arm, artifacts=False) for k in range(6) for arm in ARMS])
    study = load_study("lacking", writer.uri)
    for run, arm in zip(study.runs["run_id"], study.runs["arm"], strict=True):
        order = [0, 1] if arm == "scratch" else [1, 0]
        matrix = np.array([[5, 1], [0, 0]])[np.ix_(order, order)].tolist()
        epochs = [{"epoch": e, "matrix": matrix} for e in range(EPOCHS)]
        names = [("A", "B")[i] for i in order]
        text = json.dumps({"classes": names, "epochs": epochs})
        writer.client.log_text(run, text, schema.CONFUSION_FILE)
    c = compare(study)
    assert (c.classes.query("score == 'recall'")["difference"] == 0).all()
    assert any("B has no image in 6 of 6 test sets" in note for note in c.notes)
