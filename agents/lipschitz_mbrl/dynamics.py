"""A learned model of the dynamics: E networks that predict a task's reward and change of state, as one stack.

Chua et al., PETS (arXiv 1805.12114) and Janner et al., MBPO (arXiv 1906.08253). Derivation:
docs/derivations/lipschitz_mbrl.md §3. `dynamics_training.py` fits it, `imagination.py` rolls it out.

| derivation | paper | here |
|---|---|---|
| (3.1) target y = (r, s' − s), not standardised, reward first | – | `model_inputs`, `model_target` |
| (3.2) scaler of the inputs | – | `DynamicsNet.fit_scaler` |
| (3.3), range (3.4): soft bounds of the log-variance | – | `bounded_log_var` |
| (3.5), (3.6) Gaussian loss, squared error of the mean | – | `gaussian_loss`, `squared_error` |
| (3.7) the bounds' term, decay c_l·½‖W_l‖² per layer | – | `bound_term`, `DynamicsNet.decayed` |
| (3.8) truncated-normal start | – | `truncated_normal_` |

Where this differs, and why:
- The decay is Adam's own (coupled) weight decay, which has the gradient of the term.
- Scaler and log-variance bounds are kept per member (MBPO: one for all). A stack is then exactly its members trained
  one by one, and a member that diverges harms no other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surefoot.agents.interface import Batch
from surefoot.agents.parts.networks import StackedMLP
from surefoot.agents.parts.ranges import AT_LEAST_0, AT_LEAST_1, POSITIVE, WIDTHS, Rule

ModelOutput = Literal["gaussian", "nll_mean", "mse"]
LOG_VAR_MIN, LOG_VAR_MAX = -10.0, 0.5  # where the learned bounds start (MBPO's code)


@dataclass(frozen=True)
class DynamicsConfig:
    """The model and how it is trained. Defaults: MBPO's code (§10), but for a single member."""

    ensemble_size: int = 1
    """Networks in the model ensemble."""
    elites: int = 1
    """Ensemble members that predict: those with the lowest holdout error in the last training call."""
    model_output: ModelOutput = "nll_mean"
    """Output and loss of the model: `gaussian` predicts and samples a Gaussian, `nll_mean` fits one and takes its mean,
    `mse` fits the mean by squared error."""
    model_hidden: tuple[int, ...] = (200, 200, 200, 200)
    """Hidden layer widths of each member."""
    model_lr: float = 1e-3
    """Learning rate of the model (Adam)."""
    model_batch_size: int = 256
    """Batch size of the model, for each member."""
    model_decay: tuple[float, ...] = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
    """Weight decay c_l of each layer, in the term c_l·½‖W_l‖²."""
    learn_log_var_bounds: bool = True
    """Learn the bounds of the log variance, starting from 0.5 and −10; off: fixed."""
    bound_weight: float = 0.01
    """Weight of Σℓ_max − Σℓ_min in the loss."""
    holdout_ratio: float = 0.2
    """Fraction of the transitions held out in each training call, drawn anew each time."""
    holdout_rows: int = 5_000
    """Maximum number of transitions held out."""
    model_patience: int = 5
    """Epochs without an improving member; the next one ends the training call."""
    model_improvement: float = 0.01
    """Relative decrease of a member's holdout error that counts as an improvement."""
    model_epochs: int = 100
    """Maximum epochs per training call (ours: MBPO has no cap, and on noiseless tasks its rule trains for long)."""
    model_keep_factor: float = 10.0
    """A member whose holdout error grew by more than this factor in a training call keeps its previous weights
    (ours)."""


MODEL_RANGES: dict[str, Rule] = {
    **dict.fromkeys(["ensemble_size", "elites", "model_batch_size", "holdout_rows", "model_epochs"], AT_LEAST_1),
    **dict.fromkeys(["model_lr", "model_keep_factor"], POSITIVE),
    **dict.fromkeys(["model_patience", "bound_weight"], AT_LEAST_0),
    "holdout_ratio": (lambda x: 0 < x < 1, "in (0, 1)"),
    "model_improvement": (lambda x: 0 <= x < 1, "in [0, 1)"),
    "model_output": (lambda x: x in ("gaussian", "nll_mean", "mse"), "gaussian, nll_mean or mse"),
    "model_hidden": WIDTHS,
    "model_decay": (lambda x: min(x, default=0) >= 0, "numbers of at least 0"),
}


