"""NORA's mathematics: docs/derivations/nora.md E1, E2, E3, E5, E6 and the matrices of E10."""

from __future__ import annotations

import math

import pytest
import torch
from nora_tasks import random_mdp
from tabular_values import policy_values
from torch.testing import assert_close

from surefoot.agents.nora.actor import AccumulatingActor, Actor, greedy_policy, soft_policy
from surefoot.agents.nora.agent import oppo_eta
from surefoot.agents.nora.linear_critic import elliptical, rank_one
from surefoot.agents.nora.tabular_critic import (
    Episode,
    Optimism,
    Range,
    TabularCritic,
    count_bonus,
    hoeffding_log,
    induction,
)
from surefoot.agents.parts.tabular import (
    backup,
    expected_return,
    occupancies,
    optimal_return,
    optimal_values,
    transition_matrix,
)

CPU = torch.device("cpu")
S, A, H = 5, 3, 4


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_policies(count, seed=0):
    return torch.randn(count, H, S, A, generator=generator(seed), dtype=torch.float64).softmax(-1)


def remaining(horizon=H):
    left = torch.arange(horizon, 0, -1).double()
    return Range(0 * left, left)


# --- E1: decompositions D1 to D4, eq. (2.1) to eq. (2.4) --------------------------------------------------------------


def residuals(mdp, f, policy=None):
    """Return δ_h(f), or δ^π_h(f), of f (N, H, S, A)."""
    following = torch.cat([f[:, 1:], torch.zeros_like(f[:, :1])], 1)
    value = following.amax(-1)
    if policy is not None:
        value = (torch.cat([policy[:, 1:], policy[:, :1]], 1) * following).sum(-1)
    return torch.stack([f[:, h] - backup(mdp, h, value[:, h]) for h in range(H)], 1)


@pytest.mark.parametrize("seed", range(4))
def test_the_decompositions_of_regret_are_identities(seed):
    mdp, draws = random_mdp((S, A, H), seed), 50
    f = torch.rand(draws, H, S, A, generator=generator(seed), dtype=torch.float64) * H
    policy = random_policies(draws, seed)
    best = torch.nn.functional.one_hot(optimal_values(mdp, H).argmax(-1), A).double().expand_as(policy)
    d, d_best = occupancies(mdp, policy), occupancies(mdp, best)
    value, optimum = expected_return(mdp, policy), optimal_return(mdp, H)

    def mean(occupancy, gap):
        return (occupancy * gap).sum((1, 2, 3))

    exact = {"rtol": 0, "atol": 1e-12}
    at_policy = (policy * f).sum(-1, keepdim=True)
    tracking = mean(d, f.amax(-1, keepdim=True) - at_policy)
    greedy_start = f[:, 0].amax(-1) @ mdp.start
    assert_close(greedy_start - value, tracking + mean(d, residuals(mdp, f)), **exact)  # D1
    policy_start = at_policy[:, 0, :, 0] @ mdp.start
    assert_close(policy_start - value, mean(d, residuals(mdp, f, policy)), **exact)  # D2
    comparator = mean(d_best, f - at_policy) - mean(d_best, residuals(mdp, f, policy))
    assert_close(optimum - policy_start, comparator, **exact)  # D3
    assert ((optimum - greedy_start) <= -mean(d_best, residuals(mdp, f)) + 1e-10).all()  # D4


# --- E2: mirror ascent ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("eta", [0.01, 0.3, 10.0])
def test_mirror_ascent_has_its_regret_bound(eta):
    bound, rounds = 3.0, 200
    f = torch.rand(rounds, 1, 1, 1, 4, generator=generator(), dtype=torch.float64) * bound
    actor, played = AccumulatingActor((1, 1, 1, 4), eta, 0.0, CPU), torch.tensor(0.0).double()
    for values in f:
        played += (actor.policy(values) * values).sum()
        actor.ascend(values)
    assert f.sum(0).max() - played <= math.log(4) / eta + eta * bound**2 * rounds / 8 + 1e-9


def test_on_a_frozen_critic_the_actor_is_a_softmax_and_its_gap_shrinks_as_1_over_k():
    f = torch.rand(2, H, S, A, generator=generator(), dtype=torch.float64) * H
    actor, other = Actor(2, 0.7, 0.0, CPU), AccumulatingActor((2, H, S, A), 0.7, 0.0, CPU)
    for k in range(1, 30):
        actor.ascend(f)
        other.ascend(f)
        policy = actor.policy(f)
        assert_close(policy, (0.7 * k * f).softmax(-1), rtol=0, atol=1e-12)
        assert_close(policy, other.policy(f), rtol=0, atol=1e-12)
        assert ((f.amax(-1) - (policy * f).sum(-1)) <= math.log(A) / (0.7 * k) + 1e-12).all()
    actor.reset(torch.tensor([1]))
    assert_close(actor.policy(f)[1], torch.full((H, S, A), 1 / A).double())
    assert_close(actor.policy(f)[0], policy[0])


