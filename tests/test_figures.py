from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text

from analysis import figures
from analysis.figures.distributions import bin_edges
from analysis.figures.style import fitted
from analysis.stats import corrected_t, evidence_curve, kaplan_meier
from analysis.wording import PERCENT, Unit

EPOCHS = Unit(1, 0, "", " epochs")
LOSS = Unit(1, 3, "", "")
SHORT = ("pretrained", "scratch")
ODD = ("_pretrained on $Image_Net$ <b>with a name</b> of no small length at all", "$x$", "third")
N_CLASSES = {SHORT: 4, ODD: 10}


def accuracies(arms: tuple[str, ...], n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {arm: rng.normal(0.8 - 0.02 * i, 0.01, n) for i, arm in enumerate(arms)}


def names(k: int) -> list[str]:
    return [f"class_{i} of $n_{i}$ and more" for i in range(k)]


def stacks(arms: tuple[str, ...], n: int, k: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    chances = 0.6 * np.eye(k) + 0.4 / k
    return {arm: np.stack([rng.multinomial(40, chances) for _ in range(n)]) for arm in arms}


def waiting(arms: tuple[str, ...], n: int) -> dict[str, figures.Waiting]:
    rng = np.random.default_rng(7)
    found = {}
    for arm in arms:
        epochs = rng.integers(5, 60, n).clip(max=40).astype(float)
        found[arm] = figures.Waiting(epochs, epochs < 40, kaplan_meier(epochs, epochs < 40))
    return found


def bins() -> pd.DataFrame:
    low = np.arange(10) / 10
    n = np.array([0, 0, 5, 10, 20, 40, 80, 160, 320, 640])
    middle = np.where(n > 0, low + 0.05, np.nan)
    columns = {"low": low, "high": low + 0.1, "n": n}
    return pd.DataFrame(columns | {"confidence": middle, "accuracy": middle - 0.04})


def differences(values: dict[str, np.ndarray], title: str) -> figures.Differences:
    x, y = list(values.values())[:2]
    return figures.Differences(title, x - y, corrected_t(x, y, 1000, 200))


def intervals(k: int) -> list[figures.Interval]:
    rows = [figures.Interval("recall", name, 0.05, -0.02, 0.12) for name in names(k)]
    return [figures.Interval("all classes", "accuracy", 0.02, 0.01, 0.03), *rows]


def split_points(arms: tuple[str, ...], epochs: int) -> pd.DataFrame:
    rows = [
        (arm, metric, epoch, 0.5 + 0.01 * epoch)
        for arm in arms
        for metric in ("test_accuracy", "train_accuracy")
        for epoch in range(epochs)
    ]
    return pd.DataFrame(rows, columns=["arm", "metric", "epoch", "value"])


def evidence_of(values: dict[str, np.ndarray]) -> Figure:
    x, y = list(values.values())[:2]
    title = " minus ".join(list(values)[:2])
    return figures.evidence_panels(evidence_curve(x, y, 1000, 200), title, PERCENT)


def trials(arms: tuple[str, ...]) -> dict[str, figures.BestSoFar]:
    return {arm: figures.BestSoFar({i: 0.9, 5: 0.5 - 0.1 * i}, 12) for i, arm in enumerate(arms)}


def drawn(axes_figure: Figure, draw: object, *given: object) -> Figure:
    draw(*given, axes_figure.subplots())  # type: ignore[operator]
    return axes_figure


def all_figures(arms: tuple[str, ...], n: int = 8, epochs: int = 12) -> dict[str, Figure]:
    """Draw every figure there is."""
    values, k = accuracies(arms, n), N_CLASSES[arms]
    table = pd.DataFrame(values)
    per_class = {name: accuracies(arms, n) for name in names(k)}
    curves = {arm: np.outer(v, np.linspace(0.7, 1, epochs)) for arm, v in values.items()}
    means = pd.concat(
        pd.DataFrame({"arm": arm, "epoch": range(epochs), "mean": c.mean(0), "sd": c.std(0)})
        for arm, c in curves.items()
    )
    lines = figures.Lines("accuracy", PERCENT, {"test": "test_accuracy", "train": "train_accuracy"})
    panels = [differences(values, "full"), differences(values, arms[0])]
    d, test = panels[0].values, panels[0].test
    return {
        "values": figures.value_histograms(values, "accuracy", PERCENT),
        "epochs": figures.value_histograms(
            {arm: np.arange(n) for arm in arms}, "epoch", EPOCHS, dict.fromkeys(arms, 20)
        ),
        "differences": figures.difference_histograms(panels, "difference", PERCENT),
        "classes": figures.class_histograms(per_class, "recall", PERCENT),
        "by-split": drawn(figures.new_figure(), figures.draw_differences, range(n), d, test),
        "slopes": drawn(figures.new_figure(5, 4), figures.draw_slopes, table, "value", PERCENT),
        "means": drawn(figures.new_figure(), figures.draw_mean_curves, means),
        "runs": figures.run_curves(curves, "accuracy", PERCENT),
        "split": figures.split_panel(split_points(arms, epochs), [lines]),
        "one": figures.confusion_matrices(
            {a: s[0] for a, s in stacks(arms, 1, k).items()}, names(k)
        ),
        "mean": figures.confusion_matrices(stacks(arms, n, k), names(k)),
        "sd": figures.confusion_matrices(stacks(arms, n, k), names(k), with_sd=True),
        "forest": figures.forest_plot(intervals(k), "first minus second", PERCENT),
        "survival": figures.survival_curves(waiting(arms, n), "runs below 80 %"),
        "evidence": evidence_of(values),
        "tuning": drawn(figures.new_figure(), figures.draw_best_so_far, trials(arms), "loss", LOSS),
        "reliability": figures.reliability_diagrams({arm: bins() for arm in arms}),
    }


@pytest.fixture(scope="module")
def drawings() -> dict[tuple[str, str], Figure]:
    """Draw every figure of two arms with plain names and of three with odd ones."""
    kinds = {"plain": SHORT, "odd": ODD}
    return {(k, name): f for k, arms in kinds.items() for name, f in all_figures(arms).items()}


def visible_texts(figure: Figure) -> list[Text]:
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip()]


def test_nothing_is_cut_at_the_edge_of_a_figure(drawings: dict[tuple[str, str], Figure]) -> None:
    for name, figure in drawings.items():
        figure.draw_without_rendering()
        box = figure.get_tightbbox()
        width, height = figure.get_size_inches()
        assert min(box.x0, box.y0) >= -0.005, name
        assert box.x1 <= width + 0.005, name
        assert box.y1 <= height + 0.005, name


def test_numbers_fit_in_the_cells_of_a_confusion_matrix(
    drawings: dict[tuple[str, str], Figure],
) -> None:
    for name in ("one", "mean", "sd"):
        for ax in drawings["plain", name].axes + drawings["odd", name].axes:
            corners = ax.transData.transform([(0, 1), (1, 0)])
            cell = corners[1] - corners[0]
            for text in ax.texts:
                box = text.get_window_extent()
                assert box.width < cell[0], (name, text)
                assert box.height < cell[1], (name, text)


def test_titles_of_neighbours_do_not_overlap(drawings: dict[tuple[str, str], Figure]) -> None:
    for name, figure in drawings.items():
        boxes = [
            title.get_window_extent()
            for ax in figure.axes
            for title in [ax.title, ax._left_title]
            if title.get_text()
        ]
        for i, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[i + 1 :]), name


