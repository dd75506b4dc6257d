"""Which images are wrong how often: every count against one made by hand."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from bare_runs import read_back
from fixtures_analysis import ARMS, Job, Writer
from hand_answers import ANSWERS, FIRST, SECOND, Answer, of_network, table_of
from predicted_runs import PredictionWriter, parquet

import analysis
from analysis.answers import all_answers, image_table
from analysis.disputes import DISPUTED_COLUMNS, disputed_images
from analysis.illustrations import choose_networks
from analysis.mistakes import Mistakes, confused_pairs, find_mistakes
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError
from galaxy_mlflow.schema import JobId


def of_study(writer: Writer, answers: tuple[Answer, ...], splits: int = 2) -> analysis.Study:
    """Write these answers as runs' predictions, and load the study."""
    files = {
        (split, arm): parquet(of_network(answers, split, arm))
        for split in range(splits)
        for arm in ARMS
        if any(answer[:2] == (split, arm) for answer in answers)
    }
    return read_back(PredictionWriter(writer.folder, files), dict.fromkeys(ARMS, 1), splits)


@pytest.fixture(scope="module")
def study(writer: Writer) -> analysis.Study:
    """Two splits, two arms."""
    return of_study(writer, ANSWERS)


@pytest.fixture(scope="module")
def found(study: analysis.Study) -> Mistakes:
    """Find the mistakes of that study."""
    mistakes = find_mistakes(study)
    assert mistakes is not None
    return mistakes


def disputed(answers: list[Answer], **limits: float) -> list[str]:
    return disputed_images(table_of(answers), **limits)["id"].tolist()  # type: ignore[arg-type]


def voted(name: str, wrong: int, right: int, sure: float = 0.8) -> list[Answer]:
    """Return answers to a spiral, one a split: first the wrong ones."""
    told = ["elliptical"] * wrong + ["spiral"] * right
    return [(k, FIRST, name, "spiral", answer, sure) for k, answer in enumerate(told)]


def test_every_answer_of_every_finished_run_is_read(study: analysis.Study) -> None:
    order = ["split", "arm", "id"]
    read = all_answers(study).sort_values(order, ignore_index=True)
    wanted = table_of(ANSWERS).sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(read[list(wanted)], wanted, check_dtype=False)
    assert set(all_answers(study, [SECOND])["arm"]) == {SECOND}


def test_each_arm_has_its_counts_of_each_image() -> None:
    table = image_table(table_of(ANSWERS)).set_index(["id", "arm"])
    row = table.loc[("a", FIRST)]
    assert (row["tested"], row["wrong"], row["answer"], row["times"]) == (2, 2, "elliptical", 2)
    assert row["probability"] == pytest.approx(0.85)
    never = table.loc[("g", SECOND)]
    assert (never["tested"], never["wrong"], never["answer"], never["times"]) == (1, 0, "", 0)
    assert math.isnan(never["probability"])


def test_of_equally_frequent_answers_the_more_probable_counts_then_the_first_by_name() -> None:
    def answer(*told: tuple[str, float]) -> str:
        rows = [(k, FIRST, "a", "spiral", name, p) for k, (name, p) in enumerate(told)]
        return str(image_table(table_of(rows))["answer"].iloc[0])

    assert answer(("elliptical", 0.5), ("merger", 0.6)) == "merger"
    assert answer(("merger", 0.5), ("elliptical", 0.5)) == "elliptical"
    assert answer(("merger", 0.9), ("elliptical", 0.5), ("elliptical", 0.5)) == "elliptical"


def test_pairs_come_by_their_wrong_answers_and_images_by_times_share_and_confidence(
    found: Mistakes,
) -> None:
    first, second = found.pairs
    assert (first.true, first.predicted) == ("spiral", "elliptical")
    assert (first.answers, first.images) == (9, 4)
    assert [mistake.id for mistake in first.mistakes] == ["a", "d", "b", "c"]
    assert (second.true, second.predicted, second.answers) == ("elliptical", "spiral", 1)
    assert first.shares == pytest.approx((6 / 6, 3 / 6))
    assert second.shares == pytest.approx((1, 0))


