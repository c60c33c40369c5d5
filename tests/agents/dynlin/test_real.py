"""Learners on a real system: the simulator's numbers, rewards missing or late, files, bounds that are wrong."""

import math
import warnings

import numpy as np
import pytest
import torch
from bandits import NAMES, make, play

from surefoot import agents
from surefoot.agents.dynlin.bounds import NAMES as BOUNDS
from surefoot.agents.dynlin.bounds import from_system
from surefoot.agents.dynlin.diagnosis import bonus_ratio, dominance, radius_parts
from surefoot.agents.dynlin.identification import identify
from surefoot.agents.dynlin.real import OPEN
from surefoot.agents.parts.ask_tell import BanditRequest
from surefoot.envs import DynamicalLinear
from surefoot.evaluation import bandit_files

ASKED = [name for name in NAMES if agents.get(name).make_ask_tell is not None]
S1 = {"spectral_radius": 0.5, "action_weight": 0.632456, "input_matrix": 0.670820, "noise_std": 0.05}
ARMS = [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]


def true_bounds(env):
    largest = env.ball or float((env.actions**2).sum(1).max() ** 0.5)
    found = from_system(env.system, largest)._asdict()
    return {name: found[field] for name, field in BOUNDS.items()}


def real(name, *, actions=ARMS, bounds=S1, replicates=1, seed=0, **settings):
    request = BanditRequest(actions, bounds, replicates, seed)
    return bandit_files.make(name, settings, request).learner


def asked(env, name, *, seed=0, **settings):
    """Return a learner that knows of `env` its actions and the bounds, and no more."""
    actions = {"ball": env.ball, "dimension": len(env.h)} if env.actions is None else env.actions.tolist()
    return real(name, actions=actions, bounds=true_bounds(env), replicates=env.num_envs, seed=seed, **settings)


def simulator(system="s1", num_envs=1, seed=0, **kwargs):
    env = DynamicalLinear(num_envs, system=system, **kwargs)
    env.reset(seed=seed)
    return env


def step(env, decision):
    """Return the rewards (N,) of one round of a decision, played as its index or, on a ball, as a unit vector."""
    ball = decision.index is None and env.ball is not None
    chosen = decision.action / env.ball if ball else decision.action if decision.index is None else decision.index
    action = torch.as_tensor(chosen).reshape(env.num_envs, *(() if decision.index is not None else (-1,)))
    return env.step(action)[1]


def drive(env, learner, rounds):
    """Play so many rounds (or to the end of the decision that passes them), telling each round's rewards."""
    actions = []
    while learner.turns.t < rounds:
        decision = learner.ask()
        for _ in range(decision.rounds):
            learner.tell(step(env, decision))
            actions.append(np.atleast_2d(decision.action))
    return np.array(actions)


# --- the simulator's numbers ------------------------------------------------------------------------------------------


def state_of(learner):
    return learner.turns.state_dict()


