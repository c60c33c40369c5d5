"""NORA and its family against the reference measurements of docs/derivations/nora.md §12; cells have its labels.

    python benchmarks/nora.py                 # §12.1, §12.2 and the ablations: 10 replicates of every cell
    python benchmarks/nora.py --part long     # §12.3, tables: RiverSwim T = 10,000, switch growth, DeepSea 20 and 30
    python benchmarks/nora.py --part tetris   # §12.4, linear features: Tetris, with and without offline data

A cell is one call: its replicates are the sub-environments of one environment. Regret is exact, of the policies that
were played.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import tyro
from record import record

from surefoot import agents
from surefoot.agents.interface import Setting, Spaces
from surefoot.agents.parts.tabular import expected_return
from surefoot.envs import EnvConfig, make_vec
from surefoot.evaluation.regret import last_decade_slope
from surefoot.training.loop.behaviour import record_behaviour

LOCK = ("DiabolicalLock", {"horizon": 8, "actions": 4})
RIVER = ("RiverSwim", {"states": 6, "horizon": 20})
LINEAR = ("LinearMDP", {})
WORST_ETA = math.sqrt(2 * 8 * 3 * 4 * math.log2(1000) * math.log(4) / (8**2 * 1000))  # E9
OFF = {"optimism": "none"}
NOAH = {"variant": "noah", "policy_step_size": 1.0}
STAR = {"variant": "noah-star"}


def sea(size: int) -> tuple[str, dict[str, Any]]:
    return "DeepSea", {"size": size}


def steps(bonus: float, **rest: Any) -> dict[str, Any]:
    """Return settings with the width H − h + 1 in the bonus, as the reference measurements have it."""
    return {"bonus": bonus, "bonus_width": "steps", **rest}


@dataclass(frozen=True)
class Cell:
    """One call: a task, T episodes, settings, offline episodes for each replicate (number, ε), the reference."""

    task: tuple[str, dict[str, Any]]
    episodes: int
    agent: dict[str, Any]
    data: tuple[int, float] | None = None
    reference: float | None = None  # regret; for Tetris the reward per step of the last 50 episodes
    accept: tuple[float, float] = (0.0, math.inf)  # of the mean regret
    reference_greedy: float | None = None  # V of the greedy policy of the last critic


CELLS = {
    "L1 lock NORA": Cell(LOCK, 1000, steps(0.03), reference=129, accept=(0, 220)),
    "L1 lock NORA, bonus in units of the clip range": Cell(LOCK, 1000, {"bonus": 0.03}, accept=(0, 220)),
    "L1 lock bonus off": Cell(LOCK, 1000, OFF, reference=950, accept=(902, math.inf)),
    "L1 lock plain AC": Cell(
        LOCK, 2000, {"variant": "plain-ac", "policy_step_size": 1.0}, reference=1900, accept=(1805, math.inf)
    ),
    "L1 lock ε-greedy": Cell(LOCK, 2000, {"variant": "eps-greedy"}, reference=1900, accept=(1805, math.inf)),
    "L2 RiverSwim NORA c=.1": Cell(
        RIVER, 2000, {"bonus": 0.1, "policy_step_size": 1.0}, reference=1448, accept=(0, 2000)
    ),
    "L2 RiverSwim NORA c=.03": Cell(
        RIVER, 2000, {"bonus": 0.03, "policy_step_size": 1.0}, reference=514, accept=(0, 900)
    ),
    "L2 RiverSwim DOUHUA": Cell(
        RIVER, 2000, {"variant": "douhua", "bonus": 0.1, "policy_step_size": 1.0}, reference=1182, accept=(0, 1800)
    ),
    "L2 RiverSwim UCBVI": Cell(RIVER, 2000, {"variant": "lsvi-ucb", "bonus": 0.1}, reference=1162, accept=(0, 1800)),
    "L2 RiverSwim OPPO-like": Cell(RIVER, 2000, {"variant": "oppo", "bonus": 0.1}),
    "L2 RiverSwim ε-greedy": Cell(RIVER, 2000, {"variant": "eps-greedy"}, reference=6612, accept=(4000, math.inf)),
    "L2 RiverSwim plain AC": Cell(RIVER, 2000, {"variant": "plain-ac", "policy_step_size": 1.0}, reference=4780),
    "L3 DeepSea NORA": Cell(sea(15), 1000, steps(0.01), reference=163, accept=(0, 280)),
    "L3 DeepSea NORA, bonus in units of the clip range": Cell(sea(15), 1000, {"bonus": 0.01}, accept=(0, 280)),
    "L3 DeepSea bonus off": Cell(sea(15), 1000, OFF, reference=994, accept=(950, math.inf)),
    "L4 DeepSea no reset": Cell(sea(15), 1000, steps(0.01, reset=False), reference=308),
    "L4 DeepSea uniform episode after resets": Cell(sea(15), 1000, steps(0.01, mirror_first=False), reference=204),
    "L4 DeepSea no reset, bonus in units of the clip range": Cell(sea(15), 1000, {"bonus": 0.01, "reset": False}),
    "L4 lock no reset": Cell(LOCK, 1000, steps(0.03, reset=False), reference=114),
    "L4 DeepSea planned every episode": Cell(sea(15), 1000, steps(0.01, switch="every")),
    "L5 bandit T=400": Cell(("GapBandit", {"actions": 8, "rounds": 400}), 400, {"bonus": 0.5}, reference=41),
    "L5 bandit T=1600": Cell(("GapBandit", {"actions": 8, "rounds": 1600}), 1600, {"bonus": 0.5}, reference=80),
    "L5 bandit T=6400": Cell(("GapBandit", {"actions": 8, "rounds": 6400}), 6400, {"bonus": 0.5}, reference=152),
    "L6 lock hybrid ε=1/H": Cell(LOCK, 1000, steps(0.03), (100, 0.125), reference=71),
    "L6 lock hybrid ε=½": Cell(LOCK, 1000, steps(0.03), (100, 0.5), reference=44),
    "L6 lock hybrid uniform": Cell(LOCK, 1000, steps(0.03), (100, 1.0), reference=54),
    "L7 lock NOAH* no data": Cell(LOCK, 1000, OFF, reference=950, accept=(900, math.inf)),
    "L7 lock NOAH* 10 episodes ε=1/H": Cell(LOCK, 1000, STAR, (10, 0.125), reference=3.7, accept=(0, 40)),
    "L7 lock NOAH* ε=1/H": Cell(LOCK, 1000, STAR, (100, 0.125), reference=0, accept=(0, 5)),
    "L7 lock NOAH* ε=½": Cell(LOCK, 1000, STAR, (100, 0.5), reference=192),
    "L7 lock NOAH* uniform": Cell(LOCK, 1000, STAR, (100, 1.0), reference=950, accept=(900, math.inf)),
    "L8 lock NOAH ε=1/H": Cell(LOCK, 1000, NOAH, (100, 0.125), reference=13.3, accept=(0, 40)),
    "L8 lock NOAH uniform": Cell(LOCK, 1000, NOAH, (100, 1.0), reference=950, accept=(900, math.inf)),
    "L9 RiverSwim NORA": Cell(RIVER, 1000, {"bonus": 0.1}, reference=958),
    "L9 RiverSwim hybrid ε=1/H": Cell(RIVER, 1000, {"bonus": 0.1}, (100, 0.05), reference=962),
    "L9 RiverSwim hybrid ε=½": Cell(RIVER, 1000, {"bonus": 0.1}, (100, 0.5), reference=720),
    "L9 RiverSwim hybrid uniform": Cell(RIVER, 1000, {"bonus": 0.1}, (100, 1.0), reference=691),
    "L9 RiverSwim NOAH* no data": Cell(RIVER, 1000, OFF, reference=2465, accept=(1300, math.inf)),
    "L9 RiverSwim NOAH* ε=1/H": Cell(RIVER, 1000, STAR, (100, 0.05), reference=5.4, accept=(0, 60)),
    "L9 RiverSwim NOAH* ε=½": Cell(RIVER, 1000, STAR, (100, 0.5), reference=205, accept=(0, 700)),
    "L9 RiverSwim NOAH* uniform": Cell(RIVER, 1000, STAR, (100, 1.0), reference=2691, accept=(1300, math.inf)),
    "L10 linear MDP NORA": Cell(
        LINEAR, 1500, {"critic": "linear", "bonus": 0.3, "policy_step_size": 5.0}, reference=69, accept=(0, 160)
    ),
    "L10 linear MDP LSVI-UCB": Cell(
        LINEAR, 1500, {"critic": "linear", "bonus": 0.3, "variant": "lsvi-ucb"}, reference=100
    ),
    "P8 DeepSea 10 c=.01": Cell(sea(10), 1000, steps(0.01), reference=41),
    "P8 DeepSea 10 c=.03": Cell(sea(10), 1000, steps(0.03), reference=167),
    "P8 DeepSea 10 c=.1, range H": Cell(sea(10), 1000, {"bonus": 0.1, "reward_range": (-0.01, 1.0)}, reference=546),
    "P9 lock η=.1": Cell(LOCK, 1000, steps(0.03, policy_step_size=0.1), reference=947),
    "P9 lock worst-case η": Cell(LOCK, 1000, steps(0.03, policy_step_size=WORST_ETA), reference=863),
}
SWITCH_EPISODES = (500, 1000, 2000, 4000, 8000)
LONG = {
    "RiverSwim T=10000": Cell(RIVER, 10_000, {"bonus": 0.1, "policy_step_size": 1.0}, reference=2341),
    "DeepSea 20 T=1500": Cell(sea(20), 1500, steps(0.01, policy_step_size=30.0), reference=515),
    "DeepSea 20 T=1500, bonus off": Cell(sea(20), 1500, OFF | {"policy_step_size": 30.0}, reference=1489),
    "DeepSea 30 T=3000": Cell(sea(30), 3000, steps(0.005, policy_step_size=30.0), reference=1010),
    "linear MDP T=10000": Cell(LINEAR, 10_000, {"critic": "linear", "bonus": 0.3, "policy_step_size": 5.0}),
} | {f"switches T={t}": Cell(RIVER, t, {"bonus": 0.1, "policy_step_size": 1.0}) for t in SWITCH_EPISODES}
PLAIN = {"critic": "linear", "policy_step_size": 20.0, "total_log_det": 4.0, "pooled": True}
TETRIS = ("Tetris", {"width": 6, "horizon": 40})
TETRIS_CELLS = {
    "NORA": Cell(TETRIS, 100, PLAIN | {"bonus": 0.1}, reference=-0.244, reference_greedy=-7.9),
    "hybrid NORA": Cell(TETRIS, 100, PLAIN | {"bonus": 0.1}, (200, 1.0), reference=-0.126, reference_greedy=-4.9),
    "NOAH*": Cell(TETRIS, 100, PLAIN | {"variant": "noah-star"}, (200, 1.0), reference=-0.138, reference_greedy=-4.8),
    "NOAH*, no intercept": Cell(
        ("Tetris", TETRIS[1] | {"intercept": False}),
        100,
        PLAIN | {"variant": "noah-star"},
        (200, 1.0),
        reference=-0.141,
        reference_greedy=-4.8,
    ),
    "no optimism, no data": Cell(TETRIS, 100, PLAIN | OFF, reference=-0.245, reference_greedy=-5.2),
}


def play(cell: Cell, replicates: int, seed: int) -> dict[str, Any]:
    """Return a cell's numbers, mean and range over replicates."""
    name, kwargs = cell.task
    config = EnvConfig(f"surefoot/{name}-v0", num_envs=replicates, time_aware=True, kwargs=kwargs)
    env, spec, data = make_vec(config), agents.get("nora"), None
    if cell.data is not None:
        data = record_behaviour(config, cell.data[0] * replicates, seed=seed, epsilon=cell.data[1])
    settings = replace(spec.default, episodes=cell.episodes, offline="split", **cell.agent)
    spaces = Spaces(env.single_observation_space, env.single_action_space)
    agent: Any = spec.make_agent(settings, Setting(spaces, seed, torch.device("cpu"), env, data))
    total, returns = [], []
    for _ in range(cell.episodes):
        before = agent.regret.reward.clone()
        agent.step()
        total.append(agent.regret.total.clone())
        returns.append(agent.regret.reward - before)
    return figures(cell, agent, torch.stack(total), torch.stack(returns))


