"""NORA, NOAH and their family: an optimistic critic that is replanned rarely, and an actor that climbs it.

Tan, Fan, Wei, "Actor-Critics Can Achieve Optimal Sample Efficiency", ICML 2025, arXiv 2505.03710. We could not read the
paper's listings, so its equations are those of docs/derivations/nora.md, which separates what the paper states from
what is reconstructed.

| derivation | paper | here |
|---|---|---|
| §3.1 | – | `config.Rules`, `config.VARIANTS` |
| §3.5 | – | `NORA.step`, `NORA.refresh`: switch test, plan, mirror step, one episode |
| (2.5), (2.7) | – | `actor.Actor` (with resets), `actor.AccumulatingActor` (without), `actor.soft_policy` |
| (10.2) | – | `actor.greedy_policy` |
| §4 | – | `tabular_critic.TabularCritic`: counts, a count bonus, backward induction |
| (4.2), (4.3) | – | `NORA.count_optimism` |
| §5 | – | `linear_critic.LinearCritic`: ridge regression, an elliptical bonus, determinants |
| (10.1) | – | `oppo_eta` |
| §3.6, §3.7 | – | `NORA.take_data`, `data.recorded_episodes`: offline data seed the replay, the counts and Λ |
| (6.10), (6.11) | – | `data.coverage_of`, `parts.tabular.concentrability` |
| (1.3) | – | `task.range_of`, `task.require_within` |
| (1.2), (1.4) | – | `NORA.play`, `parts.tabular.expected_return`, `parts.regret.Regret`: exact regret as played |

Where this differs, and why:
- Optimism is pointwise, a bonus. The confidence-set form, eq. (3.6) (optimism at the first state alone, over all
  functions whose excess loss is small), has no efficient algorithm; for these two classes the bonus is what it amounts
  to.
- The switch test counts, eq. (4.6), or compares determinants, eq. (5.5); the loss test, eq. (3.5), is for general
  classes.
- The mirror step comes before the episode, so that no uniform episode is played after a reset; `mirror_first=False`
  has the literal order. Critics that evaluate the actor take the step after the episode, as §3.3 has it.
- DOUHUA and OPPO-like have the same switches here; the latter has OPPO's own η = √(2 ln A/(H²T)).
- The output is the current policy, not a uniformly drawn earlier one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from surefoot.agents.interface import AgentSpec, Episodes, Progress, Setting, Style
from surefoot.agents.nora.actor import AccumulatingActor, Actor
from surefoot.agents.nora.config import NORAConfig
from surefoot.agents.nora.data import Coverage, coverage_of, recorded_episodes
from surefoot.agents.nora.linear_critic import LinearCritic
from surefoot.agents.nora.policy import TablePolicy, make_policy, state_codes
from surefoot.agents.nora.tabular_critic import Episode, Optimism, Range, TabularCritic, hoeffding_log
from surefoot.agents.nora.task import checked_features, derive, plan, range_of, require_exact, require_within
from surefoot.agents.parts.random import make_generator
from surefoot.agents.parts.regret import Regret
from surefoot.agents.parts.state import Stateful
from surefoot.agents.parts.tabular import TabularMDP, expected_return, narrow, optimal_return

# --- the mathematics -------------------------------------------------------------------------------------------------


def oppo_eta(actions: int, horizon: int, episodes: int) -> float:
    """Return √(2 ln A/(H²T)), OPPO's step size (arXiv 1912.05830, theorem 3.1, where T counts steps)."""
    return math.sqrt(2 * math.log(actions) / (horizon**2 * episodes))


# --- the agent -------------------------------------------------------------------------------------------------------

LARGEST_TABLE = 2 * 10**6  # H·S·A up to which policies are tables of all states and evaluated exactly


