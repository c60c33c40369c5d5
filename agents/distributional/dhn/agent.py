"""DηN: one quantile network of the return, conditioned on a stock, greedy for an objective other than the mean.

Ávila Pires, Rowland, Borsa, Guo, Khetarpal, Barreto, Abel, Munos, Dabney, "Optimizing Return Distributions with
Distributional Dynamic Programming", JMLR 26(185), 2025, arXiv 2501.13028. The paper joins DQN with distributional
dynamic programming under stock augmentation; its network, loss and constants were not found. What is here is the
recipe of docs/derivations/distributional.md §7; the exact solvers are in `agents/distributional/`.

| derivation | paper | here |
|---|---|---|
| (1.2) stock c' = (c + r)/γ; (7.1) clamped | – | `distributional.objectives.next_stock`, `equations.clamped` |
| (7.2) features φ(c) | – | `equations.stock_features` |
| (7.3) Z(s, c, ·), quantiles of G | – | `network.QuantileNetwork`, `network.ImageTorso` |
| (7.4) score E f(c + Z) and its tie-break | – | `equations.scores`, `policy.QuantilePolicy.choose` |
| (7.5) what falls linearly | – | `equations.fading` |
| §7.3 starts and stocks of episodes | – | `agent.StockEnvs`, `policy.StockPolicy` |
| (7.6) relabelling along the trajectory, or free | – | `equations.relabelled` |
| (7.7), (7.8) target, with the stock c' of the successor | – | `agent.DHN.target_quantiles` |
| (7.9) quantile Huber loss | – | `equations.quantile_huber_loss` |
| (7.10), (7.11), (7.12) the same from sorted targets | – | `equations.pull` |
| §7.4 the update | – | `agent.DHN.update_eager` |
| (7.13) n-step targets | – | `agent.NStep` |
| (7.14) choice of c_0 at test time | – | `policy.QuantilePolicy.outer` |
| (7.15) stock and time with a horizon | – | `equations.whole_stock_features`, `equations.time_features` |
| (7.16) score of the whole return, z = γ^t | – | `equations.scores`, `equations.elapsed_scale` |
| (7.18) targets within the range of the return | – | `agent.DHN.target_quantiles` |
| §2.4 the guard | – | `agent.DHN.check_sound` |

QR-DQN (Dabney et al. 2018, arXiv 1710.10044) is this agent with objective `mean` and the stock off (§7.8).

Ours, and why:
- The loss is computed from sorted targets and prefix sums (§7.5): as eq. (7.9), without its table of N × N pairs.
- The torso is linear up to the first hidden layer, where the features of the stock are added (§7.1).
- c' is not stored but computed from c and r, so that a relabelled c and the next episode's c_0 can never leak into it.
- "Target averaging" over tied actions (§7.4) is left out: with real-valued quantiles no two actions tie.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from surefoot.agents.distributional.dhn.equations import (
    DHNConfig,
    Stocked,
    beside,
    clamped,
    cross_entropy,
    elapsed_scale,
    energy_distance,
    fading,
    law_of,
    plan,
    quantile_huber_loss,
    relabelled,
    scores,
)
from surefoot.agents.distributional.dhn.policy import StockPolicy, chosen, dims, make_policy
from surefoot.agents.distributional.distributions import project_categorical, quantile
from surefoot.agents.distributional.objectives import next_stock, soundness
from surefoot.agents.interface import AgentSpec, Episodes, Progress, Setting, Style, VectorEnv
from surefoot.agents.parts.acceleration import accelerate, adam, set_lr
from surefoot.agents.parts.interaction import Interaction, require_rewards, rewards_of, whole
from surefoot.agents.parts.networks import soft_update
from surefoot.agents.parts.random import make_generator
from surefoot.agents.parts.replay import ImageRing, Ring
from surefoot.agents.parts.state import Stateful

# --- the agent -------------------------------------------------------------------------------------------------------


class StockEnvs(Stateful):
    """The sub-environments, each with the stock of its episode, which starts uniformly within `stock_range`."""

    STATEFUL = ("interaction", "stock", "earned", "scale", "generator")

    def __init__(self, config: DHNConfig, setting: Setting) -> None:
        assert setting.env is not None, "an online agent needs an environment"
        require_rewards(setting.env, config.rewards)
        self.config, self.interaction = config, Interaction(setting.env, setting.seed)
        self.generator = make_generator(setting.seed, "stock", setting.device)
        self.begin(setting.env.num_envs)

    def begin(self, count: int) -> None:
        """Give every environment the stock of a new episode."""
        self.stock = self.draw(count)
        self.earned, self.scale = torch.zeros_like(self.stock), torch.ones(count, device=self.stock.device)

    def draw(self, count: int) -> Tensor:
        """Return fresh c_0 (count,), of m rewards (count, m), uniform within the range."""
        (low, high), names = self.config.stock_range, self.config.rewards
        shape = (count, len(names)) if names else (count,)
        random = torch.rand(shape, generator=self.generator, device=self.generator.device)
        return low + (high - low) * random

    def step(self, action: Tensor, first: int) -> tuple[Stocked, Episodes]:
        """Take the actions (N,), numbered from `first` by the task, and move the stocks with what they earn."""
        config, (stock, earned, scale) = self.config, (self.stock, self.earned, self.scale)
        batch, episodes = self.interaction.step(action + first)
        true = rewards_of(self.interaction.info, batch.reward, config.rewards)
        bound, gamma = config.clip_reward, torch.full_like(scale, config.gamma)
        reward = true if bound is None else true.clamp(-bound, bound)
        rows = Stocked(batch.obs, action.float(), reward, batch.next_obs, batch.terminated, gamma, stock, earned, scale)
        following, ended = clamped(next_stock(stock, true, config.gamma), config), beside(episodes.ended, stock)
        self.stock = torch.where(ended, self.draw(len(stock)), following)
        self.earned = torch.where(ended, 0.0, earned + beside(scale, true) * true)
        self.scale = torch.where(episodes.ended, 1.0, scale * config.gamma)
        return rows, episodes

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state back; new episodes, begun in place of the saved ones, start with a stock of their own."""
        super().load_state_dict(state)
        if self.interaction.begun_anew:
            self.begin(len(self.stock))


