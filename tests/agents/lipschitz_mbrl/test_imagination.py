"""Rollouts of a model: the schedule and the capacity by hand, and what is pushed, dropped and continued from.

Exact answer E15 of docs/derivations/lipschitz_mbrl.md.
"""

import dataclasses

import pytest
import torch
from tiny import ACT, OBS, make_batch, make_setting
from torch.testing import assert_close

from surefoot.agents.interface import Batch
from surefoot.agents.lipschitz_mbrl.dynamics import DynamicsConfig
from surefoot.agents.lipschitz_mbrl.dynamics_training import DynamicsModel
from surefoot.agents.lipschitz_mbrl.imagination import (
    IMAGINATION_RANGES,
    Imagination,
    ImaginationConfig,
    is_lost,
    model_capacity,
    plausible_bounds,
    rollout_length,
)
from surefoot.agents.parts.networks import TanhGaussianPolicy
from surefoot.agents.parts.replay import Replay

STARTS = 40
CONFIG = ImaginationConfig(rollout_starts=STARTS, rollout_schedule=(0, 4, 1, 5), epoch_length=20, model_interval=10)


def beyond_one(obs, action, next_obs):
    return next_obs[:, 0] > 1.0


def never(obs, action, next_obs):
    return torch.zeros(len(next_obs), dtype=torch.bool)


def make_imagination(config=CONFIG, termination=never, seed=0) -> Imagination:
    return Imagination(config, dataclasses.replace(make_setting(seed), termination=termination), OBS, ACT)


def make_real(rows=30, seed=0) -> Replay:
    real = Replay(100, OBS, ACT, torch.Generator().manual_seed(seed))
    batch = make_batch(rows, seed)
    real.push(batch._replace(obs=batch.obs.clamp(max=0.9)))
    return real


def make_policy(seed=0) -> TanhGaussianPolicy:
    return TanhGaussianPolicy(OBS, ACT, (8,), generator=torch.Generator().manual_seed(seed))


class Drift:
    """s' = s + 0.1·(a, 0) + (0.3, 0, 0), reward s₀; the rows that `lose` names come out spoilt."""

    def __init__(self, lose=lambda obs: torch.zeros(len(obs), dtype=torch.bool), spoilt=torch.nan):
        self.lose, self.spoilt = lose, spoilt

    def predict(self, obs, action, generator):
        next_obs = obs + 0.1 * torch.nn.functional.pad(action, (0, OBS - ACT))
        next_obs[:, 0] += 0.3
        next_obs[self.lose(obs), 1] = self.spoilt
        return obs[:, 0], next_obs


def in_order(replay: Replay) -> torch.Tensor:
    """The packed rows, oldest first."""
    return replay.rows.roll(-replay.position, 0) if len(replay) == replay.capacity else replay.rows[: len(replay)]


def imagined(imagination: Imagination) -> Batch:
    return imagination.replay.unpack(in_order(imagination.replay))


# --- the schedule -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "lengths"),
    [
        ((20, 150, 1, 15), {0: 1, 20: 1, 29: 1, 30: 2, 85: 8, 149: 14, 150: 15, 400: 15}),  # Hopper
        ((20, 100, 1, 25), {20: 1, 60: 13, 100: 25, 101: 25}),  # Ant
        ((20, 300, 1, 25), {160: 13, 300: 25, 1000: 25}),  # Humanoid
        ((20, 150, 1, 1), {0: 1, 80: 1, 200: 1}),  # constant
        ((0, 4, 1, 5), {0: 1, 1: 2, 2: 3, 3: 4, 4: 5, 5: 5}),
    ],
)
def test_the_rollout_length_of_an_epoch(schedule, lengths):
    assert {epoch: rollout_length(epoch, schedule) for epoch in lengths} == lengths


def test_the_capacity_is_that_of_the_retained_epochs():
    default = ImaginationConfig()
    assert model_capacity(1, default) == 400_000
    assert model_capacity(15, default) == 6_000_000
    humanoid = dataclasses.replace(default, model_interval=1000, retain_epochs=5)
    assert model_capacity(25, humanoid) == 12_500_000
    assert model_capacity(1, dataclasses.replace(default, epoch_length=250)) == 100_000
    assert model_capacity(1, dataclasses.replace(default, rollout_starts=10, epoch_length=1)) == 1


