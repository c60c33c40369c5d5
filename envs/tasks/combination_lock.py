"""The continuous combination lock and its image form: exploration that fails at any single wrong step.

Zhou, Sekhari, Song, Sun, "Offline Data Enhanced On-Policy Policy Gradient with Provable Guarantees", arXiv 2311.08384,
after Misra et al. 2020 and the authors' code; docs/derivations/hnpg.md §8. Latents: 0 = A and 1 = B (good), 2 = C
(dead, for ever).

| derivation | paper | here |
|---|---|---|
| §8.1 code words | appendix E.1 | `draw_codes` |
| (8.1) the latent action | section 6.1, without temperature | `Lock._pick` |
| §8.1, return (8.3): transition and reward | appendix E.1 | `Lock.advance` |
| (8.4), (8.5) observation | appendix E.1 | `observation_width`, `hadamard`, `rotated_view` |
| §8.4, success (8.8): behaviour | section 6 | `Lock.behaviour`, `Lock.behaviour_epsilon` |
| §8.3, stand-in (8.7): images | section 6.2 | `ImageLock`, `load_embeddings`, `synthetic_embeddings` |
"""

from __future__ import annotations

import math
from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from surefoot.envs.npz_files import read_npz
from surefoot.envs.tensor_env import State, TensorEnv

DEAD = 2
ACTIONS = 10  # the authors': latent actions, and the width of an action vector
TEMPERATURE = (
    0.1  # of the softmax that picks a latent action; without it a one-hot action would be right 23 % of the time
)
RewardMode = Literal["terminal", "transition"]


def draw_codes(horizon: int, seed: int, actions: int = ACTIONS) -> Tensor:
    """Return the code words (3, H): rows A, B, and B again for C, where the behaviour policy still follows it."""
    codes = torch.randint(actions, (2, horizon), generator=torch.Generator().manual_seed(seed))
    return codes[[0, 1, 1]]


def observation_width(horizon: int) -> int:
    """Return D, the power of two from H + 4 on."""
    return 1 << math.ceil(math.log2(horizon + 4))


def hadamard(width: int) -> Tensor:
    """Return Sylvester's ±1 matrix (D, D), unnormalised; D is a power of two."""
    matrix, core = torch.ones(1, 1), torch.tensor([[1.0, 1.0], [1.0, -1.0]])
    while len(matrix) < width:
        matrix = torch.kron(core, matrix)
    return matrix


def rotated_view(state: State, rotation: Tensor) -> Tensor:
    """Return (one-hot latent, one-hot step, both plus noise (N, H + 3), zeros) times a symmetric `rotation`, (N, D)."""
    latent, h, noise = state
    z = torch.nn.functional.pad(noise, (0, len(rotation) - noise.shape[1]))
    return z.scatter_add(1, torch.stack([latent, 3 + h], 1), torch.ones_like(z[:, :2])) @ rotation


