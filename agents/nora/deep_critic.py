"""The neural critic of deep NORA: a Q* regression, a bonus for what was tried little, and a test for a refresh.

docs/derivations/nora.md §7.2 and §7.3; none of it is stated by the paper. B rows, A actions, H steps, m features, G
groups of steps, E members; steps count from 0. An observation here is without the step, which is `step`.

| derivation | paper | here |
|---|---|---|
| (7.1), (7.10) | – | `unit_features`, `DeepCritic.psi`: random features, and a learned half |
| (7.2) | – | `add_outer`, `DeepCritic.group` |
| (7.3), (7.11) | – | `elliptical`, `DeepCritic.bonus`: by covariance, or by an ensemble |
| (7.4) | – | `DeepCritic.forward`, `DeepCritic.clip` |
| (7.5) | – | `max_targets`, `DeepCritic.targets` |
| (7.6) | – | `DeepCritic.fit`, `DeepCritic.regress` |
| (7.7) | – | `log_det` |
| (7.11) | – | `DeepCritic.estimates` |
| (7.13) | – | `DeepCritic.excess_loss` |
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from surefoot.agents.parts.networks import StackedMLP
from surefoot.agents.parts.ranges import unread_where
from surefoot.agents.parts.regression import Adam, chosen_error_gradients


@dataclass(frozen=True)
class CriticConfig:
    """Defaults: docs/derivations/nora.md §8; their calibration is on DeepSea and combination locks."""

    horizon: int | None = None
    """Horizon H; None: the time limit of the task."""
    hidden: tuple[int, ...] = (64, 64)
    """Hidden layer widths of the critic."""
    bonus_weight: float = 0.1
    """Bonus scale β: the bonus of an untried action as a fraction of the value range; 0: no optimism (NOAH*)."""
    uncertainty: Literal["covariance", "ensemble"] = "covariance"
    """Uncertainty measure of the bonus: `covariance`, √(ψᵀΛ⁻¹ψ) of features ψ, or the standard deviation of an
    ensemble."""
    features: int = 64
    """Number of random ReLU features (m): the directions that a step and action distinguish."""
    learned_features: bool = False
    """Use the critic's last hidden layer, as it is when the bonus is frozen, for half of ψ."""
    ridge: float = 1.0
    """Ridge parameter λ of Λ = λI + Σ ψψᵀ."""
    step_groups: int | None = None
    """Groups of neighbouring steps that share a Λ; None: one group per step, as in the theory; 1: all steps share
    one."""
    ensemble_size: int = 10
    """Networks in the ensemble (K)."""
    prior_scale: float = 3.0
    """Weight of the fixed random prior network of each member."""
    critic_steps: int = 400
    """Adam steps per refresh (n_fqi); should grow with H."""
    target_steps: int = 50
    """Adam steps between two computations of the targets (n_target)."""
    batch_size: int = 256
    """Transitions per Adam step."""
    critic_lr: float = 1e-3
    """Learning rate of the critic (Adam); the optimiser is reset at every refresh."""
    warm_start: bool = True
    """Continue from the current weights at a refresh; a cold start needs critic_steps/target_steps ≥ H."""

    def unread(self) -> dict[str, str]:
        """Return what is left without effect where there is no ensemble, and why."""
        uncertainty = f"with --agent.uncertainty {self.uncertainty}"
        return unread_where((self.uncertainty != "ensemble", ("ensemble_size", "prior_scale"), uncertainty))


class StepRows(NamedTuple):
    """Transitions, in any order."""

    obs: Tensor  # (B, O)
    step: Tensor  # (B,) int64
    action: Tensor  # (B,) int64
    reward: Tensor  # (B,)
    next_obs: Tensor  # (B, O)
    over: Tensor  # (B,) 1 where the episode ended, also by the time limit: nothing follows step H


# --- the mathematics -------------------------------------------------------------------------------------------------


