"""Dynamic programming on finite MDPs: by hand, against simulation by matrices, and its identities."""

import pytest
import torch
from tabular_values import policy_values
from torch.testing import assert_close

from surefoot.agents.parts.tabular import (
    TabularMDP,
    check,
    concentrability,
    expected_return,
    from_dense,
    greedy,
    narrow,
    occupancies,
    optimal_return,
    optimal_values,
    stationary_optimum,
    stationary_values,
    transition_matrix,
)


def random_mdp(horizon=4, states=5, actions=3, outcomes=6, seed=0):
    """Return an MDP with more outcomes than states, so that some share a next state and differ in reward."""
    g = torch.Generator().manual_seed(seed)
    shape = (horizon, states, actions, outcomes)
    probability = torch.rand(shape, generator=g, dtype=torch.float64)
    next_state = torch.randint(states, shape, generator=g)
    reward = torch.rand(shape, generator=g, dtype=torch.float64)
    start = torch.rand(states, generator=g, dtype=torch.float64)
    return TabularMDP(start / start.sum(), next_state, probability / probability.sum(-1, keepdim=True), reward)


def random_policies(replicates=2, horizon=4, states=5, actions=3):
    g = torch.Generator().manual_seed(7)
    return torch.randn(replicates, horizon, states, actions, generator=g, dtype=torch.float64).softmax(-1)


def test_two_steps_by_hand():
    reward = torch.tensor([[[1.0, 0.0]], [[2.0, 4.0]]]).double()
    mdp = from_dense(torch.ones(1).double(), torch.ones(2, 1, 2, 1).double(), reward)
    policy = torch.tensor([[[0.5, 0.5]], [[0.25, 0.75]]]).double()
    assert_close(policy_values(mdp, policy), torch.tensor([[[4.5, 3.5]], [[2.0, 4.0]]]).double())
    assert_close(policy_values(mdp, policy, 0.5), torch.tensor([[[2.75, 1.75]], [[2.0, 4.0]]]).double())
    assert_close(optimal_values(mdp, 2), torch.tensor([[[5.0, 4.0]], [[2.0, 4.0]]]).double())
    assert expected_return(mdp, policy) == 4.0
    assert optimal_return(mdp, 2) == 5.0


def test_values_agree_with_rolling_the_state_distribution_forward():
    """Forward: d_{h+1} = d_h P^π by dense matrices. Backward: dynamic programming over outcomes. They share no code."""
    mdp, policy = random_mdp(), random_policies()
    dense = transition_matrix(mdp)
    state, total = mdp.start.expand(2, -1), torch.zeros(2).double()
    expected = []
    for h in range(4):
        expected.append(state[..., None] * policy[:, h])
        total += torch.einsum("nsa,sa->n", expected[-1], mdp.mean_reward[h])
        state = torch.einsum("nsa,sat->nt", expected[-1], dense[h])
    assert_close(occupancies(mdp, policy), torch.stack(expected, 1))
    assert_close(expected_return(mdp, policy), total)


def test_replicates_do_not_mix():
    mdp, policy = random_mdp(), random_policies()
    assert_close(policy_values(mdp, policy)[1], policy_values(mdp, policy[1]), rtol=0, atol=0)
    assert_close(occupancies(mdp, policy)[1], occupancies(mdp, policy[1]), rtol=0, atol=0)


def test_the_greedy_policy_of_the_optimal_values_reaches_them_and_no_other_does_better():
    mdp = random_mdp()
    q = optimal_values(mdp, 4, 0.9)
    assert_close(policy_values(mdp, greedy(q), 0.9), q)
    assert (policy_values(mdp, random_policies(50), 0.9) <= q + 1e-12).all()


def test_one_table_for_all_steps_is_the_table_repeated():
    short = random_mdp(horizon=1)
    long = TabularMDP(short.start, *(field.expand(4, -1, -1, -1) for field in short[1:]))
    assert_close(optimal_values(short, 4), optimal_values(long, 4), rtol=0, atol=0)
    policy = random_policies()
    assert_close(occupancies(short, policy), occupancies(long, policy), rtol=0, atol=0)


