"""RLPD by hand: its two halves, the ensemble's target, where LayerNorm sits, and how often each network moves.

Derivation: docs/derivations/hnpg.md §9, E14.
"""

import copy
import math

import pytest
import torch
from tiny import ACT, OBS, make_batch, make_data, make_setting, small
from torch import nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution
from torch.testing import assert_close

from surefoot.agents.baselines.rlpd import RLPD, RLPDConfig, ensemble_target, mean_policy_loss
from surefoot.agents.interface import Batch

E = 4


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make(seed: int = 0, **changes) -> RLPD:
    """An agent whose target critics differ from its critics, and whose norms are not the identity."""
    agent = RLPD(small(RLPDConfig(), **({"ensemble_size": E, "critic_updates": 3} | changes)), make_setting(seed))
    source = generator(seed + 1)
    with torch.no_grad():
        for parameter in (*agent.critic.parameters(), *agent.target.parameters()):
            parameter += 0.3 * torch.randn(parameter.shape, generator=source)
    return agent


def members_of(stack, layer_norm: bool) -> list[nn.Sequential]:
    """The critics of a stack as networks of PyTorch's own layers: linear, LayerNorm, ReLU, …, linear."""
    members = []
    for j in range(stack.weights[0].shape[0]):
        layers: list[nn.Module] = []
        for i, (weight, bias) in enumerate(zip(stack.weights, stack.biases, strict=True)):
            linear = nn.Linear(*weight.shape[1:])
            linear.load_state_dict({"weight": weight[j].T, "bias": bias[j, 0]})
            layers.append(linear)
            if i < len(stack.weights) - 1:
                if layer_norm:
                    norm = nn.LayerNorm(weight.shape[2])
                    norm.load_state_dict({"weight": stack.gains[i][j, 0], "bias": stack.shifts[i][j, 0]})
                    layers.append(norm)
                layers.append(nn.ReLU())
        members.append(nn.Sequential(*layers))
    return members


def values(members, obs, action):
    return torch.stack([member(torch.cat([obs, action], -1)).squeeze(-1) for member in members])


# --- the equations ---------------------------------------------------------------------------------------------------


def test_the_target_is_the_least_of_the_subset_by_hand():
    next_q = torch.tensor([[5.0, 1.0, 2.0], [-9.0, -9.0, -9.0], [4.0, 3.0, 7.0]])  # the least of all is not drawn
    zeros = torch.zeros(3, 1)
    batch = Batch(zeros, zeros, torch.tensor([1.0, 2.0, 3.0]), zeros, torch.tensor([0.0, 0.0, 1.0]))
    subset, log_prob = torch.tensor([2, 0]), torch.tensor([-1.0, 2.0, 50.0])
    plain = ensemble_target(batch, next_q, subset, 0.5, None, log_prob)
    assert plain.tolist() == [1 + 0.5 * 4, 2 + 0.5 * 1, 3.0]
    soft = ensemble_target(batch, next_q, subset, 0.5, torch.tensor(0.25), log_prob)
    assert soft.tolist() == [1 + 0.5 * (4 + 0.25), 2 + 0.5 * (1 - 0.5), 3.0]


def test_the_actor_follows_the_mean_of_all_critics_by_hand():
    q, log_prob = torch.tensor([[5.0, 1.0], [2.0, 4.0], [-1.0, 1.0]]), torch.tensor([-1.0, 3.0])
    assert mean_policy_loss(log_prob, q, torch.tensor(0.5)).item() == pytest.approx((0.5 * 2 - (2 + 2)) / 2)


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("entropy_in_target", [True, False])
def test_a_critic_update_is_that_of_pytorchs_own_layers(layer_norm, entropy_in_target):
    agent = make(layer_norm=layer_norm, entropy_in_target=entropy_in_target, initial_alpha=0.4, gamma=0.9)
    batch, noise, subset = make_batch(8), torch.randn(8, ACT, generator=generator(2)), torch.tensor([3, 1])
    next_action, next_log_prob = agent.policy.sample(batch.next_obs, noise)
    drawn = [members_of(agent.target, layer_norm)[j] for j in (1, 3)]
    value = values(drawn, batch.next_obs, next_action).min(0).values - 0.4 * entropy_in_target * next_log_prob
    y = (batch.reward + 0.9 * (1 - batch.terminated) * value).detach()
    members = members_of(agent.critic, layer_norm)
    error = (values(members, batch.obs, batch.action) - y).square()
    error.mean().backward()  # over members and rows, as the authors' code

    before = copy.deepcopy([agent.policy.state_dict(), agent.target.state_dict(), agent.log_alpha])
    metrics = agent.update_critic(batch, noise, subset)
    assert_close(metrics["offline_loss"], error[:, :4].mean().detach())
    assert_close(metrics["online_loss"], error[:, 4:].mean().detach())
    for j, member in enumerate(members):
        linears = [layer for layer in member if isinstance(layer, nn.Linear)]
        norms = [layer for layer in member if isinstance(layer, nn.LayerNorm)]
        for i, linear in enumerate(linears):
            assert_close(agent.critic.weights[i].grad[j], linear.weight.grad.T)
            assert_close(agent.critic.biases[i].grad[j, 0], linear.bias.grad)
        for i, norm in enumerate(norms):
            assert_close(agent.critic.gains[i].grad[j, 0], norm.weight.grad)
            assert_close(agent.critic.shifts[i].grad[j, 0], norm.bias.grad)
    after = [agent.policy.state_dict(), agent.target.state_dict(), agent.log_alpha]
    assert_close(before, after, rtol=0, atol=0)  # the critics alone moved


