"""How the native kernels are compiled, at installation or at first use; imports nothing, as setup.py reads it too."""

from __future__ import annotations

import hashlib
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCES, HEADERS = ("kernels.cpp", "bandits.cpp"), ("vectors.h",)
COMPILE = ["-O3", "-std=c++17", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math"]
LINK = ["-shared", "-fopenmp"]
AVX512 = "-DWIDTH=16 -mavx512f -mavx512vl -mavx512bw -mavx512dq -mfma -mprefer-vector-width=512"
BF16 = f"{AVX512} -DBF16 -mavx512bf16"
INSTRUCTIONS = {  # the first two by PyTorch's names of them, the others by Linux's
    "AVX512": AVX512.split(),
    "AVX2": ["-DWIDTH=8", "-mavx2", "-mfma"],
    "AVX512_BF16": BF16.split(),
    "AMX_BF16": f"{BF16} -DTILES -mamx-tile -mamx-bf16".split(),
}


def key(capability: str) -> str:
    """Return what a library is known by: source and flags that it was compiled from."""
    flags = " ".join([*COMPILE, *LINK, *INSTRUCTIONS[capability]])
    source = b"".join((FOLDER / name).read_bytes() for name in (*SOURCES, *HEADERS))
    return hashlib.sha256(source + flags.encode()).hexdigest()[:16]


def compile_flags(capability: str) -> list[str]:
    """Return the compiler's flags; the library tells its key as `kernel_key`."""
    return [*COMPILE, *INSTRUCTIONS[capability], f'-DKEY="{key(capability)}"']
