"""Adam over one flat tensor a group: parameters, gradients and moments are views of four tensors."""

from __future__ import annotations

from inspect import unwrap
from typing import Any

import torch
from torch import Tensor

from surefoot.agents.parts.engine import native
from surefoot.agents.parts.engine.flat import Flat

STATE = ("exp_avg", "exp_avg_sq")


class Moments(Flat):
    """Parameters, their gradients and Adam's two moments."""

    def __init__(self, parameters: list[torch.nn.Parameter]) -> None:
        super().__init__(parameters)
        self.gradient, self.mean, self.square = (torch.zeros_like(self.values) for _ in range(3))
        self.gradients = self.views(self.gradient)
        self.collect()

    def collect(self) -> None:
        """Take in gradients that lie elsewhere: after `Module.zero_grad`, autograd or a kernel makes new ones."""
        for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
            if parameter.grad is not gradient:
                gradient.zero_() if parameter.grad is None else gradient.copy_(parameter.grad)
                parameter.grad = gradient


class Adam(torch.optim.Adam):
    """`torch.optim.Adam`, of which no method imports the compiler, a second and more, for runs that compile nothing.

    PyTorch's wrappers of these methods keep the compiler from tracing them, and import it when first called.
    """

    step = torch.no_grad()(unwrap(torch.optim.Adam.step))
    add_param_group = unwrap(torch.optim.Adam.add_param_group)
    zero_grad = unwrap(torch.optim.Adam.zero_grad)
    state_dict = unwrap(torch.optim.Adam.state_dict)
    load_state_dict = unwrap(torch.optim.Adam.load_state_dict)


class FlatAdam(Adam):
    """`torch.optim.Adam` with the same state, whose step is one kernel a group and leaves gradients of zero.

    A parameter that a loss leaves out has a gradient of zero and moves on by its moments; PyTorch's passes over it.
    """

    def __init__(self, groups: list[dict[str, Any]], lr: float, eps: float, *, is_native: bool) -> None:
        super().__init__(groups, lr=lr, eps=eps)
        self.is_native, self.steps = is_native, 0
        self.flat = [Moments(group["params"]) for group in self.param_groups]
        self._attach_state()

    def _attach_state(self) -> None:
        self.step_tensor = torch.full((sum(len(group.parameters) for group in self.flat),), float(self.steps))
        each = iter(self.step_tensor)  # one a parameter: PyTorch's Adam, given this state, counts in each of them
        for group in self.flat:
            moments = group.views(group.mean), group.views(group.square)
            for parameter, *pair in zip(group.parameters, *moments, strict=True):
                self.state[parameter] = {"step": next(each), **dict(zip(STATE, pair, strict=True))}

    @property
    def steps_taken(self) -> int:
        """The number of steps, as the state has it: that of a part of a larger optimiser is counted there."""
        return int(max((float(s["step"]) for s in self.state.values() if "step" in s), default=0))

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set every gradient to zero, in place."""
        for group in self.flat:
            group.collect()
            group.gradient.zero_()

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One step of every group."""
        self.take()

    def take(self, target: Tensor | None = None, tau: float = 0.0) -> None:
        """`step`, without the hooks that PyTorch calls around it; then a flat target moves by `tau` towards it."""
        self.steps += 1
        self.step_tensor.fill_(self.steps)
        for group, flat in zip(self.param_groups, self.flat, strict=True):
            flat.collect()
            if self.is_native:
                native_step(flat, group, self.steps, target, tau)
            else:
                torch_step(flat, group, self.steps)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a state of this class or of `torch.optim.Adam`."""
        super().load_state_dict(state)
        for group in self.flat:
            for name, flat in zip(STATE, (group.mean, group.square), strict=True):
                for view, parameter in zip(group.views(flat), group.parameters, strict=True):
                    view.copy_(self.state[parameter][name]) if name in self.state[parameter] else view.zero_()
        self.steps = self.steps_taken
        self._attach_state()


def native_step(flat: Moments, group: dict[str, Any], steps: int, target: Tensor | None, tau: float) -> None:
    tensors = (flat.values, flat.mean, flat.square, flat.gradient)
    beta1, beta2 = group["betas"]
    native.library().adam_step(
        flat.values.shape[0],
        *(tensor.data_ptr() for tensor in tensors),
        *(group["lr"], beta1, beta2, group["eps"], group["weight_decay"]),
        float(steps),
        None if target is None else target.data_ptr(),
        tau,
        torch.get_num_threads(),
    )


@torch.no_grad()
def torch_step(flat: Moments, group: dict[str, Any], steps: int) -> None:
    beta1, beta2 = group["betas"]
    gradient = flat.gradient
    if group["weight_decay"]:
        gradient = gradient.add(flat.values, alpha=group["weight_decay"])
    flat.mean.lerp_(gradient, 1 - beta1)
    flat.square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    root = (1 - beta2**steps) ** 0.5
    scale = (flat.square.sqrt() / root).add_(group["eps"])
    flat.values.addcdiv_(flat.mean, scale, value=-group["lr"] / (1 - beta1**steps))
    flat.gradient.zero_()
