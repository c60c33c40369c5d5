"""Losses of an actor-critic with their derivatives by the networks' outputs, in native code.

Each does in one call what about ten operations of PyTorch do. Between the products of an update, which fill the caches,
a small operation costs many times its arithmetic. Tests hold them to autograd through `surefoot.agents.sac`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from surefoot.agents.interface import Batch
from surefoot.agents.parts.engine import native


def soft_target(batch: Batch, q: Tensor, log_prob: Tensor, gamma: float, log_alpha: Tensor | None) -> Tensor:
    """Return y (B,) of `sac.soft_target` from q (2, B, 1) and log π (B,) of the next actions; no entropy for None."""
    y = torch.empty(log_prob.shape)
    native.library().soft_target(
        y.shape[0],
        q.data_ptr(),
        log_prob.data_ptr(),
        None if log_alpha is None else log_alpha.data_ptr(),
        batch.reward.data_ptr(),
        batch.reward.stride(0),
        batch.terminated.data_ptr(),
        batch.terminated.stride(0),
        gamma,
        y.data_ptr(),
    )
    return y


def squared_error(q: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the derivative by q (2, B, 1) of `sac.twin_q_loss`, the loss, and the mean of q."""
    by_q, metrics = torch.empty_like(q), torch.empty(2)
    native.library().squared_error(y.shape[0], q.data_ptr(), y.data_ptr(), by_q.data_ptr(), metrics.data_ptr())
    return by_q, metrics[0], metrics[1]


def actor_objective(
    q: Tensor, log_prob: Tensor, log_alpha: Tensor, target_entropy: float
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return the derivatives by q (2, B, 1) and log π (B,) of `sac.policy_loss`, and what to log of it.

    That of `sac.temperature_loss` is added to the gradient of log α, unless it is fixed.
    """
    by_q, by_log_prob, metrics = torch.empty_like(q), torch.empty_like(log_prob), torch.empty(3)
    by_log_alpha = log_alpha.grad if log_alpha.requires_grad else torch.zeros(())
    assert by_log_alpha is not None, "an optimiser of the engine has it"
    tensors = (by_q, by_log_prob, by_log_alpha, metrics)
    native.library().actor_objective(
        log_prob.shape[0],
        q.data_ptr(),
        log_prob.data_ptr(),
        log_alpha.data_ptr(),
        target_entropy,
        *(tensor.data_ptr() for tensor in tensors),
    )
    policy_loss, alpha, entropy = metrics.unbind()
    return by_q, by_log_prob, {"policy_loss": policy_loss, "alpha": alpha, "entropy": entropy}
