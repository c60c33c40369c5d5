import numpy as np
import pytest
import torch

from surefoot.offline_data import Transitions


def arrays(n=6):
    return {
        "obs": np.arange(2 * n, dtype=np.float64).reshape(n, 2),
        "action": np.zeros((n, 1)),
        "reward": np.arange(n),
        "next_obs": np.ones((n, 2)),
        "terminated": np.arange(n) == 2,
    }


def test_fields_are_float32_with_flags_as_booleans():
    data = Transitions.from_arrays(**arrays(), truncated=np.arange(6) == 4)
    assert {data.obs.dtype, data.action.dtype, data.reward.dtype, data.terminated.dtype} == {torch.float32}
    assert {data.truncated.dtype, data.episode_end.dtype} == {torch.bool}
    assert data.terminated.tolist() == [0, 0, 1, 0, 0, 0]
    assert data.episode_end.tolist() == [False, False, True, False, True, True]
    assert len(data) == 6


def test_columns_are_squeezed_and_a_row_with_both_flags_is_terminated():
    columns = arrays() | {"reward": np.arange(6.0)[:, None], "terminated": (np.arange(6) == 2).astype(float)[:, None]}
    data = Transitions.from_arrays(**columns, truncated=np.arange(6) == 2)
    assert data.reward.shape == data.terminated.shape == (6,)
    assert not data.truncated.any()


def test_episode_returns_and_lengths_include_the_cut_episode():
    data = Transitions.from_arrays(**arrays(), truncated=np.arange(6) == 4)
    assert data.episode_returns().tolist() == [0 + 1 + 2, 3 + 4, 5]
    assert data.episode_lengths().tolist() == [3, 2, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": np.zeros(5)}, "differ in length: obs 6, action 6, reward 5"),
        ({"obs": np.zeros(6)}, r"obs must have shape \(N, D\), got \(6,\)"),
        ({"reward": np.zeros((6, 2))}, r"reward must have shape \(N,\)"),
        ({"next_obs": np.zeros((6, 3))}, "differ in shape"),
        ({"terminated": np.full(6, 0.5)}, "terminated must be 0 or 1, but row 0 holds 0.5"),
        ({"action": np.array([["a"]] * 6)}, "action must hold numbers"),
        ({"action": np.array([[object()]] * 6)}, "action must hold numbers"),
        ({"obs": np.where(np.arange(12).reshape(6, 2) == 7, np.nan, 0)}, "obs holds 1 NaN or infinite values.* row 3"),
        ({"reward": np.full(6, 1e300)}, "reward holds 6 NaN or infinite"),
    ],
)
def test_wrong_arrays_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        Transitions.from_arrays(**arrays() | change, source="here")


def test_nothing_is_refused():
    with pytest.raises(ValueError, match="no transitions"):
        Transitions.from_arrays(**arrays(0))


def test_subsample_is_uniform_without_replacement_and_repeatable():
    data = Transitions.from_arrays(**arrays(1000) | {"terminated": np.arange(1000) % 10 == 9})
    half = data.subsample(0.5, torch.Generator().manual_seed(1))
    again = data.subsample(0.5, torch.Generator().manual_seed(1))
    torch.testing.assert_close(half.obs, again.obs, rtol=0, atol=0)
    assert len(half) == len(half.reward.unique()) == 500
    assert half.reward.diff().gt(0).all()
    assert abs(half.reward.mean() - 499.5) < 50  # 5.4 standard deviations
    assert not torch.equal(half.obs, data.subsample(0.5, torch.Generator().manual_seed(2)).obs)
    assert data.subsample(1.0, torch.Generator()) is data


def test_subsample_never_joins_episodes():
    data = Transitions.from_arrays(**arrays(1000) | {"terminated": np.arange(1000) % 10 == 9})
    few = data.subsample(0.3, torch.Generator().manual_seed(0))
    episode = few.reward.div(10, rounding_mode="floor")
    assert few.episode_end.tolist() == [*(episode[1:] != episode[:-1]).tolist(), True]


@pytest.mark.parametrize("fraction", [0.0, -1.0, 1.5])
def test_fraction_out_of_range_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction must be in"):
        Transitions.from_arrays(**arrays()).subsample(fraction, torch.Generator())


def test_moving_keeps_every_field():
    moved = Transitions.from_arrays(**arrays(), source="x").to("meta")
    assert moved.obs.device.type == moved.episode_end.device.type == "meta"
    assert moved.source == "x"
