"""Experience of several seeds at once, episodes of one length, and success rates seed by seed."""

from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from tiny import ACT, OBS, DriftEnv

from surefoot.agents.interface import Episodes, Progress, Setting, Spaces
from surefoot.agents.parts.episodes import (
    SuccessConfig,
    SuccessMeter,
    collect_rollout,
    episode_grid,
    join_waves,
    require_horizon,
)
from surefoot.agents.parts.heads import GaussianHead
from surefoot.agents.parts.interaction import Interaction
from surefoot.agents.parts.on_policy import OnPolicy, OnPolicyConfig
from surefoot.training.runs.meters import Meter


def test_a_rollout_is_laid_out_by_time_seed_and_environment():
    interaction, drawn = Interaction(DriftEnv(6), 0), []

    def draw(obs, t):
        assert obs.shape == (2, 3, OBS)
        drawn.append(torch.arange(6.0).view(2, 3, 1).expand(2, 3, ACT) + t)  # beyond the bounds: the head clips
        return drawn[-1]

    rollout, episodes = collect_rollout(interaction, draw, GaussianHead(ACT, bounded=True), seeds=2, steps=8)
    assert [field.shape for field in rollout] == [(8, 2, 3, n) for n in (OBS, ACT)] + [(8, 2, 3), (8, 2, 3, OBS)] + [
        (8, 2, 3)
    ] * 2
    assert torch.equal(rollout.action, torch.stack(drawn))  # as drawn, not as executed
    torch.testing.assert_close(rollout.next_obs[0, 0, 0], torch.tensor([0.0, 0.0, 0.0]))
    torch.testing.assert_close(rollout.next_obs[0, 1, 2], torch.tensor([0.1, 0.1, 0.0]))
    assert torch.equal(rollout.obs[1], rollout.next_obs[0])
    assert rollout.ended.sum((1, 2)).tolist() == [0] * 6 + [6, 0]
    assert [bool(entry.ended.all()) for entry in episodes] == [False] * 6 + [True, False]
    joined = join_waves([rollout, rollout])
    assert joined.reward.shape == (8, 2, 6)
    assert torch.equal(joined.reward[:, :, 3:], rollout.reward)


def env_of(lengths, actions=None):
    """Environments whose episodes end, by a time-out, after their own lengths."""
    state = {"t": 0}

    def step(action):
        state["t"] += 1
        seen.append(action)
        ended = torch.tensor([state["t"] >= length for length in lengths])
        return torch.zeros(len(lengths), 2), None, torch.zeros_like(ended), ended, {}

    seen = []
    space = actions or gym.spaces.Box(-1, 1, (ACT,))
    reset = lambda *, seed: (torch.zeros(len(lengths), 2), state.update(t=0))  # noqa: E731
    return SimpleNamespace(num_envs=len(lengths), single_action_space=space, reset=reset, step=step, seen=seen)


def test_a_horizon_is_the_length_of_every_episode_or_it_is_refused():
    env = env_of([5, 5])
    require_horizon(env, 5, 0)
    assert len(env.seen) == 5
    assert torch.equal(env.seen[0], torch.zeros(2, ACT))
    discrete = env_of([2], gym.spaces.Discrete(3))
    require_horizon(discrete, 2, 0)
    assert (discrete.seen[0].tolist(), discrete.seen[0].dtype) == ([0], torch.int64)
    with pytest.raises(ValueError, match=r"--agent.horizon is 5, but an episode of this task ended after 3 steps"):
        require_horizon(env_of([5, 3]), 5, 0)
    with pytest.raises(ValueError, match=r"continue after 5 steps; .* --env.max-episode-steps 5"):
        require_horizon(env_of([5, 6]), 5, 0)


class Goal:
    """Three environments of 6 steps at most: action 1 ends an episode at once, as reaching a goal does."""

    num_envs = 3
    single_observation_space = gym.spaces.Box(np.zeros(2, np.float32), np.array([1, np.inf], np.float32))
    single_action_space = gym.spaces.Discrete(2)

    def obs(self):
        return torch.stack([torch.ones(3), self.t.float()], 1)

    def reset(self, *, seed=None):
        self.t = torch.zeros(3, dtype=torch.int64)
        return self.obs(), {}

    def step(self, action):
        self.t = self.t + 1
        terminated, truncated, final = action == 1, self.t >= 6, self.obs()
        self.t = torch.where(terminated | truncated, 0, self.t)
        return self.obs(), torch.ones(3), terminated, truncated, {"final_obs": final}


def test_an_episode_that_the_policy_ends_early_is_refused_where_it_is_collected():
    env = Goal()
    setting = Setting(Spaces(env.single_observation_space, env.single_action_space), 0, torch.device("cpu"), env=env)
    nets = OnPolicy(OnPolicyConfig(horizon=6, batch_steps=18), setting)
    actions = torch.zeros(6, 3, dtype=torch.int64)
    nets.draw = lambda obs, t: torch.nn.functional.one_hot(actions[t], 2).float()[None]
    rollout, _, _ = nets.collect()
    assert nets.returns(rollout).tolist() == [[6.0 - h] * 3 for h in range(6)]
    actions[2, 1] = 1
    with pytest.raises(ValueError, match=r"--agent.horizon is 6, but an episode of this task ended after 3 steps"):
        nets.collect()


