"""Scaling by mean and spread, by hand."""

import torch
from torch.testing import assert_close

from surefoot.agents.parts.normaliser import Normaliser


def test_it_is_the_identity_until_it_is_fitted():
    x = torch.tensor([[1.5, -2.0]])
    assert_close(Normaliser(2)(x), x)


def test_fitted_it_takes_the_rows_to_mean_0_and_spread_1_and_a_constant_to_its_floor():
    normaliser, x = Normaliser(2), torch.tensor([[1.0, 4.0], [3.0, 4.0], [5.0, 4.0]])
    normaliser.fit(x, floor=0.5)
    assert_close(normaliser.mean, torch.tensor([3.0, 4.0]))
    assert_close(normaliser.std, torch.tensor([(8 / 3) ** 0.5, 0.5]))
    assert_close(normaliser(torch.tensor([[5.0, 5.0]])), torch.tensor([[2 / (8 / 3) ** 0.5, 2.0]]))
    normaliser.fit(x)
    assert_close(normaliser.std[1], torch.tensor(1e-3))
