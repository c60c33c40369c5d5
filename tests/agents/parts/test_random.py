"""Owned generators: SplitMix64 against its published numbers, streams apart, ranges and spreads."""

import zlib

import numpy as np
import pytest
import torch

from surefoot.agents.parts.random import _GOLDEN, ReplicateUniforms, _mix, make_generator, normal, uniform

# The first numbers of SplitMix64 from the seed 1234567 (Vigna's splitmix64.c).
PUBLISHED = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]


def wrapped(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


def test_the_hash_is_splitmix64():
    states = torch.tensor([wrapped(1234567 + i * _GOLDEN) for i in range(1, 6)])
    assert _mix(states).tolist() == [wrapped(number) for number in PUBLISHED]


def test_a_replicate_draws_the_hash_of_its_key_and_the_draw_by_53_bits():
    for seed in range(8):
        uniforms = ReplicateUniforms(seed, "arms", 4)
        start = int(torch.randint(2**62, (), generator=make_generator(seed, "arms")))
        assert uniforms.keys.tolist() == _mix(_mix(torch.arange(4) + start)).tolist()
    for draw in range(1, 30):
        hashed = [_mix(torch.tensor([wrapped(key + draw * _GOLDEN)])).item() % 2**64 for key in uniforms.keys.tolist()]
        assert uniforms.next().tolist() == [(one >> 11) / 2**53 for one in hashed]
    fresh = ReplicateUniforms(0, "other", 4)
    fresh.load_state_dict(uniforms.state_dict())
    assert torch.equal(fresh.next(), uniforms.next())
    assert uniforms.state_dict()["keys"] is not uniforms.keys


def test_a_stream_belongs_to_its_seed_and_its_name():
    expected = np.random.SeedSequence([5, zlib.crc32(b"replay")]).generate_state(1, np.uint64)[0]
    assert make_generator(5, "replay").initial_seed() == int(expected) >> 1
    seeds = {make_generator(seed, name).initial_seed() for seed in range(20) for name in ("replay", "networks", "x")}
    assert len(seeds) == 60


def test_uniform_numbers_fill_both_signs_and_normal_ones_have_their_shapes():
    drawn = uniform(make_generator(0, "actions"), (20_000, 2))
    assert drawn.shape == (20_000, 2)
    assert -1 <= drawn.min() < -0.999
    assert 0.999 < drawn.max() <= 1
    assert drawn.mean(0).abs().max() < 0.02
    one, other = normal(make_generator(0, "noise"), (3, 4000), (2,))
    assert (one.shape, other.shape) == ((3, 4000), (2,))
    assert abs(float(one.std()) - 1) < 0.02
    assert torch.equal(one, torch.randn(3, 4000, generator=make_generator(0, "noise")))


def test_normal_numbers_of_a_replicate_are_box_and_mullers_of_two_uniform_ones_each():
    one, other = ReplicateUniforms(0, "noise", 3), ReplicateUniforms(0, "noise", 3)
    drawn, pairs = one.normals(4000), torch.stack([other.next() for _ in range(8000)], 1).unflatten(1, (4000, 2))
    by_hand = np.sqrt(-2 * np.log(1 - pairs[..., 0].numpy())) * np.cos(2 * np.pi * pairs[..., 1].numpy())
    np.testing.assert_allclose(drawn, by_hand, rtol=1e-12, atol=1e-12)
    assert float(drawn.mean()) == pytest.approx(0, abs=0.03)
    assert float(drawn.std()) == pytest.approx(1, abs=0.03)
    assert torch.equal(one.next(), other.next())
