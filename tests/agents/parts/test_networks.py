"""Networks against PyTorch's own layers and against float64 references (docs/derivations/h2o.md §2.1)."""

import math

import pytest
import torch
from torch.testing import assert_close

from surefoot.agents.parts.networks import (
    MLP,
    StackedMLP,
    TanhGaussianPolicy,
    TwinQ,
    soft_update,
    tanh_gaussian_log_prob,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("width", [1, 3])
def test_stacked_members_are_separate_linear_networks(width):
    stack = StackedMLP(2, 5, (7, 6), width, generator=generator())
    x = torch.randn(2, 11, 5, generator=generator(1))
    expected = []
    for member in range(2):
        h = x[member]
        for layer, (weight, bias) in enumerate(zip(stack.weights, stack.biases, strict=True)):
            h = torch.nn.functional.linear(h, weight[member].T, bias[member, 0])
            h = h.relu() if layer < 2 else h
        expected.append(h)
    assert_close(stack(x), torch.stack(expected))
    assert_close(stack(x[0])[0], expected[0])  # a (B, in) input is seen by every member


def test_initialisation_is_pytorchs_default_and_owned():
    first, again = (MLP(400, (300,), 2, generator=generator(3)) for _ in range(2))
    assert_close(list(first.parameters()), list(again.parameters()), rtol=0, atol=0)
    assert first.weights[0].abs().max() <= 1 / math.sqrt(400)
    assert first.weights[0].std().item() == pytest.approx(1 / math.sqrt(3 * 400), rel=0.02)
    assert first.biases[1].abs().max() <= 1 / math.sqrt(300)


def test_last_gain_gives_small_xavier_outputs_and_zero_bias():
    critic = TwinQ(3, 2, (256, 256), generator=generator(), last_gain=0.01)
    assert critic.weights[-1].abs().max() <= 0.01 * math.sqrt(6 / 257)
    assert critic.biases[-1].eq(0).all()


def reference_log_prob(mean, log_std, noise):
    """log density of tanh(u) in float64, from the change of variables and nothing else."""
    mean, log_std, noise = mean.double(), log_std.double(), noise.double()
    u = mean + log_std.exp() * noise
    gaussian = torch.distributions.Normal(mean, log_std.exp()).log_prob(u)
    return u, (gaussian + 2 * torch.log(torch.cosh(u))).sum(-1)  # 1 − tanh² = 1/cosh²


@pytest.mark.parametrize("mean", [-20.0, -9.0, -1.0, 0.0, 0.5, 4.0, 20.0])
def test_log_prob_agrees_with_float64_up_to_twenty(mean):
    means, log_std = torch.full((50, 3), mean), torch.full((50, 3), -2.0)
    noise = torch.randn(50, 3, generator=generator()).clamp(-1, 1)
    u, expected = reference_log_prob(means, log_std, noise)
    actual = tanh_gaussian_log_prob(noise, log_std, u.float())
    assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


def test_log_prob_is_summed_over_the_last_axis_of_any_number():
    noise, log_std, u = torch.randn(3, 4, 5, 2, generator=generator())
    together = tanh_gaussian_log_prob(noise, log_std, u)
    assert_close(together, torch.stack([tanh_gaussian_log_prob(*one) for one in zip(noise, log_std, u, strict=True)]))
    assert together.shape == (4, 5)


def test_recorded_actions_have_the_log_prob_they_were_sampled_with():
    policy = TanhGaussianPolicy(3, 2, (16,), generator=generator(), log_std_offset=-1.0)
    obs, noise = torch.randn(20, 3, generator=generator(1)), torch.randn(20, 2, generator=generator(2))
    action, log_prob = policy.sample(obs, noise)
    assert_close(policy.log_prob(obs, action), log_prob, rtol=1e-3, atol=1e-3)
    assert policy.log_prob(obs, torch.ones(20, 2)).isfinite().all()


def test_learned_scalars_of_log_std_receive_a_gradient_only_if_asked():
    obs = torch.randn(4, 3, generator=generator())
    for learn in (False, True):
        policy = TanhGaussianPolicy(3, 2, (8,), generator=generator(), log_std_offset=-1.0, learn_log_std_affine=learn)
        _, log_std = policy(obs)
        raw = policy.net(obs)[:, 2:]
        assert_close(log_std, raw - 1.0)
        log_std.sum().backward()
        assert (policy.log_std_affine.grad is not None) == learn


def test_act_is_the_mean_or_a_sample_from_the_generator_given():
    policy = TanhGaussianPolicy(3, 2, (8,), generator=generator())
    obs = torch.randn(5, 3, generator=generator(1))
    assert_close(policy.act(obs), policy(obs)[0].tanh())
    one, two = (policy.act(obs, explore=True, generator=generator(7)) for _ in range(2))
    assert_close(one, two, rtol=0, atol=0)
    assert not torch.equal(one, policy.act(obs))
    assert one.abs().max() <= 1


def test_soft_update_moves_every_parameter_by_tau():
    target, online = (TwinQ(3, 2, (4,), generator=generator(seed)) for seed in (0, 1))
    expected = [0.9 * t + 0.1 * o for t, o in zip(target.parameters(), online.parameters(), strict=True)]
    soft_update(target.parameters(), online.parameters(), 0.1)
    assert_close([p.detach() for p in target.parameters()], [e.detach() for e in expected])


@pytest.mark.parametrize("least", [-20.0, -10.0])
def test_log_std_is_clipped_to_the_range_given(least):
    policy = TanhGaussianPolicy(2, 1, (4,), generator=torch.Generator(), log_std_min=least)
    for offset, expected in ((-100.0, least), (100.0, 2.0)):
        policy.log_std_affine.data[1] = offset
        assert (policy(torch.zeros(3, 2))[1] == expected).all()
