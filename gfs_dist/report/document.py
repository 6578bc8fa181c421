"""A page as a list of blocks, written as Markdown or as one self-contained HTML file."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import PurePosixPath

from gfs_dist.report import text as words


@dataclass(frozen=True)
class Heading:
    """A heading of level 1 (the title) to 3."""

    level: int
    text: str


@dataclass(frozen=True)
class Paragraph:
    """Running text; parts between backticks are code."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """Lines that stand for themselves."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """A table of finished words; every row is as long as the header.

    The first column stands left, the others right (they are numbers) unless ``text`` is true.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    text: bool = False

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.header) for row in self.rows)

    @classmethod
    def of(cls, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
        """A table without the columns that hold nothing."""
        kept = [i for i in range(len(header)) if any(row[i] != words.NOTHING for row in rows)]
        return cls([header[i] for i in kept], [[row[i] for i in kept] for row in rows])


@dataclass(frozen=True)
class Code:
    """Text to be copied as it stands."""

    text: str


@dataclass(frozen=True)
class Plot:
    """An image file, relative to the page, and what it shows."""

    file: str
    caption: str


Block = Heading | Paragraph | Bullets | Table | Code | Plot

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 1060px; margin: 2rem auto;
  padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem;
  border-bottom: 1px solid #ccc; padding-bottom: .2rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; border-bottom: 1px solid #ddd; text-align: right;
  white-space: nowrap; }
th { border-bottom: 2px solid #888; vertical-align: bottom; white-space: normal;
  overflow-wrap: normal; }
.text td { white-space: normal; }
@media print { .scroll { overflow-x: visible; } td { white-space: normal; } }
th:first-child, td:first-child, .text th, .text td { text-align: left; }
code, pre { font: .88em/1.45 ui-monospace, monospace; background: #f4f4f4; border-radius: 3px; }
code { padding: .1em .3em; } pre { padding: .8rem; overflow-x: auto; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; }
figcaption { color: #555; font-size: .9rem; }
"""


def to_markdown(blocks: Sequence[Block]) -> str:
    """The page as Markdown (GitHub's tables); plots by relative path.

    Names come from files, which may be anybody's: in them there are no tags, links or images.
    """
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def to_html(title: str, blocks: Sequence[Block], images: Mapping[str, bytes]) -> str:
    """The page as one HTML file that refers to nothing outside itself.

    Args:
        title: words for the browser's tab.
        blocks: the page.
        images: PNG bytes by the ``file`` of each Plot.
    """
    body = "\n".join(_html(block, images) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _markdown(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {_plain(text)}"
        case Paragraph(text):
            return _plain(text)
        case Bullets(items):
            return "\n".join(f"- {_plain(item)}" for item in items)
        case Table(header, rows, text):
            marks = [":--", *[":--" if text else "--:"] * (len(header) - 1)]
            return "\n".join(_markdown_row(row) for row in (header, marks, *rows))
        case Code(text):
            longest = max(map(len, re.findall("`+", text)), default=0)
            fence = "`" * max(3, longest + 1)
            return f"{fence}\n{text.rstrip()}\n{fence}"
        case Plot(file, caption):
            return f"![{_name(file)}]({file})\n\n*{caption}*"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_plain(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _plain(text: str) -> str:
    """One line, in which nothing begins a tag, and no bracket ends the words of a link."""
    line = " ".join(text.splitlines())
    line = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", line)  # also between backticks: they may not pair
    return re.sub(r"\](?=[(\[:])", r"]\\", line)


def _html(block: Block, images: Mapping[str, bytes]) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{_inline(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_inline(text)}</p>"
        case Bullets(items):
            return f"<ul>{_tags('li', items, _inline)}</ul>"
        case Table(header, rows, text):
            head = f"<tr>{_tags('th', header, _inline)}</tr>"
            body = "\n".join(f"<tr>{_tags('td', row, _inline)}</tr>" for row in rows)
            return (
                f'<div class="scroll"><table{" class=text" * text}>\n{head}\n{body}\n</table></div>'
            )
        case Code(text):
            return f"<pre>{escape(text.rstrip())}</pre>"
        case Plot(file, caption):
            data = base64.b64encode(images[file]).decode("ascii")
            return (
                f'<figure><img alt="{escape(_name(file))}" src="data:image/png;base64,{data}">'
                f"<figcaption>{_inline(caption)}</figcaption></figure>"
            )


def _name(file: str) -> str:
    """What a plot is, for who cannot see it; its caption follows."""
    return PurePosixPath(file).stem.replace("_", " ")


def _tags(tag: str, items: Sequence[str], write: Callable[[str], str]) -> str:
    return "".join(f"<{tag}>{write(item)}</{tag}>" for item in items)


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
