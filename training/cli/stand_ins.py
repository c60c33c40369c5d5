"""Help without what only a run needs: no option's name, default or text needs PyTorch, which takes a second to import.

While a help text is made, what is slow to import is a stand-in: a module of names for which anything can be done.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Protocol

HEAVY = ("torch", "gymnasium", "mujoco", "h5py", "minari", "numpy", "scipy", "matplotlib", "stable_baselines3")
OPERATORS = ("or", "ror", "add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "pow", "rpow", "neg")


class _Anything(type(Protocol)):  # type: ignore[misc]  # so that a class may have both kinds of base
    """The class of stand-ins. They are classes: bases of classes, decorators, functions and values in turn."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("_"):  # what Python asks for, such as `__wrapped__`
            raise AttributeError(name)
        return stand_in(name)

    def __call__(cls, *given: Any, **named: Any) -> Any:
        """Return what is decorated, or else another stand-in."""
        return given[0] if len(given) == 1 and callable(given[0]) else stand_in(cls.__name__)

    def __getitem__(cls, item: Any) -> Any:
        return cls

    def __iter__(cls) -> Iterator[Any]:
        return iter(())

    def __int__(cls) -> int:
        return 0

    __index__ = __int__

    def __float__(cls) -> float:
        return 0.0


for operator in OPERATORS:
    setattr(_Anything, f"__{operator}__", lambda cls, *other: cls)


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
    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in HEAVY else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """There is nothing in it."""


@contextmanager
def stand_ins() -> Iterator[None]:
    """Let heavy packages that are not imported yet be stand-ins; what was imported meanwhile is forgotten again."""
    if any(name in sys.modules for name in HEAVY):
        yield
        return
    before, finder = set(sys.modules), _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in (*HEAVY, "surefoot"):
                _forget(name)


def _forget(name: str) -> None:
    module, (parent, _, child) = sys.modules.pop(name), name.rpartition(".")
    if getattr(sys.modules.get(parent), child, None) is module:
        delattr(sys.modules[parent], child)
