"""A report's images and heat maps, from really trained runs, by the command line."""

from __future__ import annotations

import base64
import csv
import io
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from fixtures_cli import Call
from fixtures_tracking import begin_home
from PIL import Image
from small_study import STUDY, write_study

from analysis import load_study
from analysis.answers import all_answers
from galaxy_mlflow.errors import DataError
from galaxy_mlflow.evidence import LARGEST, as_jpeg
from galaxy_mlflow.home import Home
from galaxy_mlflow.image_index import read_index

# Hardly trained, so that there are mistakes.
TEXT = STUDY.replace("epochs = 3", "epochs = 1").replace("count = 2", "count = 3")


@pytest.fixture(scope="module")
def trained(empty_database: bytes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small study, its images, and a home in which it was trained."""
    folder = tmp_path_factory.mktemp("trained")
    home = begin_home(folder / "home", empty_database)
    write_study(folder, TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GALAXY_MLFLOW_HOME", str(home.path))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        _run(str(folder / "small.toml"))
    return folder


def _run(study: str) -> None:
    from galaxy_mlflow.cli_runs import train
    from galaxy_mlflow.options import read_study
    from galaxy_mlflow.placement import Machine

    assert train(*read_study(study, None, None, None), Machine(threads=1)) == 0


@pytest.fixture
def here(trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The trained study's home is the one in use, and another folder the current one."""
    monkeypatch.setenv("GALAXY_MLFLOW_HOME", str(trained / "home"))
    monkeypatch.chdir(tmp_path)
    return trained


def reported(call: Call, *arguments: str) -> str:
    """Write a page alone, and return it from the mistakes on."""
    done = call("report", *arguments, "--out", "page.html", "--min-pairs", "2", "--no-log")
    assert (done.code, done.err) == (0, "")
    page = Path("page.html").read_text()
    start = page.index("<h2>The mistakes</h2>")
    return page[start:]


def images_in(text: str) -> list[Image.Image]:
    """Return the inline JPEGs of a page, decoded."""
    found = re.findall(r"data:image/jpeg;base64,([^\"]+)", text)
    return [Image.open(io.BytesIO(base64.b64decode(content))) for content in found]


def test_a_study_given_by_name_shows_its_images_with_no_study_file(call: Call, here: Path) -> None:
    text = reported(call, "small")
    shown = images_in(text)
    assert shown
    assert {image.size for image in shown} == {(32, 32)}
    assert "Grad-CAM of split-00" in text
    assert "No image can be shown here" not in text


def test_disputed_labels_name_the_files_to_look_at(call: Call, here: Path) -> None:
    assert call("report", "small", "--out", "out", "--min-pairs", "2", "--no-log").code == 0
    rows = list(csv.DictReader(io.StringIO(Path("out/disputed.csv").read_text())))
    assert rows
    for row in rows:
        assert Path(row["path"]).name == f"{row['id'][1:]}.png"
        assert Path(row["path"]).is_file()


def test_the_networks_that_are_asked_had_the_image_in_their_test_set(
    call: Call, here: Path
) -> None:
    text = reported(call, "small")
    answers = all_answers(load_study("small"))
    tested = {(f"split-{k:03d}/{arm}", name) for k, arm, name in answers.iloc[:, :3].to_numpy()}
    asked = [
        (network[1], name[1])
        for card in text.split('<li class="shot')
        if (network := re.search(r"; Grad-CAM of ([^,]+),", card))
        and (name := re.search(r'class="id">([^<]+)<', card))
    ]
    assert asked
    assert set(asked) <= tested


def test_the_images_shown_are_those_of_their_ids(call: Call, here: Path) -> None:
    text = reported(call, "small", "--no-grad-cam")
    cards = re.findall(r'<img src="data:image/jpeg;base64,([^"]+)" alt="Galaxy (g\d+):', text)
    for content, name in cards:
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(content)))).astype(int)
        given = np.asarray(Image.open(here / "images" / f"{name[1:]}.png")).astype(int)
        assert np.abs(shown - given).mean() < 25  # noise, as JPEG keeps it


def test_without_grad_cam_the_images_stand_alone(call: Call, here: Path) -> None:
    text = reported(call, "small", "--no-grad-cam")
    assert images_in(text)
    assert "Grad-CAM" not in text


