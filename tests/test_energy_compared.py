"""Energy of two arms: of whole runs, and until something is reached, beside the epochs it took."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bare_runs import BareWriter, Curves, read_back
from fixtures_analysis import ARMS, N_TEST, N_TRAIN, Job, Writer

from analysis import Study, compare, load_study
from analysis.energy import energy_of, energy_used
from analysis.pairs import match_runs
from analysis.report import write_report
from analysis.stats import corrected_t
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError, PairingError

FIRST, SECOND = ARMS
SPLITS = 6
BUDGET = {FIRST: 4, SECOND: 6}
WATTS = {FIRST: 10.0, SECOND: 25.0}
"""Joules of an epoch; each split adds its number."""


def joules(split: int, arm: str, epochs: int) -> list[float]:
    return [WATTS[arm] + split] * epochs


def log_energy(writer: Writer, run: str, spent: Sequence[float], source: str) -> None:
    """Log what a worker logs of energy."""
    for epoch, value in enumerate(spent):
        writer.log(run, {schema.ENERGY_JOULES: value}, epoch)
    writer.log(run, {schema.TOTAL_ENERGY: sum(spent)}, 0)
    writer.client.set_tag(run, schema.ENERGY_SOURCE, source)


class BareMetered(BareWriter):
    """Runs with a curve and their energy."""

    def run(self, experiment: str, study: str, job: Job) -> str:
        run = super().run(experiment, study, job)
        log_energy(self, run, joules(job.split, job.arm, job.epochs), "NVML GPU")
        return run


class Metered(Writer):
    """Runs with all that a report shows, and their energy."""

    def run(self, experiment: str, study: str, job: Job) -> str:
        run = super().run(experiment, study, job)
        log_energy(self, run, joules(job.split, job.arm, job.epochs), "RAPL package")
        return run


def curve(arm: str, reached: int) -> list[float]:
    """Return 0.6, and 0.8 at one epoch, counted from 1; 0: never."""
    return [0.8 if epoch == reached else 0.6 for epoch in range(1, BUDGET[arm] + 1)]


REACHED = {FIRST: [1, 2, 3, 4, 2, 0], SECOND: [2, 2, 5, 6, 3, 4]}


@pytest.fixture(scope="module")
def bare(writer: Writer) -> Study:
    curves: Curves = {
        (split, arm): curve(arm, REACHED[arm][split]) for split in range(SPLITS) for arm in ARMS
    }
    return read_back(BareMetered(writer.folder, curves), BUDGET, SPLITS)


@pytest.fixture(scope="module")
def metered(writer: Writer) -> Study:
    name = f"metered-{uuid.uuid4().hex[:8]}"
    jobs = [Job(split, arm) for split in range(SPLITS) for arm in ARMS]
    Metered(writer.folder).study(name, jobs)
    return load_study(name, writer.uri)


def retagged(study: Study, run: str, **tags: str) -> Study:
    return replace(study, tags={**study.tags, run: {**study.tags[run], **tags}})


def test_totals_are_compared_in_pairs_with_a_word_of_what_was_counted(bare: Study) -> None:
    c = compare(bare, schema.TOTAL_ENERGY)
    expected = [4 * (10 + k) - 6 * (25 + k) for k in range(SPLITS)]
    assert (c.wins, c.losses) == (0, SPLITS)
    assert c.mean_difference == pytest.approx(np.mean(expected))
    assert any("NVML GPU counted" in note and "other runs too" in note for note in c.notes)
    assert "J" in c.paragraph
    assert "Lower is better" in c.paragraph


def test_energy_until_something_stands_beside_the_epochs_until_then(bare: Study) -> None:
    whole, peak, threshold = energy_used(bare, match_runs(bare), [0.8])
    assert whole.joules == pytest.approx({FIRST: 4 * 12.5, SECOND: 6 * 27.5})
    assert whole.epochs == {FIRST: 4, SECOND: 6}
    # of the first four epochs; a curve without its 0.8 there has its peak at the first
    first, second = [1, 2, 3, 4, 2, 1], [2, 2, 1, 1, 3, 4]
    assert peak.epochs == pytest.approx({FIRST: np.mean(first), SECOND: np.mean(second)})
    first, second = [1, 2, 3, 4, 2, 4], [2, 2, 4, 4, 3, 4]
    used = [
        [n * (WATTS[arm] + k) for k, n in enumerate(e)]
        for arm, e in ((FIRST, first), (SECOND, second))
    ]
    assert threshold.epochs == pytest.approx({FIRST: np.mean(first), SECOND: np.mean(second)})
    assert threshold.joules == pytest.approx({FIRST: np.mean(used[0]), SECOND: np.mean(used[1])})
    assert threshold.difference == corrected_t(*used, N_TRAIN, N_TEST)
    assert threshold.epochs_difference == corrected_t(first, second, N_TRAIN, N_TEST)


@pytest.mark.parametrize("metric", [schema.TOTAL_ENERGY, schema.ENERGY_JOULES])
def test_energy_that_different_meters_counted_is_refused_with_a_run_of_each(
    bare: Study, metric: str
) -> None:
    run = str(bare.runs["run_id"].iloc[3])
    mixed = retagged(bare, run, **{schema.ENERGY_SOURCE: "NVML GPU + RAPL package"})
    found = (
        r"(?s)different meters .*split-000/pretrained: NVML GPU\n.*split-001/scratch: NVML GPU \+"
    )
    with pytest.raises(PairingError, match=found):
        compare(mixed, metric)
    assert compare(mixed, schema.TEST_LOSS).n_pairs == SPLITS  # nothing else is refused
    energy = energy_of(mixed, match_runs(mixed))
    assert energy.uses == ()
    assert "not compared: runs whose energy was counted by different meters" in energy.note


def test_a_run_without_its_energy_is_named_and_an_epoch_without_it_too(bare: Study) -> None:
    runs = bare.runs.copy()
    runs.loc[3, schema.TOTAL_ENERGY] = float("nan")
    lacking = replace(bare, runs=runs)
    assert "split-001/scratch" in energy_of(lacking, match_runs(lacking)).note
    points = bare.history(schema.ENERGY_JOULES)
    gap = (points["split"] == 2) & (points["arm"] == SECOND) & (points["epoch"] == 1)
    holed = replace(bare)
    holed._histories[schema.ENERGY_JOULES] = points[~gap]
    with pytest.raises(AnalysisError, match=r"energy of every epoch .* on splits 2$"):
        energy_used(holed, match_runs(holed), [0.8])


def test_a_report_has_the_energy_of_both_arms(metered: Study, tmp_path: Path) -> None:
    page = write_report(metered, tmp_path / "report.html").read_text()
    section = page.partition("<h2>Energy</h2>")[2].partition("</section>")[0]
    assert "RAPL package counted" in section
    (whole, *_) = energy_used(metered, match_runs(metered))
    assert whole.difference.p_text in section
    for words in ("the end of the run", "the peak of test accuracy", "pretrained: mean energy"):
        assert words in section
    assert "62.5 J" in section  # 5 epochs of 12.5 J
    assert "kWh (of 12 runs); RAPL package" in page


def test_a_report_says_where_energy_was_not_measured(demo: Study, tmp_path: Path) -> None:
    page = write_report(demo, tmp_path / "report.html").read_text()
    section = page.partition("<h2>Energy</h2>")[2].partition("</section>")[0]
    assert "Energy was not measured" in section
    assert "<table" not in section
