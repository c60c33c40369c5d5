"""Time of a replicate-round: 32 replicates as one batch against a loop of one, as the published code is written.

    python benchmarks/neural_bandits_speed.py

The loop is a PyTorch module with autograd, an optimiser, a forward pass per arm and for NeuralUCB a backward pass per
arm; the same network, schedule and minibatches as the batch. All on one thread; ratios are of CPU time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import tyro
from neural_bandits import make
from record import record
from torch import Tensor, nn

from surefoot.envs.tasks.classification import load_classes

WIDTH, UPDATES, BATCH, RATE = 100, 5, 32, 0.1  # the defaults of RegressionConfig


class Loop:
    """One replicate of a classification bandit with block-encoded arms, round by round."""

    def __init__(self, data: str, seed: int = 0) -> None:
        self.classes = load_classes(data)
        self.arms, self.features = len(self.classes.names), self.classes.features.shape[1]
        self.rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.order = self.rng.permutation(len(self.classes.labels))
        width = self.arms * self.features
        self.net = nn.Sequential(nn.Linear(width, WIDTH, bias=False), nn.ReLU(), nn.Linear(WIDTH, 1, bias=False))
        self.start = [p.detach().clone() for p in self.net.parameters()]
        self.optimiser = torch.optim.SGD(self.net.parameters(), lr=RATE)
        self.contexts: list[Tensor] = []
        self.targets: list[float] = []
        self.design = torch.full((sum(p.numel() for p in self.net.parameters()),), 0.1)
        self.regret = 0.0

    def encoded(self, row: int) -> list[Tensor]:
        """Return the K inputs of a row, its features in the arm's block."""
        x = torch.from_numpy(self.classes.features[row])
        inputs = []
        for arm in range(self.arms):
            wide = torch.zeros(self.arms * self.features)
            wide[arm * self.features : (arm + 1) * self.features] = x
            inputs.append(wide)
        return inputs

    def train(self, kl: bool, penalty: float) -> None:
        for _ in range(UPDATES):
            index = self.rng.integers(len(self.targets), size=BATCH)
            index[0] = len(self.targets) - 1
            x = torch.stack([self.contexts[i] for i in index])
            y = torch.tensor([self.targets[i] for i in index])
            f = self.net(x).squeeze(1)
            distance = sum(((p - q) ** 2).sum() for p, q in zip(self.net.parameters(), self.start, strict=True))
            if kl:
                p = f.sigmoid()
                loss = nn.functional.binary_cross_entropy_with_logits(f, y)
                loss = loss + 0.5 * penalty * (p * (1 - p)).mean() * distance
            else:
                loss = 0.5 * ((f - y) ** 2).mean() + 0.5 * penalty * distance
            self.optimiser.zero_grad()
            loss.backward()
            self.optimiser.step()

    def inverse_gap(self, t: int, kl: bool) -> None:
        """Play one round of NeuSquareCB or NeuFastCB."""
        row = self.order[t % len(self.order)]
        inputs = self.encoded(row)
        with torch.no_grad():
            output = np.array([self.net(x).item() for x in inputs])
        losses = 1 / (1 + np.exp(-output)) if kl else output.clip(0, 1)
        best, gamma = int(losses.argmin()), (10.0 if kl else 20.0) * np.sqrt(t + 1)
        gap = losses - losses[best]
        p = losses[best] / (self.arms * losses[best] + gamma * gap) if kl else 1 / (self.arms + gamma * gap)
        p[best] = 0.0
        p[best] = max(0.0, 1 - p.sum())
        self.finish(row, inputs, int(self.rng.choice(self.arms, p=p / p.sum())), loss=True)
        self.train(kl, 0.01 / np.sqrt(WIDTH))

    def neural_ucb(self, t: int) -> None:
        """Play one round of NeuralUCB with a diagonal design matrix."""
        row = self.order[t % len(self.order)]
        inputs, values, gradients = self.encoded(row), [], []
        for x in inputs:
            self.net.zero_grad()
            f = self.net(x)
            f.backward()
            gradients.append(torch.cat([p.grad.flatten() for p in self.net.parameters()]))  # type: ignore[union-attr]
            values.append(f.item() + (0.1 * 0.001 * (gradients[-1] ** 2 / self.design).sum()).sqrt().item())
        arm = int(np.argmax(values))
        self.design += gradients[arm] ** 2
        self.finish(row, inputs, arm, loss=False)
        self.train(kl=False, penalty=0.0)

    def finish(self, row: int, inputs: list[Tensor], arm: int, *, loss: bool) -> None:
        wrong = float(self.classes.labels[row] != arm)
        self.regret += wrong
        self.contexts.append(inputs[arm])
        self.targets.append(wrong if loss else 1 - wrong)


LOOPS: dict[str, Callable[[Loop, int], None]] = {
    "neusquarecb": lambda loop, t: loop.inverse_gap(t, kl=False),
    "neufastcb": lambda loop, t: loop.inverse_gap(t, kl=True),
    "neural-ucb": lambda loop, t: loop.neural_ucb(t),
}


def repeat(one: Callable[[Loop, int], None], loop: Loop, rounds: int) -> None:
    for t in range(rounds):
        one(loop, t)


def cpu_us(work: Callable[[], Any], replicate_rounds: int) -> float:
    """Return CPU microseconds of a replicate-round."""
    began = time.process_time()
    work()
    return round((time.process_time() - began) / replicate_rounds * 1e6, 1)


@dataclass
class Options:
    """What to time."""

    replicates: int = 32
    rounds: int = 100
    loop_rounds: int = 60


def main(options: Options) -> None:
    torch.set_num_threads(1)
    began, cells = time.perf_counter(), {}
    for data in ("digits", "breast-cancer", "wine"):
        for name, one in LOOPS.items():
            loop, n, rounds = Loop(data), options.replicates, options.rounds
            slow = cpu_us(partial(repeat, one, loop, options.loop_rounds), options.loop_rounds)
            fast = cpu_us(make(name, {"data": data}, rounds, n).step, rounds * n)
            cells[f"{data}/{name}"] = {"loop_us": slow, "batch_us": fast, "ratio": round(slow / fast, 1)}
            print(data, name, cells[f"{data}/{name}"], flush=True)
    record("neural_bandits_speed", {"replicates": options.replicates, "cells": cells}, began=began, seeds=[0])


if __name__ == "__main__":
    main(tyro.cli(Options))
