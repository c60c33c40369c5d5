"""A Python function as a policy, named `module:function`: the user's own code, run because it is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from surefoot.envs.packages import import_module
from surefoot.evaluation.policies.opened import AnyPolicy, sha256_of
from surefoot.evaluation.policies.own_units import own_policy

NAME = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")


def load_function(name: str) -> AnyPolicy:
    """Return the policy of `module:function`: NumPy observations (N, obs) in, actions in the task's own units out.

    Raises:
        ImportError: no such module, or it cannot be imported.
        ValueError: no such function in it.
    """
    module_name, _, path = name.partition(":")
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise ImportError(
            f"{name}: cannot import {module_name!r} ({error}); put its folder on PYTHONPATH, or start in that folder"
        ) from error
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ValueError(f"{name}: {module_name} has no function {path}")
    file = getattr(module, "__file__", None)
    return own_policy(found, name, "function", sha256=sha256_of(Path(file)) if file else None)
