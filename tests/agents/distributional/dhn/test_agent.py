"""DηN: the loss, the greedy rule, the stock in acting, replay and targets, and the tables it must come to.

docs/derivations/distributional.md §7.
"""

from dataclasses import replace
from functools import partial

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.testing import assert_close

from surefoot.agents.distributional.dhn import agent as dhn
from surefoot.agents.distributional.dhn import policy
from surefoot.agents.distributional.dhn.agent import DHN, StockEnvs
from surefoot.agents.distributional.dhn.equations import (
    DHNConfig,
    Law,
    Stocked,
    clamped,
    plan,
    quantile_huber_loss,
    relabelled,
    scores,
    stock_features,
)
from surefoot.agents.distributional.dhn.network import ImageTorso, QuantileNetwork
from surefoot.agents.distributional.dhn.policy import QuantilePolicy, chosen
from surefoot.agents.distributional.distributions import project_quantiles
from surefoot.agents.distributional.objectives import parse
from surefoot.agents.interface import Budget, Setting, Spaces
from surefoot.envs import EnvConfig, make_vec, spaces_of

OBS = 3
SMALL = DHNConfig(
    stock_range=(-5.0, 1.0), hidden=(8, 8), quantiles=4, batch_size=8, learning_starts=4, replay_capacity=60
)


class Payments:
    """Environments i that pay i + 0.25·step + action; even ones end at their third step, odd ones are cut there."""

    single_observation_space = gym.spaces.Box(-np.inf, np.inf, (OBS,), np.float32)
    episode_limit = 3

    def __init__(self, num_envs=4, pay=1.0, first=0):
        self.num_envs, self.pay, self.elapsed = num_envs, pay, 0
        self.single_action_space = gym.spaces.Discrete(2, start=first)

    def observe(self, elapsed):
        return torch.tensor([[elapsed, 1.0, -1.0]]).repeat(self.num_envs, 1)

    def reset(self, *, seed=None):
        self.elapsed = 0
        return self.observe(0), {}

    def step(self, actions):
        index = torch.arange(self.num_envs)
        reward = self.pay * (index + 0.25 * self.elapsed) + actions
        self.elapsed = (self.elapsed + 1) % 3
        ended = torch.full((self.num_envs,), self.elapsed == 0)
        info = {"final_obs": self.observe(self.elapsed or 3), "_final_obs": ended}
        return self.observe(self.elapsed), reward, ended & (index % 2 == 0), ended & (index % 2 == 1), info

    def state_dict(self):
        return {"elapsed": self.elapsed}

    def load_state_dict(self, state):
        self.elapsed = state["elapsed"]

    def close(self):
        pass


def setting_of(env, seed=0):
    return Setting(Spaces(env.single_observation_space, env.single_action_space), seed, torch.device("cpu"), env)


def make_agent(config=SMALL, env=None, seed=0):
    return DHN(config, setting_of(env or Payments(), seed))


def make_policy(config=SMALL, actions=2, seed=0):
    space = gym.spaces.Box(-1, 1, (OBS,), np.float32)
    generator = torch.Generator().manual_seed(seed)
    return QuantilePolicy(config, Spaces(space, gym.spaces.Discrete(actions)), generator)


class Table(torch.nn.Module):
    """Stands in for a network: quantiles by action, a function of the stock."""

    def __init__(self, quantiles, actions=1):
        super().__init__()
        self.quantiles, self.actions, self.seen = quantiles, actions, []

    def forward(self, obs, stock):
        self.seen.append(stock)
        return self.quantiles(stock)


def fixed(*rows):
    """Return a table whose actions have these quantiles whatever the stock."""
    return Table(lambda stock: torch.tensor(rows).expand(len(stock), -1, -1), len(rows))


# --- the loss, eq. (7.9); by hand E17 ---------------------------------------------------------------------------------


def pairwise_loss(z, y, kappa):
    """Eq. (7.9) as it is written, a table of all pairs."""
    tau = (torch.arange(z.shape[1], dtype=z.dtype) + 0.5) / z.shape[1]
    u = y[:, None, :] - z[:, :, None]
    inside = u.square() / 2 if kappa else torch.zeros_like(u)
    huber = torch.where(u.abs() <= kappa, inside, kappa * (u.abs() - kappa / 2)) / kappa if kappa else u.abs()
    return ((tau[:, None] - (u < 0).to(z.dtype)).abs() * huber).mean(2).sum(1)


@pytest.mark.parametrize(("kappa", "expected"), [(0.0, (1 + 1) / 4), (1.0, (0.5 + 0.5) / 4), (0.5, (0.75 + 0.75) / 4)])
def test_the_loss_of_two_quantiles_and_one_target_by_hand(kappa, expected):
    # u = 1 for z = 0 (weight τ̂ = 1/4) and u = −1 for z = 2 (weight |3/4 − 1|); H_0.5(1)/0.5 = 1 − 1/4
    loss = quantile_huber_loss(torch.tensor([[0.0, 2.0]]), torch.tensor([[1.0]]), kappa)
    assert_close(loss, torch.tensor([expected]))