@pytest.mark.parametrize(
    ("name", "system"),
    [("dynlin-ucb", "s1"), ("batch-exp3", "s1"), *((name, "real-data") for name in ASKED)],
)
def test_told_the_simulators_rewards_a_learner_asks_for_the_simulators_actions(name, system):
    env = simulator(system, num_envs=3)
    learner = asked(env, name, horizon=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        drive(env, learner, 200)
    agent = play(make(name, num_envs=3, env={"system": system}, horizon=200, path="rounds", rounds_per_step=1), 200)
    assert learner.turns.t == agent.regret.t == 200
    torch.testing.assert_close(state_of(learner), agent.turns.state_dict(), rtol=0, atol=0)


def test_on_a_ball_too():
    env = simulator("synthetic", num_envs=2, ball=1.5)
    learner = asked(env, "dynlin-ucb", horizon=100)
    actions = drive(env, learner, 100)
    assert np.linalg.norm(actions, axis=2) == pytest.approx(1.5)
    rest = {"env": {"system": "synthetic", "ball": 1.5}, "horizon": 100, "path": "rounds", "rounds_per_step": 1}
    agent = play(make("dynlin-ucb", num_envs=2, **rest), 100)
    torch.testing.assert_close(agent.learner.ridge.gram, learner.learner.ridge.gram, rtol=1e-9, atol=1e-9)


# Sums over three replicates, recorded before there was asking and telling.
TIE = "linucb-paper real-data"  # two actions of equal bound to rounding: a processor's order of sums decides
WITH_AVX_512 = {TIE: (230.86908376754047, 229.5875302540276)}
BEFORE = [
    ("dynlin-ucb s1 epochs", 380.0, 380.435445211944),
    ("dynlin-ucb real-data epochs", 167.8084590423902, 168.51913925029748),
    ("dynlin-ucb real-data rounds", 167.80845904239007, 169.46155407770857),
    ("linucb s1 epochs", 1190.0, 1188.6867916453436),
    ("linucb real-data epochs", 265.48892292213526, 263.2822277517332),
    ("linucb real-data rounds", 265.48892292213526, 263.2822277517332),
    ("linucb-paper s1 epochs", 1127.0, 1125.9118465769861),
    ("linucb-paper real-data epochs", 231.44920736663963, 230.14492798484793),
    ("linucb-paper real-data rounds", 231.44920736663963, 230.14492798484793),
    ("linucb-log s1 epochs", 1131.0, 1130.1367916453457),
    ("linucb-log real-data epochs", 228.79206473794335, 227.14987689937323),
    ("linucb-log real-data rounds", 228.79206473794335, 227.14987689937323),
    ("d-linucb s1 epochs", 1190.0, 1188.6867916453436),
    ("d-linucb real-data epochs", 264.474079703095, 262.2949434837652),
    ("d-linucb real-data rounds", 264.474079703095, 262.2949434837652),
    ("d-linucb-paper s1 epochs", 1190.0, 1188.6867916453436),
    ("d-linucb-paper real-data epochs", 266.43404878666263, 264.2269826745092),
    ("d-linucb-paper real-data rounds", 266.43404878666263, 264.2269826745092),
    ("d-linucb-log s1 epochs", 1130.0, 1129.136795078676),
    ("d-linucb-log real-data epochs", 229.87662531149644, 228.5624980929448),
    ("d-linucb-log real-data rounds", 229.87662531149644, 228.5624980929448),
    ("exp3 s1 epochs", 634.0, 636.0833220113102),
    ("exp3 real-data epochs", 192.6463269412722, 193.00948138386062),
    ("exp3 real-data rounds", 192.6463269412722, 193.00948138386062),
    ("batch-exp3 s1 epochs", 533.0, 534.4910691501575),
    ("batch-exp3 real-data epochs", 187.1000832878027, 188.0378658861498),
    ("batch-exp3 real-data rounds", 187.10008328780253, 189.3501715116703),
    ("batch-exp3-paper s1 epochs", 596.0, 602.7726201303379),
    ("batch-exp3-paper real-data epochs", 185.67588984688345, 187.92597807075109),
    ("batch-exp3-paper real-data rounds", 185.67588984688345, 187.92597807075109),
    ("ar2 s1 epochs", 749.5, 750.7556585175793),
    ("ar2 real-data epochs", 196.65051771698188, 196.16718255242654),
    ("ar2 real-data rounds", 196.65051771698188, 196.16718255242654),
    ("oracle s1 epochs", 0.0, 9.48679164534434),
    ("oracle real-data epochs", 0.0, 3.0194443761226637),
    ("oracle real-data rounds", 0.0, 3.0194443761226637),
    ("uniform s1 epochs", 582.0, 583.2799275035134),
    ("uniform real-data epochs", 180.27845637718053, 181.93898479182604),
    ("uniform real-data rounds", 180.27845637718053, 181.93898479182604),
    ("ball", 277.01581809888523, 276.19856885633817),
    ("human", 258.8509328049797, 258.5849511887784),
]


@pytest.mark.parametrize(("run", "regret", "realised"), BEFORE, ids=[run for run, _, _ in BEFORE])
def test_the_simulators_numbers_are_those_recorded_before(run, regret, realised):
    others = {"ball": "dynlin-ucb s1 epochs", "human": "human-budget real-data epochs"}
    name, system, path = others.get(run, run).split()
    env = {"system": system} | ({"ball": 1.0} if run == "ball" else {})
    every = {} if run in ("ball", "human") else {"rounds_per_step": 50}
    agent = play(make(name, num_envs=3, env=env, horizon=400, path=path, **every), 400)
    found = float(agent.regret.total.sum()), float(agent.regret.realised.sum())
    either = [(regret, realised), WITH_AVX_512.get(run.rpartition(" ")[0], (regret, realised))]
    assert any(found == pytest.approx(recorded, rel=1e-9, abs=1e-9) for recorded in either)


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_a_scalar_system_by_hand():
    """d = 1, two actions, no noise: V, b, ĥ and β of the first epochs."""
    bounds = {"spectral_radius": 0.5, "action_weight": 1.0, "input_matrix": 0.5, "noise_std": 0.0, "state_norm": 3.0}
    settings = {"actions": [[1.0], [2.0]], "bounds": bounds, "horizon": 100, "ridge": 4.0}
    learner = real("dynlin-ucb", **settings, first_action="optimistic")
    first = learner.ask()
    assert (first.round, first.rounds, first.index, first.action.tolist()) == (1, 1, 1, [2.0])  # the longer is wider
    c1, c2 = 2.0 * (2.0 * 0.5 / 0.5 + 3.0), 1.0 + 0.5 / 0.5
    assert learner.learner.beta == pytest.approx(c1 / 2 + c2 * 2)  # t = 0: ln e = 1
    learner.tell(3.0)
    ridge = learner.learner.ridge
    assert (float(ridge.gram), float(ridge.moment), float(ridge.estimate())) == pytest.approx((8.0, 6.0, 0.75))
    second = learner.ask()
    assert (second.round, second.rounds) == (2, 2)  # ⌊ln 2/ln 2⌋ + 1
    assert learner.learner.beta == pytest.approx(c1 / 2 * (1 + math.log(2)) + c2 * 2)
    learner.tell(50.0)  # transient: discarded
    assert float(ridge.gram) == 8.0
    learner.tell(5.0)
    assert (float(ridge.gram), float(ridge.moment)) == (12.0, 16.0)
    parts = radius_parts(learner.learner, 3)
    assert parts == pytest.approx({"bias": c1 / 2 * (1 + math.log(4)), "regularisation": c2 * 2, "noise": 0.0})
    scaled = real("dynlin-ucb", **settings, bias_scale=0.1)
    scaled.ask()
    assert scaled.learner.beta == pytest.approx(0.1 * c1 / 2 + c2 * 2)


@pytest.mark.parametrize("actions", [[[1.0], [2.0], [4.0]], {"ball": 4.0, "dimension": 1}])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_smallest_bonus_over_the_difference_of_the_estimates_by_hand(actions, sign):
    """V = 9, b = ±6, so ĥ = ±2/3: of a table the width of 1 is 1/3 and means differ by 2; of a ball (β/3)/(2/3)."""
    learner = real("dynlin-ucb", actions=actions, horizon=100)
    learner.ask()
    own = learner.learner
    own.ridge.gram[:], own.ridge.moment[:] = 9.0, 6.0 * sign
    wanted = own.beta / 3 / 2 if isinstance(actions, list) else own.beta / 2
    assert bonus_ratio(own).tolist() == [pytest.approx(wanted)]
    assert learner.summary()["radius"] == radius_parts(own, 0)
    own.ridge.moment[:] = 0.0
    assert own.table is None or 1e200 < float(bonus_ratio(own)) < math.inf  # estimates that do not differ


# --- missing and late rewards -----------------------------------------------------------------------------------------


def test_a_missing_last_reward_gives_no_sample_and_a_late_one_the_same_sample():
    settings = {"horizon": 100, "first_action": "optimistic"}
    waiting, prompt = (real("dynlin-ucb", **settings) for _ in range(2))
    rewards = {1: 0.3, 2: 0.1, 3: 0.5, 4: 0.2}
    for learner in (waiting, prompt):
        assert learner.ask().rounds == 1
        learner.tell(rewards[1])
        assert learner.ask().rounds == 2
    prompt.tell(rewards[2]), prompt.tell(rewards[3])
    waiting.tell(None)
    assert waiting.summary()["missing"] == 1  # of the decision under way, whose other round is not told
    waiting.tell(rewards[2], of=2), waiting.tell(None)
    assert waiting.turns.t == prompt.turns.t == 3
    assert waiting.summary()["missing"] == 1
    assert float(waiting.learner.ridge.gram.diagonal().sum()) == pytest.approx(2 * math.log(100) + 1)
    waiting.tell(rewards[3], of=3)
    torch.testing.assert_close(waiting.learner.ridge.gram, prompt.learner.ridge.gram, rtol=0, atol=0)
    torch.testing.assert_close(waiting.learner.ridge.moment, prompt.learner.ridge.moment, rtol=0, atol=0)
    assert waiting.summary()["missing"] == 0
    with pytest.raises(ValueError, match="round 3 is known already"):
        waiting.tell(rewards[3], of=3)


@pytest.mark.parametrize("name", [name for name in ASKED if name != "batch-exp3-paper"])
def test_rewards_that_come_late_but_before_the_next_choice_change_nothing(name):
    """Round t is told as missing, then with its number: as if it had been told in time."""
    system = "real-data"
    one, other = simulator(system, num_envs=2), simulator(system, num_envs=2)
    prompt, waiting = asked(one, name, horizon=60), asked(other, name, horizon=60)
    drive(one, prompt, 60)
    while waiting.turns.t < 60:
        decision = waiting.ask()
        rewards = []
        for _ in range(decision.rounds):
            rewards.append(step(other, decision))
            waiting.tell(None)
        for i, reward in enumerate(rewards):
            waiting.tell(reward, of=decision.round + i)
    ours, theirs = state_of(waiting), state_of(prompt)
    for state in (ours, theirs):
        state.pop("reward")
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    assert waiting.open == []


@pytest.mark.parametrize("name", ["linucb", "d-linucb", "dynlin-ucb"])
def test_rewards_in_any_order_give_the_same_regression(name):
    settings = {"horizon": 50} | ({"gamma": 0.9} if name == "d-linucb" else {})
    generator = np.random.default_rng(0)
    late, prompt = real(name, **settings), real(name, **settings)
    told = {}
    while late.turns.t < 40:
        decision = late.ask()
        for _ in range(decision.rounds):
            told[late.turns.t + 1] = float(generator.normal())
            late.tell(None)
        follow = prompt.ask()  # plays what the late one plays
        prompt.turns.action = late.turns.action
        prompt.turns.length = prompt.turns.left = decision.rounds
        prompt.rewards = prompt._rewards(decision.rounds)
        for i in range(decision.rounds):
            prompt.tell(told[decision.round + i])
        assert follow.round == decision.round
    for t in generator.permutation(list(told)):
        late.tell(told[int(t)], of=int(t))
    for part in ("gram", "moment"):
        ours, theirs = getattr(late.learner.ridge, part), getattr(prompt.learner.ridge, part)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)
    assert late.open == []


