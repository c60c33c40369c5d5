"""The functions behind `import surefoot` for bandits that drive a real system, and for logs of one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surefoot.agents.dynlin.identification import Identified
from surefoot.agents.dynlin.identification import identify as identify_log
from surefoot.agents.parts.ask_tell import BanditRequest
from surefoot.evaluation import bandit_files
from surefoot.evaluation.bandit_files import OpenBandit


def bandit(
    learner: str,
    /,
    *,
    actions: Any = None,
    horizon: int | None = None,
    bounds: Mapping[str, float] | None = None,
    replicates: int = 1,
    seed: int = 0,
    device: str = "cpu",
    **settings: Any,
) -> OpenBandit:
    """Return a bandit learner that drives a real system: `ask` it for an action, `tell` it the rewards.

    Args:
        learner: `dynlin-ucb`, or one of its baselines: `linucb`, `d-linucb`, `exp3`, `batch-exp3`, `ar2`, …; of those
            that are shown contexts `neusquarecb`, `neufastcb`, `neural-ucb`, `contextual-linucb`, …
        actions: a table (K, d), `{"polytope": {"matrix": …, "bound": …}}` or `{"ball": RADIUS, "dimension": D}`; for
            learners that are shown contexts None, or `{"arms": K}` where all arms share one.
        horizon: rounds T that the constants are made for; None: any number, by doubling.
        bounds: what is known of the system: `spectral_radius` (left out: raised as the data demand it),
            `action_weight`, `input_matrix`, `noise_std`, and, if not 1, `non_normality`, `state_weight`; also
            `action_norm`, `state_norm`.
        replicates: systems in lock-step, with a reward each.
        seed: of random actions.
        device: where it computes.
        settings: fields of the learner's own, such as `bias_scale=0.1`.

    Raises:
        ValueError: an unknown learner or setting, no or too few actions, a bound that is missing or out of range.
    """
    made = dict(settings) if horizon is None else {**settings, "horizon": horizon}
    request = BanditRequest(bandit_files.action_set(actions), dict(bounds or {}), replicates, seed)
    return bandit_files.make(learner, made, request, device=device)


def load_bandit(path: str | Path, learner: str | None = None, *, device: str = "cpu") -> OpenBandit:
    """Return the learner in a file that `save` wrote: it goes on as if it had never stopped, to the last bit.

    Args:
        path: the file.
        learner: the kind that is expected; None: any.
        device: where it computes.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file, another format, or another learner.
    """
    return bandit_files.load(Path(path), learner, device=device)


def identify(actions: Any, rewards: Any, *, lags: int | None = None) -> Identified:
    """Return what logs say of a linear system with hidden state, with 95 % intervals.

    Args:
        actions: (T, d) as played, in the order of the rounds.
        rewards: (T,), NaN where one is missing.
        lags: how many rounds an action acts; None: chosen by the data.

    Returns:
        `markov` and `h` (of which `h`, `long_run(action)` and `spectral_radius` are intervals), `noise_std`, `bounds()`
        for `bandit`, and `system()`, the keyword arguments of `surefoot/DynamicalLinear-v0` that simulate it.

    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, or too few rounds.
    """
    return identify_log(actions, rewards, lags=lags)
