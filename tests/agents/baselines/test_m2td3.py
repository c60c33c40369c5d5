"""M2TD3: its mathematics by hand, the parameters of its episodes, and where it ends on games with a known answer.

docs/derivations/iwocs.md §8.4 and E16.
"""

import copy
import math

import pytest
import torch
from tiny import ACT, OBS, small
from torch.testing import assert_close
from uncertain import Payoff, make_uncertain

from surefoot.agents.baselines.m2td3 import (
    M2TD3,
    M2TD3Config,
    adam_step_of,
    adversary_losses,
    moved_probability,
    positions,
    restarted_probability,
    robust_loss,
    sampled_parameters,
    superfluous,
)
from surefoot.agents.parts.env_parameters import BatchWithParameters


def make_agent(payoff=lambda a, w: 0 * a, *, num_envs=1, limit=1, seed=0, **changes):
    env = Payoff(payoff, num_envs, limit)
    return M2TD3(small(M2TD3Config(), **changes), make_uncertain(env, seed)), env


def make_rows(n=8):
    g = torch.Generator().manual_seed(0)
    obs, next_obs, action = (torch.randn(n, width, generator=g) for width in (OBS, OBS, ACT))
    reward, parameters = torch.randn(n, generator=g), 2 * torch.rand(n, 1, generator=g) - 1
    return BatchWithParameters(obs, action.tanh(), reward, next_obs, (reward > 0).float(), parameters)


# --- the mathematics --------------------------------------------------------------------------------------------------


def test_adversary_vectors_are_bounded():
    raw = torch.tensor([[-50.0, 0.0], [math.log(3.0), 50.0]])
    assert_close(positions(raw), torch.tensor([[-1.0, 0.0], [0.5, 1.0]]))


def test_the_policy_is_trained_for_the_worst_or_for_the_mixture():
    q = torch.tensor([[1.0, 3.0], [0.0, 1.0], [4.0, 4.0]], requires_grad=True)
    losses, p = adversary_losses(q), torch.tensor([0.5, 0.2, 0.3])
    assert losses.tolist() == [-2.0, -0.5, -4.0]
    assert robust_loss(losses, p, soft=False).item() == -0.5
    (hard,) = torch.autograd.grad(robust_loss(losses, p, soft=False), q, retain_graph=True)
    assert_close(hard, torch.tensor([[0.0, 0.0], [-0.5, -0.5], [0.0, 0.0]]))
    assert robust_loss(losses, p, soft=True).item() == pytest.approx(-1.0 - 0.1 - 1.2)


def test_probabilities_follow_who_was_the_worst():
    p = moved_probability(torch.tensor([0.5, 0.3, 0.2]), torch.tensor(2), torch.tensor(0.1))
    assert_close(p, torch.tensor([0.45, 0.27, 0.28]))


def test_the_first_of_a_close_pair_and_whoever_is_rarely_the_worst_restart():
    points = torch.tensor([[0.0, 0.0], [5.0, 5.0], [0.06, -0.03], [9.0, 9.0], [5.0, 5.11]])
    p = torch.tensor([0.3, 0.3, 0.3, 0.04, 0.06])
    assert superfluous(points, p, distance=0.1, least=0.05).tolist() == [True, False, False, True, False]
    assert superfluous(points, p, distance=0.12, least=0.0).tolist() == [True, True, False, False, False]


def test_a_restarted_vector_has_the_mean_probability_of_the_others():
    p = restarted_probability(torch.tensor([0.02, 0.58, 0.4]), torch.tensor([True, False, False]))
    assert_close(p, torch.tensor([0.49, 0.58, 0.4]) / 1.47)
    untouched = torch.tensor([0.2, 0.3, 0.5])
    assert_close(restarted_probability(untouched, torch.zeros(3, dtype=torch.bool)), untouched)


def test_parameters_are_those_of_the_vectors_by_their_probability_with_noise_inside_the_box():
    points, p = torch.tensor([[-0.5], [0.0], [0.9]]), torch.tensor([0.5, 0.25, 0.25])
    uniform = torch.tensor([0.0, 0.49, 0.5, 0.74, 0.76, 0.9999])
    noise = torch.tensor([[0.0], [0.1], [0.0], [0.0], [0.0], [0.5]])
    parameters = sampled_parameters(points, p, uniform, noise)
    assert_close(parameters, torch.tensor([[-0.5], [-0.4], [0.0], [0.0], [0.9], [1.0]]))
    assert sampled_parameters(points, p * 0.9, torch.tensor([0.99]), torch.zeros(1, 1)).item() == pytest.approx(0.9)


