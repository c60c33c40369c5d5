"""How the native kernels are compiled, at installation or at first use; imports nothing, as setup.py reads it too."""

from __future__ import annotations

import hashlib
from pathlib import Path

SOURCE = Path(__file__).with_name("kernels.cpp")
COMPILE = ["-O3", "-std=c++17", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"]
LINK = ["-shared", "-fopenmp"]
AVX512 = "-DWIDTH=16 -mavx512f -mavx512vl -mavx512bw -mavx512dq -mfma -mprefer-vector-width=512"
INSTRUCTIONS = {"AVX512": AVX512.split(), "AVX2": ["-DWIDTH=8", "-mavx2", "-mfma"]}  # by PyTorch's names of them


def key(capability: str) -> str:
    """Return what a library is known by: source and flags that it was compiled from."""
    flags = " ".join([*COMPILE, *LINK, *INSTRUCTIONS[capability]])
    return hashlib.sha256(SOURCE.read_bytes() + flags.encode()).hexdigest()[:16]


def compile_flags(capability: str) -> list[str]:
    """Return the compiler's flags; the library tells its key as `kernel_key`."""
    return [*COMPILE, *INSTRUCTIONS[capability], f'-DKEY="{key(capability)}"']
