"""The mistakes as a page shows them: galleries of cards, and the disputed labels as a file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.disputes import DISPUTED_SHARE, least_networks
from analysis.illustrations import SHOWN_PAIRS, Illustrations, shown
from analysis.mistakes import ConfusedPair, Mistake, Mistakes

FILE = "disputed.csv"
NO_PICTURES = (
    "This page has no images: give the study file to galaxy-mlflow report, on a machine that has "
    "the images, and it shows them here."
)
_OPEN = 3
"""Pairs that are seen at once; the others unfold."""
_READING = (
    "Within a pair, images come by the number of networks that gave this answer, then by their "
    "share of the networks tested on the image, then by how sure they were. All of this describes "
    "these runs: splits share galaxies, so the counts are no test of anything, and have no p-value."
)
_HEAT = (
    " Where a second image stands beside the first, it is Grad-CAM: bright is what spoke for the "
    "wrong answer to the named network, which gave it and had not trained on this galaxy; the dark "
    "margin lies outside of what it was shown."
)
_ROOM = 11
"""Letters of an arm's name on a card."""


@dataclass(frozen=True)
class Bar:
    """One arm's count: `3 of 4`, how full the bar is in percent, and how sure it was."""

    arm: str
    colour: int
    count: str
    percent: float
    probability: str


@dataclass(frozen=True)
class Card:
    """One image with what was said of it; image and heat are data URIs, perhaps ""."""

    id: str
    alt: str
    answer: str
    image: str
    heat: str
    heat_note: str
    disputing: str
    splits: str
    bars: tuple[Bar, ...]


@dataclass(frozen=True)
class Group:
    """One gallery."""

    true: str
    predicted: str
    note: str
    cards: tuple[Card, ...]


@dataclass(frozen=True)
class MistakesView:
    """All that the section shows.

    Attributes
    ----------
    open, folded : galleries of confused pairs
    disputed : cards of the images whose labels are disputed
    csv : data URI of all of those, "" where there are none
    """

    intro: tuple[str, ...]
    reading: str
    open: tuple[Group, ...]
    folded: tuple[Group, ...]
    left_out: str
    disputed: tuple[Card, ...]
    disputed_note: str
    csv: str


def view(mistakes: Mistakes, illustrations: Illustrations) -> MistakesView:
    """Return what a page shows of mistakes."""
    *galleries, disputed = shown(mistakes)
    groups = tuple(
        Group(
            pair.true,
            pair.predicted,
            _group_note(pair, len(gallery)),
            _cards(gallery, mistakes, illustrations),
        )
        for pair, gallery in zip(mistakes.pairs, galleries, strict=False)  # the rarest have none
    )
    return MistakesView(
        intro=_intro(mistakes, illustrations),
        reading=_READING + (_HEAT if illustrations.heat else ""),
        open=groups[:_OPEN],
        folded=groups[_OPEN:],
        left_out=_left_out(mistakes),
        disputed=_cards(disputed, mistakes, illustrations),
        disputed_note=_disputed_note(mistakes, len(disputed)),
        csv=_csv_uri(mistakes, illustrations),
    )


def disputed_csv(mistakes: Mistakes, illustrations: Illustrations) -> str:
    """Return the disputed images as CSV: the columns `DISPUTED_COLUMNS`, and path ("": unknown)."""
    table = mistakes.disputed
    paths = [illustrations.paths.get(str(name), "") for name in table["id"]]
    return table.assign(path=paths).to_csv(index=False, float_format="%.4f", lineterminator="\n")


def _csv_uri(mistakes: Mistakes, illustrations: Illustrations) -> str:
    if mistakes.disputed.empty:
        return ""
    return _uri("text/csv", disputed_csv(mistakes, illustrations).encode())


def _intro(mistakes: Mistakes, illustrations: Illustrations) -> tuple[str, ...]:
    wrong = sum(pair.answers for pair in mistakes.pairs)
    first = (
        f"{_many(mistakes.networks, 'network')} gave {len(mistakes.answers):,} answers to the "
        f"{mistakes.images:,} images of their test sets; {wrong:,} are wrong. Each bar is one "
        "arm: of the splits that tested this galaxy, those whose network gave this wrong answer; "
        "the small number is the mean probability that it gave to it."
    )
    return (first,) if illustrations.images else (first, NO_PICTURES)


def _group_note(pair: ConfusedPair, count: int) -> str:
    part = f"; the worst {count} are shown" if count < pair.images else ""
    return f"{_many(pair.answers, 'wrong answer')} to {_many(pair.images, 'image')}{part}"


def _left_out(mistakes: Mistakes) -> str:
    rest = mistakes.pairs[SHOWN_PAIRS:]
    if not rest:
        return ""
    answers = sum(pair.answers for pair in rest)
    return (
        f"{_many(len(rest), 'rarer pair')} with {_many(answers, 'wrong answer')} in all "
        "have no gallery."
    )


def _disputed_note(mistakes: Mistakes, count: int) -> str:
    if not count:
        return "No label is contradicted by nearly all networks that were tested on its image."
    total = len(mistakes.disputed)
    least = least_networks(mistakes.answers)
    part = f" The first {count} of them are shown." if count < total else ""
    return (
        f"{_many(total, 'image')} of {mistakes.images:,}: at least {100 * DISPUTED_SHARE:.0f} % of "
        f"the networks tested on each ({least} or more) contradict its label. The label may be "
        "wrong, the galaxy unusual, or the networks weak on its class: look. Each stands as label "
        "→ suggested class, first those where the suggested class had the most probability beyond "
        f"that of the label.{part}"
    )


def _cards(
    group: Sequence[Mistake], mistakes: Mistakes, illustrations: Illustrations
) -> tuple[Card, ...]:
    return tuple(_card(mistake, mistakes.arms, illustrations) for mistake in group)


def _short(arm: str) -> str:
    """Return a name that fits beside its count; its end stays, which tells it from its like."""
    if len(arm) <= _ROOM:
        return arm
    stem, dash, end = arm.rpartition("-")
    tail = dash + end if stem and len(end) < _ROOM // 2 else arm[-(_ROOM // 2) :]
    return f"{arm[: _ROOM - 1 - len(tail)]}…{tail}"


def _card(mistake: Mistake, arms: tuple[str, ...], illustrations: Illustrations) -> Card:
    image = illustrations.images.get(mistake.id, b"")
    heat = illustrations.heat.get((mistake.id, mistake.predicted))
    bars = (
        Bar(
            arm=_short(count.arm),
            colour=arms.index(count.arm),
            count=f"{count.times} of {count.tested}",
            percent=100 * count.times / count.tested,
            probability=f"{count.probability:.2f}" if count.times else "",
        )
        for count in mistake.by_arm
    )
    return Card(
        id=mistake.id,
        alt=f"Galaxy {mistake.id}: labelled {mistake.true}, taken for {mistake.predicted}",
        answer=f"{mistake.true} → {mistake.predicted}",
        image=_uri(_kind_of(image), image) if image else "",
        heat=_uri(_kind_of(heat.picture), heat.picture) if heat else "",
        heat_note=f"{heat.job.run_name}, {heat.probability:.2f}" if heat else "",
        disputing=f"{mistake.wrong} of {mistake.networks} contradict the label",
        splits=f"tested in {_many(mistake.splits, 'split')}",
        bars=tuple(bars),
    )


def _kind_of(picture: bytes) -> str:
    return "image/png" if picture.startswith(b"\x89PNG") else "image/jpeg"


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
