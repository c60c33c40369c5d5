"""The native kernels, compiled at installation where a compiler is; all else is in pyproject.toml.

One library for each set of instructions, none of them tuned to the machine that builds. They are optional: without
them, or where their source has changed since, `surefoot.agents.parts.engine.native` compiles at first use.
"""

import os
import platform
import runpy
from copy import copy
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = "agents/parts/engine"
flags: dict[str, Any] = runpy.run_path(f"{FOLDER}/flags.py")


class BuildLibraries(build_ext):
    """Compile libraries for ctypes, which export no module, side by side."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self.parallel = len(flags["INSTRUCTIONS"])

    def build_extension(self, ext: Extension) -> None:
        own = copy(self)
        own.build_temp = os.path.join(self.build_temp, ext.name)  # all have one source, but each an object of its own
        super(BuildLibraries, own).build_extension(ext)

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []


def libraries() -> list[Extension]:
    if platform.system() == "Windows" or platform.machine().lower() not in ("x86_64", "amd64"):
        return []
    return [
        Extension(
            f"surefoot.agents.parts.engine.kernels_{capability.lower()}",
            [f"{FOLDER}/{name}" for name in flags["SOURCES"]],
            depends=[f"{FOLDER}/{name}" for name in flags["HEADERS"]],
            extra_compile_args=flags["compile_flags"](capability),
            extra_link_args=flags["LINK"],
            language="c++",
            optional=True,
        )
        for capability in flags["INSTRUCTIONS"]
    ]


setup(ext_modules=libraries(), cmdclass={"build_ext": BuildLibraries})
