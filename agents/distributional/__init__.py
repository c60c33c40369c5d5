"""Stock-augmented distributional dynamic programming: optimise any sound objective of the return of a finite MDP.

Ávila Pires, Rowland, Borsa, Guo, Khetarpal, Barreto, Abel, Munos, Dabney, "Optimizing Return Distributions with
Distributional Dynamic Programming", arXiv 2501.13028, JMLR 26(185), 2025. The deep agent is `dhn`.

`solve` is the way in. The optimum over states and stocks is in `enumerated` (every stock that can be reached),
`interpolated` (between two bounds on a grid) and `neutral` (objectives that need no stock); the paper's method is in
`exact`, in fractions, and in `stock_grid`, with projected distributions on tensors. Utilities, and when each is sound,
are in `objectives`, projections in `distributions`. The body of the paper could not be had; what is the paper's,
derived, or ours is stated in docs/derivations/distributional.md §15. Ours are:

- ties between actions are broken by the larger mean return, then by the first: without, a policy that has attained its
  objective dawdles;
- the stock between the points of a grid is the nearest point's: distributions, unlike values, are not to be averaged;
- the search over c_0 prefers, among equal scores, the distribution of the larger mean.

    mdp = TabularMDP(*Fork().tabular())
    solution = solve(mdp, "cvar(0.5)", gamma=0.9, method="vi")
    solution.value, solution.bound, solution.stock, solution.returns, solution.policy(state, stock)
"""

from surefoot.agents.distributional.solve import Solution, SolvedPolicy, solve

__all__ = ["Solution", "SolvedPolicy", "solve"]
