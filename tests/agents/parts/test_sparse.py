"""Sparse tables: the same numbers as dense ones, what is checked, and whether every policy ends."""

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from surefoot.agents.parts import sparse, tabular
from surefoot.agents.parts.sparse import Rows, SparseMDP


def random_table(seed=0, states=6, actions=3):
    """Return a table of one step in which a third of the transitions cannot happen; state 5 is ended."""
    g = torch.Generator().manual_seed(seed)
    shape = (1, states, actions, 4)
    probability = torch.rand(shape, generator=g, dtype=torch.float64)
    probability[..., 1] = 0.0
    after = torch.randint(states, shape, generator=g)
    reward = torch.randint(-2, 3, shape, generator=g).double()
    after[0, 5], reward[0, 5] = 5, 0.0
    start = torch.rand(states, generator=g, dtype=torch.float64)
    return tabular.TabularMDP(start / start.sum(), after, probability / probability.sum(-1, keepdim=True), reward)


def backup(mdp):
    return sparse.backup_of(mdp.steps[0], mdp.actions)


def chain(*probabilities_of_ending, reward=1.0):
    """State 0 ends, in state 1, with these chances, one per action; else it stays."""
    pairs = [
        (a, after, p) for a, end in enumerate(probabilities_of_ending) for after, p in ((1, end), (0, 1 - end)) if p
    ]
    many = len(probabilities_of_ending)
    pairs += [(many + a, 1, 1.0) for a in range(many)]
    pair, after, probability = (np.array(side) for side in zip(*pairs, strict=True))
    rows = Rows(pair, after, probability.astype(float), np.where(pair < many, reward, 0.0))
    return SparseMDP(np.array([1.0, 0.0]), many, (rows,))


def test_a_backup_is_the_dense_one_and_equal_actions_are_one_choice():
    table = random_table()
    mdp = sparse.from_tabular(table)
    b, following = backup(mdp), torch.rand(6, dtype=torch.float64)
    expected = tabular.backup(table, 0, following, 0.9)
    worth = (b.matrix @ (b.reward + 0.9 * following.numpy()[b.after]))[b.of_pair].reshape(6, 3)
    assert_close(torch.from_numpy(worth), expected)
    assert_close(torch.from_numpy(b.best(b.matrix @ (b.reward + 0.9 * following.numpy()[b.after]))), expected.amax(-1))
    assert (b.state == 5).sum() == 1
    assert b.action[b.first[5]] == 0


def test_there_and_back_nothing_is_lost():
    mdp = sparse.from_tabular(random_table())
    again = sparse.from_tabular(sparse.to_tabular(mdp))
    for one, other in zip(mdp.steps[0], again.steps[0], strict=True):
        np.testing.assert_array_equal(one, other)
    assert sparse.table_bytes(mdp) == 24 * 6 * 3 * 3


@pytest.mark.parametrize("seed", range(3))
def test_stationary_values_and_optimum_are_the_dense_ones(seed):
    table = random_table(seed)
    mdp = sparse.from_tabular(table)
    b, over, policy = backup(mdp), sparse.ended(mdp), np.array([0, 2, 1, 1, 0, 0])
    assert over.tolist() == [False] * 5 + [True]
    acting = torch.nn.functional.one_hot(torch.from_numpy(policy), 3).double()
    expected = tabular.stationary_values(table, acting, 0.9).numpy()
    for given in (policy, acting.numpy()):
        np.testing.assert_allclose(sparse.policy_values(b, sparse.weights_of(b, given), over, 0.9), expected)
    best = sparse.stationary_optimum(b, over, 0.9)
    np.testing.assert_allclose(best.values, tabular.stationary_optimum(table, 0.9).amax(-1).numpy())
    assert best.residual < 1e-12


def test_a_large_system_is_solved_as_a_sparse_one(monkeypatch):
    mdp = sparse.from_tabular(random_table())
    b, over = backup(mdp), sparse.ended(mdp)
    dense = sparse.stationary_optimum(b, over, 0.9).values
    monkeypatch.setattr(sparse, "DENSE_STATES", 0)
    np.testing.assert_allclose(sparse.stationary_optimum(b, over, 0.9).values, dense)


