"""Deep NORA: its bonus, targets and switch test against direct computations, and what it must keep of the paper.

docs/derivations/nora.md E22, §7.1.
"""

import dataclasses

import pytest
import torch
from torch.testing import assert_close

from surefoot.agents.interface import Setting, Spaces
from surefoot.agents.nora.deep_agent import DeepNORA, DeepNORAConfig, recorded_steps
from surefoot.agents.nora.deep_critic import DeepCritic, StepRows, add_outer, log_det, unit_features
from surefoot.agents.parts.tabular import TabularMDP, optimal_values
from surefoot.envs import EnvConfig, make_vec, spaces_of
from surefoot.training.loop.behaviour import record_behaviour

SEA = EnvConfig("surefoot/DeepSea-v0", kwargs={"size": 4, "cells": True}, time_aware=True)
LOCK = EnvConfig("surefoot/DiabolicalLock-v0", kwargs={"horizon": 4, "actions": 3, "noise": 0.1}, time_aware=True)
POLE = EnvConfig("CartPole-v1", max_episode_steps=15, num_envs=3, time_aware=True)
SMALL = {"horizon": 4, "hidden": (16, 16), "features": 8, "critic_steps": 30, "target_steps": 10, "batch_size": 32}


def agent_of(env=SEA, data=None, seed=0, **changes):
    config = DeepNORAConfig(**(SMALL | changes))
    setting = Setting(Spaces(*spaces_of(env)), seed, torch.device("cpu"), make_vec(env), data)
    return DeepNORA(config, setting)


def critic_of(obs_dim=5, actions=3, seed=0, **changes):
    critic = DeepCritic(DeepNORAConfig(**(SMALL | changes)), obs_dim, actions, torch.Generator().manual_seed(seed))
    critic.low.copy_(torch.tensor([-1.0, -0.75, -0.5, -0.25]))
    critic.high.copy_(torch.tensor([4.0, 3.0, 2.0, 1.0]))
    return critic.requires_grad_(False)


