import pickle
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from surefoot.offline_data import Transitions, read_d4rl, write_d4rl
from surefoot.offline_data.d4rl import from_d4rl_arrays, read_arrays, read_metadata


def never_crosses(data: Transitions) -> bool:
    """The hand-made observations are (episode, step): a true successor is the same episode, one step on."""
    return bool((data.next_obs == data.obs + data.obs.new_tensor([0, 1])).all())


def test_with_next_observations_all_rows_are_kept(rows, save):
    data = read_d4rl(save(rows))
    assert len(data) == 10
    assert never_crosses(data)
    assert data.terminated.nonzero().tolist() == [[2]]
    assert data.truncated.nonzero().tolist() == [[6]]
    assert data.episode_end.nonzero().tolist() == [[2], [6], [9]]
    assert data.reward.tolist() == list(range(10))


def test_without_next_observations_every_episode_end_is_left_out(rows, save):
    del rows["next_observations"]
    with pytest.warns(UserWarning, match="1 terminal rows have no successor"):
        data = read_d4rl(save(rows))
    assert data.reward.tolist() == [0, 1, 3, 4, 5, 7, 8]
    assert never_crosses(data)
    assert not data.terminated.any()
    assert data.episode_end.nonzero().tolist() == [[1], [4], [6]]


@pytest.mark.parametrize("with_next", [True, False])
def test_qlearning_view_is_d4rls_own_rows(rows, save, with_next):
    if not with_next:
        del rows["next_observations"]
    data = read_d4rl(save(rows), view="qlearning")
    assert data.reward.tolist() == [0, 1, 2, 3, 4, 5, 7, 8]  # N - 1 - time-outs
    assert data.next_obs.tolist() == rows["observations"][[1, 2, 3, 4, 5, 6, 8, 9]].tolist()
    assert data.terminated.tolist() == [0, 0, 1, 0, 0, 0, 0, 0]
    assert data.episode_end.nonzero().tolist() == [[2], [5], [7]]


@pytest.mark.parametrize(("episodes", "kept"), [(1000, 999_000), (202, 201_798)])
def test_qlearning_row_counts_of_halfcheetah(episodes, kept):
    n = 1000 * episodes
    timeouts = np.arange(1, n + 1) % 1000 == 0
    one = np.zeros((n, 1), np.float32)
    arrays = {"observations": one, "actions": one, "rewards": one, "terminals": ~timeouts & False, "timeouts": timeouts}
    assert len(from_d4rl_arrays(arrays, view="qlearning")) == kept


def test_missing_timeouts_are_counted_from_the_last_terminal(rows, save):
    del rows["timeouts"]
    data = read_d4rl(save(rows), max_episode_steps=4)
    assert data.truncated.nonzero().tolist() == [[6]]
    assert len(read_d4rl(save(rows, "b.hdf5"), view="qlearning", max_episode_steps=4)) == 8


def test_missing_timeouts_need_the_time_limit(rows, save):
    del rows["timeouts"]
    with pytest.raises(ValueError, match=r"no 'timeouts'; pass --data\.max-episode-steps"):
        read_d4rl(save(rows))


@pytest.mark.parametrize("names", ["none", "those of 4 steps", "others"])
def test_a_time_limit_takes_effect_or_is_refused_where_there_are_timeouts(rows, save, same, names):
    expected = from_d4rl_arrays(rows)
    if names == "none":
        rows["timeouts"][:] = False
        assert read_d4rl(save(rows)).episode_end.nonzero().tolist() == [[2], [9]]
    if names != "others":
        same(read_d4rl(save(rows), max_episode_steps=4), expected)
        return
    with pytest.raises(
        ValueError, match=r"hdf5: its 'timeouts' are not those of episodes of 3 steps \(first in row 5\)"
    ):
        read_d4rl(save(rows), max_episode_steps=3)


@pytest.mark.parametrize("limit", [0, -5, 10**16])
def test_a_time_limit_that_no_episode_can_have_is_refused(rows, save, limit):
    for leave_out in ("", "timeouts"):
        arrays = {name: values for name, values in rows.items() if name != leave_out}
        with pytest.raises(
            ValueError, match=f"max_episode_steps is {limit}; it must be from 1 to 1,000,000,000,000,000"
        ):
            read_d4rl(save(arrays), max_episode_steps=limit)


def test_columns_and_float_terminals_of_old_files(rows, save, same):
    plain = read_d4rl(save(rows))
    for name in ("rewards", "terminals", "timeouts"):
        rows[name] = rows[name].astype(np.float32)[:, None]
    same(read_d4rl(save(rows, "old.hdf5")), plain)


