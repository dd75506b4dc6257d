"""A study as typed, validated, immutable values. `study_file.py` reads them from TOML.

Every default stands here, with its reason; a study file holds only differences from them.
"""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from galaxy_mlflow.data_settings import DataSettings, SimulatedData
from galaxy_mlflow.errors import did_you_mean
from galaxy_mlflow.files import sha256_of
from galaxy_mlflow.recipe import (
    BatchSize,
    LearningRate,
    Momentum,
    Optimizer,
    Schedule,
    WarmupEpochs,
    WeightDecay,
)
from galaxy_mlflow.schema import STUDY_NAME
from galaxy_mlflow.settings import Count, Fraction, Seed, Settings
from galaxy_mlflow.timm_names import check_name, is_timm
from galaxy_mlflow.tune_settings import TunedSettings, TuneSettings


class SplitSettings(Settings):
    """How splits are drawn."""

    recipe: Literal["random", "paper"] = "random"
    count: int = Field(default=10, ge=1, le=100_000)
    first: int = Field(default=0, ge=0)  # the study holds splits first .. first + count - 1
    n_test: Count | None = None
    test_fraction: Fraction | None = None  # 0.2 where neither is given
    val_fraction: Fraction = 0.125  # of the training part; used by the honest protocol
    stratify: bool | None = None  # None: true for random; the paper's recipe cannot
    seed: Seed = 0

    @property
    def stratified(self) -> bool:
        """Whether the classes keep their shares in every part."""
        return self.recipe == "random" if self.stratify is None else self.stratify

    @property
    def wanted(self) -> range:
        """Numbers of the study's splits."""
        return range(self.first, self.first + self.count)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.n_test is not None and self.test_fraction is not None:
            raise ValueError("give n_test or test_fraction, not both")
        if self.recipe == "paper" and self.stratify:
            raise ValueError("the paper's recipe draws without strata: leave stratify out")
        if self.recipe == "paper" and self.first + self.count > 100:
            raise ValueError("the paper's recipe has splits 0 to 99")
        return self


class AugmentationSettings(Settings):
    """What is drawn at random for each image, each epoch, in one resample."""

    crop: bool = True  # a random crop of crop_size; else the centre
    horizontal_flip: bool = True
    vertical_flip: bool = True
    rotation: float = Field(default=180.0, ge=0, le=180)  # degrees, drawn within +-rotation
    corners: Literal["image", "black"] = "image"  # outside the crop: what the image holds, or zero

    @property
    def draws(self) -> bool:
        """Whether anything is drawn at all; else each view is the centre of its image."""
        return self.crop or self.horizontal_flip or self.vertical_flip or self.rotation > 0


class FractalSettings(Settings):
    """Formula-driven pretraining: one fractal image a category, strongly augmented."""

    categories: int = Field(default=32, ge=2, le=10_000)
    epochs: Count = 12
    images_per_category: Count = 16  # augmented views of the one image, each epoch
    batch_size: int = Field(default=32, ge=2)
    learning_rate: float = Field(default=0.005, gt=0)  # AdamW, one cosine cycle
    seed: Seed = 0


class CheckpointSettings(Settings):
    """Which checkpoints a run leaves on the server; the local spool always holds the last."""

    policy: Literal["last", "best"] = "best"  # best: the selected epoch's weights beside the last
    every: Count | None = None  # also keep every n-th epoch
    upload_every: Count = 10  # epochs between uploads of the last checkpoint


class ResourceSettings(Settings):
    """What one job takes of a machine; `--engine ray` places jobs by it. None: measured.

    It decides where and when a run is trained, not what comes out (but for rounding, by `ranks`);
    only `cpus` is also the number of processor threads where `--threads` is not given.
    """

    ranks: Count | None = None  # processes that train a run together; None: one, or one a GPU
    cpus: Count | None = None
    gpus: float | None = Field(default=None, ge=0)  # 0.25: four jobs share a GPU
    memory_gb: float | None = Field(default=None, gt=0)  # of main memory

    def ranks_on(self, device: str) -> int:
        """Return the number of processes of one job on a kind of device."""
        if self.ranks is not None:
            return self.ranks
        return max(1, int(self.gpus or 0)) if device.startswith("cuda") else 1

    @model_validator(mode="after")
    def _a_gpu_each(self) -> Self:
        ranks, gpus = self.ranks, self.gpus
        shares_one = ranks == 1 and gpus is not None and gpus < 1
        if ranks is not None and gpus and gpus != ranks and not shares_one:
            raise ValueError(
                f"ranks = {ranks} takes as many whole GPUs, and gpus is {gpus:g}: "
                "leave one of them out, or give both alike"
            )
        return self

    @field_validator("gpus")
    @classmethod
    def _a_share_or_whole(cls, gpus: float | None) -> float | None:
        if gpus is not None and gpus > 1 and not gpus.is_integer():
            raise ValueError(f"{gpus:g} GPUs: give a share of one GPU, such as 0.25, or 1")
        return gpus


