"""What the experiment of a study says in MLflow's UI, in Markdown, and the view it offers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from galaxy_mlflow import schema
from galaxy_mlflow.arm_view import view_tag
from galaxy_mlflow.cache import GalaxyData
from galaxy_mlflow.config import Study
from galaxy_mlflow.schema import JobId
from galaxy_mlflow.study_page import EXPERIMENT

_LINK: Final = (
    f"#/experiments/{EXPERIMENT}/runs?viewStateShareKey={schema.VIEW_KEY}"
    "&workflowType=machine_learning"
)
"""Relative: it works whatever the server's address is."""
_CHARTS: Final = f"{_LINK}&compareRunsMode=CHART"
_PROTOCOLS: Final = {
    "honest": "`honest`: {val:g} % of the training part is kept apart for validation; the "
    "selected epoch is the one of lowest validation loss. Nothing is chosen on the test part.",
    "paper": "`paper`: there is no validation part; the selected epoch is the one of highest test "
    "accuracy, as in the published study, which makes it optimistic.",
}
_METRICS: Final = """\
All fractions lie between 0 and 1, and epochs count from 0.

- `test_accuracy`, `test_loss`, `train_...`: one value an epoch; `test_recall_CLASS`: the part of \
a class's test images that was recognised
- `selected_test_accuracy`: test accuracy at the selected epoch; compare by this one
- `peak_test_accuracy`: the highest over all epochs; optimistic, as the test part chose the epoch
- `last_test_accuracy`: at the last epoch"""
_COMPARING: Final = """\
A run is one split and one arm: `{example}`. Runs of the same split saw the same images, so \
compare them in pairs: tick two runs of one split and press **Compare**. The charts show the mean \
of each arm and, as a band, its lowest and highest run. A finished run holds its confusion matrix \
and curves under *Artifacts*, `figures/`."""

_A_PAGE: Final = 100
"""Runs that the UI loads at once."""
_PAGES: Final = (
    f" The page loads the newest {_A_PAGE} runs first, and means are over those: press "
    "**Load more**, below the runs, for the rest."
)


def page_tags(study: Study, data: GalaxyData) -> dict[str, str]:
    """Return the tags that the experiment of a study is to carry; see `study_page.describe`."""
    view = view_tag(tuple(study.arm), schema.class_keys(data.classes), validates=study.validates)
    return {schema.NOTE: "\n\n".join(_paragraphs(study, data)), schema.VIEW: view}


def _paragraphs(study: Study, data: GalaxyData) -> Iterator[str]:
    arms = list(study.arm)
    example = JobId(study.name, study.splits.first, arms[0]).run_name
    yield f"[**{_invitation(arms)}**]({_CHARTS})"  # first: the page shows the first line only
    if study.question:
        yield f"**{study.question}**"
    yield f"[The same as a table]({_LINK}) · the whole comparison, with its statistics: " + (
        f"`galaxy-mlflow report {study.name}`"
    )
    yield f"**Arms**\n\n{_arms(study)}"
    yield f"**Data and splits**\n\n{_data(study, data)}"
    yield f"**Metrics**\n\n{_METRICS}"
    more = _PAGES if len(arms) * study.splits.count > _A_PAGE else ""
    yield f"**Runs**\n\n{_COMPARING.format(example=example)}{more}"


def _invitation(arms: Sequence[str]) -> str:
    if len(arms) == 1:
        return f"Charts of {arms[0]}"
    return f"Compare {', '.join(arms[:-1])} with {arms[-1]}"


def _arms(study: Study) -> str:
    """Return a table of the settings in which arms differ; one sentence where none do."""
    params = {arm: study.arm_params(arm) for arm in study.arm}
    keys = list(dict.fromkeys(key for settings in params.values() for key in settings))
    values = {key: [params[arm].get(key, "") for arm in params] for key in keys}
    own_first = sorted(values.items(), key=lambda item: "." in item[0])
    differing = {key: row for key, row in own_first if len(set(row)) > 1}
    if not differing:
        return f"`{'`, `'.join(params)}`: the same settings."
    head = [f"| setting | {' | '.join(params)} |", f"|---|{'---|' * len(params)}"]
    rows = [f"| `{key}` | {' | '.join(row)} |" for key, row in differing.items()]
    return "\n".join([*head, *rows]) + "\n\nAll other settings are the same in each arm."


def _data(study: Study, data: GalaxyData) -> str:
    counts = np.bincount(data.labels, minlength=len(data.classes))
    classes = ", ".join(f"{name} ({n})" for name, n in zip(data.classes, counts, strict=True))
    splits, size = study.splits, study.data.image_size
    test = f"{splits.n_test} images" if splits.n_test else f"{splits.test_fraction or 0.2:.0%}"
    protocol = _PROTOCOLS[study.protocol].format(val=100 * splits.val_fraction)
    return (
        f"- {len(data)} images of {size} x {size} pixels (`{study.data.kind}`, labels "
        f"`{study.data.labels}`): {classes}\n"
        f"- {splits.count} splits (`{splits.recipe}`), numbered from {splits.first}; "
        f"the test part of each is {test}\n"
        f"- Protocol {protocol}"
    )
