"""A page of facts in four forms: plain text, Markdown, LaTeX, HTML."""

from __future__ import annotations

import html
import re
import textwrap
from dataclasses import dataclass

WIDTH = 100
_GAP = "   "
_LINE = 0.8
"""Share of a line of LaTeX that columns of prose fill; the rest is what parts them."""
_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
}


@dataclass(frozen=True)
class Table:
    """Rows of text under a header; `align` has a letter a column: `l`, `r`, or `p` for prose."""

    header: tuple[str, ...]
    align: str
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Sheet:
    """What a comparison says: a title, the finding in one sentence, tables, notes, versions."""

    title: str
    headline: str
    tables: tuple[Table, ...]
    notes: tuple[str, ...]
    footer: str


def to_text(sheet: Sheet) -> str:
    """Return the sheet for a terminal of 100 columns."""
    parts = [sheet.title, "=" * min(len(sheet.title), WIDTH), "", _wrapped(sheet.headline)]
    for table in sheet.tables:
        parts += ["", _text_table(table)]
    parts += ["", "Notes", *[_wrapped(note, "- ") for note in sheet.notes], "", sheet.footer]
    return "\n".join(parts) + "\n"


def to_markdown(sheet: Sheet) -> str:
    """Return the sheet as GitHub's Markdown."""
    parts = [f"## {_markdown(sheet.title)}", "", _markdown(sheet.headline)]
    for table in sheet.tables:
        rule = ["---:" if side == "r" else "---" for side in table.align]
        rows = [table.header, tuple(rule), *table.rows]
        lines = ["| " + " | ".join(_markdown(cell) for cell in row) + " |" for row in rows]
        parts += ["", *lines]
    parts += ["", *[f"- {_markdown(note)}" for note in sheet.notes], "", _markdown(sheet.footer)]
    return "\n".join(parts) + "\n"


def to_latex(sheet: Sheet) -> str:
    r"""Return the sheet as LaTeX paragraphs and tables, for `\usepackage{booktabs,tabularx}`."""
    parts = [rf"\paragraph{{{_latex(sheet.title)}}} {_latex(sheet.headline)}"]
    parts += [table_to_latex(table) for table in sheet.tables]
    notes = [rf"\item {_latex(note)}" for note in sheet.notes]
    parts.append("\n".join([r"\begin{itemize}", *notes, r"\end{itemize}"]))
    return "\n\n".join([*parts, _latex(sheet.footer)]) + "\n"


def to_html(sheet: Sheet) -> str:
    """Return the sheet as a fragment of HTML, escaped, without any style."""
    parts = [f"<h2>{html.escape(sheet.title)}</h2>", f"<p>{html.escape(sheet.headline)}</p>"]
    parts += [table_to_html(table) for table in sheet.tables]
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in sheet.notes)
    return "\n".join([*parts, f"<ul>{notes}</ul>", f"<p>{html.escape(sheet.footer)}</p>"]) + "\n"


def table_to_html(table: Table) -> str:
    """Return a table as HTML, escaped; cells carry the classes `number` and `prose`."""
    head = _html_row("th", table.header, table)
    rows = "\n".join(_html_row("td", row, table) for row in table.rows)
    kind = ' class="stack"' if "p" in table.align else ""
    return f"<table{kind}>\n<thead>{head}</thead>\n<tbody>\n{rows}\n</tbody>\n</table>"


def _text_table(table: Table) -> str:
    """Align the columns; the last one is wrapped into what is left of the width."""
    rows = [table.header, *table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(table.header))]
    room = WIDTH - sum(widths[:-1]) - len(_GAP) * (len(widths) - 1)
    widths[-1] = min(widths[-1], max(room, 20))
    lines = [line for row in rows for line in _text_row(row, table.align, widths)]
    lines.insert(1, _GAP.join("-" * width for width in widths))
    return "\n".join(lines)


def _text_row(row: tuple[str, ...], align: str, widths: list[int]) -> list[str]:
    last = textwrap.wrap(row[-1], widths[-1]) or [""]
    lines = [(*row[:-1], last[0])] + [("",) * (len(row) - 1) + (more,) for more in last[1:]]
    return [
        _GAP.join(
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, side, width in zip(line, align, widths, strict=True)
        ).rstrip()
        for line in lines
    ]


def _wrapped(text: str, bullet: str = "") -> str:
    indent = " " * len(bullet)
    return textwrap.fill(text, WIDTH, initial_indent=bullet, subsequent_indent=indent)


def _markdown(text: str) -> str:
    return re.sub(r"([\\|*_<>`\[\]])", r"\\\1", text)


def _latex(text: str) -> str:
    escaped = "".join(_LATEX.get(letter, letter) for letter in text)
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", escaped)


def table_to_latex(table: Table) -> str:
    r"""Return a table as LaTeX for `\usepackage{booktabs,tabularx,longtable}`.

    A last column of words takes what is left of the line; a table with columns of prose breaks
    over pages.
    """
    if "p" in table.align:
        return _long_table(table)
    prose = table.align.endswith("l")
    kind, width = ("tabularx", r"{\linewidth}") if prose else ("tabular", "")
    columns = table.align[:-1] + ("X" if prose else "r")
    return _latex_lines(table, rf"\begin{{{kind}}}{width}{{{columns}}}", kind)


def _long_table(table: Table) -> str:
    share = _LINE / table.align.count("p")
    columns = table.align.replace("p", rf"p{{{share:.2f}\linewidth}}")
    return _latex_lines(table, rf"\begin{{longtable}}{{{columns}}}", "longtable")


def _latex_lines(table: Table, begin: str, kind: str) -> str:
    body = [_latex_row(row) for row in table.rows]
    head = [begin, r"\toprule", _latex_row(table.header), r"\midrule"]
    head += [r"\endhead"] if kind == "longtable" else []
    return "\n".join([*head, *body, r"\bottomrule", rf"\end{{{kind}}}"])


def _latex_row(row: tuple[str, ...]) -> str:
    return " & ".join(_latex(cell) for cell in row) + r" \\"


def _html_row(tag: str, row: tuple[str, ...], table: Table) -> str:
    """Return a row; the cells of a table with prose carry their header, for narrow pages."""
    labelled = tag == "td" and "p" in table.align
    cells = [
        f"<{tag}{_CELL[side]}{_label(name) if labelled else ''}>{html.escape(cell)}</{tag}>"
        for cell, name, side in zip(row, table.header, table.align, strict=True)
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _label(name: str) -> str:
    return f' data-label="{html.escape(name)}"'


_CELL = {"l": "", "r": ' class="number"', "p": ' class="prose"'}