def test_nested_groups_are_passed_over(rows, save, same):
    extra = {"infos/qpos": np.zeros((10, 9)), "infos/action_log_probs": np.zeros((10, 1))}
    policy = {"metadata/algorithm": np.bytes_("SAC"), "metadata/iteration": np.int32(3)}
    path = save(rows | extra | policy | {"metadata/policy/fc0/weight": np.zeros((4, 4))})
    same(read_d4rl(path), from_d4rl_arrays(rows))
    assert read_metadata(path) == {"algorithm": "SAC", "iteration": "3"}


def test_next_observations_made_by_shifting_are_refused(rows, save):
    rows["next_observations"] = np.roll(rows["observations"], -1, axis=0)
    with pytest.raises(ValueError, match="next episode's first observation at all 2 episode ends"):
        read_d4rl(save(rows))
    assert len(read_d4rl(save(rows, "b.hdf5"), view="qlearning")) == 8


@pytest.mark.parametrize("end", [2, 6])
def test_next_observations_that_cross_some_episode_ends_are_warned_of(rows, save, end):
    """At a terminal, as of rows that were read by the view qlearning, or at a time-out after which the task went on."""
    rows["next_observations"][end] = rows["observations"][end + 1]
    with pytest.warns(
        UserWarning, match=rf"hdf5: .* at 1 of 2 episode ends \(first in row {end}\); where these are not"
    ):
        data = read_d4rl(save(rows))
    assert data.next_obs.tolist() == rows["next_observations"].tolist()


def test_episodes_that_all_end_where_every_episode_begins_are_warned_of(rows, save):
    for begin, end in ((3, 2), (7, 6)):
        rows["observations"][begin] = rows["observations"][0]
        rows["next_observations"][end] = rows["observations"][0]
    with pytest.warns(UserWarning, match=r"at 2 of 2 episode ends \(first in row 2\); where these are not"):
        assert len(read_d4rl(save(rows))) == 10


def test_true_successors_are_not_warned_of(rows, save, recwarn):
    rows["next_observations"][2, 0] = rows["observations"][3, 0]  # equal in one coordinate of two
    read_d4rl(save(rows))
    rows["next_observations"][-1] = rows["observations"][0]  # after which there is no episode
    read_d4rl(save(rows, "b.hdf5"))
    assert not recwarn


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": None}, "missing actions; found next_observations, observations, rewards, terminals, timeouts"),
        ({"rewards": np.zeros(9)}, "differ in length.*rewards 9"),
        ({"observations": np.full((10, 2), np.nan)}, "obs holds 20 NaN or infinite values, the first in row 0"),
        ({"terminals": np.full(10, 0.5)}, "'terminals' must be .* of 0 and 1, row 0 holds 0.5"),
        ({"terminals": np.full(10, np.nan)}, "'terminals' must be .* of 0 and 1"),
        ({"actions": [b"x"] * 10}, "'actions' must be a plain array of numbers, found dtype"),
        ({"actions": None, "actions/left": np.zeros(10)}, "'actions' must be a plain array of numbers, found a group"),
        (
            {key: np.zeros((0, 1)) for key in ("observations", "actions", "rewards", "terminals")},
            "differ|no transitions",
        ),
    ],
)
def test_sick_files_are_refused(rows, save, change, message):
    arrays = {name: values for name, values in (rows | change).items() if values is not None}
    with pytest.raises(ValueError, match=message):
        read_d4rl(save(arrays))


def test_empty_file_is_refused(rows, save):
    with pytest.raises(ValueError, match="no transitions"):
        read_d4rl(save({name: values[:0] for name, values in rows.items()}))


def test_one_row_without_successor_is_refused(rows, save):
    del rows["next_observations"]
    with pytest.raises(ValueError, match="no transitions"):
        read_d4rl(save({name: values[:1] for name, values in rows.items()}))


def test_files_that_are_not_hdf5_say_what_they_are(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_d4rl(tmp_path / "none.hdf5")
    page = tmp_path / "page.hdf5"
    page.write_text("\n<!DOCTYPE html><html>404</html>")
    with pytest.raises(ValueError, match="this is a web page"):
        read_d4rl(page)
    junk = tmp_path / "junk.hdf5"
    junk.write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(ValueError, match="not an HDF5 file"):
        read_d4rl(junk)


def test_a_truncated_file_says_so(data, tmp_path):
    path = tmp_path / "data.hdf5"
    write_d4rl(path, data)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="truncated or damaged"):
        read_d4rl(path)


def test_a_pickle_named_as_data_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "data.hdf5"
    path.write_bytes(pickle.dumps({"observations": [1]}))
    monkeypatch.setattr(pickle, "loads", lambda *_: pytest.fail("unpickled"))
    monkeypatch.setattr(pickle, "load", lambda *_: pytest.fail("unpickled"))
    with pytest.raises(ValueError, match="not an HDF5 file"):
        read_d4rl(path)


