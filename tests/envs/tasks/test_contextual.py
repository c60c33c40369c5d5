"""Contextual bandits: contexts, losses, replicates, data sets and files. docs/derivations/neural_bandits.md §9."""

import gzip
import math

import numpy as np
import pytest
import torch

from surefoot.envs import ContextualBandit
from surefoot.envs.tasks.classification import by_column, load_classes, make_classes
from surefoot.envs.tasks.contextual import PROBLEMS


def rollout(env, rounds, arm=0):
    """Return observations, rewards and gaps of playing one arm."""
    found = []
    for _ in range(rounds):
        actions = torch.full((env.num_envs,), arm)
        obs = env._state[0]
        _, reward, terminated, truncated, info = env.step(actions)
        assert not bool((terminated | truncated).any())
        found.append((obs, reward, info["gap"], info["best_mean_reward"]))
    return [torch.stack(values) for values in zip(*found, strict=True)]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_losses_have_the_mean_of_the_problem_and_the_gap_is_to_the_best(problem):
    env = ContextualBandit(400, problem=problem, arms=3, features=4)
    env.reset(seed=0)
    obs, reward, gap, best = rollout(env, 64)
    x = obs.unflatten(-1, (3, 4)).double().numpy()
    w = np.stack([unit(env._stream(i, 0).standard_normal(4)) for i in range(400)])
    u = np.einsum("tnkd,nd->tnk", x, w)
    mean = PROBLEMS[problem].mean_loss(u)
    np.testing.assert_allclose(gap, mean[..., 0] - mean.min(-1), atol=1e-6)
    np.testing.assert_allclose(best, 1 - mean.min(-1), atol=1e-6)
    assert ((reward == 0) | (reward == 1)).all()
    error = float((reward - (best - gap)).mean())
    assert abs(error) < 4 * 0.5 / math.sqrt(reward.numel())
    if problem == "logistic":
        assert x.std() == pytest.approx(1.5 / 2, rel=0.01)
        np.testing.assert_allclose(mean, 1 / (1 + np.exp(-3 * u)))
    else:
        np.testing.assert_allclose(np.linalg.norm(x, axis=-1), 1, atol=1e-6)


def unit(z):
    return z / np.linalg.norm(z)


def data_file(tmp_path, rows=10):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "own.npz", x=np.column_stack([np.arange(rows), rng.random(rows)]), y=np.arange(rows) % 3)
    return str(tmp_path / "own.npz")


def test_data_are_played_in_an_order_of_each_replicates_own_and_anew_in_every_pass(tmp_path):
    env = ContextualBandit(3, data=data_file(tmp_path))
    classes = load_classes(data_file(tmp_path))
    env.reset(seed=1)
    obs, reward, gap, best = rollout(env, 200, arm=1)
    keys = [tuple(row) for row in classes.features.tolist()]
    rows = np.array([[keys.index(tuple(one)) for one in step.tolist()] for step in obs])
    for lap in rows.reshape(20, 10, 3):
        assert (np.sort(lap, 0) == np.arange(10)[:, None]).all()
    assert (rows[:10] != rows[10:20]).any(0).all()
    assert (rows[:10, 0] != rows[:10, 1]).any()
    right = classes.labels[rows] == 1
    np.testing.assert_array_equal(reward, right.astype(float))
    np.testing.assert_array_equal(gap, 1 - right)
    assert (best == 1).all()


@pytest.mark.parametrize("data", [True, False])
def test_replicates_depend_on_seed_and_number_alone_and_a_state_brings_them_back(tmp_path, data):
    kwargs = {"data": data_file(tmp_path)} if data else {"arms": 3, "features": 2}
    few, many = ContextualBandit(2, **kwargs), ContextualBandit(5, **kwargs)
    for env in (few, many):
        env.reset(seed=4)
    for a, b in zip(rollout(few, 70), rollout(many, 70), strict=True):
        torch.testing.assert_close(a, b[:, :2], rtol=0, atol=0)
    again = ContextualBandit(2, **kwargs)
    again.reset(seed=9)
    other = rollout(again, 3)
    for rounds in (57, 1, 63):  # at 127 and 128 rounds a block ends, and begins
        again.load_state_dict(few.state_dict())
        expected = rollout(few, rounds)
        for a, b in zip(rollout(again, rounds), expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)
    few.reset(seed=5)
    assert not torch.equal(rollout(few, 3)[0], other[0])


def test_a_time_limit_ends_episodes_and_nothing_else(tmp_path):
    endless, short = (ContextualBandit(2, arms=3, features=2, max_episode_steps=n) for n in (None, 4))
    seen = []
    for env in (endless, short):
        env.reset(seed=0)
        seen.append(torch.stack([env.step(torch.zeros(2, dtype=torch.int64))[0] for _ in range(9)]))
    torch.testing.assert_close(*seen, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "rows", "features", "arms"),
    [("digits", 1797, 64, 10), ("wine", 178, 13, 3), ("breast-cancer", 569, 30, 2), ("iris", 150, 4, 3)],
)
def test_packaged_data_are_there(name, rows, features, arms):
    pytest.importorskip("sklearn")
    found = load_classes(name)
    assert (found.features.shape, len(found.names)) == ((rows, features), arms)
    np.testing.assert_allclose(np.linalg.norm(found.features, axis=1), 1, rtol=1e-6)
    assert found.features.min() >= 0
    assert sorted(np.unique(found.labels)) == list(range(arms))
    env = ContextualBandit(2, data=name)
    assert (env.arms, env.features, env.shared) == (arms, features, True)