def figures(cell: Cell, agent: Any, total: torch.Tensor, returns: torch.Tensor) -> dict[str, Any]:
    """Return what is reported of regret (T, N) and returns (T, N)."""
    last, tenth = total[-1], max(1, cell.episodes // 10)
    rounds, curve = agent.regret.trace()
    coverage = agent.coverage
    return {
        "regret": spread(last),
        "last_tenth": spread((last - total[-tenth - 1]) / tenth),
        "slope": round(last_decade_slope(np.array(rounds), curve.numpy()), 3),
        "switches": spread(agent.switches.double()),
        "reward_a_step": [round(float(part.mean()) / agent.env.horizon, 4) for part in (returns[:10], returns[-50:])],
        "covered_fraction": None if coverage is None else spread(coverage.covered),
        "greedy": round(greedy_value(agent), 4),
        "reference_greedy": cell.reference_greedy,
        "reference": cell.reference,
        "accepted": cell.accept[0] <= float(last.mean()) <= cell.accept[1],
        "episodes": cell.episodes,
    }


def greedy_value(agent: Any) -> float:
    """Return the exact V of the first replicate's most likely actions."""
    actions = agent.mdp.reward.shape[2]
    policy = torch.nn.functional.one_hot(agent.best_actions().long(), actions).double()
    return float(expected_return(agent.mdp, policy))


def spread(values: torch.Tensor) -> dict[str, float]:
    """Return mean, standard error and range over replicates."""
    error = float(values.std()) / len(values) ** 0.5
    named = {"mean": float(values.mean()), "error": error, "low": float(values.min()), "high": float(values.max())}
    return {name: round(value, 4) for name, value in named.items()}


@dataclass
class Options:
    """What to run."""

    part: Literal["short", "long", "tetris"] = "short"
    replicates: int = 10
    """Of every cell; Tetris takes at most 3."""
    seed: int = 0


def main(options: Options) -> None:
    torch.set_num_threads(1)
    began = time.perf_counter()
    cells = {"short": CELLS, "long": LONG, "tetris": TETRIS_CELLS}[options.part]
    replicates = min(options.replicates, 3) if options.part == "tetris" else options.replicates
    table = {}
    for name, cell in cells.items():
        table[name] = play(cell, replicates, options.seed)
        print(name, table[name]["regret"], table[name]["reference"], flush=True)
    record(f"nora_{options.part}", {"replicates": replicates, "cells": table}, began=began, seeds=[options.seed])


if __name__ == "__main__":
    main(tyro.cli(Options))
