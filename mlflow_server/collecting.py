"""How often a server looks for garbage: one answer of MLflow's may hold 100,000 objects."""

from __future__ import annotations

import gc


def collect_seldom() -> None:
    """Keep what is loaded now for good, and look for garbage once in 100,000 new objects.

    Python's own rule, every few hundred, took a third of the time of answers with many values.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)