def recorded(lengths, steps=None):
    ends = torch.cat([torch.arange(1, n + 1) == n for n in lengths])
    step = torch.cat([torch.arange(n) for n in lengths]) if steps is None else torch.tensor(steps)
    return SimpleNamespace(episode_end=ends, obs=torch.stack([torch.zeros(len(ends)), step.float()], -1))


def test_recorded_episodes_of_one_length_are_counted_and_others_named():
    assert episode_grid(recorded([4, 4, 4]), 4) == 3
    with pytest.raises(ValueError, match="the data's episode 1 takes 3 steps, but the horizon is 4"):
        episode_grid(recorded([4, 3, 4]), 4)
    with pytest.raises(ValueError, match="the data's episode 0 takes 5 steps"):
        episode_grid(recorded([5, 4]), 4)
    with pytest.raises(ValueError, match="the last coordinate of the data's observations is not the step"):
        episode_grid(recorded([2, 2], [0, 1, 1, 0]), 2)


def finished(*rows):
    """Steps in which episodes end (True) with a return, for every environment."""
    return [
        Episodes(torch.tensor([e for e, _ in row]), torch.tensor([r for _, r in row]).double(), torch.ones(len(row)))
        for row in rows
    ]


def test_a_rate_counts_episodes_that_ended_and_reached_the_return():
    meter = SuccessMeter(SuccessConfig(2.0, solved_window=2), 1, torch.device("cpu"))
    steps = finished([(True, 2.0), (False, 9.0)], [(True, 1.5), (True, 2.0 - 1e-7)])
    assert meter.add(steps, 10)["success"].item() == pytest.approx(2 / 3)
    assert meter.solved_steps.tolist() == [10.0]  # above one half at once
    none = meter.add(finished([(False, 9.0), (False, 9.0)]), 20)
    assert none["success_average"].item() == pytest.approx(2 / 3)  # no episode ended: neither success nor failure
    assert none["solved_at"].item() == 10.0
    assert set(none) == {"success_average", "solved_at"}
    assert meter.add(finished([(True, 0.0), (True, 0.0)]), 30)["success_average"].item() == 0.0  # of the last two alone


def test_iterations_shorter_than_an_episode_do_not_lower_the_rate():
    meter = SuccessMeter(SuccessConfig(1.0, solved_window=8, stop_when_solved=True), 1, torch.device("cpu"))
    assert meter.add(finished([(False, 0.0)]), 1) == {}
    for steps in range(2, 8):
        metrics = meter.add(finished([(steps % 3 == 0, 1.0)]), steps)
    assert metrics["success_average"].item() == 1.0
    assert (metrics["solved_at"].item(), meter.done) == (3.0, True)


def test_a_seed_without_an_episode_is_left_out_of_the_mean():
    meter = SuccessMeter(SuccessConfig(1.0), 2, torch.device("cpu"))
    metrics = meter.add(finished([(True, 1.0), (False, 0.0)]), 5)
    assert metrics["success"].item() == metrics["success_average"].item() == 1.0
    assert "success/seed-1" not in metrics
    assert (metrics["solved_at/seed-0"].item(), "solved_at/seed-1" in metrics) == (5.0, False)


def test_several_seeds_are_told_apart():
    meter = SuccessMeter(SuccessConfig(1.0), 2, torch.device("cpu"))
    metrics = meter.add(finished([(True, 1.0), (True, 0.0)]), 7)
    assert set(metrics) == {"success", "success_average", "solved_at/seed-0"} | {
        f"{name}/seed-{s}" for name in ("success", "success_average") for s in (0, 1)
    }
    assert metrics["success"].item() == 0.5
    assert (metrics["success/seed-0"].item(), metrics["success/seed-1"].item()) == (1.0, 0.0)
    assert metrics["solved_at/seed-0"].item() == 7.0
    assert not meter.done  # was not to stop


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_row_of_several_iterations_says_the_step_at_which_the_task_was_solved(seeds):
    """Seven iterations in the row, the last of them the first success: no mean with those before."""
    meter, row = (
        SuccessMeter(SuccessConfig(1.0, solved_window=1), seeds, torch.device("cpu")),
        Meter(torch.device("cpu")),
    )
    for i in range(1, 8):
        row.add(Progress(200, 1, meter.add(finished([(True, float(i == 7))] * seeds), 200 * i)))
    names = ["solved_at"] if seeds == 1 else ["solved_at/seed-0", "solved_at/seed-1"]
    found = row.read()
    assert {name: found[name] for name in found if name.startswith("solved_at")} == dict.fromkeys(names, 1400.0)
    row.add(Progress(200, 1, meter.add(finished([(True, 0.0)] * seeds), 1600)))
    assert row.read()[names[0]] == 1400.0  # it stays
