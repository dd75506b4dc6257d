"""The body of a Ray task: one job, and word of it; told to leave, it closes the job's records."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from typing import Any

from galaxy_mlflow.dispatch import Lost
from galaxy_mlflow.outcomes import STOPPED, JobResult
from galaxy_mlflow.processes import Terminated, sigterm_like_ctrl_c
from galaxy_mlflow.ray_job import train
from galaxy_mlflow.ray_mail import Placed, Post, Unfit
from galaxy_mlflow.ray_parcel import Order, Parcel

_REST = 60.0  # seconds that an unfit machine gets no work, doubled each time
_LONGEST_REST = 600.0


class _Rest:
    """Keeps a place of an unfit machine busy, so that others get the jobs."""

    def __init__(self) -> None:
        self.seconds = _REST

    def take(self) -> None:
        """Rest; longer each time."""
        pause, self.seconds = self.seconds, min(2 * self.seconds, _LONGEST_REST)
        time.sleep(pause)

    def forget(self) -> None:
        """Begin anew: the machine is fit."""
        self.seconds = _REST


_rest = _Rest()


def task(parcel: Parcel, weights: dict[str, Any], mailbox: Any, order: Order) -> JobResult | Lost:
    """Train one job; the body of a Ray task. Cancelling it closes the job's records."""
    import ray

    post, job = Post(mailbox), order.job
    node = ray.get_runtime_context().get_node_id()
    try:
        with sigterm_like_ctrl_c():  # a machine that leaves the cluster tells each task so
            post.send(Placed(job, node, socket.gethostname()))
            outcome = train(
                parcel, order, lambda digest: bytes(ray.get(weights[digest])), post.send, post.ask
            )
            if isinstance(outcome, Unfit):
                return _give_back(replace(outcome, node=node), post)
            post.flush()
            _rest.forget()
            return outcome
    except Terminated:
        return Lost(job, f"{socket.gethostname()} leaves the cluster", counts=False)
    except KeyboardInterrupt:
        return JobResult(job, STOPPED, "asked to stop", again=True)


def _give_back(letter: Unfit, post: Post) -> Lost:
    """Give a job back, and keep its place busy once that has arrived."""
    post.send(letter)  # with this the job is another's
    post.flush()
    _rest.take()
    return Lost(letter.job, letter.reason, counts=False)
