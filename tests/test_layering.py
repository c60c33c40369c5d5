"""Who knows whom (CONTRIBUTING.md): the imports and base classes of every file, read without running any of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("agents", "envs", "evaluation", "offline_data", "training", "configs")
BACKBONE = "sac"  # the one agent whose losses and networks the others may use
SAME_PAPER = {"sb3_bridge": "sb3", "sb3_config": "sb3"}  # one method in three files: one needs an optional package
EVALUATION = tuple(f"surefoot.{name}" for name in ("evaluation", "agents", "envs", "offline_data", "configs"))
CLI, REPORT, SWEEP, SESSION, COMPARISON, LOOP, RUNS, CONFIG = (
    f"surefoot.training.{name}"
    for name in ("cli", "report", "sweep", "session", "comparison", "loop", "runs", "config")
)
# Who may know whom: a module belongs to the longest entry that it lies within.
LAYERS = {
    "train": (CLI,),
    "surefoot": ("surefoot",),  # the public API
    # Each line of training/ knows only those below it, and itself.
    CLI: (CLI, REPORT, SWEEP, SESSION, COMPARISON, LOOP, RUNS, CONFIG, *EVALUATION),
    REPORT: (REPORT, SWEEP, LOOP, RUNS, CONFIG, *EVALUATION),
    SWEEP: (SWEEP, SESSION, LOOP, RUNS, CONFIG, *EVALUATION),
    SESSION: (COMPARISON, LOOP, RUNS, CONFIG, *EVALUATION),
    COMPARISON: (LOOP, RUNS, CONFIG, *EVALUATION),
    LOOP: (LOOP, RUNS, CONFIG, *EVALUATION),
    RUNS: (RUNS, CONFIG, *EVALUATION),
    CONFIG: (CONFIG, *EVALUATION),
    "surefoot.training": (),
    "surefoot.evaluation": EVALUATION,
    # What a state says of its large tensors, and the names of files that are being written.
    "surefoot.evaluation.storage": (
        *("surefoot.agents.parts.blocks", "surefoot.offline_data.files"),
        "surefoot.evaluation.torch_files",
    ),
    "surefoot.agents": ("surefoot.agents",),  # further held by `paper_of`
    "surefoot.agents.interface": (),
    "surefoot.agents.parts": (
        *("surefoot.agents.parts", "surefoot.agents.interface"),
        *("surefoot.configs.ranges", "surefoot.configs.memory"),
    ),
    "surefoot.envs": ("surefoot.envs", *(f"surefoot.configs.{m}" for m in ("allowed_modules", "memory", "ranges"))),
    "surefoot.envs.tasks": ("surefoot.envs",),
    "surefoot.offline_data": ("surefoot.offline_data",),
    "surefoot.configs": ("surefoot.configs",),
}
ENVS_ABOVE = ("surefoot.envs.tasks", "surefoot.envs.uncertainty")  # the core of envs/ knows neither


class Import(NamedTuple):
    line: int
    module: str  # dotted, "." in front where relative


def package_files() -> dict[str, Path]:
    """Return every module of the packages, the public API and the entry point by its dotted name."""
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    names = {".".join(("surefoot", *path.relative_to(ROOT).with_suffix("").parts)): path for path in files}
    api = {f"surefoot.{path.stem}": path for path in (ROOT / "api").glob("*.py")}
    entry_points = {"train": ROOT / "train.py"} | api
    return {name.removesuffix(".__init__"): path for name, path in (entry_points | names).items()}


MODULES = package_files()


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(tree: ast.Module) -> Iterator[Import]:
    """Yield what a file imports, also inside functions; `from surefoot.agents import sac` is `surefoot.agents.sac`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            for alias in node.names:
                deeper = f"{source}.{alias.name}"
                yield Import(node.lineno, deeper if deeper in MODULES or source == "surefoot" else source)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def paper_of(module: str) -> str | None:
    """Return which method a module belongs to; None for the registry, the interface, the parts and other packages."""
    name, *further = module.removeprefix("surefoot.agents.").split(".")
    if name == "baselines" and further:  # each is a method of its own
        name = further[0]
    shared = not module.startswith("surefoot.agents.") or name in ("interface", "parts")
    return None if shared else SAME_PAPER.get(name, name)


