"""What NeuSquareCB and NeuFastCB are compared with. They regress rewards, as their authors' code does.

LinUCB (arXiv 1003.0146), NeuralUCB (arXiv 1911.04462), NeuralTS (arXiv 2010.00827), ε-greedy with a network, and EE-Net
(arXiv 2110.03177) with its linear decision maker. Equations: docs/derivations/neural_bandits.md.

| derivation | paper | here |
|---|---|---|
| (8.1) | LinUCB | `ContextualLinUCB.choose` |
| (8.2), (8.3) | NeuralUCB | `NeuralUCB.choose`, `NeuralUCB.width` |
| (8.4) | – | `NeuralUCB.learn`, `network.Network.add_squares` |
| (8.5) | NeuralTS | `NeuralTS.choose` |
| (8.6) | – | `EpsilonGreedy.choose` |
| (8.7), (8.8) | EE-Net | `EENet.choose`, `EENet.pooled_gradients` |

Where this differs from the authors' code, and why:
- One schedule of training for all networks, that of `RegressionConfig`, so that exploration alone differs. Theirs sweep
  over the history until the loss is 10⁻³, or for 1 000 or 2 000 steps, at first after every round, later every 100.
- NeuralTS in EE-Net's repository adds the sum of g² to every entry of U, a slip; here it is g∘g.
- EE-Net's second network is a fully connected one, trained by SGD on the pooled gradient of the arm's own block, scaled
  to length 1; theirs has a convolution, Adam and no scale. It learns the residual itself; theirs adds 1 and takes it
  off again, and is taught in the first 1 000 rounds that after a failure every other arm has 1.2. Its third network is
  not offered: with the linear decision maker it is not used.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from surefoot.agents.interface import Budget, Style
from surefoot.agents.neural_bandits.agent import NEU_SQUARE_CB_SPEC
from surefoot.agents.neural_bandits.bandit import (
    ContextualAgent,
    ContextualProblem,
    make_greedy_policy,
    require_rewards,
    rounds_of,
)
from surefoot.agents.neural_bandits.linear import Ridge
from surefoot.agents.neural_bandits.network import Diagonal, Pass
from surefoot.agents.neural_bandits.real import RealContextualBandit
from surefoot.agents.neural_bandits.regression import NetworkRegression, RegressionConfig
from surefoot.agents.parts.random import ReplicateUniforms
from surefoot.agents.parts.ranges import AT_LEAST_0, AT_LEAST_1, POSITIVE, RATE, UNIT_INTERVAL, check_ranges
from surefoot.agents.parts.state import Stateful


@dataclass(frozen=True)
class ContextualLinUCBConfig:
    """Ridge regression and its confidence width."""

    ridge: float = 1.0
    """Ridge parameter λ."""
    width: float = 0.5
    """Factor α of the confidence width."""
    rounds_per_step: int = 10
    """An agent step plays up to the next multiple of this many rounds."""

    def __post_init__(self) -> None:
        check_ranges(self, {"ridge": POSITIVE, "width": AT_LEAST_0, "rounds_per_step": AT_LEAST_1})


@dataclass(frozen=True)
class NeuralBaselineConfig(RegressionConfig):
    """A network that predicts rewards."""

    target: Literal["reward", "loss"] = "reward"
    """What the network learns; an untrained one predicts about 0, so with `loss` an arm that was never played looks
    good."""
    rounds_per_step: int = 10
    """An agent step plays up to the next multiple of this many rounds."""

    def __post_init__(self) -> None:
        check_ranges(self, self.rules() | {"rounds_per_step": AT_LEAST_1})


@dataclass(frozen=True)
class NeuralUCBConfig(NeuralBaselineConfig):
    """The width of the gradient."""

    ridge: float = 0.1
    """λ: the start of the diagonal design matrix U."""
    exploration: float = 0.001
    """ν: the width is √(λν Σ g²/U)."""

    def __post_init__(self) -> None:
        rules = {"rounds_per_step": AT_LEAST_1, "ridge": POSITIVE, "exploration": AT_LEAST_0}
        check_ranges(self, self.rules() | rules)


@dataclass(frozen=True)
class EpsilonGreedyConfig(NeuralBaselineConfig):
    """A uniformly random arm now and then."""

    epsilon: float = 0.05
    """Probability of a uniformly random arm; 0: greedy, 1: uniform."""

    def __post_init__(self) -> None:
        check_ranges(self, self.rules() | {"rounds_per_step": AT_LEAST_1, "epsilon": UNIT_INTERVAL})


@dataclass(frozen=True)
class EENetConfig(NeuralBaselineConfig):
    """A second network that predicts by how much the first is wrong."""

    pool: int = 50
    """Entries of the gradient that are averaged into one input of the second network."""
    exploration_lr: float = 0.01
    """Step size of the second network."""
    exploration_weight: float = 0.1
    """Weight of the predicted residual in the first 1 000 rounds; a tenth of it later."""

    def __post_init__(self) -> None:
        rules = {"rounds_per_step": AT_LEAST_1, "pool": AT_LEAST_1, "exploration_lr": RATE}
        check_ranges(self, self.rules() | rules | {"exploration_weight": AT_LEAST_0})


class ContextualLinUCB(Stateful):
    """argmax <θ̂_a, x> + α√(xᵀV_a⁻¹x): arms that share a context have regressions of their own."""

    STATEFUL = ("oracle", "loss")

    def __init__(self, config: ContextualLinUCBConfig, problem: ContextualProblem) -> None:
        self.config, self.oracle = config, Ridge(problem.shape, config.ridge, problem.device)
        self.loss = torch.zeros(problem.shape.replicates, dtype=torch.float64, device=problem.device)

    def choose(self, contexts: Tensor) -> Tensor:
        width = self.oracle.squared_widths(contexts).clamp(min=0.0).sqrt()
        return (self.oracle.outputs(contexts) + self.config.width * width).max(1).indices

    def learn(self, contexts: Tensor, arm: Tensor, reward: Tensor) -> None:
        require_rewards(reward)
        self.loss = self.oracle.learn(contexts, arm, reward)

    def predicted_losses(self, contexts: Tensor) -> Tensor:
        return 1 - self.oracle.outputs(contexts)

    def metrics(self) -> dict[str, Tensor]:
        return {"regression_loss": self.loss}


class NeuralBaseline(Stateful):
    """A network that learns rewards (or losses); what explores is added by each method."""

    STATEFUL: ClassVar[tuple[str, ...]] = ("oracle", "uniforms", "loss")

    def __init__(self, config: NeuralBaselineConfig, problem: ContextualProblem) -> None:
        shape, seed, device, engine = problem
        self.config, self.shape = config, shape
        self.oracle = NetworkRegression(config, "square", shape, seed, device, engine)
        self.uniforms = ReplicateUniforms(seed, "arms", shape.replicates, device)
        self.loss = torch.zeros(shape.replicates, device=device)

    def value(self, found: Pass) -> Tensor:
        """Return the predicted reward (N, K) of every arm."""
        return found.output if self.config.target == "reward" else 1 - found.output

    def learn(self, contexts: Tensor, arm: Tensor, reward: Tensor) -> None:
        require_rewards(reward)
        target = reward if self.config.target == "reward" else 1 - reward
        self.loss = self.oracle.learn(contexts, arm, target)

    def predicted_losses(self, contexts: Tensor) -> Tensor:
        return 1 - self.value(self.oracle.outputs(contexts))

    def metrics(self) -> dict[str, Tensor]:
        return {"regression_loss": self.loss}


class EpsilonGreedy(NeuralBaseline):
    """The arm of largest predicted reward, or with probability ε any."""

    config: EpsilonGreedyConfig

    def choose(self, contexts: Tensor) -> Tensor:
        best = self.value(self.oracle.outputs(contexts)).max(1).indices
        random = (self.uniforms.next() * self.shape.arms).long()
        return torch.where(self.uniforms.next() < self.config.epsilon, random, best)


class NeuralUCB(NeuralBaseline):
    """f(x_a) + σ_a with σ_a² = λν Σ_j g_{a,j}²/U_j, and U ← U + g∘g of the arm played."""

    STATEFUL = (*NeuralBaseline.STATEFUL, "design")
    config: NeuralUCBConfig

    def __init__(self, config: NeuralUCBConfig, problem: ContextualProblem) -> None:
        super().__init__(config, problem)
        self.design = Diagonal(self.oracle.network, config.ridge)

    def width(self, contexts: Tensor, found: Pass) -> Tensor:
        """Return σ_a (N, K)."""
        squares = self.oracle.network.squared_widths(contexts, found, self.design.layers)
        return (self.config.ridge * self.config.exploration * squares).sqrt()

    def choose(self, contexts: Tensor) -> Tensor:
        found = self.oracle.outputs(contexts)
        return (self.value(found) + self.width(contexts, found)).max(1).indices

    def learn(self, contexts: Tensor, arm: Tensor, reward: Tensor) -> None:
        """Add the gradient of the arm to U, then train."""
        self.oracle.network.add_squares(contexts, arm, self.design.layers)
        super().learn(contexts, arm, reward)


class NeuralTS(NeuralUCB):
    """The arm of the largest draw from N(f(x_a), σ_a²)."""

    def choose(self, contexts: Tensor) -> Tensor:
        found = self.oracle.outputs(contexts)
        noise = self.uniforms.normals(self.shape.arms).to(found.output.dtype)
        return (self.value(found) + self.width(contexts, found) * noise).max(1).indices


class EENet(NeuralBaseline):
    """f₁(x_a) + w·f₂(∇f₁(x_a)), f₂ a network that learns r − f₁ from the gradient of f₁, pooled."""

    STATEFUL = (*NeuralBaseline.STATEFUL, "explorer", "t")
    config: EENetConfig

    def __init__(self, config: EENetConfig, problem: ContextualProblem) -> None:
        super().__init__(config, problem)
        width = sum(-(-size // config.pool) for size in self.oracle.network.sizes_of_arm())
        shape = self.shape._replace(features=width, shared=False)
        exploring = replace(config, lr=config.exploration_lr, hidden=(100,), intercept=False)
        seed, device, engine = problem.seed + 1, problem.device, problem.engine
        self.explorer = NetworkRegression(exploring, "square", shape, seed, device, engine)
        self.t = 0

    def pooled_gradients(self, contexts: Tensor, found: Pass) -> Tensor:
        """Return ∇f₁(x_a) (N, K, pooled): of each layer every `pool` entries averaged, of length 1."""
        gradients = self.oracle.network.arm_gradients(contexts, found)
        groups = [pooled(gradient.flatten(2), self.config.pool) for gradient in gradients]
        return torch.nn.functional.normalize(torch.cat(groups, -1), dim=-1)

    def choose(self, contexts: Tensor) -> Tensor:
        found = self.oracle.outputs(contexts)
        weight = self.config.exploration_weight * (1.0 if self.t < 1_000 else 0.1)
        explored = self.explorer.outputs(self.pooled_gradients(contexts, found)).output
        return (self.value(found) + weight * explored).max(1).indices

    def learn(self, contexts: Tensor, arm: Tensor, reward: Tensor) -> None:
        """Train f₂ on what f₁ was wrong by, then f₁ on the reward."""
        found = self.oracle.outputs(contexts)
        missed = reward - self.value(found).gather(1, arm[:, None]).squeeze(1)
        self.explorer.learn(self.pooled_gradients(contexts, found), arm, missed)
        super().learn(contexts, arm, reward)
        self.t += 1


def pooled(values: Tensor, size: int) -> Tensor:
    """Return means (…, ⌈n/size⌉) of `size` neighbours each of values (…, n); the last group is filled up with zeros."""
    filled = torch.nn.functional.pad(values, (0, -values.shape[-1] % size))
    return torch.unflatten(filled, -1, (-1, size)).mean(-1)


def spec(config: Any, make_learner: Any, summary: str, style: Style) -> Any:
    return replace(
        NEU_SQUARE_CB_SPEC,
        default=config,
        make_agent=partial(ContextualAgent, make_learner),
        make_policy=partial(make_greedy_policy, make_learner),
        make_ask_tell=partial(RealContextualBandit, make_learner),
        summary=summary,
        task_fields=(),
        derive=as_given,
        plan=rounds_of,
        style=style,
        tiny={name: value for name, value in NEU_SQUARE_CB_SPEC.tiny.items() if hasattr(config, name)},
    )


def as_given(config: Any, budget: Budget) -> Any:
    return config


CONTEXTUAL_LINUCB_SPEC = spec(
    ContextualLinUCBConfig(),
    ContextualLinUCB,
    "LinUCB with contexts (arXiv 1003.0146)",
    Style("#E69F00", "-"),
)
NEURAL_UCB_SPEC = spec(
    NeuralUCBConfig(),
    NeuralUCB,
    "a network's reward plus the width of its gradient (arXiv 1911.04462)",
    Style("#009E73", "-"),
)
NEURAL_TS_SPEC = spec(
    NeuralUCBConfig(),
    NeuralTS,
    "Thompson sampling with the width of a network's gradient (arXiv 2010.00827)",
    Style("#CC79A7", "-"),
)
NEURAL_EPSILON_GREEDY_SPEC = spec(
    EpsilonGreedyConfig(), EpsilonGreedy, "a network's best arm, now and then a random one", Style("#7F7F7F", "-")
)
EE_NET_SPEC = spec(
    EENetConfig(),
    EENet,
    "a second network predicts the first one's error from its gradient (arXiv 2110.03177)",
    Style("#000000", "--"),
)