def test_huge_exponents_are_no_nan_and_exploration_is_uniform_with_probability_epsilon():
    exponent = torch.tensor([1e6, 0.0, -1e6]).double()
    assert_close(soft_policy(exponent), torch.tensor([1.0, 0.0, 0.0]).double())
    assert_close(soft_policy(exponent, 0.3), torch.tensor([0.8, 0.1, 0.1]).double())
    assert_close(greedy_policy(torch.tensor([1.0, 1.0, 0.0]).double(), 0.3), torch.tensor([0.8, 0.1, 0.1]).double())
    assert_close(Actor(1, math.inf, 0.0, CPU).policy(exponent[None])[0], torch.tensor([1.0, 0.0, 0.0]).double())
    assert oppo_eta(3, 4, 50) == pytest.approx(math.sqrt(2 * math.log(3) / (16 * 50)))


# --- E3, E5, E6: the tabular critic -----------------------------------------------------------------------------------


def recorded(mdp, episodes, seed=0):
    """Return (H, 1, E) transitions of the uniform policy."""
    g, states, rows = generator(seed), torch.zeros(episodes, dtype=torch.int64), []
    for h in range(len(mdp.reward)):
        action = torch.randint(A, (episodes,), generator=g)
        outcome = torch.multinomial(mdp.probability[h][states, action], 1, generator=g).squeeze(1)
        at = (torch.full_like(action, h), states, action, outcome)
        rows.append((states, action, mdp.reward[at], mdp.next_state[at]))
        states = mdp.next_state[at]
    return Episode(*(torch.stack(column)[:, None] for column in zip(*rows, strict=True)))


def pick(episode, rows):
    return Episode(*(field[..., rows] for field in episode))


def tabular(optimism, ratio=2.0, replicates=1, horizon=H):
    return TabularCritic((replicates, horizon, S, A), remaining(horizon), optimism, ratio, CPU)


ALL = torch.tensor([0])


def test_the_bonus_at_c_1_dominates_the_error_of_the_model():
    horizon, episodes, width, worst = 5, 100, remaining(5).high[:, None, None], []
    optimism = Optimism(1.0, hoeffding_log(S, A, horizon, episodes, 0.05))
    assert optimism.log_term == pytest.approx(math.log(2 * S * A * horizon * episodes / 0.05))
    for seed in range(20):
        mdp = random_mdp((S, A, horizon), seed)
        v = torch.cat([optimal_values(mdp, horizon).amax(-1)[1:], torch.zeros(1, S).double()])  # V*_{h+1}
        truth = torch.einsum("hsat,ht->hsa", transition_matrix(mdp), v) + mdp.mean_reward
        data, critic, ratios = recorded(mdp, episodes, seed), tabular(None, horizon=horizon), []
        for e in range(episodes):
            critic.observe(pick(data, e))
            n = critic.visits[0]
            estimate = (torch.einsum("hsat,ht->hsa", critic.successors[0], v) + critic.reward_sum[0]) / n.clamp(min=1)
            bonus = count_bonus(n, width, optimism)
            ratios.append(torch.where(n > 0, (estimate - truth).abs() / bonus, 0.0).max())
        worst.append(float(max(ratios)))
    assert sum(ratio > 1 for ratio in worst) <= 1
    assert max(worst) > 1 / 3  # a third of it would not do


def test_the_exact_model_gives_the_optimal_values_whatever_the_actor_does():
    mdp, one = random_mdp((S, A, H), 3), torch.ones(1, H, S, A).double()
    model = (one, transition_matrix(mdp)[None], mdp.mean_reward[None])
    for optimism in (None, Optimism(0.0, 1.0)):
        assert_close(induction(*model, remaining(), optimism)[0], optimal_values(mdp, H), rtol=0, atol=1e-12)
    policy = random_policies(1)
    assert_close(induction(*model, remaining(), None, policy), policy_values(mdp, policy), rtol=0, atol=1e-12)


def test_what_was_never_visited_is_worth_the_most_or_without_optimism_nothing():
    for optimism, worth in ((Optimism(0.1, 3.0), [4.0, 3.0, 2.0, 1.0]), (None, [0.0] * 4)):
        critic = tabular(optimism)
        critic.plan(ALL, None)
        assert_close(critic.q[0], torch.tensor(worth).double()[:, None, None].expand(H, S, A))