def test_a_longer_rollout_makes_room_and_keeps_every_row():
    imagination, real = make_imagination(), make_real()
    for _ in range(5):  # 5·40 rows into 80: only the last two calls stay
        imagination.roll_out(make_policy(), Drift(), real)
    before = in_order(imagination.replay).clone()
    assert len(before) == 80
    imagination.begin_epoch(1)
    assert (imagination.length, imagination.replay.capacity) == (2, 160)
    assert_close(in_order(imagination.replay), before, rtol=0, atol=0)
    imagination.roll_out(make_policy(), Drift(), real)
    assert len(imagination.replay) == 160
    assert_close(in_order(imagination.replay)[:80], before, rtol=0, atol=0)
    imagination.roll_out(make_policy(), Drift(), real)
    assert len(imagination.replay) == 160
    assert not any(torch.equal(row, before[0]) for row in in_order(imagination.replay))


def test_less_room_keeps_the_newest_rows():
    imagination = make_imagination()
    for epoch in (3, 3):
        imagination.begin_epoch(epoch)
        imagination.roll_out(make_policy(), Drift(), make_real())
    newest = in_order(imagination.replay)[-80:].clone()
    imagination.begin_epoch(0)
    assert_close(in_order(imagination.replay), newest, rtol=0, atol=0)


def test_the_same_length_does_not_touch_the_replay():
    imagination = make_imagination()
    rows = imagination.replay.rows
    imagination.begin_epoch(0)
    assert imagination.replay.rows is rows


# --- one call ---------------------------------------------------------------------------------------------------------


def test_what_is_pushed_is_one_consistent_step():
    imagination, real = make_imagination(termination=beyond_one), make_real()
    metrics = imagination.roll_out(make_policy(), Drift(), real)
    rows = imagined(imagination)
    assert len(rows.obs) == metrics["rollout_rows"] == STARTS
    assert_close(rows.reward, rows.obs[:, 0])
    assert_close(rows.next_obs[:, 0], rows.obs[:, 0] + 0.1 * rows.action[:, 0] + 0.3)
    assert_close(rows.terminated, (rows.next_obs[:, 0] > 1.0).float())
    assert 0 < rows.terminated.sum() < STARTS
    known = real.unpack(real.rows[:30]).obs
    assert all((known == obs).all(1).any() for obs in rows.obs)  # starts are states that were visited
    assert len(rows.obs.unique(dim=0)) < STARTS  # with replacement
    assert rows.action.abs().max() < 1
    assert len(rows.action.unique(dim=0)) == STARTS  # sampled


def test_a_rollout_goes_on_from_its_successor_until_it_ends():
    imagination, real = make_imagination(termination=beyond_one), make_real()
    imagination.begin_epoch(9)
    metrics = imagination.roll_out(make_policy(), Drift(), real)
    rows = imagined(imagination)
    assert (rows.obs[:, 0] <= 1.0).all()  # no transition starts in a terminal state
    assert len(rows.obs) == metrics["rollout_rows"] < 5 * STARTS
    alive = STARTS
    for _ in range(4):
        part, rows = Batch(*(f[:alive] for f in rows)), Batch(*(f[alive:] for f in rows))
        going_on = part.next_obs[part.terminated == 0]
        assert_close(rows.obs[: len(going_on)], going_on)
        alive = len(going_on)
    assert len(rows.obs) == alive
    assert_close(metrics["rollout_mean_length"], metrics["rollout_rows"] / STARTS)


def test_the_length_of_a_rollout_ends_nothing():
    imagination = make_imagination()
    imagination.begin_epoch(9)
    imagination.roll_out(make_policy(), Drift(), make_real())
    rows = imagined(imagination)
    assert len(rows.obs) == 5 * STARTS
    assert rows.terminated.sum() == 0


def test_when_every_rollout_has_ended_the_call_is_over():
    imagination = make_imagination(termination=lambda obs, action, next_obs: torch.ones(len(obs), dtype=torch.bool))
    imagination.begin_epoch(9)
    metrics = imagination.roll_out(make_policy(), Drift(), make_real())
    assert metrics["rollout_rows"] == STARTS
    assert metrics["rollout_ended"] == 1.0