def test_names_are_printed_as_they_stand(drawings: dict[tuple[str, str], Figure]) -> None:
    for name, figure in drawings.items():
        texts = visible_texts(figure)
        assert not any(t.get_parse_math() for t in texts if "$" in t.get_text()), name
    legend = drawings["odd", "means"].axes[0].get_legend()
    assert legend is not None
    assert [t.get_text() for t in legend.get_texts()][1:] == ["$x$", "third"]


def test_a_figure_is_saved_as_svg_pdf_and_png_of_equal_bytes(tmp_path: Path) -> None:
    first, second = (figures.forest_plot(intervals(2), "d", PERCENT) for _ in range(2))
    written = figures.save(first, tmp_path / "new", "forest")
    again = figures.save(second, tmp_path / "again", "forest")
    assert [path.name for path in written] == ["forest.svg", "forest.pdf", "forest.png"]
    assert [p.read_bytes() for p in written] == [p.read_bytes() for p in again]
    assert written[1].read_bytes().startswith(b"%PDF")
    assert written[2].read_bytes().startswith(b"\x89PNG")


def test_markup_in_a_name_is_escaped_and_the_ink_can_be_exchanged(tmp_path: Path) -> None:
    figure = figures.value_histograms({"<b>$a_1$": [0.8, 0.9]}, "accuracy", PERCENT)
    text = figures.save(figure, tmp_path, "s")[0].read_text()
    assert "<b>" not in text
    assert "&lt;b&gt;$a_1$: mean 85.0 %" in text
    assert figures.INK in text
    assert "#ffffff" not in text.lower()


