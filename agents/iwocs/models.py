"""A gate of ours: a policy may act where it was seen to hold in every model that still explains the episode.

docs/derivations/iwocs.md §4.7: (4.29) to (4.34). The paper's gate asks the predictors of the models that were trained
in; in a model between those none is right, and the least wrong need not belong to a specialist that holds there. Here
one predictor takes the model as an input, so that every model of the search can be judged by what was seen of an
episode, and what each policy gets alone in each of them is a matter of record.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from surefoot.agents.interface import Setting
from surefoot.agents.iwocs.choice import HOLDS, reaches
from surefoot.agents.iwocs.composite import Act, Composite, Specialist, prediction_error
from surefoot.agents.parts.acceleration import adam, set_lr, take_step
from surefoot.agents.parts.env_parameters import BatchWithParameters, replay_with_parameters
from surefoot.agents.parts.networks import MLP
from surefoot.agents.parts.random import make_generator
from surefoot.agents.parts.state import Stateful

EARLY, EVERY = 100, 10  # of an episode, the steps that are learned from: the first ones, and of the others every tenth
QUANTILE, SCALE_ROWS = 0.9, 100_000  # of the predictor's errors over (at most so many of) its rows: the usual one
SLICE = 500  # updates in a step of the agent
Seeds = tuple[Sequence[int], Sequence[int]]
Play = Callable[["Recorder", Tensor, Sequence[int]], Tensor]


def excess(error: Tensor, usual: Tensor) -> Tensor:
    """Return by how many times the usual error an error is above it: the summand of (4.30)."""
    return (error / usual - 1).clamp(min=0)


def plausible(trace: Tensor, tolerance: float) -> Tensor:
    """Return (N, P) which models explain the episodes, by the excess (N, P) of each: (4.30)."""
    return trace <= trace.amin(-1, keepdim=True) + tolerance


def holding(lowest: Tensor) -> Tensor:
    """Return (J, P) which policies hold in which models, of the least that they got there alone (J, P): (4.31)."""
    least = lowest.min()
    return lowest >= least + HOLDS * (lowest.amax(0) - least)


def who_acts(values: Tensor, holds: Tensor, explains: Tensor, before: Tensor, otherwise: Tensor) -> Tensor:
    """Return (N,) the policy that acts where the models (N, P) are plausible, after `before` (N,): (4.32), (4.33).

    Of the values (J, P), and of where each policy `holds`, the last row is the default's, which is never preferred to a
    specialist. Where none of these is usable `otherwise` (N,) acts.
    """
    specialist = torch.arange(len(values), device=values.device) < len(values) - 1
    usable = ~(explains[:, None] & ~holds).any(-1) & specialist  # (N, J)
    mean = explains.to(values) @ values.T / explains.sum(-1, keepdim=True)
    best = torch.where(usable, mean, -torch.inf).argmax(-1)
    best = torch.where(usable.any(-1), best, otherwise)
    return torch.where(usable.gather(1, before[:, None])[:, 0], before, best)


class ModelGate(nn.Module):
    """T̂(s, a, ψ), and what the default policy and every specialist get alone in each of the P models of the search."""

    points: Tensor
    values: Tensor
    lowest: Tensor
    mean: Tensor
    std: Tensor
    unit: Tensor
    usual: Tensor

    def __init__(
        self, dims: tuple[int, int, int], points: int, policies: int, hidden: Sequence[int], generator: torch.Generator
    ) -> None:
        """`dims`: of observation, action and parameters."""
        super().__init__()
        self.dims, obs_dim, width = dims, dims[0], sum(dims)
        self.predictor = MLP(width, hidden, obs_dim, generator=generator)
        self.register_buffer("points", torch.zeros(points, dims[2]))  # scaled to [−1, 1]
        self.register_buffer("values", torch.zeros(policies, points, dtype=torch.float64))  # means; the default's first
        self.register_buffer("lowest", torch.zeros_like(self.values))  # of the episodes of each of them
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.register_buffer("unit", torch.ones(obs_dim))  # in which changes of the observation are measured
        self.register_buffer("usual", torch.ones(()))
        self.requires_grad_(False)

    def error(self, obs: Tensor, action: Tensor, parameters: Tensor, next_obs: Tensor) -> Tensor:
        """Return (B,) the L1 error of the predicted change of the observation, in units: (4.29)."""
        predicted = self.predictor((torch.cat([obs, action, parameters], -1) - self.mean) / self.std)
        return prediction_error(predicted, (next_obs - obs) / self.unit)

    def errors(self, obs: Tensor, action: Tensor, next_obs: Tensor) -> Tensor:
        """Return (N, P) the error of steps (N, …) in every model."""
        rows, models = obs.shape[0], len(self.points)
        of_step = [part[:, None].expand(-1, models, -1).flatten(0, 1) for part in (obs, action, next_obs)]
        parameters = self.points.expand(rows, -1, -1).flatten(0, 1)
        return self.error(of_step[0], of_step[1], parameters, of_step[2]).view(-1, models)

    def ceiling(self, policies: int) -> float:
        """Return the worst case over the models of the first so many policies, if the model were known."""
        return float(self.values[:policies].amax(0).min())

    @torch.no_grad()
    def fit_scales(self, rows: BatchWithParameters) -> None:
        """Take the scales of inputs and outputs from rows."""
        inputs, change = torch.cat([rows.obs, rows.action, rows.parameters], -1), rows.next_obs - rows.obs
        self.mean.copy_(inputs.mean(0))
        self.std.copy_(inputs.std(0) + 1e-6)
        self.unit.copy_(change.std(0) + 1e-6)


class CompositeAmongModels(Composite):
    """The default policy and specialists, of which one acts that holds in all models that still explain the episode."""

    def __init__(
        self, specialists: Sequence[Specialist], default: Act, models: ModelGate, tolerance: float, first: int = -1
    ) -> None:
        """`first`: who acts in the first step of an episode if nobody is usable there, −1 being the default."""
        self.models, self.tolerance, self.first = models, tolerance, first
        self.values = models.values[: len(specialists) + 1].roll(-1, 0)  # the default's last, as in every composite
        self.holds = holding(models.lowest[: len(specialists) + 1].roll(-1, 0))
        super().__init__(specialists, default)

    def reset(self) -> None:
        super().reset()
        self._who: Tensor | None = None

    def judged(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        if self._before is None or self._fresh is None:
            fresh = torch.ones_like(obs[:, 0]).bool()
            self._trace, self._who = obs.new_zeros(len(obs), len(self.models.points)), torch.zeros_like(fresh).long()
            action = self.default(obs)  # of no step: what is fresh has no errors
            before = obs, action
        else:
            before, fresh = self._before, self._fresh
        assert self._trace is not None
        assert self._who is not None
        acts, self._who, self._trace = self.among(obs, *before, fresh, self._trace, self._who)
        return acts, self._who

    def among(
        self, obs: Tensor, before: Tensor, action: Tensor, fresh: Tensor, trace: Tensor, who: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions (N, act), who acts (N,) and the next trace (N, P), by the step before and those up to it."""
        new = trace + excess(self.models.errors(before, action, obs), self.models.usual)
        trace = torch.where(fresh[:, None], 0.0, new)
        default = len(self.specialists)
        who, otherwise = torch.where(fresh, default, who), torch.where(fresh, self.first % (default + 1), default)
        who = who_acts(self.values, self.holds, plausible(trace, self.tolerance), who, otherwise)
        return self.of(self.proposals(obs), who), who, trace


