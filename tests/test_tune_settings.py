"""[tune] in a study file: what it may say, what is refused, and what it leaves alone."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from small_study import STUDY, write_study
from test_study_file import refusal

from galaxy_mlflow.config import Study
from galaxy_mlflow.study_file import load_study_file
from galaxy_mlflow.tune_settings import DEFAULT_SPACE, Span, TunedSettings


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


def tuned(study: Study, arm: str, **changes: object) -> TunedSettings:
    """Return a record that says that an arm has the settings it has."""
    values = {name: getattr(study.arm[arm], name) for name in DEFAULT_SPACE.named}
    record = {
        "study": "small",
        "trials": 3,
        "completed": 2,
        "pruned": 1,
        "failed": 0,
        "epochs": 8,
        "metric": "val_loss",
        "best_trial": 1,
        "best_value": 0.25,
        "untuned_value": 0.5,
        "chosen": values,
        "untuned": values,
        "splits": [2],
        "sampler": "tpe",
        "pruner": "median",
        "grace_epochs": 3,
        "seed": 0,
        "optuna": "5.0.0",
        "data_hash": "d",
        "space": DEFAULT_SPACE,
    }
    return TunedSettings.model_validate({**record, **changes})


def test_a_study_without_a_tune_table_can_be_tuned(file: Path) -> None:
    tune = load_study_file(file).tune
    assert (tune.trials, tune.metric, tune.sampler, tune.pruner) == (
        12,
        "val_loss",
        "tpe",
        "median",
    )
    assert list(tune.space.named) == ["learning_rate", "weight_decay"]


def test_a_space_has_ranges_and_choices(file: Path) -> None:
    space = load_study_file(
        file,
        [
            "tune.space.learning_rate={low = 0.001, high = 0.1, log = true}",
            "tune.space.batch_size={low = 16, high = 64, step = 16}",
            'tune.space.optimizer=["sgd", "adamw"]',
            "tune.space.weight_decay=[0.0, 0.05]",
        ],
    ).tune.space.named
    assert isinstance(space["batch_size"], Span)
    assert type(space["batch_size"].low) is int
    assert space["optimizer"] == ["sgd", "adamw"]
    assert space["weight_decay"] == [0.0, 0.05]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("tune.trails=3", "unknown key 'trails' (did you mean 'trials'?)"),
        ("tune.trials=0", "tune.trials: Input should be greater than or equal to 1"),
        ('tune.metric="test_accuracy"', "'test_accuracy' (did you mean 'val_accuracy'?)"),
        ("tune.splits=[]", "each once, or how many"),
        ("tune.splits=[3, 3]", "each once, or how many"),
        ("tune.space={}", "names no setting"),
        ("tune.space.learning_rat=[0.1, 0.2]", "did you mean 'learning_rate'?"),
        ("tune.space.learning_rate=0.1", "a list of choices, or {low = ..., high = ..."),
        ("tune.space.learning_rate=[0.1]", "two choices or more"),
        ("tune.space.learning_rate=[0.1, 0.1]", "two choices or more, each once"),
        ("tune.space.learning_rate={low = 0.0, high = 0.1}", "learning_rate.low: Input should be"),
        ("tune.space.learning_rate={low = 0.2, high = 0.1}", "low 0.2 is not below high 0.1"),
        ("tune.space.learning_rate={low = 0.1, high = 0.2, lag = true}", "did you mean 'log'?"),
        ("tune.space.weight_decay={low = 0.0, high = 0.2, log = true}", "log needs a low above 0"),
        ("tune.space.batch_size={low = 2, high = 64, step = 16}", "no whole number of steps"),
        (
            "tune.space.batch_size=[16, 32.5]",
            "tune.space.batch_size.1: Input should be a valid int",
        ),
        ('tune.space.optimizer=["sgd", "adan"]', "'adan' (did you mean 'adam'?)"),
        ("tune.space.momentum=[0.9, 1.0]", "momentum.1: Input should be less than 1"),
        ("tune.space.epochs=[10, 20]", "unknown key 'epochs'"),
        ("tune.space.warmup_epochs=[0, 3]", "goes up to 3, and arm 'one' trains for 3 epochs"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(file: Path, override: str, words: str) -> None:
    assert words in refusal(file, override)


@pytest.mark.parametrize(
    "override",
    [
        "arm.one.tune={trials = 50}",
        "tune.one={trials = 50}",
        "tune.space.one={learning_rate = [0.1, 0.2]}",
    ],
)
def test_no_arm_can_have_a_tuning_of_its_own(file: Path, override: str) -> None:
    assert "There is no tuning of one arm's own" in refusal(file, override)


def test_a_mistake_in_the_file_is_shown_with_its_line(tmp_path: Path) -> None:
    text = (
        f"{STUDY}\n[tune]\ntrials = 4\n\n[tune.space]\nlearning_rate = [0.1, 0.2]\nmomentun = [0]\n"
    )
    line = text.splitlines().index("momentun = [0]") + 1
    assert f"small.toml:{line}: tune.space.momentun: unknown key" in refusal(
        write_study(tmp_path, text)
    )


def test_the_splits_tuned_on_are_those_after_the_studys_own(file: Path) -> None:
    assert load_study_file(file).tuning_splits == (2,)
    assert load_study_file(file, ["tune.splits=3", "splits.first=5"]).tuning_splits == (7, 8, 9)
    assert load_study_file(file, ["tune.splits=[0, 4]"]).tuning_splits == (0, 4)


def test_of_the_papers_hundred_splits_others_are_taken_while_there_are_some(file: Path) -> None:
    paper = ["splits.recipe=paper", "splits.n_test=10"]
    last = [*paper, "splits.first=98", "splits.count=2"]
    assert load_study_file(file, [*last, "tune.splits=2"]).tuning_splits == (0, 1)
    assert load_study_file(file, [*paper, "splits.count=100"]).tuning_splits == (0,)


def test_how_arms_are_tuned_is_no_part_of_what_a_run_is(file: Path) -> None:
    plain = load_study_file(file)
    other = load_study_file(file, ["tune.trials=3", "tune.seed=9", "tune.splits=2"])
    told = plain.model_copy(update={"tuned": {"one": tuned(plain, "one")}})
    assert plain.config_hash("one") == other.config_hash("one") == told.config_hash("one")


def test_a_record_must_be_that_of_the_settings_of_its_arm(file: Path) -> None:
    study = load_study_file(file)
    record = tuned(study, "one").model_dump(mode="json", exclude_none=True)
    dumped = study.model_dump(exclude_none=True)
    assert Study.model_validate({**dumped, "tuned": {"one": record}}).tuned["one"].trials == 3
    dumped["arm"]["one"]["learning_rate"] = 0.5
    with pytest.raises(ValueError, match=r"learning_rate is 0.5, and .tuned.one. says that 0.002"):
        Study.model_validate({**dumped, "tuned": {"one": record}})
    with pytest.raises(ValueError, match=r"tuned.ones: no such arm .did you mean .one."):
        Study.model_validate({**dumped, "tuned": {"ones": record}})
    with pytest.raises(ValueError, match="do not add up"):
        Study.model_validate({**dumped, "tuned": {"one": {**record, "pruned": 7}}})


def test_a_space_travels_to_other_processes(file: Path) -> None:
    study = load_study_file(file, ["tune.space.batch_size={low = 16, high = 64, step = 16}"])
    assert pickle.loads(pickle.dumps(study)) == study
