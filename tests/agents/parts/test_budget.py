"""What a budget comes to, by hand: steps, updates and iterations, and the lengths that are refused."""

from types import SimpleNamespace

import pytest

from surefoot.agents.interface import Budget
from surefoot.agents.parts.budget import (
    collected,
    counted,
    flag,
    plan_collector,
    plan_on_policy,
    plan_updates,
    require_room,
    require_updates,
    require_warm_up,
    rounded_up,
    vector_steps,
    whole_iterations,
    whole_rollouts,
)


def off_policy(**changes):
    usual = {"rollout_steps": 4, "updates_per_step": 1.0, "learning_starts": 10, "random_steps": 3}
    return SimpleNamespace(**usual | {"replay_capacity": 100, "batch_size": 8} | changes)


@pytest.mark.parametrize(
    ("steps", "updates_per_step", "found"),
    [  # rollouts of 4 steps, of which the third, from step 8 on, is the first to be learned from
        (20, 1.0, (8, 20, 12)),
        (21, 1.0, (8, 21, 13)),  # an update counts one step
        (23, 1.0, (8, 23, 15)),
        (20, 0.5, (8, 20, 6)),
        (21, 0.5, (8, 22, 7)),  # an update counts two
        (21, 0.25, (8, 24, 4)),  # one update for the whole rollout
        (21, 0.1, (8, 24, 1)),  # 1.6 are due; the first was made before
        (7, 1.0, (8, 8, 0)),
    ],
)
def test_updates_are_due_from_the_rollout_after_learning_starts(steps, updates_per_step, found):
    assert collected(off_policy(updates_per_step=updates_per_step), Budget(steps, num_envs=2)) == found


def test_whole_rollouts_end_after_all_their_updates():
    assert whole_rollouts(off_policy(), Budget(20, num_envs=2)) == (20, 12)
    assert whole_rollouts(off_policy(updates_per_step=0.5), Budget(21, num_envs=2)) == (24, 8)
    assert whole_rollouts(off_policy(), Budget(5, num_envs=2)) == (8, 0)


def test_a_plan_says_its_warm_up_and_its_updates():
    found = plan_collector(off_policy(), Budget(2000, num_envs=2))
    assert found[:2] == (2000, 1992)
    assert found.phases == ("2,000 environment steps, the first 3 random, learning from step 8 on", "1,992 updates")
    at_once = plan_collector(off_policy(learning_starts=0, random_steps=0), Budget(5, num_envs=1))
    assert at_once.phases == ("5 environment steps", "5 updates")
    assert plan_updates(None, Budget(1500)) == (1500, 1500, ("1,500 updates",))


def test_a_warm_up_must_end_within_the_steps():
    require_warm_up(off_policy(), 11)
    with pytest.raises(
        ValueError, match=r"--steps 10 would end before the first update: --agent.learning-starts is 10"
    ):
        require_warm_up(off_policy(), 10)
    with pytest.raises(ValueError, match=r"--of 3 would end with random actions only: --agent.random-steps is 3"):
        require_warm_up(off_policy(learning_starts=0), 3, "--of")
    require_updates(1, 5, "why")
    with pytest.raises(ValueError, match="--steps 5 would end before the first update: why"):
        require_updates(0, 5, "why")


def test_a_replay_holds_a_batch_and_a_rollout():
    require_room(off_policy(replay_capacity=8), 8)
    with pytest.raises(ValueError, match=r"--agent.replay-capacity is 7, less than a batch of 8: raise it to 8"):
        require_room(off_policy(replay_capacity=7), 4)
    with pytest.raises(ValueError, match="less than a rollout of 9 steps: raise it to 9"):
        require_room(off_policy(replay_capacity=8), 9)
    require_room(SimpleNamespace(), 10**9)  # no replay


def test_on_policy_iterations_are_whole_episodes_of_all_environments():
    config = SimpleNamespace(horizon=5, batch_steps=32)
    found = plan_on_policy(config, Budget(100, num_envs=3))
    assert found == (135, 3, ("3 iterations of 45 steps",))  # waves of 15 steps, three of them for 32 steps
    stationary = plan_on_policy(SimpleNamespace(horizon=None, batch_steps=32), Budget(99, num_envs=3))
    assert stationary == (99, 3, ("3 iterations of 33 steps",))
    with pytest.raises(ValueError, match=r"--steps 44 is less than one iteration, which takes 45 steps here \(--agent"):
        plan_on_policy(config, Budget(44, num_envs=3))
    assert [whole_iterations(Budget(n), 10, "") for n in (10, 11, 20)] == [1, 2, 2]


def test_lengths_are_rounded_and_numbers_said():
    assert [vector_steps(*pair) for pair in ((10, 3), (9, 3), (2, 3))] == [9, 9, 3]
    assert [rounded_up(*pair) for pair in ((10, 3), (9, 3), (1, 3))] == [12, 9, 3]
    assert [counted(n, "update") for n in (0, 1, 2000)] == ["0 updates", "1 update", "2,000 updates"]
    assert flag("replay_capacity") == "replay-capacity"
