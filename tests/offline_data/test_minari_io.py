import builtins
import json
from dataclasses import replace
from types import SimpleNamespace

import gymnasium as gym
import minari
import numpy as np
import pytest
import torch
from leftovers import leave_half_a_file
from minari.data_collector import EpisodeBuffer

from surefoot.offline_data import DataConfig, load, load_for, read_minari, write_minari
from surefoot.offline_data.minari_io import local_ids, minari_metadata, open_minari, reference_scores

FORMATS = ("hdf5", "arrow", "parquet")


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    return tmp_path / "store"


def test_what_a_killed_process_left_in_the_store_goes_with_the_next_set(data, store):
    store.mkdir()
    left = leave_half_a_file(store / "new", "folder")
    (left / "half").write_bytes(b"gigabytes")
    write_minari("toy/line/ours-v0", data)
    assert [path.name for path in store.iterdir() if path.name.startswith(".")] == []
    assert local_ids() == ["toy/line/ours-v0"]


def made_by_minari(data_format="hdf5", *, bound=1.0, **extra):
    """Return a set written by Minari alone: two episodes of float64 observations (episode, step)."""
    episodes = [
        EpisodeBuffer(
            observations=np.stack([np.full(n + 1, float(e)), np.arange(n + 1.0)], axis=1),
            actions=np.full((n, 1), bound / 2, np.float32),
            rewards=np.arange(n, dtype=np.float64),
            terminations=np.arange(n) == (n - 1 if e == 0 else -1),
            truncations=np.arange(n) == (n - 1 if e == 1 else -1),
        )
        for e, n in enumerate((3, 4))
    ]
    return minari.create_dataset_from_buffers(
        "toy/line/plain-v0",
        episodes,
        observation_space=gym.spaces.Box(-np.inf, np.inf, (2,), np.float64),
        action_space=gym.spaces.Box(-bound, bound, (1,), np.float32),
        data_format=data_format,
        **extra,
    )


pytestmark = pytest.mark.filterwarnings("ignore:.*None.*:UserWarning")


@pytest.mark.parametrize("data_format", FORMATS)
def test_discrete_actions_stay_numbers_and_must_fit_the_task(data_format):
    """A set as Minari records it from a task like CartPole: int64 actions without an axis of their own."""
    actions = np.array([0, 2, 1, 2])
    episode = EpisodeBuffer(
        observations=np.arange(10, dtype=np.float32).reshape(5, 2),
        actions=actions,
        rewards=np.ones(4),
        terminations=np.arange(4) == 3,
        truncations=np.zeros(4, bool),
    )
    spaces = {"observation_space": gym.spaces.Box(-np.inf, np.inf, (2,)), "action_space": gym.spaces.Discrete(3)}
    minari.create_dataset_from_buffers("toy/poles/plain-v0", [episode], **spaces, data_format=data_format)
    config = DataConfig("minari:toy/poles/plain-v0")
    data = load_for(config, *spaces.values(), seed=0)
    assert data.action.tolist() == [[0.0], [2.0], [1.0], [2.0]]
    with pytest.raises(ValueError, match="the action of row 1 is 2, but the environment has actions 0 to 1"):
        load_for(config, spaces["observation_space"], gym.spaces.Discrete(2), seed=0)


@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("largest", [1, 4])
def test_numbers_of_actions_are_written_as_such(data, data_format, largest, same):
    numbers = replace(data, action=(torch.arange(10.0) % (largest + 1))[:, None])
    write_minari("toy/poles/ours-v0", numbers, data_format=data_format)
    written = minari.load_dataset("toy/poles/ours-v0")
    assert written.action_space == gym.spaces.Discrete(largest + 1)
    assert all(action in written.action_space for episode in written.iterate_episodes() for action in episode.actions)
    same(load("minari:toy/poles/ours-v0"), numbers)
    known = gym.spaces.Discrete(9)  # of which not every action was taken
    write_minari("toy/poles/known-v0", numbers, action_space=known, data_format=data_format)
    assert open_minari("toy/poles/known-v0").action_space == known
    same(load("minari:toy/poles/known-v0"), numbers)
    with pytest.raises(ValueError, match=rf"actions are not all among the numbers 0 to {largest - 1} of Discrete"):
        write_minari("toy/poles/small-v0", numbers, action_space=gym.spaces.Discrete(largest))
    with pytest.raises(ValueError, match="actions are not all among the numbers 0 to 8 of Discrete"):
        write_minari("toy/poles/broken-v0", data, action_space=known)
    assert local_ids() == ["toy/poles/known-v0", "toy/poles/ours-v0"]