class Lock(TensorEnv):
    """The latent dynamics, actions and rewards; observations are a subclass's. State: latent, step h, both (N,), more.

    An episode takes H steps, dead or not. An action (N, 10) is any vector, neither clipped nor rescaled; the latent
    action is drawn from softmax(action / 0.1). Return: 1 for H right actions, else 0.1 or 0 with equal chance:
    `terminal` (the authors' code) pays the 0.1 at the last step, `transition` (their paper) where the agent falls.

    Args:
        width: of an observation.
        num_envs: how many locks side by side.
        horizon: steps of an episode (H).
        code_seed: of the code words.
        reward_mode: when the anti-reward is paid.
        actions: latent actions, and numbers of an action vector.
        switch_chance: probability that a right action leads to the other good latent.
        anti_reward: what is paid for a wrong action.
        anti_chance: probability that it is paid.

    Raises:
        ValueError: a horizon below 1, fewer than two actions, no probability, an unknown reward mode.
    """

    success_return = 1.0

    def __init__(
        self,
        width: int,
        num_envs: int,
        *,
        horizon: int,
        code_seed: int = 0,
        reward_mode: RewardMode = "terminal",
        actions: int = ACTIONS,
        switch_chance: float = 0.5,
        anti_reward: float = 0.1,
        anti_chance: float = 0.5,
        **kwargs: Any,
    ):
        _require_lock(horizon, reward_mode, actions, {"switch_chance": switch_chance, "anti_chance": anti_chance})
        observations = gym.spaces.Box(-np.inf, np.inf, (width,), np.float32)
        vectors = gym.spaces.Box(-np.inf, np.inf, (actions,), np.float32)
        super().__init__(observations, vectors, num_envs, **kwargs)
        self.horizon, self.reward_mode, self.actions = horizon, reward_mode, actions
        self.switch_chance, self.anti_reward, self.anti_chance = switch_chance, anti_reward, anti_chance
        self.codes = draw_codes(horizon, code_seed, actions).to(self.device)

    @abstractmethod
    def draw_view(self, latent: Tensor, h: Tensor) -> Tensor:
        """What an observation of (latent, h) needs by chance (N, …), drawn once a visit and kept in the state."""

    def draw_state(self) -> State:
        latent = (self._uniform() < 0.5).long()
        h = torch.zeros_like(latent)
        return latent, h, self.draw_view(latent, h)

    def advance(self, state: State, action: Tensor) -> tuple[State, Tensor, Tensor]:
        latent, h = state[:2]
        last = h == self.horizon - 1
        good = latent != DEAD
        correct = good & (self._pick(action) == self.codes[latent, h])
        switched = torch.where((self._uniform() < self.switch_chance) & ~last, 1 - latent, latent)
        following = torch.where(correct, switched, DEAD)
        falls = last & ~correct if self.reward_mode == "terminal" else good & ~correct
        bait = self.anti_reward * (falls & (self._uniform() < self.anti_chance))
        h = h + 1
        return (following, h, self.draw_view(following, h)), (correct & last) + bait, last

    def behaviour(self, epsilon: float, generator: torch.Generator) -> Tensor:
        """Return actions (N, A) of the recorded behaviour: one-hot and right, with chance ε uniform on [0, 1]^A."""
        latent, h = self._state[:2]
        right = torch.nn.functional.one_hot(self.codes[latent, h], self.actions).float()
        random = torch.rand(right.shape, generator=generator, device=self.device)
        explores = torch.rand(self.num_envs, 1, generator=generator, device=self.device) < epsilon
        return torch.where(explores, random, right)

    @property
    def behaviour_epsilon(self) -> float:
        """ε of the paper's data."""
        return 1.0 / self.horizon

    def _pick(self, action: Tensor) -> Tensor:
        """Latent actions (N,) ~ softmax(action / T), as the winner of an exponential race."""
        weight = (action / TEMPERATURE).softmax(-1)
        race = torch.empty_like(weight).exponential_(generator=self.generator)
        return (weight / race).argmax(-1)

    def _uniform(self) -> Tensor:
        return torch.rand(self.num_envs, generator=self.generator, device=self.device)


def _require_lock(horizon: int, reward_mode: str, actions: int, chances: dict[str, float]) -> None:
    if horizon < 1:
        raise ValueError(f"--env.kwargs horizon must be at least 1, got {horizon}")
    if reward_mode not in ("terminal", "transition"):
        raise ValueError(f"--env.kwargs reward_mode must be terminal or transition, got {reward_mode!r}")
    if actions < 2:
        raise ValueError(f"--env.kwargs actions must be at least 2, got {actions}")
    for name, chance in chances.items():
        if not 0 <= chance <= 1:
            raise ValueError(f"--env.kwargs {name} must be in [0, 1], got {chance}")


