"""A figure as markup inside a page, in the page's own text colour."""

from __future__ import annotations

import io
import re
from html import escape
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from analysis.gallery import Picture

_TEXT_STYLE: Final[dict[Any, Any]] = {"svg.fonttype": "none"}
_NO_METADATA = {"Date": None, "Creator": None, "Format": None, "Type": None}
_POINTS = 72
_HALF_A_PAGE = 6.0
"""Inches; figures up to this width go side by side."""
_LARGEST = 1.25
"""How far a page may enlarge a figure."""


def is_wide(picture: Picture) -> bool:
    """Return whether a figure needs the page's whole width."""
    return float(picture.figure.get_size_inches()[0]) > _HALF_A_PAGE


def svg(picture: Picture) -> str:
    """Return a figure as inline SVG, without a background, that follows the page's colours."""
    from matplotlib import rc_context

    from analysis.figures import INK

    buffer = io.StringIO()
    with rc_context({**_TEXT_STYLE, "svg.hashsalt": picture.name}):
        picture.figure.savefig(buffer, format="svg", transparent=True, metadata=_NO_METADATA)
    text = buffer.getvalue()
    body = text[text.index(">", text.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = body.replace("xlink:href", "href").replace(INK, "currentColor")
    width, height = (_POINTS * inches for inches in picture.figure.get_size_inches())
    return (
        f'<svg role="img" aria-label="{escape(picture.title)}" viewBox="0 0 {width:g} {height:g}" '
        f'style="max-width: {_LARGEST * width:.0f}px">{body}'
    )