def test_before_its_first_step_the_optimiser_of_a_row_has_seen_nothing():
    agent, _ = make_agent(adversaries=3)
    for moments in (agent.m, agent.v, agent.counts):
        assert_close(moments, torch.zeros_like(moments))
    assert agent.m.shape == agent.v.shape == agent.raw.shape == (3, 1)


def test_a_row_moves_as_by_an_optimiser_of_its_own():
    g = torch.Generator().manual_seed(0)
    value = torch.randn(3, 2, generator=g)
    theirs = [torch.nn.Parameter(row.clone()) for row in value]
    optimisers = [torch.optim.Adam([row], lr=0.01) for row in theirs]
    moments = torch.zeros(3, 2), torch.zeros(3, 2), torch.zeros(3, 1)
    for k in (0, 0, 2, 0, 2):
        grad = torch.zeros(3, 2)
        grad[k] = torch.randn(2, generator=g)
        adam_step_of(torch.tensor([k]), value, grad, moments, 0.01)
        theirs[k].grad = grad[k]
        optimisers[k].step()
    assert_close(value, torch.stack([row.detach() for row in theirs]))


# --- updates ----------------------------------------------------------------------------------------------------------


def test_the_critic_learns_with_the_parameters_of_the_transition_and_its_target_with_smoothed_ones():
    agent, _ = make_agent(gamma=0.9)
    rows, noise = make_rows(), torch.randn(8, ACT)
    parameter_noise = torch.full((8, 1), 100.0)
    seen = torch.cat([rows.next_obs, (rows.parameters + 0.5).clamp(max=1.0)], -1)  # clipped at 0.5
    y = agent.nets.td_target(rows.transitions, noise, seen)
    q = agent.nets.critic(torch.cat([rows.obs, rows.parameters], -1), rows.action)
    metrics = agent.update_critic(rows, noise, parameter_noise)
    assert_close(metrics["critic_loss"], (q - y).square().mean(1).sum().detach())
    changed = agent.nets.critic(torch.cat([rows.obs, rows.parameters], -1), rows.action)
    assert not torch.equal(changed, q)


def test_q_under_parameters_is_the_first_critic_for_each_of_them():
    agent, _ = make_agent()
    rows, parameters = make_rows(4), torch.tensor([[-1.0], [0.2], [0.7]])
    slow = [agent.nets.critic(torch.cat([rows.obs, w.expand(4, 1)], -1), rows.action)[0] for w in parameters]
    assert_close(agent.q_in(rows.obs, rows.action, parameters), torch.stack(slow))


@pytest.mark.parametrize("soft", [False, True])
def test_a_policy_update_moves_the_policy_up_and_the_worst_adversary_alone_down(soft):
    agent, _ = make_agent(adversaries=3, soft=soft, policy_lr=1e-3, adversary_lr=1e-2)
    obs, p = make_rows().obs, agent.probability.clone()
    p = torch.tensor([0.6, 0.3, 0.1])
    agent.probability.copy_(p)
    raw, policy = agent.raw.clone(), copy.deepcopy(agent.policy)
    losses = adversary_losses(agent.q_in(obs, policy(obs), positions(raw))).detach()
    worst = losses.argmax()
    before = robust_loss(losses, p, soft=soft)
    agent.update_policy(obs, torch.tensor(0.25))
    after = adversary_losses(agent.q_in(obs, agent.policy(obs), positions(raw))).detach()
    assert robust_loss(after, p, soft=soft) < before
    moved = (agent.raw != raw).any(1)
    assert moved.tolist() == [k == worst for k in range(3)]
    q_before, q_after = (agent.q_in(obs, policy(obs), positions(x)[worst : worst + 1]).mean() for x in (raw, agent.raw))
    assert q_after < q_before
    assert_close(agent.probability, moved_probability(p, worst, torch.tensor(0.25)))
    assert not torch.equal(agent.nets.target_policy.net.weights[0], policy.net.weights[0])


def test_policies_move_at_every_second_update_with_the_rate_of_the_last_episode():
    agent, _ = make_agent(limit=5, restart_distance=0.0, restart_probability=0.0)
    seen = []
    while agent.updates < 4:
        before, counts = agent.probability.clone(), float(agent.counts.sum())
        if agent.step().updates:
            seen.append(float(agent.counts.sum()) - counts)
    assert seen == [0.0, 1.0, 0.0, 1.0]
    assert agent.last_length == 5.0
    assert agent.probability.max() == pytest.approx(float(before.max()) * 0.8 + 0.2)


# --- parameters -------------------------------------------------------------------------------------------------------