class NORA(Stateful):
    """N replicates in lock-step; one `step` is one episode of each."""

    STATEFUL = ("env", "generator", "critic", "actor", "regret", "switches")

    def __init__(self, config: NORAConfig, setting: Setting) -> None:
        self.config, self.rules, self.device = config, config.rules(), setting.device
        self.env = require_exact(setting.env)
        self.env.reset(seed=setting.seed)
        self.generator = make_generator(setting.seed, "actions", setting.device)
        self.mdp = TabularMDP(*self.env.tabular())
        _, states, actions, _ = self.mdp.reward.shape
        self.shape = (self.env.num_envs, self.env.horizon, states, actions)
        self.exact = math.prod(self.shape[1:]) <= LARGEST_TABLE
        self.bounds = Range(*(bound.to(setting.device) for bound in range_of(self.env, config.reward_range)))
        self.codes = state_codes(self.env, setting.spaces.observation, states, setting.device)
        self.critic = self.make_critic()
        self.actor = self.make_actor()
        self.mirror_first = self.rules.critic_target == "star" if config.mirror_first is None else config.mirror_first
        optimum = float(optimal_return(self.mdp, self.env.horizon))
        self.regret = Regret(optimum, self.env.num_envs, setting.device)
        self.switches = torch.zeros(self.env.num_envs, dtype=torch.int64, device=setting.device)  # (N,)
        self.coverage: Coverage | None = None
        if setting.data is not None:
            self.take_data(recorded_episodes(setting.data, self.env, self.env.num_envs, config.offline))
        elif self.rules.needs_data:
            raise ValueError(
                f"{config.variant} learns from recorded data as well: pass --data.source, or a preset that does"
            )

    # --- what it is made of -------------------------------------------------------------------------------------------

    def make_critic(self) -> TabularCritic | LinearCritic:
        config, rare = self.config, self.rules.switch == "rare"
        if config.pooled and (config.critic != "linear" or len(self.mdp.reward) > 1):
            raise ValueError("--agent.pooled is for the linear critic, in tasks whose steps are alike; leave it out")
        if config.critic == "tabular":
            ratio = config.switch_ratio if rare else None
            return TabularCritic(self.shape, self.bounds, self.count_optimism(), ratio, self.device)
        features, dims = checked_features(self.env, *self.shape[2:])
        threshold = config.total_log_det or math.log(config.switch_ratio)
        return LinearCritic(
            features,
            self.shape,
            dims,
            self.bounds,
            beta=config.bonus if self.rules.optimism == "bonus" else 0.0,
            lam=config.ridge,
            threshold=threshold if rare else None,
            total=config.total_log_det is not None,
            table=self.exact,
            pooled=config.pooled,
            device=self.device,
        )

    def count_optimism(self) -> Optimism | None:
        """Return the bonus of the tabular critic; None for a variant without."""
        if self.rules.optimism == "none":
            return None
        _, horizon, states, actions = self.shape
        log_term = hoeffding_log(states, actions, horizon, self.require_episodes(), self.config.failure_probability)
        steps = torch.arange(horizon, 0, -1, dtype=torch.float64, device=self.device)
        return Optimism(self.config.bonus, log_term, steps if self.config.bonus_width == "steps" else None)

    def make_actor(self) -> Actor | AccumulatingActor:
        epsilon = self.config.epsilon if self.rules.dithers else 0.0
        eta = math.inf if self.rules.greedy else self.config.policy_step_size
        if self.config.variant == "oppo":
            eta = oppo_eta(self.shape[3], self.shape[1], self.require_episodes())
        if self.rules.reset or self.rules.greedy:
            return Actor(self.shape[0], eta, epsilon, self.device)
        if not self.exact:
            raise ValueError(
                f"{math.prod(self.shape[1:]):,} steps x states x actions are too many for the table of exponents that "
                "an actor without resets needs; choose a variant with resets, or a smaller task"
            )
        return AccumulatingActor(self.shape, eta, epsilon, self.device)

    def require_episodes(self) -> int:
        """Return T; `ValueError` where it is missing."""
        if self.config.episodes is None:
            raise ValueError("--agent.episodes is missing: the constants are made for T episodes, usually steps / H")
        return self.config.episodes

    def take_data(self, recorded: Episode) -> None:
        """Let the critic observe recorded episodes (H, N, E) before the first of its own; once, not at every plan."""
        require_within(recorded.reward, self.bounds, "the recorded data")
        self.critic.observe(recorded)
        self.coverage = coverage_of(self.mdp, recorded, self.shape[1])

    # --- the loop -----------------------------------------------------------------------------------------------------

    def step(self) -> Progress:
        """Switch test, planning where it triggers, mirror step, one episode of every replicate (§3.5)."""
        self.refresh()
        if self.mirror_first:
            self.actor.ascend(self.table())
        episode, gap = self.play()
        require_within(episode.reward, self.bounds, f"episode {self.regret.t + 1}")
        self.critic.observe(episode)
        if not self.mirror_first:
            self.actor.ascend(self.table())
        total = episode.reward.double().sum(0)
        self.regret.add(self.regret.optimum - total if gap is None else gap, 1, total)
        return Progress(self.shape[1], 1, self.metrics(gap), (self.ended(total),))

    def refresh(self) -> None:
        """Plan anew in the replicates whose data contradict their critic, and reset their actors."""
        which = self.critic.drifted().nonzero().squeeze(-1)  # the one wait for the device in an episode
        if len(which):
            policy = self.policy_of(which) if self.rules.critic_target == "pi" else None
            self.critic.plan(which, policy)
            self.switches[which] += 1
            if self.rules.reset:
                self.actor.reset(which)

    def table(self) -> Tensor | None:
        """Return Q̄ of all states (N, H, S, A), where there are few enough."""
        return self.critic.q if self.exact else None

    def policy_of(self, which: Tensor) -> Tensor:
        """Return π (M, H, S, A) of the replicates `which`."""
        table = self.table()
        if table is None:
            raise ValueError(
                "a critic of the actor's own values needs a table of policies; this task has too many states"
            )
        return self.actor.policy(table)[which]

    def play(self) -> tuple[Episode, Tensor | None]:
        """Return one episode of every environment and its exact regret (N,); None where it is only sampled."""
        table = self.table()
        if table is None:
            return self.play_steps(None), None
        policy = self.actor.policy(table)
        gap = self.regret.optimum - expected_return(self.mdp, policy)
        if not hasattr(self.env, "play"):
            return self.play_steps(policy), gap
        state, action, reward = self.env.play(policy)
        return Episode(state[:-1], action, reward, state[1:]), gap

    def play_steps(self, table: Tensor | None) -> Episode:
        """Play step by step, by policies (N, H, S, A), or looking up only the states that are met."""
        rows, index, last = [], torch.arange(self.shape[0], device=self.device), self.shape[1] - 1
        for h in range(self.shape[1]):
            state = self.env.state
            policy = self.actor.policy(self.critic.values(h, state)) if table is None else table[index, h, state]
            uniform = torch.rand(len(state), 1, generator=self.generator, dtype=torch.float64, device=self.device)
            action = (uniform >= policy.cumsum(-1)[:, :-1]).sum(-1)
            _, reward, _, ended, info = self.env.step(action)
            # After the last step the environment is in the next episode's first state.
            following = self.env.decode(info["final_obs"]) if h == last else self.env.state
            rows.append((state, action, reward, following))
        if not bool(ended.all()):
            raise ValueError(
                f"episodes continue after {self.shape[1]} steps; nora needs them to end at the task's horizon"
            )
        return Episode(*(torch.stack(column) for column in zip(*rows, strict=True)))

    def metrics(self, gap: Tensor | None) -> dict[str, Tensor]:
        """Return what to log, each (N,)."""
        named = {"switches": self.switches.double()} | ({} if gap is None else {"gap": gap})
        if isinstance(self.actor, Actor):
            named["exponent"] = self.actor.steps
        if self.coverage is not None:
            named |= self.coverage._asdict()
        return named

    def ended(self, total: Tensor) -> Episodes:
        """Return the episode of every environment."""
        length = torch.full_like(total, self.shape[1])
        return Episodes(torch.ones_like(total, dtype=torch.bool), total, length)

    # --- what is deployed ---------------------------------------------------------------------------------------------

    @property
    def policy(self) -> TablePolicy:
        """The most likely actions of the first replicate."""
        policy = TablePolicy()
        policy.actions, policy.codes = narrow(self.best_actions()), self.codes
        return policy

    def best_actions(self) -> Tensor:
        """Return (H, S) the first replicate's most likely actions now."""
        if self.exact:
            table = self.table()
            assert table is not None
            return self.actor.policy(table[:1] if isinstance(self.actor, Actor) else table)[0].argmax(-1)
        assert isinstance(self.critic, LinearCritic)
        first, states = torch.zeros(1, dtype=torch.int64, device=self.device), torch.arange(self.shape[2])
        rows = [self.critic.optimistic(h, first, states.to(self.device)[None])[0] for h in range(self.shape[1])]
        return torch.stack([row.argmax(-1) for row in rows])

    def act(self, obs: Tensor, *, explore: bool = False) -> Tensor:
        """Return actions (M,) for time-aware observations (M, O + 1); the agent explores in `step`, not here."""
        return self.policy.act(obs)


NORA_SPEC = AgentSpec(
    NORAConfig(),
    NORA,
    make_policy,
    "optimistic actor-critic with rare switching, and its variants (arXiv 2505.03710)",
    actions=("Discrete",),
    shown=("switches", "covered", "concentrability"),
    unbounded=("concentrability",),
    regret="episode",
    takes_data=True,
    task_fields=("episodes",),
    derive=derive,
    plan=plan,
    has_compiled_form=False,
    page="nora",
    style=Style("#CC79A7", "--"),
    tiny={"episodes": 20},
    tiny_env={"id": "surefoot/RiverSwim-v0", "num_envs": 3, "time_aware": True, "kwargs": {"states": 3, "horizon": 4}},
)
