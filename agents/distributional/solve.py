"""From an MDP and an objective of its return to a policy: which form of the method, on what stocks, from which stock.

docs/derivations/distributional.md §4 (methods), §5 (from which stock), §6 (representations and the stock axis).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from surefoot.agents.distributional import distributions, exact, stock_grid
from surefoot.agents.distributional.objectives import Objective, parse, soundness
from surefoot.agents.parts.tabular import TabularMDP, check

MethodName = Literal["exact", "dvi", "dpi"]
Representation = Literal["particles", "quantiles", "categorical"]


class SolvedPolicy(NamedTuple):
    """What to do in a state with a stock: the action at the nearest stock that was solved for."""

    stocks: dict[tuple[int, int], Tensor]  # of (step, state), in order; step 0 alone where every step is alike
    actions: dict[tuple[int, int], Tensor]
    by_step: bool

    def __call__(self, state: Tensor, stock: Tensor, step: int = 0) -> Tensor:
        """Return actions (N,) in states (N,) with stocks (N,), after `step` steps."""
        action = torch.zeros_like(state)
        for each in state.unique().tolist():
            here = state == each
            known = self.stocks.get((step if self.by_step else 0, each))
            if known is not None:  # else the episode is over there
                between = (known[1:] + known[:-1]) / 2
                nearest = torch.bucketize(stock[here].to(known), between)
                action[here] = self.actions[step if self.by_step else 0, each][nearest].to(action)
        return action


@dataclass(frozen=True)
class Solution:
    """The best that was found: start with `stock` and act by `policy`, and the return is distributed as stated here."""

    objective: Objective
    value: float
    """The objective's figure: that of the search over c_0, or for an upper tail that of the policy found."""
    stock: float
    """c_0."""
    policy: SolvedPolicy
    """What to do in a state, with a stock, at a step."""
    returns: Tensor
    """The return distribution from c_0: its atoms (K,), in order, …"""
    chances: Tensor
    """… and their probabilities (K,). Projected, unless the representation is `particles`."""
    bound: float | None
    """Upper tails: an upper bound, attained by a mixture of policies drawn at time 0; one policy may achieve less."""
    stocks: Tensor
    """Every c_0 that was tried (C,), in order, …"""
    scores: Tensor
    """… and the figure that each stands for (C,)."""
    note: str
    """Why stock alone was enough, or not."""
    sweeps: int
    """Of value iteration over the states, or policies of policy iteration."""
    change: float
    """Of E u(c + G) in the last sweep; above the tolerance it had not settled."""
    rational: exact.StartSearch | None
    """All of it in fractions, where the representation is `particles`."""
    solved: Any
    """What the search over c_0 was made on, for `again`."""

    def again(self, objective: Objective | str) -> Solution:
        """Return the solution of another objective with the same utility, as all cvars have, or all targets.

        On a grid nothing but the start is looked for anew.
        """
        objective = parse(objective) if isinstance(objective, str) else objective
        if objective.utility is not self.objective.utility:
            raise ValueError(f"{objective.name} has another utility than {self.objective.name}; solve for it anew")
        return _search(replace(self.solved[0], objective=objective), *self.solved[1:])

    @property
    def measured(self) -> float:
        """The objective of the return distribution itself, at least the `value` where that is a lower bound."""
        return float(self.objective.measure(self.returns, self.chances))