class CombinationLock(Lock):
    """The vector lock: Hadamard · (one-hot latent, one-hot step, noise on those H + 3 entries, zeros), D numbers.

    The matrix is ±1 and unnormalised; the noise is N(0, 0.1²) an entry before the rotation, fresh at every visit.
    """

    def __init__(self, num_envs: int = 1, *, horizon: int = 5, noise: float = 0.1, **kwargs: Any):
        self.noise = noise
        width = observation_width(max(horizon, 1))
        super().__init__(width, num_envs, horizon=horizon, **kwargs)
        self.rotation = hadamard(width).to(self.device)

    def draw_view(self, latent: Tensor, h: Tensor) -> Tensor:
        shape = (self.num_envs, self.horizon + 3)
        return self.noise * torch.randn(shape, generator=self.generator, device=self.device)

    def observe(self, state: State) -> Tensor:
        return rotated_view(state, self.rotation)


class ImageLock(Lock):
    """The image lock: the embedding of a random image of class 3h + latent, drawn at every visit from one split.

    Raises:
        ValueError: no embeddings given, or not what the horizon needs.
        FileNotFoundError: no such file.
    """

    def __init__(
        self,
        num_envs: int = 1,
        *,
        horizon: int = 5,
        embeddings: str = "",
        split: Literal["train", "test"] = "train",
        **kwargs: Any,
    ):
        images = load_embeddings(embeddings, max(horizon, 1), split)  # (classes, images, width)
        super().__init__(images.shape[2], num_envs, horizon=horizon, **kwargs)
        self.images = images.to(self.device)

    def draw_view(self, latent: Tensor, h: Tensor) -> Tensor:
        return torch.randint(self.images.shape[1], (self.num_envs,), generator=self.generator, device=self.device)

    def observe(self, state: State) -> Tensor:
        latent, h, image = state
        return self.images[3 * h + latent, image]


STAND_IN = "stand-in"


def load_embeddings(source: str, horizon: int, split: str) -> Tensor:
    """Return image embeddings (classes, images a class, width) of a split for a lock of this horizon.

    `source` is an .npz file with float arrays `train` and `test` of that shape (the paper: CLIP ViT-B/32 features of
    CIFAR-100, 100 x 500 and 100 x 100 x 512), or "stand-in": random class means with noise, which are no images.
    """
    if split not in ("train", "test"):
        raise ValueError(f"--env.kwargs split must be train or test, got {split!r}")
    if not source:
        raise ValueError(
            "the image lock needs embeddings: --env.kwargs embeddings FILE.npz (arrays train and test of shape "
            f'(classes, images, width)), or "{STAND_IN}" for synthetic ones'
        )
    if source == STAND_IN:
        return synthetic_embeddings(3 * (horizon + 1), split)
    images = _read_embeddings(Path(source), split)
    if len(images) < 3 * (horizon + 1):
        raise ValueError(f"{source}: {len(images)} classes; horizon {horizon} needs {3 * (horizon + 1)}")
    return images


def synthetic_embeddings(classes: int, split: str, width: int = 512, spread: float = 7.0, seed: int = 0) -> Tensor:
    """Return (classes, 500 or 100, 512) unit vectors around random class means: a stand-in, not the paper's task.

    Nearest-mean accuracy is near the 72 to 78 % of the paper's features at 93 classes, higher with fewer.
    """
    generator = torch.Generator().manual_seed(seed)
    means = torch.nn.functional.normalize(torch.randn(classes, 1, width, generator=generator), dim=-1)
    noise = torch.randn(classes, 600, width, generator=generator) * spread / math.sqrt(width)
    images = torch.nn.functional.normalize(means + noise, dim=-1)
    return images[:, :500] if split == "train" else images[:, 500:]


def _read_embeddings(path: Path, split: str) -> Tensor:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such embeddings file; expected an .npz with arrays train and test")
    try:
        found = read_npz(path, [split])[split]
    except ValueError as error:
        raise ValueError(f"{path}: no readable array {split!r} in it ({error})") from error
    if found.dtype.kind not in "biuf":
        raise ValueError(f"{path}: {split} must be finite numbers (classes, images, width), not {found.dtype}")
    images = np.asarray(found, np.float32)
    if images.ndim != 3 or not np.isfinite(images).all():
        raise ValueError(f"{path}: {split} must be finite numbers (classes, images, width), got shape {images.shape}")
    return torch.from_numpy(images)
