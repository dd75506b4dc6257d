"""The section on mistakes as a page: with and without pictures, whole, escaped, downloadable."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import pytest
from fixtures_analysis import ARMS, Job, Writer, sample_picture
from hand_answers import ANSWERS, FIRST, SECOND, Answer, of_network
from predicted_runs import PredictionWriter, parquet
from test_report import Balance

from analysis import Study, load_study
from analysis.compare import Question
from analysis.disputes import DISPUTED_COLUMNS
from analysis.mistakes_page import NO_PICTURES, _short
from analysis.report import write_report
from galaxy_mlflow.schema import JobId

SPLITS = 3
LOSER = [
    (k, arm, "loser", "merger", "spiral", 0.9 if k else 0.8) for k in range(SPLITS) for arm in ARMS
]
RIGHT = [(2, arm, "g", "merger", "merger", 0.8) for arm in ARMS]
ALL: tuple[Answer, ...] = (*ANSWERS, *LOSER, *RIGHT)


@dataclass
class Given:
    """Pictures of all images but those in `lacking`."""

    lacking: Sequence[str] = ()
    missing: Sequence[str] = ()
    asked: dict[JobId, Sequence[tuple[str, str]]] = field(default_factory=dict)

    def images(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        """Return the same picture for each."""
        return {name: sample_picture() for name in ids if name not in self.lacking}

    def paths(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return a path for each."""
        return {name: f"images/{name}.jpg" for name in ids if name not in self.lacking}

    def heat(
        self, wanted: Mapping[JobId, Sequence[tuple[str, str]]]
    ) -> Mapping[tuple[str, str], bytes]:
        """Return a JPEG's first bytes for each, and remember what was wanted."""
        self.asked = dict(wanted)
        return {target: b"\xff\xd8\xff heat" for targets in wanted.values() for target in targets}


@pytest.fixture(scope="module")
def study(writer: Writer) -> Study:
    return written(writer, "mistaken", ALL)


def written(writer: Writer, name: str, answers: Sequence[Answer]) -> Study:
    """Write a study with these answers, and load it."""
    files = {(k, arm): parquet(of_network(answers, k, arm)) for k in range(SPLITS) for arm in ARMS}
    curves = {(k, arm): [0.5 + 0.01 * k + 0.1 * (arm == FIRST)] for k, arm in files}
    store = PredictionWriter(writer.folder, files)
    store.curves = curves
    store.study(name, [Job(k, arm, epochs=1) for k in range(SPLITS) for arm in ARMS])
    return load_study(name, store.uri)


def page_of(study: Study, folder: Path, pictures: Given | None = None) -> str:
    question = Question(min_pairs=2)
    return write_report(study, folder / "r.html", question, pictures).read_text()


def section(page: str) -> str:
    start = page.index("<h2>The mistakes</h2>")
    return page[start : page.index("</section>", start)]


@pytest.fixture(scope="module")
def pictured(study: Study, tmp_path_factory: pytest.TempPathFactory) -> str:
    return section(page_of(study, tmp_path_factory.mktemp("page"), Given()))


def test_the_mistakes_follow_the_comparison(study: Study, tmp_path: Path) -> None:
    page = page_of(study, tmp_path)
    titles = re.findall("<h2>([^<]*)</h2>", page)
    assert titles[1] == "The mistakes"
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    assert "<script" not in page


def test_pairs_stand_in_order_with_their_counts(pictured: str) -> None:
    headings = re.findall(r"<h4>(\w+) <span>taken for</span> (\w+)</h4>", pictured)
    assert headings == [("spiral", "elliptical"), ("merger", "spiral"), ("elliptical", "spiral")]
    assert "9 wrong answers to 4 images" in pictured
    assert "1 wrong answer to 1 image" in pictured
    assert "6 networks gave 24 answers to the 7 images of their test sets; 16 are wrong" in pictured


def test_a_card_has_the_image_its_id_and_each_arms_count(pictured: str) -> None:
    card = next(part for part in pictured.split('<li class="shot') if ">a</p>" in part)
    assert 'alt="Galaxy a: labelled spiral, taken for elliptical"' in card
    assert base64.b64encode(sample_picture()).decode() in card
    assert "<span>2 of 2<small> 0.85</small></span>" in card
    assert "<span>1 of 2<small> 0.70</small></span>" in card
    assert "width: 100%" in card
    assert "width: 50%" in card
    assert "tested in 2 splits" in card


def test_heat_stands_beside_the_image_with_the_network_that_was_asked(
    study: Study, tmp_path: Path
) -> None:
    given = Given()
    text = section(page_of(study, tmp_path, given))
    assert f"Grad-CAM of split-000/{FIRST}, 0.90" in text
    assert {job.study for job in given.asked} == {"mistaken"}
    answers = {(k, arm, name, told) for k, arm, name, _, told, _ in ALL}
    for job, targets in given.asked.items():
        assert {(job.split, job.arm, *target) for target in targets} <= answers
    assert text.count("data:image/jpeg;base64") >= len(set().union(*given.asked.values()))


def test_without_pictures_the_page_names_images_by_id_and_says_how_to_see_them(
    study: Study, tmp_path: Path
) -> None:
    text = section(page_of(study, tmp_path))
    assert NO_PICTURES.split(":")[0] in text
    assert "<img" not in text
    for name in "adbc":
        assert f'<p class="id">{name}</p>' in text
    assert "Grad-CAM" not in text


