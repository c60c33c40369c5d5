"""Which dynamics made this transition? Two domain classifiers whose logits give a ratio of transition densities.

Eysenbach et al., "Off-Dynamics Reinforcement Learning", arXiv 2006.13916 (DARC); Niu et al., arXiv 2206.13464 (H2O).
Derivation: docs/derivations/h2o.md §3. Class 0 is the real system, class 1 the simulator, everywhere.

| derivation | paper | here |
|---|---|---|
| (3.3), from (3.1) and (3.2): log P_real/P_sim | – | `log_ratio` |
| (3.2), (3.6) the logits f and g, bounded | – | `DomainClassifiers.f`, `DomainClassifiers.g` |
| (3.4), (3.5) losses L_sa and L_sas | – | `domain_loss`, `DomainClassifiers.losses` |
| the same, derived by the logits | – | `domain_loss_gradient`, `DomainClassifiers.backpropagate` |
| §3.2 one step on both, with noise on the inputs | – | `classifier_step` |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from surefoot.agents.interface import Batch, OfflineData, Setting
from surefoot.agents.parts.acceleration import step_all, take_step
from surefoot.agents.parts.networks import MLP
from surefoot.agents.parts.normaliser import Normaliser
from surefoot.agents.parts.random import make_generator

REAL, SIM = 0, 1


@dataclass(frozen=True)
class ClassifierConfig:
    """The two domain classifiers. Defaults: H2O's code (§6.1, §7.1)."""

    classifier_hidden: tuple[int, ...] = (256, 256)
    """Hidden layer widths of both classifiers."""
    classifier_lr: float = 3e-4
    """Learning rate of both classifiers (Adam)."""
    classifier_batch_size: int = 256
    """Transitions of each domain per classifier step, sampled independently of the critics' batches."""
    classifier_noise: float = 0.1
    """Standard deviation of the noise on the classifier inputs in training."""
    classifier_bound: float | None = 2.0
    """Bound of the logits, bound·tanh(·), so that |log-ratio| ≤ 2·bound; None: unbounded."""
    normalise_classifier_inputs: bool = False
    """Normalise classifier inputs by mean and standard deviation of the real transitions (for tasks with tiny
    coordinates)."""


def log_ratio(g: Tensor) -> Tensor:
    """Return log P_real(s'|s,a) − log P_sim(s'|s,a) (…) from the residual logits g (…, 2): g₀ − g₁, eq. (3.3).

    With D_sa = softmax(f) and D_sas = softmax(f + g), f and the class priors cancel exactly in Bayes' rule.
    """
    return g[..., REAL] - g[..., SIM]


def domain_loss(real_logits: Tensor, sim_logits: Tensor) -> Tensor:
    """Return −mean log p(real) over real rows − mean log p(sim) over simulated rows; logits (B, 2)."""
    real, sim = F.log_softmax(real_logits, -1), F.log_softmax(sim_logits, -1)
    return -real[..., REAL].mean() - sim[..., SIM].mean()


def domain_loss_gradient(logits: Tensor) -> Tensor:
    """Return the derivative of `domain_loss` by logits (2, B, 2), those of real rows first: (p − 1{domain})/B."""
    domain = torch.eye(2, dtype=logits.dtype, device=logits.device)[:, None]
    return (logits.softmax(-1) - domain) / logits.shape[1]


def transition_rows(batch: Batch | OfflineData) -> Tensor:
    """Return (s, a, s') side by side, (B, 2·obs + act)."""
    return torch.cat([batch.obs, batch.action, batch.next_obs], -1)