@pytest.mark.parametrize("spoilt", [torch.nan, torch.inf, 1e6])
def test_lost_rows_are_dropped_counted_and_not_gone_on_from(spoilt):
    imagination, real = make_imagination(), make_real()
    imagination.begin_epoch(1)
    metrics = imagination.roll_out(make_policy(), Drift(lambda obs: obs[:, 2] > 0, spoilt), real)
    rows = imagined(imagination)
    lost = int(metrics["rollout_dropped"])
    assert 0 < lost < STARTS
    assert (rows.obs[:, 2] <= 0).all()
    assert rows.next_obs.isfinite().all()
    assert len(rows.obs) == metrics["rollout_rows"] == 2 * (STARTS - lost)


def test_a_model_that_is_lost_everywhere_pushes_nothing():
    imagination = make_imagination()
    imagination.begin_epoch(9)
    metrics = imagination.roll_out(make_policy(), Drift(lambda obs: obs[:, 0] < 99), make_real())
    assert metrics["rollout_dropped"] == STARTS
    assert metrics["rollout_rows"] == len(imagination.replay) == 0


def test_the_box_is_ten_times_the_range_of_all_states_seen():
    rows = make_batch(2)._replace(
        obs=torch.tensor([[0.0, 5.0, -1.0], [1.0, 5.0, 2.0]]), next_obs=torch.tensor([[2.0, 5.0, 0.0], [0.0, 5.0, 3.0]])
    )
    bounds = plausible_bounds(rows, 10.0)
    assert_close(bounds.middle, torch.tensor([1.0, 5.0, 1.0]))
    assert_close(bounds.half, torch.tensor([10.0, 10.0, 20.0]))  # what never varies counts as ±1
    at = torch.tensor([[11.0, 5, 1], [11.1, 5, 1], [1, 14.9, 1], [1, 15.1, 1], [1, 5, -19.1], [torch.nan, 5, 1]])
    reward = torch.zeros(6)
    assert is_lost(reward, at, bounds).tolist() == [False, True, False, True, True, True]
    assert is_lost(torch.tensor([torch.inf]), at[:1], bounds).tolist() == [True]


# --- state and settings -----------------------------------------------------------------------------------------------


def test_a_restored_imagination_goes_on_bit_for_bit_also_where_it_grew():
    straight, real, policy = make_imagination(), make_real(), make_policy()
    for epoch in range(3):
        straight.begin_epoch(epoch)
        straight.roll_out(policy, Drift(), real)
    restored = make_imagination(seed=4)
    restored.load_state_dict(straight.state_dict())
    for imagination in (straight, restored):
        imagination.roll_out(policy, Drift(), real)
    assert restored.replay.capacity == straight.replay.capacity == 240
    assert_close(imagined(restored), imagined(straight), rtol=0, atol=0)
    assert_close(restored.replay.sample(9), straight.replay.sample(9), rtol=0, atol=0)


def test_rollouts_of_a_learned_model_are_finite_and_draw_from_their_own_generator():
    config = DynamicsConfig(
        ensemble_size=3, elites=2, model_output="gaussian", model_hidden=(8,), model_decay=(0.0, 0.0)
    )
    model = DynamicsModel(dataclasses.replace(config, model_epochs=3), make_setting(), OBS, ACT)
    real, policy = make_real(), make_policy()
    model.train(real.unpack(real.rows[:30]))
    trained, sampled = model.generator.get_state(), real.generator.get_state()
    imagination = make_imagination()
    imagination.begin_epoch(2)
    imagination.roll_out(policy, model, real)
    assert imagined(imagination).next_obs.isfinite().all()
    assert torch.equal(model.generator.get_state(), trained)
    assert torch.equal(real.generator.get_state(), sampled)


def test_no_rule_of_termination_is_an_error():
    with pytest.raises(ValueError, match="needs `termination`"):
        make_imagination(termination=None)


def test_every_setting_has_a_range():
    names = {field.name for field in dataclasses.fields(ImaginationConfig)}
    assert names == set(IMAGINATION_RANGES)
    assert all(holds(getattr(ImaginationConfig(), name)) for name, (holds, _) in IMAGINATION_RANGES.items())
    holds, _ = IMAGINATION_RANGES["rollout_schedule"]
    assert not any(map(holds, [(20, 20, 1, 1), (-1, 5, 1, 1), (0, 1, 0, 1), (0, 1, 5, 4)]))
    assert not IMAGINATION_RANGES["runaway_factor"][0](0.5)