def test_an_actor_update_moves_policy_and_temperature_down_their_losses():
    agent, batch = make(initial_alpha=0.4), make_batch(8)
    noise, oracle = torch.randn(8, ACT, generator=generator(3)), copy.deepcopy(agent.policy)
    action, log_prob = oracle.sample(batch.obs, noise)
    loss = (0.4 * log_prob - values(members_of(agent.critic, True), batch.obs, action).mean(0)).mean()
    loss.backward()
    critic = copy.deepcopy(agent.critic.state_dict())
    metrics = agent.update_actor(batch, noise)
    assert_close(metrics["policy_loss"], loss.detach())
    for ours, theirs in zip(agent.policy.net.parameters(), oracle.net.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad)
    assert_close(agent.log_alpha.grad, -(log_prob.mean() - ACT / 2).detach())  # H̄ = −dim(A)/2
    assert_close(critic, agent.critic.state_dict(), rtol=0, atol=0)
    assert all(parameter.grad is None for parameter in agent.critic.parameters())


def test_the_sampled_target_has_the_mean_of_the_exact_integral():
    """E_a'[min_Z Q̄ − α log π(a'|s')] as an integral, with PyTorch's tanh-Gaussian; y is read off a gradient."""
    rows, alpha, gamma = 40_000, 0.4, 0.9
    agent = make(batch_size=rows, initial_alpha=alpha, gamma=gamma)
    state = make_batch(1).next_obs
    zeros = torch.zeros(rows, OBS), torch.zeros(rows, ACT), torch.zeros(rows)
    batch = Batch(*zeros, state.expand(rows, -1), torch.zeros(rows))
    mean, log_std = (x.double()[0] for x in agent.policy(state))
    density = TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(cache_size=1)])
    steps = torch.linspace(-5, 5, 201, dtype=torch.float64)
    z = torch.cartesian_prod(steps, steps)
    weight = torch.softmax(-0.5 * z.square().sum(1), 0)
    action = torch.tanh(mean + log_std.exp() * z)
    drawn = [member.double() for member in members_of(agent.target, True)[:2]]
    value = values(drawn, state.double().expand(len(z), -1), action).amin(0)
    value = value - alpha * density.log_prob(action).sum(1)
    exact = (weight * value).sum()
    spread = ((weight * value.square()).sum() - exact**2).sqrt()

    with torch.no_grad():
        for parameter in agent.critic.parameters():
            parameter.zero_()
    agent.update_critic(batch, torch.randn(rows, ACT, generator=generator(4)), torch.tensor([0, 1]))
    y = -E / 2 * agent.critic.biases[-1].grad.double()  # d/dQ_j of the loss is 2(0 − y)/E
    assert_close(y, (gamma * exact).expand_as(y).detach(), rtol=0, atol=4 * gamma * spread.item() / math.sqrt(rows))


def test_layer_norm_bounds_the_values_of_unseen_actions():
    """|Q(s, a)| ≤ ‖w‖·√width + |b| for unit gains, however far a is; without LayerNorm nothing does."""
    far = torch.full((1, OBS + ACT), 1e6)
    for layer_norm in (True, False):
        agent = RLPD(small(RLPDConfig(), layer_norm=layer_norm), make_setting())
        weight, bias = agent.critic.weights[-1].squeeze(-1), agent.critic.biases[-1].flatten()
        within = agent.critic(far).flatten().abs() <= weight.norm(dim=1) * math.sqrt(8) + bias.abs()
        assert bool(within.all()) == layer_norm


# --- what an update is given -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [2, 8, 34])
def test_half_of_every_batch_is_offline_and_comes_first(batch_size):
    data = make_data()
    data.reward = torch.full((64,), 7.0)
    agent = RLPD(small(RLPDConfig(), batch_size=batch_size), make_setting(data=data))
    agent.replay.push(make_batch(5)._replace(reward=torch.full((5,), -7.0)))  # far fewer rows than the data has
    half = batch_size // 2
    for _ in range(20):
        batch, noise, _ = agent.draw()
        assert batch.reward.tolist() == [7.0] * half + [-7.0] * half
        for name, field in batch._asdict().items():
            assert len(field) == batch_size
            rows = {tuple(row) for row in getattr(data, name).reshape(64, -1).tolist()}
            assert all(tuple(row) in rows for row in field[:half].reshape(half, -1).tolist()), name
        assert noise.shape == (batch_size, ACT)


