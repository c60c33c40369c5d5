"""Exact action values of policies in a finite MDP of H steps."""

import torch
from torch import Tensor

from surefoot.agents.parts.tabular import TabularMDP, backup


def policy_values(mdp: TabularMDP, policy: Tensor, discount: float = 1.0) -> Tensor:
    """Return Q^π (…, H, S, A) of policies of that shape."""
    q = torch.empty_like(policy)
    following = torch.zeros_like(policy[..., 0, :, 0])
    for h in reversed(range(policy.shape[-3])):
        q[..., h, :, :] = backup(mdp, h, following, discount)
        following = (policy[..., h, :, :] * q[..., h, :, :]).sum(-1)
    return q
