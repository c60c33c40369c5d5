"""Change the code in many small ways, one at a time, and count which changes the tests notice: `make mutants`.

python benchmarks/mutants.py agents/sac.py agents/hnpg [--mutants 20] [--seed 0] [--fresh]

Mutants are drawn at random, the same for the same seed and code. They are made in a copy of the checkout under
build/mutants. Each meets those tests that run its lines, the quickest first, of the tests that benchmarks/mutants.yaml
names for the file. What was drawn and what became of it: benchmarks/results/mutants.json, shown on
docs/guides/mutants.md. Survivors of an earlier run meet the tests again; the rest are not repeated while the file is
the same.
"""

from __future__ import annotations

import compileall
import hashlib
import json
import math
import os
import py_compile
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
import yaml
from mutations import Mutant, draw, places
from record import STARTED, record_job, results_of

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "mutants"
PACKAGES = ("agents", "envs", "evaluation", "offline_data", "training", "configs")
NAME = "mutants"


@dataclass
class Options:
    """Which mutants to make."""

    modules: tyro.conf.Positional[tuple[str, ...]] = ()
    """Files, or folders for every file in them; none: all that mutants.yaml names."""
    mutants: int | None = None
    """Mutants of each file; None: 1.5·√(places that can be changed), from 6 to 25."""
    seed: int = 0
    """Seed of what is drawn."""
    fresh: bool = False
    """Repeat everything, also what was noticed in an earlier run."""


def main(options: Options) -> int:
    """Run and record; return 1 for a module that is not there, or tests that fail without any change."""
    config, began = yaml.safe_load((ROOT / "benchmarks" / "mutants.yaml").read_text()), time.perf_counter()
    try:
        modules = chosen(options.modules, config)
        tree = copy_checkout()
        with Tester(tree) as tester:
            for tests, files in by_tests(modules, config).items():
                measured = tester.measure(tests, files)
                for file in files:
                    done = run_module(file, tests, measured, tester, options)
                    record_job(NAME, file, done, began=began, seeds=[options.seed])
                    print(f"{file}: {summary(done)}", file=sys.stderr, flush=True)
    except ValueError as error:
        print(f"mutants: {error}", file=sys.stderr)
        return 1
    return 0


# --- what is run ------------------------------------------------------------------------------------------------------


def chosen(named: tuple[str, ...], config: dict[str, Any]) -> list[str]:
    """Return the files, relative to the checkout; `ValueError` for one that is not there or that no tests are for."""
    files: dict[str, None] = {}
    for name in named or config["modules"]:
        path = ROOT / name
        found = [path] if path.suffix == ".py" else sorted(path.rglob("*.py"))
        if not path.exists() or not found:
            raise ValueError(f"there is no {name} here; name a file or a folder, such as agents/sac.py")
        names = [str(file.relative_to(ROOT)) for file in found if file.name != "__init__.py"]
        files |= dict.fromkeys(x for x in names if x not in config["left_out"] or x in named)
    for file in files:
        tests_of(file, config)
    return list(files)


def tests_of(file: str, config: dict[str, Any]) -> tuple[str, ...]:
    """Return the tests of a file: those of the longest entry that it lies within."""
    entries = [entry for entry in config["modules"] if file == entry or file.startswith(f"{entry}/")]
    if not entries:
        raise ValueError(f"benchmarks/mutants.yaml names no tests for {file}; add it there")
    return tuple(config["modules"][max(entries, key=len)])


