"""Whether two studies are one and the same."""

from __future__ import annotations

import pandas as pd

from analysis import Study


def assert_same(first: Study, second: Study) -> None:
    pd.testing.assert_frame_equal(first.runs, second.runs)
    pd.testing.assert_frame_equal(first.metrics, second.metrics)
    for name in ("name", "arms", "question", "metric_names", "tags", "params", "classes"):
        assert getattr(first, name) == getattr(second, name)