@pytest.mark.parametrize("kappa", [0.0, 0.05, 1.0, 30.0])
def test_sorted_targets_give_the_loss_and_gradient_of_all_pairs(kappa):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    y = 3 * torch.randn(5, 9, generator=generator, dtype=torch.float64) + 1
    ours, plain = quantile_huber_loss(z, y, kappa), pairwise_loss(z, y, kappa)
    assert ours.shape == (5,)
    assert_close(ours, plain)
    assert_close(*(torch.autograd.grad(loss.sum(), z)[0] for loss in (ours, plain)))


def test_far_from_zero_single_precision_is_enough():
    z, y = torch.randn(2, 4, 200, generator=torch.Generator().manual_seed(0)) * 0.5 + 1000
    for kappa in (0.0, 1.0):
        z = z.detach().requires_grad_()
        loss = quantile_huber_loss(z, y, kappa)
        wide = z.detach().double().requires_grad_()
        plain = pairwise_loss(wide, y.double(), kappa)
        gradients = [torch.autograd.grad(one.sum(), x)[0].double() for one, x in ((loss, z), (plain, wide))]
        assert_close(loss.double(), plain, rtol=1e-4, atol=1e-4)
        assert_close(*gradients, rtol=0, atol=2 / 200)  # a target or two on the other side of a rounded z


