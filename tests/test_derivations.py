"""The derivations and what refers to them: every section, equation, label, pitfall and name is there.

A reference is the address of a page followed by a section (§), an equation (eq.), a label (a letter and a number) or a
pitfall; several may follow one address. Where a file names a single page, the address can be left out. Equation numbers
stand bare in the pages themselves and in the column "derivation" of a table.
"""

from __future__ import annotations

import dataclasses
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest

from surefoot import agents

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("agents", "envs", "evaluation", "training", "offline_data", "configs", "tests", "benchmarks", "docs")
KINDS = {".py", ".yaml", ".md"}
AND = r"(?:,?\s+(?:and|to|or)\s+|,\s+)"
NUMBER = r"\([1-9]\d?\.[1-9]\d?\)"
TOKENS = (
    r"derivations/(?P<page>\w+)\.md",
    r"§§?\s?(?P<sections>\d+(?:\.\d+)*)",
    rf"(?:[Ee]qs?\.|[Ee]quations?)\s+(?P<equations>{NUMBER}(?:{AND}{NUMBER})*)",
    rf"[Pp]itfalls?\s+(?P<pitfalls>\d+(?:{AND}\d+)*)",
    r"(?<![\w.])(?P<labels>[A-Z]\d{1,2})(?!\w)",
)
PROSE = re.compile("|".join(TOKENS))
BARE = re.compile("|".join((*TOKENS, rf"(?P<numbers>{NUMBER})")))
BETWEEN = re.compile(r"(?:[\s,;:()\[\]`]|\b(?:and|to|or)\b)*")  # two references, the second with the page of the first
WORD = re.compile(r"(?<![a-z])br" + r"ief(?![a-z])", re.IGNORECASE)  # what the derivations were written from


class Page(NamedTuple):
    """What a derivation has to be referred to."""

    titles: dict[str, str]  # by the numbers of the sections
    tags: list[tuple[str, str]]  # chapter and number of every equation
    labels: frozenset[str]
    pitfalls: frozenset[str]

    @property
    def sections(self) -> frozenset[str]:
        return frozenset(self.titles)

    @property
    def equations(self) -> frozenset[str]:
        return frozenset(number for _, number in self.tags)

    @property
    def letters(self) -> frozenset[str]:
        """With which labels begin."""
        return frozenset(label[0] for label in self.labels)


def parse_page(text: str) -> Page:
    """Return the numbered headings, tags, labels and numbered pitfalls of a page, those in code left out."""
    titles: dict[str, str] = {}
    tags, labels, pitfalls = [], set(), set()
    section = ""
    for line in re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE).splitlines():
        if heading := re.match(r"#{2,} (\d+(?:\.\d+)*)\.? (.+)", line):
            section = heading[1]
            titles[section] = heading[2].lower()
        tags += [(section.split(".")[0], tag) for tag in re.findall(r"\\tag\{([^}]*)\}", line)]
        labels |= set(re.findall(r"\*\*([A-Z]\d+)\*\*", line)) | set(re.findall(r"^\| ([A-Z]\d+) \|", line))
        labels |= set(re.findall(r"\*\*[A-Z]\d+\*\* \(([A-Z]\d+)\)", line))  # its name in other writings
        if "pitfalls" in titles.get(section, "") and (item := re.match(r"(\d+)\. ", line)):
            pitfalls.add(item[1])
    return Page(titles, tags, frozenset(labels), frozenset(pitfalls))


PAGES = {path.stem: parse_page(path.read_text("utf-8")) for path in sorted(ROOT.glob("docs/derivations/*.md"))}


def scanned(*suffixes: str) -> list[Path]:
    """Return the files that may refer to a derivation."""
    left_out = (Path(__file__).resolve(), *(ROOT / "docs" / "hooks").glob("*"))  # examples of how references look
    found = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if path.suffix in suffixes]
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(path for path in found if path not in left_out)]


# --- references -------------------------------------------------------------------------------------------------------


class Reference(NamedTuple):
    page: str | None  # None where it is left out
    kind: str  # sections, equations, labels or pitfalls
    key: str

    def __str__(self) -> str:
        return f"{self.page or 'no page'}: {self.kind} {self.key}"


