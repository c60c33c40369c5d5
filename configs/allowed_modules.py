"""Which modules of the user's may be imported, which runs their code.

Those that the user has named: on the command line, in an argument of the Python API, or all of them by `--allow-code`.
That a policy, a data set, a preset or a plan names one is not enough.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

# Modules that the user has named, separated by commas, `*` for all: a variable, for the processes of a run inherit it.
ALLOWED = "SUREFOOT_ALLOWED_MODULES"
NAMED = re.compile(r"(?<![\w.])([A-Za-z_][\w.]*):[A-Za-z_]")  # module:EnvId, module:function
# Of packages that we name ourselves, and the rules that we wrote.
KNOWN = {"ale_py", "shimmy", "gymnasium_robotics", "surefoot.envs.termination"}
PREFIXES = {"d4rl", "minari", "sample", "behaviour", "hf", "http", "https", "file"}  # what else has a colon behind it


def named_modules(words: Iterable[str]) -> set[str]:
    """Return the modules of what is written `module:NAME` in some words."""
    return {module for word in words for module in NAMED.findall(word)} - PREFIXES


@contextmanager
def imports_allowed(modules: Iterable[str]) -> Iterator[None]:
    """Let modules be imported that configurations name, within this block and in the processes that it starts."""
    before = os.environ.get(ALLOWED)
    os.environ[ALLOWED] = ",".join(sorted({*filter(None, (before or "").split(",")), *modules}))
    try:
        yield
    finally:
        os.environ.pop(ALLOWED, None)
        if before is not None:
            os.environ[ALLOWED] = before


def may_import(module: str) -> bool:
    """Whether a module is known to be harmless, or the user has named it, or allowed all."""
    return module in KNOWN or bool({"*", module} & set(os.environ.get(ALLOWED, "").split(",")))


def require_allowed(module: str, what: str) -> None:
    """Raise `ValueError` unless the user has named a module; `what` names it in a configuration."""
    if not may_import(module):
        raise ValueError(
            f"{what}: a file names the module {module!r}, and importing it would run its code; add --allow-code if "
            f"you trust it (in Python: allow_code=True), or name it yourself on the command line"
        )


def flag_to_go_on(configuration: str) -> str:
    """Return what a command needs in addition, with a space before it, to take up a configuration again."""
    return " --allow-code" if named_modules([configuration]) - KNOWN else ""


def require_named_allowed(words: Iterable[str], what: str) -> None:
    """Raise `ValueError` for a module that is named in some words, `module:NAME`, and not allowed."""
    for module in sorted(named_modules(words)):
        require_allowed(module, what)


def require_allowed_kwargs(kwargs: Mapping[str, Any], env_id: str) -> None:
    """Raise `ValueError` for a task's argument `module:NAME`, which some tasks import, of a module not allowed."""
    for name, value in kwargs.items():
        require_named_allowed([value] if isinstance(value, str) else [], f"{env_id}: argument {name} = {value!r}")
