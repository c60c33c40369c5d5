"""Contextual bandits for N replicates at a time: classification data, and synthetic problems whose optimum is known.

The tasks: docs/derivations/neural_bandits.md §9.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.envs.tasks.classification import Classes, load_classes
from surefoot.envs.tensor_env import State, TensorEnv

BLOCK = 64  # rounds that are drawn at a time


class Problem(NamedTuple):
    """A synthetic problem: unit vectors w, contexts from normal numbers (…, d), and the mean loss given <w, x>."""

    contexts: Callable[[np.ndarray], np.ndarray]
    mean_loss: Callable[[np.ndarray], np.ndarray]


def _on_the_sphere(z: np.ndarray) -> np.ndarray:
    unit: np.ndarray = z / np.linalg.norm(z, axis=-1, keepdims=True)
    return unit


PROBLEMS = {
    # x ~ N(0, 1.5²/d), h = σ(3<w, x>)
    "logistic": Problem(lambda z: 1.5 / np.sqrt(z.shape[-1]) * z, lambda u: 1 / (1 + np.exp(-3 * u))),
    "linear": Problem(_on_the_sphere, lambda u: 0.5 + 0.5 * u),
    "cosine": Problem(_on_the_sphere, lambda u: 0.5 + 0.5 * np.cos(4 * u)),
    "square": Problem(_on_the_sphere, lambda u: 1 - u**2),
}


class ContextualBandit(TensorEnv):
    """A new context every round; the loss of the arm that is played, in [0, 1], and of no other. Reward: 1 − loss.

    With `data` (`classification.load_classes`) all K arms share a row's features, (N, d), the arms are the classes, and
    the loss is 0 for the row's own. Replicates go through the rows in orders of their own, anew at every pass. With
    `problem` each arm has a vector of its own, observed side by side, (N, K·d), and losses are Bernoulli(h(x)); the
    hidden w is another in every replicate.

    `info` holds `gap`, the mean loss of the arm minus that of the best one, and `best_mean_reward`, each (N,).
    Environments are replicates: contexts and losses of environment i depend on (seed, i) and its actions alone.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        data: str | None = None,
        labels: str | None = None,
        label_column: int = -1,
        problem: str = "logistic",
        arms: int = 5,
        features: int = 10,
        **kwargs: Any,
    ):
        self.shared = data is not None
        self._classes = load_classes(data, labels, label_column) if data is not None else None
        if self._classes is not None:
            arms, features = len(self._classes.names), self._classes.features.shape[1]
        if problem not in PROBLEMS:
            raise ValueError(f"unknown problem {problem!r}; choose one of {', '.join(PROBLEMS)}, or give data")
        if arms < 2 or features < 1:
            raise ValueError(f"{arms} arm(s) with {features} feature(s); needed are at least 2 and 1")
        self.arms, self.features, self.problem = arms, features, PROBLEMS[problem]
        width = features if self.shared else arms * features
        space = gym.spaces.Box(-np.inf, np.inf, (width,), np.float32)
        super().__init__(space, gym.spaces.Discrete(arms), num_envs, **kwargs)
        self._never = torch.zeros(num_envs, dtype=torch.bool, device=self.device)
        self._restart(0)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
        """Start every replicate at its first round; a seed decides all that follows, no seed draws another."""
        if seed is not None:
            self.generator.manual_seed(seed)
        self._restart(int(torch.randint(2**62, (), generator=self.generator, device=self.device)))
        return super().reset(options=options)

    def _restart(self, key: int) -> None:
        self.key, self.position = key, 0
        self._block: tuple[Tensor, ...] = ()
        self._now = self._next()

    def draw_state(self) -> State:
        """The round under way: an episode's end changes nothing about what comes."""
        return self._now

    def observe(self, state: State) -> Tensor:
        return state[0]

    def advance(self, state: State, action: Tensor) -> tuple[State, Tensor, Tensor]:
        _, mean_loss, threshold = state
        mean = mean_loss.gather(1, action[:, None].long()).squeeze(1)
        best = mean_loss.amin(1)
        self.extra_info = {"gap": mean - best, "best_mean_reward": 1 - best}
        self._now = self._next()
        return self._now, 1 - (threshold < mean).double(), self._never

    def _next(self) -> State:
        """Return contexts (N, obs), mean losses (N, K) and the uniform numbers (N,) that decide the losses."""
        offset = self.position % BLOCK
        if offset == 0 or not self._block:
            drawn = self._draw(self.position // BLOCK)
            self._block = tuple(torch.from_numpy(values).to(self.device) for values in drawn)
        self.position += 1
        return tuple(values[:, offset] for values in self._block)

    def _draw(self, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        draw = self._rows if self._classes is not None else self._synthetic
        drawn = [draw(replicate, block) for replicate in range(self.num_envs)]
        contexts, mean_loss, threshold = (np.stack(values) for values in zip(*drawn, strict=True))
        return contexts.astype(np.float32), mean_loss, threshold

    def _synthetic(self, replicate: int, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a block of rounds of one replicate."""
        w = _on_the_sphere(self._stream(replicate, 0).standard_normal(self.features))
        generator = self._stream(replicate, 1, block)
        x = self.problem.contexts(generator.standard_normal((BLOCK, self.arms, self.features)))
        return x.reshape(BLOCK, -1), self.problem.mean_loss(x @ w), generator.random(BLOCK)

    def _rows(self, replicate: int, block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a block of rows of the data, in the replicate's order of each pass."""
        classes: Classes = self._classes  # type: ignore[assignment]
        size = len(classes.labels)
        places = np.arange(block * BLOCK, (block + 1) * BLOCK)
        order = np.concatenate(
            [self._order(replicate, p, size) for p in range(places[0] // size, places[-1] // size + 1)]
        )
        rows = order[places - places[0] // size * size]
        losses = 1.0 - np.eye(self.arms)[classes.labels[rows]]
        return classes.features[rows], losses, np.full(BLOCK, 0.5)

    def _order(self, replicate: int, lap: int, size: int) -> np.ndarray:
        return self._stream(replicate, 2, lap).permutation(size)

    def _stream(self, *path: int) -> np.random.Generator:
        """Return a generator whose numbers depend on the seed and the path alone."""
        return np.random.default_rng([self.key, *path])

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"key": self.key, "position": self.position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.key, self.position, self._block = state["key"], state["position"] - 1, ()
        if self.position % BLOCK:
            self._block = tuple(torch.from_numpy(x).to(self.device) for x in self._draw(self.position // BLOCK))
        self._now = self._next()
