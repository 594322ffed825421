"""What a report is made of, and how it is written as HTML or as markdown.

    page = Page("Alignment of g1", "seed 0", answer, [Section("Data", (Text("One log."),))])
    to_html(page), to_markdown(page)

Every text may come from a file of a user: HTML is escaped by the template, markdown here, and links
are relative paths and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from asap.align_words import Line

_FIGURE = re.compile(r"(-?\d[\d.]*(?:%| mm| deg| s)?(?: \[[^\]]*\])?)")


class Link(NamedTuple):
    """To a file beside the page."""

    label: str
    path: str

    @property
    def href(self) -> str:
        """As a relative address: a colon would be taken for a protocol."""
        return quote(self.path)


class Text(NamedTuple):
    """A paragraph."""

    text: str
    kind: Literal["text"] = "text"


class Items(NamedTuple):
    """A list."""

    lines: Sequence[str | Link]
    kind: Literal["items"] = "items"


class Table(NamedTuple):
    """Figures; the first column says what a row is about."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | Link]]
    source: str
    """Where they stand in the result file"""
    kind: Literal["table"] = "table"


class Image(NamedTuple):
    """A chart or a picture."""

    title: str
    uri: str | None
    """None: the file could not be read"""
    path: str = ""
    """Of the file, if it is one"""


class Images(NamedTuple):
    """A chart beside its table, or pictures below each other."""

    images: Sequence[Image]
    source: str
    table: Table | None = None
    wide: bool = False
    kind: Literal["images"] = "images"


class Fold(NamedTuple):
    """What few want to see: folded on a screen, open on paper."""

    title: str
    table: Table
    kind: Literal["fold"] = "fold"


Block = Text | Items | Table | Images | Fold


class Section(NamedTuple):
    """A part with a heading."""

    title: str
    blocks: Sequence[Block]

    @property
    def anchor(self) -> str:
        """Its address within the page."""
        return "-".join(self.title.lower().split())


class Page(NamedTuple):
    """A report."""

    title: str
    subtitle: str
    answer: Sequence[Line]
    sections: Sequence[Section]
    result: str
    """Name of the result file"""


def to_html(page: Page) -> str:
    """One file that needs no other and no network."""
    environment = Environment(loader=PackageLoader("asap"), autoescape=True, trim_blocks=True,
                              lstrip_blocks=True, undefined=StrictUndefined)  # fmt: skip
    environment.filters |= {"cell": _cell, "sentence": _sentence}
    return environment.get_template("align.html").render(page=page)


def _cell(text: str) -> Markup:
    """A cell whose interval stands back behind its value."""
    value, bracket, ends = text.partition(" [") if " [" in text else text.partition(" (")
    if not bracket or text[-1] not in "])":
        return escape(text)
    return Markup('{} <span class="ends">{}{}</span>').format(value, bracket.strip(), ends)


def _sentence(text: str) -> Markup:
    """A sentence whose figures are not torn from their units and intervals."""
    parts = _FIGURE.split(text)
    return Markup("").join(
        Markup('<span class="figure">{}</span>').format(part) if place % 2 else escape(part)
        for place, part in enumerate(parts)
    )


def to_markdown(page: Page) -> str:
    """The same without charts; pictures are links."""
    parts = [f"# {_marked(page.title)}", _marked(page.subtitle)]
    lines = [
        f"{number}. **{_marked(line.question)} {_marked(line.verdict)}** "
        + " ".join(_marked(detail) for detail in line.details)
        + (f" *({page.result}: {_marked(line.source)})*" if line.source else "")
        for number, line in enumerate(page.answer, start=1)
    ]
    parts.append("\n".join(lines))
    for section in page.sections:
        parts.append(f"## {_marked(section.title)}")
        parts += [text for block in section.blocks if (text := _block(block, page.result))]
    return "\n\n".join(parts) + "\n"


def _block(block: Block, result: str) -> str:
    """Empty for charts: their figures stand in tables."""
    if isinstance(block, Text):
        return _marked(block.text)
    if isinstance(block, Items):
        return "\n".join(f"- {_marked(line)}" for line in block.lines)
    if isinstance(block, Images):
        files = [Link(image.title, image.path) for image in block.images if image.path]
        links = "\n".join(f"- {_marked(file)}" for file in files)
        return links if block.table is None else _block(block.table, result)
    table = block.table if isinstance(block, Fold) else block
    rows = [table.columns, ["---"] * len(table.columns), *table.rows]
    lines = ["| " + " | ".join(_marked(cell) or " " for cell in row) + " |" for row in rows]
    title = [f"**{_marked(table.title)}**", ""] if table.title else []
    return "\n".join([*title, *lines, "", f"*{result}: {_marked(table.source)}*"])


def _marked(text: str | Link) -> str:
    """Text that neither ends a cell nor becomes HTML."""
    if isinstance(text, Link):
        return f"[{_marked(text.label)}]({text.href})"
    clean = " ".join(text.split())
    for sign in ("\\", "|", "*", "<", "`", "~", "]("):
        clean = clean.replace(sign, f"\\{sign}")
    return clean
