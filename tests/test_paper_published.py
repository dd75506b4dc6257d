"""The published study in a tracking server: imported once, whole; then what the report says of it.

All 200 runs are written once for this file; what would change them is tested on a few runs.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from published_record import master_record

import analysis
from analysis.matrices import Matrices, class_matrices
from analysis.pairs import match_runs
from analysis.paper import (
    VERDICTS,
    Imported,
    PublishedRun,
    Verdict,
    corrected_intervals,
    import_published,
    is_published,
    label_error,
    optimism,
    pictured_matrices,
    pictured_scores,
    read_source,
    runs_of_record,
    verdicts,
)
from analysis.paper.claims import DIFFERS, EQUAL, HOLDS, IN_PART, NOT_REPRODUCIBLE, WITHIN
from analysis.paper.importer import TIMESTAMP_MS
from analysis.paper.printed import claims
from galaxy_mlflow import schema
from galaxy_mlflow.errors import IdentityConflictError, PairingError, ServerRefusedError
from galaxy_mlflow.home import Home
from galaxy_mlflow.tracking import MlflowStore

UNREAD = {"test_accuracy": 14, "train_accuracy": 9, "test_loss": 72, "train_loss": 54}


@dataclass(frozen=True)
class Published:
    """The store with all runs, and what importing them said."""

    store: MlflowStore
    source: tuple[PublishedRun, ...]
    imported: Imported
    told: list[tuple[int, int]]


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Published:
    home = Home(tmp_path_factory.mktemp("published"))
    store, source = MlflowStore(home.database_uri, home), read_source()
    told: list[tuple[int, int]] = []
    imported = import_published(source, store, lambda done, total: told.append((done, total)))
    return Published(store, source, imported, told)


@pytest.fixture(scope="session")
def study(published: Published) -> analysis.Study:
    return analysis.load_study(schema.PUBLISHED, published.store.uri)


@pytest.fixture(scope="session")
def matrices(study: analysis.Study) -> Matrices:
    found = class_matrices(study, match_runs(study))
    assert found is not None
    return found


@pytest.fixture(scope="session")
def given(study: analysis.Study, matrices: Matrices) -> dict[str, Verdict]:
    return {verdict.id: verdict for verdict in verdicts(study, matrices)}


@pytest.fixture
def few(published: Published, tmp_path: Path) -> tuple[MlflowStore, tuple[PublishedRun, ...]]:
    """An empty store, and the runs of two splits."""
    home = Home(tmp_path / "few")
    return MlflowStore(home.database_uri, home), published.source[:4]


def test_an_import_writes_200_runs_and_tells_of_each(published: Published) -> None:
    assert published.imported == Imported(written=200, kept=0, removed=0)
    assert published.told == [(done, 200) for done in range(201)]


def test_the_server_holds_60000_epochs_but_for_the_points_not_read(study: analysis.Study) -> None:
    assert set(study.metric_names) == set(UNREAD)
    for metric, unread in UNREAD.items():
        assert len(study.history(metric)) == 60_000 - unread


def test_a_run_keeps_the_contract(published: Published, study: analysis.Study) -> None:
    run = next(r for r in published.source if (r.split, r.arm) == (49, "scratch"))
    row = study.runs[(study.runs["split"] == 49) & (study.runs["arm"] == "scratch")].iloc[0]
    assert row["status"] == schema.FINISHED
    assert (row["protocol"], row["labels"]) == ("paper", "paper")
    assert row["selected_on"] == "test_accuracy"
    assert row["test_hash"] == run.test_hash
    assert (row["n_train"], row["n_test"]) == (12_000, 2_034)
    assert row["peak_test_accuracy"] == row["selected_test_accuracy"] == run.peak_accuracy
    assert row["peak_test_epoch"] == run.peak_epoch
    assert row["last_test_accuracy"] == run.curves["test_accuracy"][-1]
    assert row["reevaluated_recall_lenticular"] == 319 / 501
    assert study.params[row["run_id"]]["epochs"] == "400"
    assert study.params[row["run_id"]]["weights"] == "none"
    assert study.arms == ("pretrained", "scratch")
    tags = study.tags[row["run_id"]]
    assert tags[schema.SOFTWARE].startswith("the authors' PyTorch code, imported by galaxy-mlflow")
    assert tags[schema.HARDWARE] == "Tesla V100 32 GB, Intel Xeon Silver 4216 (as printed)"
    text = study.artifact(row["run_id"], schema.REEVALUATED_FILE)
    assert text is not None
    assert json.loads(text)["matrix"][1] == [95, 319, 86, 1]


def test_importing_again_does_nothing(published: Published) -> None:
    before = {run.run_id for run in published.store.runs(schema.PUBLISHED)}
    again = import_published(published.source, published.store)
    assert str(again) == "nothing to do: all 200 runs are on the server"
    assert {run.run_id for run in published.store.runs(schema.PUBLISHED)} == before


def test_the_study_compares_as_any_other(study: analysis.Study) -> None:
    c = analysis.compare(study, "peak_test_accuracy")
    assert (c.wins, c.losses, c.ties) == (100, 0, 0)
    assert c.tests["sign"].p_value == pytest.approx(2**-99)


def test_everything_printed_has_one_verdict(given: dict[str, Verdict]) -> None:
    assert list(given) == [claim.id for claim in claims()]
    assert all(verdict.verdict in VERDICTS for verdict in given.values())
    assert all(v.place and v.printed for v in given.values())
    silent = [v.id for v in given.values() if v.verdict == NOT_REPRODUCIBLE and not v.note]
    assert not silent
    assert Counter(v.verdict for v in given.values())[EQUAL] >= 60


def test_only_the_share_of_ellipticals_differs_and_it_contradicts_the_printed_counts(
    given: dict[str, Verdict],
) -> None:
    differ = [v for v in given.values() if v.verdict == DIFFERS]
    assert [v.id for v in differ] == ["share-elliptical"]
    assert differ[0].computed == (
        "19.5 % (19.51), from the printed counts; in the 100 test sets: 19.56 %; "
        "of the printed counts without the 15 galaxies of TType 11 and 12: 19.40 %"
    )
    assert differ[0].note.startswith("computed less printed: +0.11 points")
    assert differ[0].computed_exact == pytest.approx(2738 / 14034)


@pytest.mark.parametrize(
    ("claim", "computed"),
    [
        ("galaxies", "14,034"),
        ("train-images", "12,000; at epoch 5: 12,009"),
        ("budget-scratch", "400"),
        ("4.1-pretrained-200-mean", "84.2 % (84.24)"),
        ("4.1-scratch-200-sd", "1.5 % (1.50)"),
        ("4.2-pretrained-irr_misc-sd", "7.9 % (7.85)"),
        ("peak-epoch-pretrained", "155 (154.52)"),
        ("gain-50-mean", "1 point (1.15)"),
        ("gain-equal-budget", "4.6 points (4.58)"),
        ("terabytes", "27 TB (27.37), from the architecture; without the momentum: 13.7 TB"),
        ("sign-accuracy-p", "1.58e-30 (1.578e-30)"),
        ("sign-epoch-wins", "0"),
        ("count-spiral", "7,708"),
        ("run-49-scratch-share-elliptical", "19.0 % (18.96)"),
        ("epochs-trained", "60,000"),
    ],
)
def test_a_number_comes_out_at_its_printed_digits(
    given: dict[str, Verdict], claim: str, computed: str
) -> None:
    assert (given[claim].computed, given[claim].verdict) == (computed, EQUAL)


def test_words_hold_with_what_was_checked(given: dict[str, Verdict]) -> None:
    assert given["never-outperforms"].computed == "runs in which it does: 0"
    assert given["never-outperforms"].verdict == HOLDS
    assert given["almost-always-faster"].computed.endswith(": 90; runs with the later peak: 10")
    assert given["gain-roughly-doubles"].computed.endswith(": 2.49")
    assert "84.8 %" in given["adjacent"].computed
    assert "20 epochs, 10 to 60 minutes: 14 minutes" in given["minutes"].computed


def test_a_sentence_of_which_a_part_fails_holds_in_part(given: dict[str, Verdict]) -> None:
    part = {v.id: v.note for v in given.values() if v.verdict == IN_PART}
    assert sorted(part) == ["irr-often-more-than-twice", "run-49-superiority"]
    assert part["irr-often-more-than-twice"].startswith("does not hold: on average")
    assert "recall of Lenticular" in part["run-49-superiority"]
    assert "recall of Elliptical" not in part["run-49-superiority"]


def test_units_are_spaced_alike_and_the_other_standard_deviation_is_told_only_where_it_matters(
    given: dict[str, Verdict],
) -> None:
    assert not [v.id for v in given.values() if re.search(r"\d%", v.computed + v.note)]
    assert not [v.id for v in given.values() if v.id.startswith("gain-") and " %" in v.computed]
    assert not [v.id for v in given.values() if "n - 1" in v.note]
    number = next(c.number for c in claims() if c.id == "4.1-scratch-200-sd")
    assert number is not None
    assert number.unit.difference == " points"


def test_runs_that_say_otherwise_get_another_verdict(
    study: analysis.Study, matrices: Matrices
) -> None:
    column = "reevaluated_recall_spiral"
    other = replace(study, runs=study.runs.assign(**{column: study.runs[column] - 0.02}))
    found = {v.id: v for v in verdicts(other, matrices)}
    assert found["4.2-scratch-spiral-mean"].verdict == DIFFERS
    assert "computed less printed: -2.04 points" in found["4.2-scratch-spiral-mean"].note
    assert found["4.2-scratch-spiral-sd"].verdict == EQUAL
    assert found["4.1-scratch-400-mean"].verdict == EQUAL


def test_what_the_runs_lack_is_not_reproducible_and_the_rest_is(
    study: analysis.Study, matrices: Matrices
) -> None:
    other = replace(study, runs=study.runs.drop(columns="reevaluated_recall_spiral"))
    found = {v.id: v for v in verdicts(other, matrices)}
    assert found["4.2-scratch-spiral-mean"].verdict == NOT_REPRODUCIBLE
    assert "carry no reevaluated_recall_spiral" in found["4.2-scratch-spiral-mean"].note
    assert found["4.2-scratch-elliptical-mean"].verdict == EQUAL


def test_a_study_that_is_not_whole_has_no_verdicts(
    study: analysis.Study, matrices: Matrices
) -> None:
    half = replace(study, runs=study.runs[1:])
    with pytest.raises(PairingError, match="split-000/scratch"):
        verdicts(half, matrices)


def test_a_reading_error_makes_a_verdict_of_its_own(published: Published) -> None:
    assert WITHIN in VERDICTS
    number = next(c.number for c in claims() if c.id == "count-spiral")
    assert number is not None
    assert number.reading_error == 1
    assert number.rounded(7708.4) == 7708
    assert number.distance(7707) == -1


def test_only_the_published_study_is_the_published_study(
    study: analysis.Study, demo: analysis.Study
) -> None:
    assert is_published(study)
    assert not is_published(demo)


def test_the_peak_is_optimistic_and_more_so_for_the_arm_that_wins(study: analysis.Study) -> None:
    table = (optimism(study) * 100).round(2)
    assert table.loc["pretrained", "optimism"] == 0.74
    assert table.loc["scratch", "optimism"] == 0.49
    assert table.loc["advantage", ["peak", "reevaluated"]].tolist() == [1.84, 1.59]


def test_of_the_recalls_only_that_of_irr_misc_survives_correction(study: analysis.Study) -> None:
    table = corrected_intervals(study)
    recall = table[table["metric"] == "reevaluated_recall"].set_index("class")
    assert recall["p_holm"].round(2).tolist() == [0.50, 0.39, 0.50, 0.0]
    assert recall.index[recall["ci_low"] > 0].tolist() == ["Irr+Misc"]
    accuracy = table.set_index("metric").loc["reevaluated_accuracy"]
    assert accuracy["p_value"] == pytest.approx(3.13e-5, rel=0.01)
    assert np.isnan(accuracy["p_holm"])
    assert len(table) == 6 + 12


def test_what_is_only_pictured_is_recomputed(matrices: Matrices) -> None:
    scores = pictured_scores(matrices).set_index(["class", "score"])
    assert scores.loc[("Irr+Misc", "f1"), "mean_pretrained"] == pytest.approx(0.4548, abs=5e-5)
    cells = pictured_matrices(matrices).set_index(["arm", "true", "predicted"])
    assert cells.loc[("scratch", "Spiral", "Spiral"), "mean"] == pytest.approx(0.924, abs=5e-4)
    np.testing.assert_allclose(cells["mean"].groupby(["arm", "true"]).sum(), 1)


def test_the_label_error_is_stated_with_what_it_can_change() -> None:
    sentence = label_error().sentence
    assert "0.11 % of all and 0.55 % of the published ellipticals" in sentence
    assert "by about 0.11 points at most" in sentence
    assert "100 of 100" in sentence
    assert "those of 14" in sentence


def test_an_import_stopped_at_any_point_is_completed_by_the_next(
    few: tuple[MlflowStore, tuple[PublishedRun, ...]],
) -> None:
    store, runs = few

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_published(runs, store, stop)
    _set_back(store, store.runs(schema.PUBLISHED)[0].run_id)
    there = len(store.runs(schema.PUBLISHED))
    done = import_published(runs, store)
    assert done == Imported(written=4 - there + 1, kept=there - 1, removed=1)
    found = store.runs(schema.PUBLISHED)
    assert sorted(run.job.run_name for run in found) == sorted(run.job.run_name for run in runs)
    assert {run.status for run in found} == {schema.FINISHED}


def _set_back(store: MlflowStore, run_id: str) -> None:
    """Leave a run as a killed import leaves it."""
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=store.uri).set_tag(run_id, schema.STATUS, schema.RUNNING)


def test_other_facts_are_a_conflict_unless_they_are_to_replace(
    few: tuple[MlflowStore, tuple[PublishedRun, ...]],
) -> None:
    store, runs = few
    import_published(runs, store)
    record = runs_of_record(master_record(), "record")[:4]
    with pytest.raises(IdentityConflictError, match=r"split-000/pretrained.*--replace"):
        import_published(record, store)
    assert len(store.runs(schema.PUBLISHED)) == 4
    done = import_published(record, store, replace=True)
    assert done == Imported(written=4, kept=0, removed=4)
    metrics = store.runs(schema.PUBLISHED)[0].metrics
    assert "reevaluated_accuracy" in metrics
    assert "reevaluated_macro_f1" not in metrics


def test_written_over_the_network_it_is_the_same(
    published: Published, server_uri: str, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    store = MlflowStore(server_uri, Home(tmp_path / "worker"))
    assert import_published(published.source[98:100], store).written == 2
    run = next(r for r in store.runs(schema.PUBLISHED) if r.job.arm == "scratch")
    points = MlflowClient(tracking_uri=server_uri).get_metric_history(run.run_id, "test_accuracy")
    expected = published.source[99].curves["test_accuracy"]
    assert {p.step: p.value for p in points} == {
        e: v for e, v in enumerate(expected.tolist()) if np.isfinite(v)
    }
    assert {p.timestamp for p in points} == {TIMESTAMP_MS}


def test_a_report_logged_twice_is_one_run_with_the_later_files(
    store: MlflowStore, tmp_path: Path
) -> None:
    from mlflow import MlflowClient
    from tracked import new_name, start_of

    study = new_name()
    (tmp_path / "figures").mkdir()
    (tmp_path / "index.html").write_text("first")
    (tmp_path / "figures" / "old.svg").write_text("<svg/>")
    with pytest.raises(ServerRefusedError, match=f"no study '{study}' to log a report to"):
        store.log_report(study, tmp_path)
    job = store.create(start_of(study)).run_id
    run_id = store.log_report(study, tmp_path)
    (tmp_path / "index.html").write_text("second")
    (tmp_path / "figures" / "old.svg").rename(tmp_path / "figures" / "new.svg")
    assert store.log_report(study, tmp_path) == run_id
    client = MlflowClient(tracking_uri=store.uri)
    listed = [item.path for item in client.list_artifacts(run_id, "report/figures")]
    assert listed == ["report/figures/new.svg"]
    page = client.download_artifacts(run_id, "report/index.html", str(tmp_path))
    assert Path(page).read_text() == "second"
    run = client.get_run(run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags[schema.KIND] == schema.REPORT
    assert schema.SPLIT not in run.data.tags
    assert [record.run_id for record in store.runs(study)] == [job]
