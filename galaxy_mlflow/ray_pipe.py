"""What the process that talks to Ray and its parent tell each other."""

from __future__ import annotations

from dataclasses import dataclass

from galaxy_mlflow.errors import GalaxyError
from galaxy_mlflow.ray_cluster import Capacity
from galaxy_mlflow.resources import Resources


@dataclass(frozen=True)
class Joined:
    """The cluster has let us in."""


@dataclass(frozen=True)
class Refused:
    """The cluster cannot be used."""

    error: GalaxyError


@dataclass(frozen=True)
class Word:
    """Something that the user should know."""

    text: str


@dataclass(frozen=True)
class Offer:
    """What the cluster can do now, and what a job takes."""

    capacity: Capacity
    need: Resources
    largest: str