def test_one_visit_by_hand():
    critic, path = tabular(Optimism(0.05, 2.0)), torch.tensor([[0], [1], [2], [3]])
    critic.observe(Episode(path, path * 0, torch.tensor([[0.0], [0.0], [0.25], [0.5]]), path + 1))
    critic.plan(ALL, None)
    assert float(critic.q[0, 3, 3, 0]) == pytest.approx(0.5 + 0.05 * 1.0)  # √(2/2) = 1
    assert float(critic.q[0, 2, 2, 0]) == pytest.approx(0.25 + 1.0 + 0.05 * 2.0)  # another action may be worth 1
    assert float(critic.q[0, 0, 0, 0]) == pytest.approx(0.0 + 3.0 + 0.05 * 4.0)
    assert float(critic.q[0, 0, 0, 1]) == 4.0
    for _ in range(3):  # four visits: half the bonus
        critic.observe(Episode(path, path * 0, torch.tensor([[0.0], [0.0], [0.25], [0.5]]), path + 1))
    assert float(critic.q[0, 3, 3, 0]) == pytest.approx(0.55)  # frozen
    critic.plan(ALL, None)
    assert float(critic.q[0, 3, 3, 0]) == pytest.approx(0.5 + 0.025)


def test_a_count_that_doubled_calls_for_a_plan():
    critic, path = tabular(None, replicates=2), torch.tensor([[0, 0], [1, 1], [2, 2], [3, 3]])
    both = torch.tensor([0, 1])
    critic.plan(both, None)
    drifted = []
    for action in (0, 0, 0, 0):
        critic.observe(Episode(path, torch.tensor([[action, action + 1]] * 4), path * 0.0, path))
        drifted.append(critic.drifted().tolist())
        critic.plan(critic.drifted().nonzero().squeeze(-1), None)
    assert drifted == [[False, False], [True, True], [False, False], [True, True]]  # n = 2 ≥ 2·max(1, 0), 4 ≥ 2·2
    critic.observe(Episode(path, torch.tensor([[0, 2]] * 4), path * 0.0, path))
    critic.observe(Episode(path, torch.tensor([[0, 2]] * 4), path * 0.0, path))
    assert critic.drifted().tolist() == [False, True]  # 6 < 8, and 2 ≥ 2·max(1, 0)


def test_the_critic_is_a_function_of_the_set_of_transitions():
    data = recorded(random_mdp((S, A, H), 0), 60)
    critics = [tabular(Optimism(0.1, 4.0)) for _ in range(3)]
    order = torch.randperm(60, generator=generator())
    critics[0].observe(data)
    critics[1].observe(pick(data, order))
    for e in order.tolist():
        critics[2].observe(pick(data, e))
    for critic in critics:
        critic.plan(ALL, None)
        assert_close(critic.q, critics[0].q, rtol=0, atol=1e-12)
    assert critics[0].visits[0, 0, 0].sum() == 60


# --- E10: determinants ------------------------------------------------------------------------------------------------


def test_rank_one_updates_and_the_determinant_lemma():
    g = generator()
    for _ in range(50):
        root, more = torch.randn(2, 4, 4, generator=g, dtype=torch.float64)
        small = root @ root.T + torch.eye(4).double()
        large, x = small + more @ more.T, torch.randn(4, generator=g, dtype=torch.float64)
        growth = torch.logdet(large) - torch.logdet(small)
        stale, fresh = elliptical(x, small.inverse()), elliptical(x, large.inverse())
        assert fresh**2 <= stale**2 <= growth.exp() * fresh**2 * (1 + 1e-9)
        assert_close(stale, (x @ small.inverse() @ x).sqrt(), rtol=0, atol=1e-10)
        inverse, gain = rank_one(small.inverse(), x)
        grown = small + torch.outer(x, x)
        assert_close(inverse, grown.inverse(), rtol=0, atol=1e-10)
        assert_close(gain, torch.logdet(grown) - torch.logdet(small), rtol=0, atol=1e-10)


def test_a_plan_is_due_at_first_when_a_count_has_doubled_and_every_time_without_a_ratio():
    critics = [TabularCritic((2, 1, 1, 1), remaining(1), None, ratio, CPU) for ratio in (2.0, None)]
    zero = torch.zeros(1, 2, dtype=torch.int64)
    episode, due = Episode(zero, zero, zero.double(), zero), []
    for _ in range(9):
        due.append([critic.drifted().tolist() for critic in critics])
        for critic in critics:
            critic.plan(critic.drifted().nonzero().squeeze(-1), None)
            critic.observe(episode)
    rare, every = zip(*due, strict=True)
    assert every == ([True, True],) * 9
    # Of n = 0, 1, …, 8 visits: the first plan, and then at twice max(1, n at the last plan).
    assert list(rare) == [[n in (0, 2, 4, 8)] * 2 for n in range(9)]
