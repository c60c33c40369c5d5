"""An evaluation during a run: the return in the evaluation's dynamics, and what the run is for if that is another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from surefoot.agents.distributional.vectors import parse_any
from surefoot.agents.interface import Agent
from surefoot.envs import BatchedPerturbedEnvs
from surefoot.evaluation.episodes import EvalResult, divergence, evaluate, make_act
from surefoot.evaluation.uncertainty_grid import worlds, worst_case
from surefoot.training.config.measure import OBJECTIVE_COLUMN, WORST_CASE, Measure, further_columns, measure_of
from surefoot.training.config.run import RunConfig
from surefoot.training.runs.loggers import Row


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found."""

    measure: Measure
    result: EvalResult
    further: dict[str, float]  # figures of the evaluation as a whole, by their column
    where: str = ""  # the world of the worst case, in words

    @property
    def value(self) -> float:
        """What the run is for."""
        return self.further.get(self.measure.column, float(self.result.returns.mean()))

    def rows(self) -> Iterator[Row]:
        """Yield the rows of evaluations.csv, one per episode; the further figures stand in each of them."""
        result = self.result
        scores = [None] * len(result.returns) if result.score is None else result.score.tolist()
        columns = zip(result.returns.tolist(), result.lengths.tolist(), scores, strict=True)
        for i, (episode_return, length, score) in enumerate(columns):
            episode = {"episode": i, "episode_return": episode_return, "length": length, "score": score}
            yield episode | self.further

    def row(self) -> dict[str, float]:
        """Return the means for the loggers."""
        means = {"episode_return": self.result.returns, "length": self.result.lengths, "score": self.result.score}
        named = {name: float(values.mean()) for name, values in means.items() if values is not None}
        return {f"eval/{name}": value for name, value in (named | self.further).items()}

    def summary(self) -> str:
        """Return the figures in words."""
        returns, score = self.result.returns, self.result.score
        parts = [f"return {returns.mean():.1f} ± {returns.std():.1f}"]
        parts += [] if score is None else [f"score {score.mean():.1f}"]
        if OBJECTIVE_COLUMN in self.further:
            parts.append(f"{self.measure.name} {self.further[OBJECTIVE_COLUMN]:.3f}")
        if WORST_CASE.column in self.further:
            parts.append(f"worst case {self.further[WORST_CASE.column]:.1f} at {self.where}")
        parts += [note] if (note := divergence(int(self.result.broken.sum()), len(returns))) else []
        return ", ".join(parts)


def evaluate_policy(
    agent_name: str,
    config: RunConfig[Any],
    agent: Agent,
    perturbed_envs: BatchedPerturbedEnvs | None,
    device: torch.device,
) -> Evaluation:
    """Measure the policy in `eval.physics`: at the nominal parameters, and in `eval.worlds` where there is a set.

    All episodes start from the reset seeds of `eval.seed`, the same in every evaluation, in environments of their own:
    training does not notice, and MuJoCo in C steps them whatever steps those of training. An objective is that of the
    discounted returns of the same episodes.
    """
    settings, columns = config.eval, further_columns(agent_name, config)
    env = replace(config.env.in_c(), physics=settings.physics)
    gamma = config.agent.gamma if OBJECTIVE_COLUMN in columns else 1.0
    plays: dict[str, Any] = {"episodes": settings.episodes, "seed": settings.seed, "device": device, "gamma": gamma}
    result = evaluate(make_act(agent), env, **plays)
    further, where = {}, ""
    if OBJECTIVE_COLUMN in columns:
        objective = parse_any(config.agent.objective)
        further[OBJECTIVE_COLUMN] = float(objective.measure(torch.from_numpy(result.discounted)))
    if perturbed_envs is not None:
        points = worlds(perturbed_envs.uncertainty, settings.worlds, settings.seed)
        seeds = range(settings.seed, settings.seed + settings.episodes)
        further[WORST_CASE.column], worst = worst_case(make_act(agent), perturbed_envs, points, seeds)
        where = ", ".join(f"{name} {x:.3g}" for name, x in zip(perturbed_envs.names, worst, strict=True))
    return Evaluation(measure_of(agent_name, config), result, further, where)
