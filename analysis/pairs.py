"""Runs of two arms matched on their split, and the refusals: what cannot be compared in pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.study import Study
from galaxy_mlflow import schema
from galaxy_mlflow.errors import PairingError, did_you_mean

FEWEST_PAIRS = 6
"""Pairs from which a sign test that every pair wins gets below p = 0.05 (2^-5 = 0.031)."""
_AT_ALL = 2


@dataclass(frozen=True)
class Dropped:
    """A split that was left out of a comparison, and why."""

    split: int
    reason: str


@dataclass(frozen=True)
class Pairs:
    """Finished runs of two arms, matched.

    Attributes
    ----------
    arms : first and second; differences are first minus second
    run_ids : index split (ascending), one column an arm
    n_train, n_test : images in the training and test part, the same for every run
    n_pool : images that the training parts are drawn from, for `stats.corrected_t`; see `pool_of`
    dropped : splits left out, and why
    notes : what a reader must know of how the pairs came about
    """

    arms: tuple[str, str]
    run_ids: pd.DataFrame
    n_train: int
    n_test: int
    n_pool: int
    dropped: tuple[Dropped, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def splits(self) -> tuple[int, ...]:
        """Numbers of the splits, ascending."""
        return tuple(int(split) for split in self.run_ids.index)


def match_runs(
    study: Study,
    arms: Sequence[str] | None = None,
    *,
    allow_unfinished: bool = False,
    min_pairs: int = FEWEST_PAIRS,
) -> Pairs:
    """Match the runs of two arms on their split.

    Parameters
    ----------
    arms : two arms; None means the first two of the study file
    allow_unfinished : leave out splits that lack a finished run of an arm; `dropped` says which
    min_pairs : pairs below which there is no comparison, at least 2

    Raises
    ------
    PairingError
        Unknown arm; several runs of one split and arm; an arm without a run on a split; runs not
        finished; test sets, data, classes or sizes that differ; too few pairs. The message names
        the runs.
    """
    first, second = _two_arms(study, arms)
    runs = study.runs[study.runs[schema.ARM].isin([first, second])]
    _refuse_duplicates(runs)
    kept, dropped = _finished_pairs(runs, (first, second), allow_unfinished)
    table = kept.pivot(index=schema.SPLIT, columns=schema.ARM, values="run_id")
    _refuse_few(study, (first, second), len(table), max(min_pairs, _AT_ALL))
    _refuse_other_classes(study, kept)
    notes = _dropped_note(dropped) + _refuse_other_images(kept) + _few_pairs(len(table))
    notes += _imported_note(study, kept)
    n_train, n_test = (_common_count(kept, name) for name in (schema.N_TRAIN, schema.N_TEST))
    sizes = (n_train, n_test, pool_of(study, kept))
    return Pairs((first, second), table[[first, second]], *sizes, dropped, tuple(notes))


def pool_of(study: Study, runs: pd.DataFrame) -> int:
    """Return how many images the training parts of some runs are drawn from.

    It is n_train, but for arms of few labels the training part of the whole split. The term
    n_test/n_train of the corrected test stands for the share of test images that two splits have
    in common, n_test/(n_test + n_train) (Nadeau and Bengio 2003, section 3). Labels that are left
    out of training do not raise that share.
    """
    pools = (study.params[run].get(schema.N_POOL) for run in runs["run_id"])
    sizes = zip(pools, runs[schema.N_TRAIN], strict=True)
    return min(int(pool) if pool else int(n_train) for pool, n_train in sizes)


def on_equal_parts(study: Study, arms: Sequence[str]) -> bool:
    """Whether two arms can be paired: not where each has its own number of training images."""
    runs = study.runs[study.runs["status"] == schema.FINISHED]
    sizes = [set(runs.loc[runs[schema.ARM] == arm, schema.N_TRAIN].dropna()) for arm in arms]
    return any(len(found) != 1 for found in sizes) or len(set.union(*sizes)) == 1


def require_equal_budgets(pairs: Pairs, epochs: pd.Series[int], metric: str) -> None:
    """Refuse to compare epochs of runs that were trained for different numbers of epochs.

    Parameters
    ----------
    epochs : epochs trained, by run_id

    Raises
    ------
    PairingError
        The budgets differ; the longer one has more chances of a late best epoch.
    """
    budgets = {arm: set(pairs.run_ids[arm].map(epochs)) for arm in pairs.arms}
    if len(set.union(*budgets.values())) > 1:
        listed = ", ".join(f"{arm} {_numbers(found)}" for arm, found in budgets.items())
        raise PairingError(
            f"{metric} is an epoch, and the runs have different numbers of epochs ({listed}): "
            "the arm with the longer budget peaks later by that alone. Compare equal budgets"
        )


def common_energy_source(study: Study, pairs: Pairs) -> str:
    """Return what the energy of the paired runs was counted by; "" where none of them says.

    Raises
    ------
    PairingError
        The sources differ; the message has a run of each.
    """
    runs = study.runs[study.runs["run_id"].isin(pairs.run_ids.to_numpy().ravel())]
    tags = [study.tags[run].get(schema.ENERGY_SOURCE, "") for run in runs["run_id"]]
    distinct = runs.assign(source=tags).drop_duplicates("source")
    if len(distinct) > 1:
        raise PairingError(
            f"runs whose energy was counted by different meters ({schema.ENERGY_SOURCE}):\n"
            + _listed(distinct, "source")
        )
    return tags[0]


def _two_arms(study: Study, arms: Sequence[str] | None) -> tuple[str, str]:
    chosen = tuple(arms) if arms is not None else study.arms[:2]
    for arm in chosen:
        if arm not in study.arms:
            raise PairingError(
                f"study {study.name} has no arm {arm!r}{did_you_mean(arm, study.arms)}; "
                f"it has {', '.join(study.arms)}"
            )
    if len(chosen) != 2 or chosen[0] == chosen[1]:
        raise PairingError(
            f"a comparison takes two different arms, not {', '.join(chosen) or 'none'}; "
            f"study {study.name} has {', '.join(study.arms)}"
        )
    return chosen[0], chosen[1]


def _refuse_duplicates(runs: pd.DataFrame) -> None:
    twice = runs[runs.duplicated([schema.SPLIT, schema.ARM], keep=False)]
    if len(twice):
        raise PairingError(
            "several runs of one split and arm; delete all but one of each:\n"
            + _listed(twice, "run_id")
        )


def _finished_pairs(
    runs: pd.DataFrame, arms: tuple[str, str], allow_unfinished: bool
) -> tuple[pd.DataFrame, tuple[Dropped, ...]]:
    """Return the rows of splits on which both arms have finished, and the splits left out."""
    open_runs = runs[runs["status"] != schema.FINISHED]
    ready = runs[runs["status"] == schema.FINISHED]
    alone = ready[ready.groupby(schema.SPLIT)[schema.ARM].transform("size") < len(arms)]
    if len(open_runs) and not allow_unfinished:
        raise PairingError(
            f"runs that have not finished:\n{_listed(open_runs, 'status')}\n"
            "Finish them, or leave their splits out (allow_unfinished, --allow-unfinished)"
        )
    if len(alone) and not allow_unfinished:
        raise PairingError(
            f"splits with a run of only one of {arms[0]} and {arms[1]}:\n{_listed(alone, 'run_id')}"
            "\nRun the other arm, or leave these splits out (allow_unfinished, --allow-unfinished)"
        )
    kept = ready.drop(alone.index)
    left_out = sorted(set(runs[schema.SPLIT]) - set(kept[schema.SPLIT]))
    return kept, tuple(Dropped(split, _reason(runs, split, arms)) for split in left_out)


def _reason(runs: pd.DataFrame, split: int, arms: tuple[str, str]) -> str:
    """`scratch failed`, or `no run of scratch`, for each arm without a finished run."""
    status = runs[runs[schema.SPLIT] == split].set_index(schema.ARM)["status"]
    lacking = {arm: status.get(arm) for arm in arms if status.get(arm) != schema.FINISHED}
    return "; ".join(
        f"no run of {arm}" if found is None else f"{arm} {found or 'without status'}"
        for arm, found in lacking.items()
    )


def _refuse_few(study: Study, arms: tuple[str, str], n: int, least: int) -> None:
    if n >= least:
        return
    hint = (
        f": below {FEWEST_PAIRS} even a sign test that every pair wins cannot reach p = 0.05. Run "
        f"more splits, or look at these few as they are (min_pairs={max(n, _AT_ALL)}, --min-pairs)"
    )
    raise PairingError(
        f"study {study.name} has {n} pair(s) of finished runs of {arms[0]} and {arms[1]}: "
        f"at least {least} needed{hint if least >= FEWEST_PAIRS else ''}"
    )


def _refuse_other_classes(study: Study, runs: pd.DataFrame) -> None:
    named = runs.assign(classes=runs["run_id"].map(study.classes).map(", ".join, "ignore"))
    known = named.dropna(subset="classes")
    if known["classes"].nunique() > 1:
        raise PairingError(
            "runs with different classes:\n" + _listed(known.drop_duplicates("classes"), "classes")
        )


def _dropped_note(dropped: Sequence[Dropped]) -> list[str]:
    if not dropped:
        return []
    listed = "; ".join(f"{item.split} ({item.reason})" for item in dropped[:10])
    more = f"; and {len(dropped) - 10} more" if len(dropped) > 10 else ""
    return [
        f"{len(dropped)} split(s) left out for want of two finished runs: {listed}{more}. If what "
        "failed is not chance, the comparison is of an easier set of splits."
    ]


def _refuse_other_images(runs: pd.DataFrame) -> list[str]:
    """Refuse pairs over other test sets or data; note where runs do not say which they had."""
    tests = runs.groupby(schema.SPLIT)[schema.TEST_HASH].transform("nunique")
    if (tests > 1).any():
        raise PairingError(
            "runs of one split with different test sets:\n"
            + _listed(runs[tests > 1], schema.TEST_HASH)
        )
    if runs[schema.DATA_HASH].nunique() > 1:
        raise PairingError(
            "runs on different data:\n"
            + _listed(runs.drop_duplicates(schema.DATA_HASH), schema.DATA_HASH)
        )
    if (runs[[schema.TEST_HASH, schema.DATA_HASH]] == "").any(axis=None):
        return ["Some runs carry no hash of their data or test set: that they agree is unproven."]
    return []


def _imported_note(study: Study, runs: pd.DataFrame) -> list[str]:
    if not any(schema.IMPORTED in study.tags[run] for run in runs["run_id"]):
        return []
    return [
        "Runs were imported from another system: that the arms of a split were trained and tested "
        "on the same images is the word of whoever imported them."
    ]


def _common_count(runs: pd.DataFrame, name: str) -> int:
    counts = runs[name]
    if counts.isna().any():
        raise PairingError(
            f"runs that do not say {name}, which the corrected test needs:\n"
            + _listed(runs[counts.isna()], "run_id")
        )
    if counts.nunique() > 1:
        raise PairingError(
            f"runs with different {name}:\n{_listed(runs.drop_duplicates(name), name)}\n"
            "Two runs make a pair where both had as many images: compare arms of equal n_labels"
        )
    return int(counts.iloc[0])


def _few_pairs(n: int) -> list[str]:
    if n >= FEWEST_PAIRS:
        return []
    return [
        f"Not enough pairs ({n} of {FEWEST_PAIRS}): even if every pair agrees, the "
        f"sign test and Wilcoxon's cannot get below p = {2 * 0.5**n:g}, so they cannot reach 0.05. "
        "The intervals rest on very little; run more splits before concluding anything."
    ]


def _listed(runs: pd.DataFrame, column: str, most: int = 10) -> str:
    lines = [
        f"  {schema.JobId('', row[schema.SPLIT], row[schema.ARM]).run_name}: "
        f"{_brief(row[column]) or 'none'}"
        for _, row in runs.head(most).iterrows()
    ]
    if len(runs) > most:
        lines.append(f"  and {len(runs) - most} more")
    return "\n".join(lines)


def _brief(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)[:32]


def _numbers(values: Sequence[int] | set[int]) -> str:
    return ", ".join(f"{value:g}" for value in sorted(values))
