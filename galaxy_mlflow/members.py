"""Chosen runs as networks that can predict: fetched, each with its temperature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from galaxy_mlflow.fitted import temperatures
from galaxy_mlflow.predict import Member, require_alike
from galaxy_mlflow.runs import RunRecord
from galaxy_mlflow.tracking import MlflowStore
from galaxy_mlflow.trained import fetch_trained


@dataclass(frozen=True)
class Fetched:
    """The networks of a choice, and what a user should know of them."""

    members: tuple[Member, ...]
    notices: tuple[str, ...]


def fetch_members(
    store: MlflowStore, runs: Sequence[RunRecord], fitted: Mapping[str, float] | None = None
) -> Fetched:
    """Fetch trained runs, and fit the temperature of each on its own validation part.

    A run that left no predictions on a validation part keeps the temperature 1; that is told.

    Parameters
    ----------
    fitted : temperatures by run_id, where `fetched.fetch_chosen` has fitted them

    Raises
    ------
    WeightsError
        A run cannot be used, or the runs do not go together.
    ServerError
        The server cannot be reached.
    """
    members, without = [], []
    for run in runs:
        trained = fetch_trained(store, run)
        found = temperatures(store, [run]) if fitted is None else fitted
        if run.run_id not in found:
            without.append(run.job.run_name)
        members.append(Member(trained, found.get(run.run_id, 1.0)))
    require_alike(members)
    return Fetched(tuple(members), _notices(without))


def _notices(without: Sequence[str]) -> tuple[str, ...]:
    if not without:
        return ()
    return (
        f"the probabilities of {', '.join(without)} are not calibrated: there are no predictions "
        "on a validation part to fit a temperature on",
    )
