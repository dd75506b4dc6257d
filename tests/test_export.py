from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from fixtures_analysis import ARMS, STUDY_TOML, Job, Writer
from same_study import assert_same

from analysis import Study, load_study
from analysis.export import ARTIFACTS, MANIFEST
from galaxy_mlflow import schema
from galaxy_mlflow.errors import AnalysisError


@pytest.fixture(scope="module")
def odd(writer: Writer) -> Study:
    """A study with all that a file format may lose."""
    experiment = writer.study("odd-values", [Job(0, ARMS[0])])
    run = writer.run(experiment, "odd-values", Job(0, ARMS[1], status=schema.RUNNING))
    for epoch, value in enumerate([float("inf"), float("-inf"), float("nan")]):
        writer.log(run, {"odd": value}, epoch)
    writer.log(run, {"reevaluated_accuracy": 0.5, "reevaluated_recall_irr_misc": 0.25}, 0)
    writer.client.log_param(run, "note", "äöü, 'quoted'\nsecond line")
    writer.client.log_dict(run, {"classes": ["a"], "matrix": [[1]]}, schema.REEVALUATED_FILE)
    return load_study("odd-values", writer.uri)


@pytest.fixture(scope="module")
def exported(odd: Study, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return odd.export(tmp_path_factory.mktemp("export") / "odd-values")


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    """An export to spoil."""
    return Path(shutil.copytree(exported, tmp_path / "copied"))


def manifest(folder: Path) -> dict[str, object]:
    return dict(json.loads((folder / MANIFEST).read_text()))


def assert_whole(first: Study, second: Study) -> None:
    assert_same(first, second)
    for run in first.runs["run_id"]:
        assert all(first.artifact(run, p) == second.artifact(run, p) for p in ARTIFACTS)


def test_an_export_is_the_same_study(odd: Study, exported: Path) -> None:
    read = load_study(exported)
    assert_whole(read, odd)
    pd.testing.assert_frame_equal(read.history("odd"), odd.history("odd"))
    runs = list(odd.runs["run_id"])
    assert read.confusions(runs).keys() == odd.confusions(runs).keys() == set(runs)
    assert read.artifacts(runs, schema.REEVALUATED_FILE).keys() == {runs[1]}


def test_values_by_epoch_come_back_odd_as_they_were(exported: Path) -> None:
    values = load_study(exported).history("odd")["value"].to_numpy()
    assert np.array_equal(values, [np.inf, -np.inf, np.nan], equal_nan=True)
    column = pq.read_table(exported / "metrics.parquet")["value"]
    assert column.null_count == 0  # a nan that was logged is a value for every reader


def test_the_manifest_says_what_where_when_and_names_every_file(
    odd: Study, exported: Path, writer: Writer
) -> None:
    found = json.loads((exported / MANIFEST).read_text())
    assert found["study"] == "odd-values"
    assert found["question"] == "Does pretraining help?"
    assert found["arms"] == list(ARMS)
    assert found["metric_names"] == list(odd.metric_names)
    assert found["read_from"] == writer.uri
    assert found["written"].endswith("+00:00")
    assert found["versions"].keys() == {"galaxy-mlflow", "python", "pandas", "pyarrow", "mlflow"}
    assert found["study_file"]["text"] == STUDY_TOML
    assert found["study_file"]["sha256"] == hashlib.sha256(STUDY_TOML.encode()).hexdigest()
    there = {p.relative_to(exported).as_posix() for p in exported.rglob("*") if p.is_file()}
    assert found["files"].keys() == there - {MANIFEST}
    for name, entry in found["files"].items():
        content = (exported / name).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["bytes"] == len(content)
    assert found["files"]["metrics.parquet"]["rows"] == len(odd.metrics)
    assert found["files"]["runs.parquet"]["rows"] == 2


def test_tables_are_zstd_parquet(exported: Path) -> None:
    for name in ("runs", "metrics", "tags", "params"):
        group = pq.ParquetFile(exported / f"{name}.parquet").metadata.row_group(0)
        assert {group.column(i).compression for i in range(group.num_columns)} == {"ZSTD"}


def test_a_second_export_has_the_same_bytes_but_for_the_time(
    odd: Study, exported: Path, tmp_path: Path, writer: Writer
) -> None:
    again = load_study("odd-values", writer.uri).export(tmp_path / "again")
    first, second = manifest(exported), manifest(again)
    assert first["files"] == second["files"]
    assert first | {"written": ""} == second | {"written": ""}


def test_an_export_is_read_by_name_and_by_path(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(exported.parent)
    for name in ("odd-values", "./odd-values", str(exported), Path("odd-values")):
        assert load_study(name).name == "odd-values"
    with pytest.raises(AnalysisError, match=r"nowhere/manifest\.json: cannot be read"):
        load_study("./nowhere")


def test_an_export_needs_neither_server_nor_mlflow(exported: Path) -> None:
    script = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("mlflow", "torch", "sqlalchemy"):
            raise ImportError(name + " is blocked")
sys.meta_path.insert(0, Blocker())
import analysis
study = analysis.load_study({str(exported)!r})
assert len(study.metrics) and study.confusions(list(study.runs.run_id))
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_an_export_of_an_export_may_replace_it(odd: Study, copied: Path) -> None:
    study = load_study(copied)
    assert study.export(copied) == copied
    assert_whole(load_study(copied), odd)
    assert [path.name for path in copied.parent.iterdir() if "copied" in path.name] == ["copied"]


def test_an_older_export_is_replaced_whole(demo: Study, odd: Study, tmp_path: Path) -> None:
    folder = demo.export(tmp_path / "export")
    odd.export(folder)
    assert_whole(load_study(folder), odd)
    assert len(list((folder / "artifacts").iterdir())) == 2


def test_an_empty_folder_is_filled_and_missing_parents_are_made(odd: Study, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert odd.export(tmp_path / "empty") == tmp_path / "empty"
    assert odd.export(str(tmp_path / "new" / "deep")) == tmp_path / "new" / "deep"


def test_what_is_no_export_is_never_overwritten(odd: Study, copied: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("ten years")
    (tmp_path / "file").write_text("mine")
    (copied / "notes.txt").write_text("mine")
    for place, words in {
        other: "no export of a study",
        tmp_path / "file": "a file is there",
        copied: r"notes\.txt is no part of the export",
    }.items():
        with pytest.raises(AnalysisError, match=words):
            odd.export(place)
    assert (other / "thesis.tex").read_text() == "ten years"
    assert (copied / "notes.txt").read_text() == "mine"


def test_a_failing_export_leaves_the_older_one_and_nothing_else(
    writer: Writer, copied: Path
) -> None:
    experiment = writer.study("breaks", [])
    run = writer.run(experiment, "breaks", Job(0, ARMS[0]))
    study = load_study("breaks", writer.uri)
    writer.client.log_param(run, "late", "1")
    study.params[run]["late"] = 1  # type: ignore[index]  # no text: its table cannot be written
    before = manifest(copied)
    for folder in (copied, copied.with_name("new")):
        with pytest.raises(TypeError):
            study.export(folder)
    assert manifest(copied) == before
    assert [p.name for p in copied.parent.iterdir() if p.name != "home"] == ["copied"]


@pytest.mark.parametrize("name", ["runs.parquet", "metrics.parquet", "tags.parquet"])
def test_a_damaged_file_is_named(copied: Path, name: str) -> None:
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(AnalysisError, match=rf"{name}: damaged"):
        load_study(copied)


def test_a_missing_artifact_is_named(copied: Path) -> None:
    [file, *_] = sorted(copied.glob("artifacts/*/confusion/test.json"))
    file.unlink()
    with pytest.raises(AnalysisError, match=r"confusion/test\.json: missing from the export"):
        load_study(copied)


def test_an_unknown_format_and_a_damaged_manifest_are_refused(copied: Path) -> None:
    good = manifest(copied)
    spoiled = {
        "format version 99": json.dumps(good | {"format_version": 99}),
        "not JSON": json.dumps(good)[:-20],
        "not the manifest": json.dumps({"files": {}}),
        "no usable entry 'files'": json.dumps({k: v for k, v in good.items() if k != "files"}),
        "no usable entry 'tags.parquet'": json.dumps(
            good | {"files": {k: v for k, v in good["files"].items() if k != "tags.parquet"}}
        ),
    }
    for words, text in spoiled.items():
        (copied / MANIFEST).write_text(text)
        with pytest.raises(AnalysisError, match=words):
            load_study(copied)


def test_an_export_that_cannot_be_written_says_so(odd: Study, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AnalysisError, match="cannot be written there"):
        odd.export(tmp_path / "file" / "export")
    assert os.listdir(tmp_path) == ["file"]
