from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fixtures_analysis import ARMS, CLASSES, EPOCHS, STUDY_TOML, Job, Writer, matrices

import analysis
from analysis import Study, database, load_study
from analysis.points import Points
from analysis.study import Confusion
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError, StudyNotFoundError

PACKAGE = Path(analysis.__file__).parent


def test_runs_have_the_columns_of_the_contract_and_one_row_a_run(demo: Study) -> None:
    assert tuple(demo.runs.columns) == schema.RUN_COLUMNS
    assert demo.runs[[schema.SPLIT, schema.ARM]].to_numpy().tolist() == [
        [split, arm] for split in range(8) for arm in ARMS
    ]
    assert demo.arms == ARMS
    assert demo.question == "Does pretraining help?"


def test_runs_have_whole_splits_text_hashes_and_float_summaries(demo: Study) -> None:
    row = demo.runs.iloc[0]
    assert demo.runs[schema.SPLIT].dtype == np.int64
    assert row["status"] == schema.FINISHED
    assert row[schema.TEST_HASH] == f"{1:064x}"
    assert row[schema.INIT_HASH] == ""
    assert row[schema.N_TRAIN] == 700.0
    assert np.isnan(row[schema.TOTAL_ENERGY])


def test_metrics_hold_every_epoch_of_every_run_and_no_summary(demo: Study) -> None:
    frame = demo.metrics
    assert tuple(frame.columns) == schema.METRIC_COLUMNS
    assert len(frame) == 16 * EPOCHS * len(demo.metric_names)
    assert not set(frame["metric"]) & set(schema.SUMMARY)
    mine = frame[(frame["metric"] == "test_accuracy") & (frame["run_id"] == demo.runs.run_id[0])]
    expected = [np.trace(m) / m.sum() for m in matrices(Job(0, "pretrained"))]
    assert mine["epoch"].tolist() == list(range(EPOCHS))
    assert mine["value"].tolist() == expected


def test_an_epoch_logged_twice_counts_once_with_its_later_value(writer: Writer) -> None:
    experiment = writer.study("logged-twice", [])
    run = writer.run(experiment, "logged-twice", Job(0, "pretrained", artifacts=False))
    writer.log(run, {"test_loss": 9.0}, epoch=2, timestamp=5_000)
    writer.log(run, {"test_loss": 8.0}, epoch=3, timestamp=10)
    history = load_study("logged-twice", writer.uri).history("test_loss").set_index("epoch")
    assert history.index.tolist() == list(range(EPOCHS))
    assert history.at[2, "value"] == 9
    assert history.at[3, "value"] < 1


def test_infinities_and_nan_come_back_as_they_were_logged(writer: Writer) -> None:
    experiment = writer.study("infinite", [])
    run = writer.run(experiment, "infinite", Job(0, "pretrained", artifacts=False))
    for epoch, value in enumerate([float("inf"), float("-inf"), float("nan")]):
        writer.log(run, {"odd": value}, epoch)
    values = load_study("infinite", writer.uri).history("odd")["value"].to_numpy()
    assert np.array_equal(values, [np.inf, -np.inf, np.nan], equal_nan=True)


def test_of_values_logged_at_the_same_time_the_largest_counts(writer: Writer) -> None:
    experiment = writer.study("same-time", [])
    run = writer.run(experiment, "same-time", Job(0, "pretrained", artifacts=False))
    for value in (3.0, float("-inf"), float("nan"), 5.0, -1.0):
        writer.log(run, {"odd": value}, epoch=0)
    writer.log(run, {"odd": float("-inf")}, epoch=1)
    writer.log(run, {"odd": float("nan")}, epoch=1)
    history = load_study("same-time", writer.uri).history("odd")
    assert history["value"].tolist() == [5.0, float("-inf")]


