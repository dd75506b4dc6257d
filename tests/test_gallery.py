from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from fixtures_analysis import ARMS, Job, Writer
from matplotlib.figure import Figure

from analysis import Study, compare, figures, load_study
from analysis.gallery import Gallery, gallery
from analysis.gallery.peaked import colours
from analysis.gallery.subject import sentence
from analysis.pairs import match_runs
from analysis.stats import corrected_t
from galaxy_mlflow import schema

NAMES = """
    differences slopes forest peak-accuracy peak-epoch budget-differences mean-curves run-curves
    run-curves-loss split-curves class-recall class-precision class-f1 confusion-split
    confusion-mean confusion-sd time-to-60 time-to-65 evidence
""".split()


def drawn(study: Study) -> Gallery:
    return gallery(study, match_runs(study), compare(study), thresholds=(0.6, 0.65))


@pytest.fixture(scope="module")
def pictures(demo: Study) -> dict[str, tuple[str, str, Figure]]:
    """Draw the study `demo`."""
    return {p.name: (p.title, p.caption, p.figure) for p in drawn(demo).pictures}


def test_every_figure_that_the_runs_can_give_is_there_in_order(pictures: dict[str, object]) -> None:
    assert list(pictures) == NAMES


def test_what_cannot_be_drawn_is_named_with_its_reason(demo: Study) -> None:
    assert drawn(demo).missing == {"reliability": "the runs have left no predictions"}


def test_captions_say_how_many_runs_are_shown(
    pictures: dict[str, tuple[str, str, Figure]],
) -> None:
    for name, (title, caption, _) in pictures.items():
        assert title[0].isupper(), name
        assert caption[0].isupper(), name
        if "split" in name:
            assert "Split 3, chosen as the middle one of 8 by number" in caption
        else:
            assert caption.endswith("8 splits, 16 runs."), name


def test_captions_explain_only_what_is_drawn(
    pictures: dict[str, tuple[str, str, Figure]], demo: Study
) -> None:
    c = compare(demo)
    slopes = pictures["slopes"][1]
    counts = {"solid": c.wins, "dashed": c.losses, "dotted": c.ties}
    assert {word for word in counts if word in slopes} == {w for w, n in counts.items() if n}
    assert "(0)" not in slopes
    bars = pictures["budget-differences"][2].axes
    below = [re.search(r"below on (\d+)", ax.get_title(loc="left")).group(1) for ax in bars]  # type: ignore[union-attr]
    assert ("hatched" in pictures["budget-differences"][1]) == any(n != "0" for n in below)
    for name in ("time-to-60", "time-to-65"):
        top = pictures[name][2].axes[0]
        marks = {line.get_marker() for line in top.get_lines() if len(line.get_xdata())}
        assert {"A cross" in pictures[name][1], "+" in marks} != {True, False}
        assert {"A disc" in pictures[name][1], "o" in marks} != {True, False}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.01, 0.02], ""),
        ([0.01, -0.02], "Bars: right of zero blue, left of it orange and hatched. "),
        ([-0.01, 0.0], "Bars: left of zero orange and hatched, equal pairs grey and crossed. "),
    ],
)
def test_colours_of_differences_are_named_where_there_are_several(
    values: list[float], words: str
) -> None:
    x = np.array(values)
    panel = figures.Differences("t", x, corrected_t(x, 0 * x, 10, 2))
    assert colours([panel]) == words


def test_names_keep_their_capitals_at_the_beginning_of_a_caption() -> None:
    assert sentence("test MCC") == "Test MCC"
    assert sentence("macro-F1") == "Macro-F1"


def test_mean_and_spread_of_confusion_print_the_same_percent(
    pictures: dict[str, tuple[str, str, Figure]],
) -> None:
    mean, spread = (pictures[f"confusion-{kind}"][2] for kind in ("mean", "sd"))
    for ax, other in zip(mean.axes, spread.axes, strict=True):
        percents = [[t.get_text().split("\n")[0] for t in a.texts] for a in (ax, other)]
        assert percents[0] == percents[1]


def test_a_study_without_curves_still_gives_its_comparison(demo: Study) -> None:
    bare = replace(demo, metric_names=())
    found = gallery(bare, match_runs(demo), compare(demo))
    names = [picture.name for picture in found.pictures]
    assert {"differences", "slopes", "forest", "evidence"} <= set(names)
    assert not {"peak-accuracy", "mean-curves", "run-curves", "split-curves"} & set(names)
    assert {"peak-accuracy", "peak-epoch", "mean-curves", "run-curves"} <= set(found.missing)
    assert "test_accuracy" in found.missing["peak-accuracy"]


def test_a_study_without_matrices_gives_no_figures_of_classes(writer: Writer) -> None:
    jobs = [Job(split, arm, artifacts=False) for split in range(6) for arm in ARMS]
    writer.study("without-files", jobs)
    found = drawn(load_study("without-files", writer.uri))
    assert found.missing["confusion"] == "the runs have no confusion matrices"
    assert {"forest", "class"} <= set(found.missing)


def test_the_budgets_of_the_differences_are_the_runs_own(
    pictures: dict[str, tuple[str, str, Figure]], demo: Study
) -> None:
    axes = pictures["budget-differences"][2].axes
    titles = [ax.get_title(loc="left") for ax in axes]
    assert titles[0].startswith("pretrained minus scratch, full budgets\n")
    assert titles[1].startswith("pretrained: its 5 epochs minus its first 1\n")
    peaks = compare(demo, f"peak_{schema.TEST_ACCURACY}").mean_difference
    assert f"mean {100 * peaks:+.2f} points" in titles[0]


def test_the_forest_has_the_numbers_of_the_comparison(
    pictures: dict[str, tuple[str, str, Figure]], demo: Study
) -> None:
    classes = compare(demo).classes
    row = classes[(classes["score"] == "recall") & (classes["class"] == "Spiral")].iloc[0]
    texts = [text.get_text() for text in pictures["forest"][2].axes[0].texts]
    assert any(text.startswith(f"{100 * row['difference']:+.2f}  [") for text in texts)
    assert len(texts) == 5 + len(classes)


def test_importing_analysis_does_not_import_matplotlib() -> None:
    code = "import sys, analysis; print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