def test_the_log_holds_a_late_reward_at_its_round_beside_the_actions():
    learner, actions = real("linucb", horizon=9), []
    for reward in (0.5, None, 2.0):
        actions.append(learner.ask().action)
        learner.tell(reward)
    np.testing.assert_array_equal(learner.log()[1], [0.5, math.nan, 2.0])
    learner.tell(-1.0, of=2)
    np.testing.assert_array_equal(learner.log()[0], np.reshape(actions, (3, 2)))
    np.testing.assert_array_equal(learner.log()[1], [0.5, -1.0, 2.0])


def test_a_batch_waits_for_all_its_rewards_or_for_what_is_given_up():
    learner = real("batch-exp3", horizon=1000, repeat=3)
    decision = learner.ask()
    learner.tell(0.2), learner.tell(None), learner.tell(0.6)
    assert learner.learner.gains.abs().sum() == 0
    p = learner.open[0]["memo"].clone()
    learner.ask(), learner.tell(0.0), learner.tell(0.0), learner.tell(0.0)
    before = learner.learner.gains[decision.index].clone()
    learner.tell(None, of=2)  # it never will come: the mean of the others
    M = learner.learner.bound
    expected = (0.4 + 2 * M) / (4 * M) / p  # with the probability of its own draw
    torch.testing.assert_close(learner.learner.gains[decision.index] - before, expected)
    assert learner.open == []