# --- does every policy end? -------------------------------------------------------------------------------------------


def stuck(mdp):
    return sparse.endless([backup(mdp)], sparse.ended(mdp), mdp.start).tolist()


def test_one_action_that_never_ends_is_seen_and_a_chance_of_ending_is_enough():
    assert stuck(chain(0.5, 0.0)) == [True, False]
    assert stuck(chain(0.5, 1e-6)) == [False, False]
    mdp = chain(0.5, 0.0)
    with pytest.raises(ValueError, match=r"go on for ever in state 0 \(1 such states\).*add --horizon"):
        sparse.require_ending([backup(mdp)], sparse.ended(mdp), mdp.start)


def test_a_circle_of_states_is_endless_only_where_it_can_be_reached():
    """0 → end; 1 ⇄ 2 for ever, which no start leads to."""
    rows = Rows(np.arange(4), np.array([3, 2, 1, 3]), np.ones(4), np.zeros(4))
    mdp = SparseMDP(np.array([1.0, 0, 0, 0]), 1, (rows,))
    assert stuck(mdp) == [False] * 4
    assert stuck(mdp._replace(start=np.array([0.5, 0.5, 0, 0]))) == [False, True, True, False]


def test_nature_that_chooses_a_model_everywhere_can_keep_what_no_model_keeps():
    """Model a goes 0 → 1, 1 → end; model b 0 → end, 1 → 0: mixed, 0 → 1 → 0."""
    start, over = np.array([1.0, 0, 0]), np.array([False, False, True])
    one, other = (
        sparse.backup_of(Rows(np.arange(3), np.array(after), np.ones(3), np.zeros(3)), 1)
        for after in ([1, 2, 2], [2, 0, 2])
    )
    assert not sparse.endless([one], over, start).any()
    assert not sparse.endless([other], over, start).any()
    assert sparse.endless([one, other], over, start).tolist() == [True, True, False]


def test_the_bound_of_a_total_holds_and_is_near():
    """Ending with chance 0.01 per step at the least: 100 steps, of cost 3."""
    mdp = chain(0.5, 0.01, reward=3.0)
    b = backup(mdp)
    total = sparse.worst_totals([b], [b.matrix @ np.abs(b.reward)], sparse.ended(mdp))
    assert 300 <= total[0] <= 300 * (1 + 1e-6)
    assert total[1] == 0


# --- what is checked --------------------------------------------------------------------------------------------------


def changed(mdp, **fields):
    return mdp._replace(steps=(mdp.steps[0]._replace(**fields),))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m._replace(start=2 * m.start), "start probabilities must be at least 0 and sum to 1; they sum to 2"),
        (lambda m: changed(m, after=m.steps[0].after + 4), "next states must lie in 0 … 1, one is 5"),
        (lambda m: changed(m, reward=m.steps[0].reward * np.nan), "state 0, action 0: the reward is nan"),
        (lambda m: changed(m, probability=-m.steps[0].probability), "state 0, action 0: a probability is -0.5"),
        (
            lambda m: changed(m, probability=m.steps[0].probability * np.where(m.steps[0].pair == 1, 0.9, 1)),
            r"state 0, action 1: the probabilities sum to 0.9, not 1 \(1 of 4 pairs are wrong\)",
        ),
    ],
)
def test_a_wrong_table_is_refused_with_the_place(change, words):
    mdp = chain(0.5, 0.25)
    sparse.check(mdp)
    with pytest.raises(ValueError, match=words) as error:
        sparse.check(change(mdp))
    assert "\n" not in str(error.value)


def test_terminal_states_are_ended_whatever_their_rows_say():
    rows = Rows(np.arange(3), np.array([1, 2, 0]), np.ones(3), np.array([1.0, 5.0, 5.0]))
    mdp = sparse.absorb(SparseMDP(np.array([1.0, 0, 0]), 1, (rows,)), np.array([False, True, False]))
    assert sparse.ended(mdp).tolist() == [False, True, False]
    assert mdp.steps[0].after.tolist() == [1, 1, 0]
    assert mdp.steps[0].reward.tolist() == [1, 0, 5]
