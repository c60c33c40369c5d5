"""Ridge regression and optimism for N replicates of a small dimension at once, written out entry by entry.

Replicates are the last axis and every line is one operation over all of them: at d ≤ 8 this is many times faster than
a batched factorisation, no inverse is formed, nothing drifts, and the numbers of a replicate do not depend on N
(docs/derivations/dynlin.md §5.3).

| derivation | paper | here |
|---|---|---|
| (3.7) | Algorithm 1 | `Ridge.update`, `Ridge.estimate` |
| (4.1), (4.2) | – | `ActionTable.values`, `ActionTable.whiten`, `cholesky`, `forward`, `backward` |
| §4.1 | – | `first_best` |
| (10.5) | – | `quadratic_form` |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from surefoot.agents.parts.state import pack, unpack


class Ridge:
    """Gram matrix V = λI + Σ u uᵀ (d, d, N) and moment b = Σ u y (d, N) of one regression per replicate, float64."""

    STATEFUL = ("gram", "moment")

    def __init__(self, d: int, replicates: int, lam: float, device: torch.device) -> None:
        identity = lam * torch.eye(d, dtype=torch.float64, device=device)
        self.gram = identity[..., None].repeat(1, 1, replicates)
        self.moment = torch.zeros(d, replicates, dtype=torch.float64, device=device)

    def update(self, u: Tensor, y: Tensor) -> None:
        """Take in one sample per replicate: u (d, N), y (N,)."""
        self.gram += u[:, None] * u
        self.moment += u * y

    def regularise(self, more: float) -> None:
        """Add `more` to λ; 0 leaves every bit as it is."""
        if more:
            self.gram.diagonal().add_(more)

    def estimate(self) -> Tensor:
        """Return ĥ = V⁻¹ b (d, N)."""
        factor = cholesky(self.gram)
        return torch.stack(backward(factor, forward(factor, self.moment.unbind())))

    def state_dict(self) -> dict[str, Any]:
        return pack(self, self.STATEFUL)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        unpack(self, self.STATEFUL, state)


Triangle = list[list[Tensor]]  # rows of a lower-triangular matrix, entries (N,)


def cholesky(gram: Tensor) -> Triangle:
    """Return the lower-triangular L with L Lᵀ = gram (d, d, N)."""
    factor: Triangle = []
    for i, row in enumerate(gram.unbind()):
        entries: list[Tensor] = []
        for j, value in enumerate(row.unbind()[: i + 1]):
            for k in range(j):
                value = value - entries[k] * (factor[j][k] if j < i else entries[k])
            entries.append(value.sqrt() if j == i else value / factor[j][j])
        factor.append(entries)
    return factor


def forward(factor: Triangle, right: Sequence[Tensor]) -> list[Tensor]:
    """Return W with L W = right; d entries that broadcast with (N,)."""
    solved: list[Tensor] = []
    for row, value in zip(factor, right, strict=True):
        for coefficient, earlier in zip(row, solved, strict=False):
            value = value - coefficient * earlier
        solved.append(value / row[-1])
    return solved


def backward(factor: Triangle, right: Sequence[Tensor]) -> list[Tensor]:
    """Return W with Lᵀ W = right; d entries that broadcast with (N,)."""
    solved: list[Tensor] = []
    for i in reversed(range(len(factor))):
        value = right[i]
        for j, later in zip(range(len(factor) - 1, i, -1), solved, strict=False):
            value = value - factor[j][i] * later
        solved.append(value / factor[i][i])
    return solved[::-1]


def quadratic_form(matrix: Tensor, v: Sequence[Tensor]) -> Tensor:
    """Return vᵀ M v of a symmetric M (d, d, N) and d entries v that broadcast with (N,); only half of M is read."""
    rows = []
    for i, row in enumerate(matrix.unbind()):
        terms = [row[i] * v[i]] + [2 * row[j] * v[j] for j in range(i)]
        rows.append(v[i] * total(terms))
    return total(rows)


def total(terms: Sequence[Tensor]) -> Tensor:
    """Return the sum of the terms, taken in their order."""
    result = terms[0]
    for term in terms[1:]:
        result = result + term
    return result


class ActionTable:
    """A finite set of actions (K, d), and <ĥ, a> and ‖a‖²_{V⁻¹} of all of them in every replicate."""

    def __init__(self, actions: Tensor, replicates: int) -> None:
        self.actions = actions.double()  # (K, d)
        self.columns = self.actions.T.contiguous()  # (d, K)
        # The actions and, last, a place for the moment: one triangular solve serves both.
        self._right = self.columns[..., None].repeat(1, 1, replicates)
        self._right = torch.cat([self._right, torch.zeros_like(self._right[:, :1])], 1)  # (d, K + 1, N)

    def vectors(self, index: Tensor) -> Tensor:
        """Return the actions (d, N) that the rows `index` (N,) name."""
        return self.columns.index_select(1, index)

    def values(self, ridge: Ridge) -> tuple[Tensor, Tensor]:
        """Return <ĥ, a> and ‖a‖²_{V⁻¹}, both (K, N)."""
        mean, whitened = self.whiten(cholesky(ridge.gram), ridge.moment)
        return mean, total([w * w for w in whitened])

    def whiten(self, factor: Triangle, moment: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return <ĥ, a> (K, N) and the d components (K, N) of L⁻¹a."""
        self._right[:, -1] = moment
        solved = forward(factor, self._right.unbind())
        whitened = [w[:-1] for w in solved]
        return total([w * solution[-1] for w, solution in zip(whitened, solved, strict=True)]), whitened


def first_best(values: Tensor) -> Tensor:
    """Return the row (N,) of the largest of values (K, N); the lowest of equal ones."""
    return values.max(0).indices  # documented to be the first; argmax says the same and takes ten times as long