def test_reevaluated_metrics_are_columns_of_runs_and_no_epochs(writer: Writer) -> None:
    experiment = writer.study("shown-again", [Job(0, "scratch", artifacts=False)])
    run = writer.run(experiment, "shown-again", Job(0, "pretrained", artifacts=False))
    writer.log(run, {"reevaluated_recall_spiral": float("inf"), "reevaluated_accuracy": 0.5}, 0)
    study = load_study("shown-again", writer.uri)
    added = ["reevaluated_accuracy", "reevaluated_recall_spiral"]
    assert list(study.runs.columns) == [*schema.RUN_COLUMNS, *added]
    assert study.runs[added].to_numpy().tolist()[0] == [0.5, float("inf")]
    assert study.runs[added].iloc[1].isna().all()
    assert not set(added) & set(study.metric_names)


def test_frames_have_the_documented_dtypes_even_when_empty(writer: Writer, demo: Study) -> None:
    writer.study("idle", [Job(0, "scratch", epochs=0, status="running", artifacts=False)])
    idle = load_study("idle", writer.uri)
    for study in (demo, idle):
        kinds = study.runs.dtypes.astype(str)
        assert kinds[schema.SPLIT] == "int64"
        assert set(kinds[list(schema.SUMMARY)]) == {"float64"}
        assert set(kinds.drop([schema.SPLIT, *schema.SUMMARY])) == {"str"}
        found = study.metrics.dtypes.astype(str).to_dict()
        texts = dict.fromkeys(("run_id", schema.ARM, "metric"), "str")
        assert found == {**texts, schema.SPLIT: "int64", "epoch": "int64", "value": "float64"}
    assert idle.metrics.empty


def test_one_metric_is_the_same_alone_and_among_all(writer: Writer) -> None:
    alone, among = load_study("demo", writer.uri), load_study("demo", writer.uri)
    assert len(among.metrics)
    pd.testing.assert_frame_equal(alone.history("test_mcc"), among.history("test_mcc"))