def solve(
    mdp: TabularMDP,
    objective: Objective | str,
    *,
    gamma: float,
    horizon: int | None = None,
    method: MethodName = "exact",
    representation: Representation | None = None,
    atoms: int = 256,
    stocks: int | Tensor = 200,
    return_range: tuple[float, float] | None = None,
    tolerance: float = 1e-6,
    max_sweeps: int | None = None,
    max_bytes: float = 4e9,
) -> Solution:
    """Return the best policy of the MDP for the objective, among all history-dependent ones.

    Args:
        mdp: the task.
        objective: a text such as `cvar(0.1)`, or what `objectives.parse` and `objectives.own` return.
        gamma: discount, in (0, 1].
        horizon: steps of an episode; None where it never ends, or ends by itself.
        method: `exact` backward induction, `dvi` or `dpi`: distributional value or policy iteration.
        representation: of return distributions: `particles` (no projection, fractions, on every reachable stock; needs
            a horizon), m `quantiles`, or m `categorical` weights. Default: `particles` for `exact`, else `quantiles`.
        atoms: m.
        stocks: how many, evenly over what the return can be, or the very ones in order (C,). Not for particles.
        return_range: ends of the categories; the default is wide enough that none is clipped.
        tolerance: of E u(c + G), where a method without a horizon stops.
        max_sweeps: where it stops at the latest; by default where exact distributions would be within the tolerance.
        max_bytes: refuse to allocate more than this.

    Raises:
        ValueError: an invalid MDP, an unsound objective, arguments that do not fit, or too much memory.
    """
    check(mdp)
    objective = parse(objective) if isinstance(objective, str) else objective
    sound = soundness(objective, gamma, horizon)
    kind = representation or ("particles" if method == "exact" else "quantiles")
    _check_arguments(mdp, horizon, method, kind, atoms)
    if kind == "particles":
        program = exact.make_program(mdp, objective, gamma, int(horizon or 0), sound.scaled)
        return _search(program, sound.line, method)
    support = _support(mdp, gamma, horizon, atoms, return_range) if kind == "categorical" else None
    chosen = _stock_grid(mdp, objective, gamma, horizon, stocks)
    task = stock_grid.make_rows(mdp), mdp.start.double(), mdp.reward.shape[2]
    problem = stock_grid.Problem(*task, objective, gamma, horizon, sound.scaled, chosen, support, atoms)
    _require_memory(problem, method, max_bytes)
    sweeps = max_sweeps or sweeps_for(tolerance, max(map(abs, return_bounds(mdp, gamma, horizon))), gamma)
    return _search(problem, sound.line, stock_grid.METHODS[method](problem, tolerance, sweeps))


def _support(
    mdp: TabularMDP, gamma: float, horizon: int | None, atoms: int, ends: tuple[float, float] | None
) -> Tensor:
    low, high = ends or _unclipped(*return_bounds(mdp, gamma, horizon), atoms, gamma, horizon)
    return torch.linspace(low, high, atoms, dtype=torch.float64, device=mdp.reward.device)


def _require_memory(problem: stock_grid.Problem, method: str, limit: float) -> None:
    sizes = len(problem.start), len(problem.stocks), problem.count
    need = stock_grid.memory_bytes(problem.rows, *sizes, problem.horizon, method)
    if need > limit:
        raise ValueError(
            f"{method} needs up to {need / 1e9:.2f} GB for {len(problem.stocks)} stocks and {problem.count} atoms, "
            f"more than max_bytes ({limit / 1e9:.2f} GB); take fewer of them"
        )


def _check_arguments(mdp: TabularMDP, horizon: int | None, method: str, representation: str, atoms: int) -> None:
    for given, known in ((method, get_args(MethodName)), (representation, get_args(Representation))):
        if given not in known:
            raise ValueError(f"unknown method or representation {given!r}; choose one of {', '.join(known)}")
    if method == "exact" and representation != "particles":
        raise ValueError(
            f"method='exact' needs representation='particles', not {representation!r}; or use method='dvi'"
        )
    if horizon is not None and horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")
    if representation == "particles" and horizon is None:
        raise ValueError(
            "representation='particles' needs a horizon, without which the number of particles is unbounded; or use "
            "representation='quantiles'"
        )
    if len(mdp.reward) > 1 and horizon != len(mdp.reward):
        raise ValueError(f"the table has {len(mdp.reward)} steps, the horizon is {horizon}; they must agree")
    if atoms < 2:
        raise ValueError(f"atoms must be at least 2, got {atoms}")


