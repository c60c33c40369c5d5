"""The ring against Stable-Baselines3's buffer and against its own contract."""

from typing import NamedTuple

import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from tiny import ACT, OBS, make_batch, make_data, make_spaces
from torch.testing import assert_close

from surefoot.agents.interface import Batch
from surefoot.agents.parts.replay import FixedReplay, ImageRing, Replay, fold, join


def make_replay(capacity: int, seed: int = 0) -> Replay:
    return Replay(capacity, OBS, ACT, torch.Generator().manual_seed(seed))


def row(number: float) -> Batch:
    return Batch(
        torch.full((1, OBS), number),
        torch.full((1, ACT), number),
        torch.tensor([number]),
        torch.full((1, OBS), number + 0.5),
        torch.tensor([number % 2]),
    )


def contents(replay: Replay) -> set[float]:
    return {float(r[0]) for r in replay.rows[: len(replay)]}


@pytest.mark.parametrize("count", [2, 3, 4, 7])
@pytest.mark.parametrize("capacity", [3, 6])
def test_a_saved_ring_goes_on_in_one_of_its_size_or_larger(count, capacity):
    saved, loaded = make_replay(3), make_replay(capacity, seed=1)
    for number in range(count):
        saved.push(row(number))
    loaded.load_state_dict(saved.state_dict())
    for number in range(count, count + 2):
        loaded.push(row(number))
    kept = min(min(count, 3) + 2, capacity)
    assert len(loaded) == kept
    assert contents(loaded) == set(range(count + 2 - kept, count + 2))


@pytest.mark.parametrize("count", [3, 5, 13])
def test_holds_the_newest_rows(count):
    replay = make_replay(5)
    for number in range(count):
        replay.push(row(number))
    assert len(replay) == min(count, 5)
    assert contents(replay) == set(range(max(0, count - 5), count))


@pytest.mark.parametrize("num_envs", [1, 2, 3, 7, 12])
def test_many_rows_at_once_are_the_same_as_one_by_one(num_envs):
    together, apart = make_replay(7), make_replay(7)
    for step in range(5):
        batch = make_batch(num_envs, seed=step)
        together.push(batch)
        for i in range(num_envs):
            apart.push(Batch(*(field[i : i + 1] for field in batch)))
    assert contents(together) == contents(apart)
    assert len(together) == len(apart)
    if num_envs <= 7:
        assert_close(together.rows[: len(together)], apart.rows[: len(apart)], rtol=0, atol=0)


@pytest.mark.parametrize("count", [0, 3, 5, 8, 13])
@pytest.mark.parametrize("capacity", [1, 3, 5, 9])
def test_another_capacity_keeps_the_newest_rows_and_what_comes_after_goes_behind_them(count, capacity):
    replay = make_replay(5)
    for number in range(count):
        replay.push(row(number))
    replay.resize(capacity)
    held = list(range(max(0, count - 5), count))[-capacity:]
    assert (replay.capacity, len(replay)) == (capacity, len(held))
    assert replay.rows[: len(held), 0].tolist() == held
    for number in range(count, count + 4):
        replay.push(row(number))
    assert contents(replay) == set([*held, *range(count, count + 4)][-capacity:])


def test_never_returns_an_unwritten_row_and_reaches_every_written_one():
    replay = make_replay(100)
    replay.rows.fill_(torch.nan)
    for number in range(10):
        replay.push(row(number))
    batch = replay.sample(1000)
    assert {float(x) for x in batch.reward} == set(range(10))
    assert all(field.isfinite().all() for field in batch)


def test_fields_of_a_row_stay_together():
    replay = make_replay(50)
    for number in range(70):
        replay.push(row(number))
    batch = replay.sample(200)
    assert_close(batch.obs[:, 0], batch.reward)
    assert_close(batch.action[:, 1], batch.reward)
    assert_close(batch.next_obs[:, 2], batch.reward + 0.5)
    assert_close(batch.terminated, batch.reward % 2)


def test_same_rows_as_stable_baselines3_for_the_same_indices():
    oracle = ReplayBuffer(8, *make_spaces(), device="cpu", handle_timeout_termination=False)
    replay = make_replay(8)
    for step in range(11):
        batch = make_batch(1, seed=step)
        replay.push(batch)
        arrays = [field.numpy() for field in batch]
        oracle.add(arrays[0], arrays[3], arrays[1], arrays[2], arrays[4], [{}])
    assert oracle.pos == replay.position
    index = np.array([0, 3, 7, 2, 5])
    expected = oracle._get_samples(index)
    actual = replay.unpack(replay.rows[torch.from_numpy(index)])
    assert_close(actual.obs, expected.observations)
    assert_close(actual.action, expected.actions)
    assert_close(actual.next_obs, expected.next_observations)
    assert_close(actual.reward[:, None], expected.rewards)
    assert_close(actual.terminated[:, None], expected.dones)


def test_folded_batches_joined_part_by_part_are_the_parts_joined():
    first, second = make_batch(6, seed=0), make_batch(9, seed=1)
    for i, part in enumerate(zip(*join(fold(first, 3), fold(second, 3)), strict=True)):
        alone = join(
            Batch(*(field[2 * i : 2 * i + 2] for field in first)), Batch(*(f[3 * i : 3 * i + 3] for f in second))
        )
        assert_close(Batch(*part), alone, rtol=0, atol=0)
    assert [field.shape[:2] for field in fold(make_batch(0), 3)] == [(3, 0)] * 5