@pytest.mark.parametrize("most", [0, 10**6])
def test_all_values_are_the_same_by_run_and_from_the_whole_table(
    writer: Writer, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    writer.study(f"beside-{most}", [Job(0, "scratch", artifacts=False)])
    usual = load_study("demo", writer.uri).metrics
    monkeypatch.setattr(database, "MOST", most)
    pd.testing.assert_frame_equal(load_study("demo", writer.uri).metrics, usual)
    assert set(load_study(f"beside-{most}", writer.uri).metrics["split"]) == {0}


@pytest.mark.parametrize("steps", [[-3, 0, 2**62], [-(2**63), 2**63 - 1, 5], [7, 8, 9]])
def test_points_are_sorted_whatever_their_steps(steps: list[int]) -> None:
    points = Points.of([1, 0, 0] * 2, [0, 1, 1] * 2, steps * 2, [1] * 3 + [2] * 3, range(6))
    wanted = sorted(
        (metric, run, step) for metric, run, step in zip([1, 0, 0], [0, 1, 1], steps, strict=True)
    )
    latest = points.latest()
    found = list(zip(latest.metric, latest.run, latest.step, strict=True))
    assert found == wanted
    by_step = dict(zip(steps, [3.0, 4.0, 5.0], strict=True))
    assert latest.value.tolist() == [by_step[step] for _, _, step in wanted]


def test_artifacts_are_read_and_a_missing_one_is_none(demo: Study) -> None:
    run = demo.runs["run_id"][0]
    assert demo.artifact(run, schema.STUDY_FILE) == STUDY_TOML.encode()
    picture = demo.artifact(run, schema.SAMPLES_FILE)
    assert picture is not None
    assert picture.startswith(b"\x89PNG")
    assert demo.artifact(run, "figures/other.png") is None
    assert demo.artifact(run, "nowhere/other.png") is None


def test_confusion_matrices_are_read_by_epoch_with_rows_true(demo: Study) -> None:
    run = demo.runs["run_id"][1]
    confusion = demo.confusions([run])[run]
    assert confusion.classes == CLASSES
    for epoch, matrix in enumerate(matrices(Job(0, "scratch"))):
        assert np.array_equal(confusion.epochs[epoch], matrix)


def test_a_damaged_confusion_artifact_is_refused_by_name() -> None:
    for text in (b"{", b"[]", b'{"classes": ["a"], "epochs": [{"epoch": 0}]}'):
        with pytest.raises(AnalysisError, match="run abc"):
            Confusion.from_json(text, "confusion/test.json of run abc")


def test_deleted_runs_and_runs_of_other_kinds_are_left_out(writer: Writer) -> None:
    experiment = writer.study("mixed", [Job(0, "pretrained", artifacts=False)])
    gone = writer.run(experiment, "mixed", Job(1, "pretrained", artifacts=False))
    writer.client.delete_run(gone)
    writer.client.create_run(experiment, tags={"made": "by hand"})
    report = schema.JobId("mixed", 2, "scratch").tags() | {schema.KIND: schema.REPORT}
    writer.client.create_run(experiment, tags=report)
    assert load_study("mixed", writer.uri).runs[schema.SPLIT].tolist() == [0]


def test_a_missing_store_is_named_and_not_created_by_asking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("GALAXY_MLFLOW_HOME", str(tmp_path / "home"))
    with pytest.raises(StudyNotFoundError, match=r"home/mlflow\.db.*galaxy-mlflow run"):
        load_study("demo")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_store_is_left_as_it_is(tmp_path: Path) -> None:
    for name, content in {"empty.db": b"", "text.db": b"no database, but text" * 9}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(StudyNotFoundError, match="no MLflow database"):
            load_study("demo", f"sqlite:///{tmp_path / name}")
        assert (tmp_path / name).read_bytes() == content


def test_the_default_store_is_found_by_environment(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("GALAXY_MLFLOW_HOME", str(writer.folder))
    assert len(load_study("demo").runs) == 16
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////nowhere/mlflow.db")
    with pytest.raises(StudyNotFoundError, match="/nowhere"):
        load_study("demo")


def test_an_unknown_study_is_refused_with_the_nearest_known(writer: Writer, demo: Study) -> None:
    with pytest.raises(StudyNotFoundError, match="did you mean 'demo'"):
        load_study("demmo", writer.uri)


def test_a_study_without_runs_and_a_deleted_study_are_not_found(writer: Writer) -> None:
    experiment = writer.study("hollow", [])
    with pytest.raises(StudyNotFoundError, match="no runs yet"):
        load_study("hollow", writer.uri)
    writer.client.delete_experiment(experiment)
    with pytest.raises(StudyNotFoundError, match="no study 'hollow'"):
        load_study("hollow", writer.uri)


def test_an_unknown_metric_is_refused_with_the_nearest_known(demo: Study) -> None:
    with pytest.raises(AnalysisError, match="did you mean 'test_loss'"):
        demo.history("test_los")


def test_analysis_works_from_store_to_report_with_torch_blocked(
    writer: Writer, demo: Study, tmp_path: Path
) -> None:
    script = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocker())
import analysis
from analysis.report import write_report
study = analysis.load_study("demo", {writer.uri!r})
write_report(study, {str(tmp_path / "report.html")!r})
assert "torch" not in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_only_query_imports_mlflow_and_importing_analysis_does_not() -> None:
    importers = {
        file.name
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Import | ast.ImportFrom)
        and any(
            name.split(".")[0] == "mlflow"
            for name in [getattr(node, "module", None) or "", *(a.name for a in node.names)]
        )
    }
    assert importers == {"query.py"}
    check = "import sys, analysis; sys.exit('mlflow' in sys.modules or 'matplotlib' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True, timeout=60)


def test_the_public_names_of_analysis_are_those_listed() -> None:
    assert analysis.__all__ == sorted(analysis.__all__)
    assert all(hasattr(analysis, name) for name in analysis.__all__)
