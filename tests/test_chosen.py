"""Which runs are meant by --run, --best and --ensemble; real runs on a real store."""

from __future__ import annotations

import pytest
from fixtures_analysis import Job, Writer
from fixtures_predict import Trained

from galaxy_mlflow import schema
from galaxy_mlflow.chosen import Choice, chosen_runs, find_run
from galaxy_mlflow.errors import ConfigError, StudyNotFoundError, WeightsError
from galaxy_mlflow.home import Home
from galaxy_mlflow.tracking import MlflowStore


def best(arm: str) -> Choice:
    return Choice.of(None, arm, None)


def ensemble(arm: str) -> Choice:
    return Choice.of(None, None, arm)


class Losses(Writer):
    """Writes runs whose validation loss at the selected epoch is said."""

    def add(self, experiment: str, split: int, loss: float | None, **tags: str) -> str:
        job = Job(split, "scratch", epochs=1, artifacts=False, tags=tags)
        run = self.run(experiment, "losses", job)
        if loss is not None:
            self.log(run, {schema.VAL_LOSS: loss, schema.SELECTED_EPOCH: 7.0}, 7)
            self.log(run, {schema.VAL_LOSS: 5.0 - loss}, 8)  # what came later does not count
        return run


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> Losses:
    return Losses(tmp_path_factory.mktemp("losses"))


@pytest.fixture(scope="module")
def store(losses: Losses, tmp_path_factory: pytest.TempPathFactory) -> MlflowStore:
    return MlflowStore(losses.uri, Home(tmp_path_factory.mktemp("home")))


@pytest.fixture(scope="module")
def runs(losses: Losses) -> dict[int, str]:
    """Write a study `losses`, and return its runs by split."""
    experiment = losses.study("losses", [])
    found = {k: losses.add(experiment, k, loss) for k, loss in enumerate((0.9, 0.4, 0.4, 0.6))}
    losses.run(experiment, "losses", Job(9, "scratch", schema.RUNNING, artifacts=False))
    losses.run(experiment, "losses", Job(0, "begun", schema.RUNNING, artifacts=False))
    losses.add(experiment, 2, 0.1)  # again: another's run of the same job, younger
    return found


def test_a_run_is_named_by_its_id_or_by_its_job(trained: Trained) -> None:
    record = trained.record()
    for name in (record.run_id, "small/split-000/one", f"{trained.folder}/small.toml/split-0/one"):
        assert chosen_runs(trained.store, Choice.of(name, None, None)) == [record]


def test_the_best_run_has_the_lowest_validation_loss_at_its_selected_epoch(
    store: MlflowStore, runs: dict[int, str]
) -> None:
    (run,) = chosen_runs(store, best("losses/scratch"))
    assert run.run_id == runs[1]  # split 2 has the same, and comes later
    assert not store.news


def test_the_ensemble_is_every_finished_run_one_a_split(
    store: MlflowStore, runs: dict[int, str]
) -> None:
    found = chosen_runs(store, ensemble("losses/scratch"))
    assert [run.run_id for run in found] == list(runs.values())


def test_without_a_validation_part_the_test_set_chooses_and_that_is_said(
    losses: Losses, store: MlflowStore
) -> None:
    experiment = losses.study("optimistic", [])
    paper = {schema.SELECTED_ON: schema.TEST_ACCURACY}
    jobs = [Job(k, "scratch", epochs=1 + k, artifacts=False, tags=paper) for k in (0, 3, 1)]
    ids = [losses.run(experiment, "optimistic", job) for job in jobs]
    scores = [find_run(store, i).metrics[schema.SELECTED_TEST_ACCURACY] for i in ids]
    (run,) = chosen_runs(store, best("optimistic/scratch"))
    assert run.run_id == ids[scores.index(max(scores))]
    assert "test set" in store.news.popleft()


def test_a_study_file_names_its_study(trained: Trained) -> None:
    choice = ensemble(f"{trained.folder}/small.toml/one")
    assert choice.study == "small"
    assert [run.job.split for run in chosen_runs(trained.store, choice)] == [0, 1]


def test_of_real_runs_the_best_is_the_one_whose_loss_was_lowest(trained: Trained) -> None:
    lowest = {
        split: min(trained.store.history(trained.record(split).run_id, schema.VAL_LOSS).values())
        for split in (0, 1)
    }
    (run,) = chosen_runs(trained.store, best("small/one"))
    assert run.job.split == min(lowest, key=lambda split: lowest[split])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ((None, None, None), "there is none of them"),
        (("a", "b/c", None), "there is --run and --best"),
        ((None, "b/c", "b/c"), "there is --best and --ensemble"),
        ((None, "demo", None), "--best demo: expected STUDY/ARM"),
        ((None, None, "demo/"), "--ensemble demo/: expected STUDY/ARM"),
        ((None, None, "nowhere.toml/one"), "nowhere.toml"),
    ],
)
def test_what_names_nothing_is_refused(given: tuple[str | None, ...], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Choice.of(*given)


@pytest.mark.parametrize(
    ("choice", "error", "words"),
    [
        (best("losse/scratch"), StudyNotFoundError, "'losse' .did you mean 'losses'"),
        (ensemble("losses/scrach"), ConfigError, "did you mean 'scratch'.*begun, scratch"),
        (best("losses/begun"), WeightsError, "none of its 1 runs is finished"),
        (Choice.of("losses/split-009/scratch", None, None), WeightsError, "is running"),
        (Choice.of("losses/split-077/scratch", None, None), StudyNotFoundError, "split-077"),
        (Choice.of("f" * 32, None, None), StudyNotFoundError, "has no run f"),
        (Choice.of("no id at all", None, None), StudyNotFoundError, "has no run no id"),
    ],
)
def test_what_is_not_there_is_told(
    store: MlflowStore, runs: dict[int, str], choice: Choice, error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        chosen_runs(store, choice)


def test_a_run_that_is_no_job_is_no_run_of_ours(losses: Losses, store: MlflowStore) -> None:
    other = losses.client.create_run(losses.client.create_experiment("foreign")).info.run_id
    with pytest.raises(StudyNotFoundError, match=other):
        find_run(store, other)


def test_a_store_of_nothing_has_no_study(home: Home) -> None:
    empty = MlflowStore(home.database_uri, home)
    with pytest.raises(StudyNotFoundError, match="no run of a study 'never'"):
        chosen_runs(empty, ensemble("never/one"))
