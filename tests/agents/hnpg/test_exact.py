"""HAC and HPE on tables, against dynamic programming, closed forms and examples by hand.

Exact answers E6, E7, E11 and E12 of docs/derivations/hnpg.md.
"""

import math

import pytest
import torch
from tabular_values import policy_values
from torch.testing import assert_close

from surefoot.agents.hnpg.exact import (
    backward_sweep,
    hac,
    hpe,
    hybrid_least_squares,
    hybrid_table,
    latent_lock,
    lock_behaviour,
    sample_pairs,
    success_probability,
)
from surefoot.agents.parts.tabular import from_dense, transition_matrix


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_mdp(horizon=4, states=3, actions=2, *, deterministic=False):
    g = generator(5)
    shape = (horizon, states, actions, states)
    if deterministic:
        transition = torch.nn.functional.one_hot(torch.randint(states, shape[:-1], generator=g), states).double()
    else:
        transition = torch.rand(shape, generator=g, dtype=torch.float64).softmax(-1)
    reward = torch.rand(shape[:-1], generator=g, dtype=torch.float64)
    start = torch.full((states,), 1 / states, dtype=torch.float64)
    return from_dense(start, transition, reward)


def random_policy(mdp):
    return torch.randn(mdp.mean_reward.shape, generator=generator(6), dtype=torch.float64).softmax(-1)


def test_a_table_entry_is_the_weighted_mean_of_its_targets_and_unseen_pairs_keep_theirs():
    pair = (torch.tensor([0, 0, 1]), torch.tensor([0, 0, 1]))
    on = (torch.tensor([0]), torch.tensor([0]))
    f = torch.full((2, 2), 9.0).double()
    fitted = hybrid_table(f, pair, torch.tensor([1.0, 2.0, 5.0]).double(), on, torch.tensor([4.0]).double(), 0.5)
    expected = (1 / 3 * 1 + 1 / 3 * 2 + 0.5 * 4) / (2 / 3 + 0.5)
    assert_close(fitted, torch.tensor([[expected, 9.0], [9.0, 5.0]]).double())


def test_linear_minimiser_and_its_limits():
    g = generator(1)
    phi_off, phi_on = torch.randn(30, 3, generator=g).double(), torch.randn(20, 3, generator=g).double()
    z, y = torch.randn(30, generator=g).double(), torch.randn(20, generator=g).double()
    w = hybrid_least_squares(phi_off, z, phi_on, y, 2.5)
    w.requires_grad_()
    loss = (phi_off @ w - z).square().mean() + 2.5 * (phi_on @ w - y).square().mean()
    assert_close(torch.autograd.grad(loss, w)[0], torch.zeros(3).double(), rtol=0, atol=1e-12)
    fqe, monte_carlo = (torch.linalg.lstsq(a, b).solution for a, b in ((phi_off, z), (phi_on, y)))
    assert_close(hybrid_least_squares(phi_off, z, phi_on, y, 0.0), fqe)
    assert_close(hybrid_least_squares(phi_off, z, phi_on, y, 1e9), monte_carlo, rtol=1e-6, atol=1e-6)
    assert_close(hybrid_least_squares(phi_off[:0], z[:0], phi_on, y, 2.5), monte_carlo)  # the term that has samples
    assert_close(hybrid_least_squares(phi_off, z, phi_on[:0], y[:0], 2.5), fqe)


@pytest.mark.parametrize(("lam", "factor"), [(0.0, 1.8), (0.1, 1.8 / 1.4), (0.25, 0.9), (1.0, 0.36)])
def test_on_policy_returns_keep_the_two_state_example_from_diverging(lam, factor):
    """φ = 1, 2 in states 1, 2; data only 1 → 2; values 0; on-policy mean of φ² is 4: w ← 2γw/(1 + 4λ), γ = 0.9."""
    phi_off, phi_on = torch.ones(1, 1).double(), torch.tensor([[2.0], [2.0]]).double()
    w = torch.ones(1).double()
    for k in range(1, 6):
        w = hybrid_least_squares(phi_off, 0.9 * 2 * w, phi_on, torch.zeros(2).double(), lam)
        assert_close(w, torch.tensor([factor**k]).double())


