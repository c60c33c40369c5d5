"""The site of `make docs`: whole, strict, readable without a network, and the same text as on GitHub."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(page.relative_to(DOCS) for page in DOCS.rglob("*.md"))
EQUATION = re.compile(r"\$\$.*?\$\$", re.DOTALL)
INLINE = re.compile(r"(```.*?```|`[^`\n]*`)|(\$[^$\n]+(?:\n[^$\n]+)?\$)", re.DOTALL)  # code first: it may have a $
FETCHED = {"link": "href", "script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site once, also where several processes share the tests; `.ci/run` has just built it."""
    if "SUREFOOT_SITE" in os.environ:
        return ROOT / os.environ["SUREFOOT_SITE"]
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    built, done = folder / "site", folder / "site.done"
    with open(folder / "site.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            call = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", built]
            environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
            ended = subprocess.run(call, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)
            assert ended.returncode == 0, ended.stdout + ended.stderr
            done.touch()
    return built


class Reader(HTMLParser):
    """Collects what a page loads, where it leads and which anchors it has."""

    def __init__(self, page: Path):
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.anchors |= {found[name] for name in ("id", "name") if found.get(name)}
        if FETCHED.get(tag) in found and found.get("rel") not in ("prev", "next", "canonical"):
            self.loads.append(found[FETCHED[tag]])
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])


@pytest.fixture(scope="module")
def pages(site):
    return {page: Reader(page) for page in sorted(site.rglob("*.html")) if page.name != "404.html"}


def article(site: Path, page: Path) -> str:
    text = (site / page.with_suffix(".html")).read_text(encoding="utf-8")
    return text[text.index("<article") : text.index("</article>")]


def test_search_knows_pages_sections_equations_and_the_api(site):
    found = {entry["location"] for entry in json.loads((site / "search" / "search_index.json").read_text())["docs"]}
    assert {page.with_suffix(".html").as_posix() for page in PAGES} <= found
    assert {"guides/uncertainty_sets.html#own-sets", "reference/index.html#surefoot.train"} <= found
    assert "reference/agents/h2o.html#surefoot.agents.h2o.importance_weight" in found
    assert (site / "search" / "search_index.js").read_text().startswith("var __index = {")  # what a page on disk reads


def test_nothing_is_fetched_and_every_image_is_there(site, pages):
    loads = {(page, address) for page, reader in pages.items() for address in reader.loads}
    assert not {address for _, address in loads if re.match(r"(\w+:)?//", address)}
    assert not {address for page, address in loads if not (page.parent / unquote(address).partition("?")[0]).is_file()}
    sheets = "".join(sheet.read_text(encoding="utf-8") for sheet in site.rglob("*.css"))
    assert not re.findall(r"@import[^;]*//|url\(\s*['\"]?(?:https?:)?//[^)]*", sheets)
    images = {image.relative_to(DOCS) for image in (DOCS / "images").rglob("*.png")}
    assert images
    assert all((site / image).is_file() for image in images)


def test_every_link_and_anchor_leads_somewhere(pages):
    broken = []
    for page, reader in pages.items():
        for link in reader.links:
            path, _, anchor = unquote(link).partition("#")
            if re.match(r"\w+:", link):
                continue
            target = (page.parent / path).resolve() if path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (anchor and target in pages and anchor not in pages[target].anchors | {"__top"}):
                broken.append((page.name, link))
    assert not broken


@pytest.mark.parametrize("page", [page for page in PAGES if page.parts[0] == "derivations"], ids=str)
def test_every_equation_is_shown_under_its_number(site, page):
    source, shown = (DOCS / page).read_text(encoding="utf-8"), article(site, page)
    equations = EQUATION.findall(source)
    assert len(equations) == shown.count('<div class="equation"') > 10
    for number in re.findall(r"\\tag\{(.*?)\}", source):
        assert f'id="eq-{number}"' in shown
        assert f'<a href="#eq-{number}">({number})</a></div>' in shown
    assert not re.search(r"arithmatex|\\\(|\$\$|<merror", re.sub(r"<(code|pre).*?</\1>", "", shown, flags=re.DOTALL))


def test_a_docstring_leads_to_the_equations_of_its_derivation(pages, site):
    assert "../../derivations/h2o.html#eq-3.7" in pages[site / "reference" / "agents" / "h2o.html"].links


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_lists_tables_and_emphasis_are_those_that_github_shows(site, page):
    def counted(html: str) -> Counter[str]:
        return Counter(re.findall(r"<(li|ul|ol|tr|td|pre|blockquote|em|strong)\b", html))

    source, code = EQUATION.sub("<b></b>", (DOCS / page).read_text(encoding="utf-8")), []
    source = re.sub(
        r"```.*?```|`[^`\n]*`", lambda found: f"\0{code.append(found[0]) or len(code) - 1}\0", source, flags=re.DOTALL
    )
    source = re.sub(r"\$[^$\n]+(\n[^$\n]+)?\$", "equation", source)
    source = re.sub(r"\0(\d+)\0", lambda found: code[int(found[1])], source)
    assert counted(article(site, page)) == counted(MarkdownIt("commonmark").enable("table").render(source))
