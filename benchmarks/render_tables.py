"""Render the tables of README.md and docs/ from benchmarks/results/*.json: numbers are never typed.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`, each on a line of its own; NAME is a result file's,
or that of another view of one. What a table looks like is in `tables/`, a module per subject.

    python benchmarks/render_tables.py [--check]
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import tyro
from record import RESULTS
from tables import (
    backbone,
    bandits,
    campaign,
    distributional,
    exploration,
    h2o,
    lipschitz_mbrl,
    policies,
    robust,
    speed,
)
from tables.markdown import Table, key_values, provenance

ROOT = RESULTS.parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
OPENING = re.compile(r"^<!-- table: (\w+) -->$", re.MULTILINE)
BLOCK = re.compile(r"^(<!-- table: (\w+) -->)\n(?:(?!<!--).*\n)*?<!-- end -->$", re.MULTILINE)
SUBJECTS = (h2o, backbone, robust, exploration, distributional, lipschitz_mbrl, bandits, policies, speed, campaign)
RENDERERS: dict[str, Table] = {k: v for subject in SUBJECTS for k, v in subject.TABLES.items()}
VIEWS = {  # tables that are another view of a result file
    "iwocs_ablations": "iwocs",
    "simulator_gap_pairs": "simulator_gap",
    "simulator_gap_corrections": "simulator_gap",
}


def main(check: bool = False) -> int:
    """Bring every table up to date and return 0.

    Args:
        check: write nothing; return 1 and name the pages where a table differs from its result file.
    """
    stale = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        if (fresh := rendered(text, str(page))) != text:
            stale += 1
            print(f"{page.relative_to(ROOT)}: {'stale; run benchmarks/render_tables.py' if check else 'rendered'}")
            if not check:
                page.write_text(fresh, encoding="utf-8")
    return int(check and stale > 0)


def rendered(text: str, where: str, results: Path = RESULTS) -> str:
    """Return a page with every table replaced; `ValueError` for a table that is not closed."""
    blocks = [match.group(2) for match in BLOCK.finditer(text)]
    if (opened := OPENING.findall(text)) != blocks:
        raise ValueError(f"{where}: tables {opened} are opened, {blocks} closed by a line <!-- end -->")
    return BLOCK.sub(lambda match: f"{match.group(1)}\n{table_of(match.group(2), results)}\n<!-- end -->", text)


def table_of(name: str, results: Path) -> str:
    """Return the Markdown of one result file, or of a view of it."""
    path = results / f"{VIEWS.get(name, name)}.json"
    if not path.is_file():
        return f"*Not measured yet: there is no `benchmarks/results/{path.name}`.*"
    result = json.loads(path.read_text(encoding="utf-8"))
    return f"{RENDERERS.get(name, key_values)(result)}\n\n{provenance(result)}"


if __name__ == "__main__":
    sys.exit(tyro.cli(main))
