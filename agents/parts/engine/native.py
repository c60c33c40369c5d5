"""The native kernels: found where they were installed, or compiled at first use, and called on tensors' memory."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import glob
import importlib.machinery
import os
import platform
import shlex
import shutil
import socket
import subprocess
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch
from torch import Tensor

from surefoot.agents.parts.engine import flags

PRECISIONS = {"native": "float32", "native-bf16": "bf16"}  # of the products, by engine
POINTER, INTEGER, FLOAT, DOUBLE = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float, ctypes.c_double
SIGNATURES = {
    "stack_forward": [POINTER, INTEGER, POINTER, INTEGER, INTEGER, *[POINTER] * 3, ctypes.c_int],
    "stack_backward": [POINTER, INTEGER, POINTER, INTEGER, INTEGER, *[POINTER] * 6, INTEGER, INTEGER, ctypes.c_int],
    "adam_step": [INTEGER, *[POINTER] * 4, FLOAT, DOUBLE, DOUBLE, FLOAT, FLOAT, DOUBLE, POINTER, FLOAT, ctypes.c_int],
    "tanh_gaussian": [INTEGER, INTEGER, *[POINTER] * 3, FLOAT, FLOAT, *[POINTER] * 3],
    "tanh_gaussian_backward": [INTEGER, INTEGER, *[POINTER] * 2, FLOAT, FLOAT, *[POINTER] * 6],
    "soft_target": [INTEGER, *[POINTER] * 4, INTEGER, POINTER, INTEGER, FLOAT, POINTER],
    "squared_error": [INTEGER, *[POINTER] * 4],
    "actor_objective": [INTEGER, *[POINTER] * 3, FLOAT, *[POINTER] * 4],
    "bandit_sgd": [*[INTEGER] * 7, *[POINTER] * 8, *[FLOAT] * 4, ctypes.c_int, POINTER, ctypes.c_int],
}


class Unavailable(RuntimeError):
    """Why there are no native kernels here, and what to do about it."""


def library(precision: str = "float32") -> ctypes.CDLL:
    """Return the kernels for this processor, of `float32` or `bf16` products; raises `Unavailable`."""
    found = _library(precision)
    if isinstance(found, Unavailable):
        raise found
    return found


@functools.cache
def _library(precision: str) -> ctypes.CDLL | Unavailable:  # a failure is kept as well: finding it out takes seconds
    try:
        return load(capability_for(precision))
    except Unavailable as error:
        return error


def capability_for(precision: str) -> str:
    """Return the best instructions that this processor has for a precision; raises `Unavailable`."""
    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in flags.INSTRUCTIONS:
        raise Unavailable(f"the native engine needs AVX2 or AVX-512, which this {platform.machine()} lacks")
    if precision == "float32":
        return capability
    if not (found := bf16_capabilities()):
        raise Unavailable(f"bf16 products need a processor with AVX512_BF16, which this {platform.machine()} lacks")
    return found[-1]


def bf16_capabilities() -> list[str]:
    """Return which instructions for bf16 products this processor has, the best last."""
    known = processor_flags()
    if torch.backends.cpu.get_cpu_capability() != "AVX512" or "avx512_bf16" not in known:
        return []
    return ["AVX512_BF16", *(["AMX_BF16"] if {"amx_tile", "amx_bf16"} <= known and _may_use_tiles() else [])]


def processor_flags() -> set[str]:
    """Return what Linux says the processor has; nothing elsewhere."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                return set(line.split())
    return set()


def _may_use_tiles() -> bool:
    """Ask Linux for AMX's registers, which a process has to; it may refuse."""
    arch_prctl, request, tile_data = 158, 0x1023, 18  # of x86-64: ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return bool(ctypes.CDLL(None).syscall(arch_prctl, request, tile_data) == 0)


@functools.cache
def load(capability: str) -> ctypes.CDLL:
    """Return the kernels for a set of instructions; raises `Unavailable`."""
    kernels = installed(capability) or opened(compiled(capability))
    for name, arguments in SIGNATURES.items():
        function = getattr(kernels, name)
        function.argtypes, function.restype = arguments, None
    return kernels


