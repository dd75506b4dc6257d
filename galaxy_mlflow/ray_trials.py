"""Trials on a Ray cluster: tasks there, which ask this process after each epoch."""

from __future__ import annotations

from collections.abc import Callable

from galaxy_mlflow.ray_crew import RayCrew
from galaxy_mlflow.ray_parcel import Answer, Order, RaySetting, TrialOrder
from galaxy_mlflow.schema import JobId

OrderOf = Callable[[JobId], TrialOrder]


class RayTrials(RayCrew):
    """Trains trials on a Ray cluster; see `RayCrew` for where, and for what is raised.

    Parameters
    ----------
    order_of : returns what a trial is trained with, drawn when it is given out
    """

    def __init__(self, setting: RaySetting, order_of: OrderOf, say: Callable[[str], None]) -> None:
        self._order_of = order_of
        super().__init__(setting, say)

    def answer(self, job: JobId, stop: bool) -> None:
        """Answer the trial that has told of an epoch: whether it is to stop."""
        self._send(Answer(job, stop))

    def _order(self, job: JobId) -> Order:
        return Order(job, trial=self._order_of(job))