class ArmSettings(Settings):
    """One way of training."""

    architecture: str = "resnet18"  # any torchvision classification model, or timm:NAME
    weights: str = "none"  # none, imagenet, fractal, file:PATH or run:RUN_ID
    freeze: str | list[str] = "none"  # none, features (all but the last layer), or layer prefixes
    augment: bool | None = None  # None: true, but for an arm that trains its last layer alone
    normalize: bool = True  # ImageNet mean and standard deviation; the paper did not
    n_labels: int | None = Field(default=None, ge=2)  # for training and validation; None: all
    epochs: int = Field(default=20, ge=1, le=1_000_000)
    batch_size: BatchSize = 64
    optimizer: Optimizer = "sgd"
    learning_rate: LearningRate = 0.01
    momentum: Momentum = 0.9
    weight_decay: WeightDecay = 0.0
    schedule: Schedule = "constant"
    warmup_epochs: WarmupEpochs = 0
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = True

    @property
    def probes(self) -> bool:
        """Whether only the last layer is trained, on what a frozen backbone makes of the images."""
        return self.freeze == "features"

    @property
    def augments(self) -> bool:
        """Whether its views are drawn at random; a probe's are not unless asked for."""
        return not self.probes if self.augment is None else self.augment

    @property
    def added(self) -> dict[str, Any]:
        """Settings newer than the first runs, where they are news: others stay what they are."""
        augment = {} if self.augments else {"augment": False}
        return augment | ({} if self.n_labels is None else {"n_labels": self.n_labels})

    @field_validator("architecture")
    @classmethod
    def _known_architecture(cls, name: str) -> str:
        if is_timm(name):
            check_name(name)
            return name
        import torchvision

        known = torchvision.models.list_models(module=torchvision.models)
        if name not in known:
            raise ValueError(f"unknown architecture {name!r}{did_you_mean(name, known)}")
        return name

    @field_validator("weights")
    @classmethod
    def _known_weights(cls, text: str) -> str:
        kinds = ("none", "imagenet", "fractal", "file:PATH", "run:RUN_ID")
        prefix, _, rest = text.partition(":")
        if text in kinds[:3] or (prefix in ("file", "run") and rest):
            return text
        raise ValueError(
            f"unknown weights {text!r}{did_you_mean(text, kinds)}; known: {', '.join(kinds)}"
        )

    @field_validator("weights")
    @classmethod
    def _file_exists(cls, text: str) -> str:
        if text.startswith("file:") and not Path(text[5:]).is_file():
            raise ValueError(f"no such file of weights: {text[5:]}")
        return text

    @field_validator("freeze")
    @classmethod
    def _known_freeze(cls, freeze: str | list[str]) -> str | list[str]:
        if isinstance(freeze, str) and freeze not in ("none", "features"):
            raise ValueError(
                f"freeze {freeze!r} is not known{did_you_mean(freeze, ('none', 'features'))}: "
                'give "none", "features" or a list of layer names such as ["features.0"]'
            )
        return freeze

    @model_validator(mode="after")
    def _warmup_fits(self) -> Self:
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            raise ValueError(
                f"warmup_epochs {self.warmup_epochs} leaves none of {self.epochs} epochs"
            )
        return self