def is_allowed(importer: str, imported: str) -> bool:
    """Whether the arrow importer → imported is one of the design's."""
    if imported.split(".")[0] != "surefoot":
        return not (imported.startswith(".") or imported.split(".")[0] in PACKAGES)
    layer = max((layer for layer in LAYERS if within(importer, layer)), key=len)
    if not any(within(imported, allowed) for allowed in LAYERS[layer]):
        return False
    if importer.startswith("surefoot.envs.") and not any(within(importer, above) for above in ENVS_ABOVE):
        return not any(within(imported, above) for above in ENVS_ABOVE)
    mine, other = paper_of(importer), paper_of(imported)
    return layer != "surefoot.agents" or other in (None, BACKBONE, mine)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_it_may_know(module):
    broken = [f"line {i.line}: {i.module}" for i in imports(parse(MODULES[module])) if not is_allowed(module, i.module)]
    assert not broken, f"{MODULES[module].relative_to(ROOT)}: {'; '.join(broken)}"


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("surefoot.agents.parts.replay", "surefoot.agents.sac"),
        ("surefoot.agents.parts.replay", "surefoot.agents"),
        ("surefoot.agents.interface", "surefoot.agents.parts.state"),
        ("surefoot.agents.h2o", "surefoot.agents.baselines.darc"),
        ("surefoot.agents.sac", "surefoot.agents.h2o"),
        ("surefoot.agents.h2o", "surefoot.envs"),
        ("surefoot.agents.h2o", "surefoot.offline_data.transitions"),
        ("surefoot.agents.h2o", "surefoot.training.config.run"),
        ("surefoot.envs.make", "surefoot.agents.interface"),
        ("surefoot.envs.make", "surefoot.offline_data"),
        ("surefoot.offline_data.collect", "surefoot.envs"),
        ("surefoot.offline_data.collect", "surefoot.training.loop.loop"),
        ("surefoot.configs", "surefoot.agents"),
        ("train", "surefoot.agents"),
        ("surefoot.training.loop.loop", "agents"),
        ("surefoot.training.loop.loop", "envs.make"),
        ("surefoot.training.loop.loop", ".config"),
    ],
)
def test_an_arrow_against_the_design_is_seen(importer, imported):
    assert not is_allowed(importer, imported)


def test_imports_are_found_wherever_and_however_they_are_written():
    source = (
        "import agents.sac\ndef f():\n    from surefoot.agents import sac, get\n    from . import x\nimport numpy as np"
    )
    found = {i.module for i in imports(ast.parse(source))}
    assert found == {"agents.sac", "surefoot.agents.sac", "surefoot.agents", ".", "numpy"}


def test_scripts_and_tests_say_surefoot_too():
    files = [path for folder in ("tests", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]
    bare = {
        f"{path.relative_to(ROOT)}: {i.module}"
        for path in files
        for i in imports(parse(path))
        if i.module.split(".")[0] in PACKAGES
    }
    assert len(files) > 40
    assert not bare


# --- no agent is another agent's child --------------------------------------------------------------------------------


def is_agent(node: ast.ClassDef) -> bool:
    methods = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
    return {"step", "act"} <= methods


def agent_classes() -> dict[str, ast.ClassDef]:
    """Return the classes of the agents folder that step and act, by their full names."""
    classes = {
        f"{module}.{node.name}": node
        for module, path in MODULES.items()
        if within(module, "surefoot.agents") and not within(module, "surefoot.agents.interface")
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ClassDef)
    }
    return {name: node for name, node in classes.items() if is_agent(node)}


def base_names(module: str, tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield (class, full name of a base) of every class in a file; names that are not imported are the file's own."""
    origin = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            origin |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            for base in node.bases:
                first, _, rest = ast.unparse(base).partition(".")
                full = origin.get(first, f"{module}.{first}")
                yield node.name, f"{full}.{rest}" if rest else full


def test_no_agent_subclasses_another_agent():
    known = agent_classes()
    assert {
        "surefoot.agents.sac.SAC",
        "surefoot.agents.h2o.H2O",
        "surefoot.agents.baselines.sb3_bridge.SB3Agent",
    } <= set(known)
    for module, path in MODULES.items():
        children = [f"{name}({base})" for name, base in base_names(module, parse(path)) if base in known]
        assert not children, f"{path.relative_to(ROOT)}: {', '.join(children)}"


def test_bases_are_followed_through_imports():
    source = (
        "from surefoot.agents import sac\nfrom surefoot.agents.sac import SAC as Soft\n"
        "class A(Soft): ...\nclass B(sac.SAC): ...\nclass C(A): ..."
    )
    full = "surefoot.agents.sac.SAC"
    assert list(base_names("here", ast.parse(source))) == [("A", full), ("B", full), ("C", "here.A")]


# --- circles and sizes ------------------------------------------------------------------------------------------------


def circles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return the modules that import each other round about; an import inside a function counts."""
    try:
        tuple(TopologicalSorter(arrows).static_order())
    except CycleError as error:
        return [list(error.args[1])]
    return []


def test_no_imports_go_round_in_a_circle():
    arrows = {
        module: {i.module for i in imports(parse(path)) if i.module in MODULES and i.module != module}
        for module, path in MODULES.items()
    }
    assert sum(map(len, arrows.values())) > 500
    assert not circles(arrows)
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}})


def functions(tree: ast.Module) -> list[tuple[int, str]]:
    """Return the lines and the name of every function."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [(int(node.end_lineno or 0) - node.lineno + 1, node.name) for node in found]


def test_files_and_functions_stay_short():
    lengths = sorted((lines, name, str(path)) for path in MODULES.values() for lines, name in functions(parse(path)))
    assert lengths[int(0.9 * len(lengths))][0] <= 20
    assert not [entry for entry in lengths if entry[0] > 50]
    assert not {path: n for path in MODULES.values() if (n := len(path.read_text("utf-8").splitlines())) > 400}
