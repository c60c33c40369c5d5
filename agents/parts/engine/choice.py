"""Which engine a run has, and what of it the engine computes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import nn

from surefoot.agents.parts.engine import native
from surefoot.agents.parts.engine.flat import Flat
from surefoot.agents.parts.engine.stack import kernels_of

Engine = Literal["eager", "torch", "native", "native-bf16"]
ENGINES: tuple[str, ...] = get_args(Engine)


def choose(wanted: str, device: torch.device, *, traced: bool = False) -> tuple[Engine, str | None]:
    """Return the engine for `auto` or one of `ENGINES`, and a line for people where `auto` is not the fastest one.

    `native-bf16` is `native` with products in bf16. `traced`: the update is compiled or captured, which only the eager
    one can be. Raises `ValueError` for an engine that cannot be had here.
    """
    if wanted == "auto":
        if traced or device.type != "cpu":
            return "eager", None
        if reason := native_is_missing():
            return "torch", f"note: {reason}; updates run in PyTorch, at about half the speed"
        return "native", None
    option, in_bf16 = option_of(wanted), wanted == "native-bf16"
    if traced and wanted != "eager":
        instead = "leave it out" if in_bf16 else "pass --engine eager"
        raise ValueError(f"{option} does not go with --compile or --cudagraph; drop them, or {instead}")
    if wanted in native.PRECISIONS:
        if device.type != "cpu":
            instead = "leave it out" if in_bf16 else "--engine torch"
            raise ValueError(f"{option} runs on a CPU, not on {device}; pass --device cpu or {instead}")
        if reason := native_is_missing(wanted):
            instead = "leave out --precision bf16" if in_bf16 else "pass --engine torch"
            raise ValueError(f"{reason}, or {instead}") from reason
    return wanted, None  # type: ignore[return-value]


def option_of(engine: str) -> str:
    """Return how the command line says an engine."""
    return "--precision bf16" if engine == "native-bf16" else f"--engine {engine}"


def coverage(agent: Any) -> tuple[list[str], list[str]]:
    """Return the names of an agent's networks that kernels compute, and of trained ones that are left to autograd."""
    computed: list[str] = []
    left: list[str] = []
    for name, network in _networks(agent, ""):
        if network.computed_by:
            computed.append(name)
        elif isinstance(network, nn.Module) and any(parameter.requires_grad for parameter in network.parameters()):
            left.append(name)
    return computed, left


def _networks(owner: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the networks in the modules and parts of an agent that kernels can compute, by their names in its state."""
    if isinstance(owner, nn.Module):
        for name, module in owner.named_modules():
            if hasattr(module, "compute_by"):
                yield f"{path}.{name}".strip("."), module
    elif hasattr(owner, "computed_by"):  # with gradients by hand
        yield path, owner
    for name in getattr(owner, "STATEFUL", ()):
        yield from _networks(getattr(owner, name), f"{path}.{name}".strip("."))


def engine_of(module: Any) -> str:
    """Return the engine that computes the networks of a module."""
    parts: Iterable[Any] = module.modules() if isinstance(module, nn.Module) else ()
    computed = [part.computed_by[0].engine for part in parts if getattr(part, "computed_by", None)]
    return computed[0] if computed else "eager"


def compute_by(engine: str, module: Any) -> None:
    """Let a deployed policy be computed as it was in its run, where that can be: elsewhere its last digits differ."""
    if engine == "eager" or not isinstance(module, nn.Module):
        return
    if engine in native.PRECISIONS and (next(module.parameters()).device.type != "cpu" or native_is_missing(engine)):
        return
    _attach(engine, module)


def native_is_missing(engine: str = "native") -> native.Unavailable | None:
    """Return why there are no native kernels here, or not those of one engine, or None."""
    try:
        native.library(native.PRECISIONS[engine])
    except native.Unavailable as reason:
        return reason
    return None


def attach(engine: str, owners: Iterable[Any]) -> None:
    """Let every stacked network among the modules of `owners` be computed by an engine's kernels."""
    if engine == "eager":
        return
    for owner in owners:
        if isinstance(owner, nn.Module):
            parameters = list(owner.parameters())
            if not any(hasattr(parameter, "flat") for parameter in parameters):  # a target: no optimiser has it
                Flat(parameters)
            _attach(engine, owner)


def _attach(engine: str, module: nn.Module) -> None:
    kernels = kernels_of(engine)
    parts: Iterable[Any] = module.modules()
    for part in parts:
        if hasattr(part, "compute_by"):
            part.compute_by(kernels)
