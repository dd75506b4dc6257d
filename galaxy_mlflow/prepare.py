"""What all runs of a study share, made once before the first: images, splits, initial weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from galaxy_mlflow.cache import GalaxyData, open_data
from galaxy_mlflow.config import ArmSettings, Study
from galaxy_mlflow.contact_sheet import save_contact_sheet
from galaxy_mlflow.errors import WeightsError
from galaxy_mlflow.home import Home
from galaxy_mlflow.known import KnownRuns
from galaxy_mlflow.splits import (
    Split,
    SplitRule,
    draw_split,
    sparse_parts,
    with_few_labels,
)
from galaxy_mlflow.timm_names import is_timm
from galaxy_mlflow.tracking import MlflowStore

Progress = Callable[[int, int], None]
_SAMPLES_A_CLASS = 8
_SPLITS_LOOKED_AT = 100


@dataclass(frozen=True)
class Splits:
    """The wanted splits of a study, each drawn when it is asked for: all would fill the memory."""

    rule: SplitRule
    labels: NDArray[np.int64]
    numbers: Sequence[int]

    def __getitem__(self, number: int) -> Split:
        return draw_split(self.rule, self.labels, number)

    def of(self, number: int, arm: ArmSettings) -> Split:
        """Return a split as an arm sees it: with as many labels as it is given."""
        split = self[number]
        if arm.n_labels is None:
            return split
        return with_few_labels(self.rule, split, self.labels, arm.n_labels)


@dataclass(frozen=True)
class Prepared:
    """A study made ready to train."""

    study: Study
    data: GalaxyData
    splits: Splits
    samples: Path
    weights: dict[str, Path | None] = field(default_factory=dict)  # by arm


def prepare_data(
    study: Study, home: Home, *, skip_bad: bool = False, progress: Progress | None = None
) -> GalaxyData:
    """Return the study's images, decoded and checked.

    Raises
    ------
    DataError
        The data set cannot be used; BadImagesError lists all bad images together.
    """
    return open_data(study.data, home.cache, skip_bad=skip_bad, progress=progress)


def draw_splits(study: Study, data: GalaxyData, numbers: Sequence[int]) -> Splits:
    """Return the wanted splits; the first is drawn for every arm to see that they can be.

    Raises
    ------
    SplitError
        The sizes asked for cannot be had from this many images.
    """
    splits = Splits(split_rule(study, data.labels.size), data.labels, numbers)
    for arm in study.arm.values():
        splits.of(numbers[0], arm)
    return splits


def split_rule(study: Study, n: int) -> SplitRule:
    """Return how a study draws splits of `n` images."""
    settings = study.splits
    fraction = settings.test_fraction if settings.test_fraction is not None else 0.2
    n_test = settings.n_test if settings.n_test is not None else round(n * fraction)
    val_fraction = settings.val_fraction if study.validates else None
    return SplitRule(settings.recipe, n_test, settings.stratified, settings.seed, val_fraction)


def class_warnings(splits: Splits, data: GalaxyData) -> list[str]:
    """Return a warning for each class with fewer than 2 images in some part of a split.

    The first hundred splits are looked at: in a larger study they tell what the others are like.
    """
    return [
        warning
        for number in splits.numbers[:_SPLITS_LOOKED_AT]
        for warning in sparse_parts(splits[number], data.labels, data.classes)
    ]


def label_warnings(study: Study, splits: Splits, data: GalaxyData) -> list[str]:
    """Return a warning for each class of which few labels leave fewer than 2 to train on."""
    arms = {arm.n_labels: arm for arm in study.arm.values() if arm.n_labels is not None}
    looked_at = splits.numbers[:_SPLITS_LOOKED_AT]
    warnings = []
    for count, arm in arms.items():
        trained = [data.labels[splits.of(number, arm).train] for number in looked_at]
        found = np.array([np.bincount(t, minlength=len(data.classes)) for t in trained])
        warnings += [
            f"with {count} labels, class {name!r} has fewer than 2 training images on {few} of "
            f"{len(looked_at)} splits"
            for name, few in zip(data.classes, (found < 2).sum(axis=0).tolist(), strict=True)
            if few
        ]
    return warnings


def draw_samples(study: Study, data: GalaxyData, home: Home) -> Path:
    """Draw a labelled sheet of the first images of each class; return its file."""
    rows = first_of_each(data, _SAMPLES_A_CLASS)
    labels = [data.classes[number] for number in data.labels[rows]]
    file = home.cache / "samples" / f"{study.name}-{data.data_hash[:12]}.png"
    if not file.is_file():
        save_contact_sheet(file, data.batch(rows), labels)
    return file


def first_of_each(data: GalaxyData, count: int) -> NDArray[np.int64]:
    """Return the numbers of the first `count` images of each class, class by class."""
    chosen = [np.flatnonzero(data.labels == i)[:count] for i in range(len(data.classes))]
    return np.concatenate(chosen)


def prepare_weights(
    study: Study,
    arms: Sequence[str],
    store: MlflowStore | KnownRuns,
    progress: Progress | None = None,
) -> dict[str, Path | None]:
    """Return each arm's file of initial weights, made or fetched where that is needed.

    Every arm's network is built once on the way, so that what cannot be built stops the study
    before its first run.

    Raises
    ------
    WeightsError, ConfigError
        Weights cannot be had, or a network cannot be built from its arm.
    """
    from galaxy_mlflow.models import build_model

    files: dict[str, Path | None] = {}
    for name in arms:
        files[name] = _weights_file(study, study.arm[name], store, progress)
        build_model(study.arm[name], 2, study.data.crop, 0, files[name])
    return files


def require_imagenet_here(study: Study, arms: Sequence[str]) -> None:
    """Refuse weights that a hub would be asked for; timm's own hub is kept from asking.

    Raises
    ------
    WeightsError
        ImageNet weights of an arm are not on this machine.
    """
    from galaxy_mlflow.models import imagenet_file

    os.environ["HF_HUB_OFFLINE"] = "1"  # it asks even for what it has
    for arm in (study.arm[name] for name in arms):
        if arm.weights != "imagenet" or is_timm(arm.architecture):
            continue
        file = imagenet_file(arm.architecture)
        if not file.is_file():
            raise WeightsError(
                f"{file}: the ImageNet weights of {arm.architecture} are not on this machine: call "
                "galaxy-mlflow prepare where there is a route to the internet, or put them there"
            )


def prepare_features(
    prepared: Prepared, arms: Sequence[str], home: Home, device: str, progress: Progress | None
) -> None:
    """Compute the features of arms that reuse them, so that no worker has to wait for another."""
    from galaxy_mlflow.features import ensure_features
    from galaxy_mlflow.job import TrainingJob

    split = prepared.splits[prepared.splits.numbers[0]]
    for arm in arms:
        weights = prepared.weights[arm]
        job = TrainingJob(prepared.study, arm, split, prepared.data, weights, device)
        ensure_features(job, home.features, progress)


def _weights_file(
    study: Study, arm: ArmSettings, store: MlflowStore | KnownRuns, progress: Progress | None
) -> Path | None:
    kind, _, rest = arm.weights.partition(":")
    if kind == "fractal":
        from galaxy_mlflow.pretrain import fractal_weights

        return fractal_weights(arm, study.data.crop, study.fractal, store.home.weights, progress)
    if kind == "file":
        return Path(rest)
    if kind == "run":
        from galaxy_mlflow.trained import fetch_weights

        return fetch_weights(store, rest)
    return None