def test_images_that_tie_in_everything_come_by_id_and_pairs_by_name() -> None:
    ties = [(0, FIRST, name, "spiral", "elliptical", 0.5) for name in ("z", "x", "y")]
    ties += [(0, FIRST, name, "spiral", "merger", 0.5) for name in ("u", "w", "v")]
    one, other = confused_pairs(table_of(ties), ARMS)
    assert [mistake.id for mistake in one.mistakes] == ["x", "y", "z"]
    assert (one.predicted, other.predicted) == ("elliptical", "merger")
    (short, _) = confused_pairs(table_of(ties), ARMS, shown=2)
    assert ([mistake.id for mistake in short.mistakes], short.images) == (["x", "y"], 3)


def test_a_mistake_says_how_often_each_arm_made_it(found: Mistakes) -> None:
    a = found.pairs[0].mistakes[0]
    assert (a.times, a.networks, a.splits, a.wrong) == (3, 4, 2, 3)
    assert a.probability == pytest.approx(0.8)
    assert [(c.arm, c.times, c.tested) for c in a.by_arm] == [(FIRST, 2, 2), (SECOND, 1, 2)]
    assert [c.probability for c in a.by_arm] == pytest.approx([0.85, 0.7])
    c = found.pairs[0].mistakes[3]
    assert [(n.arm, n.times, n.tested) for n in c.by_arm] == [(FIRST, 2, 2), (SECOND, 0, 2)]
    assert math.isnan(c.by_arm[1].probability)


def test_an_arm_that_never_tested_an_image_is_not_counted_for_it() -> None:
    answers = table_of([(0, FIRST, "a", "spiral", "merger", 0.5)])
    ((mistake,),) = (pair.mistakes for pair in confused_pairs(answers, ARMS))
    assert [count.arm for count in mistake.by_arm] == [FIRST]


def test_what_is_counted_is_said(found: Mistakes) -> None:
    assert (found.splits, found.networks, found.images) == (2, 4, 6)
    assert len(found.answers) == len(ANSWERS)
    assert found.arms == ARMS


def test_a_label_is_disputed_where_nearly_all_networks_contradict_it() -> None:
    answers = [*voted("nine", 9, 1), *voted("eight", 8, 2), *voted("all", 10, 0)]
    assert disputed(answers) == ["all", "nine"]
    assert disputed(answers, share=0.8) == ["all", "nine", "eight"]
    assert disputed(answers, share=1) == ["all"]


def test_a_disputed_image_was_tested_by_enough_networks_where_any_was() -> None:
    answers = [*voted("two", 2, 0), *voted("three", 3, 0)]
    assert disputed(answers) == ["three"]
    assert disputed(answers, fewest=2) == ["three", "two"]
    assert disputed(voted("two", 2, 0)) == ["two"]
    assert disputed(voted("right", 0, 5)) == []


def test_the_strongest_dispute_comes_first_then_that_of_more_networks_then_by_id() -> None:
    answers = [*voted("weak", 5, 0, sure=0.5), *voted("sure", 3, 0, sure=0.9)]
    answers += [*voted("more", 4, 0, sure=0.7), *voted("b", 3, 0, sure=0.7)]
    answers += voted("a", 3, 0, sure=0.7)
    assert disputed(answers) == ["sure", "more", "a", "b", "weak"]


