"""The contract of a run: names of tags, parameters, metrics, artifacts and columns.

Nothing else in the project spells these names; `analysis` reads by them what the workers write.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from galaxy_mlflow.errors import DataError

STUDY_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$"
"""What a study may be called."""

# Tags
STUDY: Final = "study"
SPLIT: Final = "split"
ARM: Final = "arm"
PROTOCOL: Final = "protocol"
LABELS: Final = "labels"
CONFIG_HASH: Final = "config_hash"
DATA_HASH: Final = "data_hash"
TRAIN_HASH: Final = "train_hash"
TEST_HASH: Final = "test_hash"
INIT_HASH: Final = "init_hash"
CODE_VERSION: Final = "code_version"
ATTEMPT: Final = "attempt"
OWNER: Final = "owner"
SELECTED_ON: Final = "selected_on"
ALIVE_AT: Final = "galaxy.alive_at"
"""Last sign of life of the run's owner, ms of its own clock; "0": it has left."""
PLACE: Final = "galaxy.place"
"""Boot and process space of the owner: within it the process number in its tag means something."""
STATUS: Final = "galaxy.status"
REASON: Final = "galaxy.reason"
SKIPPED: Final = "galaxy.skipped_images"
ARMS: Final = "galaxy.arms"
"""The study's arms in the order of its file, joined by commas."""
QUESTION: Final = "galaxy.question"
HARDWARE: Final = "galaxy.hardware"
SOFTWARE: Final = "galaxy.software"
ENERGY_SOURCE: Final = "galaxy.energy_source"
"""What the joules of a run were counted by, as `NVML GPU + RAPL package`; absent without them."""
KIND: Final = "galaxy.kind"
"""What a run is where it is no job: `report` carries a study's report, and has no split or arm."""
REPORT: Final = "report"
TUNING: Final = "tuning"
"""Kind of the run that stands above the trials of an arm, in an experiment of their own."""
TRIAL: Final = "trial"
"""Kind of a trial's run."""
TRIAL_NUMBER: Final = "galaxy.trial"
TUNING_HASH: Final = "galaxy.tuning_hash"
"""sha256 of all that decides the trials of an arm, but for their number."""
TUNING_STORAGE: Final = "galaxy.tuning_storage"
"""What tells the storage that an arm's trials are in from any other."""
SAMPLED: Final = "galaxy.sampled"
"""Settings of a trial that were drawn, joined by commas."""
TUNED: Final = "galaxy.tuned."
"""Prefix, before an arm's name: how its settings were tuned, as JSON of `config.TunedSettings`."""
PARENT: Final = "mlflow.parentRunId"
IMPORTED: Final = "galaxy.imported"
"""Where a run's numbers were imported from: kind, files and their sha256; absent otherwise."""
IMPORTED_HASH: Final = "galaxy.imported_sha256"
"""sha256 of the numbers of an imported run."""
RUN_NAME: Final = "mlflow.runName"
NOTE: Final = "mlflow.note.content"
VIEW_KEY: Final = "arms"
VIEW: Final = f"mlflow.sharedViewState.{VIEW_KEY}"
"""Tag of an experiment: a view of the UI, which opens by `viewStateShareKey=arms`."""

SOURCE: Final = {"mlflow.source.name": "galaxy-mlflow run", "mlflow.source.type": "LOCAL"}
TUNE_SOURCE: Final = {**SOURCE, "mlflow.source.name": "galaxy-mlflow tune"}
EXPERIMENT_TAGS: Final = {
    "mlflow.experimentKind": "custom_model_development",  # the UI opens on runs, not on GenAI
    "mlflow.experiment.primaryMetric.name": "test_accuracy",
    "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
}

RUNNING: Final = "running"
FINISHED: Final = "finished"
FAILED: Final = "failed"
PRUNED: Final = "pruned"
"""Of a trial: stopped early, for others were better at the same epoch."""

DATA_SOURCE: Final = "galaxy-mlflow"
"""Source type of the MLflow data set that a run carries as its input."""
DIGEST_LENGTH: Final = 36
"""Characters of data_hash that MLflow takes as the digest of a data set."""
DATA_CONTEXT: Final = ("mlflow.data.context", "training")
"""Tag of that input, for the UI."""