def prose(text: str, *, python: bool) -> str:
    """Return a text without line starts; of Python the comments and strings alone."""
    if python:
        kinds = (tokenize.COMMENT, tokenize.STRING)
        text = "\n".join(t.string for t in tokenize.generate_tokens(io.StringIO(text).readline) if t.type in kinds)
    return re.sub(r"\n[ \t]*(?:#+ ?)?", "\n", text)


def references(text: str, pattern: re.Pattern[str] = PROSE) -> Iterator[Reference]:
    """Yield every reference of a text, of a list or range what is written out."""
    page, end = None, 0
    for match in pattern.finditer(text):
        if not BETWEEN.fullmatch(text, end, match.start()):
            page = None
        kind, end = str(match.lastgroup), match.end()
        if kind == "page":
            page = match["page"]
        else:
            for key in re.findall(r"[A-Z]?\d+(?:\.\d+)*", match[kind]):
                yield Reference(page, kind.replace("numbers", "equations"), key)


def tables(text: str, column: str) -> Iterator[dict[str, str]]:
    """Yield the rows of all tables that have the column; `ValueError` for a row with another number of cells."""
    names: list[str] = []
    for line in text.replace(r"\|", "¦").splitlines():
        cells = [cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
        if not line.strip().startswith("|"):
            names = []
        elif names and not re.fullmatch(r"[-: ]+", cells[0]):
            if len(cells) != len(names):
                raise ValueError(f"{len(cells)} cells for {len(names)} columns: {line}")
            yield dict(zip(names, cells, strict=True))
        elif not names and column in cells:
            names = cells


def all_references(text: str, *, python: bool, bare: bool) -> set[Reference]:
    cells = (reference for row in tables(text, "derivation") for reference in references(row["derivation"], BARE))
    return {*references(prose(text, python=python), BARE if bare else PROSE), *cells}


def resolve(text: str, *, python: bool = False, own: str | None = None) -> tuple[set[Reference], set[Reference]]:
    """Return the references that lead somewhere and those that do not; `own` is the name of a page itself."""
    found = all_references(text, python=python, bare=own is not None)
    named = set(re.findall(r"derivations/(\w+)\.md", text))
    only = own or (min(named) if len(named) == 1 else None)
    letters = {letter for name in named | {own} if name in PAGES for letter in PAGES[name].letters}
    meant = {r for r in found if r.page or r.kind != "labels" or r.key[0] in letters}  # other letters: a norm, a task
    full = {r._replace(page=r.page or only) for r in meant}
    good = {r for r in full if r.page in PAGES and r.key in getattr(PAGES[r.page], r.kind)}
    lost = {Reference(name, "page", name) for name in named - set(PAGES)}
    return good, (full - good) | lost


def references_of(path: Path) -> tuple[set[Reference], set[Reference]]:
    own = path.stem if path.parent == ROOT / "docs" / "derivations" else None
    return resolve(path.read_text("utf-8"), python=path.suffix == ".py", own=own)


@pytest.mark.parametrize("folder", [*FOLDERS, "README.md", "CONTRIBUTING.md"])
def test_every_reference_leads_somewhere(folder):
    paths = [path for path in scanned(*KINDS) if path.relative_to(ROOT).parts[0] == folder]
    broken = {str(path.relative_to(ROOT)): sorted(map(str, bad)) for path in paths if (bad := references_of(path)[1])}
    assert paths
    assert not broken


def test_every_page_is_referred_to_from_code_tests_and_presets():
    for folder in ("agents", "tests", "configs"):
        paths = [path for path in scanned(*KINDS) if path.relative_to(ROOT).parts[0] == folder]
        followed = [reference.page for path in paths for reference in references_of(path)[0]]
        assert set(followed) == set(PAGES), folder
        assert len(followed) > 50


TOY = r"""
# Toy
## 1. Setting
$$ a \tag{1.1} $$
### 1.1 More
$$ b \tag{1.2} $$
## 2. Answers
- **E1** (P4) One. **B2** Two.
| L3 | three |
```
## 7. In code \tag{7.1} **E9**
```
## 3. Pitfalls
1. One.
"""


@pytest.fixture
def toys(monkeypatch):
    """Two pages, toy and other, in place of the project's."""
    page = parse_page(TOY)
    other = page._replace(titles={"9": "nine"}, labels=frozenset({"E9"}))
    monkeypatch.setitem(globals(), "PAGES", {"toy": page, "other": other})


def test_a_page_is_what_it_says_and_code_in_it_is_not(toys):
    assert PAGES["toy"].sections == {"1", "1.1", "2", "3"}
    assert PAGES["toy"].tags == [("1", "1.1"), ("1", "1.2")]
    assert PAGES["toy"].labels == {"E1", "P4", "B2", "L3"}
    assert PAGES["toy"].pitfalls == {"1"}


@pytest.mark.parametrize(
    ("text", "good", "bad"),
    [
        ("docs/derivations/toy.md §1.1, eq. (1.1) and (1.2), E1, B2; pitfall 1", "1.1 1.1 1.2 E1 B2 1", ""),
        ("see docs/derivations/toy.md\n    # §3", "3", ""),
        ("[d](../derivations/toy.md) §2. Later (§4, eq. (1.3)), E2, pitfalls 1 and 2", "2 1", "4 1.3 E2 2"),
        ("docs/derivations/toy.md: eqs. (1.1) to (1.4)", "1.1", "1.4"),
        ("docs/derivations/toy.md Z1, then Z2 of a paper", "", "Z1"),
        ("docs/derivations/none.md", "", "none"),
        ("docs/derivations/toy.md §1, docs/derivations/other.md §9, E9", "1 9 E9", ""),
        ("docs/derivations/toy.md §1, docs/derivations/other.md §1", "1", "1"),
        ("docs/derivations/toy.md and docs/derivations/other.md; later §1", "", "1"),
        ("of no page: §1.1, eq. (1.1), pitfall 1, E1", "", "1.1 1.1 1"),
        ("docs/derivations/toy.md and a paper's eq. (16), v2, 1E5, float32", "", ""),
        ("| derivation | paper |\n|---|---|\n| docs/derivations/toy.md (1.1), §2 | (8.8) |", "1.1 2", ""),
        ("docs/derivations/toy.md\n\n| derivation |\n|---|\n| (1.2) to (1.5) |", "1.2", "1.5"),
    ],
)
def test_references_are_followed(toys, text, good, bad):
    found = resolve(text)
    assert tuple(sorted(r.key for r in part) for part in found) == (sorted(good.split()), sorted(bad.split()))


def test_of_python_comments_and_strings_are_read(toys):
    source = '"""docs/derivations/toy.md §1"""\nE7 = 1\nx = E7  # E8\n'
    assert [{r.key for r in part} for part in resolve(source, python=True)] == [{"1"}, {"E8"}]


def test_a_page_need_not_name_itself_and_its_equation_numbers_stand_bare(toys):
    text = "§1 and §4; (1.1) with (1.9), and 2.9 (0.16), 4 (4.01)"
    assert [{r.key for r in part} for part in resolve(text, own="toy")] == [{"1", "1.1"}, {"4", "1.9"}]


def test_rows_are_those_of_the_tables_that_have_the_column():
    text = "| a | here |\n|---|---:|\n| 1 | `x` |\n| | `y` |\n\n| a | b |\n|---|---|\n| 2 | 3 |"
    assert [row["here"] for row in tables(text, "here")] == ["`x`", "`y`"]


def test_a_row_with_too_many_cells_is_refused():
    with pytest.raises(ValueError, match="3 cells for 2 columns"):
        list(tables("| derivation | here |\n|---|---|\n| π(a|s) | `x` |", "derivation"))


# --- names in header tables -------------------------------------------------------------------------------------------


def name_resolves(name: str, module: str, package: str) -> bool:
    """Whether a name is the module's own, or one relative to its folder, to `surefoot.agents` or to `surefoot`."""
    parts = name.partition("(")[0].split(".")
    return any(follow(start, parts) for start in (module, package, "surefoot.agents", "surefoot"))


def follow(start: str, parts: list[str]) -> bool:
    value = import_module(start)
    for part in parts:
        if not hasattr(value, part) and isinstance(value, ModuleType) and hasattr(value, "__path__"):
            load(f"{value.__name__}.{part}")
        if not hasattr(value, part):
            return False
        value = getattr(value, part)
    return True


@cache
def load(module: str) -> None:
    """Import a module if there is one of this name: it then is an attribute of its package."""
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise


def has_header_table(path: Path) -> bool:
    in_agents = path.relative_to(ROOT).parts[0] == "agents"
    return in_agents and re.search(r"^\|.*\| here \|$", path.read_text("utf-8"), re.MULTILINE) is not None


AGENT_FILES = [path for path in scanned(".py") if has_header_table(path)]


@pytest.mark.parametrize("path", AGENT_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_name_of_a_header_table_resolves(path):
    *folders, stem = path.relative_to(ROOT).with_suffix("").parts
    package = ".".join(("surefoot", *folders))
    module = package if stem == "__init__" else f"{package}.{stem}"
    rows = list(tables(path.read_text("utf-8"), "here"))
    names = [name for row in rows for name in re.findall(r"`([^`]+)`", row["here"])]
    assert {tuple(row) for row in rows} == {("derivation", "paper", "here")}
    assert names
    assert not [name for name in names if not name_resolves(name, module, package)]


def test_there_are_header_tables():
    assert len(AGENT_FILES) > 25


@pytest.mark.parametrize(
    ("name", "resolves"),
    [
        ("H2O.critic_loss", True),
        ("sac.soft_target", True),
        ("parts.networks.StackedMLP(layer_norm=True)", True),
        ("hnpg.exact", True),
        ("envs.termination.never", True),
        ("H2O.nothing", False),
        ("soft_target", False),
        ("parts.nothing.log_ratio", False),
        ("nothing", False),
    ],
)
def test_names_are_followed(name, resolves):
    assert name_resolves(name, "surefoot.agents.h2o", "surefoot.agents") == resolves


# --- the pages --------------------------------------------------------------------------------------------------------

REQUIRED = ("hyper-parameters", "exact answers", "pitfalls", "what is reconstructed")


def faults(page: Page) -> list[str]:
    """Return the sections that a page lacks and the tags that are not 1, 2, … within their chapter."""
    chapters = dict.fromkeys(chapter for chapter, _ in page.tags)
    numbers = {chapter: [tag for within, tag in page.tags if within == chapter] for chapter in chapters}
    wrong = [
        f"tag {tag}" for chapter, tags in numbers.items() for i, tag in enumerate(tags, 1) if tag != f"{chapter}.{i}"
    ]
    return [title for title in REQUIRED if title not in page.titles.values()] + wrong


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_the_sections_and_numbers_its_equations(name):
    page = PAGES[name]
    assert not faults(page)
    assert len(page.equations) == len(page.tags) > 20
    assert len(page.pitfalls) > 5
    assert "E1" in page.labels


def test_faults_of_a_page_are_seen():
    good = "".join(f"## {i}. {title.capitalize()}\n\\tag{{{i}.1}}\n" for i, title in enumerate(REQUIRED, 1))
    assert not faults(parse_page(good))
    assert faults(parse_page(good.replace("Pitfalls", "Traps"))) == ["pitfalls"]
    assert faults(parse_page(good.replace("{2.1}", "{1.2}"))) == ["tag 1.2"]
    assert faults(parse_page(good + "\\tag{4.1}")) == ["tag 4.1"]
    assert faults(parse_page(good + "\\tag{4.3}")) == ["tag 4.3"]


# --- one word ---------------------------------------------------------------------------------------------------------


def derivation_of(agent: str) -> str | None:
    """Return the page that the module of an agent names first, None where it names none."""
    module = agents.REGISTRY[agent].split(":")[0].removeprefix("surefoot.")
    found = re.search(r"derivations/(\w+)\.md", (ROOT / f"{module.replace('.', '/')}.py").read_text("utf-8"))
    return found[1] if found else None


@pytest.mark.parametrize("agent", [name for name in agents.REGISTRY if derivation_of(name)])
def test_every_hyper_parameter_of_an_agent_stands_in_its_derivation(agent):
    text = (ROOT / "docs" / "derivations" / f"{derivation_of(agent)}.md").read_text("utf-8")
    section = re.search(r"^## \d+\. Hyper-parameters.*?(?=^## )", text, re.M | re.S)
    assert section
    named = {name for span in re.findall(r"`([^`\n]+)`", section[0]) for name in re.findall(r"\w+", span)}
    assert not {field.name for field in dataclasses.fields(agents.get(agent).default)} - named


def test_no_file_speaks_of_what_the_derivations_were_written_from():
    said = {str(path.relative_to(ROOT)) for path in scanned(*KINDS, ".json") if WORD.search(path.read_text("utf-8"))}
    word = "br" + "ief"
    assert not said
    assert all(map(WORD.search, (f"(the {word}, 4.1)", f"as_the_{word}_says", word.title())))
    assert not WORD.search(f"{word}ly")
