"""Faster ways to run an update phase that is a function of tensors: the same code, compiled or captured."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from surefoot.agents.interface import Setting
from surefoot.agents.parts.engine.adam import Adam, FlatAdam
from surefoot.agents.parts.engine.choice import attach

Phase = Callable[..., dict[str, Tensor]]  # (nested) tuples of tensors in, named tensors out
Owner = nn.Module | torch.optim.Optimizer | Tensor  # what a phase changes in place
Function = TypeVar("Function", bound=Callable[..., Any])


_kept_from_tracing: list[list[Callable[..., Any]]] = []


def uncompiled(function: Function) -> Function:
    """Keep torch.compile from tracing a function, from the first phase on that `accelerate` compiles.

    Not sooner: `torch.compiler.disable` imports the compiler, a second and more that a run without it need not wait.
    """
    called: list[Callable[..., Any]] = [function]
    _kept_from_tracing.append(called)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return called[0](*args, **kwargs)

    return cast(Function, call)


def _disable_tracing() -> None:
    while _kept_from_tracing:
        called = _kept_from_tracing.pop()
        called[0] = torch.compiler.disable(called[0])


def adam(
    parameters: Iterable[Tensor],
    lr: float,
    setting: Setting,
    eps: float = 1e-8,
    decay: Iterable[tuple[Tensor, float]] = (),
) -> torch.optim.Adam:
    """Return Adam, with its fused kernel, over what requires a gradient; `decay` has pairs (p, c) of terms c·½‖p‖².

    Where its step will be recorded into a CUDA graph its state is made at once, so that warm-up can be undone.
    """
    decayed = {id(parameter): c for parameter, c in decay}
    groups: dict[float, list[Tensor]] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            groups.setdefault(decayed.get(id(parameter), 0.0), []).append(parameter)
    learned = [{"params": params, "weight_decay": c} for c, params in groups.items()]
    if setting.engine != "eager":
        return FlatAdam(learned, lr, eps, is_native=setting.engine.startswith("native"))
    kind = torch.optim.Adam if setting.compile else Adam
    optimiser = kind(learned, lr=lr, eps=eps, fused=True, capturable=setting.cudagraph)
    if setting.cudagraph:
        for parameter in itertools.chain.from_iterable(groups.values()):
            step = torch.zeros((), device=parameter.device)
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            optimiser.state[parameter] = {"step": step, **moments}
    return optimiser


@uncompiled  # nothing in here to fuse, and tracing it breaks the code around it into pieces
def take_step(optimisers: Sequence[torch.optim.Optimizer], loss: Tensor) -> None:
    """One step of every optimiser down `loss`."""
    for optimiser in optimisers:
        if not isinstance(optimiser, FlatAdam):  # its gradients are zero after every step
            optimiser.zero_grad(set_to_none=True)
    loss.backward()
    step_all(optimisers)


def step_all(optimisers: Sequence[torch.optim.Optimizer]) -> None:
    """One step of every optimiser along the gradients there are."""
    for optimiser in optimisers:
        if isinstance(optimiser, FlatAdam):
            optimiser.take()
        else:
            optimiser.step()


def set_lr(optimiser: torch.optim.Optimizer, lr: float) -> None:
    """Set the step size; where the step may be recorded into a CUDA graph, in a tensor that the graph reads."""
    for group in optimiser.param_groups:
        if not group.get("capturable"):
            group["lr"] = lr
        elif isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = torch.tensor(lr, device=group["params"][0].device)


def accelerate(phase: Phase, setting: Setting, owners: Sequence[Owner], by_hand: Phase | None = None) -> Phase:
    """Wrap `phase` as configured: on an engine's kernels, compiled, captured, or left as it is.

    `owners` are the modules, optimisers and tensors that the phase changes; `by_hand` is the phase without autograd,
    which the native engine takes. Raises `ValueError` for a capture on a CPU.
    """
    if setting.engine != "eager":
        attach(setting.engine, owners)
        return by_hand if by_hand and setting.engine.startswith("native") else phase
    if setting.compile:
        _disable_tracing()
        phase = torch.compile(phase)
    if not setting.cudagraph:
        return phase
    if setting.device.type != "cuda":
        raise ValueError(f"--cudagraph needs a CUDA device, not {setting.device}; drop the flag or pass --device cuda")
    return GraphedPhase(phase, owners)


class GraphedPhase:
    """A phase recorded at its first call as a CUDA graph and replayed from then on; shapes must not change."""

    def __init__(self, phase: Phase, owners: Sequence[Owner], warm_up: int = 3) -> None:
        self.phase, self.owners, self.warm_up = phase, owners, warm_up
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *args: Any) -> dict[str, Tensor]:
        if self.graph is None:
            self._record(args)
        torch._foreach_copy_(self.inputs, leaves(args))
        assert self.graph is not None
        self.graph.replay()
        copies = [torch.empty_like(value) for value in self.outputs.values()]
        torch._foreach_copy_(copies, list(self.outputs.values()))  # one kernel: the next replay writes over the outputs
        return dict(zip(self.outputs, copies, strict=True))

    def _record(self, args: tuple[Any, ...]) -> None:
        """Warm up on a side stream, undo what that changed, and record on copies of the arguments."""
        static = clone(args)
        self.inputs = leaves(static)
        state = [tensor for owner in self.owners for tensor in tensors_of(owner)]
        saved = [tensor.detach().clone() for tensor in state]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(self.warm_up):
                self.phase(*static)
        torch.cuda.current_stream().wait_stream(stream)
        with torch.no_grad():
            torch._foreach_copy_(state, saved)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.outputs = self.phase(*static)


def tensors_of(owner: Owner) -> list[Tensor]:
    """Return every tensor that a module, optimiser or tensor keeps between two calls."""
    if isinstance(owner, Tensor):
        return [owner]
    if isinstance(owner, nn.Module):
        return [*owner.parameters(), *owner.buffers()]
    return [value for state in owner.state.values() for value in state.values() if isinstance(value, Tensor)]


def leaves(tree: Any) -> list[Tensor]:
    """Return the tensors of nested tuples, in order."""
    return [tree] if isinstance(tree, Tensor) else [leaf for child in tree for leaf in leaves(child)]


def clone(tree: Any) -> Any:
    """Return nested (named) tuples with every tensor copied."""
    return each_tensor(Tensor.clone, tree)


def each_tensor(of: Callable[[Tensor], Tensor], tree: Any) -> Any:
    """Return nested (named) tuples with every tensor replaced by `of` it."""
    if isinstance(tree, Tensor):
        return of(tree)
    children = [each_tensor(of, child) for child in tree]
    return type(tree)(*children) if hasattr(tree, "_fields") else tuple(children)
