"""Forward and backward of stacked networks: in PyTorch, for any device and type, and in native code."""

from __future__ import annotations

import copy
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


class Parameters:
    """A stack of E networks: weights (E, in, out) and biases (E, 1, out), layer by layer."""

    __slots__ = ("activation", "biases", "description", "weights")

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor], activation: str) -> None:
        self.weights, self.biases, self.activation = weights, biases, activation
        self.description: Description | None = None  # what native code is told of it

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameters:
        return Parameters(copy.deepcopy(self.weights, memo), copy.deepcopy(self.biases, memo), self.activation)

    def gradients(self) -> Parameters:
        """Return where the gradients are kept, made if there are none."""
        for parameter in (*self.weights, *self.biases):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return Parameters([w.grad for w in self.weights], [b.grad for b in self.biases], self.activation)  # type: ignore[misc]


class Tape(NamedTuple):
    """What a forward keeps for its backward."""

    x: Tensor  # (B, in) or (E, B, in)
    hidden: Any  # activations (E, B, width) of every hidden layer
    before: Any  # what the activation was given; native: of swish its derivative there


class Kernels(Protocol):
    """One implementation of the primitives."""

    engine: str

    def forward(self, net: Parameters, x: Tensor, *, keep: bool) -> tuple[Tensor, Tape]:
        """Map (B, in), seen by every member, or (E, B, in) to (E, B, out); `keep` what a backward needs."""

    def backward(self, net: Parameters, tape: Tape, grad: Tensor, *, weights: bool, columns: tuple[int, int]) -> Tensor:
        """Add the gradient by the weights to theirs, given the output's; return the inputs' (E, B, last − first).

        `columns` are first and last; two equal ones: none are wanted.
        """


# --- PyTorch ----------------------------------------------------------------------------------------------------------


class TorchKernels:
    """The primitives in PyTorch operations."""

    engine = "torch"

    def forward(self, net: Parameters, x: Tensor, *, keep: bool) -> tuple[Tensor, Tape]:
        tape = Tape(x, [], [])
        for weight, bias in zip(net.weights[:-1], net.biases[:-1], strict=True):
            before = torch.baddbmm(bias, _stacked(x, weight), weight)
            x = FORWARD[net.activation](before)
            tape.hidden.append(x)
            tape.before.append(before)
        return torch.baddbmm(net.biases[-1], _stacked(x, net.weights[-1]), net.weights[-1]), tape

    def backward(self, net: Parameters, tape: Tape, grad: Tensor, *, weights: bool, columns: tuple[int, int]) -> Tensor:
        gradients = net.gradients() if weights else None
        for i in range(len(net.weights) - 1, -1, -1):
            if gradients is not None:
                below = tape.hidden[i - 1] if i else _stacked(tape.x, net.weights[0])
                gradients.weights[i].baddbmm_(below.mT, grad)
                gradients.biases[i].add_(grad.sum(1, keepdim=True))
            if i:
                grad = torch.bmm(grad, net.weights[i].mT)
                grad = GATE[net.activation](grad, tape.hidden[i - 1], tape.before[i - 1])
        return torch.bmm(grad, net.weights[0][:, slice(*columns)].mT)


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
    """The primitives of kernels.cpp: float32 on a CPU, or the products of wide layers in bf16."""

    def __init__(self, library: ctypes.CDLL | None = None, engine: str = "native") -> None:
        self.library, self.engine = library or native.library(native.PRECISIONS[engine]), engine

    def __deepcopy__(self, memo: dict[int, Any]) -> NativeKernels:
        return self

    def forward(self, net: Parameters, x: Tensor, *, keep: bool) -> tuple[Tensor, Tape]:
        stack = described(net)
        stack.require(x)
        members, widths = stack.members, stack.outputs
        x = x if x.stride(-1) == 1 else x.contiguous()
        rows = x.shape[-2]
        out = torch.empty(members, rows, widths[-1])
        hidden = Kept(widths[:-1], members * rows, stack.spare) if keep else None
        before = Kept(widths[:-1], members * rows, stack.spare) if keep and net.activation == "swish" else None
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
        return out, Tape(x, hidden, before)

    def backward(self, net: Parameters, tape: Tape, grad: Tensor, *, weights: bool, columns: tuple[int, int]) -> Tensor:
        grad, x = grad.contiguous(), tape.x
        stack, (first, last), rows = described(net), columns, x.shape[-2]
        if weights:
            stack.note_gradients(net)
        grad_x = torch.empty(grad.shape[0], rows, last - first)
        self.library.stack_backward(
            stack.address,
            rows,
            x.data_ptr(),
            x.stride(0) if x.dim() == 3 else 0,
            x.stride(-2),
            tape.hidden.addresses,
            tape.before and tape.before.addresses,
            grad.data_ptr(),
            stack.gradients if weights else None,
            stack.bias_gradients if weights else None,
            grad_x.data_ptr() if last > first else None,
            first,
            last,
            torch.get_num_threads(),
        )
        return grad_x


