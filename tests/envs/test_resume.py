"""A saved task continues as if nothing had happened: same steps, same next episode, same noise, bit for bit."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from surefoot.envs import EnvConfig, Physics, make_vec

NOISY = Physics(action_noise=0.3)
TASKS = {
    "cheetah": EnvConfig("HalfCheetah-v5", NOISY, max_episode_steps=40),
    "hopper": EnvConfig("Hopper-v5", num_envs=2),  # terminates
    "ant": EnvConfig(
        "Ant-v5", Physics(gravity=2.0, action_noise=0.1), num_envs=2, max_episode_steps=40
    ),  # contact forces
    "pendulum": EnvConfig("Pendulum-v1", NOISY, num_envs=2, max_episode_steps=40),
    "cartpole": EnvConfig("CartPole-v1", num_envs=2),  # discrete
    "native": EnvConfig("surefoot/Pendulum-v0", NOISY, num_envs=3, max_episode_steps=40),
}


def play(env, steps: int, generator: torch.Generator) -> list[torch.Tensor]:
    """Everything that `steps` random steps return, flat."""
    out = []
    for _ in range(steps):
        if hasattr(env.single_action_space, "n"):
            actions = torch.randint(0, 2, (env.num_envs,), generator=generator)
        else:
            actions = 2 * torch.rand(env.num_envs, *env.single_action_space.shape, generator=generator) - 1
        obs, reward, terminated, truncated, info = env.step(actions)
        out += [obs, reward, terminated, truncated, info["final_obs"], info["_final_obs"]]
    return out


def assert_same(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> None:
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def saved(env, path: Path) -> dict:
    torch.save(env.state_dict(), path)
    return torch.load(path, weights_only=True)


@pytest.mark.parametrize("steps", [25, 40, 55], ids=["mid-episode", "after-the-time-limit", "second-episode"])
@pytest.mark.parametrize("task", sorted(TASKS))
def test_resumed_run_is_the_undisturbed_run(task, steps, tmp_path):
    env, fresh = make_vec(TASKS[task]), make_vec(TASKS[task])
    env.reset(seed=7)
    generator = torch.Generator().manual_seed(0)
    play(env, steps, generator)
    fresh.load_state_dict(saved(env, tmp_path / "env.pt"))
    go_on = generator.get_state()
    rest = play(env, 100, generator)
    assert_same(rest, play(fresh, 100, generator.set_state(go_on)))
    assert any(bool(ended.any()) for ended in rest[5::6])  # so the next resets were compared too


def test_a_run_without_a_seed_resumes_too(tmp_path):
    env, fresh = make_vec(TASKS["cheetah"]), make_vec(TASKS["cheetah"])
    env.reset()
    generator = torch.Generator().manual_seed(0)
    play(env, 10, generator)
    fresh.load_state_dict(saved(env, tmp_path / "env.pt"))
    go_on = generator.get_state()
    assert_same(play(env, 50, generator), play(fresh, 50, generator.set_state(go_on)))


def test_the_caller_may_reuse_its_action_tensor():
    env, fresh = make_vec(TASKS["pendulum"]), make_vec(TASKS["pendulum"])
    env.reset(seed=0)
    actions = torch.zeros(2, 1)
    for _ in range(5):
        actions += 0.1
        env.step(actions)
    fresh.load_state_dict(env.state_dict())
    assert_same(env.step(actions)[:4], fresh.step(actions)[:4])


def test_async_environments_go_on_from_a_sync_state_and_back(tmp_path):
    sync, other = (make_vec(EnvConfig("Hopper-v5", NOISY, 2, mode)) for mode in ("sync", "async"))
    assert_same([sync.reset(seed=1)[0]], [other.reset(seed=1)[0]])
    assert_same(*(play(env, 30, torch.Generator().manual_seed(0)) for env in (sync, other)))
    for source, target in ((sync, other), (other, sync)):
        play(source, 7, torch.Generator().manual_seed(1))
        target.load_state_dict(saved(source, tmp_path / "env.pt"))
        assert_same(*(play(env, 30, torch.Generator().manual_seed(2)) for env in (sync, other)))
    other.close()


CONTINUE = """
import sys, torch
sys.path.insert(0, sys.argv[2])
from test_resume import TASKS, play
from surefoot.envs import make_vec
env = make_vec(TASKS["ant"])
env.load_state_dict(torch.load(sys.argv[1], weights_only=True))
torch.save(play(env, 60, torch.Generator().manual_seed(3)), sys.argv[1] + ".out")
"""


def test_a_new_process_goes_on(tmp_path):
    env = make_vec(TASKS["ant"])
    env.reset(seed=2)
    play(env, 55, torch.Generator().manual_seed(0))
    path = tmp_path / "env.pt"
    torch.save(env.state_dict(), path)
    subprocess.run([sys.executable, "-c", CONTINUE, str(path), str(Path(__file__).parent)], check=True, timeout=120)
    theirs = torch.load(f"{path}.out", weights_only=True)
    assert_same(play(env, 60, torch.Generator().manual_seed(3)), theirs)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_task_with_hidden_state_is_refused(vectorization, monkeypatch):
    """The scripted task counts its episodes, so a replay in a fresh copy shows another number."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    config = EnvConfig("scripted_env:Scripted-v0", vectorization=vectorization)
    env, fresh = make_vec(config), make_vec(config)
    env.reset(seed=0)
    play(env, 4, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"not reproducible.*--resume-episodes fresh"):
        fresh.load_state_dict(env.state_dict())
    assert not env.can_resume()
    env.close()
    fresh.close()


