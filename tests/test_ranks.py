"""Several processes that train one run: the run of one process to rounding."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gloo_ranks import differences, in_ranks, rows_seen
from small_study import job_of, load

from galaxy_mlflow import schema
from galaxy_mlflow.checkpoints import CheckpointFolder, State
from galaxy_mlflow.errors import DivergedError, RankLostError
from galaxy_mlflow.job import TrainingJob
from galaxy_mlflow.outcomes import memory_lacked
from galaxy_mlflow.ranks import change_of_ranks, team_of
from galaxy_mlflow.sampler import RankSampler
from galaxy_mlflow.team import ALONE
from galaxy_mlflow.train import Trainer

UNEVEN = ("splits.n_test=13", "arm.one.batch_size=15", "arm.one.optimizer=sgd")
"""Parts of 41, 6 and 13 images, batches of 15, 15 and 11: no part and no batch is even."""
ALEXNET = (
    "arm.one.architecture=alexnet",
    "arm.one.batch_size=31",
    "data.image_size=72",
    "data.crop_size=64",
)
# Two epochs in float32. Metrics of one and two ranks differ by 3e-7 of their size, weights by 1e-5
# (with batch norm) and 4e-9 (AlexNet). With gradients of a wrong scale, batch norm by rank or masks
# by rank, metrics differ by 1e-3 or more, weights by 7e-3 and 2e-4: bounds lie between.


@pytest.fixture(autouse=True)
def one_thread_after() -> Any:
    yield
    torch.set_num_threads(1)


def trained(job: TrainingJob, ranks: int, state: State | None = None) -> Trainer:
    """Train a job to its end, or go on with it from a state."""
    trainer = Trainer(replace(job, others=("cpu",) * (ranks - 1)))
    if state is not None:
        trainer.restore(state)
    with team_of(trainer, threads=ranks) as team:
        trainer.records = list(trainer.epochs(team))  # type: ignore[attr-defined]
    return trainer


def science(trainer: Trainer) -> list[dict[str, float]]:
    records = trainer.records  # type: ignore[attr-defined]
    timing = schema.TIMING_METRICS
    return [{k: v for k, v in r.metrics.items() if k not in timing} for r in records]


def furthest(one: Trainer, two: Trainer) -> float:
    """Return the largest difference of any weight."""
    pairs = zip(one.state()["model"].values(), two.state()["model"].values(), strict=True)
    return max(float((a.double() - b.double()).abs().max()) for a, b in pairs)


@pytest.mark.parametrize("ranks", range(1, 6))
@pytest.mark.parametrize("n", [1, 2, 3, 7, 16, 61])
def test_every_image_of_a_batch_is_one_ranks_alone(n: int, ranks: int) -> None:
    rows = np.arange(100, 100 + n)
    shares = [next(iter(RankSampler(lambda _: [rows], rank, ranks))) for rank in range(ranks)]
    assert np.concatenate([share.rows[share.own] for share in shares]).tolist() == rows.tolist()
    lengths = [len(share.rows[share.own]) for share in shares]
    assert max(lengths) - min(lengths) <= 1
    for share in shares:
        counted = share.rows[share.trained][share.counted]
        assert counted.tolist() == share.rows[share.own].tolist()


@pytest.mark.parametrize("n", [1, 2, 7, 16])
def test_the_mean_of_weighted_losses_is_the_batchs(n: int) -> None:
    losses = np.random.default_rng(0).random(n)
    for ranks in range(1, 6):
        shares = [next(iter(RankSampler(lambda _: [np.arange(n)], r, ranks))) for r in range(ranks)]
        means = [losses[share.trained].mean() * share.weight for share in shares]
        assert np.mean(means) == pytest.approx(losses.mean(), rel=1e-12)


def test_an_epoch_has_an_order_of_its_own() -> None:
    def batches_of(epoch: int) -> list[Any]:
        return [np.random.default_rng(epoch).permutation(8)]

    sampler = RankSampler(batches_of, 1, 2)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append([share.rows[share.own].tolist() for share in sampler])
    assert orders[0] == orders[2] != orders[1]


def test_a_step_of_several_ranks_is_that_of_one(tmp_path: Path) -> None:
    """Uneven parts, and a batch with fewer images than ranks."""
    cases = [(name, n, 48) for name in ("batch norm", "masks") for n in (11, 2)]
    for found in in_ranks(3, tmp_path, differences, cases):
        assert len({case for case, _, _ in found}) == len(cases)
        assert [item for item in found if not item[2] < 1e-9] == []


def test_every_image_is_seen_once_an_epoch(tmp_path: Path) -> None:
    study, data = load(tmp_path, *UNEVEN, "protocol=honest")
    job = job_of(study, data)
    ranks = in_ranks(2, tmp_path, rows_seen, job)
    parts = {"train": job.split.train, "val": job.split.val, "test": job.split.test}
    for name, part in parts.items():
        assert sorted(ranks[0][name] + ranks[1][name]) == sorted(part.tolist())
        assert abs(len(ranks[0][name]) - len(ranks[1][name])) <= 3  # at most one a batch


def test_an_image_left_out_of_an_evaluation_is_noticed() -> None:
    row = torch.zeros(1, 3)
    with pytest.raises(RuntimeError, match="twice, or not at all"):
        ALONE.put_together([row, row], torch.tensor([0, 0]), (2, 3))


@pytest.mark.parametrize(("protocol", "n_test"), [("honest", 13), ("paper", 15)])
def test_two_ranks_train_and_evaluate_as_one(tmp_path: Path, protocol: str, n_test: int) -> None:
    """Batch norm and dropout; no batch of two, of which batch norm makes plus and minus one."""
    chosen = (f"protocol={protocol}", f"splits.n_test={n_test}", "arm.one.epochs=2")
    study, data = load(tmp_path, *UNEVEN, *chosen, "arm.one.learning_rate=0.02")
    job = job_of(study, data)
    one, two = trained(job, 1), trained(job, 2)
    for expected, found in zip(science(one), science(two), strict=True):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert one.progress.confusion == two.progress.confusion
    assert 0 < furthest(one, two) < 1e-4


def test_two_ranks_train_the_papers_network_as_one(tmp_path: Path) -> None:
    """AlexNet: its dropout drops the same units, its random test crops are the same."""
    study, data = load(tmp_path, *UNEVEN, *ALEXNET, "protocol=paper", "arm.one.epochs=2")
    job = job_of(study, data)
    one, two = trained(job, 1), trained(job, 2)
    for expected, found in zip(science(one), science(two), strict=True):
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert 0 < furthest(one, two) < 1e-6


def test_a_run_of_two_ranks_resumes_bit_for_bit_and_by_one_to_rounding(tmp_path: Path) -> None:
    study, data = load(tmp_path, *UNEVEN, "arm.one.learning_rate=0.02", "arm.one.epochs=3")
    job = job_of(study, data)
    whole, folder = trained(job, 2), CheckpointFolder(tmp_path / "checkpoints")
    first = Trainer(replace(job, others=("cpu",)))
    with team_of(first, threads=2) as team:
        next(first.epochs(team))
    folder.save(first.state())
    torch.manual_seed(99)
    state = folder.load()
    assert state is not None
    resumed = trained(job, 2, state)
    assert science(resumed) == science(whole)[1:]
    assert furthest(resumed, whole) == 0
    alone = trained(job, 1, folder.load())
    assert science(alone)[-1] == pytest.approx(science(whole)[-1], rel=1e-5, abs=1e-6)
    assert whole.state()["model"].keys() == alone.state()["model"].keys()


def test_a_probe_on_kept_features_is_trained_by_two_ranks_as_by_one(tmp_path: Path) -> None:
    from galaxy_mlflow.features import ensure_features
    from galaxy_mlflow.models import build_model

    study, data = load(tmp_path, *UNEVEN)
    model = build_model(study.arm["one"], 3, study.data.crop, seed=1)
    file = tmp_path / "weights.pt"
    torch.save(model.state_dict(), file)
    probe = study.arm["one"].model_copy(update={"freeze": "features", "weights": f"file:{file}"})
    job = replace(job_of(study.model_copy(update={"arm": {"one": probe}}), data), weights_file=file)
    features = ensure_features(job, tmp_path / "features")
    assert features is not None
    found = []
    for others in ((), ("cpu",)):
        trainer = Trainer(replace(job, others=others), features=features)
        with team_of(trainer, 2, tmp_path / "features") as team:
            found.append([record.metrics["test_loss"] for record in trainer.epochs(team)])
    assert found[1] == pytest.approx(found[0], rel=1e-6)


def test_a_run_that_diverges_says_so_by_any_number_of_ranks(tmp_path: Path) -> None:
    study, data = load(tmp_path, "arm.one.learning_rate=100", "arm.one.optimizer=sgd")
    with pytest.raises(DivergedError, match="lower learning_rate"):
        trained(job_of(study, data), 2)


def test_a_rank_that_cannot_begin_says_why(tmp_path: Path) -> None:
    study, data = load(tmp_path)
    trainer = Trainer(replace(job_of(study, data), others=("cuda:99",)))
    with pytest.raises(RankLostError, match=r"rank 1 of 2 ended: \w+: ."):
        team_of(trainer, threads=1).__enter__()


class NoMemory:
    """An order that takes more memory than there is."""

    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("raise MemoryError",)


def test_a_rank_that_lacks_memory_says_so_in_words_that_rank_0_knows() -> None:
    code = "from galaxy_mlflow.ranks import serve; serve()"
    order = pickle.dumps(NoMemory())
    done = subprocess.run([sys.executable, "-c", code], input=order, capture_output=True)
    lost = RankLostError(f"rank 1 of 2 ended: {done.stderr.decode()}")
    assert memory_lacked(lost).startswith("the machine is out of memory")
    assert not memory_lacked(RankLostError("rank 1 of 2 was killed (SIGKILL)"))


def test_going_on_with_another_number_of_ranks_is_said(tmp_path: Path) -> None:
    study, data = load(tmp_path)
    job = replace(job_of(study, data), others=("cpu",))
    assert change_of_ranks({schema.RANKS: "2"}, job) == ""
    assert "by 2 processes instead of 1" in change_of_ranks({}, job)