@pytest.mark.parametrize(("name", "repeat"), [("exp3", 1), ("batch-exp3", 2)])
def test_a_reward_counts_by_the_probability_of_its_draw_though_a_late_one_came_in_between(name, repeat):
    settings = {"horizon": 100} | ({"repeat": repeat} if repeat > 1 else {})
    learner, again = real(name, **settings), real(name, **settings)
    exp3 = learner.learner
    learner.ask()
    for _ in range(repeat):
        learner.tell(None)
    decision = learner.ask()
    drawn = exp3.probabilities[decision.index].clone()
    for _ in range(repeat - 1):
        learner.tell(0.5)
    for of in range(1, repeat + 1):
        learner.tell(3.0, of=of)
    moved = exp3.gains.clone()
    assert not torch.equal(exp3.probabilities[decision.index], drawn)
    again.load_state_dict(learner.state_dict())
    for one in (learner, again):  # the probability is part of the state
        one.tell(0.5)
        expected = (0.5 + 2 * exp3.bound) / (4 * exp3.bound) / drawn
        added = one.learner.gains[decision.index] - moved[decision.index]
        torch.testing.assert_close(added, expected, rtol=1e-12, atol=1e-12)


def test_one_of_three_systems_may_miss_a_reward():
    learner, alone = real("linucb", replicates=3, horizon=50), real("linucb", replicates=3, horizon=50)
    for both in (learner, alone):
        both.ask()
    learner.tell([0.1, None, 0.3]), alone.tell([0.1, 0.2, 0.3])
    ours, theirs = learner.learner.ridge, alone.learner.ridge
    torch.testing.assert_close(ours.gram[..., [0, 2]], theirs.gram[..., [0, 2]], rtol=0, atol=0)
    assert float(ours.gram[..., 1].trace()) == pytest.approx(2.0)  # λ = 1: nothing came in
    learner.tell([None, 0.2, None], of=1)
    torch.testing.assert_close(ours.gram, theirs.gram, rtol=0, atol=0)
    torch.testing.assert_close(ours.moment, theirs.moment, rtol=0, atol=0)