# --- what the return can be -------------------------------------------------------------------------------------------


def return_bounds(mdp: TabularMDP, gamma: float, horizon: int | None) -> tuple[float, float]:
    """Return the least and the largest return from any state within any number of steps, 0 among them: eq. (6.5)."""
    low = -_extreme(mdp._replace(reward=-mdp.reward), gamma, horizon, surely=False)
    return low, _extreme(mdp, gamma, horizon, surely=False)


def sweeps_for(tolerance: float, largest: float, gamma: float) -> int:
    """Return n with γⁿ·(largest |return|) at most the tolerance: what may be missing after n sweeps, eq. (4.6)."""
    return 1 if gamma == 1 or largest <= tolerance else math.ceil(math.log(tolerance / largest) / math.log(gamma))


def _unclipped(low: float, high: float, atoms: int, gamma: float, horizon: int | None) -> tuple[float, float]:
    """Return ends that no projection reaches, eq. (6.3): each may push an atom out by one spacing, discounted later."""
    pushes = float(horizon or 0) if gamma == 1 else (1 - gamma ** (horizon or math.inf)) / (1 - gamma)
    if atoms - 1 <= 2 * pushes:
        raise ValueError(f"{atoms} categories are too few for gamma = {gamma}: take more than {2 * pushes + 1:.0f}")
    beyond = pushes * (high - low) / (atoms - 1 - 2 * pushes)
    return low - beyond, high + beyond


def _extreme(mdp: TabularMDP, gamma: float, horizon: int | None, *, surely: bool) -> float:
    """Return the largest return, over states, that can happen; `surely`: the least that is guaranteed, eq. (6.6)."""
    possible = mdp.probability > 0
    value, most = mdp.start.new_zeros(len(mdp.start)).double(), 0.0
    for sweep in range(horizon or 100_000):
        h = -1 - sweep if len(mdp.reward) > 1 else 0
        outcome = mdp.reward[h] + gamma * value[mdp.next_state[h]]
        if surely:
            new = outcome.masked_fill(~possible[h], torch.inf).amin(-1).amax(-1)
        else:
            new = outcome.masked_fill(~possible[h], -torch.inf).amax(-1).amax(-1)
        settled = float((new - value).abs().max()) < 1e-9
        value = new
        most = min(most, float(value.min())) if surely else max(most, float(value.max()))
        if settled:
            break
    return most


def _stock_grid(
    mdp: TabularMDP, objective: Objective, gamma: float, horizon: int | None, stocks: int | Tensor
) -> Tensor:
    """Return the stocks (C,): as given or evenly, with c_0 among them."""
    if isinstance(stocks, Tensor):
        spaced = stocks.to(mdp.start.device).double()
        if spaced.ndim != 1 or len(spaced) < 2 or not (spaced.diff() > 0).all() or not torch.isfinite(spaced).all():
            raise ValueError("stocks must be at least two finite numbers in order (C,)")
    elif stocks < 2:
        raise ValueError(f"stocks must be at least 2, got {stocks}")
    else:
        spaced = _even_stocks(mdp, objective, gamma, horizon, stocks)
    if objective.stock is None:
        return spaced
    grid: Tensor = torch.cat([spaced, spaced.new_tensor([float(objective.stock)])]).unique()
    return grid


def _even_stocks(mdp: TabularMDP, objective: Objective, gamma: float, horizon: int | None, count: int) -> Tensor:
    """Return stocks evenly from −(largest return) to −(least return).

    Where the utility is flat above 0 the upper end is −(the least return over states that can be guaranteed): with more
    stock than that a sure 0 is within reach, and nothing is better.
    """
    low, high = return_bounds(mdp, gamma, horizon)
    u = objective.utility(torch.tensor([-1.0, 0.0, 1.0, 1e3], dtype=torch.float64))
    if u[0] <= u[1] == u[2] == u[3]:
        low = _extreme(mdp, gamma, horizon, surely=True)
    return torch.linspace(-high, -low, count, dtype=torch.float64, device=mdp.start.device)