def test_an_image_that_is_lacking_leaves_the_others_and_is_asked_no_network(
    study: Study, tmp_path: Path
) -> None:
    given = Given(lacking=["a"], missing=["a is lacking."])
    page = page_of(study, tmp_path, given)
    assert "Galaxy a:" not in page
    assert "Galaxy d:" in page
    assert not any("a" in target for targets in given.asked.values() for target in targets)
    assert "<li>a is lacking.</li>" in page[page.index("<h2>Limits</h2>") :]


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_disputed_labels_are_a_file_beside_the_page_and_a_link_in_it(
    study: Study, tmp_path: Path
) -> None:
    question = Question(min_pairs=2)
    page = write_report(study, tmp_path / "out", question, Given()).read_text()
    text = (tmp_path / "out" / "disputed.csv").read_text()
    link = re.search(r'href="data:text/csv;base64,([^"]+)" download="disputed.csv"', page)
    assert link is not None
    assert base64.b64decode(link[1]).decode() == text
    (row,) = rows_of(text)
    assert tuple(row) == (*DISPUTED_COLUMNS, "path")
    assert (row["id"], row["label"], row["suggested"]) == ("loser", "merger", "spiral")
    assert (row["networks"], row["disputing"], row["path"]) == ("6", "6", "images/loser.jpg")
    assert row["mean_probability_of_suggested"] == "0.8667"
    assert "merger → spiral" in page
    assert "6 of 6 contradict the label" in page


def test_a_path_that_is_not_known_is_empty(study: Study, tmp_path: Path) -> None:
    question = Question(min_pairs=2)
    write_report(study, tmp_path / "out", question)
    (row,) = rows_of((tmp_path / "out" / "disputed.csv").read_text())
    assert row["path"] == ""


def test_networks_without_a_mistake_have_an_empty_section(writer: Writer, tmp_path: Path) -> None:
    right = [(k, arm, "g", "merger", "merger", 0.8) for k in range(SPLITS) for arm in ARMS]
    perfect = written(writer, "perfect", right)
    given = Given()
    text = section(page_of(perfect, tmp_path, given))
    assert "0 are wrong" in text
    assert "No label is contradicted" in text
    assert "disputed.csv" not in text
    assert given.asked == {}


def test_names_of_classes_and_images_are_escaped(writer: Writer, tmp_path: Path) -> None:
    files = {}
    for k in range(SPLITS):
        for arm in ARMS:
            table = pd.DataFrame({"id": ['<b id="x">'], "true": ["<i>s</i>"], "predicted": ["a&b"]})
            files[k, arm] = parquet(table.assign(**{"p_<i>s</i>": 0.1, "p_a&b": 0.9}))
    store = PredictionWriter(writer.folder, files)
    store.curves = {key: [0.5 + 0.01 * key[0]] for key in files}
    store.study("odd", [Job(k, arm, epochs=1) for k in range(SPLITS) for arm in ARMS])
    text = section(page_of(load_study("odd", store.uri), tmp_path, Given()))
    assert "<i>s" not in text
    assert "&lt;i&gt;s&lt;/i&gt; <span>taken for</span> a&amp;b" in text
    assert '<b id="x">' not in text
    assert "&lt;b id=&#34;x&#34;&gt;" in text


def test_the_same_runs_give_the_same_page(study: Study, tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    assert page_of(study, tmp_path, Given()) == page_of(study, tmp_path / "again", Given())


def test_many_pairs_are_folded_and_the_rarest_left_out_and_counted(
    writer: Writer, tmp_path: Path
) -> None:
    keys = [f"c{i:02d}" for i in range(15)]
    files = {}
    for k in range(SPLITS):
        for arm in ARMS:
            told = {"id": keys, "true": keys, "predicted": [*keys[1:], keys[0]]}
            chances = {f"p_{key}": 1 / len(keys) for key in keys}
            files[k, arm] = parquet(pd.DataFrame(told).assign(**chances))
    store = PredictionWriter(writer.folder, files)
    store.curves = {key: [0.5 + 0.01 * key[0]] for key in files}
    store.study("many", [Job(k, arm, epochs=1) for k in range(SPLITS) for arm in ARMS])
    text = section(page_of(load_study("many", store.uri), tmp_path))
    assert "<summary>9 more pairs</summary>" in text
    assert len(re.findall("<h4>", text)) == 12
    assert "3 rarer pairs with 18 wrong answers in all have no gallery." in text
    assert "15 images of 15" in text
    assert "The first 12 of them are shown." in text


def test_only_the_arms_that_are_reported_are_counted(study: Study, tmp_path: Path) -> None:
    turned = replace(study, arms=(SECOND, FIRST))
    text = section(page_of(turned, tmp_path, Given()))
    first = text[text.index('class="bars"') :]
    assert first.index(SECOND) < first.index(FIRST)


@pytest.mark.parametrize(
    ("arm", "shown"),
    [
        ("pretrained", "pretrained"),
        ("pretrained-50", "pretrai…-50"),
        ("pretrained-12000", "pretr…12000"),
        ("pretrained_on_imagenet", "pretr…genet"),
        ("a-pretrained_on_imagenet", "a-pre…genet"),
    ],
)
def test_a_long_name_keeps_the_end_that_tells_it_from_others(arm: str, shown: str) -> None:
    assert _short(arm) == shown