def installed(capability: str) -> ctypes.CDLL | None:
    """Return the library that was compiled when the package was installed, unless its source has changed since."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX") or importlib.machinery.EXTENSION_SUFFIXES[0]
    path = flags.FOLDER / f"kernels_{capability.lower()}{suffix}"
    try:
        kernels = opened(path) if path.is_file() else None
        if kernels is None:
            return None
        kernels.kernel_key.restype = ctypes.c_char_p
    except (Unavailable, AttributeError):  # of another machine, or of a source without a key
        return None
    return kernels if kernels.kernel_key() == flags.key(capability).encode() else None


def opened(path: Path) -> ctypes.CDLL:
    """Return a library; raises `Unavailable`."""
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:  # its message begins with the path
        raise Unavailable(f"the native engine could not be loaded ({error}); delete that file") from error


def compiled(capability: str) -> Path:
    """Return the library in the user's cache, compiled now if it is not there; raises `Unavailable`."""
    path = cache_folder() / f"kernels-{capability.lower()}-{flags.key(capability)}.so"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _folder_to_compile_in(path.parent) as folder:
                if not path.is_file():  # compiled by another process since
                    _compile(capability, folder / path.name)
                    os.replace(folder / path.name, path)
        except OSError as error:
            raise Unavailable(
                f"the native engine could not be kept in {path.parent} ({error.strerror}); "
                "set XDG_CACHE_HOME to a folder that can be written"
            ) from error
    return path


@contextmanager
def _folder_to_compile_in(cache: Path) -> Iterator[Path]:
    """Yield a folder that goes at the end, while no other process compiles; what killed ones have left goes, too."""
    ours = f"compiling-{socket.gethostname()}-"  # locks need not reach from one machine to another
    with _locked(cache) as is_alone:
        for left in cache.glob(f"{glob.escape(ours)}*") if is_alone else ():
            shutil.rmtree(left, ignore_errors=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix=ours) as folder:
            yield Path(folder)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold the kernel's lock of a folder, which ends with the process; yield False where its file system has none."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        locked = False
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            locked = True
        yield locked
    finally:
        os.close(descriptor)


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "surefoot"


def _compile(capability: str, out: Path) -> None:
    """Compile the kernels; raises `Unavailable`."""
    compiler = shlex.split(os.environ.get("CXX", "")) or list(filter(shutil.which, ("c++", "g++", "clang++")))[:1]
    if not compiler:
        raise Unavailable("no C++ compiler was found for the native engine; install g++, or set CXX")
    sources = [str(flags.FOLDER / name) for name in flags.SOURCES]
    command = [*compiler, *flags.compile_flags(capability), *flags.LINK, *sources, "-o", str(out)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        reason = _first_error(done.stderr) or f"exit status {done.returncode}"
    except subprocess.TimeoutExpired:
        reason = "no end after 5 minutes"
    except OSError as error:
        reason = str(error.strerror)
    else:
        if done.returncode == 0:
            return
    raise Unavailable(
        f"the native engine could not be compiled with {shlex.join(compiler)} ({reason}); "
        "set CXX to another C++ compiler"
    )


def _first_error(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower()), lines[0] if lines else "")


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


def by_seed(rows: Tensor, *tensors: Tensor | None) -> Iterator[tuple[int | None, ...]]:
    """Yield the addresses of each seed's part of float32 tensors; `rows` (S, B) says how many seeds there are.

    Rows (B,) are of one. Of a tensor whose first axis is a multiple of S every seed has a part, one after the other.
    """
    seeds = len(rows) if rows.dim() == 2 else 1
    for s in range(seeds):
        yield tuple(None if t is None else t.data_ptr() + 4 * _before(t, s, seeds) for t in tensors)


def _before(tensor: Tensor, seed: int, seeds: int) -> int:
    """Return how many numbers lie before a seed's part of a tensor."""
    return seed * (tensor.shape[0] // seeds) * tensor.stride(0) if seed else 0
