"""`galaxy-mlflow predict` as a user calls it: answers, words, exit codes, Ctrl-C, and on Ray."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from fixtures_cli import PROGRAM, Call
from fixtures_predict import Trained

from galaxy_mlflow.predict_run import Parts, Progress, Request, local_parts
from galaxy_mlflow.ray_predict import RayPlace

ROWS = 40_000
"""Ten parts: a command that has done one is seconds from its end."""


@pytest.fixture(autouse=True)
def in_the_home(trained: Trained, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GALAXY_MLFLOW_HOME", str(trained.home.path))
    monkeypatch.chdir(tmp_path)


def test_an_ensemble_on_a_folder_with_a_bad_image(trained: Trained, call: Call) -> None:
    Path("images").mkdir()
    for file in sorted((trained.folder / "images").iterdir())[:5]:
        (Path("images") / file.name).symlink_to(file)
    Path("images/broken.png").write_bytes(b"no image")
    done = call("predict", "--ensemble", "small/one", "images", "--out", "new/out.csv")
    assert done.code == 0, done.err
    assert "new/out.csv: 5 images" in done.out
    assert "images/s" in done.out
    assert "split-001/one" in done.out
    assert "1 images could not be used: new/out-bad.csv says which, and why" in done.err
    table = pyarrow.csv.read_csv("new/out.csv").to_pandas()
    assert list(table["id"]) == [f"{i:03d}.png" for i in range(5)]
    assert (table["spread"] > 0).all()
    bad = pyarrow.csv.read_csv("new/out-bad.csv").to_pylist()
    assert [(row["row"], row["where"]) for row in bad] == [(5, "broken.png")]
    about = json.loads(Path("new/out-about.json").read_text())
    assert about["runs"] == [trained.record(split).run_id for split in (0, 1)]
    assert (about["images"], about["bad_images"]) == (5, 1)
    assert all(temperature != 1.0 for temperature in about["temperatures"])


def test_a_run_by_its_name_on_a_csv(trained: Trained, call: Call) -> None:
    given = ("predict", "--run", "small/split-000/half", str(trained.folder / "labels.csv"))
    done = call(*given, "--out", "out.parquet", "--threads", "1", "--device", "cpu")
    assert done.code == 0, done.err
    assert pq.read_table("out.parquet")["id"].to_pylist() == [f"g{i:03d}" for i in range(60)]
    again = call(*given, "--out", "out.parquet")
    assert again.code == 2
    assert "is there already: --replace" in again.err


def test_workers_elsewhere_find_a_list_that_is_named_from_here(
    trained: Trained, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[Path] = []

    def elsewhere(request: Request, _: RayPlace, progress: Progress) -> Parts:
        sent.append(request.images.path)
        return local_parts(request, "cpu", progress)

    monkeypatch.setattr("galaxy_mlflow.ray_predict.ray_parts", elsewhere)
    Path("list.csv").symlink_to(trained.folder / "labels.csv")
    Path("images").symlink_to(trained.folder / "images")
    for engine in ("local", "ray"):
        done = call("predict", "--best", "small/one", "list.csv", "--out", f"{engine}.csv",
                    "--threads", "1", "--engine", engine)  # fmt: skip
        assert done.code == 0, done.err
    assert sent == [Path.cwd() / "list.csv"]
    for name in ("{}.csv", "{}-about.json"):
        assert Path(name.format("local")).read_text() == Path(name.format("ray")).read_text()


def test_nothing_but_bad_images_is_no_success(call: Call) -> None:
    Path("list.csv").write_text("path\nnone.png\n")
    done = call("predict", "--best", "small/one", "list.csv", "--out", "out.csv")
    assert done.code == 1
    assert "1 images could not be used" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["images", "--out", "o.csv"], "give one of --run ID, --best STUDY/ARM"),
        (["images", "--run", "x", "--best", "a/b", "--out", "o.csv"], "there is --run and --best"),
        (["images", "--best", "small/one", "--out", "o.cvs"], "did you mean '.csv'"),
        (["nothing", "--best", "small/one", "--out", "o.csv"], "no such folder or file"),
        (["IMAGES", "--best", "small/two", "--out", "o.csv"], "no arm 'two'"),
        (["IMAGES", "--best", "smal/one", "--out", "o.csv"], "did you mean 'small'"),
        (["IMAGES", "--run", "f" * 32, "--out", "o.csv"], "has no run"),
        (["IMAGES", "--best", "small/one", "--out", "o.csv", "--engine", "rai"], "mean 'ray'"),
        (["IMAGES", "--best", "small/one", "--out", "o.csv", "--address", "h:1"], "--engine ray"),
        (["IMAGES", "--best", "small/one", "--out", "o.csv", "--device", "tpu"], "no such device"),
    ],
)
def test_what_cannot_be_done_is_told_and_leaves_nothing(
    trained: Trained, call: Call, arguments: list[str], words: str
) -> None:
    given = [str(trained.folder / "images") if text == "IMAGES" else text for text in arguments]
    done = call("predict", *given)
    assert done.code == 2
    assert words in done.err
    assert not list(Path().iterdir())


def test_ctrl_c_says_how_to_go_on_and_the_same_call_does(trained: Trained, tmp_path: Path) -> None:
    images = [str(trained.folder / "images" / f"{i % 60:03d}.png") for i in range(ROWS)]
    Path("list.csv").write_text("\n".join(["path", *images]) + "\n")
    command = [PROGRAM, "predict", "--best", "small/one", "list.csv", "--out", "out.parquet"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob(".out.parquet.parts/part-*")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "call the same command again" in err
    assert "Traceback" not in err
    assert not Path("out.parquet").exists()
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "were done before" in again.stdout
    assert pq.read_metadata("out.parquet").num_rows == ROWS
    assert sorted(os.listdir(tmp_path)) == ["list.csv", "out-about.json", "out.parquet"]
