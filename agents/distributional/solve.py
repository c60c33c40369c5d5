"""From an MDP and a wish about its return to a policy: which form of the method, on what stocks, from which stock."""

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
LawName = Literal["particles", "quantiles", "categorical"]


class Policy(NamedTuple):
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
    """The best that was found: start with `stock`, act by `policy`, and the return has this law."""

    objective: Objective
    value: float
    """The objective's figure: that of the search over c_0, or for an upper tail that of the policy found."""
    stock: float
    """c_0."""
    policy: Policy
    """What to do in a state, with a stock, at a step."""
    returns: Tensor
    """The law of the return from c_0: its atoms (K,), in order, …"""
    chances: Tensor
    """… and their probabilities (K,). Projected, unless the law is of particles."""
    bound: float | None
    """Upper tails: the most that policies drawn at time 0 can reach together; one policy may have to do with less."""
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
    rational: exact.Found | None
    """All of it in fractions, where the law is of particles."""
    solved: Any
    """What the search over c_0 was made on, for `again`."""

    def again(self, objective: Objective | str) -> Solution:
        """Return the solution of another objective with the same utility, as all cvars have, or all targets.

        On a grid nothing but the start is looked for anew.
        """
        wish = parse(objective) if isinstance(objective, str) else objective
        if wish.utility is not self.objective.utility:
            raise ValueError(f"{wish.name} has another utility than {self.objective.name}; solve for it anew")
        return _search(replace(self.solved[0], objective=wish), *self.solved[1:])

    @property
    def measured(self) -> float:
        """The objective of the law itself, at least the `value` where that is a lower bound."""
        return float(self.objective.measure(self.returns, self.chances))


def solve(
    mdp: TabularMDP,
    objective: Objective | str,
    *,
    gamma: float,
    horizon: int | None = None,
    method: MethodName = "exact",
    law: LawName | None = None,
    atoms: int = 256,
    stocks: int | Tensor = 200,
    return_range: tuple[float, float] | None = None,
    tolerance: float = 1e-6,
    max_sweeps: int | None = None,
    max_bytes: float = 4e9,
) -> Solution:
    """Return the policy that makes the return of the MDP as the objective wishes, among all that remember the past.

    Args:
        mdp: the task.
        objective: a text such as `cvar(0.1)`, or what `objectives.parse` and `objectives.own` return.
        gamma: discount, in (0, 1].
        horizon: steps of an episode; None where it goes on, or ends by itself.
        method: `exact` backward induction, `dvi` or `dpi`: distributional value or policy iteration.
        law: `particles` (no projection, fractions, on every stock that can be reached; needs a horizon), m `quantiles`,
            or m `categorical` weights. The default is `particles` for `exact`, else `quantiles`.
        atoms: m.
        stocks: how many, evenly over what the return can be, or the very ones in order (C,). Not for particles.
        return_range: ends of the categories; the default is wide enough that none is clipped.
        tolerance: of E u(c + G), where a method without a horizon stops.
        max_sweeps: where it stops at the latest; by default where exact laws would be within the tolerance.
        max_bytes: refuse to allocate more than this.

    Raises:
        ValueError: a table that is no MDP, an unsound objective, arguments that do not fit, or too much memory.
    """
    check(mdp)
    wish = parse(objective) if isinstance(objective, str) else objective
    sound = soundness(wish, gamma, horizon)
    kind = law or ("particles" if method == "exact" else "quantiles")
    _check_arguments(mdp, horizon, method, kind, atoms)
    if kind == "particles":
        program = exact.make_program(mdp, wish, gamma, int(horizon or 0), sound.scaled)
        return _search(program, sound.line, method)
    support = _support(mdp, gamma, horizon, atoms, return_range) if kind == "categorical" else None
    chosen = _stock_grid(mdp, wish, gamma, horizon, stocks)
    task = stock_grid.make_rows(mdp), mdp.start.double(), mdp.reward.shape[2]
    problem = stock_grid.Problem(*task, wish, gamma, horizon, sound.scaled, chosen, support, atoms)
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


def _check_arguments(mdp: TabularMDP, horizon: int | None, method: str, law: str, atoms: int) -> None:
    for given, known in ((method, get_args(MethodName)), (law, get_args(LawName))):
        if given not in known:
            raise ValueError(f"unknown method or law {given!r}; choose one of {', '.join(known)}")
    if method == "exact" and law != "particles":
        raise ValueError(f"method='exact' has laws of particles, not {law}; use method='dvi' for projected laws")
    if horizon is not None and horizon < 1:
        raise ValueError(f"horizon must be at least 1, got {horizon}")
    if law == "particles" and horizon is None:
        raise ValueError("law='particles' needs a horizon: without one laws grow for ever; or use law='quantiles'")
    if len(mdp.reward) > 1 and horizon != len(mdp.reward):
        raise ValueError(f"the table has {len(mdp.reward)} steps, the horizon is {horizon}; they must agree")
    if atoms < 2:
        raise ValueError(f"atoms must be at least 2, got {atoms}")


# --- what the return can be -------------------------------------------------------------------------------------------


