"""Networks that several agents use: MLPs, stacked ensembles of MLPs, and the tanh-Gaussian policy."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from surefoot.agents.parts.acceleration import uncompiled
from surefoot.agents.parts.engine import stack
from surefoot.agents.parts.engine.flat import flat_pair

LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0  # Haarnoja et al. 2018, the authors' code


def uniform_(tensor: Tensor, fan_in: int, generator: torch.Generator) -> Tensor:
    """Fill as PyTorch initialises a linear layer, U(±1/√fan_in), but from an owned generator."""
    bound = 1.0 / math.sqrt(fan_in)
    with torch.no_grad():
        return tensor.uniform_(-bound, bound, generator=generator)


def xavier_last_(weight: Tensor, bias: Tensor, gain: float, generator: torch.Generator) -> None:
    """Xavier-uniform with `gain` for a (…, in, out) weight, zero for its bias (H2O's output layers)."""
    bound = gain * math.sqrt(6.0 / (weight.shape[-2] + weight.shape[-1]))
    with torch.no_grad():
        weight.uniform_(-bound, bound, generator=generator)
        bias.zero_()


def batched_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x @ weight + bias for x (E, B, in), weight (E, in, out), bias (E, 1, out)."""
    if weight.shape[-1] > 1:
        return torch.baddbmm(bias, x, weight)
    # A product with a single column takes the slow path of CPU BLAS: 5 times the time of multiply-and-sum, both ways.
    return (x * weight.mT).sum(-1, keepdim=True) + bias


def listed(parameters: nn.ParameterList) -> list[Tensor]:
    """Return the tensors of a ParameterList. By index: torch.compile of PyTorch 2.11 cannot unpack one with `*`."""
    return [parameters[i] for i in range(len(parameters))]


Activation = Literal["relu", "tanh", "swish"]
ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {"relu": torch.relu_, "tanh": torch.tanh_, "swish": F.silu}


class StackedMLP(nn.Module):
    """E networks of one shape as one set of (E, in, out) weights: one batched product per layer, not E.

    Weights start as PyTorch's default for linear layers. `last_gain` makes the output layer Xavier-uniform instead,
    `last_scale` multiplies its weights; both zero its bias. `layer_norm` puts one before every activation.
    """

    def __init__(
        self,
        stack_size: int,
        in_dim: int,
        hidden: Sequence[int],
        out_dim: int,
        *,
        generator: torch.Generator,
        last_gain: float | None = None,
        last_scale: float | None = None,
        activation: Activation = "relu",
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        sizes = [in_dim, *hidden, out_dim]
        shapes = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList(uniform_(torch.empty(stack_size, i, o), i, generator) for i, o in shapes)
        self.biases = nn.ParameterList(uniform_(torch.empty(stack_size, 1, o), i, generator) for i, o in shapes)
        normed = hidden if layer_norm else ()
        self.gains = nn.ParameterList(torch.ones(stack_size, 1, width) for width in normed)
        self.shifts = nn.ParameterList(torch.zeros(stack_size, 1, width) for width in normed)
        self.activation, self.activate = activation, ACTIVATIONS[activation]
        self.computed_by: tuple[stack.Kernels, stack.Parameters] | None = None  # None: autograd's operations
        if last_gain is not None:
            xavier_last_(self.weights[-1], self.biases[-1], last_gain, generator)
        if last_scale is not None:
            with torch.no_grad():
                self.weights[-1].mul_(last_scale)
                self.biases[-1].zero_()

    def tensors(self) -> list[Tensor]:
        """Return weights, biases, gains and shifts, each layer by layer."""
        return [*listed(self.weights), *listed(self.biases), *listed(self.gains), *listed(self.shifts)]

    @property
    def is_native(self) -> bool:
        return self.computed_by is not None and isinstance(self.computed_by[0], stack.NativeKernels)

    def compute_by(self, kernels: stack.Kernels) -> bool:
        """Let kernels compute the network from now on, if they can; return whether."""
        if self.gains or is_parametrized(self.weights):
            return False
        self.computed_by = kernels, stack.Parameters(listed(self.weights), listed(self.biases), self.activation)
        return True

    def record(self, x: Tensor, *, keep: bool = True) -> tuple[Tensor, stack.Tape]:
        """Return outputs (E, B, out) without a gradient, and what `backpropagate` needs of them if it is to `keep`."""
        assert self.computed_by is not None, "only where kernels compute it"
        kernels, net = self.computed_by
        return kernels.forward(net, x, keep=keep)

    def backpropagate(
        self, tape: stack.Tape, grad: Tensor, *, weights: bool = True, columns: tuple[int, int] = (0, 0)
    ) -> Tensor:
        """Add the weights' gradient, given the outputs'; return the inputs' (E, B, …) in a range of columns."""
        assert self.computed_by is not None, "only where kernels compute it"
        kernels, net = self.computed_by
        return kernels.backward(net, tape, grad, weights=weights, columns=columns)

    def forward(self, x: Tensor, parameters: Sequence[Tensor] | None = None, *, frozen: bool = False) -> Tensor:
        """Map (B, in), seen by every member, or (E, B, in) to (E, B, out); `frozen`: no gradient into the weights.

        `parameters` stand in for the module's own, in the order of `tensors`, of as many members as they have.
        """
        if self.computed_by is not None and (parameters is None or not torch.is_grad_enabled()):
            kernels, net = self.computed_by
            if parameters is not None:
                layers = len(net.weights)
                net = stack.Parameters(parameters[:layers], parameters[layers:], self.activation)
            return stack.run(kernels, net, x, frozen=frozen)
        own = self.tensors() if parameters is None else list(parameters)
        if frozen:
            own = [parameter.detach() for parameter in own]
        layers = len(self.weights)
        weights, biases, norms = own[:layers], own[layers : 2 * layers], own[2 * layers :]
        if x.dim() == 2:
            x = x.expand(weights[0].shape[0], -1, -1)
        for i, (weight, bias) in enumerate(zip(weights[:-1], biases[:-1], strict=True)):
            x = torch.baddbmm(bias, x, weight)
            if norms:
                x = F.layer_norm(x, x.shape[-1:]) * norms[i] + norms[layers - 1 + i]
            x = self.activate(x)
        return batched_linear(x, weights[-1], biases[-1])


class MLP(StackedMLP):
    """One ReLU network: a stack of one."""

    def __init__(
        self,
        in_dim: int,
        hidden: Sequence[int],
        out_dim: int,
        *,
        generator: torch.Generator,
        last_gain: float | None = None,
    ) -> None:
        super().__init__(1, in_dim, hidden, out_dim, generator=generator, last_gain=last_gain)

    def forward(self, x: Tensor, *, frozen: bool = False) -> Tensor:  # type: ignore[override]
        """Map (B, in) to (B, out)."""
        return super().forward(x, frozen=frozen).squeeze(0)


class TwinQ(StackedMLP):
    """Two state-action values as one parameter set."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        *,
        generator: torch.Generator,
        last_gain: float | None = None,
    ) -> None:
        super().__init__(2, obs_dim + action_dim, hidden, 1, generator=generator, last_gain=last_gain)

    def forward(self, obs: Tensor, action: Tensor, *, frozen: bool = False) -> Tensor:  # type: ignore[override]
        """Map (B, obs) and (B, act), or rows (2, B, …) for each of the two, to (2, B)."""
        return super().forward(torch.cat([obs, action], -1), frozen=frozen).squeeze(-1)


def tanh_gaussian_log_prob(noise: Tensor, log_std: Tensor, pre_tanh: Tensor) -> Tensor:
    """Return log π(a) (B,) of a = tanh(u), u = mean + std·noise, all (B, act).

    log(1 − tanh²u) is written as 2(log 2 − u − softplus(−2u)): exact for large |u|, where 1 − tanh²u is 0 in float32.
    """
    gaussian = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
    correction = 2.0 * (math.log(2.0) - pre_tanh - F.softplus(-2.0 * pre_tanh))
    return (gaussian - correction).sum(-1)


class TanhGaussianPolicy(nn.Module):
    """π(a|s): tanh of a Gaussian with state-dependent mean and std (Haarnoja et al. 2018, appendix C).

    log std = c₁·raw + c₂: (1, 0) and fixed in standard SAC, learned from (1, −1) in H2O's code. It is clipped to
    [`log_std_min`, 2].
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        *,
        generator: torch.Generator,
        log_std_offset: float = 0.0,
        learn_log_std_affine: bool = False,
        log_std_min: float = LOG_STD_MIN,
        last_gain: float | None = None,
    ) -> None:
        super().__init__()
        self.action_dim, self.log_std_min = action_dim, log_std_min
        self.net = MLP(obs_dim, hidden, 2 * action_dim, generator=generator, last_gain=last_gain)
        affine = torch.tensor([1.0, log_std_offset])
        self.log_std_affine = nn.Parameter(affine, requires_grad=learn_log_std_affine)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log std, (B, act) each, before the tanh."""
        mean, raw = self.net(obs).chunk(2, -1)
        scale, offset = self.log_std_affine
        return mean, (scale * raw + offset).clamp(self.log_std_min, LOG_STD_MAX)

    def mode(self, obs: Tensor) -> Tensor:
        """Return π̄(s) = tanh(mean) (…, act) of obs (…, obs), differentiable in obs; no gradient into the weights."""
        rows = obs.reshape(-1, obs.shape[-1])
        mean: Tensor = self.net(rows, frozen=True)[:, : self.action_dim]
        return torch.unflatten(mean.tanh(), 0, obs.shape[:-1])

    def sample(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return a reparameterised action (B, act) and its log-probability (B,)."""
        if self.net.is_native and noise.dim() == 2 and noise.shape[0] == obs.shape[0]:
            return stack.run_sample(self.net(obs), self.log_std_affine, noise, (self.log_std_min, LOG_STD_MAX))
        mean, log_std = self(obs)
        pre_tanh = mean + log_std.exp() * noise
        return pre_tanh.tanh(), tanh_gaussian_log_prob(noise, log_std, pre_tanh)

    def record(self, obs: Tensor, noise: Tensor, *, keep: bool = True) -> tuple[Tensor, Tensor, stack.SampleTape]:
        """Return what `sample` does, without a gradient, and what `backpropagate` needs of it if it is to `keep`.

        The policies of S seeds side by side take (S, B, …).
        """
        outputs, tape = self.net.record(obs, keep=keep)
        outputs = outputs.view(*noise.shape[:-1], -1)
        return stack.sample(outputs, self.log_std_affine, noise, (self.log_std_min, LOG_STD_MAX), tape)

    def backpropagate(self, tape: stack.SampleTape, by_action: Tensor, by_log_prob: Tensor) -> None:
        """Add the gradient of all parameters, given those by action (B, act) and log-probability (B,)."""
        assert tape.of_net is not None, "kept by `record`"
        by_outputs, by_affine = stack.sample_backward(tape, by_action, by_log_prob)
        self.net.backpropagate(tape.of_net, by_outputs if by_outputs.dim() == 3 else by_outputs.unsqueeze(0))
        if self.log_std_affine.requires_grad:
            assert self.log_std_affine.grad is not None
            self.log_std_affine.grad += by_affine

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return log π(a|s) (B,) of recorded actions; those at ±1 are moved inside by 1e-6, where atanh is finite."""
        mean, log_std = self(obs)
        pre_tanh = torch.atanh(action.clamp(-1 + 1e-6, 1 - 1e-6))
        return tanh_gaussian_log_prob((pre_tanh - mean) / log_std.exp(), log_std, pre_tanh)

    @torch.no_grad()
    def act(self, obs: Tensor, *, explore: bool = False, generator: torch.Generator | None = None) -> Tensor:
        """Return actions (N, act) in [−1, 1]: tanh(mean), or a sample from the generator given if `explore`."""
        mean: Tensor
        if explore and self.net.is_native:
            noise = torch.randn((obs.shape[0], self.action_dim), generator=generator)
            return self.record(obs, noise, keep=False)[0]
        mean, log_std = self(obs)
        if explore:
            noise = torch.randn(mean.shape, generator=generator, device=mean.device)
            mean = mean + log_std.exp() * noise
        return mean.tanh()


@uncompiled  # one fused call already
@torch.no_grad()
def soft_update(target: Iterable[nn.Parameter], online: Iterable[nn.Parameter], tau: float) -> None:
    """Q̄ ← (1 − τ)Q̄ + τQ, all tensors in one fused call."""
    targets: list[Tensor] = list(target)
    sources: list[Tensor] = list(online)
    flat = flat_pair(targets, sources)
    if flat is None:
        torch._foreach_lerp_(targets, sources, tau)
    else:
        flat[0].lerp_(flat[1], tau)
