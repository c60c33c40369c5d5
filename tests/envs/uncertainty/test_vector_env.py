"""Training in an uncertainty set: whose parameters are in force when, and that a saved run knows them."""

import mujoco
import numpy as np
import pytest
import torch

from surefoot.envs import (
    SETS,
    BatchedPerturbedEnvs,
    EnvConfig,
    Parameter,
    UncertaintySet,
    UncertainVectorEnv,
    WithParameters,
    make_single,
)
from surefoot.envs import play as play_jobs
from surefoot.envs.uncertainty import probe

PENDULUMS = SETS["inverted-pendulum-2"]
KINDS = {
    "sync": EnvConfig("InvertedPendulum-v5", num_envs=3, max_episode_steps=9),
    "async": EnvConfig("InvertedPendulum-v5", num_envs=2, max_episode_steps=9, vectorization="async"),
    "native": EnvConfig("surefoot/Pendulum-v0", num_envs=3, max_episode_steps=9),
}


def act_randomly(env, steps, generator):
    """Everything that `steps` random steps return, flat."""
    out = []
    for _ in range(steps):
        obs, *flags, info = env.step(2 * torch.rand(env.num_envs, 1, generator=generator) - 1)
        out += [obs, *flags, info["final_obs"], info["_final_obs"]]
    return out


def assert_same(left, right):
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def make_uncertain(kind):
    config = KINDS[kind]
    return UncertainVectorEnv(config, PENDULUMS if kind != "native" else SETS["pendulum-2"])


def in_force(env):
    """What the tasks themselves hold, (N, d)."""
    if env._full is not None:
        return torch.stack([env.env.mass, env.env.length], -1).double()
    masses = [sub.unwrapped.model.body_mass[[2, 1]] for sub in env.env.sub_envs.envs]
    return torch.from_numpy(np.array(masses))


@pytest.mark.parametrize("kind", ["sync", "native"])
def test_every_episode_has_parameters_of_its_own_from_the_box(kind):
    env, seen = make_uncertain(kind), []
    env.reset(seed=0)
    for step in range(900):
        torch.testing.assert_close(in_force(env), env.params, rtol=1e-6, atol=0)
        if step % 9 == 0:  # no pendulum falls in so few steps without a push
            seen.append(env.params)
        before = env.params
        *_, info = env.step(torch.zeros(3, 1))
        assert bool((env.params != before).all()) == bool(info["_final_obs"].all())
    drawn = (torch.cat(seen) - env.low) / (env.high - env.low)  # (300, 2) in the unit box
    assert 0 <= drawn.min() < 0.02
    assert 0.98 < drawn.max() <= 1
    torch.testing.assert_close(drawn.mean(0), torch.full((2,), 0.5).double(), rtol=0, atol=0.06)
    assert abs(torch.corrcoef(drawn.T)[0, 1]) < 0.2
    assert len(drawn.unique(dim=0)) == 300


@pytest.mark.parametrize("kind", ["sync", "native"])
def test_given_parameters_wait_for_the_reset_unless_they_are_for_now(kind):
    env = make_uncertain(kind)
    env.reset(seed=0)
    drawn, given = env.params.clone(), torch.stack([env.low + 0.1 * i for i in range(3)])
    env.set_params(given)
    for _ in range(8):
        env.step(torch.zeros(3, 1))
        torch.testing.assert_close(in_force(env), drawn, rtol=1e-6, atol=0)
    env.step(torch.zeros(3, 1))
    for _ in range(20):  # and they stay
        torch.testing.assert_close(in_force(env), given, rtol=1e-6, atol=0)
        env.step(torch.zeros(3, 1))
    env.set_params(env.high, now=True)
    torch.testing.assert_close(in_force(env), env.high.expand(3, 2), rtol=1e-6, atol=0)
    env.randomise()
    torch.testing.assert_close(env.params, env.high.expand(3, 2))
    env.reset()
    assert (env.params != env.high).all()


def test_the_physics_follows_a_change_in_the_middle_of_an_episode():
    """Against one Gymnasium model whose masses are written by hand at the same step."""
    env = UncertainVectorEnv(EnvConfig("InvertedPendulum-v5"), PENDULUMS)
    env.set_params(torch.tensor([5.0, 10.0]))
    obs, _ = env.reset(seed=4)
    plain = WithParameters(make_single(EnvConfig("InvertedPendulum-v5")), PENDULUMS)
    expected, _ = plain.reset(seed=4, options={"params": [5.0, 10.0]})
    for step in range(12):
        np.testing.assert_array_equal(obs[0], expected)
        if step == 5:
            env.set_params(torch.tensor([20.0, 2.0]), now=True)
            plain.unwrapped.model.body_mass[[2, 1]] = 20.0, 2.0
        obs, *_ = env.step(torch.full((1, 1), 0.002))
        expected, *_ = plain.step(np.full(1, 0.002, np.float32))
    assert env.params.tolist() == [[20.0, 2.0]]


