"""Finite MDPs and exact dynamic programming: values, occupancies, coverage.

S states, A actions, H steps, K outcomes of an action. Policies, values and occupancies are (…, H, S, A), float64;
leading axes are replicates. There is no terminal flag: an episode that ends continues in an absorbing state, reward 0.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class TabularMDP(NamedTuple):
    """What can follow every action: K pairs of next state and reward, with their probabilities.

    The first axis is the step: length H, or 1 where every step is alike. What cannot happen has probability 0.
    """

    start: Tensor  # (S,) probabilities
    next_state: Tensor  # (H or 1, S, A, K) int64
    probability: Tensor  # (H or 1, S, A, K)
    reward: Tensor  # (H or 1, S, A, K)

    @property
    def mean_reward(self) -> Tensor:
        """E[r | h, s, a], (H or 1, S, A)."""
        return (self.probability * self.reward).sum(-1)


def from_dense(start: Tensor, transition: Tensor, reward: Tensor) -> TabularMDP:
    """Return the MDP with `transition` (H or 1, S, A, S) and expected `reward` (H or 1, S, A)."""
    next_state = torch.arange(len(start), device=start.device).expand(transition.shape)
    return TabularMDP(start, next_state, transition, reward[..., None].expand(transition.shape))


def transition_matrix(mdp: TabularMDP) -> Tensor:
    """Return P (H or 1, S, A, S)."""
    dense = mdp.probability.new_zeros(*mdp.probability.shape[:-1], len(mdp.start))
    return dense.scatter_add_(-1, mdp.next_state, mdp.probability)


def check(mdp: TabularMDP) -> None:
    """Raise `ValueError` where probabilities are no distribution, rewards are not finite, or shapes differ."""
    check_shapes(mdp)
    for name, mass in (("start", mdp.start), ("probability", mdp.probability)):
        wrong = ((mass < 0).any(-1) | ((mass.sum(-1) - 1).abs() > 1e-9)).flatten()
        if wrong.any():
            raise ValueError(f"{name} is no distribution in {int(wrong.sum())} of {len(wrong)} places")
    if mdp.next_state.min() < 0 or mdp.next_state.max() >= len(mdp.start):
        raise ValueError(f"next states must lie in 0 … {len(mdp.start) - 1}")
    if not torch.isfinite(mdp.reward).all():
        raise ValueError("rewards must be finite")


def check_shapes(mdp: TabularMDP) -> None:
    """Raise `ValueError` where the tables' shapes differ."""
    shapes = {name: tuple(value.shape) for name, value in mdp._asdict().items() if name != "start"}
    if len(set(shapes.values())) > 1 or mdp.reward.ndim != 4 or mdp.reward.shape[1] != len(mdp.start):
        raise ValueError(f"start is {tuple(mdp.start.shape)} and {shapes}; they need (S,) and (H or 1, S, A, K) alike")


def backup(mdp: TabularMDP, h: int, following: Tensor, discount: float = 1.0) -> Tensor:
    """Return E[r + γ·V(s')] at step h, (…, S, A), of the values (…, S) that follow."""
    h = h if len(mdp.reward) > 1 else 0
    next_state = mdp.next_state[h]
    ahead = torch.unflatten(following.index_select(-1, next_state.flatten()), -1, next_state.shape)
    value = mdp.reward[h] + (ahead if discount == 1.0 else discount * ahead)
    return value.squeeze(-1) if next_state.shape[-1] == 1 else (mdp.probability[h] * value).sum(-1)


def optimal_values(mdp: TabularMDP, horizon: int, discount: float = 1.0) -> Tensor:
    """Return Q* (H, S, A)."""
    q = mdp.reward.new_zeros(horizon, *mdp.reward.shape[1:3])
    following = torch.zeros_like(mdp.start)
    for h in reversed(range(horizon)):
        q[h] = backup(mdp, h, following, discount)
        following = q[h].amax(-1)
    return q


def expected_return(mdp: TabularMDP, policy: Tensor, discount: float = 1.0) -> Tensor:
    """Return E[Σ γ^h r] (…) under policies (…, H, S, A)."""
    value = torch.zeros_like(policy[..., 0, :, 0])
    for h in reversed(range(policy.shape[-3])):
        value = (policy[..., h, :, :] * backup(mdp, h, value, discount)).sum(-1)
    return value @ mdp.start


def optimal_return(mdp: TabularMDP, horizon: int, discount: float = 1.0) -> Tensor:
    """Return E[V*_1(s_1)], a scalar."""
    return optimal_values(mdp, horizon, discount)[0].amax(-1) @ mdp.start


def stationary_values(mdp: TabularMDP, policy: Tensor, discount: float) -> Tensor:
    """Return V^π (…, S) of policies (…, S, A) that are the same at every step, for ever: a linear solve, γ < 1."""
    _check_stationary(mdp, discount)
    moves = torch.einsum("...sa,sat->...st", policy, transition_matrix(mdp)[0])
    reward = (policy * mdp.mean_reward[0]).sum(-1)
    identity = torch.eye(len(mdp.start), dtype=reward.dtype, device=reward.device)
    values: Tensor = torch.linalg.solve(identity - discount * moves, reward)
    return values


def stationary_optimum(mdp: TabularMDP, discount: float) -> Tensor:
    """Return Q* (S, A) of the endless task, γ < 1, by policy iteration: exact, in a few linear solves."""
    policy = greedy(mdp.mean_reward[0])
    while True:
        values = stationary_values(mdp, policy, discount)
        q = backup(mdp, 0, values, discount)
        # Only what gains more than rounding is changed: equal actions would otherwise alternate for ever.
        gains = q.amax(-1) > values + 1e-12 * (1 + values.abs())
        if not gains.any():
            return q
        policy = torch.where(gains[:, None], greedy(q), policy)


def _check_stationary(mdp: TabularMDP, discount: float) -> None:
    if len(mdp.reward) != 1 or not 0 <= discount < 1:
        raise ValueError(f"stationary values need one table for all steps and a discount in [0, 1), got {discount}")


def greedy(values: Tensor) -> Tensor:
    """Return the policy (…, S, A) that takes the first best action of values of that shape."""
    return torch.nn.functional.one_hot(values.argmax(-1), values.shape[-1]).to(values.dtype)


def narrow(actions: Tensor) -> Tensor:
    """Return a table of actions (…) in two bytes an entry where they fit, else in four."""
    fits = not actions.numel() or int(actions.max()) <= torch.iinfo(torch.int16).max
    return actions.to(torch.int16 if fits else torch.int32)


def occupancies(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """Return the probability d_h^π(s, a) of being in s and taking a at step h, (…, H, S, A)."""
    d = torch.empty_like(policy)
    state = mdp.start.expand(policy[..., 0, :, 0].shape)
    for h in range(policy.shape[-3]):
        d[..., h, :, :] = state[..., None] * policy[..., h, :, :]
        step = h if len(mdp.reward) > 1 else 0
        mass = (d[..., h, :, :, None] * mdp.probability[step]).flatten(-3)
        target = mdp.next_state[step].flatten().expand(mass.shape)
        state = torch.zeros_like(state, memory_format=torch.contiguous_format).scatter_add_(-1, target, mass)
    return d


def concentrability(target: Tensor, data: Tensor) -> Tensor:
    """Return max_{h,s,a} d^π(s, a)/μ(s, a) (…), of occupancies (…, H, S, A); ∞ where the data miss what π does."""
    ratio = torch.where(target > 0, target / data, 0.0)
    return ratio.flatten(-3).amax(-1)