@pytest.mark.parametrize("task", ["hopper", "native"])
def test_a_task_that_comes_back_says_so_and_is_not_disturbed(task):
    env, same = make_vec(TASKS[task]), make_vec(TASKS[task])
    for one in (env, same):
        one.reset(seed=7)
        play(one, 12, torch.Generator().manual_seed(0))
    assert env.can_resume()
    assert_same(*(play(one, 30, torch.Generator().manual_seed(1)) for one in (env, same)))


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_fresh_episodes_begin_where_the_tasks_generators_were(vectorization):
    config = EnvConfig("Pendulum-v1", num_envs=2, vectorization=vectorization)
    env, fresh = make_vec(config), make_vec(config)
    env.reset(seed=7)
    play(env, 12, torch.Generator().manual_seed(0))
    assert fresh.load_state_dict(env.state_dict()) is None
    fresh.fresh_episodes = True
    begun = fresh.load_state_dict(env.state_dict())
    assert_same([begun], [env.reset()[0]])  # as if the episodes had been cut here
    assert_same(*(play(one, 30, torch.Generator().manual_seed(1)) for one in (env, fresh)))
    env.close()
    fresh.close()


def test_other_physics_is_noticed():
    env, changed = make_vec(EnvConfig("Pendulum-v1")), make_vec(EnvConfig("Pendulum-v1", Physics(gravity=0.5)))
    env.reset(seed=0)
    play(env, 5, torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="not reproducible"):
        changed.load_state_dict(env.state_dict())


@pytest.mark.parametrize("task", ["hopper", "native"])
def test_a_state_of_another_number_of_environments_is_refused(task):
    env, other = make_vec(TASKS[task]), make_vec(EnvConfig(TASKS[task].id, num_envs=4))
    env.reset(seed=0)
    with pytest.raises(ValueError, match=rf"{env.num_envs} environments, this one 4"):
        other.load_state_dict(env.state_dict())


@pytest.mark.parametrize("env_id", ["Pendulum-v1", "surefoot/Pendulum-v0"])
def test_a_state_before_the_first_reset_is_that(env_id, tmp_path):
    env, fresh = make_vec(EnvConfig(env_id)), make_vec(EnvConfig(env_id))
    fresh.load_state_dict(saved(env, tmp_path / "env.pt"))
    assert_same([env.reset(seed=0)[0]], [fresh.reset(seed=0)[0]])
