"""How the arms of a study were tuned, as their runs say, and whether they were tuned alike.

Dodge et al. (2019), "Show your work", asks for the space, the trials and what they reached beside
every result that was tuned; Bouthillier et al. (2021), "Accounting for variance in machine learning
benchmarks", for what a comparison of tuned arms leaves out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.sheet import Table
from analysis.study import Study
from galaxy_mlflow import schema

NOT_ALIKE = "The arms were not tuned alike, so their comparison is not fair: "
UNTUNED = (
    "No arm was tuned: each was trained with the settings of the study file. A difference between "
    "arms may be one of settings that suit one arm better; the command galaxy-mlflow tune finds "
    "settings for all arms alike."
)
UNKNOWN = "These runs were imported, and say nothing of how the settings of the arms were found."
SETTINGS_ONLY = (
    "Intervals and p-values are for the settings that were chosen; that another tuning might have "
    "chosen others is not in them (Bouthillier et al. 2021)."
)
_ALIKE = {
    "trials": "number of trials",
    "space": "space",
    "metric": "metric",
    "splits": "splits tuned on",
    "sampler": "sampler",
    "pruner": "pruner",
    "grace_epochs": "epochs before pruning",
    "seed": "seed",
    "data_hash": "images",
}
_FIELDS = {
    *_ALIKE,
    *("completed", "pruned", "failed", "epochs"),
    *("best_trial", "best_value", "untuned_value", "chosen", "untuned"),
}
METRICS = {schema.VAL_LOSS: "validation loss", schema.VAL_ACCURACY: "validation accuracy"}


@dataclass(frozen=True)
class Tuning:
    """How the arms of a study were tuned.

    Attributes
    ----------
    arms : those that were tuned, and how: the fields of `galaxy_mlflow.tune_settings.TunedSettings`
    untuned : the other arms
    faults : why the arms are not comparable, in words; none: they were tuned alike
    shared : share of a test part that tuning saw in its validation parts; None where not known
    inside : tuned on splits that are compared, too
    imported : the runs were made elsewhere
    """

    arms: Mapping[str, Mapping[str, Any]]
    untuned: tuple[str, ...]
    faults: tuple[str, ...]
    shared: float | None = None
    inside: tuple[int, ...] = ()
    imported: bool = False


def tuning_of(study: Study, arms: Sequence[str]) -> Tuning:
    """Return how arms of a study were tuned."""
    records = {arm: _records(study, arm) for arm in arms}
    tuned = {arm: found[0] for arm, found in records.items() if found and found[0]}
    splits = {split for record in tuned.values() for split in record["splits"]}
    return Tuning(
        arms=tuned,
        untuned=tuple(arm for arm in arms if arm not in tuned),
        faults=tuple(_faults(study, records, tuned)) if tuned else (),
        shared=_shared(study, len(splits)),
        inside=tuple(sorted(splits & set(study.runs[schema.SPLIT]))),
        imported=any(tags.get(schema.IMPORTED) for tags in study.tags.values()),
    )


def notes(study: Study, arms: Sequence[str]) -> tuple[str, ...]:
    """Return what a reader of a comparison must know of how its arms were tuned."""
    tuning = tuning_of(study, arms)
    if not tuning.arms:
        return ()
    if tuning.faults:
        return (_unfair(tuning), SETTINGS_ONLY)
    return (_seen(tuning), SETTINGS_ONLY)


def in_prose(tuning: Tuning) -> str:
    """Return how the arms were tuned, and whether that was fair, in a few sentences."""
    if not tuning.arms:
        return UNKNOWN if tuning.imported else UNTUNED
    if tuning.faults:
        return f"{_unfair(tuning)} {_seen(tuning)} {SETTINGS_ONLY}"
    record = next(iter(tuning.arms.values()))
    splits = record["splits"]
    where = f"the validation part of split {splits[0]}"
    if len(splits) > 1:
        where = f"the validation parts of splits {_listed(splits)}"
    return (
        f"The arms were tuned alike: {record['trials']} trials of each, drawn from the same space "
        f"by the same sampler ({record['sampler']}) with the same seed, stopped early by the same "
        f"rule ({record['pruner']}), and judged by {METRICS[record['metric']]} at the selected "
        f"epoch on {where}. The first trial of each arm has the settings of the study file; a "
        "trial that diverged or could not be trained with its settings counts with the worst "
        "value. No trial saw a test part. "
        f"{_seen(tuning)} {SETTINGS_ONLY}"
    )


def trials_table(tuning: Tuning) -> Table:
    """Return what tuning cost each arm and what it reached."""
    metric = next(iter(tuning.arms.values()))["metric"]
    header = (
        *("arm", "trials", "complete", "pruned", "failed", "epochs in all"),
        *(f"best {METRICS[metric]}", "untuned", "best trial"),
    )
    rows = [_trials_row(arm, record) for arm, record in tuning.arms.items()]
    rows += [(arm, "0", *("–",) * 7) for arm in tuning.untuned]
    return Table(header, "l" + "r" * 8, tuple(rows))


def settings_table(tuning: Tuning) -> Table:
    """Return what each setting was drawn from, and what was chosen beside what it was before."""
    names = dict.fromkeys(name for record in tuning.arms.values() for name in record["space"])
    header = ("setting", "drawn from", *(f"{arm}: chosen (untuned)" for arm in tuning.arms))
    rows = tuple(
        (name, _drawn_from(tuning, name), *(_chosen(r, name) for r in tuning.arms.values()))
        for name in names
    )
    return Table(header, "ll" + "r" * len(tuning.arms), rows)


def improvements(record: Mapping[str, Any]) -> dict[int, float]:
    """Return the trials that were better than all before, and what they reached.

    None are known of a tuning that did not note them.
    """
    return {int(trial): float(value) for trial, value in record.get("improved", {}).items()}


def _records(study: Study, arm: str) -> list[Mapping[str, Any]]:
    """Return the different records that an arm's runs carry; an empty one where one has none."""
    runs = study.runs["run_id"][study.runs[schema.ARM] == arm]
    texts = dict.fromkeys(study.tags[run].get(f"{schema.TUNED}{arm}", "") for run in runs)
    return sorted((_parsed(text) for text in texts), key=len, reverse=True)