def test_state_round_trip_goes_on_with_the_same_samples():
    replay, other = make_replay(6, seed=1), make_replay(6, seed=2)
    replay.push(make_batch(9))
    replay.sample(4)
    other.load_state_dict(replay.state_dict())
    assert_close(other.sample(5), replay.sample(5), rtol=0, atol=0)
    for buffer in (replay, other):
        buffer.push(make_batch(2, seed=3))
    assert_close(other.sample(5), replay.sample(5), rtol=0, atol=0)


def test_state_holds_only_what_was_written():
    replay = make_replay(1000)
    replay.push(make_batch(3))
    assert replay.state_dict()["rows"].untyped_storage().nbytes() == 3 * replay.rows.shape[1] * 4


def test_offline_rows_are_never_overwritten():
    data = make_data(16)
    fixed = FixedReplay(data, torch.Generator().manual_seed(0))
    before = fixed.rows.clone()
    ring = make_replay(10)
    for _ in range(3 * ring.capacity):
        ring.push(make_batch(1))
    assert torch.equal(fixed.rows, before)
    with pytest.raises(TypeError, match="offline data is fixed"):
        fixed.push(make_batch(1))


def test_resuming_with_other_data_is_refused():
    first, other = (FixedReplay(make_data(16, seed), torch.Generator()) for seed in (0, 1))
    with pytest.raises(ValueError, match="not the data this run was trained on"):
        other.load_state_dict(first.state_dict())


def packed(rows):
    """Return a batch whose fields are the columns of one tensor."""
    obs, action, reward, next_obs, terminated = rows.split([3, 2, 1, 3, 1], 1)
    return Batch(obs, action, reward[:, 0], next_obs, terminated[:, 0])


def test_adjacent_columns_are_taken_as_they_are_and_others_are_copied():
    rows = torch.rand(7, 10)
    fields = packed(rows)
    fixed = FixedReplay(fields, torch.Generator())
    assert fixed.rows.data_ptr() == rows.data_ptr()
    assert_close(Batch(*fixed.everything()), fields, rtol=0, atol=0)
    others = [
        Batch(*(field.clone() for field in fields)),
        fields._replace(action=fields.action.clone()),
        fields._replace(obs=fields.next_obs, next_obs=fields.obs),
        fields._replace(reward=fields.terminated),
        packed(torch.rand(7, 12)[:, 1:11]),
    ]
    for batch in others:
        copy = FixedReplay(batch, torch.Generator())
        assert copy.rows.is_contiguous()
        assert all(copy.rows.data_ptr() != field.data_ptr() for field in batch)
        assert_close(Batch(*copy.everything()), batch, rtol=0, atol=0)


def test_the_fingerprint_is_computed_once_and_one_of_an_earlier_version_is_known_too():
    fixed = FixedReplay(packed(1e4 * torch.randn(9001, 10)), torch.Generator())
    state = fixed.state_dict()
    whole = torch.tensor([9001, fixed.rows.double().sum()], dtype=torch.float64)  # in another order
    assert float(state["fingerprint"][1]) == pytest.approx(float(whole[1]), rel=1e-9)
    fixed.load_state_dict(state | {"fingerprint": whole})
    with pytest.raises(ValueError, match="or other values"):
        fixed.load_state_dict(state | {"fingerprint": whole + torch.tensor([0, 1e-3])})
    fixed.rows = torch.empty(0)  # which another computation would see
    assert torch.equal(fixed.state_dict()["fingerprint"], state["fingerprint"])


def test_bad_capacity_and_empty_sample_say_what_to_do():
    with pytest.raises(ValueError, match="at least 1, not 0"):
        make_replay(0)
    with pytest.raises(ValueError, match="push transitions first"):
        make_replay(3).sample(1)


def test_a_million_halfcheetah_rows_fit_in_200_megabytes():
    replay = Replay(1_000_000, 17, 6, torch.Generator())
    assert replay.rows.untyped_storage().nbytes() <= 200e6


class Frames(NamedTuple):
    image: torch.Tensor
    number: torch.Tensor
    pair: torch.Tensor


def test_images_take_a_byte_a_number_and_come_back_with_the_rest():
    ring = ImageRing(Frames, [6, None, 2], ["image"], 10, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (4, 6), generator=generator).float()
    pushed = Frames(image, torch.randn(4, generator=generator), torch.randn(4, 2, generator=generator))
    ring.push(pushed)
    assert (ring.rows.dtype, ring.rows.shape) == (torch.uint8, (10, 6 + 4 + 8))
    for got, want in zip(ring.unpack(ring.rows[:4]), pushed, strict=True):
        assert_close(got, want, rtol=0, atol=0)
    assert ring.sample(7).pair.shape == (7, 2)
    other = ImageRing(Frames, [6, None, 2], ["image"], 10, torch.Generator())
    other.load_state_dict(ring.state_dict())
    assert_close(other.sample(3), ring.sample(3), rtol=0, atol=0)


def test_rows_that_no_machine_has_memory_for_are_refused_in_a_line():
    with pytest.raises(ValueError, match=r"a replay of 10,000,000,000,000 transitions needs 360,000\.0 GB of memory"):
        Replay(10**13, 3, 1, torch.Generator())