def test_curves_of_many_runs_stay_small_as_vector_graphic(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    runs = {arm: rng.normal(0.8, 0.02, (100, 300)) for arm in SHORT}
    path = tmp_path / "runs.svg"
    figures.run_curves(runs, "accuracy", PERCENT).savefig(path)
    assert path.stat().st_size < 400_000
    assert "<image" in path.read_text()


@pytest.mark.parametrize("value", [0.0, 0.8, 1.0, -0.3])
def test_values_that_are_all_the_same_are_drawn(value: float) -> None:
    same = np.full(6, value)
    figure = figures.value_histograms({"one": same, "two": same}, "value", PERCENT)
    figure.draw_without_rendering()
    panel = differences({"one": same, "two": same}, "t")
    figures.difference_histograms([panel], "d", PERCENT).draw_without_rendering()
    figures.evidence_panels(
        evidence_curve(same, same, 10, 2), "d", PERCENT
    ).draw_without_rendering()


def test_bins_of_epochs_have_whole_numbers_inside_and_those_of_percent_have_zero_as_an_edge() -> (
    None
):
    assert bin_edges([3, 4, 7], EPOCHS).tolist() == [2.5, 3.5, 4.5, 5.5, 6.5, 7.5]
    edges = bin_edges(np.linspace(-1.3, 2.1, 30), PERCENT)
    assert np.isclose(edges, 0).any()
    assert edges[0] <= -1.3
    assert edges[-1] >= 2.1
    assert bin_edges([0.0, 0.0, 0.0], PERCENT).tolist() == [-2.5, -0.5, 0.5, 2.5]


def test_one_epoch_is_a_point() -> None:
    figure = figures.run_curves({"a": [[0.5], [0.6]], "b": [[0.4], [0.5]]}, "accuracy", PERCENT)
    figure.draw_without_rendering()
    mean = figure.axes[0].get_lines()[-1]
    assert mean.get_marker() == "o"
    assert mean.get_ydata() == pytest.approx([55])


@pytest.mark.parametrize(("arms", "k"), [(2, 2), (5, 6), (2, 20), (3, 7)])
def test_confusion_matrices_of_any_size_have_one_panel_an_arm(arms: int, k: int) -> None:
    by_arm = stacks(tuple(f"arm {i}" for i in range(arms)), 2, k)
    figure = figures.confusion_matrices(by_arm, names(k))
    assert len(figure.axes) == arms
    assert all(len(ax.texts) == k * k for ax in figure.axes)


def test_a_long_name_keeps_both_its_ends() -> None:
    assert fitted("spiral galaxies, clockwise", 12) == "spiral…kwise"
    assert fitted("short", 5) == "short"


def test_no_text_is_smaller_than_the_rest(drawings: dict[tuple[str, str], Figure]) -> None:
    for name, figure in drawings.items():
        assert min(text.get_fontsize() for text in visible_texts(figure)) >= 9.5, name


@pytest.mark.parametrize("k", [5, 6, 12])
def test_numbers_fit_in_the_cells_of_more_classes(k: int) -> None:
    figure = figures.confusion_matrices({"a": np.full((k, k), 1000), "b": np.eye(k)}, names(k))
    figure.draw_without_rendering()
    for ax in figure.axes:
        corners = ax.transData.transform([(0, 1), (1, 0)])
        widest = max(text.get_window_extent().width for text in ax.texts)
        assert widest < corners[1, 0] - corners[0, 0]


def test_a_figure_that_is_laid_out_is_drawn_in_the_same_places() -> None:
    first, second = (figures.forest_plot(intervals(2), "d", PERCENT) for _ in range(2))
    first.draw_without_rendering()
    figures.lay_out(second)
    assert second.get_layout_engine() is None
    places = [figure.axes[0].get_position().bounds for figure in (first, second)]
    assert places[0] == pytest.approx(places[1], abs=1e-6)
