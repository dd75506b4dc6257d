"""Images and heat maps for a study's report, wherever this machine has them.

A report never fails for want of a picture: what cannot be had is noted in `missing`, with the
reason.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
from PIL import Image

from galaxy_mlflow.display import Display
from galaxy_mlflow.errors import DataError, GalaxyError, WeightsError
from galaxy_mlflow.home import Home
from galaxy_mlflow.image_index import ImageIndex, read_index
from galaxy_mlflow.pictures import Pixels
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.tracking import MlflowStore

Target = tuple[str, str]
"""An image's id and the key of a class."""

LARGEST: Final = 256
"""Pixels a side: larger images are shown smaller."""
_QUALITY: Final = 90


@dataclass(eq=False)
class Evidence:
    """What a report shows of the images of one study.

    Attributes
    ----------
    study : what the user called the study: a file, or a name
    data_hash : of the data that its runs were trained on
    store : where its trained networks are; None where there are none, as behind an export
    grad_cam : whether heat maps are wanted
    display : shows progress
    missing : what could not be had, in sentences
    """

    study: str
    data_hash: str
    store: MlflowStore | None
    display: Display
    grad_cam: bool = True
    missing: list[str] = field(default_factory=list)

    def images(self, ids: Sequence[str]) -> Mapping[str, bytes]:
        """Return the images that can be had, as JPEG, by id."""
        found = {name: as_jpeg(pixels) for name, pixels in self._pixels(ids).items()}
        if found and len(found) < len(ids):
            self.missing.append(f"{len(ids) - len(found)} of the images are not in the data set.")
        return found

    def paths(self, ids: Sequence[str]) -> Mapping[str, str]:
        """Return the files that images were read from, by id."""
        return {} if self._index is None else self._index.paths_of(ids)

    def heat(self, wanted: Mapping[JobId, Sequence[Target]]) -> Mapping[Target, bytes]:
        """Return images with what spoke for a class over them, as JPEG.

        Parameters
        ----------
        wanted : for each network the images that it is asked about, and the class
        """
        if not self.grad_cam or not wanted or not self._can_explain():
            return {}
        found: dict[Target, bytes] = {}
        with self.display.step("Grad-CAM") as progress:
            progress(0, len(wanted))
            for done, (job, targets) in enumerate(wanted.items(), start=1):
                found |= self._asked(job, targets)
                progress(done, len(wanted))
        return found

    def _can_explain(self) -> bool:
        """Whether networks can be asked at all; if not, say why."""
        if self.store is None:
            self.missing.append("Grad-CAM needs the trained networks, which an export has not.")
            return False
        try:
            import galaxy_mlflow.explain  # noqa: F401
        except ImportError as error:
            self.missing.append(f"Grad-CAM needs torch and captum: {error}.")
            return False
        return True

    def _asked(self, job: JobId, targets: Sequence[Target]) -> dict[Target, bytes]:
        try:
            return self._overlays(job, targets)
        except Exception as error:  # captum, torch and the store each have their own
            reason = str(error) if isinstance(error, GalaxyError) else f"{error!r}"
            self.missing.append(f"No Grad-CAM of {job.run_name}: {reason}.")
            return {}

    def _overlays(self, job: JobId, targets: Sequence[Target]) -> dict[Target, bytes]:
        from galaxy_mlflow.explain import grad_cam, overlay
        from galaxy_mlflow.trained import fetch_trained

        pixels = self._pixels([name for name, _ in targets])
        shown = [target for target in targets if target[0] in pixels]
        run = self.store.find(job) if self.store is not None else None
        if run is None or self.store is None:
            raise WeightsError("its run is not on the server")
        trained = fetch_trained(self.store, run)
        images = np.stack([pixels[name] for name, _ in shown])
        heats = grad_cam(trained, images, [key for _, key in shown])
        return {
            target: as_jpeg(overlay(image, heat, trained.crop))
            for target, image, heat in zip(shown, images, heats, strict=True)
            if heat.any()
        }

    def _pixels(self, ids: Sequence[str]) -> dict[str, Pixels]:
        try:
            return {} if self._index is None else self._index.pixels(ids)
        except DataError as error:
            self._note_no_images(error)
            return {}

    @cached_property
    def _index(self) -> ImageIndex | None:
        """The images' index, from the cache or else from the study file."""
        try:
            return self._find_index()
        except (GalaxyError, OSError) as error:
            self._note_no_images(error)
            return None

    def _find_index(self) -> ImageIndex:
        from galaxy_mlflow.prepare import prepare_data
        from galaxy_mlflow.study_file import load_study_file

        home = Home.default()
        try:
            return read_index(home.cache, self.data_hash)
        except DataError:
            settings = load_study_file(self.study)
        with self.display.step("images") as progress:
            data = prepare_data(settings, home, skip_bad=True, progress=progress)
        if data.data_hash != self.data_hash:
            raise DataError(f"the data of {self.study} are not those that the runs were trained on")
        return read_index(home.cache, self.data_hash)

    def _note_no_images(self, error: Exception) -> None:
        reason = str(error).splitlines()[0]
        note = f"No image can be shown here: {reason.rstrip('.')}."
        if note not in self.missing:
            self.missing.append(note)


def the_only(hashes: Iterable[str]) -> str:
    """Return the hash of the data where all runs carry one; "" else."""
    distinct = set(hashes)
    return distinct.pop() if len(distinct) == 1 else ""


def as_jpeg(pixels: Pixels) -> bytes:
    """Return an image (size, size, 3), made `LARGEST` a side if it is larger, as JPEG."""
    image = Image.fromarray(pixels)
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=_QUALITY, subsampling=0, optimize=True)
    return buffer.getvalue()
