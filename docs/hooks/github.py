"""Lets Python-Markdown read a page as GitHub does, so that one text is right in both places."""

from __future__ import annotations

import re

from markdown import Extension, Markdown
from markdown.inlinepatterns import HtmlInlineProcessor
from markdown.preprocessors import Preprocessor
from mkdocs.config.defaults import MkDocsConfig

ITEM = re.compile(r"([-*+]|\d+[.)]) +")
TAG = r"(<(?:/?[a-zA-Z][a-zA-Z0-9-]*(?:\s[^<>]*)?/?|!--(?:(?!--).)*--)>)"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    config.markdown_extensions.append(GitHub())  # type: ignore[arg-type]
    return config


class GitHub(Extension):
    """Lists and equations by GitHub's rules; no emphasis by underscores (x̄_t); <h, u>, which is no tag, is text."""

    def extendMarkdown(self, md: Markdown) -> None:
        md.preprocessors.register(Blocks(md), "blocks", 24)  # fenced code was put away before, at 25
        md.delimiters.remove("_")
        md.inlinePatterns.register(HtmlInlineProcessor(TAG, md), "html", 90)


class Blocks(Preprocessor):
    """Puts lists and equations as Python-Markdown wants them: blank lines around, four spaces for each level.

    What belongs to an item is indented as far as its text. A list may follow a paragraph without a blank line if it has
    bullets or begins with 1; an equation may always.
    """

    def run(self, lines: list[str]) -> list[str]:
        out: list[str] = []
        texts: list[int] = []  # columns where the texts of the open items begin, the outermost first
        equation = listed = closed = False
        for line in lines:
            text = line.lstrip(" ")
            indent, after_blank = len(line) - len(text), not (out and out[-1].strip())
            item = None if equation else ITEM.match(text)
            while text and texts and indent < texts[-1] and (item or after_blank):
                texts.pop()
            inner = max(0, indent - (texts[-1] if texts else 0))
            begins = not (texts or after_blank or listed)
            if item and (inner > 3 or (begins and item[1] not in "-*+" and item[1][:-1] != "1")):
                item = None
            opened = not equation and text.startswith("$$")
            if text and not after_blank and ((item and begins) or opened or closed):
                out.append("")
            out.append(text and " " * (4 * len(texts) + (0 if item else inner)) + text)
            if item:
                texts.append(indent + item.end())
            listed = bool(text and (item or listed))
            closed = equation and text.endswith("$$")
            equation ^= text.count("$$") % 2 == 1
        return out