class Recorder:
    """A composite whose steps are kept, with the model that each was in."""

    needs_rewards = False

    def __init__(self, composite: Composite, points: Tensor, episodes: int) -> None:
        """`points` (P, d), scaled to [−1, 1], of so many episodes each, in the order of the jobs."""
        self.composite, self.points, self.episodes = composite, points, episodes
        self.rows: list[BatchWithParameters] = []
        self.reset()

    def reset(self) -> None:
        self.composite.reset()
        self._before: tuple[Tensor, Tensor] | None = None
        self._fresh: Tensor | None = None
        self._age: Tensor | None = None

    def observe(self, reward: Tensor, ended: Tensor) -> None:
        self.composite.observe(reward, ended)
        self._fresh = ended.bool()

    def track(self, job: Tensor, jobs: int) -> None:
        self.composite.track(job, jobs)
        self._job = job

    def __call__(self, obs: Tensor) -> Tensor:
        """Return actions (N, act)."""
        age = torch.zeros(len(obs), dtype=torch.int64, device=obs.device) if self._age is None else self._age
        if self._before is not None and self._fresh is not None:
            age = torch.where(self._fresh, 0, age + 1)
            kept = (age > 0) & (self._job >= 0) & ((age <= EARLY) | (age % EVERY == 0))
            self._keep(kept, *self._before, obs)
        action = self.composite(obs)
        self._age, self._before = age, (obs, action)
        return action

    def _keep(self, kept: Tensor, obs: Tensor, action: Tensor, next_obs: Tensor) -> None:
        model = self.points.to(obs)[self._job[kept].to(obs.device) // self.episodes]
        nothing = torch.zeros_like(obs[kept][:, 0])
        self.rows.append(BatchWithParameters(obs[kept], action[kept], nothing, next_obs[kept], nothing, model))


class Lessons(Stateful):
    """How a `ModelGate` is learned: the newest policy is played alone at all points, then the predictor is trained.

    In between every policy is played at points in doubt, (4.34), where it was not before.
    """

    STATEFUL = ("replay", "optimiser", "played", "left", "doubtful", "settled")

    def __init__(self, gate: ModelGate, points: Tensor, config: Any, setting: Setting) -> None:
        """`points` (P, d) of the search, in the parameters' own units."""
        self.gate, self.points, self.config = gate, points, config
        generator = make_generator(setting.seed, "gate replay", setting.device)
        self.replay = replay_with_parameters(config.replay_capacity, gate.dims, generator, setting.device)
        self.optimiser = adam(gate.predictor.requires_grad_().parameters(), config.critic_lr, setting, config.adam_eps)
        self.doubtful = torch.zeros(len(points), dtype=torch.bool)
        self.settled = torch.zeros(gate.values.shape, dtype=torch.bool)  # where a policy has played in spite of doubts
        self.begin(0)

    def begin(self, updates: int) -> None:
        """Begin with another policy; where it is the only one, nothing has to be told apart by any updates."""
        self.played, self.left = 0, updates

    def doubt(self, returns: Tensor, highest: float) -> None:
        """Doubt what is known of points where returns (P, E) on held-out seeds are not all the highest."""
        self.doubtful |= torch.tensor([not reaches(float(least), highest) for least in returns.amin(1)])

    @property
    def done(self) -> bool:
        return self.played == len(self.points) and self.left == 0

    def step(self, newest: int, alone: Callable[[int], Composite], play: Play, seeds: Seeds, side_by_side: int) -> None:
        """Play some points, the default being policy 0, or, after the last, make some updates.

        `play(recorder, points, seeds)` returns returns (p, E); `seeds` are those of the search and those held out.
        """
        if self.played < len(self.points):
            points = torch.arange(self.played, len(self.points))[: max(1, side_by_side // len(seeds[0]))]
            self._play(newest, points, alone(newest), play, seeds[0])
            self.played += len(points)
        elif (due := self.doubtful & ~self.settled[: newest + 1]).any():
            policy = int(due.any(1).nonzero()[0])
            points = due[policy].nonzero()[: max(1, side_by_side // len(seeds[1])), 0]
            self._play(policy, points, alone(policy), play, seeds[1], after=len(seeds[0]))
            self.settled[policy, points] = True
        else:
            self.learn()

    def _play(
        self, policy: int, points: Tensor, alone: Composite, play: Play, seeds: Sequence[int], *, after: int = 0
    ) -> None:
        """Note what a policy gets alone at points, after so many episodes there before."""
        recorder = Recorder(alone, self.gate.points[points], len(seeds))
        returns, values, lowest = play(recorder, self.points[points], seeds), self.gate.values, self.gate.lowest
        total, least = returns.sum(1).to(values), returns.amin(1).to(lowest)
        if after:
            total, least = total + after * values[policy, points], least.minimum(lowest[policy, points])
        values[policy, points], lowest[policy, points] = total / (after + len(seeds)), least
        for rows in recorder.rows:
            self.replay.push(rows)

    def learn(self) -> None:
        """Make the next updates, with a rate that falls to 0; after the last of them the usual error is taken."""
        updates = self.config.gate_updates
        if self.left == updates:
            self.gate.fit_scales(self.replay.everything())
        for _ in range(min(SLICE, self.left)):
            set_lr(self.optimiser, self.config.critic_lr * self.left / updates)
            take_step([self.optimiser], self._errors(self.config.batch_size).mean())
            self.left -= 1
        if self.left == 0:
            with torch.no_grad():
                self.gate.usual.copy_(self._errors(SCALE_ROWS).quantile(QUANTILE))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up where lessons were left; runs before (4.34) had no doubts."""
        none = {name: torch.zeros_like(getattr(self, name)) for name in ("doubtful", "settled")}
        super().load_state_dict(none | state)

    def _errors(self, rows: int) -> Tensor:
        batch = self.replay.sample(rows)
        return self.gate.error(batch.obs, batch.action, batch.parameters, batch.next_obs)