# --- from what was solved to a solution -------------------------------------------------------------------------------


def _search(task: exact.Program | stock_grid.Problem, note: str, solved: Any) -> Solution:
    if isinstance(task, exact.Program):
        return _from_particles(task, note, solved)
    return _from_grid(task, note, solved)


def _from_particles(program: exact.Program, note: str, method: str) -> Solution:
    found = exact.best_start(program, method)
    nodes: dict[tuple[int, int], list[tuple[Fraction, int]]] = {}
    for (step, state, stock), action in found.solved.actions.items():
        nodes.setdefault((step, state), []).append((stock, action))
    stocks, actions = {}, {}
    for key, pairs in nodes.items():
        pairs.sort()
        stocks[key] = _float64([stock for stock, _ in pairs])
        actions[key] = torch.tensor([action for _, action in pairs])
    atoms = sorted(found.best.distribution.items())
    return Solution(
        objective=program.objective,
        value=float(found.best.score),
        stock=float(found.best.stock),
        policy=SolvedPolicy(stocks, actions, by_step=True),
        returns=_float64([value for value, _ in atoms]),
        chances=_float64([weight for _, weight in atoms]),
        bound=None if found.bound is None else float(found.bound),
        stocks=_float64([start.stock for start in found.tried]),
        scores=_float64([start.score for start in found.tried]),
        note=note,
        sweeps=found.solved.sweeps,
        change=0.0,
        rational=found,
        solved=(program, note, method),
    )


def _from_grid(problem: stock_grid.Problem, note: str, solved: stock_grid.SolvedGrid) -> Solution:
    objective, stocks = problem.objective, problem.stocks
    scores = objective.score(stocks, problem.start @ solved.values)
    each = [_mixture(problem, solved.distribution[:, j]) for j in range(len(stocks))]
    figures = (
        torch.stack([objective.measure(*distribution) for distribution in each]) if objective.outer == "min" else scores
    )
    if objective.stock is not None:
        if not stocks[0] <= float(objective.stock) <= stocks[-1]:
            raise ValueError(
                f"{objective.name} starts from stock {float(objective.stock):g}, outside [{float(stocks[0]):g}, "
                f"{float(stocks[-1]):g}] that was solved for; solve for it anew"
            )
        best = int((stocks - float(objective.stock)).abs().argmin())
    else:
        means = torch.stack([distributions.mean(*distribution) for distribution in each])
        best = int(means.masked_fill(figures < figures.max() - stock_grid.TIE, -torch.inf).argmax())
    returns, order = each[best][0].sort()
    table = solved.actions.cpu()
    keys = [(step, state) for step in range(len(table)) for state in range(table.shape[1])]
    return Solution(
        objective=objective,
        value=float(figures[best]),
        stock=float(stocks[best] if objective.stock is None else objective.stock),
        policy=SolvedPolicy(
            dict.fromkeys(keys, stocks), {(step, state): table[step, state] for step, state in keys}, len(table) > 1
        ),
        returns=returns,
        chances=each[best][1][order],
        bound=float(scores.min()) if objective.outer == "min" else None,
        stocks=stocks,
        scores=scores,
        note=note,
        sweeps=solved.sweeps,
        change=solved.change,
        rational=None,
        solved=(problem, note, solved),
    )


def _mixture(problem: stock_grid.Problem, distribution: Tensor) -> tuple[Tensor, Tensor]:
    """Return atoms and weights of the return from the start, of distributions (S, m) from every state."""
    first = problem.start > 0
    probability = problem.start[first][:, None]
    if problem.support is None:
        values = distribution[first]
        return values.flatten(), (probability / problem.count).expand_as(values).flatten()
    return problem.support, (probability * distribution[first]).sum(0)


def _float64(numbers: list[Any]) -> Tensor:
    return torch.tensor([float(number) for number in numbers], dtype=torch.float64)