def random_rows(count=40, obs_dim=5, actions=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    obs, next_obs = torch.randn(2, count, obs_dim, generator=g)
    step = torch.randint(4, (count,), generator=g)
    action, reward = torch.randint(actions, (count,), generator=g), torch.rand(count, generator=g)
    return StepRows(obs, step, action, reward, next_obs, (step == 3).float())


def frozen(critic, rows):
    """Freeze the bonus on rows; return Λ."""
    covariance = critic.empty_covariance()
    add_outer(covariance, critic.psi(rows.obs, rows.step), critic.group(rows.step), rows.action)
    critic.freeze(covariance)
    return covariance


# --- the mathematics --------------------------------------------------------------------------------------------------


def test_features_by_hand():
    weight, bias = torch.tensor([[1.0, -1.0, 2.0]]), torch.tensor([0.0, 0.5, -1.0])
    psi = unit_features(torch.tensor([[2.0], [-2.0]]), weight, bias)
    assert_close(psi, torch.tensor([[2.0, 0.0, 3.0], [0.0, 2.5, 0.0]]) / torch.tensor([[13.0**0.5], [2.5]]))


@pytest.mark.parametrize("groups", [None, 2, 1])
def test_the_bonus_is_that_of_a_direct_inverse(groups):
    critic, rows, shown = critic_of(step_groups=groups, ridge=0.7), random_rows(), random_rows(6, seed=1)
    frozen(critic, rows)
    psi, seen = (critic.psi(r.obs, r.step).double() for r in (rows, shown))
    expected = torch.empty(6, 3, dtype=torch.float64)
    group = [[0, 1, 2, 3], [0, 0, 1, 1], [0, 0, 0, 0]][{None: 0, 2: 1, 1: 2}[groups]]
    for b in range(6):
        for a in range(3):
            h = int(shown.step[b])
            same = torch.tensor([group[int(step)] == group[h] for step in rows.step]) & (rows.action == a)
            design = 0.7 * torch.eye(8).double() + psi[same].T @ psi[same]
            width = float(critic.high[h] - critic.low[h])
            expected[b, a] = 0.1 * width * (seen[b] @ torch.linalg.inv(design) @ seen[b]).sqrt()
    actual = critic.bonus(shown.obs, shown.step, torch.empty(0))
    assert_close(actual.double(), expected, rtol=1e-4, atol=1e-6)
    values = critic(shown.obs, shown.step)
    assert_close(values, critic.clip(critic.estimates(shown.obs, shown.step)[0] + actual, shown.step))


def test_what_was_never_tried_gets_the_whole_bonus():
    critic = critic_of(ridge=4.0)
    critic.freeze(critic.empty_covariance())
    shown = random_rows(5, seed=2)
    width = (critic.high - critic.low)[shown.step]
    assert_close(critic.bonus(shown.obs, shown.step, torch.empty(0)), (0.1 * width / 2)[:, None].expand(5, 3))


def test_the_log_determinant_grows_by_the_matrix_determinant_lemma():
    critic, rows = critic_of(), random_rows()
    covariance, total = critic.empty_covariance(), 0.0
    start = log_det(covariance)
    psi, group = critic.psi(rows.obs, rows.step), critic.group(rows.step)
    for b in range(len(psi)):
        inverse = torch.linalg.inv(covariance)[group[b], rows.action[b]]
        total += torch.log1p(psi[b].double() @ inverse @ psi[b].double())
        add_outer(covariance, psi[b : b + 1], group[b : b + 1], rows.action[b : b + 1])
    assert_close(log_det(covariance) - start, total)
    assert_close(log_det(covariance), torch.linalg.slogdet(covariance).logabsdet.sum())
    assert_close(covariance, frozen(critic, rows))  # one by one or all at once


def test_targets_are_max_targets_of_the_clipped_optimistic_critic():
    critic, rows = critic_of(bonus_weight=2.0), random_rows(seed=3)
    frozen(critic, random_rows(10, seed=4))
    y = critic.targets(rows)
    assert_close(critic.targets(rows, critic.next_bonus(rows)), y, rtol=0, atol=0)
    clipped = 0
    for b in range(len(y)):
        h = int(rows.step[b])
        if h == 3:
            assert y[b] == rows.reward[b]  # nothing follows the last step
            continue
        step = torch.tensor([h + 1])
        obs = rows.next_obs[b : b + 1]
        inverse = critic.inverse[h + 1]
        psi = critic.psi(obs, step)[0]
        width = critic.high[h + 1] - critic.low[h + 1]
        bonus = torch.stack([2.0 * width * (psi @ inverse[a] @ psi).sqrt() for a in range(3)])
        best = (critic.net(critic.inputs(obs, step))[0, 0] + bonus).max()
        clipped += bool(best > critic.high[h + 1])
        assert_close(y[b], rows.reward[b] + best.clamp(critic.low[h + 1], critic.high[h + 1]))
    assert 0 < clipped < len(y)


def test_a_fit_with_enough_steps_finds_the_optimal_values_without_bonus():
    """All transitions of DeepSea, whose optimum a table knows: row r, column c, and from there right or left."""
    agent = agent_of(bonus_weight=0.0, critic_steps=1500, target_steps=100, critic_lr=3e-3, hidden=(32, 32))
    env = agent.interaction.env
    rows = [(h, c, a) for h in range(4) for c in range(h + 1) for a in range(2)]
    cell = torch.eye(16)
    reward = torch.tensor([float(env.tabular().reward[h, c, a, 0]) for h, c, a in rows])
    following = [(h + 1) * 4 + int(env.tabular().next_state[h, c, a, 0]) for h, c, a in rows]
    next_obs = torch.stack([cell[i] if i < 16 else torch.zeros(16) for i in following])
    step, column, action = torch.tensor(rows).T
    data = StepRows(cell[step * 4 + column], step, action, reward, next_obs, (step == 3).float())
    agent.critic.fit(data, torch.Generator().manual_seed(0))
    values = agent.critic.estimates(data.obs, data.step)[0].gather(-1, action[:, None]).squeeze()
    expected = optimal_values(TabularMDP(*env.tabular()), 4)[step, column, action].float()
    assert_close(values, expected, rtol=0, atol=0.03)


# --- what it keeps of the paper ---------------------------------------------------------------------------------------


def test_between_refreshes_the_critic_is_frozen_and_the_policy_climbs_it():
    agent = agent_of(switch_growth=1e9, max_gap=5, policy_step_size=20.0)
    agent.step()
    obs = torch.cat([torch.eye(16), torch.arange(16.0)[:, None] // 4], 1)
    for refresh in range(3):
        before = {name: value.clone() for name, value in agent.critic.state_dict().items()}
        values = agent.critic(obs[:, :-1], obs[:, -1].long())
        for k in range(1, 6):
            assert agent.policy.updates == k
            assert_close(agent.policy.exponents(obs), 20.0 * k * values / 1.01)
            assert all(torch.equal(value, before[name]) for name, value in agent.critic.state_dict().items())
            agent.step()
        assert agent.refreshes == refresh + 2
        assert not torch.equal(agent.critic.net.weights[0], before["net.weights.0"])
        assert not torch.equal(agent.critic.inverse, before["inverse"])


def test_the_largest_gap_between_refreshes_is_in_episodes_whatever_the_environments():
    agent = agent_of(dataclasses.replace(SEA, num_envs=3), switch_growth=1e9, max_gap=7)
    refreshed = []
    for episode in range(0, 30, 3):
        before = agent.refreshes
        agent.step()
        refreshed += [episode] * (agent.refreshes > before)
    assert refreshed == [0, 9, 18, 27]  # the first multiple of three from seven on


def test_a_refresh_comes_when_the_log_determinant_has_grown_by_kappa():
    agent = agent_of(switch_growth=2.0, max_gap=1000)
    fresh = log_det(agent.covariance)
    for _ in range(30):
        refreshes, growth = agent.refreshes, float(log_det(agent.covariance) - fresh)
        agent.step()
        assert (agent.refreshes > refreshes) == (growth >= 2.0 or refreshes == 0)
        if agent.refreshes > refreshes:
            fresh = agent.frozen_log_det
        assert_close(agent.growth, log_det(agent.covariance) - fresh)
    assert 2 < agent.refreshes < 20


def test_actions_follow_the_softmax():
    agent = agent_of(policy_step_size=5.0)
    agent.step()
    obs = torch.cat([torch.eye(16)[:1], torch.zeros(1, 1)], 1)
    chances = agent.policy.exponents(obs).softmax(-1)[0]
    drawn = agent.policy.act(obs.expand(20_000, -1), explore=True, generator=torch.Generator().manual_seed(0))
    assert_close(drawn.bincount(minlength=2) / 20_000, chances, rtol=0, atol=0.015)
    assert agent.act(obs).tolist() == [int(chances.argmax())]


def test_play_draws_from_the_policy():
    agent = agent_of(policy_step_size=1e-6, switch_growth=1e9, max_gap=1000)  # as good as uniform, by one critic
    for _ in range(40):
        agent.step()
    first = agent.data().action[::4]
    assert 0.2 < first.double().mean() < 0.8


def test_noah_star_has_no_bonus_however_little_is_known():
    critic, shown = critic_of(bonus_weight=0.0), random_rows(6, seed=1)
    critic.freeze(critic.empty_covariance())
    assert_close(critic(shown.obs, shown.step), critic.clip(critic.estimates(shown.obs, shown.step)[0], shown.step))


def test_recorded_episodes_count_once_from_the_start():
    data = record_behaviour(LOCK, 6, seed=0, epsilon=0.5)
    agent = agent_of(LOCK, data)
    spread = 3 * 4 * 8  # trace of λI over steps, actions and features
    assert len(agent.replay) == 24
    assert_close(trace(agent), torch.tensor(24.0 + spread).double())
    agent.step()
    assert agent.fit_loss > 0  # the first critic is fitted to them
    for _ in range(8):
        agent.step()
    assert agent.refreshes > 1
    assert len(agent.replay) == 24 + 36
    assert_close(trace(agent), torch.tensor(24.0 + 36 + spread).double())
    stored, recorded = agent.data(), record_behaviour(LOCK, 6, seed=0, epsilon=0.5)
    assert torch.equal(stored.obs[:24], recorded.obs[:, :-1])
    assert torch.equal(stored.action[:24], recorded.action[:, 0].long())


def trace(agent):
    return agent.covariance.diagonal(dim1=-2, dim2=-1).sum()


def test_the_time_limit_is_an_end():
    agent = agent_of(LOCK, record_behaviour(LOCK, 3, seed=0))
    for _ in range(4):
        agent.step()
    rows = agent.data()
    assert torch.equal(rows.over, (rows.step == 3).float())
    assert rows.step.tolist() == [0, 1, 2, 3] * 7


def test_the_learned_half_of_the_features_is_summed_anew_at_a_refresh():
    agent = agent_of(learned_features=True, switch_growth=1e9, max_gap=3)
    for _ in range(5):  # the first refresh has no data to fit, the second has
        agent.step()
    old, total = agent.critic.learned.weights[0].clone(), len(agent.replay)
    agent.refresh()
    assert not torch.equal(agent.critic.learned.weights[0], old)
    rows = agent.data()
    psi = agent.critic.psi(rows.obs, rows.step)
    assert psi.shape == (total, 8 + 16)
    assert_close(psi.norm(dim=-1), torch.ones(total))
    expected = agent.critic.empty_covariance()
    for b in range(total):
        expected[rows.step[b], rows.action[b]] += torch.outer(psi[b], psi[b]).double()
    assert_close(agent.covariance, expected)


def test_the_loss_test_sees_data_that_contradict_the_critic():
    critic, rows = critic_of(bonus_weight=0.0, critic_steps=300), random_rows(200)
    frozen(critic, rows)
    g = torch.Generator().manual_seed(0)
    weights = critic.net.weights[0].clone()
    for _ in range(8):
        critic.fit(rows, g)
    fresh = critic.excess_loss(rows, g)
    assert not torch.equal(critic.net.weights[0], weights)
    fitted = critic.net.weights[0].clone()
    surprised = critic.excess_loss(rows._replace(reward=rows.reward + 0.5), g)
    assert surprised > 5 * fresh.clamp(min=0) + 1
    assert torch.equal(critic.net.weights[0], fitted)  # the copy was fitted, not the critic


def test_the_loss_rule_refreshes_rarely():
    agent = agent_of(switch="loss", loss_slack=0.05, max_gap=1000)
    for _ in range(25):
        agent.step()
    assert 2 <= agent.refreshes < 20
    lazy = agent_of(switch="loss", loss_slack=1e9, max_gap=1000)
    for _ in range(10):
        lazy.step()
    assert lazy.refreshes == 1


def test_the_loss_rule_by_hand():
    """Values from −1 to 4: more than 3 times what is left after a refresh, 0.2, and 0.01·25 for noise, is 0.85."""
    agent = agent_of(switch="loss", switch_ratio=3.0, loss_slack=0.01, max_gap=1000)
    agent.step()
    agent.critic.low.fill_(-1.0), agent.critic.high.fill_(4.0), agent.fresh_excess.fill_(0.2)
    for excess, drifted in ((0.84, False), (0.86, True)):
        agent.critic.excess_loss = lambda data, generator, excess=excess: torch.tensor(excess)
        assert agent.drifted() == drifted


def test_the_ensembles_bonus_is_its_spread_and_its_growth_the_squares_of_it():
    agent = agent_of(uncertainty="ensemble", ensemble_size=5, bonus_weight=0.5, switch_growth=1e9)
    critic, obs = agent.critic, torch.eye(16)[:5]
    step = torch.tensor([0, 0, 0, 0, 1])
    each = critic.net(critic.inputs(obs, step)) + 3.0 * critic.prior(critic.inputs(obs, step))
    assert_close(critic(obs, step), critic.clip(each.mean(0) + 0.5 * each.std(0, correction=0), step))
    prior = critic.prior.weights[0].clone()
    agent.step()
    rows, spread = agent.data(), agent.critic.estimates(agent.data().obs, agent.data().step)
    taken = spread.std(0, correction=0)[torch.arange(4), rows.action] / 1.01
    assert_close(agent.growth.float(), taken.square().sum())
    agent.refresh()
    assert torch.equal(critic.prior.weights[0], prior)
    assert agent.growth == 0


@pytest.mark.parametrize("changes", [{}, {"warm_start": False, "critic_steps": 300, "target_steps": 30}])
def test_deep_sea_is_solved(changes):
    agent = agent_of(**({"hidden": (32, 32), "features": 32, "critic_steps": 100, "switch_growth": 1.0} | changes))
    returns = torch.cat([agent.step().episodes[0].episode_return for _ in range(45)])
    assert (returns[-10:] > 0.9).double().mean() >= 0.8
    assert agent.refreshes < 40


def test_episodes_may_end_early_and_not_all_at_once():
    agent = agent_of(POLE, horizon=15, reward_range=(0.0, 1.0))
    ended = [agent.step() for _ in range(12)]
    lengths = torch.cat([p.episodes[0].length[p.episodes[0].ended] for p in ended])
    assert len(set(lengths.tolist())) > 2
    assert sum(p.env_steps for p in ended) == len(agent.replay)
    rows = agent.data()
    assert rows.over.sum() == len(lengths)
    assert bool((rows.over[rows.step == 14] == 1).all())


def test_a_state_put_into_another_agent_goes_on_as_the_same():
    one, other = (agent_of(seed=seed, switch="loss", max_gap=3, warm_start=False) for seed in (0, 1))
    for _ in range(6):
        one.step()
    other.step()
    other.load_state_dict(one.state_dict())
    refreshes = one.refreshes
    for _ in range(4):
        first, second = one.step(), other.step()
        assert_close(first.metrics, second.metrics, rtol=0, atol=0)
    assert one.refreshes > refreshes
    assert torch.equal(one.policy.critic.net.weights[0], other.policy.critic.net.weights[0])


# --- what it refuses --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("env", "changes", "message"),
    [
        (EnvConfig("Pendulum-v1", time_aware=True), {}, "nora-deep needs Discrete actions, not Box"),
        (SEA, {"horizon": None}, "--agent.horizon is missing"),
        (SEA, {"horizon": 5}, "--agent.horizon is 5, but the task's episodes take 4 steps"),
        (dataclasses.replace(SEA, time_aware=False), {}, "add --env.time-aware"),
        (POLE, {"horizon": 15}, "declares no range of values; pass --agent.reward-range"),
    ],
)
def test_a_task_that_does_not_fit_is_refused(env, changes, message):
    with pytest.raises(ValueError, match=message):
        agent_of(env, **changes)


@pytest.mark.parametrize(
    ("limit", "message"), [(9, "episodes of this task are cut after 9 steps"), (None, "continue after 10 steps")]
)
def test_a_horizon_that_is_not_the_tasks_is_found_out_by_playing(limit, message):
    env = EnvConfig("MountainCar-v0", max_episode_steps=limit, time_aware=True)
    agent = agent_of(env, horizon=10, reward_range=(-1.0, 0.0))
    with pytest.raises(ValueError, match=message):
        agent.step()


def test_a_return_outside_of_the_clip_range_is_an_error_with_the_numbers():
    agent = agent_of(POLE, horizon=15, reward_range=(0.0, 0.1))
    with pytest.raises(ValueError, match=r"outside of the clip range \[0, 1.5\]; correct --agent.reward-range"):
        agent.step()


def test_data_of_another_horizon_or_not_time_aware_are_refused():
    other = dataclasses.replace(LOCK, kwargs=LOCK.kwargs | {"horizon": 3})
    with pytest.raises(ValueError, match=r"the data's episode 0 takes 3 steps, but --agent\.horizon is 4"):
        agent_of(LOCK, record_behaviour(other, 2, seed=0))
    data = record_behaviour(LOCK, 2, seed=0)
    with pytest.raises(ValueError, match=r"is not the step; record it with --env\.time-aware"):
        agent_of(LOCK, dataclasses.replace(data, obs=data.obs.flip(0)))
    with pytest.raises(ValueError, match=r"raise --agent\.replay-capacity above 8"):
        agent_of(LOCK, data, replay_capacity=7)
    with pytest.raises(ValueError, match="not numbers of the task's 3"):
        agent_of(LOCK, dataclasses.replace(data, action=data.action + 1))
    assert recorded_steps(data, 4).tolist() == [0, 1, 2, 3] * 2


def test_a_setting_out_of_its_range_is_named():
    for changes, message in [
        ({"bonus_weight": -1.0}, "--agent.bonus-weight"),
        ({"switch_growth": 0.0}, "--agent.switch-growth"),
        ({"horizon": 0}, "horizon"),
    ]:
        with pytest.raises(ValueError, match=message):
            DeepNORAConfig(**changes)
