"""Turns LaTeX into MathML when the site is built: the reader's browser loads and computes nothing.

`pymdownx.arithmatex` finds `$…$` and `$$…$$`, as GitHub does. An equation with `\\tag{3.2}` has the anchor `eq-3.2`.
Where a page says (3.2) or §3, this becomes a link: into the page itself, or into the derivation that it names.
"""

from __future__ import annotations

import html
import re

from math_core import LatexError, LatexToMathML
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page
from mkdocs.utils import get_relative_url

MATHML = LatexToMathML(allow_unreliable_rendering=True, fancy_error=False)  # unreliable is \widetilde
INLINE = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
DISPLAYED = re.compile(r'<div class="arithmatex">\\\[(.*?)\\\]</div>', re.DOTALL)
TAG = re.compile(r"\s*\\tag\{(.*?)\}")
ANCHOR = re.compile(r'id="(eq-([\d.]+))"|<h[2-4] id="([^"]+)">(\d+(?:\.\d+)*)')
CLOSED = re.compile(r"(<(a|code|pre|math|h\d)\b.*?</\2>|<[^>]+>)", re.DOTALL)  # no links are made inside of these
NUMBER = re.compile(r"\((\d+\.\d+)\)|§\d+(?:\.\d+)*")
DERIVATION = re.compile(r'(?:docs/|href="\.\./)(derivations/\w+)\.(?:md|html)')
PAGE = re.compile(r"(?:<code>)?docs/([\w/]+\.md)(?:</code>)?")

anchors: dict[str, dict[str, str]] = {}  # page -> number as it is written -> anchor


def on_page_content(content: str, page: Page, files: Files, **_: object) -> str:
    """Return the HTML of a page with its equations, their numbers and the links."""
    content = INLINE.sub(lambda found: inline(found[1], page), content)
    content = DISPLAYED.sub(lambda found: displayed(found[1], page), content)
    source = page.file.src_uri
    anchors[source] = {f"({e})" if e else f"§{s}": f"#{a or b}" for a, e, b, s in ANCHOR.findall(content)}
    if not anchors[source] and (named := DERIVATION.search(content)):
        source = f"{named[1]}.md"  # read before: MkDocs goes by name
    known = anchors.get(source, {})
    parts = CLOSED.split(content)
    del parts[2::3]  # the names of the tags
    for i, part in enumerate(parts):
        if i % 2 == 0:  # text
            part = NUMBER.sub(lambda found: linked(found, source, page, files, known.get(found[0])), part)
        if i % 2 == 0 or part.startswith("<code>docs/"):
            part = PAGE.sub(lambda found: linked(found, found[1], page, files, ""), part)
        parts[i] = part
    return "".join(parts)


def linked(found: re.Match[str], uri: str, page: Page, files: Files, anchor: str | None) -> str:
    """Return what was found as a link to a page, if there are both."""
    if anchor is None or uri not in files.src_uris:
        return found[0]
    url = "" if uri == page.file.src_uri else get_relative_url(files.src_uris[uri].url, page.url)
    return f'<a href="{url}{anchor}">{found[0]}</a>'


def mathml(tex: str, page: Page, alone: bool = False) -> str:
    tex = html.unescape(tex).strip()
    try:
        return MATHML.convert_with_local_state(tex, displaystyle=alone)
    except LatexError as error:
        raise PluginError(f"{page.file.src_uri}: {error} in {tex}") from error


def inline(tex: str, page: Page) -> str:
    """Return an equation within a line; browsers do not break it, so a long one must be able to scroll."""
    return f'<span class="long">{mathml(tex, page)}</span>' if len(tex) > 40 else mathml(tex, page)


def displayed(tex: str, page: Page) -> str:
    """Return an equation on a line of its own, with its number at the right."""
    math, tag = f'<div class="math">{mathml(TAG.sub("", tex), page, alone=True)}</div>', TAG.search(tex)
    if not tag:
        return f'<div class="equation">{math}</div>'
    return f'<div class="equation" id="eq-{tag[1]}">{math}<a href="#eq-{tag[1]}">({tag[1]})</a></div>'
