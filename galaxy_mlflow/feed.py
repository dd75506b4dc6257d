"""Batches as the network takes them, from images in memory or on the device."""

from __future__ import annotations

import torch
from torch import Tensor

from galaxy_mlflow.augment import augment, centre, to_network
from galaxy_mlflow.job import TrainingJob
from galaxy_mlflow.splits import Indices

_SHARE_OF_FREE = 0.25
"""Of a GPU's free memory, what a run's images may take: others may use the GPU too."""
_ALL = slice(None)


class Feed:
    """Images and labels of a job, batch by batch.

    On a GPU the images stay on the device where they fit; then no pixel is copied there twice,
    and nothing waits for the device.
    """

    def __init__(self, job: TrainingJob) -> None:
        self._job = job
        self._labels = torch.from_numpy(job.data.labels).to(job.device)
        self._kept = _on_device(job)
        self._dtype = torch.bfloat16 if job.settings.precision == "bf16" else torch.float32

    def batch(
        self, rows: Indices, stream: torch.Generator | None, part: slice = _ALL
    ) -> tuple[Tensor, Tensor]:
        """Return images ready for the network, and their class numbers.

        Parameters
        ----------
        rows : int64 (n,)
            Of the job's data set.
        stream : torch.Generator, optional
            What random views are drawn from; without one, views are centres.
        part : slice
            Of the rows: only these are returned, of views that are drawn for all.

        Returns
        -------
        images : Tensor, float32 or bfloat16 by the arm's precision, (n, 3, crop, crop)
        labels : Tensor, int64 (n,)
        """
        job, crop = self._job, self._job.study.data.crop
        places = torch.from_numpy(rows[part]).to(job.device)
        pixels = self._pixels(rows[part]) if self._kept is None else self._kept[places]
        if stream is None:
            views = centre(pixels, crop)
        else:
            among = (part.indices(len(rows))[0], len(rows))
            views = augment(pixels, job.study.augmentation, crop, stream, among)
        images = to_network(views, normalise=job.settings.normalize, dtype=self._dtype)
        return images, self._labels[places]

    def labels(self, rows: Indices) -> Tensor:
        """Return class numbers: int64 (n,), on the device."""
        return self._labels[torch.from_numpy(rows).to(self._job.device)]

    def _pixels(self, rows: Indices) -> Tensor:
        return torch.from_numpy(self._job.data.batch(rows)).to(self._job.device)


def _on_device(job: TrainingJob) -> Tensor | None:
    """Return all images (n, side, side, 3) on a GPU with room for them, else None."""
    if not job.device.startswith("cuda"):
        return None
    bytes_needed = len(job.data) * job.data.images[0].nbytes
    free, _ = torch.cuda.mem_get_info(torch.device(job.device))
    if bytes_needed > _SHARE_OF_FREE * free:
        return None
    return torch.from_numpy(job.data.batch(range(len(job.data)))).to(job.device)
