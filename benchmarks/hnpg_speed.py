"""Time of one outer iteration of HNPG at H = 10, batch 1000: stacked, against the plain loop, and for several seeds.

Process CPU time on one thread, the median over repetitions, since the machine may be shared.

    python benchmarks/hnpg_speed.py [--repeat 7]
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import tyro
from hnpg_lock import lock, make_agent
from plain_hnpg import Policy, Rows, iteration, mlp, value, value_in_batches
from record import record

from surefoot.envs import make_vec
from surefoot.training.loop.behaviour import record_behaviour

HORIZON, EPISODES = 10, 100


def timed(call: Callable[[], Any], repeat: int) -> float:
    """Return the median CPU seconds of a call, after one that is not counted."""
    call()
    seconds = []
    for _ in range(repeat):
        began = time.process_time()
        call()
        seconds.append(time.process_time() - began)
    return statistics.median(seconds)


def plain(repeat: int, evaluate: Callable[..., torch.Tensor]) -> float:
    """Return the time of the plain loop's iteration, with one of its two ways to V(s)."""
    env, _ = lock(f"h{HORIZON}")
    data = record_behaviour(env, 20_000, seed=0)
    fields = (data.obs[:, :-1], data.action, data.reward, data.next_obs[:, :-1])
    rows = [Rows(*(field[h::HORIZON] for field in fields)) for h in range(HORIZON)]
    width = rows[0].obs.shape[1]
    policies = [Policy(width, 10, (16, 16)) for _ in range(HORIZON)]
    critics = [mlp(width + 10, (64, 64), 1) for _ in range(HORIZON)]
    single = make_vec(type(env)(env.id, kwargs=env.kwargs))
    return timed(lambda: iteration(single, policies, critics, rows, EPISODES, evaluate), repeat)


def main(repeat: int = 7) -> None:
    """Measure all, the plain loop with fewer repetitions."""
    began = time.perf_counter()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    env, _ = lock(f"h{HORIZON}")
    stacked = {s: timed(make_agent(env, "hnpg", HORIZON, s, 20_000).step, repeat) for s in (1, 2, 5)}
    loop, batched = (plain(max(1, repeat // 3), evaluate) for evaluate in (value, value_in_batches))
    figures = {
        "cpu_seconds": {
            "plain": loop,
            "plain_batched_values": batched,
            **{f"stacked_{s}_seeds": x for s, x in stacked.items()},
        },
        "plain_over_stacked": round(loop / stacked[1], 1),
        "plain_batched_values_over_stacked": round(batched / stacked[1], 1),
        "two_seeds_over_one": round(stacked[2] / stacked[1], 2),
        "five_seeds_over_one": round(stacked[5] / stacked[1], 2),
    }
    record("hnpg_speed", figures, began=began, seeds=[0])


if __name__ == "__main__":
    tyro.cli(main)