def test_decisions_that_wait_too_long_are_given_up_and_counted():
    learner = real("linucb", horizon=5000)
    for _ in range(OPEN + 3):
        learner.ask(), learner.tell(None)
    assert (len(learner.open), learner.summary()["given_up"]) == (OPEN, 3)
    with pytest.raises(ValueError, match="round 3 is known already, or was given up"):
        learner.tell(0.1, of=3)
    learner.tell(0.1, of=4)


# --- wrong calls lose nothing -----------------------------------------------------------------------------------------


def test_wrong_calls_are_refused_and_change_nothing():
    learner = real("dynlin-ucb", horizon=100)
    with pytest.raises(ValueError, match="no decision is under way; ask"):
        learner.tell(0.1)
    learner.ask(), learner.tell(0.5), learner.ask()
    before = bandit_files._encode(learner.state_dict(), bandit_files._inline)
    wrong = [
        (lambda: learner.ask(), "round 2 is under way; tell the reward of round 2"),
        (lambda: learner.ask(contexts=[[1.0]]), "not among contexts"),
        (lambda: learner.tell(math.nan), "not a finite number"),
        (lambda: learner.tell([0.1, 0.2]), r"2 reward\(s\) were told, of 1 replicate"),
        (lambda: learner.tell(0.1, of=1), "round 1 is known already"),
        (lambda: learner.tell(None, of=1), "round 1 is known already"),
        (lambda: learner.tell(0.1, of=2), r"round 2 has not been told; 1 round\(s\) have"),
        (lambda: learner.tell(0.1, of=0), "round 0 has not been told"),
    ]
    for call, message in wrong:
        with pytest.raises(ValueError, match=message):
            call()
        assert bandit_files._encode(learner.state_dict(), bandit_files._inline) == before
    paper = real("batch-exp3-paper", horizon=100)
    paper.ask()
    before = bandit_files._encode(paper.state_dict(), bandit_files._inline)
    with pytest.raises(ValueError, match="cannot do without one; take batch-exp3"):
        paper.tell(None)
    assert bandit_files._encode(paper.state_dict(), bandit_files._inline) == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": []}, r"actions: a table \(K, d\) of finite numbers"),
        ({"actions": None}, r"actions: a table \(K, d\)"),
        ({"actions": [[1.0], [math.nan]]}, "finite numbers"),
        ({"actions": [[1.0], [1.0, 2.0]]}, "not a table of numbers"),
        ({"actions": [[1.0], [1.0]]}, "nothing to choose from"),
        ({"actions": {"ball": -1, "dimension": 2}}, "a ball is"),
        ({"actions": {"ball": True, "dimension": 2}}, "a ball is"),
        ({"actions": {"ball": 1, "dimension": 2, "centre": 0}}, "and no more"),
        ({"replicates": 0}, "at least one system"),
        ({"bounds": {"noise": 0.1}}, "unknown name 'noise'; choose from spectral_radius"),
        ({"bounds": {**S1, "spectral_radius": 1.0}}, r"spectral_radius is 1.0; it must be in \[0, 1\)"),
        ({"bounds": {**S1, "noise_std": math.nan}}, "noise_std is nan"),
        ({"bounds": {"spectral_radius": 0.5}}, "action_weight, input_matrix, noise_std missing"),
    ],
)
def test_what_makes_no_problem_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        real("dynlin-ucb", **changes)


