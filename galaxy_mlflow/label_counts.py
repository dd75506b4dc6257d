"""Arms that are trained once with each of several numbers of labels: `n_labels = [100, 300]`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

Table = dict[str, Any]
COUNTS = "n_labels"
_LISTS_ANYWAY = ("freeze",)
"""Settings that may be lists themselves."""


def arm_name(way: str, count: int) -> str:
    """Return the name of an arm with so many labels: `scratch-100`."""
    return f"{way}-{count}"


def with_each_count(arms: Mapping[str, Any]) -> Table:
    """Return arms in which a list of `n_labels` has become one arm for each number.

    Any other setting of such an arm may be a list too, with a value for each number. Arms of the
    same number stand together, in the order of the lists.

    Raises
    ------
    ValueError
        A list is no list of different numbers, or another list is of another length; two arms have
        one name.
    """
    grids = {name: _grid(name, arm) for name, arm in arms.items()}
    longest = max(map(len, grids.values()), default=0)
    rows = [grid[i] for i in range(longest) for grid in grids.values() if i < len(grid)]
    names = [name for name, _ in rows]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two arms are called {name!r}: {COUNTS} adds its numbers to names")
    return dict(rows)


def way_of(name: str, arms: Iterable[str]) -> str:
    """Return the name that stands in the study file: `scratch` of `scratch-100`."""
    way, _, count = name.rpartition("-")
    return way if name not in arms and way in arms and count.isdecimal() else name


def _grid(name: str, arm: Any) -> list[tuple[str, Any]]:
    counts = arm.get(COUNTS) if isinstance(arm, Mapping) else None
    if not isinstance(counts, list):
        return [(name, arm)]
    _check_counts(counts)
    lists = {k for k, v in arm.items() if isinstance(v, list) and k not in _LISTS_ANYWAY}
    for key in lists:
        if len(arm[key]) != len(counts):
            raise ValueError(
                f"arm {name!r}: {key} has {len(arm[key])} values for {len(counts)} numbers of "
                "labels: give one for each, or one for all"
            )
    return [
        (arm_name(name, count), {k: v[i] if k in lists else v for k, v in arm.items()})
        for i, count in enumerate(counts)
    ]


def _check_counts(counts: list[Any]) -> None:
    whole = all(type(count) is int for count in counts)
    if not counts or not whole or len(set(counts)) < len(counts):
        raise ValueError(
            f"{COUNTS} is {counts}: expected different whole numbers, such as [100, 300, 1000]"
        )
