"""The vector environment of worlds: autoreset, limits, generators, saved states, worlds that break, refusals."""

import builtins
from dataclasses import replace

import numpy as np
import pytest
import torch

from surefoot.envs import (
    BatchedEpisodes,
    EnvConfig,
    Parameter,
    Physics,
    TaskError,
    UncertaintySet,
    UncertainVectorEnv,
    find_set,
    make_vec,
    play,
)

HOPPER = EnvConfig("Hopper-v5", backend="warp", num_envs=3)
MIXED = UncertaintySet(
    "mixed",
    "Hopper-v5",
    (
        Parameter("body_mass.torso", 2.0, 5.0),
        Parameter("control_delay", 0.0, 2.0),
        Parameter("sensor_noise.*", 0.0, 0.1),
        Parameter("push.torso", 0.0, 3.0),
        Parameter("walk", 0.0, 0.2),
    ),
)


def actions(steps, worlds=3, seed=0):
    return torch.rand((steps, worlds, 3), generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.fixture(scope="module")
def hopper():
    return make_vec(HOPPER)


def test_observations_are_tensors_of_the_simulators_own_memory_and_of_the_tasks_spaces(hopper):
    obs, _ = hopper.reset(seed=0)
    assert obs.dtype == torch.float32
    assert obs.shape == (3, *hopper.single_observation_space.shape)
    simulation = hopper.worlds.simulation
    assert simulation.field("qpos").data_ptr() == simulation.data.qpos.ptr


def test_an_episode_that_ends_gives_its_true_successor_and_begins_anew_at_once():
    env = make_vec(replace(HOPPER, max_episode_steps=4))
    env.reset(seed=0)
    assert env.episode_limit == 4
    for step, action in enumerate(actions(8), start=1):
        obs, _, terminated, truncated, info = env.step(action)
        qpos = env.worlds.simulation.field("qpos")
        assert truncated.tolist() == [step % 4 == 0] * 3
        assert not terminated.any()
        assert torch.equal(info["_final_obs"], truncated)
        assert torch.equal(obs[:, 0], qpos[:, 1])  # what is returned is where the world is now
        assert torch.equal(obs, info["final_obs"]) == (step % 4 != 0)
        if step == 4:
            kept, last = info["final_obs"], info["final_obs"].clone()
    assert torch.equal(kept, last)  # not overwritten by what follows


def test_the_info_has_the_tasks_own_terms(hopper):
    hopper.reset(seed=0)
    action = actions(1)[0]
    _, reward, *_, info = hopper.step(action)
    parts = info["reward_forward"] + info["reward_survive"] + info["reward_ctrl"]
    torch.testing.assert_close(parts, reward)
    torch.testing.assert_close(info["reward_ctrl"], -1e-3 * action.square().sum(1))


def test_a_seed_gives_the_same_run_and_no_two_worlds_share_a_generator(hopper):
    first, again = hopper.reset(seed=5)[0], hopper.reset(seed=5)[0]
    assert torch.equal(first, again)
    assert torch.equal(first[1:], hopper.reset(seed=6)[0][:-1])  # world i has seed + i, on its own
    states = {repr(generator.bit_generator.state) for generator in hopper.worlds.generators}
    assert len(states) == 3
    continued = hopper.reset()[0]
    assert not torch.equal(continued, hopper.reset()[0])


@pytest.mark.parametrize(("uncertainty", "noise"), [(None, 0.2), (MIXED, 0.1)])
def test_a_saved_state_goes_on_bit_for_bit_in_another_environment(uncertainty, noise):
    config = replace(HOPPER, physics=Physics(action_noise=noise), max_episode_steps=12)

    def make():
        return make_vec(config) if uncertainty is None else UncertainVectorEnv(config, uncertainty)

    env = make()
    env.reset(seed=1)
    played = actions(30)
    for action in played[:9]:
        env.step(action)
    state = env.state_dict()
    assert env.can_resume()
    expected = [env.step(action)[:4] for action in played[9:]]
    of_worlds = state.get("env", state)["worlds"]
    other, elapsed = make(), of_worlds["elapsed"].tolist()
    other.load_state_dict(state)
    for step, wanted in zip(played[9:], expected, strict=True):
        for got, want in zip(other.step(step)[:4], wanted, strict=True):
            assert torch.equal(got, want)
    assert of_worlds["elapsed"].tolist() == elapsed  # it may be loaded once more


def test_a_saved_state_can_be_written_and_read_without_running_code(tmp_path, hopper):
    hopper.reset(seed=0)
    torch.save(hopper.state_dict(), tmp_path / "state.pt")
    hopper.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    with pytest.raises(ValueError, match="the saved state has 3 environments, this one 2"):
        make_vec(replace(HOPPER, num_envs=2)).load_state_dict(hopper.state_dict())


def test_a_world_that_diverges_ends_alone_and_begins_as_if_nothing_had_been(hopper):
    whole = [hopper.reset(seed=2)[0]]
    for action in actions(3):
        whole.append(hopper.step(action)[0])
    hopper.reset(seed=2)
    hopper.step(actions(3)[0])
    hopper.worlds.simulation.field("qvel")[1, 2] = torch.nan
    obs, reward, terminated, truncated, info = hopper.step(actions(3)[1])
    assert info["broken"].tolist() == terminated.tolist() == [False, True, False]
    assert not truncated.any()
    assert reward[1] == 0
    assert torch.equal(info["final_obs"][1], whole[1][1])  # the last good one
    assert torch.equal(obs[[0, 2]], whole[2][[0, 2]])
    # The world begins again from a generator of its own: put the same start into one that never broke.
    begun = hopper.worlds.simulation.field("qpos")[1].clone(), hopper.worlds.simulation.field("qvel")[1].clone()
    after = hopper.step(actions(3)[2])[0]
    hopper.reset(seed=9)
    for name, values in zip(("qpos", "qvel"), begun, strict=True):
        hopper.worlds.simulation.field(name)[1] = values
    assert torch.equal(hopper.step(actions(3)[2])[0][1], after[1])


def test_an_action_that_is_no_number_is_the_policys_fault(hopper):
    hopper.reset(seed=0)
    with pytest.raises(TaskError, match=r"Hopper-v5: at step 1 .*action.*policy is no longer finite"):
        hopper.step(torch.full((3, 3), torch.nan))


def step_all(env, many):
    for action in many:
        env.step(action)


SMALL = [("nconmax", "contacts"), pytest.param("njmax", "constraints", marks=pytest.mark.slow)]  # kernels of its own


@pytest.mark.parametrize(("option", "what"), SMALL)
def test_a_full_buffer_is_an_error_that_names_the_number_to_raise(option, what):
    env = make_vec(replace(HOPPER, **{option: 1}))
    env.reset(seed=0)
    with pytest.raises(TaskError, match=f"Hopper-v5: world . has more {what} .* raise --env.{option}, which is 1"):
        step_all(env, actions(40))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            EnvConfig("Hopper-v4"),
            r"does not serve Hopper-v4; it serves Ant-v5, .*Walker2d-v5; use --env.backend mujoco",
        ),
        (EnvConfig("Hopper-v5", flatten=True), "does not serve --env.flatten"),
        (EnvConfig("Hopper-v5", action_bound=0.5), "does not serve --env.action-bound"),
        (
            EnvConfig("Hopper-v5", Physics(parameters=("frame_skip=2",))),
            "frame_skip: all worlds of --env.backend warp make",
        ),
    ],
)
def test_what_is_not_served_is_refused_by_name(config, message):
    with pytest.raises(ValueError, match=message):
        make_vec(replace(config, backend="warp"))