@pytest.mark.parametrize(
    ("largest", "written"), [(1.0, 1.0), (1.0000001, 1.0), (1.0009, 1.0), (1.0011, None), (2.5, None)]
)
def test_actions_that_rounding_took_out_of_bounds_are_clipped_and_others_refused(data, largest, written):
    for sign in (1, -1):
        action = torch.linspace(-0.5, 0.5, 10)[:, None]
        action[3] = sign * largest
        changed = replace(data, action=action.clone())
        if written is None:
            with pytest.raises(ValueError, match=rf"actions reach {largest:g}; only numbers of actions and continuous"):
                write_minari("toy/line/round-v0", changed)
            continue
        write_minari("toy/line/round-v0", changed, force=True)
        assert open_minari("toy/line/round-v0").action_space == gym.spaces.Box(-1, 1, (1,), np.float32)
        assert torch.equal(read_minari("toy/line/round-v0").action, action.clamp(-1, 1))
        assert torch.equal(changed.action, action)  # what was given stays as it is


def test_zeros_are_written_as_continuous_actions(data):
    write_minari("toy/line/still-v0", replace(data, action=torch.zeros(10, 1)))
    assert open_minari("toy/line/still-v0").action_space == gym.spaces.Box(-1, 1, (1,), np.float32)


@pytest.mark.parametrize("data_format", FORMATS)
def test_sets_written_by_minari_are_read_without_crossing(data_format, store):
    dataset = made_by_minari(data_format)
    for source in (dataset, "toy/line/plain-v0", store / "toy/line/plain-v0", store / "toy/line/plain-v0/data"):
        data = read_minari(source)
        assert len(data) == 7
        assert (data.next_obs == data.obs + data.obs.new_tensor([0, 1])).all()
        assert data.terminated.nonzero().tolist() == [[2]]
        assert data.truncated.nonzero().tolist() == [[6]]
        assert data.episode_end.nonzero().tolist() == [[2], [6]]
        assert data.episode_returns().tolist() == [3, 6]
        assert data.obs.dtype == torch.float32


@pytest.mark.parametrize("data_format", FORMATS)
def test_writing_and_reading_loses_nothing(data, data_format, same):
    write_minari("toy/line/ours-v0", data, data_format=data_format)
    same(load("minari:toy/line/ours-v0"), data)


@pytest.mark.parametrize("data_format", FORMATS)
def test_minaris_own_api_reads_what_we_write(data, data_format):
    write_minari("toy/line/ours-v0", data, {"description": "by hand"}, data_format=data_format)
    dataset = minari.load_dataset("toy/line/ours-v0")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 10)
    assert list(minari.list_local_datasets()) == ["toy/line/ours-v0"] == local_ids()
    assert dataset.storage.metadata["data_format"] == data_format
    assert dataset.storage.metadata["description"] == "by hand"
    for number, episode in enumerate(dataset.iterate_episodes()):
        steps = len(episode.rewards)
        expected = np.stack([np.full(steps + 1, number), np.arange(steps + 1)], axis=1)
        np.testing.assert_array_equal(episode.observations, expected)
        assert all(action in dataset.action_space for action in episode.actions)
        assert episode.terminations.tolist() == [False] * (steps - 1) + [number == 0]
        assert episode.truncations.tolist() == [False] * (steps - 1) + [number == 1]


def test_actions_in_other_bounds_are_scaled_by_their_space():
    np.testing.assert_array_equal(read_minari(made_by_minari(bound=2.0)).action, np.full((7, 1), 0.5, np.float32))


def test_scores_are_the_sets_own_or_none():
    assert reference_scores(made_by_minari()) is None
    dataset = made_by_minari_again(ref_min_score=-5.0, ref_max_score=20.0)
    assert reference_scores(dataset) == (-5.0, 20.0)


def made_by_minari_again(**scores):
    dataset = minari.load_dataset("toy/line/plain-v0")
    dataset.storage.update_metadata(scores)
    return dataset


def test_unknown_id_lists_the_local_ones(data):
    with pytest.raises(FileNotFoundError, match="there are: none"):
        load("minari:mujoco/halfcheetah/medium-v0")
    write_minari("toy/line/ours-v0", data)
    with pytest.raises(FileNotFoundError, match=r"halfcheetah/medium-v9.*there are: toy/line/ours-v0"):
        load("minari:mujoco/halfcheetah/medium-v9")