class DomainClassifiers(nn.Module):
    """Logits f(s, a) and residual logits g(s, a, s'), each bounded by `bound`·tanh (None: unbounded)."""

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        *,
        generator: torch.Generator,
        bound: float | None = 2.0,
    ) -> None:
        super().__init__()
        self.pair = obs_dim + action_dim
        self.width = self.pair + obs_dim
        self.bound = bound
        self.f_net = MLP(self.pair, hidden, 2, generator=generator)
        self.g_net = MLP(self.width, hidden, 2, generator=generator)
        self.normaliser = Normaliser(self.width)

    def logits(self, net: MLP, rows: Tensor) -> Tensor:
        raw: Tensor = net(rows)
        return raw if self.bound is None else self.bound * raw.tanh()

    def f(self, rows: Tensor) -> Tensor:
        """Return f (B, 2) of transition rows; their s' is not looked at."""
        return self.logits(self.f_net, self.normaliser(rows)[:, : self.pair])

    def g(self, rows: Tensor) -> Tensor:
        """Return g (B, 2) of transition rows (B, 2·obs + act)."""
        return self.logits(self.g_net, self.normaliser(rows))

    def losses(self, real: Tensor, sim: Tensor) -> tuple[Tensor, Tensor]:
        """Return L_sa and L_sas of transition rows; the gradient of L_sas goes into g and into f."""
        f_real, f_sim = self.f(real), self.f(sim)
        loss_sa = domain_loss(f_real, f_sim)
        loss_sas = domain_loss(f_real + self.g(real), f_sim + self.g(sim))
        return loss_sa, loss_sas

    @property
    def is_native(self) -> bool:
        return self.f_net.is_native and self.g_net.is_native

    @torch.no_grad()
    def backpropagate(self, real: Tensor, sim: Tensor) -> tuple[Tensor, Tensor]:
        """Add the gradient of both `losses` without autograd, on kernels; return the losses."""
        rows = self.normaliser(torch.cat([real, sim]))
        (f_raw, f_tape), (g_raw, g_tape) = self.f_net.record(rows[:, : self.pair]), self.g_net.record(rows)
        f, f_slope = self._bounded(f_raw)
        g, g_slope = self._bounded(g_raw)
        pair, triple = (logits.view(2, -1, 2) for logits in (f, f + g))
        by_triple = domain_loss_gradient(triple)
        by_pair = domain_loss_gradient(pair) + by_triple
        self.f_net.backpropagate(f_tape, by_pair.view(f.shape) * f_slope)
        self.g_net.backpropagate(g_tape, by_triple.view(g.shape) * g_slope)
        return domain_loss(*pair), domain_loss(*triple)

    def _bounded(self, raw: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return logits of what a network gave, and their derivative by it."""
        if self.bound is None:
            return raw, 1.0
        inside = raw.tanh()
        return self.bound * inside, self.bound * (1 - inside.square())


def classifier_step(
    classifiers: DomainClassifiers, optimiser: torch.optim.Optimizer, real: Batch, sim: Batch, noise: Tensor
) -> dict[str, Tensor]:
    """One Adam step on both networks; `noise` (2, B, 2·obs + act) is added to the inputs of both domains."""
    rows = transition_rows(real) + noise[REAL], transition_rows(sim) + noise[SIM]
    if classifiers.is_native:
        loss_sa, loss_sas = classifiers.backpropagate(*rows)
        step_all([optimiser])
    else:
        loss_sa, loss_sas = classifiers.losses(*rows)
        take_step([optimiser], loss_sa + loss_sas)
    return {"classifier_loss_sa": loss_sa.detach(), "classifier_loss_sas": loss_sas.detach()}


def make_classifiers(config: ClassifierConfig, setting: Setting) -> DomainClassifiers:
    """Return the classifiers a config describes, scaled to the real data if configured so."""
    data = setting.data
    assert data is not None, "domain classifiers need offline data"
    generator = make_generator(setting.seed, "classifiers")
    dims = data.obs.shape[1], data.action.shape[1]
    classifiers = DomainClassifiers(*dims, config.classifier_hidden, generator=generator, bound=config.classifier_bound)
    if config.normalise_classifier_inputs:
        classifiers.normaliser.fit(transition_rows(data).cpu())
    return classifiers.to(setting.device)
