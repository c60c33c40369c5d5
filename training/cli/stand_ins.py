"""Commands without what only a run needs: PyTorch alone takes a second to import.

While a help text is made, what is slow to import is a stand-in: a module of names for which anything can be done. No
option's name, default or text needs more. So are modules of ours that only compute: they take a third of the time that
is left, and the test that compares the texts knows when an option is defined in one. `plot` and `report` read files of
numbers and settings, and need of PyTorch the names in the definitions of agents and tasks. For them stand-ins are good
for definitions alone: where anything else asks one for more than a name, `NeedsReal` is raised, and the command starts
again without stand-ins.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Protocol

DEFINING = ("torch", "gymnasium", "mujoco", "h5py", "minari", "scipy", "stable_baselines3")
COMPUTING = (
    "surefoot.agents.distributional.enumerated",
    "surefoot.agents.distributional.exact",
    "surefoot.agents.distributional.interpolated",
    "surefoot.agents.distributional.solution",
    "surefoot.agents.parts.engine.native",
    "surefoot.envs.check",
    "surefoot.envs.make",
    "surefoot.envs.tasks",
    "surefoot.envs.uncertainty.robots",
    "surefoot.evaluation.objectives",
    "surefoot.evaluation.policies",
    "surefoot.evaluation.policy_files",
    "surefoot.evaluation.storage",
    "surefoot.offline_data.download",
    "surefoot.offline_data.files",
    "surefoot.training.comparison",
    "surefoot.training.loop.loop",
    "surefoot.training.loop.seeds",
    "surefoot.training.loop.setup",
    "surefoot.training.runs.provenance",
    "surefoot.training.session",
    "surefoot.training.sweep.local",
)
# With typeguard tyro looks whether defaults fit their types, as mypy has; figures are made with the real NumPy.
FOR_HELP = (*DEFINING, "numpy", "matplotlib", "rich", "tqdm", "typeguard", *COMPUTING)
OPERATORS = ("or", "ror", "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow", "neg")


class NeedsReal(BaseException):
    """A stand-in was used for more than a definition. No `Exception`, lest it counts as an error of what is read."""


class _Use:
    """Whether stand-ins are for definitions alone."""

    only_definitions = False


def _require_definition() -> None:
    """Raise `NeedsReal` where stand-ins are for definitions alone and this is none: no module is being imported."""
    frame = sys._getframe(2) if _Use.only_definitions else None
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    if frame is None and _Use.only_definitions:
        raise NeedsReal


class _Anything(type(Protocol)):  # type: ignore[misc]  # so that a class may have both kinds of base
    """The class of stand-ins. They are classes: bases of classes, decorators, functions and values in turn."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):  # what Python asks for, such as `__wrapped__`
            raise AttributeError(name)
        _require_definition()
        return stand_in(name)

    def __call__(cls, *given: Any, **named: Any) -> Any:
        """Return what is decorated, or else another stand-in."""
        _require_definition()
        return given[0] if len(given) == 1 and callable(given[0]) else stand_in(cls.__name__)

    def __instancecheck__(cls, instance: Any) -> bool:  # which matplotlib asks of all it draws: is it a tensor?
        return type.__instancecheck__(cls, instance)

    def __getitem__(cls, item: Any) -> Any:
        _require_definition()
        return cls

    def __iter__(cls) -> Iterator[Any]:
        _require_definition()
        return iter(())

    def __int__(cls) -> int:
        _require_definition()
        return 0

    __index__ = __int__

    def __float__(cls) -> float:
        _require_definition()
        return 0.0

    def _combined(cls, *other: Any) -> Any:
        _require_definition()
        return cls


for operator in OPERATORS:
    setattr(_Anything, f"__{operator}__", _Anything._combined)


def stand_in(name: str) -> Any:
    """Return what stands for something called `name`, whatever that is."""
    return _Anything(name, (), {})


class _Module(ModuleType):
    """A module of stand-ins."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return stand_in(name)


class _Finder(MetaPathFinder, Loader):
    def __init__(self, packages: tuple[str, ...]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        inside = any(f"{name}.".startswith(f"{package}.") for package in self.packages)
        return ModuleSpec(name, self, is_package=True) if inside else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing in it."""


@contextmanager
def stand_ins(*, only_definitions: bool = False) -> Iterator[None]:
    """Let heavy packages that are not imported yet be stand-ins; what was imported meanwhile is forgotten again.

    With `only_definitions` those of `DEFINING`, which raise `NeedsReal` where used while no module is imported.
    """
    packages = DEFINING if only_definitions else FOR_HELP
    if any(name in sys.modules for name in packages):
        yield
        return
    before, finder = set(sys.modules), _Finder(packages)
    sys.meta_path.insert(0, finder)
    _Use.only_definitions = only_definitions
    try:
        yield
    finally:
        _Use.only_definitions = False
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in (*packages, "surefoot"):
                _forget(name)


def _forget(name: str) -> None:
    module, (parent, _, child) = sys.modules.pop(name), name.rpartition(".")
    if getattr(sys.modules.get(parent), child, None) is module:
        delattr(sys.modules[parent], child)