def test_parameters_are_uniform_at_the_start_then_the_adversaries_and_constant_in_an_episode():
    changes = {"adversaries": 2, "parameter_noise": 0.1, "restart_distance": 0.0, "learning_starts": 10_000}
    agent, env = make_agent(num_envs=50, limit=3, random_steps=600, **changes)
    agent.raw.copy_(torch.tensor([[-2.0], [2.0]]))
    agent.probability.copy_(torch.tensor([0.8, 0.2]))
    for _ in range(24):
        agent.step()
    parameters = agent.replay.unpack(agent.replay.rows[: len(agent.replay)]).parameters
    assert_close(parameters, agent.scaling.scaled(torch.cat(env.steps)))
    by_step = parameters.view(24, 50)
    for first in range(0, 24, 3):
        assert bool((by_step[first : first + 3] == by_step[first]).all())
    start, later = by_step[:12:3].flatten(), by_step[15::3].flatten()
    assert start.mean().item() == pytest.approx(0.0, abs=0.15)
    assert start.std().item() == pytest.approx(1 / math.sqrt(3), abs=0.08)
    near = [(later - x).abs() < 0.4 for x in positions(agent.raw).flatten()]
    assert bool((near[0] | near[1]).all())
    assert near[0].float().mean().item() == pytest.approx(0.8, abs=0.1)
    assert (later[near[0]] - positions(agent.raw)[0]).std().item() == pytest.approx(0.1, abs=0.025)


def test_useless_adversaries_restart_at_the_end_of_an_episode():
    agent, _ = make_agent(limit=4, learning_starts=10_000, random_steps=0, adversaries=3)
    for name in ("m", "v", "counts"):
        getattr(agent, name).fill_(7.0)
    agent.raw.copy_(torch.tensor([[0.0], [1.0], [0.01]]))  # 5, 7.31 and 5.02 of 10
    agent.probability.copy_(torch.tensor([0.4, 0.02, 0.58]))
    for _ in range(3):
        agent.step()
    assert agent.restarts == 0
    agent.step()
    assert agent.restarts == 2
    assert agent.raw[2].item() == pytest.approx(0.01)
    assert abs(agent.raw[0].item()) > 0.05
    assert agent.raw[1].item() != 1.0
    assert agent.m.flatten().tolist() == agent.counts.flatten().tolist() == [0.0, 0.0, 7.0]
    expected = restarted_probability(torch.tensor([0.4, 0.02, 0.58]), torch.tensor([True, True, False]))
    assert_close(agent.probability, expected)


def test_the_noise_on_parameters_may_fall_to_a_tenth():
    agent, _ = make_agent(parameter_noise_updates=100)
    scales = []
    for agent.updates in (0, 50, 100, 500):
        scales.append(agent.noise_scale())
    assert scales == pytest.approx([1.0, 0.55, 0.1, 0.1])
    assert make_agent()[0].noise_scale() == 1.0


# --- learning ---------------------------------------------------------------------------------------------------------

QUICK = {
    "num_envs": 4,
    "hidden": (32, 32),
    "policy_lr": 3e-3,
    "critic_lr": 3e-3,
    "adversary_lr": 0.1,
    "batch_size": 64,
    "updates_per_step": 0.25,
    "random_steps": 200,
    "learning_starts": 200,
    "exploration_noise": 0.3,
}


def payoff(a, w):
    """E16: for w = 0 (nominal, or the mean over parameters) the optimum is a = −0.333, max-min is a = −0.191."""
    return -(1 + w) * (a + 0.5) ** 2 - 0.2 * (1 - w) * (a - 0.5) ** 2


@pytest.mark.parametrize("soft", [False, True])
def test_it_finds_the_policy_whose_worst_case_is_best(soft):
    agent, _ = make_agent(payoff, soft=soft, limit=20, gamma=0.0, **QUICK)
    seen = []
    while agent.updates < 1000:
        agent.step()
        seen += [agent.act(torch.zeros(1, OBS))[0, 0].item()] * (agent.updates > 700)
    assert sum(seen) / len(seen) == pytest.approx(-0.191, abs=0.06)
    assert bool(((agent.raw.abs() > 1) & (agent.probability[:, None] > 0.05)).any())  # far from the middle of the box


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adversaries": 1}, "--agent.adversaries must be at least 2, not 1"),
        ({"restart_probability": 1.0}, "--agent.restart-probability must be in"),
        ({"adversaries": 25, "restart_probability": 0.05}, "would restart each of 25 adversaries after every episode"),
        ({"restart_distance": -1.0}, "--agent.restart-distance must be at least 0"),
        ({"parameter_noise": 0.0}, "--agent.parameter-noise must be at least 0.1"),
        ({"parameter_noise_updates": 0}, "--agent.parameter-noise-updates must be positive"),
        ({"adversary_lr": 0.0}, "--agent.adversary-lr must be positive"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        M2TD3Config(**changes)
