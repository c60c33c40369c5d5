"""Statistics out of a pickle: the right numbers, and no file that makes anything happen."""

import pickle
import sys
import tracemalloc

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from old_archives import Trap, old_statistics
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from surefoot.evaluation.policies import vecnormalize
from surefoot.evaluation.policies.vecnormalize import read_normalizer

MEAN, VARIANCE = np.array([0.5, -1.0, 3.0]), np.array([4.0, 0.25, 0.0])


def library_file(path):
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]), clip_obs=1.5)
    env.seed(0)
    env.reset()
    for _ in range(30):
        env.step(np.array([[1.0]]))
    env.save(str(path))
    return env


def test_observations_are_those_of_the_library(tmp_path):
    env = library_file(tmp_path / "v.pkl")
    obs = np.random.default_rng(0).normal(0, 5, (50, 3)).astype(np.float32)
    ours = read_normalizer(tmp_path / "v.pkl")(torch.from_numpy(obs))
    np.testing.assert_array_equal(ours.numpy(), env.normalize_obs(obs).astype(np.float32))
    assert ours.abs().max() == 1.5  # some were clipped


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_file_of_another_age_is_read_without_its_library(tmp_path, protocol):
    (tmp_path / "v.pkl").write_bytes(old_statistics(MEAN, VARIANCE, protocol))
    read = read_normalizer(tmp_path / "v.pkl")
    np.testing.assert_array_equal(read.mean, MEAN)
    np.testing.assert_array_equal(read.variance, VARIANCE)
    assert (read.epsilon, read.clip) == (1e-8, 10.0)


def test_rewards_alone_leave_observations_as_they_are(tmp_path):
    (tmp_path / "v.pkl").write_bytes(old_statistics(MEAN, VARIANCE, norm_obs=False))
    assert read_normalizer(tmp_path / "v.pkl") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (old_statistics(MEAN, VARIANCE)[:-30], "no statistics of VecNormalize: damaged"),
        (b"<html>", "no statistics of VecNormalize"),
        (pickle.dumps({"obs_rms": None}), "holds something else"),
        (old_statistics(MEAN, VARIANCE[:2]), r"of shapes \(3,\) and \(2,\)"),
        (old_statistics(np.array([np.nan]), np.array([1.0])), "cannot be statistics"),
        (old_statistics(MEAN, -VARIANCE), "cannot be statistics"),
        (old_statistics(np.zeros((2, 2)), np.ones((2, 2))), "are vectors"),
        (old_statistics(MEAN, VARIANCE, clip_obs="ten"), "a str in place of a number"),
    ],
)
def test_a_bad_file_is_one_line(tmp_path, content, message):
    (tmp_path / "v.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_normalizer(tmp_path / "v.pkl")
    assert "\n" not in str(caught.value)
    assert str(tmp_path / "v.pkl") in str(caught.value)


def test_a_trap_in_the_state_is_named_and_not_sprung(tmp_path):
    (tmp_path / "v.pkl").write_bytes(old_statistics(MEAN, VARIANCE, further=Trap(tmp_path / "sprung")))
    with pytest.raises(ValueError, match=r"refused: it mentions '(_)?io\.open' at byte \d+"):
        read_normalizer(tmp_path / "v.pkl")
    assert not (tmp_path / "sprung").exists()
    with pytest.raises(ModuleNotFoundError):  # the real unpickler does import
        pickle.loads(old_statistics(MEAN, VARIANCE).replace(b"gym.spaces", b"gxm.spaces"))


def test_an_array_is_no_larger_than_its_bytes(tmp_path):
    content = old_statistics(MEAN, VARIANCE, protocol=2)
    small = pickle.dumps((3,), 2)[2:-1].split(b"q")[0]
    assert content.count(small) >= 2
    (tmp_path / "v.pkl").write_bytes(content.replace(small, b"J\xff\xff\xff\x7f\x85"))
    with pytest.raises(ValueError, match="shape and bytes do not agree"):
        read_normalizer(tmp_path / "v.pkl")


def opcode_streams():
    """Pickles that nobody would write: bytes that are mostly opcodes, with small and large arguments."""
    codes = b"(.012IJKMLNTUVXabcdegqhrjlost}Rpu])" + bytes(range(0x80, 0x97))
    pieces = [bytes([code]) for code in codes]
    pieces += [b"cos\nsystem\n", b"r\xff\xff\xff\x7f", b"\x8b\xff\xff\xff\x7f"]
    pieces += [code + b"\xff" * 7 + b"\x0f" for code in (b"\x8e", b"\x8d", b"\x96", b"\x95")]
    pieces += [b"cnumpy\ndtype\n", b"\x8c\x05numpy\x8c\x05dtype\x93", b"K\x01", b"\x85", b"X\x03\x00\x00\x00abc"]
    return st.lists(st.sampled_from(pieces), max_size=40).map(b"".join)


def mutated(content):
    places = st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), min_size=1, max_size=6)

    def mutate(changes):
        changed = bytearray(content)
        for place, value in changes:
            changed[place] = value
        return bytes(changed)

    return places.map(mutate)


ANY_FILE = st.one_of(
    mutated(old_statistics(MEAN, VARIANCE)),
    mutated(old_statistics(MEAN, VARIANCE, protocol=2)),
    st.tuples(st.integers(0, 900), opcode_streams()).map(lambda cut: old_statistics(MEAN, VARIANCE)[: cut[0]] + cut[1]),
    st.binary(max_size=200),
)


@settings(max_examples=120, deadline=None, derandomize=True)
@given(content=ANY_FILE)
def test_no_file_calls_imports_or_takes_more_than_its_size(content):
    path, before = Memory(content), set(sys.modules)
    tracemalloc.start()
    try:
        read_normalizer(path)
    except ValueError as error:
        refusal = str(error)
    else:
        refusal = ""
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "\n" not in refusal
    assert set(sys.modules) == before
    assert peak < 200_000 + 400 * len(content)


class Memory:
    """A path whose file is in memory."""

    def __init__(self, content):
        self.read_bytes, self.is_file = (lambda: content), (lambda: True)
        self.stat = lambda: type("Stat", (), {"st_size": len(content)})

    def __str__(self):
        return "v.pkl"


def test_a_file_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(vecnormalize, "LARGEST_FILE", 10)
    (tmp_path / "v.pkl").write_bytes(old_statistics(MEAN, VARIANCE))
    with pytest.raises(ValueError, match="take no more than 10"):
        read_normalizer(tmp_path / "v.pkl")
