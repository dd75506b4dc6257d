"""`galaxy-mlflow predict` on Ray gives the answers that it gives here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fixtures_cli import PROGRAM
from fixtures_predict import Trained


def test_ray_gives_the_same_answers(
    trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GALAXY_MLFLOW_HOME", str(trained.home.path))
    monkeypatch.chdir(tmp_path)
    images = [str(trained.folder / "images" / f"{i:03d}.png") for i in range(60)]
    Path("list.csv").write_text("\n".join(["path", *images, "none.png"]) + "\n")
    command = [PROGRAM, "predict", "--ensemble", "small/one", "list.csv", "--threads", "1"]
    for engine in ("local", "ray"):
        out = ["--out", f"{engine}.parquet", "--engine", engine]
        done = subprocess.run([*command, *out], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "1 images could not be used" in done.stderr
    here, there = (pq.read_table(f"{engine}.parquet") for engine in ("local", "ray"))
    assert there.drop_columns(_numbers(here)).equals(here.drop_columns(_numbers(here)))
    for name in _numbers(here):
        assert np.abs(there[name].to_numpy() - here[name].to_numpy()).max() < 1e-6
    assert Path("local-bad.csv").read_text() == Path("ray-bad.csv").read_text()


def _numbers(table: pa.Table) -> list[str]:
    measures = ("confidence", "entropy", "spread", "disagreement")
    return [name for name in table.column_names if name.startswith("p_") or name in measures]