@pytest.mark.parametrize("how", ["random", "fixed", "every step"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_run_goes_on_with_its_parameters_bit_for_bit(kind, how, tmp_path):
    env, fresh, generator = make_uncertain(kind), make_uncertain(kind), torch.Generator().manual_seed(0)
    env.reset(seed=7)
    if how == "fixed":
        env.set_params(env.low)
        act_randomly(env, 4, generator)
        env.set_params(env.high)  # so that what is in force is neither what comes next nor what was drawn
    for _ in range(14):
        if how == "every step":
            unit = torch.rand(env.num_envs, 2, generator=generator, dtype=torch.float64)
            env.set_params(env.low + unit * (env.high - env.low), now=True)
        act_randomly(env, 1, generator)
    torch.save(env.state_dict(), tmp_path / "env.pt")
    fresh.load_state_dict(torch.load(tmp_path / "env.pt", weights_only=True))
    assert_same([fresh.params], [env.params])
    go_on = generator.get_state()
    rest = act_randomly(env, 30, generator)
    assert_same(rest, act_randomly(fresh, 30, generator.set_state(go_on)))
    assert_same([fresh.params], [env.params])
    assert any(bool(ended.any()) for ended in rest[5::6])
    env.close(), fresh.close()


@pytest.mark.parametrize("random", [True, False])
def test_fresh_episodes_of_a_saved_run_have_the_parameters_that_were_staged(random):
    env, fresh = make_uncertain("sync"), make_uncertain("sync")
    env.reset(seed=7)
    act_randomly(env, 4, torch.Generator().manual_seed(0))
    if not random:
        env.set_params(env.low)
    staged, in_force_before = env._next.clone(), env.params.clone()
    assert (staged != in_force_before).all()
    fresh.unwrapped.fresh_episodes = True
    assert fresh.load_state_dict(env.state_dict()) is not None  # new episodes
    assert_same([fresh.params], [staged])
    torch.testing.assert_close(in_force(fresh), staged, rtol=1e-6, atol=0)
    assert bool((fresh._next == staged).all()) is not random  # those after them: drawn, or as given
    assert fresh.random is random


def test_the_seed_decides_the_draws():
    first, second = (make_uncertain("sync") for _ in range(2))
    for env, seed in ((first, 3), (second, 3)):
        env.reset(seed=seed)
    assert_same([first.params], [second.params])
    second.reset(seed=4)
    assert (first.params != second.params).all()


def test_an_episode_whose_physics_diverges_ends_in_training_too(capfd):
    """Without this MuJoCo starts from the initial state again and the agent learns a jump."""
    handler = mujoco.get_mju_user_warning()  # none, or that of a library which other tests import
    env = UncertainVectorEnv(EnvConfig("HalfCheetah-v5", num_envs=2), SETS["halfcheetah-2"])
    env.set_params(env.high)
    env.reset(seed=0)
    before, *_ = env.step(torch.zeros(2, 6))
    env.env.sub_envs.envs[1].unwrapped.data.qvel[3] = np.nan
    _, reward, terminated, truncated, info = env.step(torch.zeros(2, 6))
    assert terminated.tolist() == [False, True]
    assert not truncated.any()
    assert reward[1] == 0.0
    assert reward[0] != 0.0
    assert_same([info["final_obs"][1]], [before[1]])
    *_, terminated, _, _ = env.step(torch.zeros(2, 6))
    assert not terminated.any()
    assert capfd.readouterr().err == ""
    assert mujoco.get_mju_user_warning() == handler


def test_a_set_for_another_task_is_refused():
    with pytest.raises(ValueError, match="for InvertedPendulum-v5, not for Hopper-v5"):
        UncertainVectorEnv(EnvConfig("Hopper-v5"), PENDULUMS)
    other = UncertaintySet("other", "Hopper-v5", (Parameter("body_mass.tail", 1.0, 2.0),))
    with pytest.raises(ValueError, match=r"no 'tail' for body_mass; it has .*torso"):
        UncertainVectorEnv(EnvConfig("Hopper-v5"), other)


def test_a_tensor_task_has_its_own_nominal_values_and_refuses_another_set():
    pendulum = EnvConfig("surefoot/Pendulum-v0")
    assert BatchedPerturbedEnvs(pendulum, SETS["pendulum-2"]).nominal.tolist() == [1.0, 1.0]
    with pytest.raises(ValueError, match="for Hopper-v5, not for surefoot/Pendulum-v0"):
        BatchedPerturbedEnvs(pendulum, SETS["hopper-2"])


def test_the_same_actions_tell_whether_a_parameter_has_an_effect(monkeypatch):
    taken, opened = [], probe._open

    def spy(config, uncertainty):
        nominal, space, path = opened(config, uncertainty)
        return nominal, space, lambda values, actions, seed: taken.append(actions) or path(values, actions, seed)

    monkeypatch.setattr(probe, "_open", spy)
    for _ in range(2):
        probe.without_effect(EnvConfig("InvertedPendulum-v5"), SETS["inverted-pendulum-1"])
    half = len(taken) // 2
    assert len(taken) == 2 * half
    for first, again in zip(taken[:half], taken[half:], strict=True):
        np.testing.assert_array_equal(first, again)
        assert len(np.unique(first)) == len(first) > 1


def test_perturbed_environments_play_every_seed_at_every_point():
    config = EnvConfig("InvertedPendulum-v5", max_episode_steps=60)
    perturbed_envs, points = BatchedPerturbedEnvs(config, PENDULUMS, num_envs=4), PENDULUMS.grid(2)
    act = lambda obs: (3 * obs[:, 1:2] + obs[:, 3:]).clamp(-1, 1)  # noqa: E731
    played = perturbed_envs.play(act, points, [5, 6, 7])
    assert perturbed_envs.names == ("body_mass.pole", "body_mass.cart")
    np.testing.assert_allclose(perturbed_envs.nominal, [5.0186, 10.4720], atol=1e-4)
    for i, point in enumerate(points):
        alone = play_jobs(act, config, PENDULUMS, point[None].repeat(3, 0), [5, 6, 7])
        np.testing.assert_array_equal(played.returns[i], alone.returns)
        np.testing.assert_array_equal(played.lengths[i], alone.lengths)
    assert len(np.unique(played.lengths)) > 3
