"""The trials of an arm in a real storage: fair draws, pruning, worst values, and going on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from postgres_cluster import Cluster
from small_study import write_study

from galaxy_mlflow import schema
from galaxy_mlflow.config import ArmSettings, Study
from galaxy_mlflow.errors import ServerError
from galaxy_mlflow.home import Home
from galaxy_mlflow.objective import WORST, values_by_epoch
from galaxy_mlflow.search import Search, TrialRecord
from galaxy_mlflow.study_file import load_study_file
from galaxy_mlflow.tracking import MlflowStore
from galaxy_mlflow.trial_storage import SCHEMA, open_storage
from galaxy_mlflow.tuning_log import TuningLog

Loss = Callable[[ArmSettings, int], float]


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("study"))


def study_of(file: Path, *overrides: str) -> Study:
    return load_study_file(file, ["training.epochs=6", *overrides])


def search_of(study: Study, arm: str = "one", url: str | None = None) -> Search:
    return Search(study, arm, "data", open_storage(url, Home.default()))


def curves(settings: ArmSettings, epochs: int, loss: Loss) -> dict[str, list[float]]:
    losses = [loss(settings, epoch) for epoch in range(epochs)]
    return {schema.VAL_LOSS: losses, schema.VAL_ACCURACY: [1 / (1 + value) for value in losses]}


def far_from(best: float) -> Loss:
    """Return a loss that falls with the epochs, and is lower the nearer a rate is to the best."""
    return lambda settings, epoch: abs(settings.learning_rate - best) + 1 / (epoch + 1)


def try_one(search: Search, number: int, loss: Loss) -> None:
    settings = search.settings(number)
    state = schema.FINISHED
    for epoch in range(1, 7):
        if search.hear(number, 0, curves(settings, epoch, loss)):
            state = schema.PRUNED
            break
    search.end(number, state)


def try_all(search: Search, count: int, loss: Loss = far_from(0.01)) -> list[TrialRecord]:  # noqa: B008
    for number in range(len(search.trials()), count):
        try_one(search, number, loss)
    return search.trials()


def drawn(search: Search) -> list[dict[str, object]]:
    return [dict(trial.settings) for trial in search.trials()]


def test_arms_share_all_draws_in_which_nothing_is_learned_yet(file: Path) -> None:
    study = study_of(file)
    one, two = search_of(study, "one"), search_of(study, "two")
    try_all(one, 7, far_from(0.09))
    try_all(two, 7, far_from(0.0001))
    assert drawn(one)[:5] == drawn(two)[:5]
    assert drawn(one)[6] != drawn(two)[6]
    assert len({str(settings) for settings in drawn(one)}) == 7


def test_the_first_trial_has_the_arms_own_settings_where_the_space_has_them_or_not(
    file: Path,
) -> None:
    search = search_of(study_of(file))
    first, *_ = try_all(search, 2)
    assert search.settings(0) == search.study.arm["one"]
    assert first.settings == {"learning_rate": 0.002, "weight_decay": 0.0}  # 0 is outside


def test_the_same_seed_draws_the_same_trials_and_another_others(file: Path, tmp_path: Path) -> None:
    found = []
    for place, seed in enumerate((0, 0, 1)):
        url = f"sqlite:///{tmp_path / f'{place}.db'}"
        search = search_of(study_of(file, f"tune.seed={seed}"), url=url)
        try_all(search, 9)
        found.append(drawn(search))
    assert found[0] == found[1]
    assert found[0][1:] != found[2][1:]


def test_a_tuning_that_was_stopped_after_any_trial_draws_what_it_would_have_drawn(
    file: Path, tmp_path: Path
) -> None:
    study = study_of(file)
    whole = search_of(study, url=f"sqlite:///{tmp_path / 'whole.db'}")
    try_all(whole, 9)
    for stopped_at in range(9):  # a new process each time: nothing is left but the storage
        search_of(study, url=f"sqlite:///{tmp_path / 'again.db'}").settings(stopped_at)  # killed
        again = search_of(study, url=f"sqlite:///{tmp_path / 'again.db'}")
        assert again.trials()[-1].state == schema.RUNNING
        try_one(again, stopped_at, far_from(0.01))
    assert drawn(again) == drawn(whole)


def test_a_trial_worse_than_most_is_stopped_after_the_grace_but_never_the_first(file: Path) -> None:
    search = search_of(study_of(file, "tune.grace_epochs=2", "tune.sampler=random"))
    try_all(search, 20, lambda settings, epoch: 1.0 + settings.learning_rate - 0.1 * epoch)
    trials = search.trials()
    pruned = [trial for trial in trials if trial.state == schema.PRUNED]
    assert pruned
    assert {len(trial.values) for trial in pruned} == {2}
    assert all(trial.number > 5 for trial in pruned)
    worst = search_of(study_of(file, "tune.grace_epochs=1", "tune.seed=3", "tune.sampler=random"))
    for number in range(1, 7):  # as with several at a time: the first is the last to begin
        worst.settings(0)
        try_one(worst, number, far_from(0.01))
    try_one(worst, 0, lambda _, __: 900.0)
    assert worst.trials()[0].state == schema.FINISHED


@pytest.mark.parametrize("pruner", ["hyperband", "none"])
def test_the_other_pruners(file: Path, pruner: str) -> None:
    search = search_of(study_of(file, f'tune.pruner="{pruner}"', "tune.grace_epochs=1"))
    states = [trial.state for trial in try_all(search, 12)]
    assert (schema.PRUNED in states) == (pruner == "hyperband")


@pytest.mark.parametrize("pruner", ["hyperband", "median"])
def test_a_trial_that_was_told_to_stop_is_told_so_again_after_a_restart(
    file: Path, pruner: str
) -> None:
    study = study_of(file, f'tune.pruner="{pruner}"', "tune.grace_epochs=2")
    search = search_of(study)
    try_all(search, 6)
    number, epochs = told_to_stop(search, 6)
    again = search_of(study)
    heard = curves(again.settings(number), epochs, far_from(9.0))
    assert [again.hear(number, 0, heard) for _ in range(2)] == [True, True]
    again.end(number, schema.PRUNED)
    (trial,) = (trial for trial in again.trials() if trial.number == number)
    assert (trial.state, len(trial.values), trial.reason) == (schema.PRUNED, epochs, "")


def told_to_stop(search: Search, first: int) -> tuple[int, int]:
    """Return the first trial that is told to stop, and after how many epochs, but do not end it."""
    for number in range(first, first + 20):
        settings = search.settings(number)
        for epoch in range(1, 7):
            if search.hear(number, 0, curves(settings, epoch, far_from(9.0))):
                return number, epoch
        search.end(number, schema.FINISHED)
    raise AssertionError("no trial was told to stop")


def test_epochs_that_were_judged_are_not_judged_again(file: Path) -> None:
    search = search_of(study_of(file, "tune.grace_epochs=2"))
    search.settings(0)
    search.settings(1)
    alone = curves(search.settings(1), 3, far_from(9.0))
    assert not search.hear(1, 0, alone)
    for number in (0, *range(2, 7)):
        try_one(search, number, far_from(0.01))
    assert not search.hear(1, 0, alone)
    assert search.hear(1, 0, curves(search.settings(1), 4, far_from(9.0)))


def test_a_trial_that_failed_counts_with_the_worst_value(file: Path) -> None:
    search = search_of(study_of(file))
    try_all(search, 2)
    search.settings(2)
    search.end(2, schema.FAILED, "the run diverged")
    trial = search.trials()[2]
    assert (trial.state, trial.objective, trial.reason) == (schema.FAILED, 1e3, "the run diverged")
    tuned = search.tuned(3)
    assert tuned is not None
    assert (tuned.trials, tuned.completed, tuned.failed, tuned.epochs) == (3, 2, 1, 12)
    assert tuned.best_trial != 2


def test_where_all_failed_there_is_no_outcome(file: Path) -> None:
    search = search_of(study_of(file))
    search.settings(0)
    search.end(0, schema.FAILED, "diverged")
    assert search.tuned(1) is None


def test_only_the_wanted_trials_count_and_more_can_be_wanted(file: Path) -> None:
    search = search_of(study_of(file))
    try_all(search, 4)
    few, all_ = search.tuned(2), search.tuned(4)
    assert few is not None
    assert all_ is not None
    assert (few.trials, all_.trials) == (2, 4)
    assert all_.best_value <= few.best_value <= few.untuned_value
    better = [trial for trial in search.trials() if trial.number in map(int, all_.improved)]
    assert {str(trial.number): trial.objective for trial in better} == all_.improved
    assert list(all_.improved.values()) == sorted(all_.improved.values(), reverse=True)
    assert next(iter(all_.improved.items())) == ("0", all_.untuned_value)
    assert list(all_.improved.items())[-1] == (str(all_.best_trial), all_.best_value)


@pytest.mark.parametrize(
    "change",
    [
        "tune.space.learning_rate=[0.1, 0.2]",
        "tune.seed=5",
        "tune.metric=val_accuracy",
        "tune.splits=[0]",
        "training.epochs=7",
        "data.image_size=48",
    ],
)
def test_another_space_or_study_begins_anew_and_says_that_others_are_there(
    file: Path, change: str
) -> None:
    try_all(search_of(study_of(file)), 2)
    other = search_of(study_of(file, change))
    assert (other.trials(), other.other_trials()) == ([], 2)
    assert len(search_of(study_of(file, "tune.trials=99", "question=What?")).trials()) == 2


def test_accuracy_is_that_of_the_epoch_of_lowest_loss_and_more_of_it_is_better(file: Path) -> None:
    losses, accuracies = [0.9, 0.5, 0.7], [0.2, 0.6, 0.9]
    curve = {schema.VAL_LOSS: losses, schema.VAL_ACCURACY: accuracies}
    assert values_by_epoch([curve], schema.VAL_ACCURACY) == [0.2, 0.6, 0.6]
    search = search_of(study_of(file, "tune.metric=val_accuracy"))
    try_all(search, 4)
    best = search.best_of(search.trials())
    assert best is not None
    assert best.objective == max(trial.objective or 0 for trial in search.trials())
    assert WORST[schema.VAL_ACCURACY] == 0.0


def test_several_splits_count_by_their_mean() -> None:
    first = {schema.VAL_LOSS: [0.9, 0.5]}
    second = {schema.VAL_LOSS: [0.7]}
    assert values_by_epoch([first, second], schema.VAL_LOSS) == pytest.approx([0.9, 0.5, 0.6])


def test_whole_numbers_and_choices_are_drawn_as_they_are(file: Path) -> None:
    study = study_of(
        file,
        "tune.space.batch_size={low = 16, high = 64, step = 16}",
        'tune.space.schedule=["constant", "cosine"]',
        "tune.space.warmup_epochs=[0, 1]",
    )
    search = search_of(study)
    try_all(search, 12)
    for settings in drawn(search):
        assert settings["batch_size"] in (16, 32, 48, 64)
        assert type(settings["batch_size"]) is int
    assert {settings["schedule"] for settings in drawn(search)} == {"constant", "cosine"}


def test_trials_are_kept_in_postgresql_beside_mlflows_tables(
    file: Path, postgres: Cluster, tmp_path: Path
) -> None:
    import psycopg2

    with psycopg2.connect(postgres.url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE IF NOT EXISTS alembic_version (version_num varchar(32))")
    first = search_of(study_of(file), url=postgres.url)
    try_all(first, 3)
    assert len(search_of(study_of(file), url=postgres.url).trials()) == 3
    assert not (tmp_path / "home" / "tuning.db").exists()
    with psycopg2.connect(postgres.url) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_schema FROM information_schema.tables WHERE table_name='trials'"
        )
        assert cursor.fetchall() == [(SCHEMA,)]


@pytest.mark.parametrize(
    "killed_in", ["begin_side_run", "send_points", "end_side_run", "send_tags"]
)
def test_a_trial_whose_end_was_cut_short_on_its_way_is_sent_whole_by_the_next_call(
    file: Path, database_home: Home, killed_in: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(file, f"name={killed_in}".replace("_", "-"))
    search = search_of(study)
    (trial,) = try_all(search, 1)
    store = MlflowStore(database_home.database_uri, database_home)
    cut_short(monkeypatch, killed_in, lambda: TuningLog(study, store, print).end(search, trial))
    for _ in range(2):
        TuningLog(study, store, print).catch_up([search])
    runs = store.side_runs(schema.tuning_of(study.name), {schema.STUDY: study.name})
    (run,) = (run for run, tags in runs.items() if tags[schema.KIND] == schema.TRIAL)
    (parent,) = runs.keys() - {run}
    assert runs[run][schema.STATUS] == schema.FINISHED
    assert store.history(run, schema.OBJECTIVE) == {0: trial.objective}
    assert store.history(parent, schema.BEST_OBJECTIVE) == {0: trial.objective}
    assert ended(store, run)
    assert params_of(store, run) == study.arm_params("one")
    assert params_of(store, parent)["tune.sampler"] == study.tune.sampler


def cut_short(patch: pytest.MonkeyPatch, method: str, call: Callable[[], None]) -> None:
    """Have the process killed as soon as one method has done its work."""
    whole = getattr(MlflowStore, method)

    def killed(*args: object) -> None:
        whole(*args)
        if method != "send_points" or "objective" in str(args[2]):
            raise KeyboardInterrupt

    with patch.context() as patched:
        patched.setattr(MlflowStore, method, killed)
        with pytest.raises(KeyboardInterrupt):
            call()


def ended(store: MlflowStore, run_id: str) -> bool:
    from mlflow import MlflowClient

    return str(MlflowClient(tracking_uri=store.uri).get_run(run_id).info.status) == "FINISHED"


def params_of(store: MlflowStore, run_id: str) -> dict[str, str]:
    from mlflow import MlflowClient

    return dict(MlflowClient(tracking_uri=store.uri).get_run(run_id).data.params)


def test_params_that_did_not_arrive_are_sent_later_to_the_same_run(
    file: Path, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_of(file)
    search = search_of(study)
    try_all(search, 1)
    store = MlflowStore(home.database_uri, home)
    log = TuningLog(study, store, lambda _: None)
    for lost in ("tune.sampler", "learning_rate"):
        with monkeypatch.context() as patched:
            patched.setattr(MlflowStore, "send_params", losing(lost))
            log.catch_up([search])
        assert log.behind
    log.catch_up([search])
    assert not log.behind
    tuning = schema.tuning_of(study.name)
    (parent,) = store.side_runs(tuning, {schema.KIND: schema.TUNING})
    (run,) = store.side_runs(tuning, {schema.KIND: schema.TRIAL})
    assert params_of(store, run) == study.arm_params("one")
    assert params_of(store, parent)["tune.sampler"] == study.tune.sampler


def losing(name: str) -> Callable[[MlflowStore, str, dict[str, str]], None]:
    """Return how params are sent where those with this name are lost on the way."""
    whole = MlflowStore.send_params

    def send(store: MlflowStore, run_id: str, params: dict[str, str]) -> None:
        if name in params:
            raise ServerError("no answer")
        whole(store, run_id, params)

    return send


def test_trials_of_another_storage_are_not_taken_for_those_of_the_first(
    file: Path, home: Home, tmp_path: Path
) -> None:
    study = study_of(file)
    store = MlflowStore(home.database_uri, home)
    for place, wanted in (("first", 1), ("second", 2), ("first", 1)):
        search = search_of(study, url=f"sqlite:///{tmp_path / place}.db")
        try_all(search, wanted)
        TuningLog(study, store, print).catch_up([search])
    tuning = schema.tuning_of(study.name)
    parents = store.side_runs(tuning, {schema.KIND: schema.TUNING})
    assert [len(store.side_runs(tuning, {schema.PARENT: run})) for run in parents] == [1, 2]