class Study(Settings):
    """One study: a data set, a protocol, splits, and two or more arms in the file's order."""

    name: str = Field(pattern=STUDY_NAME)
    question: str = ""
    protocol: Literal["honest", "paper"] = "honest"
    seed: Seed = 0  # initial weights, order of images, augmentation, dropout
    data: DataSettings
    splits: SplitSettings = SplitSettings()
    augmentation: AugmentationSettings = AugmentationSettings()
    fractal: FractalSettings = FractalSettings()
    checkpoints: CheckpointSettings = CheckpointSettings()
    resources: ResourceSettings = ResourceSettings()
    tune: TuneSettings = TuneSettings()
    tuned: dict[str, TunedSettings] = Field(default_factory=dict)  # by arm; written by `tune`
    arm: dict[str, ArmSettings] = Field(min_length=1)

    @field_validator("arm")
    @classmethod
    def _good_names(cls, arms: dict[str, ArmSettings]) -> dict[str, ArmSettings]:
        for name in arms:
            if not name.replace("_", "").replace("-", "").isalnum() or not name.isascii():
                raise ValueError(f"arm {name!r}: use letters, digits, - and _ only")
        return arms

    @model_validator(mode="after")
    def _parts_fit(self, _info: ValidationInfo) -> Self:
        n_test = self.splits.n_test
        if isinstance(self.data, SimulatedData) and n_test is not None and n_test >= self.data.n:
            raise ValueError(f"splits.n_test is {n_test}, but data.n is only {self.data.n}")
        return self

    @model_validator(mode="after")
    def _ranks_have_images(self) -> Self:
        ranks = self.resources.ranks_on("cuda")
        small = [name for name, arm in self.arm.items() if arm.batch_size < ranks]
        if small:
            raise ValueError(
                f"{ranks} ranks share each batch, and arm {small[0]} has batch_size "
                f"{self.arm[small[0]].batch_size}: give fewer ranks or a larger batch"
            )
        return self

    @model_validator(mode="after")
    def _tuning_fits(self) -> Self:
        longest = self.tune.space.largest("warmup_epochs")
        for name, arm in self.arm.items():
            if 0 < longest >= arm.epochs:
                raise ValueError(
                    f"tune.space.warmup_epochs goes up to {longest:g}, and arm {name!r} trains "
                    f"for {arm.epochs} epochs"
                )
        for name, tuned in self.tuned.items():
            if name not in self.arm:
                raise ValueError(f"tuned.{name}: no such arm{did_you_mean(name, self.arm)}")
            _require_chosen(name, self.arm[name], tuned)
        return self

    @property
    def tuning_splits(self) -> tuple[int, ...]:
        """Splits whose training and validation parts the arms are tuned on.

        Where they are not named, they are the first that the study has not: then each of its own
        is alike, in images that tuning saw, and in that no run repeats a trial.
        """
        if isinstance(self.tune.splits, list):
            return tuple(self.tune.splits)
        own, last = self.splits.wanted, 100 if self.splits.recipe == "paper" else 1_000_000
        candidates = chain(range(own.stop, last), range(own.start), own)
        return tuple(islice(candidates, self.tune.splits))

    @property
    def validates(self) -> bool:
        """Whether a validation part is kept apart (the honest protocol)."""
        return self.protocol == "honest"

    def augments(self, arm: str) -> bool:
        """Whether an arm's views are drawn at random; else each is the centre of its image."""
        return self.arm[arm].augments and self.augmentation.draws

    def arm_params(self, arm: str) -> dict[str, str]:
        """Return every setting that decides what a run of `arm` computes, flat, as text.

        Paths, devices, workers and caches are left out: the same study elsewhere is the same.
        A file of weights counts by its content.
        """
        settings = self.arm[arm]
        params: dict[str, Any] = {"protocol": self.protocol, "seed": self.seed}
        params |= _flat("data", self.data.model_dump(exclude={"path", "images", "crop_size"}))
        params |= {"data.crop_size": self.data.crop}
        params |= _flat("splits", self.splits.model_dump(exclude={"count", "first", "stratify"}))
        params |= {"splits.stratify": self.splits.stratified}
        params |= _flat("augmentation", self.augmentation.model_dump())
        if settings.weights == "fractal":
            params |= _flat("fractal", self.fractal.model_dump())
        params |= settings.model_dump(exclude={"augment", "n_labels"}) | settings.added
        if settings.weights.startswith("file:"):
            params["weights"] = f"file:{_digest_of(settings.weights[5:])}"
        return {key: _text(value) for key, value in params.items()}

    def config_hash(self, arm: str) -> str:
        """Return the sha256 of `arm_params`."""
        return hashlib.sha256(_text(self.arm_params(arm)).encode()).hexdigest()


def _require_chosen(name: str, arm: ArmSettings, tuned: TunedSettings) -> None:
    """Refuse settings that are not those which tuning chose: the record would be false."""
    for key, value in tuned.chosen.items():
        if getattr(arm, key, None) != value:
            raise ValueError(
                f"arm {name!r}: {key} is {getattr(arm, key, None)!r}, and [tuned.{name}] says that "
                f"{value!r} was chosen: mend one of them, or take [tuned.{name}] out"
            )


@lru_cache
def _digest_of(path: str) -> str:
    """Return a file's sha256, read once a process: weights are large and asked for often."""
    return sha256_of(Path(path))


def _flat(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    return {f"{prefix}.{key}": value for key, value in values.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
