"""Where tasks come from: packages, and modules of the user's that may be imported (`configs/allowed_modules.py`)."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import warnings
from types import ModuleType

import mujoco

from surefoot.configs.allowed_modules import require_allowed

EXTRAS = {"ale_py": "atari", "shimmy": "dm-control", "gymnasium_robotics": "robotics"}  # module -> our extra
REGISTERED_BY = {"ALE": "ale_py", "dm_control": "shimmy"}  # namespace of ids -> module


def import_module(name: str) -> ModuleType:
    """Return a module, also of the working folder: Python searches that for a script, but not for a command.

    Raises:
        ModuleNotFoundError: as Python does.
    """
    top, here = name.partition(".")[0], os.getcwd()
    importlib.invalidate_caches()  # it may have been written since
    if top not in sys.modules and here not in sys.path and importlib.util.find_spec(top) is None:
        sys.path.append(here)  # the last place, so that nothing installed is hidden
    return importlib.import_module(name)


def import_tasks(name: str, env_id: str) -> None:
    """Import the module that registers a task; nothing is to be done where it is imported already.

    Raises:
        ImportError: no such module, and where it was looked for.
        ValueError: neither a package of ours nor named by the user.
    """
    if name not in sys.modules:
        require_allowed(name, f"environment {env_id!r}")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message=".*DISPLAY environment variable is missing"
            )  # glfw, of dm_control
            import_module(name)
    except ModuleNotFoundError as error:
        elsewhere = "install it, put its folder on PYTHONPATH, or start in that folder"
        way_out = f'pip install "surefoot[{EXTRAS[name]}]"' if name in EXTRAS else elsewhere
        raise ImportError(f"environment {env_id!r}: cannot import {name!r} ({error}); {way_out}") from error
    if name == "shimmy" and importlib.util.find_spec("dm_control"):
        _adapt_dm_control()


def package_hint(env_id: str) -> str:
    """Return how to get an id that is not registered."""
    module = REGISTERED_BY.get(env_id.partition("/")[0])
    if module is None:
        return "is its package installed? module:EnvId imports it"
    return f'write {module}:{env_id}, with pip install "surefoot[{EXTRAS[module]}]"'


def known_problem(error: BaseException) -> str:
    """Return the way out of what is known to fail in a package with the MuJoCo that is installed."""
    trace, files = error.__traceback__, list[str]()
    while trace is not None:
        files.append(trace.tb_frame.f_code.co_filename)
        trace = trace.tb_next
    if int(mujoco.__version__.split(".")[0]) >= 4 and any("gymnasium_robotics" in file for file in files):
        return '; Gymnasium-Robotics\' Fetch, hand and kitchen tasks need MuJoCo 3: pip install "mujoco<4"'
    return ""


def _adapt_dm_control() -> None:
    """Take out of dm_control's table of named arrays those that the installed MuJoCo no longer has.

    dm_control 1.0.50 reads every array in the table when a model is made, and MuJoCo 4 has dropped nine, of flexible
    bodies, which no task of its suite uses. With MuJoCo 3 nothing is missing.
    """
    from dm_control.mujoco.wrapper.mjbindings import sizes

    for name, struct in (("mjmodel", mujoco.MjModel), ("mjdata", mujoco.MjData)):
        for array in [array for array in sizes.array_sizes[name] if not hasattr(struct, array)]:
            del sizes.array_sizes[name][array]
