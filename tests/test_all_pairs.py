"""A study of five arms: every two compared, adjusted together, and said in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from bare_runs import BareWriter
from fixtures_analysis import Job

from analysis import Study, compare, load_study
from analysis.compare import Comparison, Question, compare_all
from analysis.report import write_report
from analysis.stats import holm
from analysis.tables import pairs_in_words, pairs_table, print_all_arms, print_pairs
from analysis.wording import PERCENT
from galaxy_mlflow import schema

MEANS = {"alexnet": 0.50, "resnet50": 0.68, "convnext": 0.70, "swin": 0.70, "vit": 0.69}
STEPS = (0.03, -0.02, 0.01, -0.03, 0.02, -0.01)


class FiveWriter(BareWriter):
    """Writes runs of five arms whose means over six splits are known."""

    def _tags(self, job: Job) -> dict[str, str]:
        return super()._tags(job) | {schema.ARMS: ",".join(MEANS)}


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Load the study of five arms."""
    curves = {
        (k, arm): [mean + STEPS[(k + i) % 6]]
        for i, (arm, mean) in enumerate(MEANS.items())
        for k in range(6)
    }
    writer = FiveWriter(tmp_path_factory.mktemp("five"), curves)
    writer.study("five", [Job(k, arm) for k in range(6) for arm in MEANS])
    return load_study("five", writer.uri)


@pytest.fixture(scope="module")
def pairs(five: Study) -> tuple[Comparison, ...]:
    """Compare every two of the five."""
    return compare_all(five, Question())


def test_five_arms_make_ten_pairs_with_holm_over_all_of_them(
    five: Study, pairs: tuple[Comparison, ...]
) -> None:
    table = pairs_table(pairs)
    assert len(table) == 10
    assert (
        table["p_holm"].tolist() == holm([c.tests["corrected_t"].p_value for c in pairs]).tolist()
    )
    one = compare(five, arms=("convnext", "vit"))
    row = table[(table["first"] == "convnext") & (table["second"] == "vit")].iloc[0]
    assert row["difference"] == one.mean_difference == pytest.approx(0.01)
    assert len(print_pairs(table, PERCENT).rows) == 10


def test_words_name_only_what_is_left_after_holm(pairs: tuple[Comparison, ...]) -> None:
    table = pairs_table(pairs)
    text = pairs_in_words(table, pairs[0].reading)
    assert "Holm's adjustment is over 10 pairs of arms." in text
    assert "convnext is higher than alexnet by 20.00 points" in text
    clear = table[table["p_holm"] < 0.05]
    assert text.count(" is higher than ") == len(clear)
    assert set(clear["first"]) == {"alexnet"}
    assert "vit is higher than" not in text.replace("vit is higher than alexnet", "")
    assert "no proof of equality" in text


def test_words_say_where_nothing_is_established(pairs: tuple[Comparison, ...]) -> None:
    among_equals = [c for c in pairs if "alexnet" not in c.arms]
    text = pairs_in_words(pairs_table(among_equals), pairs[0].reading)
    assert text == (
        "Holm's adjustment is over 6 pairs of arms. No difference in test accuracy at the selected "
        "epoch is established for any of them."
    )


def test_all_arms_are_listed_with_their_means(pairs: tuple[Comparison, ...]) -> None:
    rows = print_all_arms(pairs).rows
    assert [row[:3] for row in rows] == [
        (arm, "6", f"{100 * mean:.1f} %") for arm, mean in MEANS.items()
    ]


def test_the_report_shows_arms_and_pairs(five: Study, tmp_path: Path) -> None:
    page = write_report(five, tmp_path / "r.html").read_text(encoding="utf-8")
    assert "<h3>Every two arms</h3>" in page
    assert page.count(" minus vit</td>") == 4
    for arm in MEANS:
        assert f"<td>{arm}</td>" in page
    assert "convnext is higher than alexnet by 20.00 points" in page
