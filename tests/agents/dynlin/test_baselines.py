"""The baselines against slow references, and the contract of every bandit.

docs/derivations/dynlin.md §10; exact answers E1, E16, E17.
"""

import math

import numpy as np
import pytest
import torch
from bandits import NAMES, make, play

from surefoot.agents.dynlin.bounds import constants, from_system
from surefoot.agents.dynlin.exp3 import arm_probabilities, batch_length, exp3_rate, reward_bound
from surefoot.agents.dynlin.fixed import human_budget_action
from surefoot.agents.dynlin.linucb import constant_radius, discounted_radius, misnamed_radius, oful_radius
from surefoot.agents.parts.random import ReplicateUniforms
from surefoot.envs.tasks.linear_system import SYSTEMS, make_system

SYNTHETIC = {"system": "synthetic"}
REAL = {"system": "real-data"}


def bounds_of(name):
    return from_system(make_system(SYSTEMS[name]), 1.25**0.5)


# --- radii and constants ----------------------------------------------------------------------------------------------


def test_radii_are_the_formulas_of_the_derivation():
    bounds, T, t, lam = bounds_of("synthetic"), 10**5, 777, 1.7
    root = math.sqrt(lam)
    assert oful_radius(t, bounds, 3, lam, 1 / T) == pytest.approx(
        0.26**0.5 * root + 0.01 * math.sqrt(2 * math.log(T) + 3 * math.log(1 + t * 1.25 / (3 * lam)))
    )
    assert constant_radius(T, bounds.theta, 3, lam, 1.5) == pytest.approx(
        0.26**0.5 * root + math.sqrt(2 * math.log(T) + 3 * math.log((3 * lam + T * 2.25) / (3 * lam)))
    )
    gamma = 0.999
    geometric = sum(gamma ** (2 * s) for s in range(t))
    assert discounted_radius(t, bounds, 3, lam, gamma, 1 / T, 1.5) == pytest.approx(
        0.26**0.5 * root + 0.01 * math.sqrt(2 * math.log(T) + 3 * math.log(1 + 2.25 * geometric / (3 * lam)))
    )
    known = constants(bounds)
    spread = math.log(T) + 1.5 * math.log(1 + t * 1.25 / (3 * lam) * geometric)
    assert misnamed_radius(t, bounds, 3, lam, gamma, T) == pytest.approx(
        known.c2 * root + math.sqrt(2 * known.sigma2 * spread)
    )


def test_exp3_constants_are_those_of_the_derivation():
    assert reward_bound(bounds_of("synthetic")) == pytest.approx(1.202118, abs=6e-7)
    assert [batch_length(T, 0.2) for T in (10**4, 10**5, 10**6)] == [5, 7, 8]
    rho = bounds_of("real-data").rho
    assert [batch_length(T, rho) for T in (10**4, 10**5, 10**6)] == [17, 22, 27]
    assert batch_length(10**4, 0.0) == 1
    assert exp3_rate(6, 2) == 1.0
    assert exp3_rate(6, 10**5) == pytest.approx(math.sqrt(6 * math.log(6) / ((math.e - 1) * 2 * 10**5 / 3)))