HASH_TAGS: Final = (CONFIG_HASH, DATA_HASH, TRAIN_HASH, TEST_HASH, INIT_HASH)
IDENTITY_TAGS: Final = (STUDY, SPLIT, ARM)

# Parameters: every setting of the arm (config.Study.arm_params), and
THREADS: Final = "threads"
"""Processor threads of the job: with them a run repeats bit for bit."""
RANKS: Final = "ranks"
"""Processes that train the run together; there only where it was begun by more than one."""
N_LABELS: Final = "n_labels"
"""Labels an arm was given for training and validation; there only where it was not given all."""
N_POOL: Final = "n_pool"
"""Training images of the whole split, of which such an arm has a part."""

# Metrics: one value an epoch
TRAIN_LOSS: Final = "train_loss"
VAL_LOSS: Final = "val_loss"
VAL_ACCURACY: Final = "val_accuracy"
TEST_LOSS: Final = "test_loss"
TEST_ACCURACY: Final = "test_accuracy"
LEARNING_RATE: Final = "learning_rate"
EPOCH_SECONDS: Final = "epoch_seconds"
IMAGES_PER_SECOND: Final = "images_per_second"
ENERGY_JOULES: Final = "energy_joules"
TEST_SCORES: Final = ("balanced_accuracy", "macro_f1", "mcc", "kappa", "ece")
PER_CLASS_SCORES: Final = ("recall", "precision", "f1")
TEST_RECALL: Final = "test_recall_"
"""Prefix of the recall of a class: a run's classes can be told by it."""
TIMING_METRICS: Final = (EPOCH_SECONDS, IMAGES_PER_SECOND, ENERGY_JOULES)
MANY_CLASSES: Final = 5
"""Above this number of classes precision and F1 stay in the confusion artifacts."""

# Metrics: one value a run
PEAK_TEST_ACCURACY: Final = "peak_test_accuracy"
PEAK_TEST_EPOCH: Final = "peak_test_epoch"
SELECTED_EPOCH: Final = "selected_epoch"
SELECTED_TEST_ACCURACY: Final = "selected_test_accuracy"
LAST_TEST_ACCURACY: Final = "last_test_accuracy"
N_TRAIN: Final = "n_train"
N_VAL: Final = "n_val"
N_TEST: Final = "n_test"
TOTAL_SECONDS: Final = "total_seconds"
TOTAL_ENERGY: Final = "total_energy_joules"
SUMMARY: Final = (
    PEAK_TEST_ACCURACY,
    PEAK_TEST_EPOCH,
    SELECTED_EPOCH,
    SELECTED_TEST_ACCURACY,
    LAST_TEST_ACCURACY,
    N_TRAIN,
    N_VAL,
    N_TEST,
    TOTAL_SECONDS,
    TOTAL_ENERGY,
)

OBJECTIVE: Final = "objective"
"""What a trial reached: the metric of the tuning at the selected epoch, mean over its splits."""
BEST_OBJECTIVE: Final = "best_objective"
"""Of an arm's tuning: the best objective so far; its step is the number of the trial."""
TRIALS_FILE: Final = "trials.json"
"""All trials of an arm: number, state, objective, epochs, settings."""

REEVALUATED: Final = "reevaluated_"
"""Prefix of what a finished network scores when it is shown the test set once more."""
PUBLISHED: Final = "published"
"""The study that holds the runs of Schneider, Stenning & Elliott (2023)."""