class Kept:
    """Rows of every hidden layer's width, in one piece of memory that goes back to `spare` with the last who has it.

    Megabytes that are freed go back to the system, and come back as pages that it fills with zeros at first touch.
    """

    def __init__(self, widths: Sequence[int], rows: int, spare: list[Tensor]) -> None:
        starts = list(itertools.accumulate([rows * width for width in widths], initial=0))
        self.spare, self.memory = spare, spare.pop() if spare else torch.empty(0)
        if len(self.memory) != starts[-1]:
            self.memory = torch.empty(starts[-1])
        base = self.memory.data_ptr()
        self.addresses = (native.POINTER * len(widths))(*[base + 4 * start for start in starts[:-1]])

    def __del__(self) -> None:
        self.spare.append(self.memory)


class Description:
    """A `native.Stack` and the arrays it points to."""

    def __init__(self, net: Parameters) -> None:
        if any(t.dtype != torch.float32 or not t.is_contiguous() for t in (*net.weights, *net.biases)):
            raise ValueError("the native engine computes contiguous float32 weights only; pass --engine torch")
        widths = [net.weights[0].shape[1], *(w.shape[2] for w in net.weights)]
        self.first, self.members, self.inputs = net.weights[0].data_ptr(), net.weights[0].shape[0], widths[0]
        self.outputs = widths[1:]
        self.spare: list[Tensor] = []  # memory of tapes that are done with: of no more than lived at one time
        self.kept: Parameters | None = None  # gradients, once they are wanted, and their addresses
        self.gradients: Any = None
        self.bias_gradients: Any = None
        self.widths = (native.INTEGER * len(widths))(*widths)
        self.weights, self.biases = native.addresses(net.weights), native.addresses(net.biases)
        pointers = (ctypes.cast(a, native.POINTER) for a in (self.widths, self.weights, self.biases))
        self.stack = native.Stack(len(net.weights[0]), len(net.weights), ACTIVATIONS[net.activation], *pointers)
        self.address = ctypes.addressof(self.stack)

    def require(self, x: Tensor) -> None:
        """Raise `ValueError` for an input that the library would read beyond, or read as what it is not."""
        fits = x.dim() == 2 or (x.dim() == 3 and x.shape[0] == self.members)
        if not fits or x.shape[-1] != self.inputs or x.dtype != torch.float32 or x.device.type != "cpu":
            raise ValueError(
                f"an input {tuple(x.shape)} of {x.dtype} on {x.device}, where {self.members} stacked networks take "
                f"(rows, {self.inputs}) or ({self.members}, rows, {self.inputs}) of float32 on the CPU"
            )

    def note_gradients(self, net: Parameters) -> None:
        """Take the addresses of the gradients, unless they are known."""
        if self.kept is None or self.kept.weights[0] is not net.weights[0].grad:
            self.kept = net.gradients()
            self.gradients, self.bias_gradients = map(native.addresses, (self.kept.weights, self.kept.biases))


def require_first_derivative() -> None:
    """Raise `RuntimeError` in a backward that is to be differentiated itself: it would come out as a constant."""
    if torch.is_grad_enabled():
        raise RuntimeError("create_graph: the engine's networks have first derivatives only; pass --engine eager")


def described(net: Parameters) -> Description:
    """Return what native code is told of a stack, made anew where its tensors have moved."""
    if net.description is None or net.description.first != net.weights[0].data_ptr():
        net.description = Description(net)
    return net.description


class SampleTape(NamedTuple):
    """What a sample of a tanh-Gaussian keeps for its backward; for S seeds side by side all have a first axis S."""

    outputs: Tensor  # (B, 2·act): mean, and what makes log std
    affine: Tensor  # (2,)
    bounds: tuple[float, float]  # of log std
    action: Tensor  # (B, act)
    spread: Tensor  # (B, act), std·noise
    of_net: Tape | None = None


