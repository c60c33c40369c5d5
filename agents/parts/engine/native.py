"""The native kernels: found where they were installed, or compiled at first use, and called on tensors' memory."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.machinery
import os
import platform
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ["-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"]
AVX512 = "-DWIDTH=16 -mavx512f -mavx512vl -mavx512bw -mavx512dq -mfma -mprefer-vector-width=512"
INSTRUCTIONS = {"AVX512": AVX512.split(), "AVX2": ["-DWIDTH=8", "-mavx2", "-mfma"]}  # by PyTorch's names of them
POINTER, INTEGER, FLOAT, DOUBLE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_double
SIGNATURES = {
    "stack_forward": [POINTER, INTEGER, POINTER, INTEGER, INTEGER, *[POINTER] * 3, ctypes.c_int],
    "stack_backward": [POINTER, INTEGER, POINTER, INTEGER, INTEGER, *[POINTER] * 6, INTEGER, INTEGER, ctypes.c_int],
    "adam_step": [INTEGER, *[POINTER] * 4, FLOAT, DOUBLE, DOUBLE, FLOAT, FLOAT, DOUBLE, POINTER, FLOAT, ctypes.c_int],
    "move_target": [INTEGER, POINTER, POINTER, FLOAT],
    "tanh_gaussian": [INTEGER, INTEGER, *[POINTER] * 3, FLOAT, FLOAT, POINTER, POINTER],
    "tanh_gaussian_backward": [INTEGER, INTEGER, *[POINTER] * 3, FLOAT, FLOAT, *[POINTER] * 4],
    "soft_target": [INTEGER, *[POINTER] * 4, INTEGER, POINTER, INTEGER, FLOAT, POINTER],
    "squared_error": [INTEGER, *[POINTER] * 5],
    "actor_objective": [INTEGER, *[POINTER] * 3, FLOAT, *[POINTER] * 4],
}


class Unavailable(RuntimeError):
    """Why there are no native kernels here, and what to do about it."""


@functools.cache
def library() -> ctypes.CDLL:
    """Return the kernels for this processor; raises `Unavailable`."""
    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in INSTRUCTIONS:
        raise Unavailable(f"the native engine needs AVX2 or AVX-512, which this {platform.machine()} lacks")
    return load(capability)


def load(capability: str) -> ctypes.CDLL:
    """Return the kernels for a set of instructions; raises `Unavailable`."""
    path = installed(capability) or compiled(capability)
    kernels = ctypes.CDLL(str(path))
    for name, arguments in SIGNATURES.items():
        function = getattr(kernels, name)
        function.argtypes, function.restype = arguments, None
    return kernels


def installed(capability: str) -> Path | None:
    """Return the library that was compiled when the package was installed."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX") or importlib.machinery.EXTENSION_SUFFIXES[0]
    path = SOURCE.with_name(f"kernels_{capability.lower()}{suffix}")
    return path if path.is_file() else None


def compiled(capability: str) -> Path:
    """Return the library in the user's cache, compiled now if it is not there; raises `Unavailable`."""
    flags = [*FLAGS, *INSTRUCTIONS[capability]]
    key = hashlib.sha256(SOURCE.read_bytes() + " ".join(flags).encode()).hexdigest()[:16]
    path = cache_folder() / f"kernels-{capability.lower()}-{key}.so"
    if not path.is_file():
        _compile(flags, path)
    return path


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "surefoot"


def _compile(flags: list[str], path: Path) -> None:
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        raise Unavailable("no C++ compiler was found for the native engine; install g++")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # renamed when whole: others may compile as well
            part = Path(folder) / path.name
            command = [compiler, *flags, str(SOURCE), "-o", str(part)]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
            os.replace(part, path)
    except (OSError, subprocess.SubprocessError) as error:
        reason = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[0]
        raise Unavailable(f"the native engine could not be compiled with {compiler} ({reason})") from error


class Stack(ctypes.Structure):
    """`Stack` of kernels.cpp: the shape of stacked networks and where their tensors lie."""

    _fields_ = [
        ("members", INTEGER),
        ("layers", INTEGER),
        ("activation", INTEGER),
        ("widths", POINTER),
        ("weights", POINTER),
        ("biases", POINTER),
    ]


def addresses(tensors: Sequence[Tensor]) -> ctypes.Array[ctypes.c_void_p]:
    """Return the addresses of tensors as a C array."""
    return (POINTER * len(tensors))(*[tensor.data_ptr() for tensor in tensors])
