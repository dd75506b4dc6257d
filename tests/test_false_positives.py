"""The benchmark of false positives: studies without a difference, really trained."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bare_runs import BareWriter, read_back
from fixtures_analysis import ARMS, Writer
from numpy.typing import NDArray

from analysis import Comparison, compare, stats

Floats = NDArray[np.float64]
ROOT = Path(__file__).parents[1]


def module() -> Any:
    """Import the benchmark from its file, which is in no package."""
    file = ROOT / "benchmarks" / "false_positives.py"
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[file.stem] = loaded  # dataclasses look their module up
    spec.loader.exec_module(loaded)
    return loaded


bench = module()
SMALL = bench.Design(studies=40, splits=30, images=1404)


@pytest.fixture(scope="module")
def found() -> dict[str, dict[int, dict[str, np.ndarray]]]:
    """Reject or not, by world, number of splits and test."""
    return {world: bench.rejections(SMALL, world) for world in bench.WORLDS}


def rate(tests: dict[str, np.ndarray], name: str) -> float:
    return float(tests[name].mean())


def test_the_default_sizes_are_the_published_ones() -> None:
    design = bench.Design()
    assert (design.n_train, design.n_test) == (12_000, 2_034)


def test_splits_are_random_parts_of_one_size_that_overlap() -> None:
    parts = bench.test_parts(SMALL, np.random.default_rng(0))
    assert parts.shape == (30, 1404)
    assert set(parts.sum(axis=1)) == {SMALL.n_test}
    shared = (parts[0] & parts[1]).sum() / SMALL.n_test
    assert shared == pytest.approx(bench.TEST_SHARE, abs=0.1)
    assert shared < 1
    assert parts.any(axis=0).mean() > 0.95  # no image is left out on purpose


def test_the_classifier_learns_from_the_training_part_alone() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 400)
    seen = (5 * np.eye(4, bench.FEATURES)[labels] + rng.normal(size=(400, 6))).astype(np.float32)
    parts = np.zeros((2, 400), dtype=bool)
    parts[0, :100] = parts[1, 100:200] = True
    right = bench.accuracies(seen, labels, parts, np.random.default_rng(1))
    assert (right > 0.95).all()
    spoilt = labels.copy()
    spoilt[:100] = (labels[:100] + 1) % 4  # wrong in the test part of the first split only
    wrong = bench.accuracies(seen, spoilt, parts, np.random.default_rng(1))
    assert wrong[0] < 0.05
    assert wrong[1] < right[1] + 1e-9


def test_arms_differ_by_seed_or_by_features_and_repeat() -> None:
    design = bench.Design(studies=1, splits=8, images=1404)
    for world in bench.WORLDS:
        (x, y), (again, _) = (next(bench.simulated_studies(design, world)) for _ in range(2))
        assert (x != y).any()
        assert (x == again).all()
        assert 0.5 < x.mean() < 0.8
    other = bench.Design(studies=1, splits=8, images=1404, seed=1)
    assert (next(bench.simulated_studies(other, world))[0] != x).any()


def test_every_test_holds_its_level_on_identical_arms(found: dict[str, Any]) -> None:
    for splits in (30, 6):
        tests = found["identical"][splits]
        assert all(rate(tests, name) <= 0.15 for name in tests), splits
    assert rate(found["identical"][30], "corrected t") == 0  # conservative: nothing lasts


def test_only_the_corrected_tests_hold_it_on_exchangeable_arms(found: dict[str, Any]) -> None:
    tests = found["exchangeable"][30]
    for name in ("sign", "Wilcoxon", "permutation", "naive paired t"):
        assert rate(tests, name) > 0.2, name
    assert rate(tests, "corrected t") <= 0.15


def test_without_a_rope_the_bayesian_verdict_is_that_of_the_corrected_t(
    found: dict[str, Any],
) -> None:
    for by_splits in found.values():
        for tests in by_splits.values():
            assert (tests["Bayesian correlated t"] == tests["corrected t"]).all()


def test_rates_are_printed_with_their_interval(found: dict[str, Any]) -> None:
    assert bench.rate(np.arange(200) < 10) == "0.050 [0.024, 0.090]"
    lines = bench.table({world: tests[6] for world, tests in found.items()}).splitlines()
    assert lines[0] == "| test | identical arms | exchangeable arms |"
    assert len(lines) == 2 + 6
    assert {line.count("|") for line in lines} == {4}


def test_the_command_prints_both_tables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--studies", "2", "--splits", "8", "--images", "702", "--seed", "5"]
    monkeypatch.setattr("sys.argv", ["false_positives.py", *arguments])
    bench.main()
    printed = capsys.readouterr().out
    assert "2 null studies of 8 splits" in printed
    assert "2 null studies of 6 splits" in printed


def compared(store: Writer, x: Floats, y: Floats) -> Comparison:
    """Write the accuracies of both arms as a study, and compare them."""
    by_arm = zip(ARMS, (x, y), strict=True)
    curves = {(split, arm): [float(v)] for arm, values in by_arm for split, v in enumerate(values)}
    writer = BareWriter(store.folder, curves)
    writer.sizes = (SMALL.n_train, SMALL.n_test)
    return compare(read_back(writer, dict.fromkeys(ARMS, 1), x.size))


def test_the_comparison_of_identical_arms_establishes_nothing(writer: Writer) -> None:
    for x, y in itertools.islice(bench.simulated_studies(SMALL, "identical"), 2):
        found = compared(writer, x[:8], y[:8])
        assert found.to_text().count("No difference in test accuracy") == 1
        assert "is established" in found.to_text()


def test_a_difference_of_these_galaxies_alone_is_not_called_one(writer: Writer) -> None:
    """Where the sign test finds what lasts over splits, and the corrected t does not."""
    sizes = (SMALL.n_train, SMALL.n_test)
    x, y = next(
        (x, y)
        for x, y in bench.simulated_studies(SMALL, "exchangeable")
        if stats.sign_test(x, y).p_value < 0.01 and stats.corrected_t(x, y, *sizes).p_value > 0.05
    )
    text = " ".join(compared(writer, x, y).to_text().split())
    assert "No difference in test accuracy" in text
    assert "The sign test alone would call this a difference" in text


def test_the_documentation_holds_the_tables_of_the_command() -> None:
    text = (ROOT / "docs" / "statistics.md").read_text()
    assert "python benchmarks/false_positives.py\n" in text
    design = bench.Design()
    for splits in (design.splits, bench.FEW_SPLITS):
        assert f"{design.studies} null studies of {splits} splits" in text
    x, y = np.arange(8.0), np.arange(8.0) ** 2
    for name in bench.verdicts(x, y, design):
        assert text.count(f"\n| {name} | 0.") == 2, name
