"""Older MuJoCo tasks on v5: the older observation, number for number, out of the newer one."""

import gymnasium as gym
import numpy as np
import old_archives
import pytest
import torch

from surefoot.envs import EnvConfig
from surefoot.evaluation.policies import fitted, for_task, load_any
from surefoot.evaluation.policies.sb3 import Seeing
from surefoot.evaluation.policies.task_versions import LAYOUTS, SEEN, id_within, layout, split, task_named, width_of

FOUR = [("Ant-v4", {}), ("Ant-v4", {"use_contact_forces": True}), ("Humanoid-v4", {}), ("HumanoidStandup-v4", {})]
FOUR += [("Reacher-v4", {}), ("InvertedDoublePendulum-v4", {})]
SAME = ("HalfCheetah", "Hopper", "InvertedPendulum", "Swimmer", "Walker2d")


def make(env_id, **kwargs):
    return gym.make(env_id, disable_env_checker=True, **kwargs).unwrapped


def in_the_same_state(older, newer, steps=30):
    """Step both from one state with the same actions; v4 of these tasks is still in Gymnasium, v2 and v3 are not."""
    older.reset(seed=0)
    newer.reset(seed=0)
    newer.set_state(older.data.qpos.copy(), older.data.qvel.copy())
    older.action_space.seed(0)
    for _ in range(steps):
        action = older.action_space.sample()
        seen = older.step(action)[0], newer.step(action)[0]
    return seen


@pytest.mark.filterwarnings("ignore")  # v4 is called outdated
@pytest.mark.parametrize(("env_id", "kwargs"), FOUR)
def test_the_observation_of_v4_is_made_of_that_of_v5(env_id, kwargs):
    older, newer = make(env_id, **kwargs), make(f"{split(env_id)[0]}-v5")
    old, new = in_the_same_state(older, newer)
    pieces = layout(env_id, len(old), len(new))
    seen = Seeing(lambda obs: obs, pieces)(torch.from_numpy(new)[None])
    if kwargs:  # the forces of v4 are clipped to ±1 where v5 does that to its own as well
        assert np.abs(old[27:]).max() == 1
    np.testing.assert_allclose(seen[0].numpy(), old, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SAME)
def test_where_nothing_is_padded_v4_and_its_task_show_and_move_the_same(name):
    config = task_named(f"{name}-v4").config
    old, new = in_the_same_state(make(f"{name}-v4"), make(config.id, **config.kwargs))
    np.testing.assert_array_equal(old, new)


def test_what_v3_never_felt_is_zero():
    new = np.random.default_rng(0).normal(size=(2, 348))
    seen = Seeing(lambda obs: obs, layout("Humanoid-v3", 376, 348))(torch.from_numpy(new)).numpy()
    four = Seeing(lambda obs: obs, layout("Humanoid-v4", 376, 348))(torch.from_numpy(new)).numpy()
    np.testing.assert_array_equal(seen[:, :292], four[:, :292])
    assert (seen[:, 292:] == 0).all()
    assert (four[:, 298:] == new[:, 270:]).all()


def test_every_layout_reads_what_v5_shows():
    for (name, _), several in LAYOUTS.items():
        for pieces in several:
            assert all(0 <= piece[0] < piece[1] <= SEEN[name] for piece in pieces if isinstance(piece, tuple))
            assert width_of(pieces) != SEEN[name]


@pytest.mark.parametrize(
    ("trained_on", "width", "seen"), [("Ant-v3", 113, 105), ("Ant-v3", 111, 120), ("Hopper-v3", 12, 11), ("", 111, 105)]
)
def test_what_nobody_knows_is_not_padded(trained_on, width, seen):
    assert layout(trained_on, width, seen) is None


def ant(tmp_path, name="Ant-v3.zip"):
    data = old_archives.sac_data(obs=111, act=8, bound="1.")
    return load_any(old_archives.write(tmp_path / name, data, old_archives.sac_weights(111, 8)))


def test_a_padded_observation_is_said(tmp_path):
    opened = ant(tmp_path)
    assert (opened.env_config.id, opened.trained_on) == ("Ant-v5", "Ant-v3")
    ready = fitted(opened, opened.env_config)
    assert ready.spaces.observation.shape == (105,)
    assert "counts contact forces as a cost" in ready.notes[0]
    assert "took them for cylinders" in ready.notes[1]
    assert ready.notes[2] == "the observation of Ant-v3 is made of v5's: 27 numbers of it, 84 zeros, 78 of v5 left out"
    obs = torch.randn(5, 105)
    padded = torch.cat([obs[:, :27], torch.zeros(5, 84)], 1)
    assert torch.equal(ready.act(obs), opened.act(padded))
    without = EnvConfig("Ant-v5", kwargs={"include_cfrc_ext_in_observation": False})
    assert torch.equal(fitted(opened, without).act(obs[:, :27]), ready.act(obs))


def test_an_id_that_is_given_says_what_a_file_does_not(tmp_path):
    opened = ant(tmp_path, "model.zip")
    assert opened.env_config is None
    with pytest.raises(ValueError, match=r"sees Box\(111,\), but Ant-v5 shows Box\(105,\); .* --env\.id Ant-v3"):
        fitted(for_task(opened, "Ant-v5"), EnvConfig("Ant-v5"))
    named = for_task(opened, "Ant-v3")
    assert fitted(named, named.env_config).spaces.observation.shape == (105,)


def test_a_model_that_differs_is_the_older_one_unless_v5_is_asked_for(tmp_path):
    data = old_archives.sac_data(obs=17, act=6, bound="1.")
    opened = load_any(old_archives.write(tmp_path / "Walker2d-v3.zip", data, old_archives.sac_weights(17, 6)))
    assert opened.env_config == EnvConfig("Walker2d-v5", kwargs={"xml_file": "walker2d.xml"})
    assert "with the older model" in opened.notes[0]
    asked = for_task(opened, "Walker2d-v5")
    assert asked.env_config == EnvConfig("Walker2d-v5")
    assert "another model: one foot of v5 has another friction" in asked.notes[0]
    assert for_task(opened, "Hopper-v5").notes == ()
    assert len(task_named("Walker2d-v4").notes) == 1  # its MuJoCo is today's


@pytest.mark.parametrize(
    ("text", "found"),
    [("ppo-CartPole-v1", "CartPole-v1"), ("Hopper-v3_2", "Hopper-v3"), ("best_model", None), ("Nothing-v7", None)],
)
def test_an_id_is_found_in_a_name(text, found):
    assert id_within(text) == found
