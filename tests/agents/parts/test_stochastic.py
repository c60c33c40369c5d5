"""Stacks of policies and critics: members side by side, their parameters as one vector, values over sampled actions."""

import pytest
import torch
from torch.testing import assert_close

from surefoot.agents.parts.heads import CategoricalHead, GaussianHead
from surefoot.agents.parts.stochastic import LAST_SCALE, CriticStack, PolicyStack, state_values

E, B, OBS = 3, 5, 4
HEADS = [GaussianHead(2, bounded=True), CategoricalHead(3)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def moved(stack):
    """Return a stack away from its start, so that all of its parameters matter."""
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator(1))
    return stack


def by_hand(stack, member, obs):
    x = obs
    for i, (weight, bias) in enumerate(zip(stack.weights, stack.biases, strict=True)):
        x = x @ weight[member] + bias[member]
        x = x.tanh() if i + 1 < len(stack.weights) else x
    return x


@pytest.mark.parametrize("head", HEADS)
def test_a_policy_starts_near_the_middle_with_a_spread_of_one(head):
    policy = PolicyStack(E, OBS, head, (8, 7), generator())
    outputs = policy(torch.randn(E, B, OBS, generator=generator(2)))
    assert 0 < outputs[..., : head.dim].abs().max() < LAST_SCALE * 7**0.5  # seven tanh units, weights to 1/√7
    if policy.log_std is not None:
        assert policy.log_std.shape == (E, 1, 2)
        assert torch.equal(outputs[..., 2:], torch.zeros(E, B, 2))  # log σ = 0
    assert torch.equal(policy.net.biases[-1], torch.zeros(E, 1, head.dim))


@pytest.mark.parametrize("head", HEADS)
def test_members_act_by_themselves_also_with_parameters_from_outside(head):
    policy, obs = moved(PolicyStack(E, OBS, head, (8, 7), generator())), torch.randn(E, B, OBS, generator=generator(2))
    outputs = policy(obs)
    for member in range(E):
        assert_close(outputs[member, :, : head.dim], by_hand(policy.net, member, obs[member]))
        if policy.log_std is not None:
            assert_close(outputs[member, :, 2:], policy.log_std[member].expand(B, 2))
    assert_close(policy(obs[1:], policy.members(slice(1, None))), outputs[1:])
    lone = policy.only(slice(1, 2))
    assert_close(lone(obs[1:2]), outputs[1:2])
    assert not any(parameter.requires_grad for parameter in lone.parameters())
    before = policy.vector()
    for parameter in lone.parameters():
        parameter += 1
    assert torch.equal(policy.vector(), before)  # a copy


@pytest.mark.parametrize("head", HEADS)
def test_the_vector_of_parameters_splits_into_them_and_sets_them(head):
    policy = moved(PolicyStack(E, OBS, head, (8, 7), generator()))
    theta = policy.vector()
    assert theta.shape == (E, sum(parameter[0].numel() for parameter in policy.parameters()))
    for part, parameter in zip(policy.split(theta), policy.parameters(), strict=True):
        assert torch.equal(part, parameter)
    policy.assign(2 * theta)
    assert_close(policy.vector(), 2 * theta)


def test_a_state_value_is_the_mean_over_sampled_actions():
    head = CategoricalHead(3)
    policy, critic = (
        moved(stack)
        for stack in (PolicyStack(E, OBS, head, (8,), generator()), CriticStack(E, OBS, 3, (6,), generator()))
    )
    obs = torch.randn(E, B, OBS, generator=generator(2))
    actions = torch.eye(3).expand(E, B, 3, 3)
    each = critic.value(obs[:, :, None].expand(E, B, 3, OBS).flatten(1, 2), actions.flatten(1, 2)).view(E, B, 3)
    x = torch.cat([obs[1, 2], torch.eye(3)[0]])
    assert_close(each[1, 2, 0], by_hand(critic, 1, x[None])[0, 0])
    assert_close(critic.value(obs[1:], actions[1:, :, 0], slice(1, None)), each[1:, :, 0])
    expected = (policy(obs).softmax(-1) * each).sum(-1)
    values = state_values(critic, policy, obs, samples=20_000, generator=generator(3))
    assert values.shape == (E, B)
    assert_close(values, expected, atol=0.02, rtol=0)
