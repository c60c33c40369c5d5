"""All return distributions that deterministic history-dependent policies of a small MDP have, by enumeration.

No code is shared with the methods that are held to it.
"""

from fractions import Fraction as F
from itertools import product

import torch

from surefoot.agents.distributional.objectives import as_fraction
from surefoot.agents.parts.tabular import TabularMDP


def mixed(outcomes, gamma):
    """Return the mixture of reward + γ·G over (chance, reward, distribution of G), as sets of (value, weight)."""
    distribution = {}
    for chance, reward, child in outcomes:
        for value, weight in child:
            distribution[reward + gamma * value] = distribution.get(reward + gamma * value, F(0)) + chance * weight
    return frozenset(distribution.items())


NOTHING = frozenset({(F(0), F(1))})


def random_mdp(seed):
    """Return 2 states, 2 actions, at most 2 outcomes, integer rewards in [−4, 4]."""
    g = torch.Generator().manual_seed(seed)
    shape = (1, 2, 2, 2)
    first = torch.randint(0, 5, shape[:-1], generator=g) / 4.0
    probability = torch.stack([first, 1 - first], -1).double()
    return TabularMDP(
        torch.tensor([1.0, 0.0]).double(),
        torch.randint(2, shape, generator=g),
        probability,
        torch.randint(-4, 5, shape, generator=g).double(),
    )


def outcomes_of(mdp, step=0):
    """Return what can happen at a step, [state][action], as (probability, next state, reward) in fractions."""
    fields = (field[step].tolist() for field in (mdp.probability, mdp.next_state, mdp.reward))
    return [
        [
            [(as_fraction(p), s, as_fraction(r)) for p, s, r in zip(*cell, strict=True) if p]
            for cell in zip(*state, strict=True)
        ]
        for state in zip(*fields, strict=True)
    ]


def achievable(table, state, left, gamma):
    """Return the distributions that deterministic history-dependent policies have from a state."""
    return achievable_along([table] * left, state, gamma)


def achievable_along(tables, state, gamma):
    """Return the same for a table of every step that is left."""
    if not tables:
        return {NOTHING}
    distributions = set()
    for outcomes in tables[0][state]:
        children = product(*(achievable_along(tables[1:], after, gamma) for _, after, _ in outcomes))
        distributions |= {
            mixed([(chance, pay, child) for (chance, _, pay), child in zip(outcomes, chosen, strict=True)], gamma)
            for chosen in children
        }
    return distributions