def test_a_dispute_tells_label_suggestion_and_mean_probabilities() -> None:
    answers = [
        (0, FIRST, "a", "spiral", "merger", 0.6),
        (0, SECOND, "a", "spiral", "merger", 0.8),
        (1, FIRST, "a", "spiral", "elliptical", 0.9),
    ]
    table = disputed_images(table_of(answers))
    assert tuple(table.columns) == DISPUTED_COLUMNS
    row = table.iloc[0]
    assert (row["id"], row["label"], row["suggested"]) == ("a", "spiral", "merger")
    assert tuple(row[["networks", "disputing", "suggesting", "splits"]]) == (3, 3, 2, 2)
    assert row["mean_probability_of_label"] == pytest.approx((0.2 + 0.1 + 0.05) / 3)
    assert row["mean_probability_of_suggested"] == pytest.approx((0.6 + 0.8 + 0.05) / 3)


def test_disputed_images_are_shown_as_what_they_are_suggested_to_be(writer: Writer) -> None:
    answers = (*voted("x", 3, 0), *voted("y", 4, 0), *voted("z", 1, 3))
    found = find_mistakes(of_study(writer, answers, splits=4))
    assert found is not None
    assert found.disputed["id"].tolist() == ["y", "x"]
    (shown,) = found.disputes(1)
    assert (shown.id, shown.predicted, shown.wrong, shown.splits) == ("y", "elliptical", 4, 4)


def test_runs_that_are_not_finished_or_have_no_predictions_are_left_out(writer: Writer) -> None:
    files = {(0, FIRST): parquet(of_network(ANSWERS, 0, FIRST))}
    store = PredictionWriter(writer.folder, files)
    jobs = [Job(0, FIRST), Job(0, SECOND)]
    store.study("partly", jobs)
    store.study("running", [Job(0, FIRST, status=schema.RUNNING)])
    assert set(all_answers(analysis.load_study("partly", store.uri))["arm"]) == {FIRST}
    assert find_mistakes(analysis.load_study("running", store.uri)) is None


def test_a_damaged_file_of_predictions_is_named(writer: Writer) -> None:
    store = PredictionWriter(writer.folder, {(0, FIRST): b"nonsense"})
    with pytest.raises(AnalysisError, match=f"split-000/{FIRST}: not a Parquet file"):
        all_answers(read_back(store, dict.fromkeys(ARMS, 1), 1))


def test_a_file_without_the_probability_of_a_class_is_named(writer: Writer) -> None:
    table = of_network(ANSWERS, 0, FIRST).drop(columns="p_merger")
    table.loc[0, "true"] = "merger"
    store = PredictionWriter(writer.folder, {(0, FIRST): parquet(table)})
    with pytest.raises(AnalysisError, match="no column p_merger"):
        all_answers(read_back(store, dict.fromkeys(ARMS, 1), 1))


def test_few_networks_are_chosen_and_each_gave_the_answer_itself() -> None:
    answers = table_of(ANSWERS)
    groups = [[(name, "elliptical") for name in "adbc"], [("e", "spiral")]]
    chosen = choose_networks(answers, groups, each=2)
    first = [("a", "elliptical"), ("b", "elliptical"), ("e", "spiral")]
    assert chosen == {JobId("", 0, FIRST): first}
    for job, targets in chosen.items():
        mine = answers[(answers["split"] == job.split) & (answers["arm"] == job.arm)]
        assert set(targets) <= set(zip(mine["id"], mine["predicted"], strict=True))


def test_more_networks_are_chosen_only_for_what_is_still_wanted_and_only_so_many() -> None:
    answers = table_of(ANSWERS)
    groups = [[("d", "elliptical"), ("b", "elliptical")]]
    wanted = choose_networks(answers, groups, each=2)
    assert list(wanted) == [JobId("", 0, FIRST), JobId("", 1, FIRST)]
    assert wanted[JobId("", 1, FIRST)] == [("d", "elliptical")]
    assert list(choose_networks(answers, groups, each=2, most=1)) == [JobId("", 0, FIRST)]
    assert list(choose_networks(answers, groups, each=1)) == [JobId("", 0, FIRST)]
    assert choose_networks(answers, [[("g", "spiral")], []]) == {}
