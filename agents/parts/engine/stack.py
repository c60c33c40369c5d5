"""Forward and backward of stacked networks: in PyTorch, for any device and type, and in native code."""

from __future__ import annotations

import ctypes
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from surefoot.agents.parts.engine import native

ACTIVATIONS = {"relu": 1, "tanh": 2, "swish": 3}  # as kernels.cpp numbers them


class Parameters(NamedTuple):
    """A stack of E networks: weights (E, in, out) and biases (E, 1, out), layer by layer."""

    weights: Sequence[Tensor]
    biases: Sequence[Tensor]
    activation: str


class Tape(NamedTuple):
    """What a forward keeps for its backward."""

    x: Tensor  # (B, in) or (E, B, in)
    hidden: Any  # activations (E, B, width) of every hidden layer
    before: Any  # what the activation was given


class Kernels(Protocol):
    """One implementation of the primitives."""

    engine: str

    def forward(self, net: Parameters, x: Tensor, *, keep: bool) -> tuple[Tensor, Tape | None]:
        """Map (B, in), seen by every member, or (E, B, in) to (E, B, out)."""

    def backward(
        self, net: Parameters, tape: Tape, grad: Tensor, gradients: Parameters | None, *, inputs: bool
    ) -> Tensor | None:
        """Add to `gradients` the gradient by the weights, given the output's; return the inputs' (E, B, in)."""


# --- PyTorch ----------------------------------------------------------------------------------------------------------


class TorchKernels:
    """The primitives in PyTorch operations."""

    engine = "torch"

    def forward(self, net: Parameters, x: Tensor, *, keep: bool) -> tuple[Tensor, Tape | None]:
        tape = Tape(x, [], [])
        for weight, bias in zip(net.weights[:-1], net.biases[:-1], strict=True):
            before = torch.baddbmm(bias, _stacked(x, weight), weight)
            x = FORWARD[net.activation](before)
            tape.hidden.append(x)
            tape.before.append(before)
        return torch.baddbmm(net.biases[-1], _stacked(x, net.weights[-1]), net.weights[-1]), tape if keep else None

    def backward(
        self, net: Parameters, tape: Tape, grad: Tensor, gradients: Parameters | None, *, inputs: bool
    ) -> Tensor | None:
        for i in range(len(net.weights) - 1, -1, -1):
            if gradients is not None:
                below = tape.hidden[i - 1] if i else _stacked(tape.x, net.weights[0])
                gradients.weights[i].baddbmm_(below.mT, grad)
                gradients.biases[i].add_(grad.sum(1, keepdim=True))
            if i:
                grad = torch.bmm(grad, net.weights[i].mT)
                grad = GATE[net.activation](grad, tape.hidden[i - 1], tape.before[i - 1])
        return torch.bmm(grad, net.weights[0].mT) if inputs else None


def _stacked(x: Tensor, weight: Tensor) -> Tensor:
    return x.expand(len(weight), -1, -1) if x.dim() == 2 else x


FORWARD: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh, "swish": F.silu}
GATE: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {  # autograd's own, of what came out and what went in
    "relu": lambda grad, h, x: torch.ops.aten.threshold_backward(grad, h, 0),
    "tanh": lambda grad, h, x: torch.ops.aten.tanh_backward(grad, h),
    "swish": lambda grad, h, x: torch.ops.aten.silu_backward(grad, x),
}


# --- native -----------------------------------------------------------------------------------------------------------