def sample(
    outputs: Tensor, affine: Tensor, noise: Tensor, bounds: tuple[float, float], of_net: Tape | None = None
) -> tuple[Tensor, Tensor, SampleTape]:
    """Return action (B, act), log-probability (B,) and what the backward needs of them."""
    wanted = (*noise.shape[:-1], 2 * noise.shape[-1])
    if outputs.shape != wanted or not outputs.dtype == noise.dtype == torch.float32:
        raise ValueError(f"outputs {tuple(outputs.shape)} do not go with noise {tuple(noise.shape)}, both float32")
    if not outputs.is_contiguous() or not noise.is_contiguous():
        raise ValueError("outputs and noise of a sample must be contiguous")
    action, log_prob, spread = torch.empty(noise.shape), torch.empty(noise.shape[:-1]), torch.empty(noise.shape)
    parts = native.by_seed(log_prob, outputs, affine, noise, action, log_prob, spread)
    for of_outputs, of_affine, of_noise, *results in parts:
        native.library().tanh_gaussian(*noise.shape[-2:], of_outputs, of_affine, of_noise, *bounds, *results)
    return action, log_prob, SampleTape(outputs, affine, bounds, action, spread, of_net)


def sample_backward(tape: SampleTape, by_action: Tensor, by_log_prob: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients by outputs and affine, from those by action and log-probability."""
    by_action, by_log_prob = by_action.contiguous(), by_log_prob.contiguous()
    by_outputs, by_affine = torch.empty_like(tape.outputs), torch.empty(tape.affine.shape)
    tensors = (tape.action, tape.spread, by_action, by_log_prob, by_outputs, by_affine)
    for of_outputs, of_affine, *others in native.by_seed(by_log_prob, tape.outputs, tape.affine, *tensors):
        shape = tape.action.shape[-2:]
        native.library().tanh_gaussian_backward(*shape, of_outputs, of_affine, *tape.bounds, *others)
    return by_outputs, by_affine


class SampleNode(torch.autograd.Function):
    """`sample` in autograd's graph."""

    @staticmethod
    def forward(
        ctx: Any, outputs: Tensor, affine: Tensor, noise: Tensor, bounds: tuple[float, float]
    ) -> tuple[Tensor, Tensor]:
        action, log_prob, ctx.tape = sample(outputs.contiguous(), affine.contiguous(), noise.contiguous(), bounds)
        return action, log_prob

    @staticmethod
    def backward(ctx: Any, by_action: Tensor, by_log_prob: Tensor) -> tuple[Tensor, Tensor, None, None]:
        require_first_derivative()
        return *sample_backward(ctx.tape, by_action, by_log_prob), None, None


def run_sample(outputs: Tensor, affine: Tensor, noise: Tensor, bounds: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Return action and log-probability; differentiable where gradients are wanted."""
    if torch.is_grad_enabled():
        pair: tuple[Tensor, Tensor] = SampleNode.apply(outputs, affine, noise, bounds)  # type: ignore[no-untyped-call]
        return pair
    return sample(outputs.contiguous(), affine, noise.contiguous(), bounds)[:2]


# --- as a node of autograd's graph ------------------------------------------------------------------------------------


class StackNode(torch.autograd.Function):
    """One forward of a stack. Gradients of its weights are added to their `.grad`, as `backward` would leave them.

    `anchor` is one of the weights where these are wanted: it makes the output require a gradient.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, anchor: Tensor | None, kernels: Kernels, net: Parameters) -> Tensor:
        out, ctx.tape = kernels.forward(net, x, keep=True)
        ctx.kernels, ctx.net = kernels, net
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, None]:
        require_first_derivative()
        inputs, anchor, *_ = ctx.needs_input_grad
        # In `autograd.grad` by something else the weights' gradients must stay as they are.
        learns = anchor and torch._C._will_engine_execute_node(ctx.next_functions[1][0])
        columns = (0, ctx.tape.x.shape[-1] if inputs else 0)
        grad_x = ctx.kernels.backward(ctx.net, ctx.tape, grad, weights=learns, columns=columns)
        if not inputs:
            return None, None, None, None
        return grad_x.sum(0) if ctx.tape.x.dim() == 2 else grad_x, None, None, None


def run(kernels: Kernels, net: Parameters, x: Tensor, *, frozen: bool) -> Tensor:
    """Return the outputs (E, B, out) of a stack; `frozen`: no gradient into its weights."""
    learns = not frozen and net.weights[0].requires_grad
    if torch.is_grad_enabled() and (learns or x.requires_grad):
        out: Tensor = StackNode.apply(x, net.weights[0] if learns else None, kernels, net)  # type: ignore[no-untyped-call]
        return out
    with torch.no_grad():  # PyTorch's operations would record the weights of a frozen network
        return kernels.forward(net, x, keep=False)[0]


@functools.cache
def kernels_of(engine: str) -> Kernels:
    """Return the primitives of an engine."""
    return NativeKernels(engine=engine) if engine in native.PRECISIONS else TorchKernels()