@pytest.mark.parametrize("radius", [0.25, 1, 3.0])
def test_a_ball_may_be_of_any_size(radius):
    learner = real("dynlin-ucb", actions={"ball": radius, "dimension": 1}, horizon=9)
    assert abs(learner.ask().action.item()) == pytest.approx(radius)


def test_learners_ask_only_for_the_bounds_that_they_use():
    some = {"action_weight": 1.0, "noise_std": 0.1}
    assert real("linucb", bounds=some).ask().rounds == 1
    assert real("uniform", bounds={}).ask().rounds == 1
    with pytest.raises(ValueError, match="spectral_radius, input_matrix missing"):
        real("linucb-log", bounds=some)
    with pytest.raises(ValueError, match="oracle cannot be asked and told"):
        real("oracle")
    with pytest.raises(ValueError, match="batch-exp3-paper needs a horizon"):
        real("batch-exp3-paper")


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["json", "npz"])
@pytest.mark.parametrize("name", ASKED)
def test_stopped_and_opened_anywhere_it_is_the_same_learner(tmp_path, name, suffix):
    path, env, straight = tmp_path / f"state.{suffix}", simulator("real-data", 2), simulator("real-data", 2)
    settings = {"horizon": 80} if name == "batch-exp3-paper" else {"doubling": True, "horizon": 20}
    actions = env.actions.tolist()
    opened = bandit_files.make(name, settings, BanditRequest(actions, true_bounds(env), 2, 0))
    told, stop = opened.learner, {3, 21, 34, 35, 47}
    other = real(name, actions=actions, bounds=true_bounds(env), replicates=2, **settings)
    for t in range(1, 81):
        for learner, world in ((other, straight), (opened.learner, env)):
            decision = learner.pending or learner.ask()
            reward = step(world, decision)
            learner.tell(None if t % 7 == 0 and learner.learner.misses else reward)
            if t % 7 == 3 and t > 7 and learner.learner.misses:
                learner.tell(reward, of=t - 3)
        if t in stop:
            bandit_files.save(path, opened)
            opened = bandit_files.load(path, name)
    assert opened.learner is not told
    ours, theirs = (bandit_files._encode(one.state_dict(), bandit_files._inline) for one in (opened.learner, other))
    assert ours == theirs


# --- no horizon, no spectral radius -----------------------------------------------------------------------------------


def test_without_a_horizon_the_constants_are_made_anew_whenever_it_is_over():
    learner, env, samples = real("dynlin-ucb"), simulator(), []
    while learner.turns.t < 300:
        decision = learner.ask()
        for _ in range(decision.rounds):
            learner.tell(step(env, decision))
        samples.append(decision.action)
    own = learner.learner
    assert learner.turns.horizon == 512
    assert (own.lam, own.delta) == (math.log(512), 1 / 512)
    expected = math.log(512) * np.eye(2) + np.array(samples).T @ np.array(samples)  # as with the last λ from the start
    np.testing.assert_allclose(own.ridge.gram[..., 0], expected, rtol=1e-12)
    log = learner.summary()
    assert (log["horizon"], log["doubling"]) == (512, True)