def check_model(config: DynamicsConfig) -> None:
    """Raise `ValueError` for fields that do not fit each other (`MODEL_RANGES` has the ranges of each alone)."""
    if config.elites > config.ensemble_size:
        raise ValueError(
            f"--agent.elites must be at most --agent.ensemble-size {config.ensemble_size}, not {config.elites}"
        )
    layers = len(config.model_hidden) + 1
    if len(config.model_decay) != layers:
        raise ValueError(
            f"--agent.model-decay must hold one number per layer, {layers} for --agent.model-hidden, "
            f"not {len(config.model_decay)}"
        )


# --- the mathematics -------------------------------------------------------------------------------------------------


def model_inputs(obs: Tensor, action: Tensor) -> Tensor:
    """Return (s, a), (…, obs + act)."""
    return torch.cat([obs, action], -1)


def model_target(rows: Batch) -> Tensor:
    """Return y = (r, s' − s) (B, 1 + obs), reward first, not standardised."""
    return torch.cat([rows.reward[:, None], rows.next_obs - rows.obs], -1)


def bounded_log_var(raw: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return ℓ = low + softplus(ℓ' − low) of ℓ' = high − softplus(high − raw): soft bounds with gradients beyond them.

    ℓ lies between low and low + softplus(high − low), which is 3e-5 above `high` for MBPO's 0.5 and −10.
    """
    upper = high - F.softplus(high - raw)
    return low + F.softplus(upper - low)


def gaussian_loss(mean: Tensor, log_var: Tensor, target: Tensor) -> Tensor:
    """Return the mean over rows and dimensions of (y − μ)²·e^(−ℓ) + ℓ (E,): twice a Gaussian's −log p, less a constant.

    All (E, B, out).
    """
    return ((target - mean).square() * (-log_var).exp() + log_var).mean((-2, -1))


def squared_error(mean: Tensor, target: Tensor) -> Tensor:
    """Return the mean over rows and dimensions of (y − μ)² (E,), of (E, B, out)."""
    return (target - mean).square().mean((-2, -1))


def bound_term(low: Tensor, high: Tensor) -> Tensor:
    """Return Σℓ_max − Σℓ_min (E,), of (E, 1, out): it draws the learned bounds together."""
    return (high - low).sum((-2, -1))


def truncated_normal_(weight: Tensor, generator: torch.Generator) -> None:
    """Fill a (…, in, out) weight from N(0, 1/(4·in)), redrawn beyond two standard deviations."""
    std = 0.5 / weight.shape[-2] ** 0.5
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std, generator=generator)


# --- the network ------------------------------------------------------------------------------------------------------


class DynamicsNet(StackedMLP):
    """E swish networks from (s, a) to mean and log-variance of (r, s' − s). Every tensor has a member's axis first."""

    input_mean: Tensor
    input_std: Tensor

    def __init__(self, config: DynamicsConfig, obs_dim: int, action_dim: int, generator: torch.Generator) -> None:
        width, out = obs_dim + action_dim, obs_dim + 1
        super().__init__(
            config.ensemble_size, width, config.model_hidden, 2 * out, generator=generator, activation="swish"
        )
        for weight, bias in zip(self.weights, self.biases, strict=True):
            truncated_normal_(weight, generator)
            nn.init.zeros_(bias)
        shape = (config.ensemble_size, 1, out)
        self.min_log_var = nn.Parameter(torch.full(shape, LOG_VAR_MIN), config.learn_log_var_bounds)
        self.max_log_var = nn.Parameter(torch.full(shape, LOG_VAR_MAX), config.learn_log_var_bounds)
        self.register_buffer("input_mean", torch.zeros(config.ensemble_size, 1, width))
        self.register_buffer("input_std", torch.ones(config.ensemble_size, 1, width))

    def decayed(self, decay: Sequence[float]) -> list[tuple[Tensor, float]]:
        """Return every layer's weights with their c_l; biases and bounds are free."""
        return list(zip(self.weights, decay, strict=True))

    def fit_scaler(self, x: Tensor) -> None:
        """Measure mean and std of inputs (B, in), the same for every member; a constant input keeps std 1."""
        std = x.std(0, correction=0)
        self.input_mean.copy_(x.mean(0))
        self.input_std.copy_(torch.where(std < 1e-12, 1.0, std))

    def forward(self, x: Tensor, members: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Return mean and log-variance (E, B, 1 + obs) of (s, a), (B, in) for every member or (E, B, in).

        `members` (M,) stand in for all E, in their order.
        """
        tensors = [self.min_log_var, self.max_log_var, self.input_mean, self.input_std]
        parameters = None
        if members is not None:
            parameters = [tensor.index_select(0, members) for tensor in self.tensors()]
            tensors = [tensor.index_select(0, members) for tensor in tensors]
        low, high, mean, std = tensors
        out, raw = super().forward((x - mean) / std, parameters).chunk(2, -1)
        return out, bounded_log_var(raw, low, high)
