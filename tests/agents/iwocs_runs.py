"""Short runs of IWOCS, stopped in every part and taken up again."""

import dataclasses

import torch
from tiny import small
from torch.testing import assert_close

from surefoot.agents.interface import Setting, Spaces
from surefoot.agents.iwocs.agent import IWOCS
from surefoot.agents.iwocs.config import IWOCSConfig
from surefoot.agents.iwocs.specialist import IWOCSPolicy
from surefoot.envs import BatchedPerturbedEnvs, EnvConfig, UncertainVectorEnv, find_set, make_single

CONFIG = dataclasses.replace(
    small(IWOCSConfig(), replay_capacity=100),
    entropy_free_hidden=(8, 8, 8),
    default_steps=20,
    model_steps=12,
    thresholds=(0.1, 0.5, 1.0),
    grid_n=2,
    grid_closed=True,
    held_out_episodes=3,
)


def finish(agent):
    """Return every Progress to the end."""
    out = [agent.step()]
    while not out[-1].done:
        out.append(agent.step())
        assert len(out) < 1000
    return out


def real_agent(seed=0, engine="eager", **changes):
    torch.set_num_threads(1)
    config, one = EnvConfig("InvertedPendulum-v5", num_envs=2, max_episode_steps=15), find_set("inverted-pendulum-2")
    spaces = Spaces(*(getattr(make_single(config), f"{kind}_space") for kind in ("observation", "action")))
    env, perturbed_envs = UncertainVectorEnv(config, one), BatchedPerturbedEnvs(config, one)
    settings = dataclasses.replace(CONFIG, **{"iterations": 2, "grid_n": 3, "thresholds": (0.1, 1.0)} | changes)
    return IWOCS(
        settings, Setting(spaces, seed, torch.device("cpu"), env, perturbed_envs=perturbed_envs, engine=engine)
    )


def plain(value):
    """Nested state as lists, so that == compares every bit."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def saved_in_every_part(straight, part_of, folder):
    """Run to the end; return its parts, and save the state one step into each, in a file by its number."""
    parts = []
    for _ in range(2000):
        if (part := part_of(straight)) not in parts:
            straight.step()
            torch.save(straight.state_dict(), folder / f"{len(parts)}.pt")
            parts.append(part)
        if straight.step().done:
            break
    return parts


def assert_the_same_run_from(parts, straight, folder, options):
    for number, part in enumerate(parts):
        resumed = real_agent(seed=1, **options)
        resumed.search_seeds, resumed.held_out_seeds = straight.search_seeds, straight.held_out_seeds
        resumed.setting = dataclasses.replace(resumed.setting, seed=0)
        resumed.load_state_dict(torch.load(folder / f"{number}.pt", weights_only=True))
        finish(resumed)
        assert plain(resumed.state_dict()) == plain(straight.state_dict()), part
        assert resumed.path == straight.path


def played_alike_alone(agent):
    """Return the agent's composite and that of its policy loaded by itself, after episodes that both played alike."""
    alone = IWOCSPolicy(agent.config, agent.setting.spaces)
    alone.load_state_dict(agent.policy.state_dict())
    points = find_set("inverted-pendulum-2").grid(3, closed=True)
    policies = [agent.stateful(), alone.stateful()]
    played = [agent.perturbed_envs.play(policy, points, [1]) for policy in policies]
    assert played[0].returns.tolist() == played[1].returns.tolist()
    assert_close(policies[0].fractions, policies[1].fractions)
    return policies