def test_rounds_after_the_horizon_are_warned_of():
    learner = real("linucb", horizon=2)
    for _ in range(2):
        learner.ask(), learner.tell(0.1)
    assert learner.warned == []
    with pytest.warns(UserWarning, match="2 rounds are over, and the constants were made for no more"):
        learner.ask()
    assert learner.summary()["warnings"] == ["horizon: 2 rounds are over, and the constants were made for no more"]


def test_a_radius_that_is_not_given_is_raised_until_the_data_agree():
    """ρ = 0.9: ρ̄ = 0.5 and 0.75 are refuted, and no ρ̄ ≥ 0.9 is."""
    env = simulator(None, A=[[0.9]], B=[[0.6, -0.3]], omega=[0.3], theta=[-0.2, 0.6], noise=0.02, actions=ARMS)
    bounds = {name: value for name, value in true_bounds(env).items() if name in ("action_weight", "noise_std")}
    learner = real("dynlin-ucb", bounds={**bounds, "input_matrix": 0.3 * 0.671})
    assert learner.learner.rho == 0.5
    drive(env, learner, 2100)
    assert 0.75 <= learner.learner.rho <= 0.9375
    assert [rho for _, rho in learner.raised] == [0.75, 0.875, 0.9375][: len(learner.raised)]
    assert learner.summary()["spectral_radius_bound"] == learner.learner.rho


def test_a_radius_that_is_given_and_wrong_is_warned_of_and_kept():
    env = simulator(None, A=[[0.9]], B=[[0.6, -0.3]], omega=[0.3], theta=[-0.2, 0.6], noise=0.02, actions=ARMS)
    bounds = {"spectral_radius": 0.3, "action_weight": 0.64, "input_matrix": 0.3 * 0.671, "noise_std": 0.02}
    learner = real("dynlin-ucb", bounds=bounds)
    with pytest.warns(UserWarning, match="above what the bounds allow: spectral_radius 0.3"):
        drive(env, learner, 600)
    assert learner.learner.rho == 0.3
    assert any(line.startswith("bounds: ") for line in learner.summary()["warnings"])


def test_bounds_that_hold_are_not_warned_of():
    for seed in range(3):
        env = simulator(num_envs=2, seed=seed)
        learner = asked(env, "dynlin-ucb", seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            drive(env, learner, 1100)
        assert not [line for line in learner.warned if line.startswith("bounds: ")]


def test_bounds_that_dominate_are_said():
    """Bounds fifty times the truth: no estimate decides anything, and the line says which term it is."""
    env = simulator()
    loose = {**S1, "state_norm": 100.0}
    learner = real("dynlin-ucb", bounds=loose)
    with pytest.warns(UserWarning, match=r"bounds decide, not data; .* is the bias term: bias_scale below 1"):
        drive(env, learner, 600)
    assert float(bonus_ratio(learner.learner)) > 1
    tight = real("dynlin-ucb", bounds=loose, bias_scale=0.001)
    drive(simulator(), tight, 600)
    assert dominance(tight.learner, 600) is None


# --- from logs --------------------------------------------------------------------------------------------------------


def test_a_warm_start_is_worth_the_samples_that_its_error_says():
    env = simulator()
    source = real("uniform", bounds={})
    drive(env, source, 800)
    found = identify(*source.log())
    learner = real("dynlin-ucb", horizon=1000)
    learner.warm_start(found)
    noise = max(learner.learner.known.sigma2, found.noise_std**2)
    information = noise * np.linalg.inv(found.h_covariance)
    V = math.log(1000) * np.eye(2) + information
    estimate = np.linalg.solve(V, information @ [one.value for one in found.h])
    np.testing.assert_allclose(learner.learner.ridge.gram[..., 0], V, rtol=1e-8)
    np.testing.assert_allclose(learner.learner.ridge.estimate()[:, 0], estimate, rtol=1e-8)
    assert learner.learner.prior_rounds == math.ceil(np.trace(information))
    assert learner.ask().round == 1
    for late, message in ((learner, "before the first decision"), (real("exp3"), "a warm start is for dynlin-ucb")):
        with pytest.raises(ValueError, match=message):
            late.warm_start(found)
    with pytest.raises(ValueError, match="actions of 2 components, not 3"):
        asked(simulator("real-data"), "dynlin-ucb").warm_start(found)