class NStep:
    """The last n transitions of every environment; each adds up the rewards that follow, until n or the end."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.window: list[tuple[Stocked, Tensor]] = []  # transitions (N, …), and which still grow (N,)

    def add(self, rows: Stocked, ended: Tensor) -> list[Stocked]:
        """Take in what the environments did and which episodes ended (N,); return the transitions that are complete."""
        if self.steps == 1:
            return [rows]
        longer = [(_prolonged(one, rows), open_) for one, open_ in self.window] + [(rows, torch.ones_like(ended))]
        full = len(longer) == self.steps
        complete = [open_ if full and i == 0 else open_ & ended for i, (_, open_) in enumerate(longer)]
        self.window = [(one, open_ & ~ended) for one, open_ in longer[full:]]
        return [Stocked(*(field[mask] for field in one)) for (one, _), mask in zip(longer, complete, strict=True)]

    def state_dict(self) -> dict[str, Any]:
        return {"window": [{**one._asdict(), "open": open_} for one, open_ in self.window]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.window = [(Stocked(*(row[name] for name in Stocked._fields)), row["open"]) for row in state["window"]]


def _prolonged(earlier: Stocked, last: Stocked) -> Stocked:
    """Return transitions extended by the one that followed."""
    reward, discount = earlier.reward + earlier.discount * last.reward, earlier.discount * last.discount
    return earlier._replace(reward=reward, discount=discount, next_obs=last.next_obs, terminated=last.terminated)


def longest_episode(env: VectorEnv | None) -> int | None:
    """Return the steps after which an episode is over at the latest; None where there is no such number."""
    limits = (getattr(env, "horizon", None), getattr(env, "episode_limit", None))
    return min((limit for limit in limits if limit is not None), default=None)


class DHN(Stateful):
    """One `step` is one step of every environment and the updates it is due."""

    STATEFUL = (
        "policy",
        "target",
        "optimiser",
        "replay",
        "envs",
        "n_step",
        "acting_generator",
        "relabel_generator",
        "env_steps",
        "updates",
        "updates_due",
    )

    def __init__(self, config: DHNConfig, setting: Setting) -> None:
        self.config, self.device = config, setting.device
        self.policy = make_policy(config, setting.spaces, make_generator(setting.seed, "networks")).to(self.device)
        self.check_sound(setting)
        self.target = copy.deepcopy(self.policy.net).requires_grad_(False)
        self.optimiser = adam(self.policy.parameters(), config.lr, setting, eps=config.adam_eps)
        self.envs, self.n_step = StockEnvs(config, setting), NStep(config.n_step)
        obs_dim, _, _ = dims(setting.spaces)
        several = len(config.rewards) or None
        widths = [obs_dim, None, several, obs_dim, None, None, several, several, None]
        ring = make_generator(setting.seed, "replay", self.device)
        size = config.replay_capacity, ring, self.device
        self.replay: Ring[Stocked] = (
            Ring(Stocked, widths, *size)
            if config.image_shape is None
            else ImageRing(Stocked, widths, ("obs", "next_obs"), *size)
        )
        self.acting_generator = make_generator(setting.seed, "acting", self.device)
        self.relabel_generator = make_generator(setting.seed, "relabel", self.device)
        self.env_steps, self.updates, self.updates_due = 0, 0, 0.0
        self.update = accelerate(self.update_eager, setting, [self.policy, self.target, self.optimiser])

    def check_sound(self, setting: Setting) -> None:
        """Raise `ValueError` where the agent cannot optimise the objective, or its horizon is not the task's."""
        config, env = self.config, setting.env
        length = longest_episode(env)
        if config.horizon is not None and config.horizon != length:
            known = f"{length} steps; set --agent.horizon {length}" if length else "no limit; give it one, with "
            raise ValueError(
                f"--agent.horizon is {config.horizon}, but an episode of this task has {known}"
                + ("" if length else f"--env.max-episode-steps {config.horizon}")
            )
        try:
            objective: Any = self.policy.objective  # one of several rewards has what is asked of it
            soundness(objective, config.gamma, config.horizon)
        except ValueError as error:
            raise ValueError(f"{error}: --agent.horizon {length or 'N'} --env.time-aware") from None

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return the first actions (N,) of episodes that start in obs (N, obs); `stateful` continues with them."""
        return self.policy.act(obs, explore=explore, generator=self.acting_generator)

    def stateful(self, *, explore: bool = False) -> StockPolicy:
        """Return a stateful policy for the configured objective."""
        return self.policy.stateful(explore=explore, generator=self.acting_generator)

    def step(self) -> Progress:
        """Act once in every environment, then make the updates that are due."""
        count = len(self.envs.stock)
        epsilon = fading(self.env_steps, self.config.epsilon, self.config.final_epsilon, self.config.exploration_steps)
        obs, stock = self.envs.interaction.obs, self.envs.stock
        action = self.policy.choose(obs, stock, epsilon, self.acting_generator)
        rows, episodes = self.envs.step(action, self.policy.first)
        for complete in self.n_step.add(rows, episodes.ended):
            self.replay.push(complete)
        self.env_steps += count
        if self.env_steps > self.config.learning_starts:
            self.updates_due += count * self.config.updates_per_step
        made = [self.learn() for _ in range(whole(self.updates_due))]
        self.updates_due -= len(made)
        metrics = {name: torch.stack([each[name] for each in made]) for name in (made[0] if made else ())}
        return Progress(count, len(made), metrics, (episodes,))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self.envs.interaction.begun_anew:  # no reward follows that belongs to the transitions under way
            self.n_step.window = []

    def learn(self) -> dict[str, Tensor]:
        """Make one update from a fresh batch; move the target network when it is due."""
        config = self.config
        if config.decay_steps is not None:
            lr = fading(self.env_steps, config.lr, config.lr * config.final_lr, config.decay_steps)
            set_lr(self.optimiser, lr)
        batch = self.replay.sample(config.batch_size)
        (low, high), several = config.stock_range, len(config.rewards)
        rows = (several or 1) + 1, config.batch_size
        random = torch.rand(rows, generator=self.relabel_generator, device=self.device)
        fresh = low + (high - low) * (random[:-1].T if several else random[0])
        metrics = self.update(batch, fresh, random[-1] < config.relabel_probability)
        self.updates += 1
        if self.updates % config.target_update_interval == 0:
            soft_update(self.target.parameters(), self.policy.net.parameters(), config.tau)
        return metrics

    def update_eager(self, batch: Stocked, fresh: Tensor, replaced: Tensor) -> dict[str, Tensor]:
        """One gradient step, §7.4; `fresh` (B,), of m rewards (B, m), are new c_0, `replaced` (B,) where they count."""
        config, stock = self.config, batch.stock
        if config.stock:
            stock = clamped(relabelled(batch, fresh, replaced, config), config)
        head = chosen(self.policy.net(batch.obs, stock), batch.action.long())
        if config.rewards:
            z = law_of(head, config).values
            loss = energy_distance(z, self.target_points(batch, stock)).mean()
        elif config.categories is None:
            loss = quantile_huber_loss(head, self.target_quantiles(batch, stock), config.huber_threshold).mean()
        else:
            loss = cross_entropy(head, self.target_categories(batch, stock)).mean()
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if config.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.policy.parameters(), config.max_grad_norm, foreach=True)
        self.optimiser.step()
        return {"loss": loss.detach()} | self.described(head.detach())

    def described(self, head: Tensor) -> dict[str, Tensor]:
        """Return mean and interquartile range of what the network says of the actions taken, outputs (B, N).

        Of several rewards mean and standard deviation of their sum.
        """
        law, n = law_of(head, self.config), self.config.quantiles
        if law.several:
            middle = law.values.sum(-1).std(-1, correction=0)
        elif law.weights is None:
            middle = head[:, 3 * n // 4] - head[:, n // 4]
        else:
            levels = torch.tensor([0.25, 0.75], dtype=head.dtype, device=head.device)
            middle = quantile(law.values.expand_as(head), law.weights, levels).diff().squeeze(-1)
        return {"q": law.mean.mean(), "spread": middle.mean()}

    @torch.no_grad()
    def target_quantiles(self, batch: Stocked, stock: Tensor) -> Tensor:
        """Return y (B, N) = r + γ(1 − d)·Z⁻(s', c', a'), a' greedy at the successor's own stock c'.

        d is 1 where the task ended and, with a horizon, where the successor has reached it. Within `return_range`.
        """
        quantiles, discount = self.following(batch, stock)
        y = batch.reward[:, None] + discount[:, None] * quantiles
        return y if self.config.return_range is None else y.clamp(*self.config.return_range)

    @torch.no_grad()
    def target_points(self, batch: Stocked, stock: Tensor) -> Tensor:
        """Return y (B, N, m) = r + γ(1 − d)·Z⁻, points in place of quantiles where there are m rewards."""
        head, discount = self.following(batch, stock)
        z = law_of(head, self.config).values
        y = batch.reward[:, None] + beside(discount, z) * z
        return y if self.config.return_range is None else y.clamp(*self.config.return_range)

    @torch.no_grad()
    def target_categories(self, batch: Stocked, stock: Tensor) -> Tensor:
        """Return the chances (B, N) of the categories in the distribution of the same r + γ(1 − d)·Z⁻, eq. (7.20)."""
        head, discount = self.following(batch, stock)
        law = law_of(head, self.config)
        assert law.weights is not None
        y = batch.reward[:, None] + discount[:, None] * law.values
        return project_categorical(y, law.weights, law.values)

    def following(self, batch: Stocked, stock: Tensor) -> tuple[Tensor, Tensor]:
        """Return the target network's outputs (B, N) for (s', c', a'), and their discount γ(1 − d) (B,)."""
        config = self.config
        after = clamped(next_stock(stock, batch.reward, beside(batch.discount, stock)), config)
        head = self.target(batch.next_obs, after)
        choosing = self.policy.net(batch.next_obs, after) if config.double else head
        z = elapsed_scale(batch.next_obs, config)
        action = scores(law_of(choosing, config), after, self.policy.objective, z).argmax(-1)
        going_on = 1 - batch.terminated
        if config.horizon is not None:
            going_on = going_on * (batch.next_obs[:, -1] < config.horizon)
        return chosen(head, action), batch.discount * going_on


def adds_up_rewards(config: DHNConfig) -> bool:
    """Return whether a stock adds up the task's rewards, which then must be the true ones."""
    return config.stock


DHN_SPEC = AgentSpec(
    DHNConfig(),
    DHN,
    make_policy,
    "DηN: CVaR, targets and other objectives by a stock-augmented quantile network (arXiv 2501.13028)",
    actions=("Discrete",),
    goal="objective",
    needs_true_rewards=adds_up_rewards,
    task_fields=("horizon",),
    plan=plan,
    page="dhn",
    style=Style("#CC79A7", ":"),
    tiny={
        "hidden": (8, 8),
        "batch_size": 8,
        "learning_starts": 16,
        "replay_capacity": 400,
        "quantiles": 4,
        "target_update_interval": 3,
    },
    tiny_env={"id": "surefoot/Gate-v0", "num_envs": 2},
)
QR_DQN_SPEC = AgentSpec(
    DHNConfig(objective="mean", stock=False, relabel_probability=0.0),
    DHN,
    make_policy,
    "QR-DQN (arXiv 1710.10044): DηN for the mean, without a stock",
    actions=("Discrete",),
    needs_true_rewards=adds_up_rewards,
    task_fields=("horizon",),
    plan=plan,
    page="dhn",
    style=Style("#7F7F7F", "-."),
    tiny=DHN_SPEC.tiny,
    tiny_env=DHN_SPEC.tiny_env,
)