def test_the_quantile_loss_pulls_by_level_against_fraction_below_and_rests_at_the_quantiles():
    y = torch.arange(8.0)[None]
    z = torch.tensor([[1.5, 1.5, 100.0, -100.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(quantile_huber_loss(z, y, 0.0).sum(), z)
    assert_close(gradient, torch.tensor([[2 / 8 - 1 / 8, 2 / 8 - 3 / 8, 1 - 5 / 8, 0 - 7 / 8]]))
    at_rest = torch.tensor([[0.5, 2.5, 4.5, 6.5]], requires_grad=True)
    (gradient,) = torch.autograd.grad(quantile_huber_loss(at_rest, y, 0.0).sum(), at_rest)
    assert_close(gradient, torch.zeros(1, 4))


def test_the_loss_reaches_the_quantiles_of_the_taken_action_only_and_no_target():
    quantiles = torch.randn(3, 2, 4, requires_grad=True)
    y = torch.randn(3, 4, requires_grad=True)
    z = chosen(quantiles, torch.tensor([1, 0, 1]))
    assert_close(z[1], quantiles[1, 0])
    quantile_huber_loss(z, y.detach(), 0.0).sum().backward()
    assert bool(
        (quantiles.grad.abs().sum(-1) > 0).eq(torch.tensor([[False, True], [True, False], [False, True]])).all()
    )
    agent = make_agent()
    for _ in range(3):
        agent.step()
    batch = agent.replay.sample(4)
    assert not agent.target_quantiles(batch, batch.stock).requires_grad
    assert all(parameter.grad is None for parameter in agent.target.parameters())


# --- the greedy rule --------------------------------------------------------------------------------------------------

# State B of GATE: `safe` pays 0, `risk` +6 or −3.
SAFE, RISK = [0.0, 0.0], [-3.0, 6.0]


@pytest.mark.parametrize(
    ("objective", "stock", "safe", "risk"),
    [
        ("cvar(0.5)", -6.0, -6.0, (-9 + 0) / 2),  # behind: gamble
        ("cvar(0.5)", 0.0, 0.0, (-3 + 0) / 2),  # ahead: do not
        ("shortfall(2)", -1.0, -1.0, (-4 + 0) / 2),
        ("upper-cvar(0.1)", -1.0, 0.0, (0 + 5) / 2),
        ("target(3)", 1.0, -1.0, (-2 - 7) / 2),
        ("mean", -4.0, -4.0, -4 + 1.5),
        ("mean-cvar(1/2, 1/2)", -1.0, -1.5, (1.5 * -4 + 0.5 * 5) / 2),
        ("probability(0)", -4.0, 0.0, 0.5),
    ],
)
def test_scores_are_the_expected_utilities_of_stock_plus_return(objective, stock, safe, risk):
    wanted = parse(objective)
    tie_break = 1e-3 if wanted.flat else 0.0
    got = scores(Law(torch.tensor([[SAFE, RISK]]), None), torch.tensor([stock]), wanted)
    assert_close(got, torch.tensor([[safe, risk + tie_break * 1.5]]))


def test_ties_of_a_flat_utility_go_to_the_larger_mean():
    tied = torch.tensor([[[1.0, 1.0], [2.0, 8.0], [3.0, 3.0]]])  # all safe from the stock 0
    assert scores(Law(tied, None), torch.zeros(1), parse("cvar(0.25)")).argmax() == 1


def test_acting_is_greedy_at_the_stock_of_the_environment_and_in_the_tasks_own_numbers():
    policy = make_policy()
    policy.net = fixed(SAFE, RISK)
    obs = torch.zeros(2, OBS)
    assert policy.choose(obs, torch.tensor([-6.0, 0.0]), 0.0, None).tolist() == [1, 0]
    policy.first = 5
    assert set(policy.act(obs).tolist()) <= {5, 6}


def test_features_of_the_stock():
    phi = stock_features(torch.tensor([1.0, 8.0, -20.0]), 4.0)
    assert_close(phi[0], torch.tensor([0.25, np.tanh(1.0), np.tanh(4.0)], dtype=torch.float32))
    assert_close(phi[1:, 0], torch.tensor([1.5, -1.5]))


# --- the choice of c_0 ------------------------------------------------------------------------------------------------


def test_the_best_start_is_minus_the_quantile_and_predicts_the_cvar():
    policy = make_policy()
    policy.net = fixed([1.0, 2.0, 3.0, 4.0])
    outer = policy.outer(torch.zeros(6, OBS), parse("cvar(0.5)"))
    assert (
        -3.01 <= outer.stock <= -1.99
    )  # any point of [−3, −2] is a τ-quantile of the distribution, with its sign turned
    assert outer.predicted == pytest.approx(1.5, abs=1e-5)  # (1 + 2)/2: c is added to Z once
    lowest = policy.outer(torch.zeros(1, OBS), parse("cvar(0.25)"))
    assert (lowest.predicted, -2.02 <= lowest.stock <= -0.98) == (pytest.approx(1.0, abs=1e-5), True)


def test_several_start_states_get_one_start_by_the_mean_of_their_predictions():
    policy = make_policy()
    quantiles = {0.0: [0.0, 0.0], 1.0: [4.0, 4.0]}
    policy.net.forward = lambda obs, stock: torch.tensor([[quantiles[float(x)]] for x in obs[:, 0]])
    obs = torch.tensor([[0.0], [1.0], [0.0], [0.0]]).expand(4, OBS)
    # returns 0, 0, 0 and 4 alike: the worst half is 0, the worst 7/8 is (6/8·0 + 1/8·4)/(7/8)
    assert policy.outer(obs, parse("cvar(0.5)")).predicted == pytest.approx(0.0, abs=0.01)
    assert policy.outer(obs, parse("cvar(7/8)")).predicted == pytest.approx(4 / 7, abs=0.01)


def test_the_search_stays_within_what_was_trained():
    policy = make_policy(replace(SMALL, stock_range=(-1.5, 0.5)))
    policy.net = fixed([1.0, 2.0, 3.0, 4.0])
    outer = policy.outer(torch.zeros(1, OBS), parse("cvar(1)"))
    assert outer.stock == -1.5
    assert (float(outer.grid[0]), float(outer.grid[-1]), len(outer.grid) >= 201) == (-1.5, 0.5, True)


def test_the_upper_tail_takes_the_least_of_its_bounds():
    policy = make_policy(replace(SMALL, objective="upper-cvar(0.5)"))
    policy.net = fixed([1.0, 2.0, 3.0, 4.0])
    assert policy.outer(torch.zeros(1, OBS)).predicted == pytest.approx(3.5, abs=1e-5)


def test_one_network_serves_every_tau_and_target_but_no_other_utility():
    policy = make_policy()
    for text in ("cvar(1)", "cvar(0.01)", "shortfall(3)", "mean-cvar(0, 1/2)"):
        policy.require_served(parse(text))
    with pytest.raises(ValueError, match=r"trained for cvar\(0.25\).*train with --agent.objective 'target\(2\)'"):
        policy.stateful(parse("target(2)"))
    make_policy(replace(SMALL, objective="target(0)")).require_served(parse("homeostasis(-3)"))


# --- the stock in acting and replay (pitfalls of §14) -----------------------------------------------------------------


def walk(config, steps, env=None):
    """Return rows of every environment (steps, N), with the stocks after each step, actions 0."""
    envs = StockEnvs(config, setting_of(env or Payments()))
    rows, after = [], []
    for _ in range(steps):
        rows.append(envs.step(torch.zeros(len(envs.stock), dtype=torch.int64), 0)[0])
        after.append(envs.stock)
    return Stocked(*map(torch.stack, zip(*rows, strict=True))), torch.stack(after)


WIDE = replace(SMALL, gamma=0.8, stock_range=(-500.0, 500.0))  # three steps make 500 of it 977: never clamped


def test_the_stock_takes_the_reward_and_is_divided_by_gamma():
    rows, after = walk(WIDE, 2)
    for t in (0, 1):
        assert_close(after[t], (rows.stock[t] + rows.reward[t]) / 0.8)


def test_at_every_step_start_plus_earned_is_the_scaled_stock():
    rows, _ = walk(WIDE, 9)  # three episodes
    assert_close(rows.stock[0::3], (rows.scale * rows.stock)[0::3])
    for t in range(9):
        start = rows.stock[t - t % 3]
        assert_close(start + rows.earned[t], rows.scale[t] * rows.stock[t], rtol=1e-5, atol=1e-3)
        assert_close(rows.scale[t], torch.full((4,), 0.8 ** (t % 3)))


def test_a_new_episode_starts_from_a_fresh_stock_and_the_old_one_keeps_its_own():
    rows, after = walk(WIDE, 6)
    assert bool((rows.earned[3] == 0).all())
    assert bool(((after[2] >= -500) & (after[2] <= 500)).all())
    own = (rows.stock[2] + rows.reward[2]) / 0.8  # c' of the transition that ended the episode
    assert bool((after[2] != own).all())
    agent = make_agent(replace(WIDE, relabel_probability=0.0))
    agent.target = Table(lambda stock: torch.zeros(len(stock), 1, 4))
    last = Stocked(*(field[2] for field in rows))
    agent.target_quantiles(last, last.stock)
    assert_close(agent.target.seen[0], own)


def test_a_cut_episode_goes_on_in_the_target_and_an_ended_one_does_not():
    rows, _ = walk(WIDE, 3)
    agent = make_agent(WIDE)
    agent.target = Table(lambda stock: torch.full((len(stock), 1, 4), 7.0))
    last = Stocked(*(field[2] for field in rows))
    y = agent.target_quantiles(last, last.stock)
    assert_close(y[:, 0] - last.reward, torch.tensor([0.0, 5.6, 0.0, 5.6]))
    assert_close(last.next_obs[:, 0], torch.full((4,), 3.0))  # the true successor, not the next start


def test_a_target_is_the_return_itself_and_its_action_is_chosen_at_the_successors_stock():
    agent = make_agent(replace(WIDE, objective="cvar(0.5)"))
    agent.target = fixed(SAFE, RISK)
    zero, one = torch.zeros(2), torch.ones(2)
    # c = −3 with r = 3 makes c' = 0: safe. c = 0 with r = −3 makes c' = −6: risk. By c itself both would be the other.
    batch = Stocked(
        torch.zeros(2, OBS), zero, torch.tensor([3.0, -3.0]), torch.zeros(2, OBS), zero, 0.5 * one, zero, zero, one
    )
    y = agent.target_quantiles(batch, torch.tensor([-3.0, 0.0]))
    assert_close(y, torch.tensor([[3.0, 3.0], [-3 - 1.5, -3 + 3.0]]))


def test_with_double_the_online_network_chooses_and_the_target_network_values():
    agent = make_agent(replace(WIDE, objective="cvar(0.5)", double=True))
    agent.target, agent.policy.net = fixed([1.0, 1.0], [2.0, 2.0]), fixed([5.0, 5.0], [4.0, 4.0])
    one = torch.ones(1)
    batch = Stocked(torch.zeros(1, OBS), 0 * one, one, torch.zeros(1, OBS), 0 * one, 0.5 * one, 0 * one, 0 * one, one)
    assert_close(agent.target_quantiles(batch, 0 * one), torch.tensor([[1.5, 1.5]]))


def test_stocks_that_run_away_are_clamped_the_same_way_everywhere():
    config = replace(SMALL, gamma=0.5, stock_range=(-5.0, 1.0), relabel_probability=0.0)
    endless = Payments(pay=-1e30)
    endless.step = lambda actions, step=endless.step: (
        *step(actions)[:2],
        *[torch.zeros(4, dtype=torch.bool)] * 2,
        {"final_obs": endless.observe(1)},
    )
    agent = make_agent(config, endless)
    for _ in range(40):
        agent.envs.step(torch.zeros(4, dtype=torch.int64), 0)
    assert agent.envs.stock.tolist()[1:] == [-10.0] * 3
    agent.target = Table(lambda stock: torch.zeros(len(stock), 1, 4))
    rows, _ = agent.envs.step(torch.zeros(4, dtype=torch.int64), 0)
    agent.target_quantiles(rows, rows.stock)
    assert bool((agent.target.seen[0].abs() <= 10).all())
    assert clamped(torch.tensor([-11.0, 3.0, 11.0]), replace(SMALL, stock_range=(-5.0, 1.0))).tolist() == [
        -10.0,
        3.0,
        10.0,
    ]


def test_n_step_transitions_add_up_rewards_until_n_or_the_episodes_end():
    envs, n_step = StockEnvs(WIDE, setting_of(Payments(num_envs=2))), dhn.NStep(2)
    made = []
    for _ in range(4):
        rows, episodes = envs.step(torch.zeros(2, dtype=torch.int64), 0)
        made.append(n_step.add(rows, episodes.ended))
    assert [[len(rows.reward) for rows in step] for step in made] == [[0], [2, 0], [2, 2], [0, 0]]
    first, second = made[1][0], made[2][0]  # from steps 0 and 1, of rewards i + 0, 1/4, 1/2
    assert_close(first.reward, torch.tensor([0 + 0.8 * 0.25, 1 + 0.8 * 1.25]))
    assert_close(second.reward, torch.tensor([0.25 + 0.8 * 0.5, 1.25 + 0.8 * 1.5]))
    assert_close(first.discount, torch.full((2,), 0.64))
    assert (first.obs[:, 0].tolist(), first.next_obs[:, 0].tolist()) == ([0, 0], [2, 2])
    last = made[2][1]  # the last step alone: cut short by the end, bootstrapped by γ where it was a time-out
    assert_close(last.discount, torch.full((2,), 0.8))
    assert (last.terminated.tolist(), second.terminated.tolist(), first.terminated.tolist()) == ([1, 0], [1, 0], [0, 0])
    following = (first.stock + first.reward) / first.discount  # c_{t+2}, eq. (7.13)
    assert_close(following, last.stock)
    again = dhn.NStep(2)
    again.load_state_dict(n_step.state_dict())
    rows, episodes = envs.step(torch.zeros(2, dtype=torch.int64), 0)
    assert_close(again.add(rows, episodes.ended)[0].reward, n_step.add(rows, episodes.ended)[0].reward)


@pytest.mark.parametrize("anew", [False, True])
def test_where_episodes_begin_anew_no_transition_and_no_sum_goes_on(anew):
    config = replace(SMALL, n_step=3, relabel_probability=0.0, learning_starts=50, gamma=0.5)
    agent, other = make_agent(config), make_agent(config, seed=1)
    for _ in range(2):
        agent.step()
    load = other.envs.interaction.env.load_state_dict
    other.envs.interaction.env.load_state_dict = lambda state: (load(state), torch.zeros(4, OBS) if anew else None)[1]
    other.load_state_dict(agent.state_dict())
    assert len(other.n_step.window) == (0 if anew else 2)
    assert other.envs.scale.tolist() == [1.0 if anew else 0.25] * 4
    assert bool(other.envs.earned.any()) != anew
    assert torch.equal(other.envs.stock, agent.envs.stock) != anew


@pytest.mark.parametrize("how", ["free", "trajectory"])
def test_a_relabelled_stock_is_what_a_fresh_start_would_have_made(how):
    rows, _ = walk(WIDE, 3)
    last = Stocked(*(field[2] for field in rows))
    fresh, replaced = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([True, False, True, True])
    got = relabelled(last, fresh, replaced, replace(WIDE, relabel=how))
    by_hand = fresh.clone()
    for t in (0, 1):
        by_hand = (by_hand + rows.reward[t]) / 0.8
    assert_close(got, torch.where(replaced, fresh if how == "free" else by_hand, last.stock))


def test_replay_gives_back_what_the_environments_made():
    agent = make_agent(WIDE)
    for _ in range(3):
        agent.step()
    rows = agent.replay.unpack(agent.replay.rows[:12])
    assert_close(rows.stock[4:8], (rows.stock[:4] + rows.reward[:4]) / 0.8)
    assert set(rows.action.tolist()) <= {0.0, 1.0}
    assert rows.terminated.tolist() == [0] * 8 + [1, 0, 1, 0]


def test_the_probability_and_range_of_relabelled_stocks(monkeypatch):
    agent = make_agent(replace(SMALL, batch_size=4000, stock_range=(-5.0, 1.0)))
    agent.step()
    agent.replay.push(agent.envs.step(torch.zeros(4, dtype=torch.int64), 0)[0])
    seen = []
    agent.update = lambda batch, fresh, replaced: seen.extend([fresh, replaced]) or {}
    agent.learn()
    assert (float(seen[0].min()) >= -5, float(seen[0].max()) <= 1) == (True, True)
    assert float(seen[0].mean()) == pytest.approx(-2, abs=0.15)
    assert float(seen[1].float().mean()) == pytest.approx(0.9, abs=0.02)


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gamma": 0.0}, r"--agent.gamma must be in \(0, 1\], not 0.0"),
        ({"gamma": 1.5}, r"--agent.gamma must be in \(0, 1\]"),
        ({"objective": "cvar(0)"}, r"tau must lie in \(0, 1\]"),
        ({"objective": "cvar(1.5)"}, r"tau must lie in \(0, 1\]"),
        ({"objective": "risk"}, "unknown objective 'risk'"),
        ({"clip_reward": 1.0}, "--agent.clip-reward does not go with --agent.stock"),
        ({"n_step": 3}, "--agent.n-step 3 with relabelling"),
        ({"stock": False}, r"--agent.objective cvar\(0.25\) needs --agent.stock"),
        ({"stock_range": (1.0, 1.0)}, "--agent.stock-range must be finite, its low end first"),
        ({"stock_range": (-float("inf"), 1.0)}, "--agent.stock-range must be finite"),
        ({"return_range": (1.0, 0.0)}, "--agent.return-range must be finite, its low end first, or None"),
        ({"categories": 5}, "--agent.categories needs --agent.return-range"),
        ({"categories": 1, "return_range": (0.0, 1.0)}, "--agent.categories must be at least 2, or None"),
        ({"quantiles": 0}, "--agent.quantiles must be at least 1"),
        ({"huber_threshold": -1.0}, "--agent.huber-threshold must be at least 0"),
        ({"relabel_probability": 1.1}, r"--agent.relabel-probability must be in \[0, 1\]"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


@pytest.mark.parametrize("start", [float("nan"), float("inf")])
def test_a_start_that_is_no_finite_number_is_refused(start):
    with pytest.raises(ValueError, match=f"the stock to start with is {start}; it must be a finite number"):
        make_policy().stateful(stock=start)


def test_continuous_actions_are_refused():
    box = gym.spaces.Box(-1, 1, (2,), np.float32)
    with pytest.raises(ValueError, match="needs Discrete actions"):
        policy.make_policy(SMALL, Spaces(box, box))


# --- QR-DQN -----------------------------------------------------------------------------------------------------------

PLAIN = replace(SMALL, objective="mean", stock=False, relabel_probability=0.0)


def test_without_a_stock_nothing_depends_on_it_and_rewards_may_be_clipped():
    agent = make_agent(replace(PLAIN, clip_reward=0.5))
    obs = torch.randn(6, OBS)
    assert_close(agent.policy.net(obs, torch.zeros(6)), agent.policy.net(obs, torch.full((6,), 3.0)))
    assert not hasattr(agent.policy.net, "of_stock")
    for _ in range(4):
        agent.step()
    assert float(agent.replay.rows[: len(agent.replay), OBS + 1].abs().max()) == 0.5


def test_the_mean_takes_the_same_targets_with_and_without_a_stock():
    with_stock = make_agent(replace(WIDE, objective="mean"))
    rows, _ = walk(WIDE, 2)
    batch = Stocked(*(field[1] for field in rows))
    with_stock.target = fixed([0.0, 1.0], [3.0, -1.0])
    without = make_agent(PLAIN)
    without.target = with_stock.target
    assert_close(with_stock.target_quantiles(batch, batch.stock), without.target_quantiles(batch, batch.stock))


def test_targets_keep_to_the_range_of_the_return():
    rows, _ = walk(WIDE, 2)
    batch = Stocked(*(field[1] for field in rows))
    free, bounded = make_agent(WIDE), make_agent(replace(WIDE, return_range=(-1.0, 1.5)))
    free.target = bounded.target = fixed([-9.0, 9.0], [-9.0, 9.0])
    y = free.target_quantiles(batch, batch.stock)
    assert (float(y.min()) < -1, float(y.max()) > 1.5) == (True, True)
    assert_close(bounded.target_quantiles(batch, batch.stock), y.clamp(-1.0, 1.5))


# --- categories in place of quantiles, §7.11 --------------------------------------------------------------------------

COARSE = replace(WIDE, gamma=0.5, return_range=(-3.0, 6.0), categories=4)  # −3, 0, 3 and 6


def test_scores_of_chances_are_expected_utilities():
    # State B of GATE again, `safe` 0, `risk` −3 or 6; the stock −1 makes it −1, or −4 and 5
    law = Law(torch.tensor([-3.0, 0.0, 6.0]), torch.tensor([[[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]]]))
    stock = torch.tensor([-1.0])
    assert_close(scores(law, stock, parse("target(1)")), torch.tensor([[-1.0, -4.5]]))
    assert_close(scores(law, stock, parse("cvar(0.5)")), torch.tensor([[-1.0, -2.0 + 1e-3 * 1.5]]))
    certain = -np.log(0.5 * (np.exp(4.0) + np.exp(-5.0)))
    assert_close(scores(law, stock, parse("entropic(1)")), torch.tensor([[-1.0, certain]], dtype=torch.float32))


def of_chances(*rows):
    """Return a table whose actions have these chances of the categories."""
    return fixed(*torch.tensor(rows).log().tolist())


def test_a_target_of_categories_is_the_projected_distribution_of_one_step():
    agent = make_agent(COARSE)
    agent.target = of_chances([0.0, 0.0, 0.0, 1.0])  # 6 for certain
    zero, one = torch.zeros(2), torch.ones(2)
    batch = Stocked(
        torch.zeros(2, OBS),
        zero,
        one,
        torch.zeros(2, OBS),
        one - zero.index_fill(0, torch.tensor([1]), 1.0),
        0.5 * one,
        zero,
        zero,
        one,
    )
    m = agent.target_categories(batch, zero)
    # the first ended: 1 is 2/3·0 + 1/3·3; the second goes on: 1 + 6/2 = 4 is 2/3·3 + 1/3·6
    assert_close(m, torch.tensor([[0.0, 2 / 3, 1 / 3, 0.0], [0.0, 0.0, 2 / 3, 1 / 3]]))


def test_the_action_of_a_target_of_categories_is_chosen_at_the_successors_stock():
    agent = make_agent(replace(COARSE, objective="cvar(0.5)"))
    agent.target = of_chances([0.0, 1.0, 0.0, 0.0], [0.5, 0.0, 0.0, 0.5])  # `safe`, and `risk` −3 or 6
    zero, one = torch.zeros(2), torch.ones(2)
    obs = torch.zeros(2, OBS)
    batch = Stocked(obs, zero, torch.tensor([3.0, -3.0]), obs, zero, 0.5 * one, zero, zero, one)
    means = (agent.target_categories(batch, torch.tensor([-3.0, 0.0])) * torch.tensor([-3.0, 0.0, 3.0, 6.0])).sum(-1)
    assert_close(means, torch.tensor([3.0, 0.5 * (-3.0 + 0.0)]))  # 0 behind: safe. 6 behind: risk, −4.5 clipped to −3


def assert_steps_down(config, loss_of):
    """An update of 6 rows reports the mean of loss_of(agent, batch, outputs), and SGD steps along its gradient."""
    agent = make_agent(replace(config, max_grad_norm=None))
    for _ in range(3):
        agent.step()
    net, batch = agent.policy.net, agent.replay.sample(6)
    agent.optimiser = torch.optim.SGD(net.parameters(), lr=1.0)
    loss = loss_of(agent, batch, chosen(net(batch.obs, batch.stock), batch.action.long())).sum() / 6
    before, gradient = [p.detach().clone() for p in net.parameters()], torch.autograd.grad(loss, [*net.parameters()])
    found = agent.update_eager(batch, torch.zeros(6), torch.zeros(6, dtype=torch.bool))
    assert_close(found["loss"], loss.detach())
    assert_close([p.detach() for p in net.parameters()], [a - g for a, g in zip(before, gradient, strict=True)])


def test_an_update_takes_the_cross_entropy_of_the_target():
    def loss_of(agent, batch, head):
        return -agent.target_categories(batch, batch.stock) * head.softmax(-1).log()

    assert_steps_down(COARSE, loss_of)


def one_action(row, stock):
    return row.expand(len(stock), 1, -1)


@pytest.mark.parametrize(("chance", "kept"), [(1 / 50, True), (1 / 100, False)])
def test_quantiles_leave_out_a_failure_of_less_than_half_a_quantile_a_step_and_categories_do_not(chance, kept):
    """A task that pays 1 a step and ends with this chance, §7.11: its mean return is 1/(1 − γ(1 − chance))."""
    gamma, rows = 0.9, round(1 / chance)
    ended = torch.zeros(rows).index_fill(0, torch.tensor([0]), 1.0)
    zero, one, obs = torch.zeros(rows), torch.ones(rows), torch.zeros(rows, OBS)
    batch = Stocked(obs, zero, one, obs, ended, gamma * one, zero, zero, one)
    config = replace(SMALL, objective="mean", gamma=gamma, quantiles=32)
    mean = 1 / (1 - gamma * (1 - chance))
    agent, z = make_agent(config), torch.zeros(1, 32)
    counted, p = make_agent(replace(config, categories=101, return_range=(0.0, 10.0))), torch.full((1, 101), 1 / 101)
    for _ in range(300):
        agent.target = Table(partial(one_action, z))
        y = agent.target_quantiles(batch, zero).flatten()
        z = project_quantiles(y, torch.full_like(y, 1 / len(y)), 32)
        counted.target = Table(partial(one_action, p.log()))
        p = counted.target_categories(batch, zero).mean(0, keepdim=True)
    assert float((p * torch.linspace(0, 10, 101)).sum()) == pytest.approx(mean, abs=0.01)
    assert float(z.min()) == pytest.approx(1.0 if kept else 1 / (1 - gamma))


# --- the tabular limit ------------------------------------------------------------------------------------------------

GATE = replace(
    SMALL,
    gamma=0.5,
    stock_range=(-6.0, 1.0),
    hidden=(32, 32),
    quantiles=8,
    batch_size=64,
    learning_starts=200,
    replay_capacity=2000,
    target_update_interval=25,
    lr=3e-3,
    exploration_steps=1500,
    decay_steps=3000,
)


def train_on_gate(config, steps):
    torch.set_num_threads(1)
    task = EnvConfig("surefoot/Gate-v0", num_envs=16)
    env = make_vec(task)
    agent = DHN(config, Setting(Spaces(*spaces_of(task)), 0, torch.device("cpu"), env))
    while agent.env_steps < steps:
        agent.step()
    return agent


def returns_of(agent, objective, episodes=4000):
    env = make_vec(EnvConfig("surefoot/Gate-v0", num_envs=episodes))
    stateful = agent.policy.stateful(parse(objective))
    obs, _ = env.reset(seed=3)
    total = torch.zeros(episodes, dtype=torch.float64)
    for t in range(2):
        obs, reward, terminated, truncated, _ = env.step(stateful(obs))
        total += 0.5**t * reward.double()
        stateful.observe(reward, terminated | truncated)
    return total


def test_one_network_finds_the_exact_optimum_of_gate_at_every_tau():
    agent = train_on_gate(GATE, 3000)
    # E1; nested CVaR, the risk-neutral policy and every Markov policy get 0 at τ = 1/2.
    for objective, exact in (("cvar(1/4)", 0.0), ("cvar(1/2)", 0.75), ("cvar(3/4)", 1.5), ("cvar(1)", 2.25)):
        assert float(parse(objective).measure(returns_of(agent, objective))) == pytest.approx(exact, abs=0.1), objective


def test_with_categories_one_network_finds_the_exact_optimum_of_gate_at_every_tau():
    agent = train_on_gate(replace(GATE, categories=19, return_range=(-3.0, 6.0)), 3000)
    for objective, exact in (("cvar(1/4)", 0.0), ("cvar(1/2)", 0.75), ("cvar(3/4)", 1.5), ("cvar(1)", 2.25)):
        assert float(parse(objective).measure(returns_of(agent, objective))) == pytest.approx(exact, abs=0.1), objective


def test_the_quantiles_of_gate_are_those_of_its_distribution():
    config = replace(GATE, objective="mean", stock=False, relabel_probability=0.0, quantiles=4)
    agent = train_on_gate(config, 3000)
    z = agent.policy.net(torch.eye(3)[:1], torch.zeros(1))[0, 1].detach()
    # risk, risk: 3·coin + (6 or −3)/2 is −1.5, 1.5, 3 or 6, each with probability 1/4
    assert_close(z.sort().values, torch.tensor([-1.5, 1.5, 3.0, 6.0]), rtol=0, atol=0.4)


def test_a_stateful_policy_follows_each_environments_stock_and_starts_anew():
    policy = make_policy(replace(WIDE, gamma=0.5))
    stateful = policy.stateful(parse("shortfall(2)"))
    stateful(torch.zeros(2, OBS))
    assert stateful.stock.tolist() == [-2.0, -2.0]
    stateful.observe(torch.tensor([1.0, 3.0], dtype=torch.float64), torch.tensor([False, True]))
    assert stateful.stock.tolist() == [-2.0, -2.0]  # (−2 + 1)/½, and a new episode
    stateful.observe(torch.tensor([4.0, 1.0]), torch.tensor([False, False]))
    assert stateful.stock.tolist() == [4.0, -2.0]
    stateful.reset()
    stateful(torch.zeros(3, OBS))
    assert stateful.stock.tolist() == [-2.0, -2.0, -2.0]


def test_episode_limits_are_known_to_the_agent():
    assert make_vec(EnvConfig("CartPole-v1")).episode_limit == 500
    assert make_vec(EnvConfig("CartPole-v1", max_episode_steps=20)).episode_limit == 20
    assert make_vec(EnvConfig("surefoot/Pendulum-v0")).episode_limit == 200
    assert make_vec(EnvConfig("surefoot/DynamicalLinear-v0", kwargs={"system": "real-data"})).episode_limit is None


# --- the network ------------------------------------------------------------------------------------------------------


def test_the_stock_enters_in_units_of_the_farther_end_of_its_range():
    net = QuantileNetwork(OBS, 2, SMALL, torch.Generator().manual_seed(0))  # stocks from −5 to 1
    obs, stock = torch.randn(6, OBS, generator=torch.Generator().manual_seed(1)), torch.linspace(-5, 1, 6)
    assert [tuple(weight.shape[-2:]) for weight in net.of_stock.weights] == [
        (3, 4),
        (4, 8),
    ]  # half as wide
    hidden = (net.torso(obs) + net.of_stock(stock_features(stock, 5.0))).relu()
    assert_close(net(obs, stock), net.head(hidden).view(6, 2, SMALL.quantiles))
    assert not torch.equal(net(obs, stock), net(obs, stock.flip(0)))


def test_as_many_updates_as_are_due_are_made_the_last_at_once():
    agent = make_agent(replace(SMALL, learning_starts=0, updates_per_step=0.375))  # 4 environments: 1.5 a step
    assert [agent.step().updates for _ in range(4)] == [1, 2, 1, 2]
    agent = make_agent(replace(SMALL, learning_starts=4, updates_per_step=0.25))
    assert [agent.step().updates for _ in range(3)] == [0, 1, 1]


def test_an_update_takes_the_mean_of_the_loss_over_the_batch():
    """Its gradient is that of SGD's step, and both are those of eq. (7.9) written out."""

    def loss_of(agent, batch, head):
        return pairwise_loss(head, agent.target_quantiles(batch, batch.stock), SMALL.huber_threshold)

    assert_steps_down(SMALL, loss_of)


def test_the_torso_for_images_is_dqns_and_starts_as_pytorch_starts_layers():
    config = replace(SMALL, image_shape=(2, 84, 84), hidden=(16, 8))
    torso = ImageTorso(config, 2 * 84 * 84, torch.Generator().manual_seed(0))
    layers = [(c.in_channels, c.out_channels, *c.kernel_size, *c.stride) for c in torso.convolutions]
    assert layers == [(2, 32, 8, 8, 4, 4), (32, 64, 4, 4, 2, 2), (64, 64, 3, 3, 1, 1)]
    for layer in torso.convolutions:
        bound = (layer.in_channels * layer.kernel_size[0] ** 2) ** -0.5
        for parameter in layer.parameters():
            assert 0.8 * bound < parameter.abs().max() <= bound
    image = torch.full((1, 2 * 84 * 84), 255.0)
    x = torch.ones(1, 2, 84, 84)
    for layer in torso.convolutions:
        x = layer(x).relu()
    assert torso.seen(image).shape == (1, 64 * 7 * 7)
    assert_close(torso(image), torso.last(x.flatten(1)))


def test_what_will_run_is_counted_in_whole_iterations_and_whole_updates():
    config = replace(SMALL, learning_starts=10, replay_capacity=200)
    for rate, updates in ((0.5, 22), (0.4999886, 21), (0.25, 11)):  # 52 steps, learning from step 8 on
        assert plan(replace(config, updates_per_step=rate), Budget(50, 4))[:2] == (52, updates)
    hundred = replace(config, learning_starts=8, updates_per_step=0.29)
    assert plan(hundred, Budget(108, 4)).updates == 29  # 100·0.29 is 28.999999999999996 in floats
    with pytest.raises(ValueError, match=r"--agent\.replay-capacity is 200, less than a rollout of 201 steps"):
        plan(config, Budget(900, 201))


def test_small_images_get_minatars_convolution_and_are_not_scaled():
    config = replace(SMALL, image_shape=(4, 10, 10), hidden=(16, 8))
    torso = ImageTorso(config, 400, torch.Generator().manual_seed(0))
    assert [(c.in_channels, c.out_channels, *c.kernel_size, *c.stride) for c in torso.convolutions] == [
        (4, 16, 3, 3, 1, 1)
    ]
    image = torch.ones(1, 400)
    assert_close(torso(image), torso.last(torso.convolutions[0](image.view(1, 4, 10, 10)).relu().flatten(1)))