def test_what_does_not_exist_is_refused_by_name():
    with pytest.raises(ValueError, match="renders nothing"):
        make_vec(HOPPER, render_mode="rgb_array")
    with pytest.raises(ValueError, match="backend must be mujoco or warp, got 'cuda'"):
        EnvConfig(backend="cuda")
    with pytest.raises(ValueError, match="njmax is 0; it must be from 1"):
        EnvConfig(njmax=0)
    with pytest.raises(ValueError, match=r"--env\.nconmax is for --env.backend warp"):
        make_vec(EnvConfig("Hopper-v5", nconmax=7))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"--env.backend warp cannot use the device cuda:3: Warp has cpu"):
            make_vec(HOPPER, device="cuda:3")


def test_without_the_package_one_line_says_how_to_get_it(monkeypatch):
    own = builtins.__import__

    def missing(name, *rest):
        if name.partition(".")[0] == "mujoco_warp":
            raise ModuleNotFoundError("No module named 'mujoco_warp'")
        return own(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r'needs MuJoCo Warp .*pip install "surefoot\[warp\]"'):
        make_vec(HOPPER)


# --- episodes side by side --------------------------------------------------------------------------------------------


def sway(obs):
    """A policy with which a hopper falls sooner or later."""
    return torch.sin(7 * obs[:, :3])


def test_a_job_has_the_outcome_that_it_has_in_c_whatever_runs_beside_it():
    uncertainty = find_set("hopper-2")
    points = uncertainty.low + np.random.default_rng(0).random((7, 2)) * (uncertainty.high - uncertainty.low)
    seeds = list(range(20, 27))
    config = EnvConfig("Hopper-v5", max_episode_steps=40)
    theirs = play(sway, config, uncertainty, points, seeds)
    ours = [play(sway, replace(config, backend="warp"), uncertainty, points, seeds, num_envs=n) for n in (3, 7)]
    assert len(set(theirs.lengths.tolist())) > 1  # some fall
    for played in ours:
        np.testing.assert_array_equal(played.lengths, theirs.lengths)
        np.testing.assert_array_equal(played.terminated, theirs.terminated)
        np.testing.assert_allclose(played.returns, theirs.returns, rtol=1e-3)
        assert not played.broken.any()
    np.testing.assert_allclose(ours[0].returns, ours[1].returns, rtol=1e-6)


def test_a_world_without_a_job_rests_and_may_break():
    env = BatchedEpisodes(
        replace(HOPPER, max_episode_steps=3), find_set("hopper-1"), np.ones((4, 1)), range(4), num_envs=3
    )
    env.reset()
    for action in actions(3):
        env.step(action)
    assert env.job.tolist() == [3, -1, -1]
    env.robots.worlds.simulation.field("qvel")[2] = torch.nan
    for action in actions(3):
        _, reward, terminated, _, info = env.step(action)
        assert info["job"].tolist() == [3, -1, -1]
        assert reward[1:].tolist() == [0, 0]
        assert not terminated.any()
        assert not info["broken"].any()
    assert env.finished
