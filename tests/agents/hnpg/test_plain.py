"""The stacked computations against the plain loop of benchmarks/plain_hnpg.py, number by number."""

import pytest
import torch
from torch.testing import assert_close

from surefoot.agents.parts.gae import generalised_advantages
from surefoot.agents.parts.heads import GaussianHead
from surefoot.agents.parts.stochastic import CriticStack, PolicyStack, fit_values, state_values
from surefoot.agents.parts.trust_region import StepRows, TrustRegionConfig, trust_region_step

H, N, OBS, ACT = 3, 16, 6, 2


@pytest.fixture
def plain(load_script):
    return load_script("plain_hnpg")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def copy_into(net, stack, h):
    """Give a plain network the parameters of member h."""
    linear = [layer for layer in net if isinstance(layer, torch.nn.Linear)]
    with torch.no_grad():
        for layer, weight, bias in zip(linear, stack.weights, stack.biases, strict=True):
            layer.weight.copy_(weight[h].T)
            layer.bias.copy_(bias[h, 0])


def test_policy_steps_are_the_plain_ones(plain):
    stack = PolicyStack(H, OBS, GaussianHead(ACT, bounded=False), (16, 16), generator()).double()
    policies = [plain.Policy(OBS, ACT, (16, 16)).double() for _ in range(H)]
    for h, policy in enumerate(policies):
        copy_into(policy.net, stack.net, h)
    g = generator(1)
    obs, action = torch.randn(H, N, OBS, generator=g).double(), torch.randn(H, N, ACT, generator=g).double()
    advantage = torch.randn(H, N, generator=g).double()
    weight = torch.full((N,), 1 / N).double()
    trust_region_step(stack, StepRows(obs, action, advantage, weight), TrustRegionConfig())
    for h, policy in enumerate(policies):
        plain.policy_step(policy, obs[h], action[h], advantage[h])
        expected = torch.cat([p.flatten() for p in policy.parameters()])
        parts = [stack.log_std[h].flatten()]
        for weight_, bias in zip(stack.net.weights, stack.net.biases, strict=True):
            parts += [weight_[h].T.flatten(), bias[h].flatten()]
        assert_close(torch.cat(parts).detach(), expected.detach(), rtol=1e-7, atol=1e-10)


def test_a_sweep_whose_targets_are_rewards_is_the_plain_one(plain):
    """At the last step nothing is drawn; the sweep over all steps is held to a loop in test_agent.py."""
    stack = CriticStack(1, OBS, ACT, (64, 64), generator()).double()
    critic = plain.mlp(OBS + ACT, (64, 64), 1).double()
    copy_into(critic, stack, 0)
    g = generator(1)
    on, off = (
        plain.Rows(*(torch.randn(N, *shape, generator=g).double() for shape in ((OBS,), (ACT,), (), (OBS,))))
        for _ in range(2)
    )
    plain.fit_critics([critic], [None], [on], [off])
    x = torch.cat([torch.cat([rows.obs, rows.action], -1) for rows in (off, on)])[None]
    target = torch.cat([off.reward, on.reward])[None]
    fit_values(stack, slice(None), x, target, torch.full((2 * N,), 1 / N).double(), lr=3e-4, steps=30)
    with torch.no_grad():
        assert_close(stack(x)[0], critic(x[0]), rtol=1e-8, atol=1e-10)


def test_advantages_and_values_are_the_plain_ones(plain):
    g = generator()
    values, rewards = torch.randn(2, H, N, generator=g).double()
    on = [plain.Rows(rewards[h], rewards[h], rewards[h], rewards[h]) for h in range(H)]
    expected = torch.stack(plain.advantages(list(values), on))
    following = torch.cat([values[1:], torch.zeros(1, N).double()])
    actual = generalised_advantages(rewards, values, following, torch.zeros(H, N), gamma=1.0, gae_lambda=0.97)
    assert_close(actual, expected)
    stack = PolicyStack(1, OBS, GaussianHead(ACT, bounded=False), (8,), generator())
    critics = CriticStack(1, OBS, ACT, (8,), generator(1))
    policy, critic = plain.Policy(OBS, ACT, (8,)), plain.mlp(OBS + ACT, (8,), 1)
    copy_into(policy.net, stack.net, 0), copy_into(critic, critics, 0)
    obs = torch.randn(2, OBS, generator=g)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        slow = plain.value(critic, policy, obs, samples=1000)
    fast = state_values(critics, stack, obs[None], samples=20_000, generator=generator(2))[0]
    assert_close(slow, fast, rtol=0, atol=0.02)
