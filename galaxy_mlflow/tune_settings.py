"""How the arms of a study are tuned, `[tune]`, and how they were, `[tuned.ARM]`.

There is one space, one number of trials, one sampler and one seed for all arms: a comparison of an
arm that was tuned well with one that was tuned badly says nothing of the arms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_validator,
)

from galaxy_mlflow.recipe import (
    BatchSize,
    LearningRate,
    Momentum,
    Optimizer,
    Schedule,
    WarmupEpochs,
    WeightDecay,
)
from galaxy_mlflow.settings import Count, Seed, Settings

T = TypeVar("T")
Number = TypeVar("Number", bound=float)
Value = int | float | str
CHOICES, RANGE = "choices", "range"
"""Names of the two forms; pydantic puts them into the place of an error."""
_A_WHOLE = 1e-9
"""By how much a range may miss a whole number of steps: decimals are no binary fractions."""


class Span(Settings, Generic[Number]):
    """All values from `low` to `high`, both included.

    Attributes
    ----------
    log : drawn evenly by order of magnitude
    step : only low, low + step, low + 2 step, ...
    """

    low: Number
    high: Number
    log: bool = False
    step: Annotated[Number, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("log needs a low above 0 and no step")
        steps = (self.high - self.low) / self.step if self.step else 0.0
        if abs(steps - round(steps)) > _A_WHOLE * max(1.0, steps):
            raise ValueError(f"{self.low:g} to {self.high:g} is no whole number of steps")
        return self


def _different(choices: Any) -> Any:
    if not isinstance(choices, list):
        raise ValueError("expected a list of choices")
    if len(choices) < 2 or any(choices.count(choice) > 1 for choice in choices):
        raise ValueError("expected two choices or more, each once")
    return choices


def _form(given: Any) -> str:
    return CHOICES if isinstance(given, list) else RANGE


def _a_form(given: Any) -> Any:
    if isinstance(given, list | Mapping | Span):
        return given
    raise ValueError("expected a list of choices, or {low = ..., high = ..., log = true}")


Choices = Annotated[list[T], BeforeValidator(_different)]
_LISTED, _SPANNED = Tag(CHOICES), Tag(RANGE)
_FORM, _EITHER = Discriminator(_form), BeforeValidator(_a_form)
# Typing cannot fill in a pydantic model inside an alias: hence one line each.
_Listed = Annotated[Choices[T], _LISTED]
Rates = Annotated[_Listed[LearningRate] | Annotated[Span[LearningRate], _SPANNED], _FORM, _EITHER]
Decays = Annotated[_Listed[WeightDecay] | Annotated[Span[WeightDecay], _SPANNED], _FORM, _EITHER]
Batches = Annotated[_Listed[BatchSize] | Annotated[Span[BatchSize], _SPANNED], _FORM, _EITHER]
Momenta = Annotated[_Listed[Momentum] | Annotated[Span[Momentum], _SPANNED], _FORM, _EITHER]
WarmUps = Annotated[_Listed[WarmupEpochs] | Annotated[Span[WarmupEpochs], _SPANNED], _FORM, _EITHER]


class SpaceSettings(Settings):
    """What may be drawn for each setting; a setting that is not named stays as it is.

    Only settings of the recipe are here. What an arm *is* (its network, its weights, what it sees
    of the images) and what it may use (epochs, labels) are the question of a study, or its budget.
    """

    learning_rate: Rates | None = None
    weight_decay: Decays | None = None
    batch_size: Batches | None = None
    optimizer: Choices[Optimizer] | None = None
    momentum: Momenta | None = None
    schedule: Choices[Schedule] | None = None
    warmup_epochs: WarmUps | None = None

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if not self.named:
            raise ValueError(f"names no setting; known: {', '.join(type(self).model_fields)}")
        return self

    @property
    def named(self) -> dict[str, list[Any] | Span[Any]]:
        """The settings that are drawn, in the order of this class."""
        found = {name: getattr(self, name) for name in type(self).model_fields}
        return {name: values for name, values in found.items() if values is not None}

    def largest(self, name: str) -> float:
        """Return the largest value that a number may get; -inf where it is not drawn."""
        values = self.named.get(name, [-math.inf])
        return float(values.high if isinstance(values, Span) else max(values))


DEFAULT_SPACE = SpaceSettings(
    # From fine-tuning transformers with AdamW (3e-5) to SGD from scratch (0.1).
    learning_rate=Span[LearningRate](low=1e-5, high=0.1, log=True),
    # From as good as none to twice what AdamW is used with (0.05); SGD's 1e-4 lies between.
    weight_decay=Span[WeightDecay](low=1e-6, high=0.1, log=True),
)


class TuneSettings(Settings):
    """How all arms are tuned alike; none of it changes what a run of the study computes."""

    trials: Count = 12  # of each arm; the first has the settings of the study file
    metric: Literal["val_loss", "val_accuracy"] = "val_loss"  # at the selected epoch
    # How many splits, or which; None of the study's own unless they are named (see docs/studies.md)
    splits: Count | list[Annotated[int, Field(ge=0)]] = 1
    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Literal["median", "hyperband", "none"] = "median"
    grace_epochs: Count = 3  # that every trial trains before it may be pruned
    seed: Seed = 0  # of the draws
    space: SpaceSettings = DEFAULT_SPACE

    @field_validator("splits")
    @classmethod
    def _each_split_once(cls, splits: int | list[int]) -> int | list[int]:
        if isinstance(splits, list) and (not splits or len(set(splits)) < len(splits)):
            raise ValueError("expected numbers of splits, each once, or how many splits")
        return splits


class TunedSettings(Settings):
    """How the settings of one arm were found; written by `tune`, and carried by every run.

    Attributes
    ----------
    study : that was tuned
    trials : completed + pruned + failed
    failed : trials that diverged or could not be trained with their settings; they count with the
        worst value
    epochs : trained in all trials
    best_value, untuned_value : of the metric on validation parts, mean over the splits; the untuned
        settings are those of the study file
    improved : what each trial that was better than all before it reached, by its number; empty in
        records of an older version
    chosen, untuned : value of each setting of the space
    data_hash : of the images it was tuned on
    """

    study: str
    trials: Count
    completed: Count
    pruned: Annotated[int, Field(ge=0)]
    failed: Annotated[int, Field(ge=0)]
    epochs: Count
    metric: Literal["val_loss", "val_accuracy"]
    best_trial: Annotated[int, Field(ge=0)]
    best_value: float
    untuned_value: float
    improved: dict[str, float] = Field(default_factory=dict)
    chosen: dict[str, Value]
    untuned: dict[str, Value]
    splits: list[int]
    sampler: str
    pruner: str
    grace_epochs: Count
    seed: Seed
    optuna: str
    data_hash: str
    space: SpaceSettings

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.completed + self.pruned + self.failed != self.trials:
            raise ValueError("completed, pruned and failed trials do not add up to all trials")
        return self


def in_words(values: Sequence[Any] | Span[Any]) -> str:
    """Return what may be drawn: `1e-05 to 0.1, log`, or `sgd, adamw`."""
    if not isinstance(values, Span):
        return ", ".join(map(str, values))
    step = f", step {values.step:g}" if values.step else ""
    return f"{values.low:g} to {values.high:g}{', log' if values.log else ''}{step}"


def shown(settings: Mapping[str, Value]) -> str:
    """Return settings for a line of text: `learning_rate 0.00179, optimizer sgd`."""
    short = {k: f"{v:.3g}" if isinstance(v, float) else str(v) for k, v in settings.items()}
    return ", ".join(f"{key} {value}" for key, value in short.items())