class NativeKernels:
    """The primitives of kernels.cpp: float32 on a CPU."""

    engine = "native"

    def __init__(self, library: ctypes.CDLL | None = None) -> None:
        self.library = library or native.library()
        self.descriptions: dict[tuple[Any, ...], Description] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> NativeKernels:
        return self

    def described(self, net: Parameters) -> Description:
        """Return what the library is told of a stack."""
        key = (net.activation, *(t.data_ptr() for t in net.weights), *(t.data_ptr() for t in net.biases))
        known = self.descriptions.get(key)
        if known is None or known.shapes != [w.shape for w in net.weights]:
            known = self.descriptions[key] = Description(net)
        return known

    def forward(self, net: Parameters, x: Tensor, *, keep: bool) -> tuple[Tensor, Tape | None]:
        stack, members = self.described(net), len(net.weights[0])
        widths = stack.outputs
        stack.require(x)
        x = x if x.stride(-1) == 1 else x.contiguous()
        rows = x.shape[-2]
        out = torch.empty(members, rows, widths[-1])
        hidden = Kept(widths[:-1], members * rows) if keep else None
        before = Kept(widths[:-1], members * rows) if keep and net.activation == "swish" else None
        self.library.stack_forward(
            stack.address,
            rows,
            x.data_ptr(),
            x.stride(0) if x.dim() == 3 else 0,
            x.stride(-2),
            hidden and hidden.addresses,
            before and before.addresses,
            out.data_ptr(),
            torch.get_num_threads(),
        )
        return out, Tape(x, hidden, before) if keep else None

    def backward(
        self, net: Parameters, tape: Tape, grad: Tensor, gradients: Parameters | None, *, inputs: bool
    ) -> Tensor | None:
        grad, x = grad.contiguous(), tape.x
        stack, members, rows, width = self.described(net), len(grad), x.shape[-2], x.shape[-1]
        grad_x = torch.empty(members, rows, width) if inputs else None
        self.library.stack_backward(
            stack.address,
            rows,
            x.data_ptr(),
            x.stride(0) if x.dim() == 3 else 0,
            x.stride(-2),
            tape.hidden.addresses,
            tape.before and tape.before.addresses,
            grad.data_ptr(),
            native.addresses(gradients.weights) if gradients else None,
            native.addresses(gradients.biases) if gradients else None,
            grad_x.data_ptr() if grad_x is not None else None,
            0,
            width,
            torch.get_num_threads(),
        )
        return grad_x


class Kept:
    """Rows of every hidden layer's width, in one piece of memory."""

    def __init__(self, widths: Sequence[int], rows: int) -> None:
        starts = list(itertools.accumulate([rows * width for width in widths], initial=0))
        self.memory = torch.empty(starts[-1])
        base = self.memory.data_ptr()
        self.addresses = (native.POINTER * len(widths))(*[base + 4 * start for start in starts[:-1]])


class Description:
    """A `native.Stack` and the arrays it points to."""

    def __init__(self, net: Parameters) -> None:
        if any(t.dtype != torch.float32 or not t.is_contiguous() for t in (*net.weights, *net.biases)):
            raise ValueError("the native engine computes contiguous float32 weights only; pass --engine torch")
        self.shapes = [w.shape for w in net.weights]
        widths = [self.shapes[0][1], *(shape[2] for shape in self.shapes)]
        self.outputs = widths[1:]
        self.widths = (native.INTEGER * len(widths))(*widths)
        self.weights, self.biases = native.addresses(net.weights), native.addresses(net.biases)
        pointers = (ctypes.cast(a, native.POINTER) for a in (self.widths, self.weights, self.biases))
        self.stack = native.Stack(len(net.weights[0]), len(net.weights), ACTIVATIONS[net.activation], *pointers)
        self.address = ctypes.addressof(self.stack)

    def require(self, x: Tensor) -> None:
        """Raise `ValueError` for an input that the library would read beyond, or read as what it is not."""
        members, inputs, _ = self.shapes[0]
        fits = x.dim() == 2 or (x.dim() == 3 and len(x) == members)
        if not fits or x.shape[-1] != inputs or x.dtype != torch.float32 or x.device.type != "cpu":
            raise ValueError(
                f"an input {tuple(x.shape)} of {x.dtype} on {x.device}, where {members} stacked networks take "
                f"(rows, {inputs}) or ({members}, rows, {inputs}) of float32 on the CPU"
            )


def require_first_derivative() -> None:
    """Raise `RuntimeError` in a backward that is to be differentiated itself: it would come out as a constant."""
    if torch.is_grad_enabled():
        raise RuntimeError("create_graph: the engine's networks have first derivatives only; pass --engine eager")