def test_columns_are_scaled_and_missing_numbers_marked(tmp_path):
    scaled = by_column(np.array([[1.0, 5, np.nan], [3, 5, 2], [2, 5, 4]]))
    np.testing.assert_allclose(scaled, [[0, 0, -1], [1, 0, 0], [0.5, 0, 1]])
    path = tmp_path / "own.csv"
    path.write_text("size,colour,kind\n1,red,yes\n3,?,no\n2,blue,yes\n?,red,no\n")
    found = load_classes(str(path))
    raw = np.array([[0, 0, 1], [1, -1, -1], [0.5, 1, 0], [-1, 0, 1]])  # size, blue, red
    np.testing.assert_allclose(found.features, raw / np.linalg.norm(raw, axis=1, keepdims=True), rtol=1e-6)
    assert (found.names, found.labels.tolist()) == (("no", "yes"), [1, 0, 1, 0])
    first = load_classes(str(path), label_column=1)
    assert first.names == ("?", "blue", "red")


@pytest.mark.parametrize("cell", ["inf", "-inf", "1e999"])
def test_a_number_that_is_infinite_is_refused_and_not_taken_for_missing(tmp_path, cell):
    path = tmp_path / "own.csv"
    path.write_text(f"1,yes\n2,no\n{cell},yes\n3,no\n")
    with pytest.raises(ValueError, match="row 2 has a feature that is not finite"):
        load_classes(str(path))
    np.savez(tmp_path / "own.npz", x=[[1.0], [2.0], [float(cell)], [3.0]], y=[1, 0, 1, 0])
    with pytest.raises(ValueError, match="row 2 has a feature that is not finite"):
        load_classes(str(tmp_path / "own.npz"))


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("?,x\n1,y\n2,x\n3,y\n", 4),  # a row without a number, not a header
        (",x\n1,y\n2,x\n3,y\n", 4),
        ("?,red,x\n1,red,y\n2,?,x\n", 3),
        ("?,x\nsize,kind\n1,x\n2,y\n", 4),  # words among numbers below: a column of words
        ("size,kind\n1,y\n2,x\n", 2),
        (",colour,kind\n0,red,y\n1,red,x\n", 2),  # a header whose first column has no name
        ("red,x\nblue,y\n", 2),  # words alone
        ("size,kind\n1,0\n2,1\n", 2),
    ],
)
def test_a_first_row_is_a_header_only_where_it_is_no_row_of_data(tmp_path, text, rows):
    path = tmp_path / "own.csv"
    path.write_text(text)
    assert len(load_classes(str(path)).labels) == rows


def idx(path, array):
    head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    raw = head + array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return str(path)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_images_in_the_format_of_mnist_are_read(tmp_path, suffix):
    pixels = np.arange(1, 25).reshape(4, 3, 2)
    images = idx(tmp_path / f"images-idx3-ubyte{suffix}", pixels)
    labels = idx(tmp_path / f"labels-idx1-ubyte{suffix}", np.array([7, 1, 7, 3]))
    found = load_classes(images, labels)
    flat = pixels.reshape(4, 6)
    np.testing.assert_allclose(found.features, flat / np.linalg.norm(flat, axis=1, keepdims=True), rtol=1e-6)
    assert (found.names, found.labels.tolist()) == (("1", "3", "7"), [2, 0, 2, 1])


def test_files_that_are_none_are_refused_in_a_line(tmp_path):
    cut = tmp_path / "cut-idx"
    idx(cut, np.ones((4, 3)))
    cut.write_bytes(cut.read_bytes()[:-1])
    good = idx(tmp_path / "labels", np.arange(4))
    pickled, ragged = tmp_path / "code.npz", tmp_path / "ragged.csv"
    np.savez(pickled, x=np.array([{}], dtype=object), y=np.array([1]))
    ragged.write_text("1,2\n1,2,3\n")
    text = tmp_path / "notes.txt"
    text.write_text("hello")
    cases = {
        "nothing-here": ("no such data set; give one of digits", None),
        str(cut): ("it is cut off or damaged", good),
        str(text): ("not an IDX file", good),
        str(ragged): (r"rows of \[2, 3\] cells", None),
        str(pickled): ("allow_pickle|pickle", None),
    }
    for data, (message, labels) in cases.items():
        with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
            load_classes(data, labels)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="labels FILE"):
        load_classes(good)
    with pytest.raises(ValueError, match="1 class"):
        make_classes(np.ones((3, 2)), np.zeros(3), "here")
    with pytest.raises(ValueError, match="row 1 has a feature that is not finite"):
        make_classes(np.array([[1.0], [np.inf]]), np.arange(2), "here")
    with pytest.raises(ValueError, match="unknown problem 'sine'"):
        ContextualBandit(1, problem="sine")
    with pytest.raises(ValueError, match=r"1 arm\(s\)"):
        ContextualBandit(1, arms=1)
