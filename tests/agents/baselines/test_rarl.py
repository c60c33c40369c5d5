"""RARL: what the adversary sees, when it acts, and where both players end on a game with a saddle point.

docs/derivations/iwocs.md §8.3 and E15.
"""

import pytest
import torch
from tiny import ACT, OBS, small
from torch.testing import assert_close
from uncertain import NOMINAL, Payoff, make_uncertain

from surefoot.agents.baselines.rarl import RARL, RARLConfig, against
from surefoot.agents.parts.env_parameters import BatchWithParameters, ParameterScaling


def make_agent(payoff=lambda a, w: 0 * a, *, num_envs=1, limit=1, seed=0, **changes):
    env = Payoff(payoff, num_envs, limit)
    return RARL(small(RARLConfig(), **changes), make_uncertain(env, seed)), env


def make_rows(n=8):
    g = torch.Generator().manual_seed(0)
    obs, next_obs, action = (torch.randn(n, width, generator=g) for width in (OBS, OBS, ACT))
    reward, parameters = torch.randn(n, generator=g), torch.rand(n, 1, generator=g)
    return BatchWithParameters(obs, action.tanh(), reward, next_obs, (reward > 0).float(), parameters)


def test_the_box_maps_minus_one_to_low_and_one_to_high():
    scaling = ParameterScaling(Payoff(None))
    scaled = torch.tensor([[-1.0], [0.0], [0.5], [1.0]])
    assert_close(scaling.params(scaled), torch.tensor([[0.0], [5.0], [7.5], [10.0]]).double())
    assert_close(scaling.scaled(scaling.params(scaled)), scaled)
    assert scaling.scaled(scaling.params(scaled)).dtype == torch.float32


def test_the_adversary_sees_its_own_action_and_the_opposite_reward():
    rows = make_rows()
    theirs = against(rows)
    assert_close(theirs.action, rows.parameters)
    assert_close(theirs.reward, -rows.reward)
    for name in ("obs", "next_obs", "terminated"):
        assert torch.equal(getattr(theirs, name), getattr(rows, name))
    assert torch.equal(rows.transitions.action, rows.action)
    assert torch.equal(rows.transitions.reward, rows.reward)


def test_the_parameters_of_every_step_are_the_adversarys_and_those_of_every_reset_nominal():
    agent, env = make_agent(num_envs=3, limit=4, learning_starts=1000, random_steps=18)
    for _ in range(13):
        agent.step()
    rows = agent.replay.rows[: len(agent.replay)]
    parameters = agent.replay.unpack(rows).parameters
    assert_close(parameters, agent.scaling.scaled(torch.cat(env.steps)))
    assert all(torch.equal(params, torch.full((3, 1), NOMINAL[0]).double()) for params in env.episodes)
    assert len(env.episodes) == 4
    uniform, explored = parameters[:18], parameters[18:]
    assert uniform.abs().min() < 0.3 < 0.8 < uniform.abs().max()
    mean = agent.adversary.policy.act(torch.zeros(1, OBS))
    assert bool(((explored - mean).abs() < 0.5).all())
    assert len(explored.unique()) == len(explored)


def test_an_update_of_the_critics_moves_nothing_else_and_each_policy_goes_its_own_way():
    agent, _ = make_agent(policy_lr=1e-2)
    rows = make_rows()
    policies = [p.clone() for nets in (agent.agent, agent.adversary) for p in nets.policy.parameters()]
    critics = [p.clone() for nets in (agent.agent, agent.adversary) for p in nets.critic.parameters()]
    noise, parameter_noise = torch.randn(8, ACT), torch.randn(8, 1)
    expected = []
    for nets, seen, its_noise in (
        (agent.agent, rows.transitions, noise),
        (agent.adversary, against(rows), parameter_noise),
    ):
        error = nets.critic(seen.obs, seen.action) - nets.td_target(seen, its_noise)
        expected.append(error.square().mean(1).sum().item())
    metrics = agent.update_critics(rows, noise, parameter_noise)
    losses = [metrics[name].item() for name in ("critic_loss", "adversary_critic_loss")]
    assert losses == pytest.approx(expected)
    now = [p for nets in (agent.agent, agent.adversary) for p in nets.policy.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(policies, now, strict=True))
    now = [p for nets in (agent.agent, agent.adversary) for p in nets.critic.parameters()]
    assert not any(torch.equal(a, b) for a, b in zip(critics, now, strict=True))

    def own_values():
        return [nets.critic(rows.obs, nets.policy(rows.obs))[0].mean() for nets in (agent.agent, agent.adversary)]

    before, targets = own_values(), [p.clone() for p in agent.adversary.target_critic.parameters()]
    agent.update_policies(rows.obs)
    assert all(after > value for after, value in zip(own_values(), before, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(targets, agent.adversary.target_critic.parameters(), strict=True))


def test_policies_move_at_every_second_update():
    agent, _ = make_agent()
    seen = []
    while agent.updates < 5:
        before = [p.clone() for p in agent.policy.parameters()]
        if agent.step().updates:
            same = all(torch.equal(a, b) for a, b in zip(before, agent.policy.parameters(), strict=True))
            seen.append(not same)
    assert seen == [False, True, False, True, False]


def test_both_players_find_the_saddle_point():
    """r = −(a − 0.4)² + (w + 0.2)² + a·w/2: the only pair from which neither gains: a = 0.3294, w = −0.2824; E15."""
    agent, _ = make_agent(
        lambda a, w: -((a - 0.4) ** 2) + (w + 0.2) ** 2 + a * w / 2,
        num_envs=4,
        hidden=(32, 32),
        policy_lr=3e-3,
        critic_lr=3e-3,
        tau=0.05,
        batch_size=64,
        replay_capacity=600,
        updates_per_step=0.25,
        random_steps=100,
        learning_starts=100,
        exploration_noise=0.5,
    )
    while agent.updates < 700:
        agent.step()
    obs = torch.zeros(1, OBS)
    assert agent.act(obs)[0, 0].item() == pytest.approx(0.3294, abs=0.1)
    assert agent.adversary.policy.act(obs)[0, 0].item() == pytest.approx(-0.2824, abs=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy_delay": 0}, "--agent.policy-delay must be at least 1, not 0"),
        ({"target_noise": -0.1}, "--agent.target-noise must be at least 0"),
        ({"exploration_noise": -1.0}, "--agent.exploration-noise must be at least 0"),
        ({"gamma": 1.5}, "--agent.gamma must be in"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RARLConfig(**changes)