def by_tests(files: list[str], config: dict[str, Any]) -> dict[tuple[str, ...], list[str]]:
    """Return the files by their tests, which then are measured once."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for file in files:
        groups.setdefault(tests_of(file, config), []).append(file)
    return groups


def run_module(file: str, tests: tuple[str, ...], measured: Any, tester: Tester, options: Options) -> dict[str, Any]:
    """Return what became of the mutants of a file."""
    source = (tester.tree / file).read_text(encoding="utf-8")
    found = places(source)
    count = options.mutants or min(25, max(6, round(1.5 * math.sqrt(len(found)))))
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    before = {} if options.fresh else earlier(file, digest)
    mutants = []
    for mutant in draw(source, count, f"{options.seed} {file}"):
        outcome = before.get(key(mutant)) or tester.outcome(file, source, mutant, measured)
        print(f"{file}:{mutant.line}: {mutant.before}  ->  {mutant.after}: {outcome}", file=sys.stderr, flush=True)
        fields = {"line": mutant.line, "where": mutant.where, "before": mutant.before, "after": mutant.after}
        mutants.append(fields | {"outcome": outcome})
    return {
        "places": len(found),
        "tests": list(tests),
        "digest": digest,
        "commit": STARTED["commit"],
        "mutants": mutants,
    }


def earlier(file: str, digest: str) -> dict[tuple[Any, ...], str]:
    """Return what an earlier run of the same file noticed."""
    done = results_of(NAME).get(file, {"digest": "", "mutants": []})
    if done["digest"] != digest:
        return {}
    noticed = [each for each in done["mutants"] if each["outcome"] in ("killed", "timed out")]
    return {(each["line"], each["before"], each["after"]): each["outcome"] for each in noticed}


def key(mutant: Mutant) -> tuple[Any, ...]:
    return mutant.line, mutant.before, mutant.after


def summary(done: dict[str, Any]) -> str:
    counts = Counter(each["outcome"] for each in done["mutants"])
    return f"{len(done['mutants'])} of {done['places']} places; " + ", ".join(f"{n} {x}" for x, n in counts.items())


# --- where ------------------------------------------------------------------------------------------------------------


def copy_checkout() -> Path:
    """Return a copy of every file that git does not ignore, with a folder `lib` that Surefoot is imported from."""
    tree = BUILD / "tree"
    shutil.rmtree(BUILD, ignore_errors=True)
    listing = subprocess.run(["git", "ls-files", "-z", "-co", "--exclude-standard"], cwd=ROOT, check=True, stdout=-1)
    for name in filter(None, listing.stdout.decode().split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name)
    package = tree / "lib" / "surefoot"
    shutil.copytree(tree / "api", package)
    for name in PACKAGES:
        (package / name).symlink_to(tree / name)
    # Compiled files that hold the hash of their source: a mutant of the same size and second is not taken for it.
    compileall.compile_dir(package, quiet=2, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
    return tree


class Tester:
    """A process in the copy that runs tests in forks of itself."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree
        script = str(tree / "benchmarks" / "fork_tests.py")
        environment = os.environ | {"PYTHONPATH": str(tree / "lib"), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen([sys.executable, script], cwd=tree, env=environment, stdin=-1, stdout=-1)

    def __enter__(self) -> Tester:
        return self

    def __exit__(self, *_: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def ask(self, **job: Any) -> int | None:
        """Return the exit code of a run of tests; None if it took longer than `seconds`."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(job | {"log": str(BUILD / "log.txt")}).encode() + b"\n")
        self.process.stdin.flush()
        answer: int | None = json.loads(self.process.stdout.readline())
        return answer

    def measure(self, tests: tuple[str, ...], files: list[str]) -> dict[str, Any]:
        """Return the seconds of each test and, a file, the tests that run each line; `ValueError` where some fail."""
        real = {file: str((self.tree / file).resolve()) for file in files}
        out = BUILD / "measured.json"
        code = self.ask(measure=list(real.values()), paths=tests, out=str(out), seconds=1800)
        if code != 0:
            raise ValueError(f"without any change, {' '.join(tests)} do not pass: see {BUILD / 'log.txt'}")
        measured = json.loads(out.read_text())
        lines = {file: measured["lines"][path] for file, path in real.items()}
        return {"seconds": measured["seconds"], "lines": lines, "paths": tests}

    def outcome(self, file: str, source: str, mutant: Mutant, measured: dict[str, Any]) -> str:
        """Return `killed`, `timed out`, `survived`, or `not reached`, where no test runs its lines."""
        tests = reached(measured, file, mutant.lines)
        if not tests:
            return "not reached"
        path = self.tree / file
        path.write_text(mutant.source, encoding="utf-8")
        try:
            took = [measured["seconds"][test] for test in tests]
            paths = sorted({test.split("::")[0] for test in tests})
            code = self.ask(tests=tests, paths=paths, limit=10 + 8 * max(took), seconds=60 + 8 * sum(took))
        finally:
            path.write_text(source, encoding="utf-8")
        return "timed out" if code is None else "killed" if code else "survived"


def reached(measured: dict[str, Any], file: str, span: tuple[int, int]) -> list[str]:
    """Return the tests that run some line of a statement, the quickest first.

    "" stands for what an import runs, and so for all; "FILE::" for what the tests of a file share.
    """
    lines = measured["lines"][file]
    contexts = {context for line in range(span[0], span[1] + 1) for context in lines.get(str(line), [])}
    tests = sorted(measured["seconds"], key=measured["seconds"].get)
    if "" in contexts:
        return tests
    return [test for test in tests if test in contexts or f"{test.split('::')[0]}::" in contexts]


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options)))