def test_elsewhere_the_study_file_finds_the_images_and_its_name_does_not(
    call: Call, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", Home(here / "home").database_uri)
    monkeypatch.setenv("GALAXY_MLFLOW_HOME", str(tmp_path / "elsewhere"))
    text = reported(call, "small")
    assert images_in(text) == []
    assert "give the study file to galaxy-mlflow report" in text
    assert "No image can be shown here: small: neither a study file nor a shipped" in text
    again = reported(call, str(here / "small.toml"))
    assert images_in(again)
    assert "Grad-CAM of split-00" in again


def test_images_of_other_data_are_not_shown(
    call: Call, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", Home(here / "home").database_uri)
    monkeypatch.setenv("GALAXY_MLFLOW_HOME", str(tmp_path / "elsewhere"))
    (tmp_path / "other").mkdir()
    other = write_study(tmp_path / "other", TEXT)
    Image.new("RGB", (32, 32), "red").save(tmp_path / "other" / "images" / "003.png")
    text = reported(call, str(other))
    assert images_in(text) == []
    assert "are not those that the runs were trained on" in text


@contextmanager
def instead(files: Iterable[Path], content: bytes | None) -> Iterator[None]:
    """Put other content in place of files for a while; None removes them."""
    kept = {file: file.read_bytes() for file in files}
    assert kept
    try:
        for file in kept:
            file.unlink()
            if content is not None:
                file.write_bytes(content)
        yield
    finally:
        for file, before in kept.items():
            file.write_bytes(before)


def checkpoints(here: Path) -> list[Path]:
    found = Home(here / "home").artifacts.rglob("checkpoints/*")
    return [file for file in found if file.is_file()]


def test_a_network_that_is_gone_costs_its_maps_alone(call: Call, here: Path) -> None:
    with instead(checkpoints(here), None):
        text = reported(call, "small")
    assert images_in(text)
    assert "Grad-CAM of split" not in text.split("<h2>Limits</h2>")[0]
    assert re.search(r"No Grad-CAM of split-00\d/\w+: run \w+ has no checkpoint", text)


def test_a_damaged_checkpoint_is_said_and_the_report_goes_on(call: Call, here: Path) -> None:
    with instead(checkpoints(here), b"nonsense"):
        text = reported(call, "small")
    assert images_in(text)
    assert "cannot be read as weights" in text


def test_decoded_images_that_are_gone_are_said(call: Call, here: Path) -> None:
    with instead(Home(here / "home").cache.glob("*/images.npy"), None):
        text = reported(call, "small")
    assert images_in(text) == []
    assert "the decoded images are gone or damaged" in text


def test_an_export_shows_images_and_says_that_it_has_no_networks(
    call: Call, here: Path, tmp_path: Path
) -> None:
    assert call("export", "small", "--out", "export").code == 0
    text = reported(call, str(tmp_path / "export"))
    assert images_in(text)
    assert "an export has not" in text


def test_a_machine_without_torch_shows_the_images_and_says_what_it_lacks(here: Path) -> None:
    code = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "captum"):
            raise ModuleNotFoundError(name + " is blocked")
sys.meta_path.insert(0, Blocked())
sys.argv = "galaxy-mlflow report small --out page.html --min-pairs 2 --no-log".split()
from galaxy_mlflow.cli import main
main()
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    page = Path("page.html").read_text()
    assert images_in(page)
    assert "Grad-CAM needs torch and captum: torch" in page


def test_an_index_knows_rows_ids_and_paths(here: Path) -> None:
    from galaxy_mlflow.cache import open_data
    from galaxy_mlflow.study_file import load_study_file

    cache = Home(here / "home").cache
    data = open_data(load_study_file(here / "small.toml").data, cache)
    index = read_index(cache, data.data_hash)
    pixels = index.pixels(["g003", "g041", "nobody"])
    assert set(pixels) == {"g003", "g041"}
    assert np.array_equal(pixels["g041"], data.batch([data.ids.index("g041")])[0])
    assert index.paths_of(["g003"]) == {"g003": str(here / "images" / "003.png")}
    with pytest.raises(DataError, match="holds no images of the data 0000"):
        read_index(cache, "0" * 64)


def test_a_damaged_index_is_an_error_that_names_it(here: Path, tmp_path: Path) -> None:
    (tmp_path / "cache" / "store").mkdir(parents=True)
    (tmp_path / "cache" / "store" / f"index-{'1' * 64}.parquet").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="not an index of images"):
        read_index(tmp_path / "cache", "1" * 64)


def test_images_moved_elsewhere_are_indexed_anew(tmp_path: Path) -> None:
    from galaxy_mlflow.cache import open_data
    from galaxy_mlflow.study_file import load_study_file

    for name in ("before", "after"):
        (tmp_path / name).mkdir()
        study = load_study_file(write_study(tmp_path / name, TEXT))
        data = open_data(study.data, tmp_path / "cache")
        paths = read_index(tmp_path / "cache", data.data_hash).paths_of(["g000"])
        assert paths == {"g000": str(tmp_path / name / "images" / "000.png")}


def test_large_images_are_shown_smaller_and_others_as_they_are() -> None:
    large = Image.open(io.BytesIO(as_jpeg(np.zeros((400, 400, 3), dtype=np.uint8))))
    small = Image.open(io.BytesIO(as_jpeg(np.zeros((64, 64, 3), dtype=np.uint8))))
    assert (large.size, small.size) == ((LARGEST, LARGEST), (64, 64))
