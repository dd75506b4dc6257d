"""What a store holds of the runs of a study, for comparison with another's."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import torch
from safetensors.torch import load_file

from galaxy_mlflow import schema
from galaxy_mlflow.files import sha256_of
from galaxy_mlflow.home import Home
from galaxy_mlflow.runs import RunRecord
from galaxy_mlflow.tracking import MlflowStore

TIMING = (*schema.TIMING_METRICS, schema.TOTAL_SECONDS, schema.TOTAL_ENERGY)
LAST, BEST = "checkpoints/last.pt", schema.BEST_WEIGHTS
NEVER_SAME = {LAST, BEST, "checkpoints/last.json"}
"""Files that tell how long something took, or name things in any order; weights are compared."""
_ROWS = """
select tags.value, metrics.key, metrics.step, metrics.value from metrics
join tags on tags.run_uuid = metrics.run_uuid and tags.key = 'mlflow.runName'
"""


def raw_metrics(home: Home) -> dict[tuple[str, str, int], list[float]]:
    """Return every row of every run that the database holds, timing left out."""
    found: dict[tuple[str, str, int], list[float]] = {}
    with closing(sqlite3.connect(home.database)) as database:
        for run, key, step, value in database.execute(_ROWS):
            if key not in TIMING:
                found.setdefault((run, key, step), []).append(value)
    return found


def runs(home: Home, uri: str = "") -> dict[str, RunRecord]:
    store = MlflowStore(uri or home.database_uri, home)
    return {run.job.run_name: run for run in store.runs("tiny")}


def digests(home: Home, run: RunRecord, folder: Path) -> dict[str, str]:
    """Return the sha256 of each artifact that a run has on the server, by its path."""
    store, found = MlflowStore(home.database_uri, home), {}
    for part in (schema.CHECKPOINTS, schema.CONFUSION, schema.PREDICTIONS, schema.FIGURES, ""):
        for path in store.artifacts(run.run_id, part):
            file = store.fetch(run.run_id, path, folder / run.run_id)
            if file is not None and file.is_file():
                found[path] = sha256_of(file)
    return found


def assert_same_outcome(one: Home, two: Home, folder: Path) -> None:
    """Hold two stores to the same runs: metrics, params, files and weights, bit for bit."""
    expected, found = raw_metrics(one), raw_metrics(two)
    assert all(len(values) == 1 for values in found.values()), "an epoch is there twice"
    assert found == expected
    left, right = runs(one), runs(two)
    assert left.keys() == right.keys()
    assert len(left) == 4
    for name, run in left.items():
        other = right[name]
        assert run.status == other.status == schema.FINISHED
        assert run.params == other.params
        assert _lasting(digests(one, run, folder)) == _lasting(digests(two, other, folder))
        for path in (LAST, BEST):
            here, there = (_weights(folder / one.run_id / path) for one in (run, other))
            assert here.keys() == there.keys()
            assert all(torch.equal(here[key], there[key]) for key in here)


def _lasting(found: dict[str, str]) -> dict[str, str]:
    assert found.keys() >= NEVER_SAME
    return {path: digest for path, digest in found.items() if path not in NEVER_SAME}


def _weights(file: Path) -> dict[str, torch.Tensor]:
    if file.suffix == ".safetensors":
        return load_file(file)
    model: dict[str, torch.Tensor] = torch.load(file, weights_only=True)["model"]
    return model
