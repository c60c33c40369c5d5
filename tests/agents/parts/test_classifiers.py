"""The ratio of two transition densities, on a toy where it is known (docs/derivations/h2o.md §11.1, E15)."""

import math

import pytest
import torch
from tiny import make_batch, make_data, make_setting
from torch.testing import assert_close

from surefoot.agents.interface import Batch
from surefoot.agents.parts.classifiers import (
    ClassifierConfig,
    DomainClassifiers,
    classifier_step,
    domain_loss,
    domain_loss_gradient,
    log_ratio,
    make_classifiers,
    transition_rows,
)
from surefoot.agents.parts.engine import stack

STD = 0.5  # of the toy's next state


def make_toy(bound=2.0, seed=0) -> DomainClassifiers:
    return DomainClassifiers(2, 1, (64, 64), generator=torch.Generator().manual_seed(seed), bound=bound)


def draw(rows: int, shift: float, generator: torch.Generator, state_shift: float = 0.0) -> Batch:
    """s ~ N(state_shift, I), a ~ U(−1, 1), s' = s + (0.3a, −0.2a) + shift + N(0, 0.5²I)."""
    obs = torch.randn(rows, 2, generator=generator) + state_shift
    action = torch.rand(rows, 1, generator=generator) * 2 - 1
    next_obs = drift(obs, action) + shift + STD * torch.randn(rows, 2, generator=generator)
    return Batch(obs, action, torch.zeros(rows), next_obs, torch.zeros(rows))


def drift(obs, action):
    return obs + action * torch.tensor([0.3, -0.2])


def true_log_ratio(batch: Batch, shift: float) -> torch.Tensor:
    """log P_sim/P_real of the toy, two Gaussians of one width."""
    residual = batch.next_obs - drift(batch.obs, batch.action)
    return ((residual.square() - (residual - shift).square()) / (2 * STD**2)).sum(-1)


def fit(shift: float, *, bound=2.0, state_shift=0.0, noise=0.0, steps=1500):
    """Train as in §11.1; return estimated and true log P_sim/P_real on 4000 fresh simulated rows."""
    generator = torch.Generator().manual_seed(1)
    classifiers = make_toy(bound)
    optimiser = torch.optim.Adam(classifiers.parameters(), lr=1e-3)
    for _ in range(steps):
        real, sim = draw(256, 0.0, generator), draw(256, shift, generator, state_shift)
        classifier_step(classifiers, optimiser, real, sim, noise * torch.randn(2, 256, 5, generator=generator))
    fresh = draw(4000, shift, generator, state_shift)
    with torch.no_grad():
        return -log_ratio(classifiers.g(transition_rows(fresh))), true_log_ratio(fresh, shift)


@pytest.mark.parametrize("state_shift", [0.0, 0.7])
def test_recovers_the_analytic_ratio(state_shift):
    estimate, truth = fit(0.4, state_shift=state_shift)
    correlation = torch.corrcoef(torch.stack([estimate, truth]))[0, 1]
    slope = correlation * estimate.std() / truth.std()
    assert correlation > 0.97
    assert 0.9 < slope < 1.1
    assert estimate.mean().item() == pytest.approx(truth.mean().item(), abs=0.1)  # the KL divergence, 0.64
    assert estimate.abs().max() <= 4


def test_zero_gap_gives_zero_and_weights_near_one():
    estimate, _ = fit(0.0)
    assert estimate.abs().mean() < 0.1
    assert (-estimate).exp().clamp(1e-5, 1).mean() > 0.95


def test_large_gap_saturates_behind_the_default_head_and_not_without_it():
    bounded, truth = fit(1.0, steps=600)
    free, _ = fit(1.0, bound=None, steps=600)
    assert bounded.max() <= 4 < free.max()
    assert (free - truth).abs().mean() < (bounded - truth).abs().mean()


def test_equals_the_four_softmax_product_whatever_f_is():
    generator = torch.Generator().manual_seed(0)
    g = 2 * torch.randn(500, 2, generator=generator).tanh()
    for _ in range(3):
        f = 5 * torch.randn(500, 2, generator=generator)
        sas, sa = (f + g).softmax(-1), f.softmax(-1)
        product = (sas[:, 0] / sas[:, 1]) * (sa[:, 1] / sa[:, 0])
        assert_close(log_ratio(g), product.log(), rtol=1e-5, atol=1e-5)