class TanhGaussianNode(torch.autograd.Function):
    """Action and log-probability of a tanh-Gaussian sample, and their gradient, as one kernel each."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, outputs: Tensor, affine: Tensor, noise: Tensor, bounds: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        if outputs.shape != (len(noise), 2 * noise.shape[1]) or not outputs.dtype == noise.dtype == torch.float32:
            raise ValueError(f"outputs {tuple(outputs.shape)} do not go with noise {tuple(noise.shape)}, both float32")
        ctx.of = outputs.contiguous(), affine.contiguous(), noise.contiguous()
        action, log_prob = torch.empty(noise.shape), torch.empty(len(noise))
        ctx.bounds, ctx.library = bounds, native.library()
        ctx.library.tanh_gaussian(
            *noise.shape, *(t.data_ptr() for t in ctx.of), *bounds, action.data_ptr(), log_prob.data_ptr()
        )
        return action, log_prob

    @staticmethod
    def backward(ctx: Any, by_action: Tensor, by_log_prob: Tensor) -> tuple[Tensor, Tensor, None, None]:  # type: ignore[override]
        require_first_derivative()
        outputs, affine, noise = ctx.of
        by_action, by_log_prob = by_action.contiguous(), by_log_prob.contiguous()
        by_outputs, by_affine = torch.empty_like(outputs), torch.empty_like(affine)
        ctx.library.tanh_gaussian_backward(
            *noise.shape,
            *(t.data_ptr() for t in ctx.of),
            *ctx.bounds,
            *(t.data_ptr() for t in (by_action, by_log_prob, by_outputs, by_affine)),
        )
        return by_outputs, by_affine, None, None


# --- as a node of autograd's graph ------------------------------------------------------------------------------------


class StackNode(torch.autograd.Function):
    """One forward of a stack. Gradients of its weights are added to their `.grad`, as `backward` would leave them.

    `anchor` is one of the weights where these are wanted: it makes the output require a gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor | None, kernels: Kernels, net: Parameters) -> Tensor:  # type: ignore[override]
        out, ctx.tape = kernels.forward(net, x, keep=True)
        ctx.kernels, ctx.net, ctx.shared = kernels, net, x.dim() == 2
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None]:  # type: ignore[override]
        require_first_derivative()
        inputs, anchor, *_ = ctx.needs_input_grad
        # In `autograd.grad` by something else the weights' gradients must stay as they are.
        learns = anchor and torch._C._will_engine_execute_node(ctx.next_functions[1][0])  # type: ignore[attr-defined]
        gradients = gradients_of(ctx.net) if learns else None
        grad_x = ctx.kernels.backward(ctx.net, ctx.tape, grad, gradients, inputs=inputs)
        if grad_x is not None and ctx.shared:
            grad_x = grad_x.sum(0) if len(grad_x) > 1 else grad_x[0]
        return grad_x, None, None, None


def gradients_of(net: Parameters) -> Parameters:
    """Return where the gradients of a stack are kept, made if there are none."""

    def grads(parameters: Sequence[Tensor]) -> list[Tensor]:
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return [parameter.grad for parameter in parameters]  # type: ignore[misc]

    return Parameters(grads(net.weights), grads(net.biases), net.activation)


def run(kernels: Kernels, net: Parameters, x: Tensor, *, frozen: bool) -> Tensor:
    """Return the outputs (E, B, out) of a stack; `frozen`: no gradient into its weights."""
    learns = not frozen and net.weights[0].requires_grad
    if torch.is_grad_enabled() and (learns or x.requires_grad):
        out: Tensor = StackNode.apply(x, net.weights[0] if learns else None, kernels, net)
        return out
    with torch.no_grad():  # PyTorch's operations would record the weights of a frozen network
        return kernels.forward(net, x, keep=False)[0]


@functools.cache
def kernels_of(engine: str) -> Kernels:
    """Return the primitives of an engine."""
    return NativeKernels() if engine == "native" else TorchKernels()