def test_writing_and_reading_loses_nothing(data, tmp_path, same):
    write_d4rl(tmp_path / "data.hdf5", data, {"seed": 3, "who": "ünï"})
    same(read_d4rl(tmp_path / "data.hdf5"), data)
    assert read_metadata(tmp_path / "data.hdf5") == {"seed": "3", "who": "ünï"}


def test_a_file_without_successors_is_read_without_the_last_rows(rows, save, tmp_path):
    rows["timeouts"] |= rows["terminals"]
    rows["terminals"][:] = False  # a terminal row without its successor is a warning
    data = read_d4rl(save(rows))
    write_d4rl(tmp_path / "half.hdf5", data, successors=False)
    assert "next_observations" not in read_arrays(tmp_path / "half.hdf5")
    half = read_d4rl(tmp_path / "half.hdf5")
    kept = data.rows((~data.episode_end).nonzero()[:, 0])
    for name in ("obs", "action", "reward", "next_obs", "episode_end"):
        assert bool((getattr(half, name) == getattr(kept, name)).all()), name


def test_written_files_have_d4rls_layout(data, rows, tmp_path):
    write_d4rl(tmp_path / "data.hdf5", data, {"seed": 3})
    for name, values in read_arrays(tmp_path / "data.hdf5").items():
        np.testing.assert_array_equal(values, rows[name])
        assert values.dtype == rows[name].dtype, name
    with h5py.File(tmp_path / "data.hdf5") as file:
        assert set(file) == {*rows, "metadata"}
        assert all(file[name].compression == "gzip" and file[name].shuffle for name in rows)
        assert file["metadata/seed"].dtype.kind == "S"


def test_an_episode_cut_inside_the_file_is_written_as_a_time_out(rows, tmp_path):
    rows["timeouts"] = np.zeros(10, bool)
    cut = Transitions.from_arrays(
        obs=rows["observations"],
        action=rows["actions"],
        reward=rows["rewards"],
        next_obs=rows["next_observations"],
        terminated=rows["terminals"],
        episode_end=np.arange(10) == 6,
    )
    write_d4rl(tmp_path / "data.hdf5", cut)
    stored = read_arrays(tmp_path / "data.hdf5")
    assert np.flatnonzero(stored["timeouts"]).tolist() == [6]
    assert not (stored["timeouts"] & stored["terminals"]).any()


def test_a_time_out_at_the_very_end_of_the_file_is_written_as_one(rows, tmp_path):
    rows["timeouts"][-1] = True
    write_d4rl(tmp_path / "data.hdf5", from_d4rl_arrays(rows))
    assert np.flatnonzero(read_arrays(tmp_path / "data.hdf5")["timeouts"]).tolist() == [6, 9]


def test_an_existing_file_is_kept_unless_forced(data, tmp_path):
    path = tmp_path / "data.hdf5"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="--force"):
        write_d4rl(path, data)
    assert path.read_text() == "mine"
    write_d4rl(path, data, force=True)
    assert len(read_d4rl(path)) == 10


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is a Linux device")
def test_a_full_disk_is_one_line(data, tmp_path, monkeypatch):
    def write_bytes(_, content):
        with open("/dev/full", "wb", buffering=0) as full:
            full.write(content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(
        OSError, match=r"data\.hdf5: cannot be written \(No space left on device\); nothing was changed"
    ):
        write_d4rl(tmp_path / "data.hdf5", data)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_one_line(data, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"data\.hdf5: cannot be written \((Not a directory|File exists)\)"):
        write_d4rl(tmp_path / "file" / "data.hdf5", data)


def test_a_failed_write_leaves_the_old_file_and_no_litter(data, tmp_path):
    path = tmp_path / "data.hdf5"
    path.write_text("mine")

    class Unprintable:
        def __str__(self):
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_d4rl(path, data, {"x": Unprintable()}, force=True)
    assert [item.name for item in tmp_path.iterdir()] == ["data.hdf5"]
    assert path.read_text() == "mine"


@pytest.mark.parametrize("last", [True, False])
def test_the_last_row_has_the_time_out_that_it_has_whatever_the_others_have(last, data, tmp_path):
    truncated = torch.zeros_like(data.truncated)
    truncated[1], truncated[-1] = not last, last
    end = torch.zeros_like(data.episode_end)
    end[[1, -1]] = True
    changed = replace(data, truncated=truncated, episode_end=end, terminated=torch.zeros_like(data.terminated))
    write_d4rl(tmp_path / "data.hdf5", changed)
    with h5py.File(tmp_path / "data.hdf5") as file:
        assert file["timeouts"][[1, 9]].tolist() == [True, last]
