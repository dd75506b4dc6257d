"""A synthetic master record: complete, consistent, and quick to change for the worse."""

from __future__ import annotations

from typing import Any

import numpy as np

from galaxy_mlflow.splits import paper_split

EPOCHS = {"pretrained": 200, "non_pretrained": 400}
WORDS = ("elliptical", "lenticular", "spiral", "irrmisc")
COUNTS = {"training_set": [2341, 2749, 6591, 319], "test_set": [397, 466, 1117, 54]}
SIZES = {"training_set": 12_000, "test_set": 2_034}


def master_record(unit: float = 1) -> dict[str, Any]:
    """Return a record of 100 runs an arm; `unit` 100 makes its accuracies percent."""
    import torch

    rng = np.random.default_rng(0)
    record: dict[str, Any] = {"samples_list": [], "samples_counts": [], "samples_percentages": []}
    for split in range(100):
        parts = zip(SIZES, paper_split(split), strict=True)
        record["samples_list"].append({f"{p}_indices": torch.from_numpy(i) for p, i in parts})
        record["samples_counts"].append({part: list(counts) for part, counts in COUNTS.items()})
        shares = {part: [n / SIZES[part] for n in counts] for part, counts in COUNTS.items()}
        record["samples_percentages"].append(shares)
    for prefix, epochs in EPOCHS.items():
        record |= _curves(rng, prefix, epochs, unit)
        for i, word in enumerate(WORDS):
            n = COUNTS["test_set"][i]
            hits = rng.integers(n // 2, n, 100)
            record[f"{prefix}_{word}_acc"] = (np.float32(hits / n) * unit).tolist()
    return record


def _curves(rng: np.random.Generator, prefix: str, epochs: int, unit: float) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part, n in (("train", 12_000), ("test", 2_034)):
        accuracy = rng.integers(n // 2, n, (100, epochs)) / n * unit
        loss = rng.uniform(0.2, 1.4, (100, epochs))
        for series, values, best in (
            (f"{part}_acc", accuracy, accuracy.argmax(axis=1)),
            (f"{part}_loss", loss, loss.argmin(axis=1)),
        ):
            found[f"{prefix}_cumulative_{series}"] = values.tolist()
            found[f"{prefix}_best_{series}"] = values[np.arange(100), best].tolist()
            found[f"{prefix}_best_{series}_epoch"] = best.tolist()
    return found
