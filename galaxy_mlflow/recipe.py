"""The settings of an arm that can be tuned: their types and ranges, said once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

BatchSize = Annotated[int, Field(ge=2)]
Optimizer = Literal["sgd", "adam", "adamw"]
LearningRate = Annotated[float, Field(gt=0, le=100)]
Momentum = Annotated[float, Field(ge=0, lt=1)]  # sgd only
WeightDecay = Annotated[float, Field(ge=0)]
Schedule = Literal["constant", "cosine"]
WarmupEpochs = Annotated[int, Field(ge=0)]
