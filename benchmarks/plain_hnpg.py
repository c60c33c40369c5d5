"""One outer iteration of HNPG as one writes it down first: a network and a loop for everything. Slow on purpose.

One environment, episode after episode; one module and optimiser per step; V(s) sample by sample, as in the authors'
released program. The reference of benchmarks/hnpg_speed.py for time, and of tests/agents/hnpg/test_plain.py for the
numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import grad
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn.utils import parameters_to_vector, vector_to_parameters


class Policy(nn.Module):
    """One Gaussian policy."""

    def __init__(self, obs: int, act: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.log_std = nn.Parameter(torch.zeros(act))
        self.net = mlp(obs, hidden, act)

    def forward(self, obs: Tensor) -> Independent:
        mean = self.net(obs)
        return Independent(Normal(mean, self.log_std.exp().expand_as(mean)), 1)


def mlp(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    """Tanh layers; the last one's weights × 0.1, its bias 0."""
    layers: list[nn.Module] = []
    for width in hidden:
        layers += [nn.Linear(inputs, width), nn.Tanh()]
        inputs = width
    last = nn.Linear(inputs, outputs)
    with torch.no_grad():
        last.weight.mul_(0.1)
        last.bias.zero_()
    return nn.Sequential(*layers, last)


class Rows(NamedTuple):
    """Samples of one step."""

    obs: Tensor
    action: Tensor
    reward: Tensor
    next_obs: Tensor


def collect(env: Any, policies: Sequence[Policy], episodes: int) -> list[Rows]:
    """Return on-policy samples, one list entry per step; `env` has one lock."""
    steps: list[list[tuple[Tensor, ...]]] = [[] for _ in policies]
    for _ in range(episodes):
        obs, _ = env.reset()
        for h, policy in enumerate(policies):
            with torch.no_grad():
                action = policy(obs).sample()
            _, reward, _, _, info = env.step(action)
            steps[h].append((obs[0], action[0], reward[0], info["final_obs"][0]))
            obs = info["final_obs"]
    return [Rows(*(torch.stack(column) for column in zip(*rows, strict=True))) for rows in steps]


def fit_critics(
    critics: Sequence[nn.Module], policies: Sequence[Policy], on: list[Rows], off: list[Rows], lam: float = 1.0
) -> None:
    """The backward sweep: 30 updates of a new Adam optimiser per step of the lock."""
    horizon = len(critics)
    to_go = torch.stack([rows.reward for rows in on]).flip(0).cumsum(0).flip(0)
    for h in reversed(range(horizon)):
        z = off[h].reward
        if h < horizon - 1:
            with torch.no_grad():
                action = policies[h + 1](off[h].next_obs).sample()
                z = z + critics[h + 1](torch.cat([off[h].next_obs, action], -1)).squeeze(-1)
        adam = torch.optim.Adam(critics[h].parameters(), lr=3e-4)
        for _ in range(30):
            f_off = critics[h](torch.cat([off[h].obs, off[h].action], -1)).squeeze(-1)
            f_on = critics[h](torch.cat([on[h].obs, on[h].action], -1)).squeeze(-1)
            loss = (f_off - z).square().mean() + lam * (f_on - to_go[h]).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()


@torch.no_grad()
def value(critic: nn.Module, policy: Policy, obs: Tensor, samples: int = 10) -> Tensor:
    """Return V (B,), one state and one action at a time."""
    values = []
    for state in obs:
        drawn = [critic(torch.cat([state, policy(state).sample()])) for _ in range(samples)]
        values.append(torch.stack(drawn).mean())
    return torch.stack(values)


@torch.no_grad()
def value_in_batches(critic: nn.Module, policy: Policy, obs: Tensor, samples: int = 10) -> Tensor:
    """Return V (B,) as `value` does, all states at once."""
    drawn = [critic(torch.cat([obs, policy(obs).sample()], -1)).squeeze(-1) for _ in range(samples)]
    return torch.stack(drawn).mean(0)


def policy_step(policy: Policy, obs: Tensor, action: Tensor, advantage: Tensor, kl_limit: float = 0.01) -> None:
    """One damped natural-gradient step with line search, by double backpropagation of the KL."""
    parameters = list(policy.parameters())
    old = parameters_to_vector(parameters).detach().clone()
    fixed = policy(obs)
    log_old = fixed.log_prob(action).detach()
    fixed = Independent(Normal(fixed.base_dist.mean.detach(), fixed.base_dist.stddev.detach()), 1)

    def gain() -> Tensor:
        return (advantage * (policy(obs).log_prob(action) - log_old).exp()).mean()

    def flat(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat([t.reshape(-1) for t in tensors])

    def product(v: Tensor) -> Tensor:
        kl = kl_divergence(fixed, policy(obs)).mean()
        first = flat(grad(kl, parameters, create_graph=True))
        return flat(grad(first @ v, parameters)) + 0.1 * v

    start = gain().detach()
    g = flat(grad(gain(), parameters))
    x, residual, direction = torch.zeros_like(g), g.clone(), g.clone()
    for _ in range(10):
        square = residual @ residual
        if square < 1e-10:
            break
        curved = product(direction)
        alpha = square / (direction @ curved)
        x, residual = x + alpha * direction, residual - alpha * curved
        direction = residual + residual @ residual / square * direction
    step = x * (2 * kl_limit / (x @ product(x))).sqrt()
    for j in range(10):
        vector_to_parameters(old + 0.5**j * step, parameters)
        with torch.no_grad():
            better = gain() - start
            near = kl_divergence(fixed, policy(obs)).mean() <= 1.5 * kl_limit
        if better > 0 and better / (0.5**j * (g @ step)) > 0.1 and near:
            return
    vector_to_parameters(old, parameters)


@torch.no_grad()
def advantages(values: list[Tensor], on: list[Rows], gae_lambda: float = 0.97) -> list[Tensor]:
    """Return generalised advantages, one list entry per step."""
    result, following = [], torch.zeros_like(values[0])
    for h in reversed(range(len(on))):
        next_value = values[h + 1] if h + 1 < len(on) else torch.zeros_like(values[0])
        following = on[h].reward + next_value - values[h] + gae_lambda * following
        result.append(following)
    return result[::-1]


def iteration(
    env: Any,
    policies: Sequence[Policy],
    critics: Sequence[nn.Module],
    data: list[Rows],
    episodes: int,
    value: Callable[[nn.Module, Policy, Tensor], Tensor] = value,
) -> None:
    """One outer iteration; `data` holds the offline samples of every step."""
    on = collect(env, policies, episodes)
    off = [Rows(*(field[torch.randint(len(rows.obs), (episodes,))] for field in rows)) for rows in data]
    fit_critics(critics, policies, on, off)
    values = [value(critic, policy, rows.obs) for critic, policy, rows in zip(critics, policies, on, strict=True)]
    for h, advantage in enumerate(advantages(values, on)):
        critic, policy, obs = critics[h], policies[h], off[h].obs
        with torch.no_grad():
            action = policy(obs).sample()
            f = critic(torch.cat([obs, action], -1)).squeeze(-1)
        off_advantage = f - value(critic, policy, obs)
        both = (torch.cat(pair) for pair in ((obs, on[h].obs), (action, on[h].action), (off_advantage, advantage)))
        policy_step(policy, *both)
