"""The worker of throughput.py for SBX: run by the Python of its own environment, which has neither us nor our packages.

Reads a number of steps per line and answers the seconds they took.
"""

import importlib.metadata
import os
import sys
import time

threads = int(sys.argv[1])
os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))  # JAX takes as many threads as it has CPUs

from sbx import SAC  # noqa: E402 - the threads first

WARM_UP = 600


def seconds_of(model: SAC, steps: int) -> float:
    seconds_so_far = time.process_time if threads == 1 else time.perf_counter  # as in throughput.py
    began = seconds_so_far()
    model.learn(steps, reset_num_timesteps=False, log_interval=1000)
    return seconds_so_far() - began


model = SAC("MlpPolicy", "HalfCheetah-v5", learning_starts=100, seed=0)
seconds_of(model, WARM_UP)
print("ready", importlib.metadata.version("sbx-rl"), flush=True)
for line in sys.stdin:
    print(seconds_of(model, int(line)), flush=True)