def return_bounds(mdp: TabularMDP, gamma: float, horizon: int | None) -> tuple[float, float]:
    """Return the least and the largest return from any state within any number of steps, 0 among them."""
    low = -_extreme(mdp._replace(reward=-mdp.reward), gamma, horizon, surely=False)
    return low, _extreme(mdp, gamma, horizon, surely=False)


def sweeps_for(tolerance: float, largest: float, gamma: float) -> int:
    """Return n with γⁿ·(largest |return|) at most the tolerance: the bound on what is still missing after n sweeps."""
    return 1 if gamma == 1 or largest <= tolerance else math.ceil(math.log(tolerance / largest) / math.log(gamma))


def _unclipped(low: float, high: float, atoms: int, gamma: float, horizon: int | None) -> tuple[float, float]:
    """Return ends that no projection reaches: each of them may push an atom out by one spacing, discounted later."""
    pushes = float(horizon or 0) if gamma == 1 else (1 - gamma ** (horizon or math.inf)) / (1 - gamma)
    if atoms - 1 <= 2 * pushes:
        raise ValueError(f"{atoms} categories are too few for gamma = {gamma}: take more than {2 * pushes + 1:.0f}")
    beyond = pushes * (high - low) / (atoms - 1 - 2 * pushes)
    return low - beyond, high + beyond


def _extreme(mdp: TabularMDP, gamma: float, horizon: int | None, *, surely: bool) -> float:
    """Return the largest return, over states, that can happen; `surely`: the least of those that can be guaranteed."""
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


def _stock_grid(mdp: TabularMDP, wish: Objective, gamma: float, horizon: int | None, stocks: int | Tensor) -> Tensor:
    """Return the stocks (C,): as given or evenly, with c_0 among them."""
    if isinstance(stocks, Tensor):
        spaced = stocks.to(mdp.start.device).double()
        if spaced.ndim != 1 or len(spaced) < 2 or not (spaced.diff() > 0).all() or not torch.isfinite(spaced).all():
            raise ValueError("stocks must be at least two finite numbers in order (C,)")
    elif stocks < 2:
        raise ValueError(f"stocks must be at least 2, got {stocks}")
    else:
        spaced = _even_stocks(mdp, wish, gamma, horizon, stocks)
    if wish.stock is None:
        return spaced
    return torch.cat([spaced, spaced.new_tensor([float(wish.stock)])]).unique()


def _even_stocks(mdp: TabularMDP, wish: Objective, gamma: float, horizon: int | None, count: int) -> Tensor:
    """Return stocks evenly from −(largest return) to −(least return).

    Where the utility is flat above 0 the upper end is −(the least return over states that can be guaranteed): with more
    stock than that a sure 0 is within reach, and nothing is better.
    """
    low, high = return_bounds(mdp, gamma, horizon)
    u = wish.utility(torch.tensor([-1.0, 0.0, 1.0, 1e3], dtype=torch.float64))
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
    atoms = sorted(found.best.law.items())
    return Solution(
        objective=program.objective,
        value=float(found.best.score),
        stock=float(found.best.stock),
        policy=Policy(stocks, actions, by_step=True),
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


def _from_grid(problem: stock_grid.Problem, note: str, solved: stock_grid.Solved) -> Solution:
    wish, stocks = problem.objective, problem.stocks
    scores = wish.score(stocks, problem.start @ solved.values)
    each = [_mixture(problem, solved.law[:, j]) for j in range(len(stocks))]
    figures = torch.stack([wish.measure(*law) for law in each]) if wish.outer == "min" else scores
    if wish.stock is not None:
        if not stocks[0] <= float(wish.stock) <= stocks[-1]:
            raise ValueError(
                f"{wish.name} starts from stock {float(wish.stock):g}, outside [{float(stocks[0]):g}, "
                f"{float(stocks[-1]):g}] that was solved for; solve for it anew"
            )
        best = int((stocks - float(wish.stock)).abs().argmin())
    else:
        means = torch.stack([distributions.mean(*law) for law in each])
        best = int(means.masked_fill(figures < figures.max() - stock_grid.TIE, -torch.inf).argmax())
    returns, order = each[best][0].sort()
    table = solved.actions.cpu()
    keys = [(step, state) for step in range(len(table)) for state in range(table.shape[1])]
    return Solution(
        objective=wish,
        value=float(figures[best]),
        stock=float(stocks[best] if wish.stock is None else wish.stock),
        policy=Policy(
            dict.fromkeys(keys, stocks), {(step, state): table[step, state] for step, state in keys}, len(table) > 1
        ),
        returns=returns,
        chances=each[best][1][order],
        bound=float(scores.min()) if wish.outer == "min" else None,
        stocks=stocks,
        scores=scores,
        note=note,
        sweeps=solved.sweeps,
        change=solved.change,
        rational=None,
        solved=(problem, note, solved),
    )


def _mixture(problem: stock_grid.Problem, law: Tensor) -> tuple[Tensor, Tensor]:
    """Return atoms and weights of the whole return, of laws (S, m) of the states that can come first."""
    first = problem.start > 0
    share = problem.start[first][:, None]
    if problem.support is None:
        values = law[first]
        return values.flatten(), (share / problem.count).expand_as(values).flatten()
    return problem.support, (share * law[first]).sum(0)


def _float64(numbers: list[Any]) -> Tensor:
    return torch.tensor([float(number) for number in numbers], dtype=torch.float64)
