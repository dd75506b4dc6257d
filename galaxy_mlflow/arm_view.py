"""The view of a study in MLflow's UI: runs grouped by arm, mean curves, useful columns.

MLflow keeps a view that was saved in its UI as a tag of the experiment: JSON with the view's name
and, as JSON inside it, what the page shows. That content is not documented: it was read from the
code of MLflow 3.17.2's pages. A newer MLflow that no longer understands it says so on the page,
which then shows its own charts; runs and the rest of the page are not touched by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from galaxy_mlflow import schema

_LOOK: Final = {
    "runsHiddenMode": "SHOW_ALL",  # MLflow's own default is the first ten
    "hideEmptyCharts": True,
    "useGroupedValuesInCharts": True,
    "groupBy": {
        "aggregateFunction": "average",
        "groupByKeys": [{"mode": "tag", "groupByData": schema.ARM}],
    },
    "isAccordionReordered": True,  # sections in this order, not by name
    "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0},
}
_PLAIN: Final = {
    "lineSmoothness": 0,
    "useGlobalLineSmoothing": True,
    "xAxisKey": "step",
    "useGlobalXaxisKey": True,
    "xAxisScaleType": "linear",
    "scaleType": "linear",
}
"""Of a chart: without these MLflow smooths curves."""
_BARS: Final = (
    schema.SELECTED_TEST_ACCURACY,
    schema.PEAK_TEST_ACCURACY,
    schema.LAST_TEST_ACCURACY,
)
_COLUMNS: Final = (
    *(f"tags.`{tag}`" for tag in (schema.ARM, schema.SPLIT, schema.STATUS)),
    *(f"metrics.`{metric}`" for metric in (*_BARS, schema.SELECTED_EPOCH)),
)
TAG_ROOM: Final = 20_000
"""Characters that MLflow takes in a tag of an experiment; it refuses more."""
_RECALLS: Final = 40
"""Classes with a chart and a column of their own: of more, the first."""
_REST: Final = "Model metrics"
"""Where MLflow puts the charts of all metrics that no section names."""


@dataclass(frozen=True)
class _Section:
    """Charts under one heading; curves over epochs, or bars of one value a run."""

    title: str
    metrics: tuple[str, ...]
    kind: str = "LINE"


def view_tag(arms: Sequence[str], classes: Sequence[str], *, validates: bool) -> str:
    """Return the value of the tag `schema.VIEW`, with as many classes as there is room for.

    Parameters
    ----------
    classes : keys of the classes, as in the names of metrics
    validates : whether runs have a validation part
    """
    shown = classes[:_RECALLS]
    while len(tag := _saved(arms, shown, validates)) > TAG_ROOM and shown:
        shown = shown[:-1]
    return tag


def _saved(arms: Sequence[str], classes: Sequence[str], validates: bool) -> str:
    sections = list(_sections(classes, validates))
    state = {
        **_LOOK,
        "groupsExpanded": {f"tag.{schema.ARM}.{arm}": False for arm in arms},
        "selectedColumns": [*_COLUMNS, *(f"metrics.`{name}`" for name in _recalls(classes))],
        "compareRunSections": [_heading(section) for section in sections],
        "compareRunCharts": [_chart(s, metric) for s in sections for metric in s.metrics],
    }
    content = json.dumps(state, separators=(",", ":"))
    return json.dumps({"name": "Arms", "createdAt": 0, "updatedAt": 0, "state": content})


def _sections(classes: Sequence[str], validates: bool) -> Iterator[_Section]:
    parts = ("test", "train", "val") if validates else ("test", "train")
    curves = tuple(f"{part}_{what}" for what in ("accuracy", "loss") for part in parts)
    yield _Section("Accuracy and loss", curves)
    yield _Section("Recall of each class", _recalls(classes))
    yield _Section("Whole runs", _BARS, "BAR")
    yield _Section(_REST, ())


def _recalls(classes: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{schema.TEST_RECALL}{name}" for name in classes)


def _heading(section: _Section) -> dict[str, Any]:
    rest = section.title == _REST
    return {
        "uuid": section.title,
        "name": section.title,
        "display": not rest,
        "isReordered": True,
        "isGenerated": rest,
    }


def _chart(section: _Section, metric: str) -> dict[str, Any]:
    return {
        **_PLAIN,
        "uuid": metric,
        "type": section.kind,
        "metricSectionId": section.title,
        "metricKey": metric,
        "deleted": False,
        "isGenerated": False,
    }