def test_a_folder_that_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Minari data set"):
        load(str(tmp_path))


def test_spaces_are_never_learnt_by_building_the_environment(data, store):
    path = write_minari("toy/line/ours-v0", data) / "data" / "metadata.json"
    metadata = json.loads(path.read_text())
    del metadata["action_space"]
    path.write_text(json.dumps(metadata | {"env_spec": '{"id": "Evil-v0", "entry_point": "os:system"}'}))
    with pytest.raises(ValueError, match="does not state observation_space and action_space"):
        open_minari("toy/line/ours-v0")


def test_other_than_flat_boxes_are_refused():
    episode = EpisodeBuffer(
        observations=np.zeros((3, 2)),
        actions=np.zeros((2, 2), np.int64),
        rewards=np.zeros(2),
        terminations=np.zeros(2, bool),
        truncations=np.zeros(2, bool),
    )
    dataset = minari.create_dataset_from_buffers(
        "toy/discrete-v0",
        [episode],
        observation_space=gym.spaces.Box(-1, 1, (2,), np.float64),
        action_space=gym.spaces.MultiDiscrete([3, 3]),
    )
    with pytest.raises(ValueError, match="actions are MultiDiscrete"):
        read_minari(dataset)


def test_inconsistent_successors_are_refused_with_their_row(data):
    next_obs = data.next_obs.clone()
    next_obs[4] += 1
    with pytest.raises(ValueError, match=r"in 1 rows inside an episode .*first in row 4"):
        write_minari("toy/line/ours-v0", replace(data, next_obs=next_obs))


def test_existing_set_is_kept_unless_forced(data):
    write_minari("toy/line/ours-v0", data)
    with pytest.raises(FileExistsError, match="--force"):
        write_minari("toy/line/ours-v0", data)
    write_minari("toy/line/ours-v0", data.rows(torch.arange(3)), force=True)
    assert len(load("minari:toy/line/ours-v0")) == 3


def test_a_failed_write_leaves_the_old_set_and_no_litter(data, store, monkeypatch):
    write_minari("toy/line/ours-v0", data)

    def fail(**_):
        raise RuntimeError("killed")

    monkeypatch.setattr(minari, "create_dataset_from_buffers", fail)
    with pytest.raises(RuntimeError, match="killed"):
        write_minari("toy/line/ours-v0", data, force=True)
    assert [item.name for item in store.iterdir()] == ["toy"]
    assert len(load("minari:toy/line/ours-v0")) == 10


def test_a_full_disk_is_seen_before_anything_is_written(data, store, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(OSError, match="220 bytes needed, 100 free"):
        write_minari("toy/line/ours-v0", data)
    assert list(store.iterdir()) == []


def test_metadata_are_text_without_storage_details(data):
    write_minari("toy/line/ours-v0", data, {"description": "by hand", "author": "me"})
    metadata = minari_metadata("toy/line/ours-v0")
    assert metadata == {
        "dataset_id": "toy/line/ours-v0",
        "description": "by hand",
        "author": '["me"]',
        "minari_version": minari.__version__,
    }


def test_without_minari_the_extra_is_named(data, monkeypatch):
    def refuse(name, *args, **kwargs):
        if name.split(".")[0] == "minari":
            raise ImportError("No module named 'minari'")
        return original(name, *args, **kwargs)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    for use in (lambda: load("minari:toy/line/ours-v0"), lambda: write_minari("toy/line/ours-v0", data)):
        with pytest.raises(ImportError, match=r'pip install "surefoot\[minari\]"'):
            use()


def test_a_relative_store_works(data, tmp_path, monkeypatch, same):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINARI_DATASETS_PATH", "near/by")
    write_minari("my/data-v0", data)
    assert local_ids() == ["my/data-v0"]
    same(load("minari:my/data-v0"), data)
    assert [path.name for path in (tmp_path / "near" / "by").iterdir()] == ["my"]


def test_a_successor_that_differs_in_one_coordinate_cannot_be_written(data):
    """Minari stores every observation once: rows whose next_obs is not the next row's obs would be changed."""
    next_obs = data.next_obs.clone()
    next_obs[4, 1] += 0.5  # inside the second episode; its other coordinate is as it was
    next_obs[2, 1] += 0.5  # the end of the first: it has no row after it
    with pytest.raises(ValueError, match=r"in 1 rows inside an episode next_obs .* \(first in row 4\)"):
        write_minari("toy/broken/one-v0", replace(data, next_obs=next_obs))
