import gymnasium as gym
import numpy as np
import pytest

from surefoot.offline_data import DataConfig, load, load_for, sources, write_d4rl

OBSERVATIONS = gym.spaces.Box(-np.inf, np.inf, (2,))
ACTIONS = gym.spaces.Box(-1, 1, (1,))


def prepare(path, **options):
    return load_for(DataConfig(str(path), **options), OBSERVATIONS, ACTIONS, seed=0)


def test_a_file_is_loaded_whole(rows, save, data, same):
    same(prepare(save(rows)), data)


def test_every_option_reaches_the_reader(rows, save):
    del rows["timeouts"], rows["next_observations"]
    path = save(rows)
    assert len(prepare(path, view="qlearning", max_episode_steps=4)) == 8
    assert len(prepare(path, view="qlearning", max_episode_steps=4, fraction=0.5)) == 4


def test_an_option_that_has_no_effect_is_refused(rows, save, data, tmp_path):
    path, numbers = save(rows), gym.spaces.Discrete(2)
    assert len(load_for(DataConfig(str(path), clip_actions=True), OBSERVATIONS, ACTIONS, seed=0)) == 10
    zeros = DataConfig(str(save(rows | {"actions": np.zeros((10, 1))}, "zeros.hdf5")), clip_actions=True)
    for space in (numbers, gym.spaces.Box(-np.inf, np.inf, (1,))):
        with pytest.raises(ValueError, match=r"--data\.clip-actions has no effect on actions"):
            load_for(zeros, OBSERVATIONS, space, seed=0)
    for options in ({"view": "qlearning"}, {"max_episode_steps": 5}):
        with pytest.raises(ValueError, match="are for D4RL files alone; leave them out"):
            load(tmp_path, **options)


def test_the_sample_depends_on_the_seed_alone(rows, save):
    config, spaces = DataConfig(str(save(rows)), fraction=0.5), (OBSERVATIONS, ACTIONS)
    draws = [load_for(config, *spaces, seed=seed).reward.tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_samples_are_found_by_name(data, tmp_path, monkeypatch, same):
    monkeypatch.setattr(sources, "_samples", lambda: tmp_path)
    with pytest.raises(ValueError, match="unknown sample 'toy'; packaged are: none"):
        load("sample:toy")
    write_d4rl(tmp_path / "toy.hdf5", data)
    same(load("sample:toy"), data)
    assert load("sample:toy").source == "sample:toy"


def test_other_dimensions_name_both_shapes(rows, save):
    with pytest.raises(ValueError, match=r"observations \(2,\) and actions \(1,\).* has \(17,\) and \(6,\)"):
        load_for(DataConfig(str(save(rows))), gym.spaces.Box(-1, 1, (17,)), gym.spaces.Box(-1, 1, (6,)), seed=0)


@pytest.mark.parametrize(("row", "action"), [(1, 0.5), (3, 1), (4, 5), (2, -2)])
def test_actions_that_are_no_numbers_of_a_discrete_space_name_the_first_row(rows, save, row, action):
    """Numbers 2 to 4: between two of them, below and above."""
    numbers = np.full_like(rows["actions"], 2)
    numbers[5:] = 4
    config, space = DataConfig(str(save(rows | {"actions": numbers}))), gym.spaces.Discrete(3, start=2)
    assert len(load_for(config, OBSERVATIONS, space, seed=0)) == 10
    numbers[[row, 9]] = action
    config = DataConfig(str(save(rows | {"actions": numbers}, "wrong.hdf5")))
    with pytest.raises(ValueError, match=rf"the action of row {row} is {action:g}, but .* has actions 2 to 4"):
        load_for(config, OBSERVATIONS, space, seed=0)


def test_without_a_source_an_example_is_given():
    with pytest.raises(ValueError, match=r"no data given; set --data\.source"):
        load_for(DataConfig(), OBSERVATIONS, ACTIONS, seed=0)


def test_missing_file_and_unknown_name():
    with pytest.raises(FileNotFoundError, match="no such file"):
        load("nowhere.hdf5")
    with pytest.raises(ValueError, match="unknown D4RL data set 'halfcheetah'"):
        load("d4rl:halfcheetah")


def test_actions_out_of_bounds_are_refused_or_clipped_when_told(rows, save):
    rows["actions"] = rows["actions"] * 3
    path = save(rows)
    with pytest.raises(ValueError, match=r"6 of 10 actions leave \[-1, 1\], the worst by 2 \(row 0: \[-3.0\]\).*clip"):
        prepare(path)
    clipped = prepare(path, clip_actions=True).action
    np.testing.assert_array_equal(clipped, np.clip(rows["actions"], -1, 1))


def test_rounding_of_actions_is_clipped_without_asking(rows, save):
    rows["actions"] = rows["actions"] * np.float32(1.0005)
    assert prepare(save(rows)).action.abs().max() == 1


def test_values_that_are_not_finite_are_refused(rows, save):
    rows["rewards"][3] = np.nan
    with pytest.raises(ValueError, match="reward holds 1 NaN or infinite values, the first in row 3"):
        prepare(save(rows))


def time_aware(width, count=2):
    low, high = np.full(width + 1, -np.inf, np.float32), np.full(width + 1, np.inf, np.float32)
    low[-1] = 0
    return gym.spaces.Box(low, high), gym.spaces.Box(-1, 1, (1,), np.float32)


def test_steps_are_counted_where_only_the_task_shows_them(rows, save, data):
    loaded = load_for(DataConfig(source=str(save(rows))), *time_aware(2), seed=0)
    np.testing.assert_array_equal(loaded.obs[:, -1], [0, 1, 2, 0, 1, 2, 3, 0, 1, 2])
    np.testing.assert_array_equal(loaded.next_obs[:, -1], loaded.obs[:, -1] + 1)
    np.testing.assert_array_equal(loaded.obs[:, :2], data.obs)


def test_steps_are_not_added_where_the_data_have_as_many_coordinates_as_the_task(rows, save):
    rows["observations"][:, -1], rows["next_observations"][:, -1] = 3.0, 4.0
    loaded = load_for(DataConfig(source=str(save(rows))), *time_aware(1), seed=0)
    np.testing.assert_array_equal(loaded.obs, rows["observations"])


def test_steps_are_not_counted_over_missing_rows_or_for_another_space(rows, save):
    holes = {name: np.delete(values, 4, axis=0) for name, values in rows.items()}
    with pytest.raises(ValueError, match=r"cannot be counted for --env.time-aware: rows are missing after row 3"):
        load_for(DataConfig(source=str(save(holes))), *time_aware(2), seed=0)
    wide = gym.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    with pytest.raises(ValueError, match="choose data recorded in this task"):
        load_for(DataConfig(source=str(save(rows))), wide, time_aware(2)[1], seed=0)
