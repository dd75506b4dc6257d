"""Answers of networks, written by hand: what each count must be can be seen by eye."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd
from fixtures_analysis import ARMS

CLASSES = ("spiral", "elliptical", "merger")
FIRST, SECOND = ARMS

Answer = tuple[int, str, str, str, str, float]
"""Split, arm, image, its class, the answer, and the probability of the answer."""

# Image a: wrong 3 of 4 times; d and b: 2 of 2, d surer; c: 2 of 4; e: 1 of 2, g: never.
ANSWERS: tuple[Answer, ...] = (
    (0, FIRST, "a", "spiral", "elliptical", 0.9),
    (0, SECOND, "a", "spiral", "elliptical", 0.7),
    (1, FIRST, "a", "spiral", "elliptical", 0.8),
    (1, SECOND, "a", "spiral", "spiral", 0.6),
    (0, FIRST, "b", "spiral", "elliptical", 0.6),
    (0, SECOND, "b", "spiral", "elliptical", 0.6),
    (0, FIRST, "c", "spiral", "elliptical", 0.9),
    (0, SECOND, "c", "spiral", "spiral", 0.9),
    (1, FIRST, "c", "spiral", "elliptical", 0.9),
    (1, SECOND, "c", "spiral", "spiral", 0.9),
    (1, FIRST, "d", "spiral", "elliptical", 0.7),
    (1, SECOND, "d", "spiral", "elliptical", 0.7),
    (0, FIRST, "e", "elliptical", "spiral", 0.5),
    (0, SECOND, "e", "elliptical", "elliptical", 0.8),
    (1, FIRST, "g", "merger", "merger", 0.8),
    (1, SECOND, "g", "merger", "merger", 0.8),
)


def table_of(answers: Iterable[Answer]) -> pd.DataFrame:
    """Return answers as `analysis.answers.all_answers` does; other classes share the rest."""
    rows = []
    for split, arm, name, true, predicted, probability in answers:
        rest = (1 - probability) / (len(CLASSES) - 1)
        chances = {f"p_{key}": probability if key == predicted else rest for key in CLASSES}
        row = {"split": split, "arm": arm, "id": name, "true": true, "predicted": predicted}
        rows.append({**row, "confidence": probability, **chances})
    return pd.DataFrame(rows)


def of_network(answers: Iterable[Answer], split: int, arm: str) -> pd.DataFrame:
    """Return one network's answers as a worker writes them."""
    table = table_of(answer for answer in answers if answer[:2] == (split, arm))
    return table.drop(columns=["split", "arm", "confidence"])
