"""Surefoot: reinforcement-learning agents for policies that must hold where they were not trained.

What this package exports is the public API; anything else may change without notice. Names are imported when asked for,
so that `import surefoot` and the command line's `--help` stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import surefoot.agents  # noqa: F401 - binds the name `agents`, a package that can be called

if TYPE_CHECKING:
    from surefoot.agents import AgentRegistry
    from surefoot.api import (
        Run,
        evaluate,
        load_data,
        load_policy,
        make_env,
        presets,
        resume,
        train,
    )
    from surefoot.bandits import bandit, identify, load_bandit
    from surefoot.evaluation.episodes import EvalResult
    from surefoot.evaluation.loaded_policy import LoadedPolicy

    agents: AgentRegistry

__all__ = [
    "EvalResult",
    "LoadedPolicy",
    "Run",
    "agents",
    "bandit",
    "evaluate",
    "identify",
    "load_bandit",
    "load_data",
    "load_policy",
    "make_env",
    "presets",
    "resume",
    "train",
]
_HOME = {"EvalResult": "surefoot.evaluation.episodes", "LoadedPolicy": "surefoot.evaluation.loaded_policy"}
_HOME |= dict.fromkeys(("bandit", "identify", "load_bandit"), "surefoot.bandits")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'surefoot' has no attribute {name!r}")
    return getattr(import_module(_HOME.get(name, "surefoot.api")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
