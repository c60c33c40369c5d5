"""One training call of a dynamics model, and what the model then predicts (docs/derivations/lipschitz_mbrl.md §3.5).

| derivation | paper | here |
|---|---|---|
| §3.5, items 1 and 3: rows held out, rows of each member | – | `split_rows`, `draw_rows` |
| (3.7) one update | – | `DynamicsModel.update_eager` |
| (3.9) holdout error, which ranks the members | – | `DynamicsModel.holdout_error` |
| (3.10) when a call ends; what that rule does: §3.6 | – | `DynamicsModel.fit` |
| (3.11) a bad call is undone | – | `DynamicsModel.put_back` |
| (3.12) prediction | – | `DynamicsModel.predict`, `deal` |

Where this differs from MBPO's code, and why:
- One member is trained on a permutation of the rows: a bootstrap would drop 37 % of them for nothing.
- The number of epochs has a cap, and a member that a call made much worse, or not finite, keeps its former weights,
  scaler and moments: a single model has no other member to fall back on.
- Rows are dealt to the elites in equal parts, at random anew each step, where MBPO draws an elite for each: every row
  still meets every elite with the same probability, and the product stays one batched one of fixed shape.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from surefoot.agents.interface import Batch, Setting
from surefoot.agents.lipschitz_mbrl.dynamics import (
    DynamicsConfig,
    DynamicsNet,
    bound_term,
    gaussian_loss,
    model_inputs,
    model_target,
    squared_error,
)
from surefoot.agents.parts.acceleration import accelerate, adam, take_step
from surefoot.agents.parts.random import make_generator
from surefoot.agents.parts.state import Stateful

HOLDOUT_BLOCK = 1_024


class DynamicsModel(Stateful):
    """The network, its optimiser and elites. Weights and moments are kept from one training call to the next."""

    STATEFUL = ("net", "optimiser", "generator", "elites", "error")

    def __init__(self, config: DynamicsConfig, setting: Setting, obs_dim: int, action_dim: int) -> None:
        self.config, self.device = config, setting.device
        start = make_generator(setting.seed, "dynamics networks")  # on the CPU: the same start on every device
        self.net = DynamicsNet(config, obs_dim, action_dim, start).to(self.device)
        decay = self.net.decayed(config.model_decay)
        self.optimiser = adam(self.net.parameters(), config.model_lr, setting, decay=decay)
        self.generator = make_generator(setting.seed, "dynamics training", self.device)
        self.elites = torch.arange(config.elites, device=self.device)
        # Each member's mean squared error on the last holdout, of reward and of every change of state: (E, 1 + obs).
        self.error = torch.full((config.ensemble_size, 1 + obs_dim), torch.inf, device=self.device)
        self.update = accelerate(self.update_eager, setting, [self.net, self.optimiser])

    def train(self, rows: Batch) -> dict[str, Tensor]:
        """Fit all members to the rows until the holdout error no longer falls; return what to log.

        Raises `ValueError` for fewer than two rows.
        """
        x, y = model_inputs(rows.obs, rows.action), model_target(rows)
        fit, held = split_rows(len(x), self.config, self.generator)
        held_x, held_y = x[held], y[held]
        before, kept = self.holdout_error(held_x, held_y), self.copies()
        self.net.fit_scaler(x[fit])
        loss, epochs = self.fit(torch.cat([x[fit], y[fit]], -1), held_x, held_y)
        bad = self.put_back(before.mean(-1), kept)
        self.error = torch.where(bad[:, None], before, self.error)
        self.elites = self.error.mean(-1).argsort()[: self.config.elites]
        error = self.error[self.elites].mean(0)
        spread = held_y.var(0, correction=0)
        return {
            "model_loss": loss,
            "model_holdout_mse": error.mean(),
            "model_rmse": error.sqrt().mean(),
            "model_unexplained": (error / torch.where(spread < 1e-24, 1.0, spread)).mean(),
            "model_epochs": torch.tensor(float(epochs)),
            "model_members_put_back": bad.sum(),
        }

    # -- the epochs

    def fit(self, table: Tensor, held_x: Tensor, held_y: Tensor) -> tuple[Tensor, int]:
        """Train on the rows (x, y) of `table` until no member improves, each member then at its best weights.

        `self.error` becomes the holdout errors there, infinite for a member without a finite one. Returns the mean loss
        of the last epoch and how many there were.
        """
        config = self.config
        parameters: list[Tensor] = list(self.net.parameters())
        best = [parameter.detach().clone() for parameter in parameters]
        self.error = torch.full_like(self.error, torch.inf)
        index = draw_rows(config.ensemble_size, len(table), self.generator)
        idle = epoch = 0
        while idle <= config.model_patience and epoch < config.model_epochs:
            epoch += 1
            loss = self.epoch(table, index)
            error = self.holdout_error(held_x, held_y)
            improved = error.mean(-1) < (1 - config.model_improvement) * self.error.mean(-1)
            self.error = torch.where(improved[:, None], error, self.error)
            choose_(best, improved, parameters)
            idle = 0 if improved.any() else idle + 1
        with torch.no_grad():
            torch._foreach_copy_(parameters, best)
        return loss, epoch

    def epoch(self, table: Tensor, index: Tensor) -> Tensor:
        """Go once through each member's rows (E, n) in a new order; return the mean loss of its batches."""
        order = torch.rand(index.shape, generator=self.generator, device=self.device).argsort(-1)
        losses = []
        for rows in index.gather(1, order).split(self.config.model_batch_size, 1):
            batch = table.index_select(0, rows.flatten()).view(*rows.shape, -1)
            x, y = batch.tensor_split([self.net.input_mean.shape[-1]], -1)
            whole = rows.shape[1] == self.config.model_batch_size
            losses.append((self.update if whole else self.update_eager)(x, y)["loss"])
        return torch.stack(losses).mean()

    def update_eager(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        """One gradient step of every member, on rows of its own (E, B, …)."""
        mean, log_var = self.net(x)
        if self.config.model_output == "mse":
            loss = squared_error(mean, y)
        else:
            bounds = bound_term(self.net.min_log_var, self.net.max_log_var)
            loss = gaussian_loss(mean, log_var, y) + self.config.bound_weight * bounds
        take_step([self.optimiser], loss.sum())
        return {"loss": loss.detach().mean()}

    @torch.no_grad()
    def holdout_error(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the mean squared error of each member's mean on rows (B, …), by dimension (E, 1 + obs)."""
        # In blocks whose activations stay in a CPU's cache.
        blocks = zip(x.split(HOLDOUT_BLOCK), y.split(HOLDOUT_BLOCK), strict=True)
        return torch.stack([(part_y - self.net(part)[0]).square().sum(1) for part, part_y in blocks]).sum(0) / len(x)

    # -- a bad call

    def copies(self) -> tuple[list[Tensor], list[Tensor]]:
        """Return copies of the network's tensors and of Adam's moments (none before the first update)."""
        return [t.clone() for t in self.tensors()], [t.clone() for t in self.moments()]

    def tensors(self) -> list[Tensor]:
        return [*(parameter.detach() for parameter in self.net.parameters()), *self.net.buffers()]

    def moments(self) -> list[Tensor]:
        return [state[name] for state in self.optimiser.state.values() for name in ("exp_avg", "exp_avg_sq")]

    def put_back(self, before: Tensor, kept: tuple[list[Tensor], list[Tensor]]) -> Tensor:
        """Give members that the call made worse than `before` (E,) by the factor, or not finite, what they had.

        Returns which they were (E,). Moments that are not finite also go back: they would spoil every later call.
        """
        error = self.error.mean(-1)
        bad = ~error.isfinite() | (error > self.config.model_keep_factor * before)
        tensors, moments = kept
        choose_(self.tensors(), bad, tensors)
        now = self.moments()
        sound = torch.stack([moment.flatten(1).isfinite().all(1) for moment in now]).all(0)
        choose_(now, bad | ~sound, moments or [torch.zeros_like(moment) for moment in now])
        return bad

    # -- predictions

    @torch.no_grad()
    def predict(self, obs: Tensor, action: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return r (B,) and s' (B, obs) by a random elite for each row: sampled, or the mean (`model_output`)."""
        hands = deal(len(obs), len(self.elites), generator)
        x = model_inputs(obs, action)
        mean, log_var = self.net(x.index_select(0, hands.flatten()).view(*hands.shape, -1), self.elites)
        if self.config.model_output == "gaussian":
            noise = torch.randn(mean.shape, generator=generator, device=self.device)
            mean = mean + (0.5 * log_var).exp() * noise
        change = torch.empty(len(obs), mean.shape[-1], device=self.device)
        change.index_copy_(0, hands.flatten()[: len(obs)], mean.flatten(0, 1)[: len(obs)])
        return change[:, 0], obs + change[:, 1:]


# --- rows -------------------------------------------------------------------------------------------------------------


def split_rows(rows: int, config: DynamicsConfig, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the indices to fit and to hold out, a new random split; at least one row each."""
    if rows < 2:
        raise ValueError(f"the dynamics model cannot be trained on {rows} rows; collect at least 2 at random first")
    held = max(1, min(int(config.holdout_ratio * rows), config.holdout_rows))
    order = torch.randperm(rows, generator=generator, device=generator.device)
    return order[held:], order[:held]


def draw_rows(ensemble_size: int, rows: int, generator: torch.Generator) -> Tensor:
    """Return each member's rows (E, n), drawn with replacement; all rows once for a single member."""
    if ensemble_size == 1:
        return torch.arange(rows, device=generator.device)[None]
    return torch.randint(rows, (ensemble_size, rows), generator=generator, device=generator.device)


def deal(rows: int, hands: int, generator: torch.Generator) -> Tensor:
    """Return row indices (hands, ⌈rows/hands⌉) in random order; what is left over at the end begins again."""
    size = -(-rows // hands)
    if hands == 1:
        return torch.arange(rows, device=generator.device)[None]
    order = torch.randperm(rows, generator=generator, device=generator.device)
    return order[torch.arange(hands * size, device=generator.device) % rows].view(hands, size)


@torch.no_grad()
def choose_(tensors: Iterable[Tensor], mask: Tensor, others: Iterable[Tensor]) -> None:
    """Write members' rows of `others` into `tensors`, (E, …) each, where `mask` (E,) is true."""
    for tensor, other in zip(tensors, others, strict=True):
        tensor.copy_(torch.where(mask.view(-1, *[1] * (tensor.dim() - 1)), other, tensor))
