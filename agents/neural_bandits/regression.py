"""Online regression with a perturbed network: predictions, losses and the gradient steps on them.

Equations: docs/derivations/neural_bandits.md.

| derivation | paper | here |
|---|---|---|
| (5.1) | – | `NetworkRegression.offsets` |
| (5.2) | – | `square_prediction`, `kl_prediction` |
| (5.3), (5.4) | – | `NetworkRegression.sampled_gradient` |
| (5.7), (5.8) | – | `NetworkRegression.expected_gradient` |
| (5.5), (5.6) | – | `NetworkRegression.descend`, `network.Network.project` |
| §6.1 | – | `History`, `NetworkRegression.minibatch` |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from surefoot.agents.neural_bandits.network import Initialisation, Network, Pass, Shape
from surefoot.agents.parts.engine import native
from surefoot.agents.parts.random import ReplicateUniforms
from surefoot.agents.parts.ranges import AT_LEAST_0, AT_LEAST_1, POSITIVE, Rule, optional, unread_where
from surefoot.agents.parts.state import Stateful, pack, unpack

Loss = Literal["square", "kl"]


@dataclass(frozen=True)
class RegressionConfig:
    """What every network learns by: one schedule for all methods."""

    hidden: tuple[int, ...] = (100,)
    """Widths of the hidden ReLU layers."""
    initialisation: Initialisation = "standard"
    """`standard`: Gaussian weights of variance 2/in; `theory`: of variance 1, every layer scaled by m^(−1/2)."""
    intercept: bool = False
    """Append a 1 to every context. Without, f doubles when a context does: right for contexts of one length."""
    lr: float = 0.1
    """Step size of SGD."""
    lr_schedule: Literal["constant", "inverse"] = "constant"
    """`inverse`: lr/t in round t, as in the theory."""
    updates_per_round: int = 5
    """SGD steps after each round."""
    batch_size: int = 32
    """Samples per step: the newest one, and others drawn from the history."""
    replay: bool = True
    """Whether earlier samples are replayed; without, every step is on the newest sample alone, as in the theory."""
    replay_capacity: int = 20_000
    """Latest samples that are kept for it."""

    def unread(self) -> dict[str, str]:
        """Return what is left without effect where no sample is replayed, and why."""
        return unread_where((not self.replay, ("batch_size", "replay_capacity"), "with --agent.no-replay"))

    def rules(self) -> dict[str, Rule]:
        return {"updates_per_round": AT_LEAST_1, "batch_size": AT_LEAST_1} | PERTURBATION_RULES


@dataclass(frozen=True)
class PerturbedConfig(RegressionConfig):
    """A network whose output is perturbed at random in training."""

    perturbation: Literal["expected", "sampled", "none"] = "expected"
    """`sampled`: random signs, one for each parameter and draw; `expected`: what they come to in the mean, a penalty
    on the distance from the initial weights; `none`."""
    perturbation_scale: float = 0.1
    """Scale c_p of the perturbation."""
    perturbation_draws: int = 10
    """Number S of draws of `sampled`, made once."""
    radius: float | None = None
    """Frobenius radius of the ball around its initial weights that each layer is kept in; None: no ball."""

    def unread(self) -> dict[str, str]:
        """Return what is left without effect by the perturbation, too, and why."""
        why = f"with --agent.perturbation {self.perturbation}"
        return super().unread() | unread_where(
            (self.perturbation != "sampled", ("perturbation_draws",), why),
            (self.perturbation == "none", ("perturbation_scale",), why),
        )


PERTURBATION_RULES: dict[str, Rule] = {
    "perturbation_scale": AT_LEAST_0,
    "perturbation_draws": AT_LEAST_1,
    "radius": optional(POSITIVE),
}


# --- the mathematics --------------------------------------------------------------------------------------------------


def square_prediction(output: Tensor, offsets: Tensor | None = None) -> Tensor:
    """Return the mean of f + offset over the draws (N, S), clipped to [0, 1]; outputs (N, K)."""
    mean = output if offsets is None else output + offsets.mean(1, keepdim=True)
    return mean.clamp(0.0, 1.0)


def kl_prediction(output: Tensor, offsets: Tensor | None = None) -> Tensor:
    """Return the mean of σ(f + offset) over the draws (N, S); outputs (N, K)."""
    return output.sigmoid() if offsets is None else (output[..., None] + offsets[:, None]).sigmoid().mean(-1)


def residual(loss: Loss, output: Tensor, target: Tensor) -> Tensor:
    """Return dℓ/df: f − y of ½(f − y)², σ(f) − y of −y ln σ(f) − (1 − y) ln(1 − σ(f))."""
    return (output if loss == "square" else output.sigmoid()) - target


def value(loss: Loss, output: Tensor, target: Tensor) -> Tensor:
    """Return ℓ: the squared loss with its factor ½, or the log loss."""
    if loss == "square":
        return 0.5 * (output - target).square()
    return torch.nn.functional.softplus(output) - target * output


# --- what is replayed -------------------------------------------------------------------------------------------------


class History:
    """The latest samples of every replicate: contexts (N, T, d), arms and targets (N, T), in a ring that grows."""

    def __init__(self, replicates: int, features: int, capacity: int, device: torch.device) -> None:
        self.capacity, self.count = capacity, 0
        self.contexts = torch.zeros(replicates, 0, features, device=device)
        self.arms = torch.zeros(replicates, 0, dtype=torch.int64, device=device)
        self.targets = torch.zeros(replicates, 0, device=device)

    def __len__(self) -> int:
        return min(self.count, self.capacity)

    @property
    def newest(self) -> int:
        return (self.count - 1) % self.capacity

    def add(self, context: Tensor, arm: Tensor, target: Tensor) -> None:
        """Keep one sample of each replicate: context (N, 1, d), arm and target (N,)."""
        if self.count == self.arms.shape[1] < self.capacity:
            self._grow(min(self.capacity, max(64, 2 * self.count)))
        place = self.count % self.capacity
        self.contexts[:, place], self.arms[:, place], self.targets[:, place] = context[:, 0], arm, target
        self.count += 1

    def _grow(self, room: int) -> None:
        for name in ("contexts", "arms", "targets"):
            old = getattr(self, name)
            new = old.new_zeros(len(old), room, *old.shape[2:])
            new[:, : old.shape[1]] = old
            setattr(self, name, new)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return contexts (N, B, d), arms and targets (N, B) of samples (N, B)."""
        rows = torch.arange(len(index), device=index.device)[:, None]
        return self.contexts[rows, index], self.arms[rows, index], self.targets[rows, index]

    def state_dict(self) -> dict[str, Any]:
        kept = {name: getattr(self, name)[:, : len(self)].clone() for name in ("contexts", "arms", "targets")}
        return kept | {"count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in ("contexts", "arms", "targets"):
            setattr(self, name, state[name].to(self.arms.device).clone())
        self.count = state["count"]


# --- the regression ---------------------------------------------------------------------------------------------------


class NetworkRegression(Stateful):
    """A network that learns targets in [0, 1] by SGD, in N replicates; with signs where the perturbation is sampled."""

    STATEFUL = ("network", "history", "uniforms", "signs", "round")
    DEPLOYED = ("network", "signs")

    def __init__(
        self, config: RegressionConfig, loss: Loss, shape: Shape, seed: int, device: torch.device, engine: str = "eager"
    ) -> None:
        self.config, self.loss, self.shape = config, loss, shape
        weights = ReplicateUniforms(seed, "weights", shape.replicates, device)
        self.network = Network(shape, config.hidden, weights, config.initialisation, intercept=config.intercept)
        self.uniforms = ReplicateUniforms(seed, "replay", shape.replicates, device)
        self.history = History(
            shape.replicates, self.network.features, config.replay_capacity if config.replay else 1, device
        )
        perturbed = config if isinstance(config, PerturbedConfig) else None
        self.perturbation = perturbed.perturbation if perturbed and perturbed.perturbation_scale else "none"
        self.scale = perturbed.perturbation_scale * self.network.width**-0.25 if perturbed else 0.0  # c_p m^(−1/4)
        self.radius = perturbed.radius if perturbed else None
        draws = perturbed.perturbation_draws if perturbed and self.perturbation == "sampled" else 0
        self.signs = _signs(weights, draws, self.network.size)  # (N, S, p), ±1
        self.round = 0
        plain = self.perturbation != "sampled" and self.radius is None and len(config.hidden) == 1
        self.computed_by: tuple[str, ...] = (
            ("native",) if engine == "native" and plain else ()
        )  # by the kernel of the same steps

    def deployed(self) -> dict[str, Any]:
        """Return what predictions depend on."""
        return pack(self, self.DEPLOYED)

    def load_deployed(self, state: dict[str, Any]) -> None:
        unpack(self, self.DEPLOYED, state)

    def offsets(self) -> Tensor | None:
        """Return c_p m^(−1/4) Σ_j (θ − θ₀)_j ε_j of every draw (N, S); None where none are drawn."""
        if self.perturbation != "sampled":
            return None
        moved = torch.cat([step.flatten(1) for step in self.network.moved()], 1)
        return self.scale * (self.signs.to(moved.dtype) @ moved[..., None]).squeeze(-1)

    def outputs(self, contexts: Tensor) -> Pass:
        """Return f of every arm (N, K)."""
        return self.network.arms(contexts)

    def predict(self, contexts: Tensor) -> Tensor:
        """Return the predicted target (N, K) of every arm, in [0, 1]. All arms share the draws."""
        output = self.network.arms(contexts).output
        return (square_prediction if self.loss == "square" else kl_prediction)(output, self.offsets())

    def learn(self, contexts: Tensor, arm: Tensor, target: Tensor) -> Tensor:
        """Take in a sample of each replicate, target (N,), and make the round's steps; return the loss (N,) before."""
        self.round += 1
        self.history.add(self.network.of_arm(contexts, arm), arm, target.float())
        index = self.minibatch()
        if self.computed_by:
            return self.descend_natively(index)
        losses = [self.descend(*self.history.take(index[:, update])) for update in range(index.shape[1])]
        return losses[0]

    def minibatch(self) -> Tensor:
        """Return the samples (N, updates, B) of this round's steps: the newest first, the others uniform."""
        updates, size = self.config.updates_per_round, self.config.batch_size if self.config.replay else 1
        drawn = (self.uniforms.block(updates * size) * len(self.history)).long()
        index = torch.unflatten(drawn, 1, (updates, size))
        index[..., 0] = self.history.newest
        return index

    def descend(self, contexts: Tensor, arms: Tensor, targets: Tensor) -> Tensor:
        """Make one projected gradient step on the mean loss of samples (N, B); return that loss (N,) before it."""
        found = self.network.forward(self.network.encode(contexts, arms))
        gradient = self.sampled_gradient if self.perturbation == "sampled" else self.expected_gradient
        for layer, change in zip(self.network.layers, gradient(found, targets), strict=True):
            layer.sub_(change, alpha=self.rate)
        if self.radius is not None:
            self.network.project(self.radius)
        return value(self.loss, found.output, targets).mean(1)

    @property
    def rate(self) -> float:
        """Step size of this round."""
        return self.config.lr / (self.round if self.config.lr_schedule == "inverse" else 1)

    def descend_natively(self, index: Tensor) -> Tensor:
        """Make the round's steps on samples (N, updates, B) as `descend` does, by a kernel; return the first loss."""
        (first, last), (first0, last0), seen = self.network.layers, self.network.start, self.history
        losses = torch.empty(len(index))
        native.library().bandit_sgd(
            self.shape.replicates,
            self.shape.blocks,
            self.network.features,
            self.network.width,
            seen.arms.shape[1],
            *index.shape[1:],
            seen.contexts.data_ptr(),
            seen.arms.data_ptr() if self.shape.shared else None,
            *(x.data_ptr() for x in (seen.targets, index, first, first0, last, last0)),
            self.rate,
            *self.network.factors,
            0.0 if self.perturbation == "none" else self.scale**2,
            self.loss == "kl",
            losses.data_ptr(),
            torch.get_num_threads(),
        )
        return losses

    def sampled_gradient(self, found: Pass, targets: Tensor) -> list[Tensor]:
        """Return the gradient of the loss of f̃, the mean over samples (N, B) and draws."""
        offsets = self.offsets()
        assert offsets is not None
        slopes = residual(self.loss, found.output[..., None] + offsets[:, None], targets[..., None])  # (N, B, S)
        size = targets.shape[1]
        gradient = self.network.gradient(slopes.mean(-1) / size, found.inputs)
        weight = self.scale * slopes.mean(1) / slopes.shape[-1]  # (N, S)
        shift = (weight[:, None] @ self.signs.to(weight.dtype)).squeeze(1)  # (N, p)
        parts = shift.split([g[0].numel() for g in gradient], 1)
        return [g + part.view_as(g) for g, part in zip(gradient, parts, strict=True)]

    def expected_gradient(self, found: Pass, targets: Tensor) -> list[Tensor]:
        """Return the gradient of the mean loss, plus that of the penalty which the perturbation is in the mean.

        ½s‖θ − θ₀‖² with s = c_p²/√m for the squared loss; times σ'(f) for the log loss, to second order.
        """
        size = targets.shape[1]
        slope = residual(self.loss, found.output, targets)
        if self.perturbation == "none":
            return self.network.gradient(slope / size, found.inputs)
        moved, strength = self.network.moved(), torch.full_like(slope[:, 0], self.scale**2)
        if self.loss == "kl":
            p = found.output.sigmoid()
            curvature = p * (1 - p)  # σ'(f), whose derivative is σ'(f)(1 − 2σ(f))
            distance = sum(step.flatten(1).square().sum(1) for step in moved)
            slope = slope + 0.5 * (strength * distance)[:, None] * curvature * (1 - 2 * p)
            strength = strength * curvature.mean(1)
        gradient = self.network.gradient(slope / size, found.inputs)
        return [torch.addcmul(g, strength[:, None, None], step) for g, step in zip(gradient, moved, strict=True)]


def _signs(uniforms: ReplicateUniforms, draws: int, size: int) -> Tensor:
    """Return random signs (N, S, p), int8."""
    signs = (uniforms.block(draws * size) < 0.5).to(torch.int8) * 2 - 1
    return torch.unflatten(signs, 1, (draws, size))
