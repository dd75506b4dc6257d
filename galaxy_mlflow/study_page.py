"""The page of a study in MLflow's UI: how its experiment gets a description and a view.

A description that a person has edited is left alone: its last line carries a checksum of what
stands above it, so that a later run knows its own words and may bring them up to date.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from galaxy_mlflow import schema
from galaxy_mlflow.arm_view import TAG_ROOM

if TYPE_CHECKING:
    from mlflow import MlflowClient

EXPERIMENT: Final = "EXPERIMENT-ID"
"""Stands in a description for the experiment's number, known once the experiment is there."""
_SIGNED: Final = "*Written by galaxy-mlflow, and left alone once you have edited it:"

_ROOM: Final = TAG_ROOM - 200
"""Characters of a note, without its last line."""


def describe(client: MlflowClient, experiment_id: str, page: Mapping[str, str]) -> None:
    """Give an experiment its page: what it lacks, and what an earlier run wrote otherwise."""
    if not page:
        return
    there = client.get_experiment(experiment_id).tags
    note = page[schema.NOTE].replace(EXPERIMENT, experiment_id)
    wanted = {**page, schema.NOTE: _signed(note if len(note) <= _ROOM else f"{note[:_ROOM]} ...")}
    if not _is_own(there.get(schema.NOTE, _signed(""))):
        del wanted[schema.NOTE]
    for key, value in wanted.items():
        if there.get(key) != value:
            client.set_experiment_tag(experiment_id, key, value)


def _signed(text: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return f"{text}\n\n{_SIGNED} {digest}.*"


def _is_own(note: str) -> bool:
    """Whether a note is as this module wrote it."""
    return note == _signed(note.rpartition(f"\n\n{_SIGNED}")[0])
