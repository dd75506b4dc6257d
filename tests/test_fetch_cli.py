"""`data fetch` as a person calls it, and what it leaves as the data of a study."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from fixtures_cli import Call
from survey_server import PAGE, Survey, good, send, surveying
from vizier_answer import vizier_answer

QUICK = ("--pixels", "64", "--rate", "100", "--attempts", "2")
CSV = "id,ra,dec,label,petrorad\na,1,1,spiral,5\nb,2,1,round,4\nc,3,1,spiral,6\nd,4,1,round,7\n"
STUDY = """\
{data}image_size = 64
[splits]
count = 2
[training]
architecture = "squeezenet1_1"
epochs = 1
[arm.one]
"""


@pytest.fixture
def galaxies(tmp_path: Path) -> Path:
    file = tmp_path / "galaxies.csv"
    file.write_text(CSV)
    return file


def test_cutouts_make_a_data_set(
    galaxies: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALAXY_MLFLOW_HOME", str(tmp_path / "home"))
    out = tmp_path / "out"
    with surveying(Survey()) as survey:
        done = call("data", "fetch", "cutouts", str(galaxies), "--out", str(out),
                    "--server", survey.url, *QUICK)  # fmt: skip
    assert done.code == 0, done.err
    assert f"4 pictures in {out}, 4 of them new" in done.out + done.err
    card = (out / "README.md").read_text()
    assert "| round | 2 |" in card
    assert "Sloan Digital Sky Survey" in card
    study = tmp_path / "study.toml"
    study.write_text(STUDY.format(data=card.partition("```toml\n")[2].partition("```")[0]))
    checked = call("data", "check", str(study))
    assert checked.code == 0, checked.err
    assert "4 images" in checked.out + checked.err


def test_a_galaxy_that_cannot_be_had_is_told_and_ends_with_1(
    galaxies: Path, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "out"
    words = ("data", "fetch", "cutouts", str(galaxies), "--out", str(out), *QUICK)
    with surveying(Survey({"2": lambda handler, _: send(handler, PAGE, 404)})) as survey:
        done = call(*words, "--server", survey.url)
        survey.faults.clear()
        again = call(*words, "--server", survey.url)
    assert done.code == 1
    assert "1 galaxy has no picture" in done.out + done.err
    assert "  b: answers 404" in done.out + done.err
    assert again.code == 0
    assert "1 of them new" in again.out + again.err


def test_the_field_of_view_follows_the_radius(galaxies: Path, tmp_path: Path, call: Call) -> None:
    asked: list[str] = []

    def listen(handler: BaseHTTPRequestHandler, number: int) -> None:
        asked.append(handler.path)
        good(handler, number)

    with surveying(Survey(dict.fromkeys("1234", listen))) as survey:
        words = ("--survey", "legacy", "--radii", "8", "--server", survey.url, *QUICK)
        done = call(
            "data", "fetch", "cutouts", str(galaxies), "--out", str(tmp_path / "out"), *words
        )
    assert done.code == 0, done.err
    assert {path.partition("pixscale=")[2] for path in asked} == {
        f"{8 * radius / 64:.6f}&size=64" for radius in (4, 5, 6, 7)
    }


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--survey", "sdsss"), "expected sdss or legacy (did you mean 'sdss'?)"),
        (("--pixels", "10"), "sdss cuts pictures of 64 to 2048 pixels"),
        (("--radii", "8", "--radius-column", "r90"), "no column 'r90'"),
    ],
)
def test_a_wrong_word_is_told(
    words: tuple[str, ...], message: str, galaxies: Path, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "out"
    done = call("data", "fetch", "cutouts", str(galaxies), "--out", str(out), *words)
    assert done.code == 2
    assert message in done.err
    assert not out.exists()


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> int:
    """A catalogue of few galaxies passes for whole."""
    monkeypatch.setattr("galaxy_mlflow.vizier.PUBLISHED_TTYPES", {0: 120})
    return 120


def test_nair_abraham_makes_a_data_set_and_a_verdict(
    few: int, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GALAXY_MLFLOW_HOME", str(tmp_path / "home"))
    out = tmp_path / "out"
    with surveying(Survey()) as sky, surveying(_vizier(few)) as vizier:
        done = call("data", "fetch", "nair-abraham", "--out", str(out), "--server", sky.url,
                    "--catalogue-server", vizier.url, *QUICK)  # fmt: skip
    assert done.code == 0, done.err
    told = done.out + done.err
    assert "corrected labels" in told
    assert "of 7,708" in told
    assert "These are not the class counts of the published study." in told
    card = (out / "README.md").read_text()
    assert "Nair & Abraham 2010" in card
    study = tmp_path / "study.toml"
    study.write_text(STUDY.format(data=card.partition("```toml\n")[2].partition("```")[0]))
    checked = call("data", "check", str(study))
    assert checked.code == 0, checked.err
    assert f"{few} images" in checked.out + checked.err


def test_a_catalogue_that_was_cut_is_refused(tmp_path: Path, call: Call) -> None:
    with surveying(_vizier(50)) as vizier:
        done = call("data", "fetch", "nair-abraham", "--out", str(tmp_path / "out"),
                    "--catalogue-server", vizier.url, *QUICK)  # fmt: skip
    assert done.code == 2
    assert "sends 50 of the catalogue's 14,034 galaxies (2 attempts)" in done.err
    assert not (tmp_path / "out").exists()


def _vizier(rows: int) -> Survey:
    def answer(handler: BaseHTTPRequestHandler, _: int) -> None:
        assert "-out.max=unlimited" in handler.path
        send(handler, vizier_answer(rows))

    return Survey({"0": answer})