@pytest.mark.parametrize("size", [1, 2, E])
def test_a_subset_has_distinct_members_and_favours_none(size):
    agent = make(target_subset=size)
    agent.replay.push(make_batch(5))
    draws = 800
    subsets = torch.stack([agent.draw()[2] for _ in range(draws)])
    assert subsets.shape == (draws, size)
    counts = torch.nn.functional.one_hot(subsets, E).sum(1)
    assert counts.max() == 1
    fraction, expected = counts.double().mean(0), size / E
    assert_close(
        fraction, torch.full_like(fraction, expected), rtol=0, atol=4 * math.sqrt(expected * (1 - expected) / draws)
    )
    if size == 2:
        assert len({tuple(sorted(pair)) for pair in subsets.tolist()}) == math.comb(E, 2)


# --- how often what moves --------------------------------------------------------------------------------------------


def watch(agent: RLPD) -> list[tuple]:
    """Record the calls of both updates, and the critics after each of theirs."""
    calls, critic, actor = [], agent.update_critic, agent.update_actor

    def update_critic(*inputs):
        metrics = critic(*inputs)
        calls.append(("critic", inputs, [p.detach().clone() for p in agent.critic.parameters()]))
        return metrics

    def update_actor(*inputs):
        calls.append(("actor", inputs, None))
        return actor(*inputs)

    agent.update_critic, agent.update_actor = update_critic, update_actor
    return calls


@pytest.mark.parametrize("critic_updates", [1, 5])
def test_a_step_is_several_critic_updates_and_one_of_the_actor(critic_updates):
    agent = make(critic_updates=critic_updates, learning_starts=4)
    calls = watch(agent)
    assert [agent.step().updates for _ in range(6)] == [0, 0, 0, 0, 1, 1]
    assert [name for name, *_ in calls] == (["critic"] * critic_updates + ["actor"]) * 2
    batches = [inputs[0] for name, inputs, _ in calls if name == "critic"]
    assert len({batch.obs.sum().item() for batch in batches}) == len(batches)  # each drawn anew
    assert calls[critic_updates][1][0] is batches[critic_updates - 1]  # the actor sees the last of them
    assert agent.critic_steps == 2 * critic_updates


@pytest.mark.parametrize(("target_update_interval", "tau"), [(1, 0.25), (2, 0.01), (3, 1.0)])
def test_targets_move_by_tau_at_every_so_manyth_critic_update(target_update_interval, tau):
    agent = make(
        target_update_interval=target_update_interval, tau=tau, critic_updates=5, learning_starts=0, critic_lr=0.01
    )
    expected, calls = [p.clone() for p in agent.target.parameters()], watch(agent)
    for _ in range(3):  # 15 critic updates: the count runs on from step to step
        agent.step()
    after = [critic for name, _, critic in calls if name == "critic"]
    for critic in after[target_update_interval - 1 :: target_update_interval]:
        expected = [(1 - tau) * old + tau * new for old, new in zip(expected, critic, strict=True)]
    assert_close(list(agent.target.parameters()), expected)


def test_targets_start_as_the_critics_and_optimisers_as_configured():
    config = small(RLPDConfig(), alpha_adam_beta1=0.5, alpha_lr=1e-4, policy_lr=1e-3, critic_lr=2e-3, initial_alpha=0.1)
    agent = RLPD(config, make_setting())
    assert_close(agent.target.state_dict(), agent.critic.state_dict(), rtol=0, atol=0)
    first = agent.critic.weights[0]
    assert all(not torch.equal(first[0], other) for other in first[1:])  # an ensemble of ten, not ten copies
    optimisers = agent.policy_optimiser, agent.critic_optimiser, agent.alpha_optimiser
    groups = [optimiser.param_groups[0] for optimiser in optimisers]
    assert [group["lr"] for group in groups] == [1e-3, 2e-3, 1e-4]
    assert [group["betas"] for group in groups] == [(0.9, 0.999), (0.9, 0.999), (0.5, 0.999)]
    assert agent.log_alpha.item() == pytest.approx(math.log(0.1))
    assert RLPD(small(RLPDConfig(), target_entropy=-0.7), make_setting()).target_entropy == -0.7


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 7}, "--agent.batch-size must be even"),
        ({"batch_size": 0}, "--agent.batch-size must be even"),
        (
            {"target_subset": 3, "ensemble_size": 2},
            "subset must be at most --agent.ensemble-size 2, not 3",
        ),
        ({"target_subset": 0}, "--agent.target-subset must be at least 1"),
        ({"critic_updates": 0}, "--agent.critic-updates must be at least 1"),
        ({"target_update_interval": 0}, "--agent.target-update-interval must be at least 1"),
        ({"alpha_adam_beta1": 1.0}, "--agent.alpha-adam-beta1 must be in"),
        ({"alpha_adam_beta1": -0.1}, "--agent.alpha-adam-beta1 must be in"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RLPDConfig(**changes)


def test_the_ends_of_the_ranges_are_possible():
    least = RLPDConfig(
        batch_size=2, target_subset=1, ensemble_size=1, critic_updates=1, target_update_interval=1, alpha_adam_beta1=0.0
    )
    assert least.alpha_adam_beta1 == 0.0  # no momentum: a first moment that is the gradient