def test_arm_probabilities_do_not_overflow():
    gains = torch.tensor([[1e6, 0.0], [1e6, 1.0], [0.0, 2.0]], dtype=torch.float64)
    p = arm_probabilities(gains, 0.3)
    torch.testing.assert_close(p.sum(0), torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(p[:, 0], torch.tensor([0.45, 0.45, 0.1], dtype=torch.float64))
    torch.testing.assert_close(p[:, 1], 0.7 * (0.1 * gains[:, 1]).softmax(0) + 0.1)


def test_the_human_budget_loses_the_same_in_every_round():
    budgets = (1_641_952.0, 259_591_273.0, 716_354_611.0)
    np.testing.assert_allclose(human_budget_action(budgets, 1.5), [0.003143, 0.496857, 1.0], rtol=0, atol=6e-7)
    agent = play(make("human-budget", num_envs=2, env=REAL, horizon=1000), 1000)
    np.testing.assert_allclose(agent.regret.total / 1000, 0.2157091, rtol=0, atol=6e-8)


def test_the_oracle_loses_nothing_and_uniform_the_mean_gap():
    assert play(make("oracle", num_envs=3, env=SYNTHETIC, horizon=500), 500).regret.total.tolist() == [0, 0, 0]
    total = play(make("uniform", num_envs=200, env=SYNTHETIC, horizon=500), 500).regret.total
    assert float(total.mean()) / 500 == pytest.approx(0.225694, rel=0.01)


# --- slow references --------------------------------------------------------------------------------------------------


class Tape:
    """The actions and rewards of a bandit, round by round."""

    def __init__(self, name, rounds, **rest):
        self.agent = make(name, horizon=rounds, rounds_per_step=1, **rest)
        self.actions, self.rewards = [], []
        step = self.agent.learner.observe

        def observe(action, last, mean):
            self.actions.append(action.clone())
            self.rewards.append(last.clone())
            step(action, last, mean)

        self.agent.learner.observe = observe
        play(self.agent, rounds)

    def played(self, i):
        return [int(a[i]) for a in self.actions], [float(r[i]) for r in self.rewards]


@pytest.mark.parametrize("name", ["d-linucb", "d-linucb-paper"])
def test_discounted_linucb_follows_the_defining_sums(name):
    rounds, gamma = 120, 0.97 if name == "d-linucb" else 1 - 1e-9
    tape = Tape(name, rounds, num_envs=2, env=SYNTHETIC, gamma=gamma)
    actions, rewards = tape.played(1)
    U, bounds = np.array(SYSTEMS["synthetic"]["actions"]), bounds_of("synthetic")
    for t in range(1, rounds):
        ages = gamma ** np.arange(t - 1, -1, -1.0)
        u, lam = U[actions[:t]], 1.0 if name == "d-linucb" else gamma**-t
        V = (ages[:, None] * u).T @ u + lam * np.eye(3)
        V2 = (ages[:, None] ** 2 * u).T @ u + lam * np.eye(3)
        inverse = np.linalg.inv(V)
        estimate = inverse @ ((ages * rewards[:t]) @ u)
        bound = bounds.u if name == "d-linucb" else 1.5
        beta = discounted_radius(t, bounds, 3, lam, gamma, 1 / rounds, bound)
        values = U @ estimate + beta * np.sqrt(np.einsum("ki,ij,jl,lm,km->k", U, inverse, V2, inverse, U))
        assert values[actions[t]] >= values.max() - 1e-7, t


def test_exp3_follows_a_scalar_loop():
    rounds = 80
    tape = Tape("exp3", rounds, num_envs=3, env=SYNTHETIC)
    uniforms = ReplicateUniforms(0, "arms", 3)
    draws = [float(uniforms.next()[2]) for _ in range(rounds)]
    actions, rewards = tape.played(2)
    M, gamma, gains = reward_bound(bounds_of("synthetic")), exp3_rate(6, rounds), np.zeros(6)
    for t in range(rounds):
        weights = np.exp(gamma / 6 * gains)
        p = (1 - gamma) * weights / weights.sum() + gamma / 6
        assert actions[t] == int(np.searchsorted(np.cumsum(p), draws[t], side="right"))
        gains[actions[t]] += (rewards[t] + 2 * M) / (4 * M) / p[actions[t]]


def test_batch_exp3_updates_once_with_its_own_rewards():
    agent = make("batch-exp3", num_envs=2, env=SYNTHETIC, horizon=10_000, rounds_per_step=1, path="rounds")
    learner, rewards = agent.learner, []
    assert learner.length == 5
    for t in range(1, 11):
        before = learner.gains.clone()
        p = learner.probabilities.clone()
        reward = agent.regret.reward.clone()
        agent.step()
        rewards.append(agent.regret.reward - reward)
        if t % 5:
            torch.testing.assert_close(learner.gains, before, rtol=0, atol=0)
            continue
        mean, M = torch.stack(rewards[-5:]).mean(0), learner.bound
        change = (learner.gains - before).gather(0, agent.turns.action[None])[0]
        expected = (mean + 2 * M) / (4 * M) / p.gather(0, agent.turns.action[None])[0]
        torch.testing.assert_close(change, expected)


def test_the_authors_batch_exp3_credits_an_action_with_its_predecessors_rewards():
    tape = Tape("batch-exp3-paper", 12, env=SYNTHETIC, repeat=5)
    actions, rewards = tape.played(0)
    assert [len(set(actions[i : i + 5])) for i in (0, 5)] == [1, 1]
    learner = tape.agent.learner.weights
    M, gains, p = learner.bound, np.zeros(6), None
    for t, batch in ((1, rewards[:2]), (6, rewards[2:7]), (11, rewards[7:12])):  # the first: two rewards over k
        p = arm_probabilities(torch.tensor(gains)[:, None], learner.gamma)[:, 0]
        gains[actions[t]] += (sum(batch) / 5 + 2 * M) / (4 * M) / float(p[actions[t]])
    np.testing.assert_allclose(learner.gains[:, 0], gains)


def test_ar2_follows_a_scalar_loop():
    rounds, i = 60, 1
    tape = Tape("ar2", rounds, num_envs=3, env=REAL)
    actions, rewards = tape.played(i)
    alpha, sigma, K = bounds_of("real-data").rho, 0.01, 6
    delta = math.ceil(K * alpha**-3 * sigma**-3)
    assert make("ar2", horizon=10, env=SYNTHETIC).learner.epoch == pytest.approx(7.5e8)
    c0 = math.sqrt(4 * math.log(1 / (alpha * sigma)) + 4 * math.log(delta) + 2 * math.log(4 * K))
    assert actions[:6] == [5, 4, 3, 2, 1, 0]
    estimate, played, triggered = np.zeros(K), np.zeros(K), np.full(K, np.inf)
    for t in range(1, rounds + 1):
        if t > K:
            last, previous = actions[t - 2], actions[t - 3]
            s = last if estimate[last] >= estimate[previous] else previous
            width = np.sqrt(np.maximum(alpha**2 - alpha ** (2 * (t - played + 1)), 0) / (1 - alpha**2))
            due = (estimate[s] - estimate <= 24 * c0 * sigma * width) & (np.arange(K) != s)
            triggered[due] = np.minimum(triggered[due], t)
            first = np.flatnonzero(triggered == triggered.min())
            assert actions[t - 1] in (first if t % 2 else [s]), t
        estimate *= alpha
        estimate[actions[t - 1]] = alpha * rewards[t - 1]
        played[actions[t - 1]] = t


def test_an_arm_of_ar2_is_triggered_exactly_where_its_reward_may_have_drifted_above_the_best():
    """value − estimate ≤ 24·c₀·σ·√((α² − α^{2(t − τ + 1)})/(1 − α²)): on either side of it."""
    learner, K = make("ar2", horizon=10, num_envs=1, env=SYNTHETIC).learner, 6
    alpha, sigma = bounds_of("synthetic").rho, 0.01
    c0 = math.sqrt(4 * math.log(1 / (alpha * sigma)) + 4 * math.log(learner.epoch) + 2 * math.log(4 * K))
    assert learner.threshold == pytest.approx(24 * c0 * sigma)
    steps = torch.tensor([2.0, 3.0, 1.0, 4.0, 2.0, 1.0]).double()  # t − τ: since each arm was played
    learner.drift = (alpha ** (2 * (steps + 1)))[:, None]
    limit = 24 * c0 * sigma * ((alpha**2 - alpha ** (2 * (steps + 1))) / (1 - alpha**2)).sqrt()
    learner.estimates = (1.0 - limit * torch.tensor([0.999, 1.001, 0.0, 0.999, 1.001, 0.999]).double())[:, None]
    learner.recent, learner.t = torch.tensor([[5], [2]]), 9
    arm, rounds = learner.choose(9)
    assert (arm.tolist(), rounds) == ([2], 1)  # an odd round: the better of the last two, which itself is never due
    assert learner.triggered[:, 0].tolist() == [9.0, math.inf, math.inf, 9.0, math.inf, 9.0]


def test_ar2_forgets_by_alpha_a_round_and_takes_a_late_reward_unless_it_knows_a_later_one():
    """Estimates αᵏ·y and drifts α^{2(k + 1)}, k the rounds since the arm was played."""
    learner, y = make("ar2", horizon=10, num_envs=2, env=SYNTHETIC).learner, torch.tensor([0.5, -0.25]).double()
    alpha = learner.alpha
    learner.observe(torch.tensor([3, 1]), y, y)
    learner.skip(torch.tensor([0, 1]))
    learner.late(torch.tensor([0, 1]), 2 * y, None, 0)  # of the round just skipped
    learner.skip(torch.tensor([2, 2]))
    for learned in (lambda: None, lambda: learner.late(torch.tensor([0, 1]), 9 * y, None, 2)):  # of a round before
        learned()
        rows = [(0, 3, alpha**3 * 0.5), (0, 0, alpha**2 * 1.0), (1, 1, alpha**2 * -0.5)]
        assert [float(learner.estimates[arm, i]) for i, arm, _ in rows] == pytest.approx([value for *_, value in rows])
        assert [float(learner.drift[arm, i]) for i, arm, _ in rows] == pytest.approx([alpha**8, alpha**6, alpha**6])


@pytest.mark.parametrize("noise", [1.2, 2.0, 100.0])
def test_ar2_plays_every_arm_also_where_the_noise_is_large(noise):
    agent = play(make("ar2", horizon=100, env={"system": "s1", "noise": noise}), 20)
    arms = agent.learner.arms
    assert agent.learner.epoch >= arms
    assert agent.learner.threshold >= 0


def test_ar2_needs_memory_and_noise():
    with pytest.raises(ValueError, match="AR2 divides by the spectral radius"):
        make("ar2", horizon=100, env={"system": "s1", "noise": 0.0})


# --- every bandit -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_replicate_does_not_depend_on_how_many_there_are(name):
    few, many = (play(make(name, num_envs=num_envs, env=REAL, horizon=600), 600) for num_envs in (3, 29))
    for one, other in (
        (few.regret.trace()[1], many.regret.trace()[1][:, :3]),
        (few.regret.realised, many.regret.realised[:3]),
        (few.policy.action, many.policy.action[:3]),
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("path", ["epochs", "rounds"])
def test_a_replicate_on_the_ball_does_not_depend_on_how_many_there_are(path):
    env = {"system": "synthetic", "ball": 1.0}
    few, many = (play(make("dynlin-ucb", num_envs=n, env=env, horizon=200, path=path), 200) for n in (2, 9))
    torch.testing.assert_close(few.regret.realised, many.regret.realised[:2], rtol=0, atol=0)


@pytest.mark.parametrize("stop", [1, 33, 34, 35, 36, 77])
@pytest.mark.parametrize("name", ["dynlin-ucb", "batch-exp3", "batch-exp3-paper"])
def test_a_stop_in_the_middle_of_an_epoch_changes_nothing(name, stop):
    rest = {"num_envs": 3, "env": REAL, "horizon": 200, "rounds_per_step": 1, "path": "rounds"}
    straight = play(make(name, **rest), 200)
    first, second = play(make(name, **rest), stop), make(name, seed=5, **rest)
    assert first.regret.t == stop
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(play(second, 200).regret.trace()[1], straight.regret.trace()[1], rtol=0, atol=0)
    torch.testing.assert_close(second.regret.realised, straight.regret.realised, rtol=0, atol=0)
    learned, expected = (agent.state_dict()["turns"]["learner"] for agent in (second, straight))
    torch.testing.assert_close(learned, expected, rtol=0, atol=0)


def test_some_of_those_stops_are_inside_an_epoch():
    agent = make("dynlin-ucb", env=REAL, horizon=200, rounds_per_step=1, path="rounds")
    assert any(play(agent, stop).turns.left for stop in (33, 34, 35, 36))


@pytest.mark.parametrize("name", ["linucb", "d-linucb", "exp3", "batch-exp3", "batch-exp3-paper"])
def test_a_missing_horizon_is_named(name):
    with pytest.raises(ValueError, match=r"agent\.horizon is missing"):
        make(name)


@pytest.mark.parametrize("name", ["linucb", "exp3", "oracle", "uniform"])
def test_a_ball_is_for_dynlin_ucb_only(name):
    with pytest.raises(ValueError, match=r"needs a finite set of actions|only dynlin-ucb"):
        make(name, horizon=100, env={"system": "s1", "ball": 1.0})


def test_the_human_budgets_must_fit_the_actions():
    with pytest.raises(ValueError, match=r"agent\.budgets names 3 campaigns, but actions have 2"):
        make("human-budget", horizon=100)


@pytest.mark.parametrize(
    ("name", "changes"), [("linucb", {"ridge": 0.0}), ("d-linucb", {"gamma": 1.0}), ("exp3", {"repeat": 0})]
)
def test_settings_out_of_range_are_named(name, changes):
    with pytest.raises(ValueError, match=rf"agent\.{next(iter(changes))} must be"):
        make(name, horizon=100, **changes)


def test_uniform_numbers_are_uniform_and_belong_to_seed_stream_and_replicate():
    uniforms = ReplicateUniforms(0, "a", 2000)
    numbers = torch.stack([uniforms.next() for _ in range(50)])
    counts = torch.histc(numbers, 20, 0.0, 1.0)
    assert float((counts - 5000).square().sum() / 5000) < 45  # χ² with 19 degrees of freedom: 43.8 at 0.001
    centred = numbers - 0.5
    for one, other in ((centred[1:], centred[:-1]), (centred[:, 1:], centred[:, :-1])):
        assert abs(float((one * other).mean()) * 12) < 0.015
    assert torch.equal(ReplicateUniforms(0, "a", 3).next(), numbers[0, :3])
    for seed, stream in ((1, "a"), (0, "b")):
        assert not torch.equal(ReplicateUniforms(seed, stream, 3).next(), numbers[0, :3])