def test_index_zero_is_real():
    sure_real, sure_sim = torch.tensor([[9.0, -9.0]]), torch.tensor([[-9.0, 9.0]])
    assert domain_loss(sure_real, sure_sim) < 1e-6
    assert domain_loss(sure_sim, sure_real) > 30
    assert domain_loss(torch.zeros(3, 2), torch.zeros(5, 2)).item() == pytest.approx(2 * math.log(2))


def test_f_receives_gradient_from_both_losses_and_g_from_one():
    classifiers = make_toy()
    generator = torch.Generator().manual_seed(0)
    real, sim = (transition_rows(draw(16, shift, generator)) for shift in (0.0, 0.4))
    f, g = list(classifiers.f_net.parameters()), list(classifiers.g_net.parameters())
    loss_sa, loss_sas = classifiers.losses(real, sim)
    from_sa = torch.autograd.grad(loss_sa, f + g, retain_graph=True, allow_unused=True)
    from_sas = torch.autograd.grad(loss_sas, f + g)
    assert all(grad.abs().sum() > 0 for grad in from_sa[: len(f)])
    assert all(grad is None for grad in from_sa[len(f) :])
    assert all(grad.abs().sum() > 0 for grad in from_sas)


@pytest.mark.parametrize("bound", [0.5, 2.0, None])
def test_kernels_derive_both_losses_as_autograd_does(bound):
    eager, native = make_toy(bound), make_toy(bound)
    assert all(net.compute_by(stack.kernels_of("native")) for net in (native.f_net, native.g_net))
    for parameter in native.parameters():
        parameter.grad = torch.zeros_like(parameter)
    generator = torch.Generator().manual_seed(0)
    real, sim = (transition_rows(draw(16, shift, generator)) for shift in (0.0, 0.4))
    expected = eager.losses(real, sim)
    assert_close(native.backpropagate(real, sim), tuple(loss.detach() for loss in expected))
    sum(expected).backward()
    for one, other in zip(native.parameters(), eager.parameters(), strict=True):
        assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_noise_enters_every_input_of_both_domains():
    """With noise n the step must equal one on rows that already carry n."""
    one, two = make_toy(), make_toy()
    generator = torch.Generator().manual_seed(0)
    real, sim = (draw(16, shift, generator) for shift in (0.0, 0.4))
    noise = 0.1 * torch.randn(2, 16, 5, generator=generator)
    noisy = [
        Batch(b.obs + n[:, :2], b.action + n[:, 2:3], b.reward, b.next_obs + n[:, 3:], b.terminated)
        for b, n in zip((real, sim), noise, strict=True)
    ]
    a = classifier_step(one, torch.optim.Adam(one.parameters()), real, sim, noise)
    b = classifier_step(two, torch.optim.Adam(two.parameters()), *noisy, torch.zeros_like(noise))
    assert_close(a, b)
    assert_close(list(one.parameters()), list(two.parameters()))


def test_f_does_not_look_at_the_successor():
    classifiers, batch = make_toy(), draw(8, 0.0, torch.Generator().manual_seed(0))
    moved = batch._replace(next_obs=batch.next_obs + 1)
    assert torch.equal(classifiers.f(transition_rows(batch)), classifiers.f(transition_rows(moved)))
    assert not torch.equal(classifiers.g(transition_rows(batch)), classifiers.g(transition_rows(moved)))


def test_inputs_are_scaled_by_the_real_data_only_if_asked():
    data = make_data(500)
    data.obs = data.obs * 1e-2 + 5
    plain, scaled = (
        make_classifiers(ClassifierConfig(normalise_classifier_inputs=on), make_setting(data=data))
        for on in (False, True)
    )
    rows = transition_rows(data)
    assert torch.equal(plain.normaliser(rows), rows)
    assert_close(scaled.normaliser(rows).mean(0), torch.zeros(rows.shape[1]), rtol=0, atol=1e-3)
    assert_close(scaled.normaliser(rows).std(0, correction=0), torch.ones(rows.shape[1]), rtol=1e-3, atol=1e-3)
    assert "normaliser.mean" in scaled.state_dict()


def test_rows_are_state_action_successor():
    batch = make_batch(4)
    assert_close(transition_rows(batch), torch.cat([batch.obs, batch.action, batch.next_obs], 1))


def test_the_gradient_by_the_logits_is_autograds():
    logits = torch.randn(2, 7, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(domain_loss(*logits), logits)
    assert_close(domain_loss_gradient(logits.detach()), expected, rtol=1e-12, atol=1e-15)
