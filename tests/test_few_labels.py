"""Arms of few labels: which images they get, what is refused, and that nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fixtures_cli import Call
from small_study import STUDY, load, write_study

from analysis import load_study
from galaxy_mlflow.errors import ConfigError, SplitError
from galaxy_mlflow.home import Home
from galaxy_mlflow.job import TrainingJob
from galaxy_mlflow.models import weights_digest
from galaxy_mlflow.prepare import draw_splits, label_warnings
from galaxy_mlflow.ray_job import Bench
from galaxy_mlflow.ray_parcel import Common, Order
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.splits import Split, SplitRule, draw_split, with_few_labels
from galaxy_mlflow.study_file import load_study_file
from galaxy_mlflow.train import Trainer, make_deterministic

LABELS = np.repeat([0, 1, 2, 3], [200, 230, 540, 30])
RULE = SplitRule("random", 200, stratify=True, seed=0, val_fraction=0.125)
COUNTS = (40, 100, 300, 800)


def few(count: int, k: int = 0, rule: SplitRule = RULE) -> Split:
    return with_few_labels(rule, draw_split(rule, LABELS, k), LABELS, count)


def test_the_images_of_fewer_labels_are_among_those_of_more_in_both_parts() -> None:
    for less, more in pairwise(COUNTS):
        for part in ("train", "val"):
            inner, outer = (set(getattr(few(n), part).tolist()) for n in (less, more))
            assert inner < outer


def test_labels_are_counted_in_training_and_validation_together_and_the_test_part_is_whole() -> (
    None
):
    whole = draw_split(RULE, LABELS, 0)
    for count in COUNTS:
        split = few(count)
        assert split.train.size + split.val.size == count
        assert split.val.size == round(count / 8)
        assert split.test_hash == whole.test_hash
        assert set(split.train.tolist()) <= set(whole.train.tolist())
        assert set(split.val.tolist()) <= set(whole.val.tolist())
        assert (np.diff(split.train) > 0).all()


def test_all_labels_give_the_split_itself() -> None:
    whole = draw_split(RULE, LABELS, 0)
    assert few(800).train_hash == whole.train_hash
    assert np.array_equal(few(800).val, whole.val)
    assert few(799).train_hash != whole.train_hash


@pytest.mark.parametrize("count", [10, 40, 100, 300])
def test_classes_keep_their_shares_within_one_image_and_each_is_trained_on(count: int) -> None:
    for k in range(5):
        split = few(count, k)
        counts = np.bincount(LABELS[split.train], minlength=4)
        shares = split.train.size * np.bincount(LABELS[draw_split(RULE, LABELS, k).train]) / 700
        assert (counts >= 1).all()
        assert (abs(counts - shares) < 1.5).all()


def test_without_strata_the_images_are_drawn_from_all_alike() -> None:
    rule = SplitRule("paper", 200, stratify=False, seed=0, val_fraction=None)
    one, other = (few(50, k, rule) for k in (0, 1))
    assert (one.train.size, one.val.size) == (50, 0)
    assert set(one.train.tolist()) < set(few(51, 0, rule).train.tolist())
    assert one.train_hash != other.train_hash


def test_seed_and_split_decide_the_images_and_nothing_else_does() -> None:
    before = np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    assert few(100).train_hash == few(100).train_hash
    assert few(100).train_hash != few(100, 1).train_hash
    assert few(100).train_hash != few(100, 0, replace(RULE, seed=1)).train_hash
    assert np.array_equal(before, np.random.get_state()[1])  # type: ignore[index, arg-type]


def test_the_images_of_a_hundred_labels_are_those_of_the_first_release() -> None:
    assert few(100).train_hash[:8] == "c3857152"


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (801, "n_labels is 801, but split 0 has 800 images outside its test part"),
        (4, "n_labels 4 gives 4 training and 0 validation images"),
        (3, "the fewest are 4 for training, 1 for validation"),
    ],
)
def test_labels_that_cannot_be_had_are_refused(count: int, words: str) -> None:
    with pytest.raises(SplitError, match=words):
        few(count)


def test_the_fewest_labels_have_one_training_image_of_each_class() -> None:
    split = few(5)
    assert LABELS[split.train].tolist() == [0, 1, 2, 3]
    assert split.val.size == 1


def test_a_list_of_labels_makes_an_arm_of_each_number_pairs_together(tmp_path: Path) -> None:
    text = STUDY.replace("epochs = 3", "epochs = [9, 3]\nn_labels = [20, 40]")
    study = load_study_file(write_study(tmp_path, text))
    found = {name: (arm.n_labels, arm.epochs, arm.schedule) for name, arm in study.arm.items()}
    assert list(found.items()) == [
        ("one-20", (20, 9, "constant")),
        ("two-20", (20, 9, "cosine")),
        ("one-40", (40, 3, "constant")),
        ("two-40", (40, 3, "cosine")),
    ]


def test_lists_can_be_given_on_the_command_line_and_by_one_arm(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    study = load_study_file(path, ["training.n_labels=[20, 40]", "arm.two.epochs=[5, 6]"])
    assert [arm.epochs for arm in study.arm.values()] == [3, 5, 3, 6]
    alone = load_study_file(path, ["arm.two.n_labels=[20, 40]"])
    assert list(alone.arm) == ["one", "two-20", "two-40"]
    assert alone.arm["one"].n_labels is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["training.n_labels=[]"], "expected different whole numbers"),
        (["training.n_labels=[20, 20]"], "expected different whole numbers"),
        (["training.n_labels=[20, 40.5]"], "expected different whole numbers"),
        (["training.n_labels=[20, 40]", "training.epochs=[1, 2, 3]"], "epochs has 3 values for 2"),
        (["training.n_labels=[1, 40]"], "training.n_labels: Input should be greater than or equal"),
        (["training.n_labels=20", "training.epochs=[1, 2]"], "epochs: Input should be a valid int"),
        (["training.n_labels=[20, 40]", "arm.one.epochs=0"], "arm.one.epochs: Input should be gr"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused(
    tmp_path: Path, overrides: list[str], words: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_study_file(write_study(tmp_path), overrides)
    assert words in str(caught.value)
    assert "small.toml" in str(caught.value)


def test_two_arms_of_one_name_are_refused_with_the_line_of_the_list(tmp_path: Path) -> None:
    text = STUDY.replace("epochs = 3", "n_labels = [20, 40]").replace("arm.two", "arm.one-20")
    text += "n_labels = 20\n"
    with pytest.raises(ConfigError, match=r"small\.toml:11: two arms are called 'one-20'"):
        load_study_file(write_study(tmp_path, text))


def test_settings_without_few_labels_have_the_hash_that_they_always_had() -> None:
    demo, paper = load_study_file("demo"), load_study_file("paper")
    assert demo.config_hash("scratch").startswith("f20f77fc5705bc51d6f606df5f332cef")
    assert paper.config_hash("pretrained").startswith("5482b87153b6af20a86c0519f56e5bb4")
    assert "n_labels" not in demo.arm_params("scratch")


def test_the_number_of_labels_is_a_setting_of_the_run(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    some, other = (load_study_file(path, [f"arm.one.n_labels={n}"]) for n in (20, 30))
    assert some.arm_params("one")["n_labels"] == "20"
    assert some.config_hash("one") != other.config_hash("one")
    assert some.config_hash("two") == other.config_hash("two")


def test_arms_of_equal_labels_see_the_same_images_here_and_on_a_cluster(tmp_path: Path) -> None:
    study, data = load(tmp_path, "training.n_labels=[20, 40]")
    splits = draw_splits(study, data, [0, 1])
    hashes = {name: splits.of(1, arm).train_hash for name, arm in study.arm.items()}
    assert hashes["one-20"] == hashes["two-20"] != hashes["one-40"] == hashes["two-40"]
    home = Home(tmp_path)
    common = Common(
        study,
        data.data_hash,
        weights={},
        device="cpu",
        threads=1,
        skip_bad=False,
        machine="here",
        home=home,
        uri="",
        own_store=True,
        session="",
    )
    bench = Bench(common, home, "", data, tmp_path)
    spec = bench.spec(Order(JobId(study.name, 1, "two-20"), begun=False), None, "cpu")
    assert spec.split.train_hash == hashes["two-20"]


def test_more_labels_than_images_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    study, data = load(tmp_path, "arm.two.n_labels=49")
    with pytest.raises(SplitError, match="n_labels is 49, but split 0 has 48 images"):
        draw_splits(study, data, [0])


def test_a_class_with_one_training_image_is_warned_of_once(tmp_path: Path) -> None:
    study, data = load(tmp_path, "training.n_labels=[5, 40]")
    warnings = label_warnings(study, draw_splits(study, data, [0, 1]), data)
    assert warnings
    assert all(w.startswith("with 5 labels, class ") for w in warnings)
    assert all("fewer than 2 training images on" in w for w in warnings)
    assert len(warnings) == len(set(warnings)) <= 3


def test_a_run_of_few_labels_resumes_to_the_same_bits_and_says_how_many_it_had(
    tmp_path: Path,
) -> None:
    make_deterministic(1)
    study, data = load(tmp_path, "arm.one.n_labels=20", "training.epochs=2")
    split = draw_splits(study, data, [0]).of(0, study.arm["one"])
    job = TrainingJob(study, "one", split, data)
    whole = Trainer(job)
    list(whole.epochs())
    begun = Trainer(job)
    next(begun.epochs())
    state = begun.state()
    resumed = Trainer(job)
    resumed.restore(state)
    list(resumed.epochs())
    assert weights_digest(resumed.model) == weights_digest(whole.model)
    summary = whole.summary()
    assert (summary["n_train"], summary["n_val"], summary["n_test"]) == (18, 2, 12)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("GALAXY_MLFLOW_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Home.default()


def test_a_plan_of_too_many_labels_is_refused_and_nothing_is_begun(
    tmp_path: Path, home: Home, call: Call
) -> None:
    path = write_study(tmp_path)
    ended = call("run", str(path), "--set", "arm.two.n_labels=49")
    assert ended.code == 2
    assert "n_labels is 49, but split 0 has 48 images outside its test part" in ended.err
    assert not home.artifacts.exists()


def test_runs_of_few_labels_are_trained_recorded_and_told_apart(
    tmp_path: Path, home: Home, call: Call
) -> None:
    path = write_study(tmp_path)
    asked = ("--set", "training.n_labels=[20, 48]", "--set", "training.epochs=1")
    assert call("run", str(path), *asked, "--splits", "0").code == 0
    study = load_study("small")
    runs = study.runs.set_index("arm")
    assert list(runs.index) == ["one-20", "two-20", "one-48", "two-48"]
    assert runs["n_train"].tolist() == [18, 18, 42, 42]
    assert runs["n_val"].tolist() == [2, 2, 6, 6]
    assert runs["test_hash"].nunique() == 1
    assert runs.at["one-20", "train_hash"] == runs.at["two-20", "train_hash"]
    assert runs.at["one-20", "train_hash"] != runs.at["one-48", "train_hash"]
    params = [study.params[run] for run in runs["run_id"]]
    assert [found["n_labels"] for found in params] == ["20", "20", "48", "48"]
    assert [found["n_pool"] for found in params] == ["42"] * 4
    assert "there is nothing to do" in call("plan", str(path), *asked, "--splits", "0").out
