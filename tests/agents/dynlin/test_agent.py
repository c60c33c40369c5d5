"""DynLin-UCB against exact answers: docs/derivations/dynlin.md E2 to E10 and E19."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from bandits import make, play, regret

from surefoot.agents.dynlin.agent import DynLinUCBConfig, best_on_ball, optimistic_values, radius
from surefoot.agents.dynlin.bounds import constants, epoch_repeats, epochs_within, from_system, non_normality
from surefoot.agents.dynlin.ridge import ActionTable, Ridge, cholesky, first_best, forward
from surefoot.agents.parts.random import ReplicateUniforms
from surefoot.agents.parts.regret import Regret
from surefoot.envs import DynamicalLinear
from surefoot.envs.tasks.linear_system import SYSTEMS, make_system


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


def bounds_of(name, powers=60):
    """Return the oracle bounds; Φ over 60 powers, as the table of §6.2 has it."""
    norms = np.linalg.norm(SYSTEMS[name]["actions"], axis=1)
    return from_system(make_system(SYSTEMS[name]), float(norms.max()), powers=powers)


# --- E2, E3: schedule, constants, radius ------------------------------------------------------------------------------


def test_epoch_lengths_grow_with_the_logarithm_of_the_epoch():
    assert [epoch_repeats(m, 0.2) + 1 for m in range(1, 625)] == [1] * 4 + [2] * 20 + [3] * 100 + [4] * 500
    assert [epoch_repeats(m, 0.0) for m in (1, 7, 10**6)] == [0, 0, 0]
    for k in range(1, 10):  # ln(10**k)/ln(10) falls below k in double precision for k = 3 and 6
        assert [epoch_repeats(m, 0.1) for m in (10**k - 1, 10**k, 10**k + 1)] == [k - 1, k, k]
        assert [epoch_repeats(m, 0.1, "ceil") for m in (10**k - 1, 10**k, 10**k + 1)] == [k, k, k + 1]


@pytest.mark.parametrize(
    ("name", "counts"), [("synthetic", (2_156, 17_075, 137_206)), ("real-data", (704, 5_221, 41_212))]
)
def test_epoch_counts_are_those_of_the_derivation(name, counts):
    rho = bounds_of(name).rho
    assert [epochs_within(horizon, rho) for horizon in (10**4, 10**5, 10**6)] == list(counts)


def test_the_horizon_cuts_the_last_epoch_which_gives_no_sample():
    agent = play(make("dynlin-ucb", horizon=200, first_action="optimistic"), 200)
    assert (agent.regret.t, agent.learner.epoch, agent.turns.cut) == (200, 43, True)
    assert float(agent.learner.ridge.gram.diagonal().sum()) == pytest.approx(2 * math.log(200) + 42)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("synthetic", (0.2, 1, 1.004988, 0.509902, 0.45, 1.118034, 1.397542, 2.276925, 1.075207, 2.052083)),
        ("real-data", (0.666891, 2.7805, 0.624980, 0.430581, 0.385606, 1.118034, 3.35636, 9.0356, 2.4422, 6.4387)),
        ("s1", (0.5, 1, 1, 0.632456, 0.670820, 1, 2, 3.341641, 1.974096, 0.00583333 / 0.05**2)),
    ],
)
def test_oracle_bounds_and_constants_are_those_of_the_derivation(name, expected):
    bounds = bounds_of(name)
    c1, c2, sigma2 = constants(bounds)
    np.testing.assert_allclose((*bounds[:-1], c1, c2, sigma2 / bounds.sigma**2), expected, rtol=3e-5)


def test_phi_over_999_powers_is_that_of_the_official_code():
    assert non_normality(make_system(SYSTEMS["real-data"]).A) == pytest.approx(2.7812, abs=5e-5)
    assert non_normality(np.zeros((2, 2))) == 1.0
    with pytest.raises(ValueError, match="A is nilpotent"):
        non_normality(np.array([[0.0, 1.0], [0.0, 0.0]]))


@pytest.mark.parametrize(
    ("name", "lam", "betas"),
    [
        ("synthetic", None, (11.01, 12.14, 13.18)),
        ("synthetic", 1.0, (24.42, 29.67, 34.93)),
        ("real-data", None, (37.96, 41.78, 45.29)),
        ("real-data", 1.0, (94.87, 115.69, 136.52)),
    ],
)
def test_the_radius_at_the_horizon_is_that_of_the_derivation(name, lam, betas):
    bounds = bounds_of(name)
    for horizon, beta in zip((10**4, 10**5, 10**6), betas, strict=True):
        found = radius(horizon, constants(bounds), 3, bounds.u, lam or math.log(horizon), 1 / horizon)
        assert found == pytest.approx(beta, abs=0.0051)


# --- E4: golden traces ------------------------------------------------------------------------------------------------

GOLDEN = [
    (200, 43, (27, 16, 0), 71, (0.718364, 0.140379), 7.002010, 13.658220, "011010100101001001001010"),
    (1000, 156, (115, 41, 0), 247, (0.907033, 0.078328), 7.341152, 15.234919, "011010100100101001001001"),
    (5000, 602, (510, 92, 0), 702, (0.974529, 0.041181), 7.699929, 16.658128, "011010100100101001000100"),
]


@pytest.mark.parametrize("path", ["epochs", "rounds"])
@pytest.mark.parametrize(("T", "epochs", "counts", "total", "estimate", "first_beta", "last_beta", "first"), GOLDEN)
def test_golden_traces(T, epochs, counts, total, estimate, first_beta, last_beta, first, path):
    env = {"system": "s1", "noise": 0.0}
    agent = make("dynlin-ucb", env=env, horizon=T, first_action="optimistic", rounds_per_step=1, path=path)
    actions, betas, samples = [], [], []
    while agent.regret.t < T:
        before = agent.learner.ridge.moment.clone()
        new = agent.turns.left == 0
        agent.step()
        if new:
            actions.append(int(agent.turns.action))
            betas.append(agent.learner.beta)
        change = agent.learner.ridge.moment - before
        if change.any():
            samples.append(float(change[actions[-1]]))
    assert len(actions) == agent.learner.epoch == epochs
    assert tuple(actions.count(arm) for arm in range(3)) == counts
    assert "".join(map(str, actions[:24])) == first
    assert float(agent.regret.total) == pytest.approx(total, abs=1e-9)
    np.testing.assert_allclose(agent.learner.ridge.estimate()[:, 0], estimate, rtol=0, atol=6e-7)
    assert betas[1] == pytest.approx(first_beta, abs=6e-7)  # t = 1
    assert betas[-1] == pytest.approx(last_beta, abs=6e-7)
    np.testing.assert_allclose(samples[:6], [-0.2, 0.6, 0.15, 0.56875, 0.396094, 0.599512], rtol=0, atol=6e-7)


# --- E5, E6: what the regression sees --------------------------------------------------------------------------------


def regress(rounds, repeat, num_envs, seed):
    """Return the ridge regression of last rewards on random actions, each repeated for `repeat(m)` rounds."""
    env = DynamicalLinear(num_envs, system="synthetic")
    env.reset(seed=seed)
    table = torch.tensor(env.actions)
    ridge, uniforms = Ridge(3, num_envs, 1.0, torch.device("cpu")), ReplicateUniforms(seed, "arms", num_envs)
    t, m = 0, 0
    while t < rounds:
        m += 1
        index = (uniforms.next() * 6).long()
        ridge.update(table[index].T, env.repeat(index, repeat(m)).last_reward)
        t += repeat(m)
    return ridge


def test_per_round_regression_finds_the_wrong_limit():
    num_envs = 100  # 2·10⁵ rounds in all
    ridge = regress(2000, lambda m: 1, num_envs, seed=0)
    gram = ridge.gram.sum(-1) - (num_envs - 1) * torch.eye(3)
    estimate = torch.linalg.solve(gram, ridge.moment.sum(-1))
    torch.testing.assert_close(estimate, f64(0.1912, 0.6912, 0.2912), rtol=0, atol=0.01)


def test_epoch_wise_regression_finds_h():
    ridge = regress(20_000, lambda m: epoch_repeats(m, 0.2) + 1, 20, seed=1)
    error = (ridge.estimate() - f64(0.5625, 0.5, 1 / 9)[:, None]).abs().amax(0)
    assert float(error.mean()) < 0.01


def test_the_confidence_set_holds_h_and_its_noise_part_is_sharp():
    num_envs, T, delta = 400, 20_000, 0.05
    agent = make("dynlin-ucb", num_envs=num_envs, horizon=T, failure_probability=delta, rounds_per_step=1)
    twin = DynamicalLinear(num_envs, system="s1", noise=0.0)
    twin.reset(seed=0)
    learner, table = agent.learner, torch.tensor(agent.env.actions)
    h, worst = torch.tensor(agent.env.h)[:, None], 0.0
    noise = torch.zeros(2, num_envs, dtype=torch.float64)
    violated, violated_with_sigma = (torch.zeros(num_envs, dtype=torch.bool) for _ in range(2))
    covered = torch.ones(num_envs, dtype=torch.bool)
    while agent.regret.t < T:
        moment = learner.ridge.moment.clone()
        agent.step()
        u = table[agent.turns.action].T
        clean = twin.repeat(agent.turns.action, agent.turns.length).last_reward
        if agent.turns.cut:
            break
        noise += learner.ridge.moment - moment - u * clean  # Σ u ξ
        factor = cholesky(learner.ridge.gram)
        error = torch.einsum("ijn,in,jn->n", learner.ridge.gram, *[learner.ridge.estimate() - h] * 2).sqrt()
        covered &= error <= learner.beta
        worst = max(worst, float((error / learner.beta).max())) if learner.epoch > 20 else worst
        size = sum(w.square() for w in forward(factor, noise.unbind())).sqrt()
        log_det = 2 * (factor[0][0].log() + factor[1][1].log()) - 2 * math.log(learner.lam)
        spread = 2 * (math.log(1 / delta) + 0.5 * log_det)
        violated |= size > (learner.known.sigma2 * spread).sqrt()
        violated_with_sigma |= size > (0.05**2 * spread).sqrt()
    assert covered.all()
    assert 0.2 < worst < 0.28  # measured 0.27
    assert 0.01 <= float(violated.double().mean()) <= 0.05  # measured 0.03
    assert float(violated_with_sigma.double().mean()) > 0.1  # σ in place of σ̃ is too small


# --- E7: maximisers ---------------------------------------------------------------------------------------------------


def test_the_ball_maximiser_finds_the_numbers_of_the_derivation():
    action, value = best_on_ball(torch.diag(f64(1, 4, 9))[None], f64(0.3, -0.2, 0.5)[None], 0.8)
    torch.testing.assert_close(action, f64(0.876329, -0.197333, 0.439441)[None], rtol=0, atol=6e-7)
    assert float(value) == pytest.approx(1.237244, abs=6e-7)
    action, value = best_on_ball(torch.diag(f64(1, 4))[None], f64(0, 0.5)[None], 0.8)
    torch.testing.assert_close(action.abs(), f64(0.737142, 0.675738)[None], rtol=0, atol=1e-6)  # 0.6757374 by hand
    assert float(value) == pytest.approx(0.986577, abs=6e-7)


def test_the_ball_maximiser_at_the_start_and_where_the_estimate_points_along_an_axis():
    action, value = best_on_ball(2 * torch.eye(3, dtype=torch.float64)[None], f64(0, 0, 0)[None], 0.5)
    assert float(value) == pytest.approx(0.5 / 2**0.5)
    assert float(action.norm()) == pytest.approx(1.0)
    action, value = best_on_ball(2 * torch.eye(3, dtype=torch.float64)[None], f64(0, -3, 4)[None], 0.5)
    assert float(value) == pytest.approx(5 + 0.5 / 2**0.5)
    torch.testing.assert_close(action, f64(0, -0.6, 0.8)[None])
    nearly = best_on_ball(torch.diag(f64(1, 4))[None], f64(1e-9, 0.5)[None], 0.8)
    torch.testing.assert_close(nearly[1], f64(0.986577), rtol=0, atol=6e-7)


def test_the_first_action_on_a_ball_is_either_end_of_any_axis():
    learner = make("dynlin-ucb", num_envs=200, env={"system": "synthetic", "ball": 1.5}, horizon=100).learner
    ends = torch.cat([torch.eye(learner.d), -torch.eye(learner.d)]).tolist()
    assert sorted({tuple(row) for row in learner.random().tolist()}) == sorted(map(tuple, ends))


def test_another_spectral_radius_is_that_of_bounds_and_constants():
    learner = make("dynlin-ucb", horizon=100).learner
    before, learner.rho = learner.bounds, 0.75
    assert learner.bounds == before._replace(rho=0.75, x=before.u / 0.25)
    assert learner.known == constants(learner.bounds)


@pytest.mark.parametrize("d", [2, 3, 5])
def test_the_ball_maximiser_is_never_worse_than_projected_ascent(d):
    generator = torch.Generator().manual_seed(d)
    problems, starts, beta = 30, 60, 0.7
    root = torch.randn(problems, d, d, generator=generator, dtype=torch.float64)
    gram = root @ root.mT + 0.1 * torch.eye(d)
    estimate = torch.randn(problems, d, generator=generator, dtype=torch.float64)
    action, value = best_on_ball(gram, estimate, beta)
    inverse = gram.inverse()
    v = torch.randn(problems, starts, d, generator=generator, dtype=torch.float64)
    for _ in range(500):  # v ← argmax of the linearised objective: monotone
        width = torch.einsum("psi,pij,psj->ps", v, inverse, v).sqrt()
        gradient = estimate[:, None] + beta * torch.einsum("pij,psj->psi", inverse, v) / width[..., None]
        v = torch.nn.functional.normalize(gradient, dim=-1)
    objective = torch.einsum("psi,pi->ps", v, estimate) + beta * torch.einsum("psi,pij,psj->ps", v, inverse, v).sqrt()
    found = (action * estimate).sum(-1) + beta * torch.einsum("pi,pij,pj->p", action, inverse, action).sqrt()
    torch.testing.assert_close(found, value)
    torch.testing.assert_close(action.norm(dim=-1), torch.ones(problems, dtype=torch.float64))
    assert bool((value >= objective.amax(1) - 1e-9).all())


def test_optimistic_values_are_those_of_a_dense_inverse():
    generator = torch.Generator().manual_seed(0)
    table, ridge = ActionTable(torch.tensor(SYSTEMS["synthetic"]["actions"]), 4), Ridge(3, 4, 0.5, torch.device("cpu"))
    for _ in range(200):
        index = torch.randint(6, (4,), generator=generator)
        ridge.update(table.vectors(index), torch.randn(4, generator=generator, dtype=torch.float64))
    values = optimistic_values(table, ridge, 1.3)
    for i in range(4):
        inverse, U = ridge.gram[..., i].inverse(), table.actions
        expected = U @ inverse @ ridge.moment[:, i] + 1.3 * ((U @ inverse) * U).sum(1).sqrt()
        torch.testing.assert_close(values[:, i], expected, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(ridge.estimate()[:, i], inverse @ ridge.moment[:, i], rtol=1e-10, atol=1e-12)


def test_the_lowest_of_equal_actions_is_taken():
    assert first_best(f64([1, 3, 0], [2, 3, 0], [2, 1, 0])).tolist() == [1, 0, 0]


# --- E8 to E10: S1 ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_s1_orders_the_algorithms():
    dynlin, batch, exp3, linucb = (regret(name, 20_000) for name in ("dynlin-ucb", "batch-exp3", "exp3", "linucb-log"))
    assert 1400 <= float(dynlin.mean()) <= 1500  # measured 1452 ± 16
    assert float(linucb.mean()) > 19_000
    assert dynlin.mean() < batch.mean() < exp3.mean() < linucb.mean()
    assert 5_500 < float(batch.mean()) < 8_000  # measured 6754 ± 1264
    assert 16_300 < float(exp3.mean()) < 17_500  # measured 16913 ± 584


def slope(agent):
    rounds, curve = agent.regret.trace()
    t, mean = torch.tensor(rounds, dtype=torch.float64), curve.mean(1)
    last = t >= t[-1] / 10
    return np.polyfit(t[last].log(), mean[last].log(), 1)[0]


def test_the_slope_of_the_last_decade_falls_below_a_half():
    short, long = (play(make("dynlin-ucb", num_envs=20, horizon=T, rounds_per_step=1000), T) for T in (20_000, 200_000))
    assert slope(short) == pytest.approx(0.57, abs=0.05)
    assert slope(long) < 0.5  # measured 0.36
    assert float(long.regret.total.mean()) == pytest.approx(3164, rel=0.02)
    torch.testing.assert_close(long.learner.ridge.estimate().mean(1), f64(0.999, 0.013), rtol=0, atol=0.004)


def test_with_epochs_of_one_round_and_without_c1_it_is_linucb_log():
    rest = {"num_envs": 5, "env": {"system": "real-data"}, "horizon": 300, "rounds_per_step": 1}
    ours, other = make("dynlin-ucb", **rest), make("linucb-log", **rest)
    ours.learner.known = ours.learner.known._replace(c1=0.0)
    ours.learner.bounds = ours.learner.bounds._replace(rho=0.0)
    for _ in range(300):
        ours.step(), other.step()
        torch.testing.assert_close(ours.turns.action, other.turns.action, rtol=0, atol=0)
        assert ours.learner.beta == pytest.approx(other.learner.beta, rel=1e-14)
    torch.testing.assert_close(ours.regret.total, other.regret.total, rtol=0, atol=0)


# --- the rest of the contract
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "factor"), [("dynlin-ucb", 1.25), ("batch-exp3", 2.0)])
def test_without_a_horizon_the_regret_is_not_much_more(name, factor):
    """Doubling from 64: no sample is lost, and λ and δ are within a factor 2 of those of the round."""
    known = regret(name, 8192, num_envs=20)
    doubled = play(make(name, num_envs=20, doubling=True, horizon=64, rounds_per_step=1000), 8192)
    assert doubled.turns.horizon in (8192, 16384)  # the last epoch may pass 8192
    assert float(doubled.regret.total.mean()) <= factor * float(known.mean())


def test_bounds_that_decide_are_said_once_when_half_of_the_horizon_is_over():
    loose = make("dynlin-ucb", horizon=1000, state_norm_bound=300.0)
    notes = []
    while loose.regret.t < 1000:
        notes += [(loose.regret.t, line) for line in loose.step().notes]
    assert len(notes) == 1
    assert notes[0][0] >= 500
    assert "bounds decide, not data" in notes[0][1]
    assert loose.state_dict()["noted"] is True
    tight = make("dynlin-ucb", horizon=1000, bias_scale=0.0, ridge=0.5)
    assert not any(tight.step().notes for _ in range(10))


def test_epochs_and_rounds_give_the_same_regret():
    epochs, rounds = (regret("dynlin-ucb", 2000, num_envs=40, path=path) for path in ("epochs", "rounds"))
    error = (epochs.var() / 40 + rounds.var() / 40).sqrt()
    assert abs(float(epochs.mean() - rounds.mean())) < 4 * float(error)
    assert not torch.equal(epochs, rounds)


def test_the_realised_regret_differs_by_a_bounded_transient():
    agent = play(make("dynlin-ucb", num_envs=20, horizon=20_000, env={"system": "s1", "noise": 0.001}), 20_000)
    assert 0 < float(agent.regret.realised.mean() - agent.regret.total.mean()) < 15


def test_the_authors_conventions():
    agent = make("dynlin-ucb", num_envs=60, horizon=1000, double_first_epoch=True, rounds_per_step=1)
    agent.step()
    assert agent.regret.t == agent.turns.length == 2
    assert sorted(set(agent.turns.action.tolist())) == [0, 1, 2]
    agent.step()
    assert agent.turns.length == epoch_repeats(2, 0.5) + 1


def test_given_bounds_take_the_place_of_derived_ones():
    given = {
        "spectral_radius_bound": 0.6,
        "non_normality_bound": 1.5,
        "state_weight_bound": 2.0,
        "action_weight_bound": 3.0,
        "input_matrix_bound": 4.0,
        "action_norm_bound": 5.0,
    }
    bounds = make("dynlin-ucb", horizon=100, noise_std=0.5, **given).learner.bounds
    assert tuple(bounds) == (0.6, 1.5, 2.0, 3.0, 4.0, 5.0, 5.0 / 0.4, 0.5)
    assert make("dynlin-ucb", horizon=100, state_norm_bound=7.0).learner.bounds.x == 7.0


def test_lambda_and_delta_need_the_horizon_only_where_they_are_left_out():
    assert make("dynlin-ucb", ridge=2.0, failure_probability=0.1).learner.lam == 2.0
    for changes in ({}, {"ridge": 2.0}, {"failure_probability": 0.1}):
        with pytest.raises(ValueError, match=r"horizon is missing: δ = 1/T and λ = ln T need it"):
            make("dynlin-ucb", **changes)


def test_a_spectral_radius_bound_below_the_truth_is_warned_of():
    with pytest.warns(UserWarning, match=r"--agent\.spectral-radius-bound 0\.3 is below the spectral radius 0\.5"):
        make("dynlin-ucb", horizon=100, spectral_radius_bound=0.3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"spectral_radius_bound": 1.0}, r"--agent\.spectral-radius-bound must be in \[0, 1\), not 1.0"),
        ({"spectral_radius_bound": -0.1}, r"--agent\.spectral-radius-bound must be in \[0, 1\)"),
        ({"failure_probability": 0.0}, r"--agent\.failure-probability must be in \(0, 1\)"),
        ({"failure_probability": 1.5}, r"--agent\.failure-probability must be in \(0, 1\)"),
        ({"ridge": 0.0}, r"agent\.ridge must be positive"),
        ({"non_normality_bound": 0.5}, r"--agent\.non-normality-bound must be at least 1"),
        ({"noise_std": -1.0}, r"--agent\.noise-std must be at least 0"),
        ({"horizon": 0}, r"agent\.horizon must be at least 1"),
        ({"horizon": 1}, "ln T and 1/T need at least 2"),
        ({"rounds_per_step": 0}, r"--agent\.rounds-per-step must be at least 1"),
    ],
)
def test_settings_out_of_range_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(DynLinUCBConfig(), **changes)


def test_regret_is_kept_at_the_same_rounds_whatever_the_horizon():
    kept = Regret(1.0, 2, torch.device("cpu"))
    assert kept.curve.shape[0] < 220
    kept.add(f64(1, 0), 7, f64(0, 7))
    kept.add(f64(0.5, 1), 1000, f64(0, 0))
    rounds, curve = kept.trace()
    assert (rounds[:10], rounds[-1]) == (list(range(1, 11)), 1007)
    at = dict(zip(rounds, curve.tolist(), strict=True))
    assert (at[7], at[10], at[100], at[1007]) == ([7, 0], [8.5, 3], [53.5, 93], [507, 1000])
    assert kept.realised.tolist() == [1007, 1000]
