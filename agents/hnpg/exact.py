"""HAC and HPE exactly as the theory states them, on a tabular finite-horizon MDP: for teaching and for tests.

Zhou, Sekhari, Song, Sun, arXiv 2311.08384; docs/derivations/hnpg.md. The deep, practical form is `agent.py`.

| derivation | paper | here |
|---|---|---|
| (2.3) the hybrid regression, tabular F | (1) | `hybrid_table` |
| (2.4) the same, linear F | (1) | `hybrid_least_squares` |
| (2.1) without discount, one step | (1), (49) | `fit_step` |
| (2.1), (2.2) HPE: K2 rounds, mean of the last K2 − K1 | algorithm 2 | `hpe` |
| (2.6), (2.7) HAC: π^{t+1} ∝ π^t·exp(η f^t) | algorithm 1, line 5 | `hac` |
| §3.2 one sweep, with the exact mean over a' | algorithm 5 | `backward_sweep` |
| (3.2) samples and their returns | algorithm 5, line 2 | `sample_pairs` |
| §8.5, (8.9) the latent lock, its behaviour | appendix E.1 | `latent_lock`, `lock_behaviour` |
| (8.6) chance of success | – | `success_probability` |

Shapes: H steps, S states, A actions; policies and values are (H, S, A), float64. There is no discount; f_H = 0.

    mdp = latent_lock(horizon=10)
    offline = sample_pairs(mdp, lock_behaviour(mdp), 20_000, generator)
    for policy in hac(mdp, offline, iterations=40, eta=1.0, generator=generator):
        print(success_probability(mdp, policy))
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from surefoot.agents.parts.tabular import TabularMDP, expected_return, from_dense


class Pairs(NamedTuple):
    """N samples of every step, side by side."""

    state: Tensor  # (H, N)
    action: Tensor  # (H, N)
    reward: Tensor  # (H, N)
    next_state: Tensor  # (H, N)
    reward_to_go: Tensor  # (H, N), unbiased for Q of the policy that acted

    def draw(self, samples: int, generator: torch.Generator) -> Pairs:
        """Return `samples` of every step, with replacement."""
        index = torch.randint(self.state.shape[1], (len(self.state), samples), generator=generator)
        return Pairs(*(field.gather(1, index) for field in self))


# --- samples ----------------------------------------------------------------------------------------------------------


def sample_pairs(mdp: TabularMDP, policy: Tensor, episodes: int, generator: torch.Generator) -> Pairs:
    """Return `episodes` episodes of π, one sample of every step each."""
    state = torch.multinomial(mdp.start, episodes, replacement=True, generator=generator)
    columns: list[tuple[Tensor, ...]] = []
    for h in range(len(policy)):
        action = torch.multinomial(policy[h, state], 1, generator=generator).squeeze(1)
        outcome = torch.multinomial(mdp.probability[h, state, action], 1, generator=generator).squeeze(1)
        columns.append(
            (state, action, mdp.reward[h, state, action, outcome], mdp.next_state[h, state, action, outcome])
        )
        state = columns[-1][-1]
    states, actions, rewards, next_states = (torch.stack(column) for column in zip(*columns, strict=True))
    return Pairs(states, actions, rewards, next_states, rewards.flip(0).cumsum(0).flip(0))


# --- the mathematics -------------------------------------------------------------------------------------------------


def hybrid_table(
    f: Tensor, off_pair: tuple[Tensor, Tensor], z: Tensor, on_pair: tuple[Tensor, Tensor], y: Tensor, lam: float
) -> Tensor:
    """Return argmin over tables of Ê_off (g − z)² + λ·Ê_on (g − y)² (eq. (2.3)); f (S, A) where there is no sample.

    Pairs are states and actions, (M,) offline with targets z (M,), (N,) on-policy with targets y (N,).
    """
    mass, total = torch.zeros_like(f), torch.zeros_like(f)
    for pair, target, weight in ((off_pair, z, 1.0), (on_pair, y, lam)):
        each = torch.full_like(target, weight / max(len(target), 1))
        mass.index_put_(pair, each, accumulate=True)
        total.index_put_(pair, each * target, accumulate=True)
    return torch.where(mass > 0, total / mass, f)


def hybrid_least_squares(phi_off: Tensor, z: Tensor, phi_on: Tensor, y: Tensor, lam: float) -> Tensor:
    """Return argmin_w of (2.1) for f = wᵀφ: (Φ_offᵀΦ_off/M + λΦ_onᵀΦ_on/n)⁻¹(Φ_offᵀz/M + λΦ_onᵀy/n), least in norm.

    phi_off (M, d) and z (M,), phi_on (n, d) and y (n,); where M or n is 0, the other term is all there is.
    """
    m, n = max(len(z), 1), max(len(y), 1)
    gram = phi_off.T @ phi_off / m + lam * phi_on.T @ phi_on / n
    inverse: Tensor = torch.linalg.pinv(gram)
    return inverse @ (phi_off.T @ z / m + lam * phi_on.T @ y / n)


def fit_step(f: Tensor, following: Tensor, h: int, off: Pairs, on: Pairs, lam: float) -> Tensor:
    """Return the fit of step h, (S, A): eq. (2.1) with V of step h + 1, `following` (S,), in the offline target."""
    z = off.reward[h] + following[off.next_state[h]]
    return hybrid_table(f, (off.state[h], off.action[h]), z, (on.state[h], on.action[h]), on.reward_to_go[h], lam)


def backward_sweep(f: Tensor, policy: Tensor, off: Pairs, on: Pairs, lam: float = 1.0) -> Tensor:
    """Return the critics (H, S, A) after one sweep from the last step to the first; exact evaluation in the limit."""
    fitted, following = f.clone(), torch.zeros_like(f[0, :, 0])
    for h in reversed(range(len(f))):
        fitted[h] = fit_step(f[h], following, h, off, on, lam)
        following = (policy[h] * fitted[h]).sum(-1)
    return fitted


def hpe(
    mdp: TabularMDP,
    policy: Tensor,
    offline: Pairs,
    *,
    burn_in: int,
    rounds: int,
    generator: torch.Generator,
    samples: int = 200,
    lam: float = 1.0,
) -> Tensor:
    """Return f̄ (H, S, A), the mean of f_k over k = K1 + 1 … K2 (`burn_in`, `rounds`), fresh samples in every round.

    Every round fits all steps to targets by the round before; nothing of an unseen pair is learned.
    """
    if not 0 <= burn_in < rounds:
        raise ValueError(f"HPE needs 0 <= K1 < K2, not K1 = {burn_in}, K2 = {rounds}")
    f, total = torch.zeros_like(mdp.mean_reward), torch.zeros_like(mdp.mean_reward)
    for k in range(rounds):
        on = sample_pairs(mdp, policy, samples, generator)
        off = offline.draw(samples, generator)
        values = torch.cat([(policy * f).sum(-1)[1:], torch.zeros_like(f[:1, :, 0])])
        f = torch.stack([fit_step(f[h], values[h], h, off, on, lam) for h in range(len(f))])
        total += f * (k >= burn_in)
    return total / (rounds - burn_in)


def hac(
    mdp: TabularMDP,
    offline: Pairs | None,
    *,
    iterations: int,
    eta: float,
    generator: torch.Generator,
    samples: int = 200,
    lam: float = 1.0,
) -> Iterator[Tensor]:
    """Yield π^1 … π^{T+1} (H, S, A), from the uniform policy; evaluation by one backward sweep per iteration.

    Critics continue from those of the previous iteration. Without offline data only the Monte-Carlo term is left. The
    theory returns a random one of these policies and evaluates by `hpe`.
    """
    logits, f = torch.zeros_like(mdp.mean_reward), torch.zeros_like(mdp.mean_reward)
    yield logits.softmax(-1)
    for _ in range(iterations):
        policy = logits.softmax(-1)
        on = sample_pairs(mdp, policy, samples, generator)
        off = on.draw(0, generator) if offline is None else offline.draw(samples, generator)
        f = backward_sweep(f, policy, off, on, lam)
        logits = logits + eta * f
        yield logits.softmax(-1)


# --- the combination lock without observations -----------------------------------------------------------------------


def latent_lock(horizon: int, actions: int = 10, bait: float = 0.05, seed: int = 0) -> TabularMDP:
    """Return the lock's latent MDP (states A, B, C; reward mode `terminal`, the bait in expectation)."""
    codes = torch.randint(actions, (horizon, 2), generator=torch.Generator().manual_seed(seed))
    right = F.one_hot(codes, actions).double()  # (H, 2, A)
    transition = torch.zeros(horizon, 3, actions, 3, dtype=torch.float64)
    transition[:, :2, :, :2] = 0.5 * right.unsqueeze(-1)
    transition[..., 2] = 1.0 - transition[..., :2].sum(-1)
    reward = torch.zeros(horizon, 3, actions, dtype=torch.float64)
    reward[-1] = bait
    reward[-1, :2] += (1.0 - bait) * right[-1]
    return from_dense(torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64), transition, reward)


def lock_behaviour(mdp: TabularMDP) -> Tensor:
    """Return the ε-greedy behaviour (H, 3, A), ε = 1/H; a random action is uniform over all."""
    horizon, _, actions, _ = mdp.reward.shape
    right = 2.0 * mdp.probability[:, :2, :, 0]  # 1 at the right action, which leads to A and B alike
    right = torch.cat([right, right[:, 1:]], 1)  # in C it continues with B's code
    return (1 - 1 / horizon) * right + 1 / (horizon * actions)


def success_probability(mdp: TabularMDP, policy: Tensor) -> Tensor:
    """Return the chance that all actions of a `latent_lock` episode are right."""
    return expected_return(mdp._replace(reward=(mdp.reward == 1.0).double()), policy)
