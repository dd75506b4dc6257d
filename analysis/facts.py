"""How the runs of a study were made: what a reader needs to make them again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from analysis.compare import Comparison
from analysis.sheet import Table
from analysis.study import Study
from galaxy_mlflow import schema

_SHORT_HASH = 12
_HOUR = 3600
_KILOWATT_HOUR = 3.6e6


def facts_table(study: Study, c: Comparison) -> Table:
    """Return how the runs were made, in words: data, splits, runs, cost, versions, machine."""
    found = [*_protocol(study, c), *_cost(study), *_provenance(study, c)]
    return Table(("", ""), "ll", tuple((name, text) for name, text in found if text))


def _protocol(study: Study, c: Comparison) -> Iterator[tuple[str, str]]:
    runs = study.runs
    yield "protocol", _distinct(runs[schema.PROTOCOL])
    yield "epoch selected on", _distinct(runs[schema.SELECTED_ON])
    yield "labels", _distinct(runs[schema.LABELS])
    yield "data digest", _distinct(runs[schema.DATA_HASH])
    yield "splits", f"{c.n_pairs} compared, numbers {_span(c.splits)}"
    validation = f", {text} validation" if (text := _range(runs[schema.N_VAL])) else ""
    yield "images a split", f"{c.n_train} training{validation}, {c.n_test} test"
    status = runs["status"].value_counts()
    yield "runs", ", ".join(f"{n} {name or 'without status'}" for name, n in status.items())
    yield "images skipped", _distinct(_tag(study, schema.SKIPPED))


def _cost(study: Study) -> Iterator[tuple[str, str]]:
    seconds, joules = study.runs[schema.TOTAL_SECONDS], study.runs[schema.TOTAL_ENERGY]
    known = seconds.notna().sum()
    part = "" if known == len(seconds) else f" (of {known} runs; the others do not say)"
    yield (
        "computing time",
        f"{seconds.sum() / _HOUR:.2f} hours in all{part}" if known else "unknown",
    )
    energy = f"{joules.sum() / _KILOWATT_HOUR:.3g} kWh (of {joules.notna().sum()} runs)"
    energy += f"; {source}" if (source := _distinct(_tag(study, schema.ENERGY_SOURCE))) else ""
    yield "energy", energy if joules.notna().any() else "not measured"


def _provenance(study: Study, c: Comparison) -> Iterator[tuple[str, str]]:
    yield "hardware", _distinct(_tag(study, schema.HARDWARE)) or "not recorded"
    yield (
        "trained with",
        _distinct(_tag(study, schema.SOFTWARE))
        or _distinct(f"galaxy-mlflow {version}" for version in study.runs[schema.CODE_VERSION]),
    )
    for arm, mine in study.runs.groupby(schema.ARM, sort=False):
        yield f"settings of {arm}", _distinct(mine[schema.CONFIG_HASH].str[:_SHORT_HASH])
    yield "analysed with", ", ".join(f"{name} {version}" for name, version in c.versions.items())


def _tag(study: Study, name: str) -> list[str]:
    return [tags.get(name, "") for tags in study.tags.values()]


def _distinct(values: Iterable[object]) -> str:
    return "; ".join(dict.fromkeys(str(value) for value in values if value))


def _span(splits: tuple[int, ...]) -> str:
    """`0 to 99`, or all of them where some between are missing."""
    if len(splits) == splits[-1] - splits[0] + 1:
        return f"{splits[0]} to {splits[-1]}"
    return ", ".join(str(split) for split in splits)


def _range(counts: pd.Series[float]) -> str:
    found = sorted({int(count) for count in counts if np.isfinite(count)})
    return " to ".join(str(count) for count in dict.fromkeys([*found[:1], *found[-1:]]))
