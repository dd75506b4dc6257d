"""Study files: what is read, what is refused, and how the refusal reads."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from galaxy_mlflow.errors import ConfigError
from galaxy_mlflow.study_file import load_study_file, study_name

SMALL = """\
[data]
kind = "simulated"
n = 100

[arm.pretrained]
weights = "fractal"

[arm.scratch]
epochs = 5
"""


def write(folder: Path, text: str = SMALL) -> Path:
    path = folder / "small.toml"
    path.write_text(text)
    return path


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_study_file(path, overrides)
    return str(caught.value)


def test_a_study_is_named_after_its_file_and_keeps_the_order_of_its_arms(tmp_path: Path) -> None:
    study = load_study_file(write(tmp_path))
    assert study.name == "small"
    assert list(study.arm) == ["pretrained", "scratch"]
    assert study.protocol == "honest"


def test_a_study_cannot_be_changed_once_it_is_read(tmp_path: Path) -> None:
    study = load_study_file(write(tmp_path))
    with pytest.raises(ValidationError, match="frozen"):
        study.seed = 7  # type: ignore[misc]


def test_shared_training_settings_hold_for_every_arm_but_give_way_to_its_own(
    tmp_path: Path,
) -> None:
    study = load_study_file(write(tmp_path, SMALL + "\n[training]\nepochs = 9\nbatch_size = 8\n"))
    assert [arm.epochs for arm in study.arm.values()] == [9, 5]
    assert [arm.batch_size for arm in study.arm.values()] == [8, 8]


def test_an_override_is_validated_like_the_file(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert load_study_file(path, ["arm.scratch.epochs=10"]).arm["scratch"].epochs == 10
    assert "greater than or equal to 1" in refusal(path, "arm.scratch.epochs=0")
    assert "did you mean 'epochs'" in refusal(path, "arm.scratch.epoch=10")
    assert "expected KEY=VALUE" in refusal(path, "arm.scratch.epochs")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epochs = 0", ["small.toml:9", "arm.scratch.epochs", "greater than or equal to 1"]),
        ('epochs = "many"', ["small.toml:9", "arm.scratch.epochs", "valid integer", "'many'"]),
        ("learning_rat = 0.1", ["small.toml:9", "'learning_rat'", "did you mean 'learning_rate'"]),
        ('architecture = "resnet81"', ["'resnet81'", "did you mean 'resnet"]),
        ('weights = "imagnet"', ["'imagnet'", "did you mean 'imagenet'"]),
        ('weights = "file:nowhere.pt"', ["no such file of weights"]),
        ('optimizer = "adan"', ["'adan'", "did you mean 'adam"]),
        ('freeze = "feature"', ["did you mean 'features'"]),
        ("epochs = 3\nwarmup_epochs = 3", ["warmup_epochs 3 leaves none of 3 epochs"]),
    ],
)
def test_a_wrong_setting_of_an_arm_is_refused_with_file_line_and_key(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    message = refusal(write(tmp_path, SMALL.replace("epochs = 5", text)))
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[split]\ncount = 3", ["unknown key 'split'", "did you mean 'splits'"]),
        ("[splits]\nn_test = 100", ["splits.n_test is 100", "data.n is only 100"]),
        ("[splits]\nn_test = 10\ntest_fraction = 0.1", ["n_test or test_fraction, not both"]),
        ("[splits]\nval_fraction = 1.5", ["splits.val_fraction", "less than 1"]),
        ("[splits]\nrecipe = 'papper'", ["'papper'", "did you mean 'paper'"]),
        ("[arm.scratch]", ["arm 'scratch' stands twice", "small.toml:10"]),
        ("[data.classes]\nmerge = {a = ['x'], b = ['x']}", ["'x' is named twice"]),
        ("[checkpoints]\npolicy = 'bst'", ["checkpoints.policy", "did you mean 'best'"]),
        ("[data", ["small.toml:10"]),
        ("[arm.'bad name']", ["arm 'bad name'", "letters, digits"]),
        ("name = 3\n", ["unknown key"]),
    ],
)
def test_a_wrong_table_is_refused_with_the_reason(
    tmp_path: Path, text: str, words: list[str]
) -> None:
    message = refusal(write(tmp_path, SMALL + text + "\n"))
    for word in words:
        assert word in message


def test_an_unknown_key_of_the_data_names_the_keys_of_that_kind(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, SMALL.replace("n = 100", "fraction = {}")))
    assert "unknown key 'fraction'" in message
    assert "did you mean 'fractions'" in message


def test_an_unknown_kind_of_data_names_the_nearest(tmp_path: Path) -> None:
    message = refusal(write(tmp_path, SMALL.replace("simulated", "simulate")))
    assert "did you mean 'simulated'" in message


def test_all_mistakes_of_a_file_are_listed_together(tmp_path: Path) -> None:
    text = SMALL.replace("n = 100", "n = 100\nsize = 64") + "[splits]\ncount = 0\n"
    message = refusal(write(tmp_path, text))
    assert "unknown key 'size'" in message
    assert "splits.count" in message


def test_paths_are_relative_to_the_file_but_to_the_current_folder_in_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    path = write(there, SMALL.replace('"simulated"\nn = 100', '"csv"\npath = "labels.csv"'))
    monkeypatch.chdir(here)
    assert load_study_file(path).data.path == there / "labels.csv"  # type: ignore[union-attr]
    moved = load_study_file(path, ["data.path=other.csv"])
    assert moved.data.path == here / "other.csv"  # type: ignore[union-attr]


def test_replacing_the_kind_of_data_forgets_the_settings_of_the_old_kind() -> None:
    study = load_study_file("paper", ["data.kind=simulated", "data.n=1000", "splits.n_test=145"])
    assert study.data.kind == "simulated"
    assert (study.data.image_size, study.data.crop) == (256, 224)
    assert study.data.labels == "given"


def test_naming_the_same_kind_of_data_again_keeps_its_settings() -> None:
    for overrides in (["data.kind=nair-abraham"], ["data.labels=paper", "data.kind=nair-abraham"]):
        assert load_study_file("paper", overrides).data.labels == "paper"


def test_an_override_cannot_make_a_new_arm_by_a_slip(tmp_path: Path) -> None:
    assert "did you mean 'scratch'" in refusal(write(tmp_path), "arm.scrach.epochs=10")


def test_a_job_takes_a_share_of_one_gpu_or_whole_ones(tmp_path: Path) -> None:
    path = write(tmp_path)
    for gpus in ("0", "0.25", "1", "2"):
        assert load_study_file(path, [f"resources.gpus={gpus}"]).resources.gpus == float(gpus)
    assert "give a share of one GPU" in refusal(path, "resources.gpus=1.5")
    assert "did you mean 'cpus'" in refusal(path, "resources.cpu=1")
    assert "resources.memory_gb" in refusal(path, "resources.memory_gb=0")


def test_a_name_that_looks_like_a_number_is_a_name(tmp_path: Path) -> None:
    assert load_study_file(write(tmp_path), ["name=2024"]).name == "2024"


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(SMALL, encoding="utf-8-sig")
    assert load_study_file(path).name == "small"


@pytest.mark.parametrize("path", ["\\u0000", "~nobody-here/labels.csv"])
def test_a_path_that_cannot_be_is_refused(tmp_path: Path, path: str) -> None:
    text = SMALL.replace('"simulated"\nn = 100', f'"csv"\npath = "{path}"')
    assert "path" in refusal(write(tmp_path, text))


@pytest.mark.parametrize("name", ["demo", "csv", "paper", "paper_persistence", "honest"])
def test_every_shipped_study_is_valid_and_compares_pretrained_with_scratch(name: str) -> None:
    study = load_study_file(name)
    assert list(study.arm) == ["pretrained", "scratch"]
    assert study.name == study_name(f"experiments/{name}.toml") == name
    assert study.question


def test_the_papers_study_is_the_published_recipe() -> None:
    study = load_study_file("paper")
    pretrained, scratch = study.arm["pretrained"], study.arm["scratch"]
    assert (pretrained.epochs, scratch.epochs) == (200, 400)
    assert (pretrained.weights, scratch.weights) == ("imagenet", "none")
    for arm in (pretrained, scratch):
        assert (arm.architecture, arm.optimizer, arm.normalize) == ("alexnet", "sgd", False)
        assert (arm.learning_rate, arm.momentum, arm.weight_decay) == (0.001, 0.9, 0.0)
        assert (arm.batch_size, arm.schedule) == (384, "constant")
    assert (study.splits.count, study.splits.n_test, study.splits.recipe) == (100, 2034, "paper")
    assert list(load_study_file("paper_persistence").splits.wanted) == [45, 46, 47, 48, 49]


def test_an_unknown_study_names_the_nearest_shipped_one() -> None:
    assert "did you mean 'paper'" in refusal(Path("papers"))
    assert "no such study file" in refusal(Path("nowhere.toml"))


def test_the_configuration_hash_changes_with_what_is_computed_and_with_nothing_else(
    tmp_path: Path,
) -> None:
    path = write(tmp_path)
    base = load_study_file(path).config_hash("scratch")
    assert load_study_file(path, ["splits.count=3"]).config_hash("scratch") == base
    assert load_study_file(path, ["arm.pretrained.epochs=3"]).config_hash("scratch") == base
    assert load_study_file(path, ["name=other"]).config_hash("scratch") == base
    for place in ("resources.cpus=2", "resources.gpus=0.25", "resources.memory_gb=3"):
        assert load_study_file(path, [place]).config_hash("scratch") == base
    for change in ("arm.scratch.epochs=6", "data.seed=1", "splits.n_test=20", "seed=1"):
        assert load_study_file(path, [change]).config_hash("scratch") != base


def test_weights_from_a_file_count_by_content_not_by_path(tmp_path: Path) -> None:
    path = write(tmp_path)
    hashes = []
    for name, content in (("a.pt", b"one"), ("b.pt", b"one"), ("c.pt", b"two")):
        (tmp_path / name).write_bytes(content)
        study = load_study_file(path, [f"arm.scratch.weights=file:{tmp_path / name}"])
        hashes.append(study.config_hash("scratch"))
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]