def _parsed(text: str) -> Mapping[str, Any]:
    try:
        record = json.loads(text) if text else {}
    except ValueError:  # somebody has edited the tag
        return {}
    return record if isinstance(record, dict) and record.keys() >= _FIELDS else {}


def _faults(
    study: Study,
    records: Mapping[str, Sequence[Mapping[str, Any]]],
    tuned: Mapping[str, Mapping[str, Any]],
) -> Iterator[str]:
    for arm, found in records.items():
        if arm not in tuned:
            yield f"{arm} was not tuned at all"
        elif len(found) > 1:
            yield f"the runs of {arm} disagree on how it was tuned"
    for key, name in _ALIKE.items():
        values = {arm: record.get(key) for arm, record in tuned.items()}
        if len({json.dumps(value, sort_keys=True) for value in values.values()}) > 1:
            yield f"they differ in {name}{_values(key, values)}"
    images = set(study.runs[schema.DATA_HASH])
    if any(record.get("data_hash") not in images for record in tuned.values()):
        yield "tuning saw another data set than these runs"


def _values(key: str, values: Mapping[str, Any]) -> str:
    if key in ("space", "data_hash"):
        return ""
    return " (" + ", ".join(f"{arm} {value}" for arm, value in values.items()) + ")"


def _unfair(tuning: Tuning) -> str:
    return f"{NOT_ALIKE}{'; '.join(tuning.faults)}."


def _seen(tuning: Tuning) -> str:
    """Say which galaxies of the test parts have helped to choose the settings."""
    where = "The splits tuned on are not among those compared"
    if tuning.inside:
        where = (
            f"Of the splits compared, tuning saw the validation part of {_listed(tuning.inside)}"
        )
    share = f", about {100 * tuning.shared:.0f} % of each" if tuning.shared is not None else ""
    return (
        f"{where}; all splits are of the same galaxies, so some that chose the settings stand in "
        f"the test parts of the runs{share}. That is so for every arm, and can make all of them "
        "look a little better than on new galaxies."
    )


def _shared(study: Study, splits: int) -> float | None:
    """Return the expected share of a test part that stands in the validation parts of tuning."""
    runs = study.runs
    sizes = (runs[schema.N_TRAIN], runs[schema.N_VAL], runs[schema.N_TEST])
    # Arms with fewer labels have smaller parts: the run with most has all galaxies.
    share = float(sizes[1].max() / (sizes[0] + sizes[1] + sizes[2]).max())
    return 1 - (1 - share) ** splits if share > 0 else None  # nan too


def _trials_row(arm: str, record: Mapping[str, Any]) -> tuple[str, ...]:
    counts = ("trials", "completed", "pruned", "failed")
    return (
        arm,
        *(f"{record[name]}" for name in counts),
        f"{record['epochs']:,}",
        f"{record['best_value']:.4f}",
        f"{record['untuned_value']:.4f}",
        f"{record['best_trial']}",
    )


def _drawn_from(tuning: Tuning, name: str) -> str:
    spaces = dict.fromkeys(
        _space_in_words(record["space"].get(name)) for record in tuning.arms.values()
    )
    return " / ".join(spaces)


def _space_in_words(values: Any) -> str:
    if values is None:
        return "not drawn"
    if not isinstance(values, Mapping):
        return ", ".join(map(str, values))
    log = ", log" if values.get("log") else ""
    step = f", step {values['step']:g}" if values.get("step") else ""
    return f"{values['low']:g} to {values['high']:g}{log}{step}"


def _chosen(record: Mapping[str, Any], name: str) -> str:
    if name not in record["chosen"]:
        return "–"
    return f"{_short(record['chosen'][name])} ({_short(record['untuned'][name])})"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
