"""Sums along time (docs/derivations/hnpg.md E10), the written-out regression, episodes and the success rule (§8.6)."""

import pytest
import torch
from torch.testing import assert_close

from surefoot.agents.interface import Episodes
from surefoot.agents.parts.episodes import SuccessConfig, SuccessMeter
from surefoot.agents.parts.gae import backward_sums, generalised_advantages
from surefoot.agents.parts.networks import StackedMLP
from surefoot.agents.parts.regression import Adam, chosen_error_gradients, squared_error_gradients
from surefoot.agents.parts.stochastic import CriticStack, fit_values


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_episodes(steps=9, num_envs=6):
    g = generator()
    reward, value, following = torch.randn(3, steps, num_envs, generator=g, dtype=torch.float64)
    ended = torch.rand(steps, num_envs, generator=g) < 0.25
    return reward, value, following, ended


@pytest.mark.parametrize("gae_lambda", [0.0, 0.5, 0.97, 1.0])
def test_advantages_are_the_double_sum(gae_lambda):
    reward, value, following, ended = random_episodes()
    expected = torch.zeros_like(reward)
    for i in range(reward.shape[1]):
        for t in range(len(reward)):
            decay = 1.0
            for k in range(t, len(reward)):
                delta = reward[k, i] + 0.9 * following[k, i] - value[k, i]
                expected[t, i] += decay * delta
                decay *= 0.9 * gae_lambda
                if ended[k, i]:
                    break
    actual = generalised_advantages(reward, value, following, ended, gamma=0.9, gae_lambda=gae_lambda)
    assert_close(actual, expected)


def test_lambda_one_is_return_minus_value_and_lambda_zero_one_step():
    reward, value, _, _ = random_episodes()
    following = torch.cat([value[1:], torch.zeros_like(value[:1])])
    never = torch.zeros_like(reward)
    full = generalised_advantages(reward, value, following, never, gamma=1.0, gae_lambda=1.0)
    assert_close(full, backward_sums(reward, torch.ones_like(reward)) - value)
    one_step = generalised_advantages(reward, value, following, never, gamma=1.0, gae_lambda=0.0)
    assert_close(one_step, reward + following - value)


def critic_and_rows(dtype=torch.float64):
    critic = CriticStack(3, 4, 2, (8, 7), generator()).to(dtype)
    g = generator(1)
    x, target = torch.randn(3, 11, 6, generator=g).to(dtype), torch.randn(3, 11, generator=g).to(dtype)
    return critic, x, target, torch.rand(11, generator=g).to(dtype)


def test_gradients_of_chosen_outputs_are_autograds():
    net = StackedMLP(2, 5, (7, 6), 3, generator=generator(0)).double()
    x, target = torch.randn(11, 5, generator=generator(1)).double(), torch.randn(11, generator=generator(2)).double()
    chosen = torch.eye(3).double()[torch.randint(3, (11,), generator=generator(3))]
    expected = ((net(x) * chosen).sum(-1) - target).square()
    expected.mean(-1).sum().backward()
    with torch.no_grad():
        error, actual = chosen_error_gradients(net.weights, net.biases, x, chosen, target)
    torch.testing.assert_close(error, expected)
    torch.testing.assert_close(actual, [parameter.grad for parameter in net.parameters()])


def test_written_out_gradients_are_autograds():
    critic, x, target, weight = critic_and_rows()
    loss = (weight * (critic(x).squeeze(-1) - target).square()).sum()
    expected = torch.autograd.grad(loss, list(critic.parameters()))
    with torch.no_grad():
        error, actual = squared_error_gradients(list(critic.weights), list(critic.biases), x, target, weight)
    assert_close((weight * error).sum(), loss.detach())
    assert_close(actual, list(expected))


def test_adam_is_pytorchs():
    ours = [torch.randn(3, 2, generator=generator()).double(), torch.zeros(4).double()]
    theirs = [p.clone().requires_grad_() for p in ours]
    adam, reference = Adam(ours, 3e-4), torch.optim.Adam(theirs, lr=3e-4)
    for i in range(7):
        gradients = [torch.randn(p.shape, generator=generator(i)).double() for p in ours]
        adam.step(gradients)
        for p, g in zip(theirs, gradients, strict=True):
            p.grad = g
        reference.step()
    assert_close(ours, [p.detach() for p in theirs], rtol=1e-12, atol=1e-14)


def test_a_fit_starts_adam_anew_and_moves_the_chosen_members_only():
    critic, x, target, weight = critic_and_rows()
    before = [p.detach().clone() for p in critic.parameters()]
    chosen = slice(1, 3)
    leaves = [p.detach()[chosen].clone().requires_grad_() for p in critic.parameters()]
    for _ in range(2):
        adam = torch.optim.Adam(leaves, lr=1e-2)
        for _ in range(5):
            adam.zero_grad()
            (weight * (critic(x[chosen], leaves).squeeze(-1) - target[chosen]).square()).sum().backward()
            adam.step()
        fit_values(critic, chosen, x[chosen], target[chosen], weight, lr=1e-2, steps=5)
    for parameter, leaf, old in zip(critic.parameters(), leaves, before, strict=True):
        assert_close(parameter.detach()[chosen], leaf.detach(), rtol=1e-9, atol=1e-11)
        assert torch.equal(parameter[0], old[0])


def finished(returns):
    """One step in which every episode ends."""
    returns = torch.tensor(returns, dtype=torch.float64)
    return [Episodes(torch.ones(len(returns), dtype=torch.bool), returns, torch.full((len(returns),), 5))]


def test_solved_is_the_first_moving_average_above_one_half():
    meter = SuccessMeter(SuccessConfig(1.0, solved_window=3, stop_when_solved=True), 2, torch.device("cpu"))
    wins, losses = [1.0, 1.0, 1.0, 1.0], [0.0, 0.1, 1.0, 1.0]  # two environments per seed: the second seed always wins
    rates = []
    for i, returns in enumerate([losses, wins, losses, losses, wins, wins]):
        metrics = meter.add(finished(returns), 100 * (i + 1))
        rates.append(metrics["success_average/seed-0"].item())
        assert meter.done == (i == 5)
    assert rates == pytest.approx([0, 1 / 2, 1 / 3, 1 / 3, 1 / 3, 2 / 3])
    assert meter.solved_steps.tolist() == [600.0, 100.0]
    assert metrics["success"].item() == 1.0
    again = SuccessMeter(meter.config, 2, torch.device("cpu"))
    again.load_state_dict(meter.state_dict())
    assert again.done


def test_without_a_success_return_nothing_is_measured_and_nothing_stops():
    meter = SuccessMeter(SuccessConfig(stop_when_solved=True), 1, torch.device("cpu"))
    assert meter.add(finished([1.0]), 10) == {}
    assert not meter.done