def unit_features(obs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ψ(s) = relu(sW + c) (B, m), scaled to length 1."""
    return nn.functional.normalize(torch.addmm(bias, obs, weight).relu(), dim=-1)


def add_outer(covariance: Tensor, psi: Tensor, group: Tensor, action: Tensor) -> None:
    """Λ_{g,a} += ψψᵀ for rows ψ (B, m), in place in Λ (G, A, m, m)."""
    psi = psi.to(covariance.dtype)
    covariance.index_put_((group, action), psi[:, :, None] * psi[:, None, :], accumulate=True)


def log_det(covariance: Tensor) -> Tensor:
    """Return Σ_{g,a} log det Λ_{g,a}, a scalar."""
    factor: Tensor = torch.linalg.cholesky(covariance)
    return 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum()


def elliptical(psi: Tensor, inverse: Tensor, group: Tensor) -> Tensor:
    """Return √(ψᵀ Λ_{g,a}⁻¹ ψ) (B, A) of rows ψ (B, m), for every action; `inverse` is (G, A, m, m)."""
    squared = psi.new_empty(len(psi), inverse.shape[1])
    for g in group.unique().tolist():  # a matrix for every row would be copied otherwise
        rows = group == g
        squared[rows] = torch.einsum("bi,aij,bj->ba", psi[rows], inverse[g], psi[rows])
    return squared.clamp(min=0).sqrt()


def max_targets(reward: Tensor, over: Tensor, following: Tensor) -> Tensor:
    """Return y = r + (1 − over)·max_a' Q̄(s', a') (B,) of the clipped optimistic values Q̄ (B, A) that follow."""
    return reward + (1 - over) * following.amax(-1)


# --- the critic ------------------------------------------------------------------------------------------------------


class DeepCritic(nn.Module):
    """Q̄_h(s, a) = clip(Q_θ(s, a) + b_h(s, a)); with an ensemble Q_θ is its mean and b its spread.

    The bonus is frozen by `freeze` and the weights move in `fit` alone: between two refreshes nothing here changes.
    """

    low: Tensor
    high: Tensor
    inverse: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, config: CriticConfig, obs_dim: int, actions: int, generator: torch.Generator) -> None:
        super().__init__()
        if config.horizon is None:
            raise ValueError(
                "--agent.horizon is missing: NORA plans over H steps; set it to the task's time limit "
                "(--env.max-episode-steps gives one to a task without)"
            )
        self.config, self.horizon, self.actions = config, config.horizon, actions
        ensemble = config.uncertainty == "ensemble"
        sizes = (config.ensemble_size if ensemble else 1, obs_dim + 1, config.hidden, actions)
        self.net = StackedMLP(*sizes, generator=generator)
        self.prior = StackedMLP(*sizes, generator=generator).requires_grad_(False) if ensemble else None
        self.learned = copy.deepcopy(self.net).requires_grad_(False) if config.learned_features else None
        width = config.features + (config.hidden[-1] if config.learned_features else 0)
        self.groups = min(config.step_groups or self.horizon, self.horizon)
        # ψ: weights N(0, 1), biases U(−½, ½).
        self.register_buffer("weight", torch.randn(obs_dim, config.features, generator=generator))
        self.register_buffer("bias", torch.rand(config.features, generator=generator) - 0.5)
        identity = torch.eye(width).expand(self.groups, actions, width, width)
        self.register_buffer("inverse", identity / config.ridge)
        self.register_buffer("low", torch.zeros(self.horizon))
        self.register_buffer("high", torch.ones(self.horizon))

    def forward(self, obs: Tensor, step: Tensor) -> Tensor:
        """Return Q̄_h(s, ·) (B, A)."""
        estimates = self.estimates(obs, step)
        return self.clip(estimates.mean(0) + self.bonus(obs, step, estimates), step)

    def estimates(self, obs: Tensor, step: Tensor) -> Tensor:
        """Return Q_θ (E, B, A) of every member."""
        x = self.inputs(obs, step)
        estimates: Tensor = self.net(x)
        return estimates if self.prior is None else estimates + self.config.prior_scale * self.prior(x)

    def inputs(self, obs: Tensor, step: Tensor) -> Tensor:
        """Return what the networks see (B, O + 1): the observation and h/H."""
        return torch.cat([obs, step[:, None] / self.horizon], -1)

    def bonus(self, obs: Tensor, step: Tensor, estimates: Tensor) -> Tensor:
        """Return b_h(s, ·) (B, A): β times the width of the value range and √(ψᵀΛ⁻¹ψ), or β times the spread."""
        if self.config.uncertainty == "ensemble":
            return self.config.bonus_weight * estimates.std(0, correction=0)
        width = self.config.bonus_weight * (self.high - self.low)[step]
        return width[:, None] * elliptical(self.psi(obs, step), self.inverse, self.group(step))

    def clip(self, values: Tensor, step: Tensor) -> Tensor:
        """Return values (B, A) clipped to what rewards from `step` on can sum up to."""
        return torch.clamp(values, self.low[step, None], self.high[step, None])

    def psi(self, obs: Tensor, step: Tensor) -> Tensor:
        """Return ψ(s) (B, m), of length 1."""
        random = unit_features(obs, self.weight, self.bias)
        if self.learned is None:
            return random
        x = self.inputs(obs, step)
        for matrix, bias in zip(self.learned.weights[:-1], self.learned.biases[:-1], strict=True):
            x = torch.addmm(bias[0], x, matrix[0]).relu()
        return nn.functional.normalize(torch.cat([random, nn.functional.normalize(x, dim=-1)], -1), dim=-1)

    def group(self, step: Tensor) -> Tensor:
        """Return which Λ (B,) a step belongs to."""
        return step * self.groups // self.horizon

    # --- what changes at a refresh ------------------------------------------------------------------------------------

    def empty_covariance(self) -> Tensor:
        """Return Λ = λI (G, A, m, m), float64."""
        width = self.inverse.shape[-1]
        identity = self.config.ridge * torch.eye(width, dtype=torch.float64, device=self.inverse.device)
        return identity.repeat(self.groups, self.actions, 1, 1)

    def adopt_features(self) -> None:
        """Take the last hidden layer as it is now for the learned half of ψ; Λ has to be summed anew afterwards."""
        if self.learned is not None:
            self.learned.load_state_dict(self.net.state_dict())

    def freeze(self, covariance: Tensor) -> None:
        """Freeze Λ⁻¹ of Λ (G, A, m, m)."""
        self.inverse.copy_(torch.cholesky_inverse(torch.linalg.cholesky(covariance)))

    def restart(self, generator: torch.Generator) -> None:
        """Draw the weights anew."""
        sizes = (len(self.net.weights[0]), self.net.weights[0].shape[1], self.config.hidden, self.actions)
        self.net.load_state_dict(StackedMLP(*sizes, generator=generator).state_dict())

    @torch.no_grad()
    def targets(self, data: StepRows, bonus: Tensor | None = None) -> Tensor:
        """Return max-targets (M,) of all data by the weights as they are; `bonus` (M, A) saves computing it again."""
        step = (data.step + 1).clamp(max=self.horizon - 1)  # what follows the last step is never looked at
        estimates = self.estimates(data.next_obs, step)
        if bonus is None:
            bonus = self.bonus(data.next_obs, step, estimates)
        return max_targets(data.reward, data.over, self.clip(estimates.mean(0) + bonus, step))

    @torch.no_grad()
    def next_bonus(self, data: StepRows) -> Tensor | None:
        """Return b (M, A) of what follows, where it depends on nothing that `fit` moves."""
        if self.config.uncertainty == "ensemble":
            return None
        step = (data.step + 1).clamp(max=self.horizon - 1)
        return self.bonus(data.next_obs, step, torch.empty(0))

    @torch.no_grad()
    def fit(self, data: StepRows, generator: torch.Generator) -> Tensor:
        """Take `critic_steps` of fitted Q-iteration on all data; return the last minibatch's loss, a scalar."""
        config, bonus = self.config, self.next_bonus(data)
        adam, loss = Adam(list(self.net.parameters()), config.critic_lr), data.reward.new_zeros(())
        for done in range(0, config.critic_steps, config.target_steps):
            y = self.targets(data, bonus)  # θ⁻ ← θ: for all data at once, so that no copy of θ is needed
            loss = self.regress(data, y, min(config.target_steps, config.critic_steps - done), adam, generator)
        return loss

    @torch.no_grad()
    def regress(self, data: StepRows, y: Tensor, steps: int, adam: Adam, generator: torch.Generator) -> Tensor:
        """Take Adam steps on (Q_θ(s, a) − y)², every member on the same minibatches; return the last loss."""
        index = torch.randint(len(y), (steps, self.config.batch_size), generator=generator, device=y.device)
        x, chosen = self.inputs(data.obs, data.step), nn.functional.one_hot(data.action, self.actions).to(y.dtype)
        prior = 0.0 if self.prior is None else self.config.prior_scale * (self.prior(x) * chosen).sum(-1)
        target = y - prior  # (M,), or (E, M): what is left for the network to learn
        weights, biases, loss = list(self.net.weights), list(self.net.biases), y.new_zeros(())
        for rows in index:
            error, gradients = chosen_error_gradients(weights, biases, x[rows], chosen[rows], target[..., rows])
            adam.step(gradients)
            loss = error.mean()
        return loss

    def chosen(self, data: StepRows, rows: Tensor | slice = slice(None)) -> Tensor:
        """Return Q_θ(s, a) (E, B) of the recorded actions."""
        estimates = self.estimates(data.obs[rows], data.step[rows])
        return estimates.gather(-1, data.action[rows].expand(len(estimates), -1)[..., None]).squeeze(-1)

    @torch.no_grad()
    def excess_loss(self, data: StepRows, generator: torch.Generator) -> Tensor:
        """Return Σ (Q_θ − y)² − Σ (g − y)² over all data, y by this critic and g a copy fitted to them, a scalar.

        What the switch test eq. (7.13) is made of: eq. (3.5), the paper's for general classes, with the minimum over g
        replaced by as many steps as a refresh takes.
        """
        y, better = self.targets(data), copy.deepcopy(self)
        adam = Adam(list(better.net.parameters()), self.config.critic_lr)
        better.regress(data, y, self.config.critic_steps, adam, generator)
        before, after = ((critic.chosen(data) - y).square().sum(-1).mean() for critic in (self, better))
        return before - after