@pytest.mark.parametrize(("last", "width"), [(32_767, torch.int16), (32_768, torch.int32)])
def test_actions_are_held_as_narrowly_as_they_fit(last, width):
    held = narrow(torch.tensor([[0, last]]))
    assert (held.dtype, held.tolist()) == (width, [[0, last]])
    assert narrow(torch.zeros(0, 3, dtype=torch.int64)).dtype == torch.int16


def test_concentrability_is_the_largest_ratio_and_infinite_without_support():
    target = torch.tensor([[[0.5, 0.5], [0.0, 0.0]]]).double()
    assert concentrability(target, torch.tensor([[[0.25, 0.75], [0.0, 0.0]]]).double()) == 2.0
    assert concentrability(target, torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]).double()) == torch.inf


@pytest.mark.parametrize(
    ("field", "change", "words"),
    [
        ("start", lambda x: 2 * x, "start is no distribution"),
        ("probability", lambda x: x.clone().index_fill_(3, torch.tensor([0]), -1.0), "probability is no distribution"),
        ("next_state", lambda x: x + 3, "next states must lie in 0 … 4"),
        ("reward", lambda x: x / 0, "rewards must be finite"),
        ("reward", lambda x: x[..., :2], "they need"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(field, change, words):
    mdp = random_mdp()
    check(mdp)
    with pytest.raises(ValueError, match=words) as error:
        check(mdp._replace(**{field: change(getattr(mdp, field))}))
    assert "\n" not in str(error.value)


# --- endless tasks with a discount ------------------------------------------------------------------------------------


def test_stationary_values_by_hand():
    """Stay in a state that pays 1, or go to one that pays 2 and comes back."""
    start = torch.tensor([1.0, 0.0]).double()
    transition = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]]).double()
    mdp = from_dense(start, transition[None], torch.tensor([[[1.0, 0.0], [2.0, 2.0]]]).double())
    stay, go = torch.eye(2).double().expand(2, 2, 2).transpose(0, 1)
    assert_close(
        stationary_values(mdp, torch.stack([stay, go]), 0.5), torch.tensor([[2.0, 3.0], [4 / 3, 8 / 3]]).double()
    )
    assert_close(stationary_optimum(mdp, 0.5), torch.tensor([[2.0, 1.5], [3.0, 3.0]]).double())


@pytest.mark.parametrize("seed", range(3))
def test_stationary_values_are_the_limit_of_a_long_horizon(seed):
    mdp, g = random_mdp(horizon=1, seed=seed), torch.Generator().manual_seed(seed)
    policy = torch.randn(5, 3, generator=g, dtype=torch.float64).softmax(-1)
    long = policy.expand(300, 5, 3)
    expected = (policy * policy_values(mdp, long, 0.9)[0]).sum(-1)
    assert_close(stationary_values(mdp, policy, 0.9), expected, rtol=0, atol=1e-10)
    assert_close(stationary_optimum(mdp, 0.9), optimal_values(mdp, 300, 0.9)[0], rtol=0, atol=1e-10)


def test_equal_actions_do_not_keep_policy_iteration_going():
    mdp = random_mdp(horizon=1)
    same = mdp._replace(**{name: getattr(mdp, name)[:, :, :1].expand(-1, -1, 3, -1) for name in mdp._fields[1:]})
    assert_close(stationary_optimum(same, 0.99)[:, 0], stationary_optimum(same, 0.99)[:, 2])


def test_stationary_values_need_one_table_and_a_discount_below_one():
    policy = random_policies()[0, 0]
    with pytest.raises(ValueError, match=r"discount in \[0, 1\), got 1.0"):
        stationary_values(random_mdp(horizon=1), policy, 1.0)
    with pytest.raises(ValueError, match="one table"):
        stationary_optimum(random_mdp(horizon=4), 0.9)