# Artifacts
CHECKPOINTS: Final = "checkpoints"
BEST_WEIGHTS: Final = "checkpoints/best.safetensors"
"""The selected epoch's weights."""
CONFUSION: Final = "confusion"
CONFUSION_FILE: Final = "confusion/test.json"
"""{"classes": [...], "epochs": [{"epoch": 0, "matrix": [[...]]}]}; rows true, columns predicted."""
REEVALUATED_FILE: Final = "confusion/reevaluated.json"
"""{"classes": [...], "matrix": [[...]]} of the re-evaluation; rows true, columns predicted."""
PREDICTIONS: Final = "predictions"
PREDICTIONS_FILE: Final = "predictions/selected.parquet"
VALIDATION_FILE: Final = "predictions/validation.parquet"
"""The selected epoch's predictions on the validation part: what a temperature is fitted on."""
FIGURES: Final = "figures"
SAMPLES_FILE: Final = "figures/samples.png"
CONFUSION_FIGURE: Final = "figures/confusion.png"
CURVES_FIGURE: Final = "figures/curves.png"
RECALL_FIGURE: Final = "figures/recall.png"
STUDY_FILE: Final = "study.json"
"""The study as it ran: every setting, defaults included."""

SKIPPED_FILE: Final = "skipped.txt"
"""With --skip-bad: each image or row left out, and why."""

# Columns of analysis frames
RUN_COLUMNS: Final = (
    "run_id",
    STUDY,
    SPLIT,
    ARM,
    "status",
    PROTOCOL,
    LABELS,
    *HASH_TAGS,
    CODE_VERSION,
    SELECTED_ON,
    *SUMMARY,
)
METRIC_COLUMNS: Final = ("run_id", SPLIT, ARM, "metric", "epoch", "value")

# Keys of analysis.Comparison.to_dict()
COMPARISON_KEYS: Final = (
    "study",
    "metric",
    "arms",
    "n_pairs",
    "splits",
    "dropped",
    "wins",
    "losses",
    "ties",
    "mean",
    "median",
    "sd",
    "mean_difference",
    "median_difference",
    "sd_difference",
    "n_train",
    "n_test",
    "intervals",
    "tests",
    "bayes",
    "effects",
    "classes",
    "classes_from",
    "paragraph",
    "notes",
    "versions",
)


@dataclass(frozen=True, order=True)
class JobId:
    """Identity of a run: (study, split, arm)."""

    study: str
    split: int
    arm: str

    @property
    def run_name(self) -> str:
        """`split-049/pretrained`."""
        return f"split-{self.split:03d}/{self.arm}"

    def tags(self) -> dict[str, str]:
        """Return the identity as MLflow tags."""
        return {STUDY: self.study, SPLIT: str(self.split), ARM: self.arm}


def tuning_of(study: str) -> str:
    """Return the name of the experiment that holds the trials of a study."""
    return f"{study}-{TUNING}"


def hash_indices(indices: Iterable[int]) -> str:
    """Return the sha256 of the sorted indices, decimal, joined by commas."""
    text = ",".join(str(i) for i in sorted(int(i) for i in indices))
    return hashlib.sha256(text.encode()).hexdigest()


def class_key(name: str) -> str:
    """Return a class name as a metric key: lower case, other characters as `_`."""
    return re.sub(r"[^a-z0-9]", "_", name.strip().lower())


def class_keys(names: Sequence[str]) -> tuple[str, ...]:
    """Return the keys of all classes, in order.

    Raises
    ------
    DataError
        Two class names become the same key.
    """
    keys = [class_key(name) for name in names]
    seen: dict[str, str] = {}
    for key, name in zip(keys, names, strict=True):
        if key in seen:
            raise DataError(
                f"classes {seen[key]!r} and {name!r} both become {key!r} in metric names: "
                "rename one of them, or merge them under [data.classes]"
            )
        seen[key] = name
    return tuple(keys)


def epoch_metrics(classes: Sequence[str], with_validation: bool) -> tuple[str, ...]:
    """Return the names of an epoch's metrics (energy left out), for class keys `classes`."""
    parts = ("train", "val", "test") if with_validation else ("train", "test")
    losses = [f"{part}_{what}" for part in parts for what in ("loss", "accuracy")]
    scores = PER_CLASS_SCORES if len(classes) <= MANY_CLASSES else PER_CLASS_SCORES[:1]
    per_class = [f"test_{score}_{name}" for name in classes for score in scores]
    overall = [f"test_{score}" for score in TEST_SCORES]
    return (*losses, *per_class, *overall, LEARNING_RATE, EPOCH_SECONDS, IMAGES_PER_SECOND)
