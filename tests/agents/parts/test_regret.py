"""Regret of replicates: its sums by hand, at the rounds that are kept, and across a saved state."""

import torch

from surefoot.agents.parts.regret import Regret, curve_rounds


def test_the_rounds_are_24_a_decade_up_to_a_billion():
    rounds = curve_rounds()
    assert rounds[:13] == [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    assert rounds[-1] == 10**9
    for low in range(2, 9):  # a decade is (10^low, 10^(low + 1)]
        within = [one for one in rounds if 10**low < one <= 10 ** (low + 1)]
        assert len(within) == 24
        assert within[11] == round(10 ** (low + 0.5))


def test_regret_grows_by_the_gap_of_every_round_and_realised_regret_by_what_was_not_earned():
    regret, gap = Regret(2.0, 2, torch.device("cpu")), torch.tensor([0.5, 1.0]).double()
    assert (regret.t, regret.realised.tolist(), regret.trace()[0]) == (0, [0.0, 0.0], [])
    regret.add(gap, 1, torch.tensor([1.5, 0.0]).double())
    regret.add(2 * gap, 20, torch.tensor([30.0, 10.0]).double())
    assert regret.t == 21
    assert regret.total.tolist() == [20.5, 41.0]
    assert regret.realised.tolist() == [42 - 31.5, 42 - 10.0]
    rounds, curve = regret.trace()
    assert rounds == [one for one in curve_rounds() if one < 21] + [21]
    assert curve[:, 0].tolist() == [0.5 + (one - 1) for one in rounds]  # linear within an action
    assert curve[:, 1].tolist() == [1.0 + 2 * (one - 1) for one in rounds]


def test_now_is_in_the_curve_once_and_a_saved_state_goes_on():
    regret, fresh = (Regret(1.0, 1, torch.device("cpu")) for _ in range(2))
    regret.add(torch.ones(1).double(), 10, torch.zeros(1).double())
    rounds, curve = regret.trace()
    assert rounds == list(range(1, 11))  # 10 is one of the rounds already
    assert curve[-1].item() == 10.0
    fresh.load_state_dict(regret.state_dict())
    for one in (regret, fresh):
        one.add(torch.ones(1).double(), 3, torch.zeros(1).double())
    assert regret.trace()[0] == fresh.trace()[0] == list(range(1, 14))
    assert torch.equal(regret.trace()[1], fresh.trace()[1])
    assert regret.realised.item() == 13.0
