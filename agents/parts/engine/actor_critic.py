"""Losses of an actor-critic with their derivatives by the networks' outputs, in native code.

Each does in one call what about ten operations of PyTorch do. Between the products of an update, which fill the caches,
a small operation costs many times its arithmetic. Tests hold them to autograd through `surefoot.agents.sac`. Shapes are
those of one seed; of S seeds side by side they have a first axis S, q (S·2, B, 1).
"""

from __future__ import annotations

import torch
from torch import Tensor

from surefoot.agents.interface import Batch
from surefoot.agents.parts.engine import native


def soft_target(batch: Batch, q: Tensor, log_prob: Tensor, gamma: float, log_alpha: Tensor | None) -> Tensor:
    """Return y (B,) of `sac.soft_target` from q (2, B, 1) and log π (B,) of the next actions; no entropy for None."""
    y, reward, terminated = torch.empty(log_prob.shape), batch.reward, batch.terminated
    parts = native.by_seed(log_prob, q, log_prob, log_alpha, reward, terminated, y)
    for of_q, of_log_prob, of_alpha, of_reward, of_terminated, of_y in parts:
        native.library().soft_target(
            y.shape[-1],
            of_q,
            of_log_prob,
            of_alpha,
            of_reward,
            reward.stride(-1),
            of_terminated,
            terminated.stride(-1),
            gamma,
            of_y,
        )
    return y


def squared_error(q: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the derivative by q (2, B, 1) of `sac.twin_q_loss`, the loss, and the mean of q."""
    by_q, metrics = torch.empty_like(q), torch.empty(*y.shape[:-1], 2)
    for addresses in native.by_seed(y, q, y, by_q, metrics):
        native.library().squared_error(y.shape[-1], *addresses)
    loss, mean = metrics.unbind(-1)
    return by_q, loss, mean


def actor_objective(
    q: Tensor, log_prob: Tensor, log_alpha: Tensor, target_entropy: float
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the derivatives by q (2, B, 1) and log π (B,) of `sac.policy_loss`, and what to log of it.

    That of `sac.temperature_loss` is added to the gradient of log α, unless it is fixed.
    """
    by_q, by_log_prob = torch.empty_like(q), torch.empty_like(log_prob)
    metrics = torch.empty(*log_prob.shape[:-1], 3)
    by_log_alpha = log_alpha.grad if log_alpha.requires_grad else torch.zeros_like(log_alpha)
    assert by_log_alpha is not None, "an optimiser of the engine has it"
    outputs = (by_q, by_log_prob, by_log_alpha, metrics)
    for of_q, of_log_prob, of_alpha, *of_outputs in native.by_seed(log_prob, q, log_prob, log_alpha, *outputs):
        native.library().actor_objective(log_prob.shape[-1], of_q, of_log_prob, of_alpha, target_entropy, *of_outputs)
    policy_loss, alpha, entropy = metrics.unbind(-1)
    return by_q, by_log_prob, {"policy_loss": policy_loss, "alpha": alpha, "entropy": entropy}
