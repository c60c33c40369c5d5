"""The linear classes, and all methods at play: docs/derivations/neural_bandits.md E8, E11, E13."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from neural_play import make, play
from sameness import assert_same

from surefoot import agents
from surefoot.agents.interface import Budget, Setting, Spaces
from surefoot.agents.neural_bandits.agent import InverseGapConfig, derive, plan
from surefoot.agents.neural_bandits.bandit import as_contexts
from surefoot.agents.neural_bandits.linear import Logistic, Ridge
from surefoot.agents.neural_bandits.network import Shape
from surefoot.envs import EnvConfig, make_vec, spaces_of
from surefoot.evaluation.regret import last_decade_slope

CPU = torch.device("cpu")


def slope(agent):
    rounds, curve = agent.regret.trace()
    return last_decade_slope(np.array(rounds), curve.numpy())


@pytest.mark.parametrize("shared", [True, False])
def test_ridge_regression_solves_the_normal_equations(shared):
    n, arms, d, lam = 2, 3, 2, 0.7
    ridge, generator = Ridge(Shape(n, arms, d, shared), lam, CPU), torch.Generator().manual_seed(0)
    grams = torch.eye(d + 1, dtype=torch.float64).mul(lam).repeat(n, arms if shared else 1, 1, 1)
    moments = torch.zeros(n, arms if shared else 1, d + 1, dtype=torch.float64)
    for _ in range(30):
        contexts = torch.randn((n, d) if shared else (n, arms, d), generator=generator)
        arm, y = torch.randint(arms, (n,), generator=generator), torch.rand(n, generator=generator)
        for i in range(n):
            x = torch.cat([contexts[i] if shared else contexts[i, arm[i]], torch.ones(1)]).double()
            block = int(arm[i]) if shared else 0
            grams[i, block] += torch.outer(x, x)
            moments[i, block] += x * y[i]
        ridge.learn(contexts, arm, y)
    solved = torch.linalg.solve(grams, moments)
    torch.testing.assert_close(ridge.weights, solved)
    widths, outputs = ridge.squared_widths(contexts), ridge.outputs(contexts)
    for i in range(n):
        for a in range(arms):
            x = torch.cat([contexts[i] if shared else contexts[i, a], torch.ones(1)]).double()
            block = a if shared else 0
            torch.testing.assert_close(widths[i, a], x @ torch.linalg.inv(grams[i, block]) @ x)
            torch.testing.assert_close(outputs[i, a], x @ solved[i, block])


def test_an_online_newton_step_by_hand():
    oracle = Logistic(Shape(1, 2, 1, False), 1.0, CPU)
    contexts = torch.tensor([[[2.0], [0.0]]])
    loss = oracle.learn(contexts, torch.tensor([0]), torch.ones(1))
    assert float(loss) == pytest.approx(np.log(2))
    assert float(oracle.weights) == pytest.approx(2 * 0.5 / (1 + 0.25 * 4))  # V = 1 + σ'x² = 2
    expected = 1 / (1 + np.exp(-1.0))
    assert float(oracle.predict(contexts)[0, 0]) == pytest.approx(expected)


@pytest.mark.slow
def test_on_the_logistic_problem_regret_is_sublinear_where_gamma_grows():
    """Measured with six seeds: 78 ± 3, 1 035 ± 21, 39 ± 8, 440 ± 14."""
    found = {}
    for name in ("neusquarecb", "neufastcb"):
        for rule, scale in (("growing", 10.0), ("constant", 5.0)):
            settings = {"oracle": "logistic", "gamma_rule": rule, "gamma_scale": scale}
            agent = play(make(name, num_envs=6, env={"problem": "logistic"}, **settings), 5000)
            found[name, rule] = float(agent.regret.total.mean()), slope(agent)
    assert found["neusquarecb", "growing"][0] == pytest.approx(78, rel=0.2)
    assert found["neusquarecb", "constant"][0] == pytest.approx(1035, rel=0.05)
    assert found["neufastcb", "growing"][0] == pytest.approx(39, rel=0.35)
    assert found["neufastcb", "constant"][0] == pytest.approx(440, rel=0.1)
    for (_, rule), (_, found_slope) in found.items():
        assert found_slope < 0.6 if rule == "growing" else found_slope > 0.8


def test_the_rate_that_is_logged_is_that_of_the_round_that_was_played():
    agent = make("neusquarecb", gamma_rule="growing", gamma_scale=2.0, gamma_power=0.5)
    rates = []
    for _ in range(3):
        agent.play()
        rates.append(agent.learner.metrics()["rate"].item())
    assert rates == pytest.approx([2.0, 8**0.5, 12**0.5])


def test_a_constant_gamma_costs_every_round_what_it_says():
    """Linear regret: the slope is 1 where γ stays, and far below where it grows; the fast rule is below the square."""
    found = {}
    for name, rule in (("neusquarecb", "constant"), ("neusquarecb", "growing"), ("neufastcb", "growing")):
        settings = {"oracle": "logistic", "gamma_rule": rule, "gamma_scale": 10.0 if rule == "growing" else 5.0}
        agent = play(make(name, num_envs=20, env={"problem": "logistic"}, **settings), 600)
        found[name, rule] = float(agent.regret.total.mean()), slope(agent)
    assert found["neusquarecb", "constant"][1] > 0.8 > 0.65 > found["neusquarecb", "growing"][1]
    assert found["neufastcb", "growing"][0] < 0.8 * found["neusquarecb", "growing"][0]
    assert found["neusquarecb", "growing"][0] < 0.5 * found["neusquarecb", "constant"][0]


@pytest.mark.slow
def test_on_digits_both_make_fewer_errors_than_greedy_and_epsilon_greedy():
    pytest.importorskip("sklearn")
    settings = {"neusquarecb": {}, "neufastcb": {}, "neural-epsilon-greedy": {}, "greedy": {"epsilon": 0.0}}
    errors, last = {}, {}
    for label, changes in settings.items():
        name = "neural-epsilon-greedy" if label == "greedy" else label
        agent = play(make(name, num_envs=10, env={"data": "digits"}, **changes), 1348)
        before = agent.regret.total.mean()
        errors[label] = float(play(agent, 1797).regret.total.mean())
        last[label] = errors[label] - float(before)
    assert max(errors["neusquarecb"], errors["neufastcb"]) < min(errors["neural-epsilon-greedy"], errors["greedy"])
    assert last["neufastcb"] == min(last.values())


@pytest.mark.parametrize("name", ["neusquarecb", "neufastcb", "neural-ucb", "neural-ts", "contextual-linucb", "ee-net"])
def test_every_method_beats_chance(name):
    settings = {} if name == "contextual-linucb" else {"hidden": (20,), "batch_size": 16}
    env = {"problem": "linear", "arms": 4, "features": 3}
    agent = play(make(name, num_envs=8, env=env, **settings), 300)
    chance = play(make("neural-epsilon-greedy", num_envs=8, env=env, epsilon=1.0, hidden=(2,)), 300)
    assert float(agent.regret.total.mean()) < 0.5 * float(chance.regret.total.mean())


def test_theory_needs_a_horizon_and_the_guess_of_the_best_loss_doubles():
    agent = play(make("neufastcb", gamma_rule="theory", oracle="linear"), 30)
    assert float(agent.learner.rate()) == pytest.approx(10 * 3)  # the floor of 10K
    agent.learner.best_loss[:] = 3e5
    regret = 10 * np.log(32.0)
    assert float(agent.learner.rate()) == pytest.approx(np.sqrt(3 * 2**19 / (3 * regret)))
    square = make("neusquarecb", gamma_rule="theory", horizon=1000, oracle="linear").learner
    assert square.rate() == pytest.approx(np.sqrt(3 * 1000 / (10 * np.log(1000) + np.log(2 / 0.05))))


def test_the_horizon_of_the_theory_is_the_run_and_no_round_comes_after_it():
    theory, growing = InverseGapConfig(gamma_rule="theory"), InverseGapConfig()
    assert derive(theory, Budget(700)).horizon == 700
    assert derive(replace(theory, horizon=900), Budget(700)).horizon == 900
    assert derive(growing, Budget(700)).horizon is None
    assert derive(replace(theory, loss="kl"), Budget(700)).horizon is None
    for config in (replace(theory, horizon=700), growing):
        assert plan(config, Budget(700)) == (700, None, ("700 rounds",))
    for spec in (agents.get("contextual-linucb"), agents.get("neusquarecb")):
        assert spec.plan(spec.default, Budget(1797)) == (1800, None, ("1,800 rounds",))  # steps of ten rounds
    with pytest.raises(ValueError, match=r"--agent.horizon is 699, but the run has 700 rounds \(--steps\)"):
        plan(replace(theory, horizon=699), Budget(700))


def test_an_environment_of_an_evaluation_acts_as_the_replicate_of_its_number_modulo_theirs():
    """Each of two replicates knows of one feature that it pays; the third arm has the one, the second the other."""
    agent = make("contextual-linucb", num_envs=2)
    weights = agent.learner.oracle.weights.zero_()
    weights[0, 0, 0], weights[1, 0, 1] = 0.5, 0.25
    obs = torch.zeros(5, 6)
    obs[:, 2 * 2 + 0], obs[:, 2 * 1 + 1] = 1.0, 1.0
    assert agent.act(obs).tolist() == [2, 1, 2, 1, 2]
    losses = agent.learner.predicted_losses(as_contexts(agent.shape, obs[:2]))
    assert losses.tolist() == [[1.0, 1.0, 0.5], [1.0, 0.75, 1.0]]


def test_a_width_that_rounding_put_below_0_is_0():
    learner = make("contextual-linucb", num_envs=4).learner
    learner.oracle.inverse.copy_(-1e-18 * torch.eye(3))
    learner.oracle.weights[..., 0] = 1.0
    contexts = torch.zeros(4, 3, 2)
    contexts[:, 2, 0] = 1.0
    assert learner.choose(contexts).tolist() == [2] * 4


@pytest.mark.parametrize(("played", "arm"), [(999, 1), (1000, 0)])
def test_what_the_second_network_predicts_is_added_at_a_tenth_and_after_1000_rounds_at_a_hundredth(played, arm):
    learner = make("ee-net", exploration_weight=0.1).learner
    learner.t, found = played, learner.oracle.outputs(torch.zeros(1, 3, 2))
    first, second = torch.tensor([[0.5, 0.4, 0.3]]), torch.tensor([[0.0, 2.0, 0.5]])
    learner.oracle.outputs = lambda contexts: found._replace(output=first)
    learner.explorer.outputs = lambda contexts: SimpleNamespace(output=second)
    assert learner.choose(torch.zeros(1, 3, 2)).tolist() == [arm]


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("neusquarecb", {"failure_probability": 1.0}, r"--agent.failure-probability must be in \(0, 1\), not 1.0"),
        ("contextual-linucb", {"width": -1.0}, "--agent.width must be at least 0, not -1.0"),
        ("neural-ucb", {"ridge": 0.0}, "--agent.ridge must be"),
        ("neural-ts", {"exploration": -1.0}, "--agent.exploration must be at least 0, not -1.0"),
        ("neural-epsilon-greedy", {"epsilon": 1.5}, "--agent.epsilon must be"),
        ("ee-net", {"pool": 0}, "--agent.pool must be at least 1, not 0"),
    ],
)
def test_settings_out_of_range_are_one_line(name, change, message):
    with pytest.raises(ValueError, match=message):
        replace(agents.get(name).default, **change)


def test_other_tasks_are_refused():
    config, spec = EnvConfig("CartPole-v1"), agents.get("neusquarecb")
    setting = Setting(Spaces(*spaces_of(config)), 0, CPU, make_vec(config))
    with pytest.raises(ValueError, match="a contextual bandit plays surefoot/ContextualBandit-v0"):
        spec.make_agent(spec.default, setting)


def test_an_agent_goes_on_from_the_state_of_another():
    agent = make("neusquarecb", num_envs=2, seed=3, env={"arms": 3, "features": 2, "problem": "linear"}, hidden=(6,))
    other = make("neusquarecb", num_envs=2, seed=4, env={"arms": 3, "features": 2, "problem": "linear"}, hidden=(6,))
    for _ in range(5):
        agent.play()
    other.load_state_dict(agent.state_dict())
    assert_same(other.state_dict(), agent.state_dict())
    agent.play(), other.play()
    assert_same(other.state_dict(), agent.state_dict())