def test_a_sweep_is_exact_where_everything_is_deterministic():
    mdp = random_mdp(deterministic=True)
    policy = torch.nn.functional.one_hot(random_policy(mdp).argmax(-1), 2).double()
    off = sample_pairs(mdp, torch.full_like(policy, 0.5), 3000, generator(1))
    f = backward_sweep(torch.zeros_like(policy), policy, off, sample_pairs(mdp, policy, 50, generator(2)))
    seen = hybrid_table(
        torch.zeros(3, 2).double(),
        (off.state[3], off.action[3]),
        torch.ones(3000).double(),
        (off.state[3][:0], off.action[3][:0]),
        torch.ones(0).double(),
        1.0,
    )
    assert seen.sum() > 3
    exact = policy_values(mdp, policy)
    for h in range(4):
        visited = torch.zeros(3, 2, dtype=torch.bool)
        visited[off.state[h], off.action[h]] = True
        assert_close(f[h][visited], exact[h][visited], rtol=0, atol=1e-12)


def test_a_sweep_approaches_dynamic_programming_as_one_over_root_n():
    mdp = random_mdp()
    policy = random_policy(mdp)
    errors = []
    for samples in (1_000, 100_000):
        off = sample_pairs(mdp, torch.full_like(policy, 0.5), samples, generator(1))
        on = sample_pairs(mdp, policy, samples, generator(2))
        f = backward_sweep(torch.zeros_like(policy), policy, off, on)
        errors.append(float((f - policy_values(mdp, policy)).square().mean().sqrt()))
    assert errors[1] < 0.01
    assert 4 < errors[0] / errors[1] < 25  # √100 = 10


def test_hpe_averages_its_last_rounds_and_agrees_with_dynamic_programming():
    mdp = random_mdp()
    policy = random_policy(mdp)
    off = sample_pairs(mdp, torch.full_like(policy, 0.5), 20_000, generator(1))
    exact = policy_values(mdp, policy)
    settings = {"generator": generator(3), "samples": 2_000, "lam": 1.0}
    averaged = hpe(mdp, policy, off, burn_in=4, rounds=104, **settings)
    single = hpe(mdp, policy, off, burn_in=4, rounds=5, **settings)
    assert (averaged - exact).abs().max() < 0.03
    assert (averaged - exact).square().mean() < 0.2 * (single - exact).square().mean()
    with pytest.raises(ValueError, match="0 <= K1 < K2"):
        hpe(mdp, policy, off, burn_in=3, rounds=3, **settings)


def test_hac_adds_values_to_the_logits():
    mdp = random_mdp()
    off = sample_pairs(mdp, random_policy(mdp), 1_000, generator(1))
    first, second = hac(mdp, off, iterations=1, eta=0.7, generator=generator(2), samples=50)
    assert_close(first, torch.full_like(first, 0.5))
    g = generator(2)
    on = sample_pairs(mdp, first, 50, g)
    f = backward_sweep(torch.zeros_like(first), first, off.draw(50, g), on)
    assert_close(second, (0.7 * f).softmax(-1))


def test_the_latent_lock_and_its_behaviour():
    mdp = latent_lock(5)
    assert_close(transition_matrix(mdp).sum(-1), torch.ones_like(mdp.mean_reward))
    uniform = torch.full_like(mdp.mean_reward, 0.1)
    assert_close(success_probability(mdp, uniform), torch.tensor(1e-5).double())
    behaviour = lock_behaviour(mdp)
    assert_close(behaviour.sum(-1), torch.ones(5, 3).double())
    assert_close(success_probability(mdp, behaviour), torch.tensor((0.8 + 0.02) ** 5).double())


@pytest.mark.parametrize(("horizon", "within"), [(5, 20), (10, 40)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hac_opens_the_latent_lock_with_offline_data(horizon, within, seed):
    mdp = latent_lock(horizon, seed=seed)
    offline = sample_pairs(mdp, lock_behaviour(mdp), 20_000, generator(seed))
    policies = list(hac(mdp, offline, iterations=4 * within, eta=1.0, generator=generator(seed + 10)))
    success = [float(success_probability(mdp, policy)) for policy in policies]
    assert max(success[: within + 1]) > 0.5
    assert success[-1] > 0.99


@pytest.mark.parametrize("seed", [0, 1])
def test_hac_without_offline_data_does_not_open_it(seed):
    mdp = latent_lock(10, seed=seed)
    *_, last = hac(mdp, None, iterations=400, eta=1.0, generator=generator(seed))
    assert success_probability(mdp, last) < 0.01
    assert math.isfinite(float(last.sum()))
