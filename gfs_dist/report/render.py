"""Pages from templates: as Markdown, or as one HTML file that refers to nothing outside itself.

A page is one template in ``templates/``. Its headings, tables, code and plots are macros of
``markdown.jinja`` or ``html.jinja``, which alone know a format. Names in a report come from files,
which may be anybody's: every macro escapes all that it is given, so that in no page they make a
tag, a link or an image.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from gfs_dist.report.sections import FILTERS

TEMPLATES = Path(__file__).parent / "templates"


def to_markdown(template: str, facts: dict[str, Any]) -> str:
    """The page as Markdown (GitHub's tables); plots by relative path."""
    return _body("markdown", template, facts).strip() + "\n"


def to_html(template: str, facts: dict[str, Any]) -> str:
    """The page as one HTML file; ``facts["title"]`` are words for the browser's tab."""
    body = _body("html", template, facts).strip()
    shell = _templates("html").get_template("shell.jinja")
    return shell.render(title=facts["title"], body=Markup(body)) + "\n"  # noqa: S704 - escaped


def _body(form: str, template: str, facts: dict[str, Any]) -> str:
    templates = _templates(form)
    doc = templates.get_template(f"{form}.jinja").module
    return templates.get_template(f"{template}.jinja").render(facts, doc=doc)


@cache
def _templates(form: str) -> Environment:
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=form == "html",  # noqa: S701 - Markdown is escaped by its own macros
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        extensions=["jinja2.ext.do"],
    )
    templates.filters |= {**FILTERS, "line": _line, "fence": _fence, "inline": _inline}
    templates.globals |= FILTERS
    return templates


def _line(words: str) -> str:
    """One line, in which nothing begins a tag, and no bracket ends the words of a link."""
    line = " ".join(words.splitlines())
    line = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", line)  # also between backticks: they may not pair
    return re.sub(r"\](?=[(\[:])", r"]\\", line)


def _fence(words: str) -> str:
    """Backticks around a block of code, more than there are in it."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", words)), default=0))


def _inline(words: str) -> Markup:
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(words))))  # noqa: S704 - escaped
