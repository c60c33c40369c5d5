"""The natural-gradient step against dense matrices (docs/derivations/hnpg.md E1 to E3), in float64."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from surefoot.agents.parts.heads import CategoricalHead, GaussianHead
from surefoot.agents.parts.stochastic import PolicyStack
from surefoot.agents.parts.trust_region import (
    FisherProduct,
    StepRows,
    TrustRegionConfig,
    conjugate_gradients,
    dot,
    line_search,
    scale_to_limit,
    surrogate,
    trust_region_step,
)

E, B, OBS, ACT = 3, 12, 4, 2
CONFIG = TrustRegionConfig()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_policy(head, stack_size=E, hidden=(6, 5), obs=OBS):
    policy = PolicyStack(stack_size, obs, head, hidden, generator()).double()
    with torch.no_grad():
        for parameter in policy.parameters():  # away from the symmetric start: σ ≠ 1, outputs not near 0
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator(1), dtype=torch.float64)
    return policy


def make_rows(policy, rows=B, seed=2, stack_size=E):
    g = generator(seed)
    obs = torch.randn(stack_size, rows, OBS, generator=g, dtype=torch.float64)
    action = policy.head.sample(policy(obs), g).detach()
    advantage = torch.randn(stack_size, rows, generator=g, dtype=torch.float64)
    weight = torch.rand(rows, generator=g, dtype=torch.float64)
    return StepRows(obs, action, advantage, weight / weight.sum())


HEADS = [GaussianHead(ACT, bounded=False), CategoricalHead(3)]


def product_of(policy, rows, damping):
    theta = policy.vector().requires_grad_()
    outputs = policy(rows.obs, policy.split(theta))
    return FisherProduct(policy, outputs, theta, rows.weight, damping)


def dense_fisher(policy, rows, damping, member):
    """Σ_i w_i E_a[φφᵀ|s_i] + ξI of one member, from explicit Jacobians or scores."""
    theta = policy.vector()

    def outputs(one):
        stacked = theta.clone()
        stacked = torch.cat([stacked[:member], one[None], stacked[member + 1 :]])
        return policy(rows.obs, policy.split(stacked))[member]

    jacobian = torch.autograd.functional.jacobian(outputs, theta[member])  # (B, width, P)
    out = outputs(theta[member])
    matrix = damping * torch.eye(theta.shape[1], dtype=torch.float64)
    for i, weight in enumerate(rows.weight):
        if isinstance(policy.head, GaussianHead):
            _, log_std = out[i].chunk(2)
            metric = torch.diag(torch.cat([(-2 * log_std).exp(), torch.full_like(log_std, 2.0)]))
        else:
            p = out[i].softmax(-1)
            scores = torch.eye(len(p)).double() - p  # ∇_logits log p(a), one row per action
            metric = scores.T @ torch.diag(p) @ scores
        matrix += weight * jacobian[i].T @ metric @ jacobian[i]
    return matrix


@pytest.mark.parametrize("head", HEADS)
def test_fisher_product_is_that_of_the_explicit_matrix(head):
    policy = make_policy(head)
    rows = make_rows(policy)
    product = product_of(policy, rows, 0.1)
    v = torch.randn(policy.vector().shape, generator=generator(3), dtype=torch.float64)
    assert policy.vector().shape[1] <= 800
    for member in range(E):
        expected = dense_fisher(policy, rows, 0.1, member) @ v[member]
        assert_close(product(v)[member], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("head", HEADS)
def test_fisher_matrix_is_the_hessian_of_the_kl(head):
    policy = make_policy(head, stack_size=1)
    rows = make_rows(policy, stack_size=1)
    old = policy(rows.obs).detach()

    def kl(theta):
        return (rows.weight * head.kl(old, policy(rows.obs, policy.split(theta)))).sum()

    theta = policy.vector()
    hessian = torch.autograd.functional.hessian(kl, theta).squeeze()
    v = torch.randn(theta.shape, generator=generator(3), dtype=torch.float64)
    assert_close(product_of(policy, rows, 0.0)(v)[0], hessian @ v[0], rtol=1e-7, atol=1e-9)
    assert float(kl(theta)) == pytest.approx(0.0, abs=1e-12)


def test_gaussian_kl_and_log_prob_are_pytorchs():
    head, g = GaussianHead(ACT, bounded=False), generator()
    old, new = torch.randn(2, 5, 2 * ACT, generator=g).double()
    distributions = [
        torch.distributions.Independent(torch.distributions.Normal(x[:, :ACT], x[:, ACT:].exp()), 1) for x in (old, new)
    ]
    assert_close(head.kl(old, new), torch.distributions.kl_divergence(*distributions))
    action = torch.randn(5, ACT, generator=g).double()
    assert_close(head.log_prob(old, action), distributions[0].log_prob(action))


def test_categorical_samples_follow_the_softmax():
    head = CategoricalHead(3)
    logits = torch.tensor([0.0, 1.0, -1.0])
    drawn = head.sample(logits.expand(50_000, 3), generator()).mean(0)
    assert_close(drawn, logits.softmax(-1), rtol=0, atol=0.01)
    action = torch.nn.functional.one_hot(torch.tensor([1, 2]), 3).float()
    assert_close(head.log_prob(logits.expand(2, 3), action), logits.log_softmax(-1)[[1, 2]])


@pytest.mark.parametrize("head", HEADS)
def test_conjugate_gradients_solve_and_descend(head):
    policy = make_policy(head)
    rows = make_rows(policy)
    product = product_of(policy, rows, 0.1)
    g = torch.randn(policy.vector().shape, generator=generator(4), dtype=torch.float64)
    solved = conjugate_gradients(product, g, 200, 1e-24)
    for member in range(E):
        dense = torch.linalg.solve(dense_fisher(policy, rows, 0.1, member), g[member])
        assert_close(solved[member], dense, rtol=1e-6, atol=1e-8)
    partial = [conjugate_gradients(product, g, n, 1e-10) for n in range(11)]
    quadratic = torch.stack([0.5 * dot(x, product(x)) - dot(g, x) for x in partial]).squeeze(-1)
    assert bool((quadratic.diff(dim=0)[:7] < 0).all())
    assert bool((quadratic.diff(dim=0) <= 0).all())  # a row that has converged stays
    assert bool((dot(g, partial[-1]) > 0).all())


def test_a_row_that_has_converged_waits_for_the_others():
    matrix = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0]).double())
    g = torch.stack([torch.zeros(4), torch.tensor([1.0, 0, 0, 0]), torch.ones(4)]).double()
    x = conjugate_gradients(lambda v: v @ matrix, g, 20, 1e-20)
    assert_close(x, g / matrix.diagonal(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("head", HEADS)
def test_full_step_has_the_asked_quadratic_length(head):
    policy = make_policy(head)
    rows = make_rows(policy)
    product = product_of(policy, rows, 0.1)
    g = torch.randn(policy.vector().shape, generator=generator(4), dtype=torch.float64)
    x = conjugate_gradients(product, g, 10, 1e-10)
    step = scale_to_limit(x, product(x), 0.01)
    assert_close(0.5 * dot(step, product(step)), torch.full((E, 1), 0.01).double())


def test_damping_enters_the_length_so_a_small_step_spends_less_than_the_limit():
    policy = make_policy(HEADS[0])
    rows = make_rows(policy)
    product, undamped = product_of(policy, rows, 0.1), product_of(policy, rows, 0.0)
    g = torch.randn(policy.vector().shape, generator=generator(4), dtype=torch.float64)
    x = conjugate_gradients(product, g, 10, 1e-10)
    ratio = dot(x, undamped(x)) / dot(x, product(x))
    step = scale_to_limit(x, product(x), 1e-6)
    measured = policy.head.kl(policy(rows.obs), policy(rows.obs, policy.split(policy.vector() + step)))
    assert_close((rows.weight * measured).sum(-1, keepdim=True) / 1e-6, ratio, rtol=1e-2, atol=1e-3)
    assert bool((ratio < 1).all())


def quadratic_bowl(theta):
    """Improvement and KL of a toy: best at θ = 0.3, KL θ²."""
    return 0.6 * theta - theta.square(), theta.square()


def test_line_search_takes_the_first_candidate_that_improves_enough():
    start, slope = torch.zeros(1, 1), torch.tensor([[0.6]])
    found = line_search(quadratic_bowl, start, torch.ones(1, 1), slope, replace(CONFIG, kl_slack=None))
    assert found.fraction.tolist() == [0.5]  # 1: −0.4; ½: 0.05 > 0.1·½·0.6 = 0.03
    near = line_search(quadratic_bowl, start, torch.ones(1, 1), 2 * slope, replace(CONFIG, kl_slack=None))
    assert near.fraction.tolist() == [0.25]  # ½: 0.05 < 0.1·½·1.2 = 0.06


def test_line_search_with_the_kl_test_never_exceeds_the_slack():
    found = line_search(quadratic_bowl, torch.zeros(1, 1), torch.ones(1, 1), torch.tensor([[0.6]]), CONFIG)
    assert found.fraction.tolist() == [0.0625]  # first with θ² <= 0.015
    assert found.kl <= 1.5 * 0.01


def test_a_failed_search_leaves_its_row_alone_bit_for_bit():
    start, step = torch.tensor([[0.1], [0.2]]), torch.tensor([[1.0], [-1.0]])

    def evaluate(theta):
        return torch.where(step > 0, theta - start, -theta.square()), torch.zeros(2, 1)

    found = line_search(evaluate, start, step, torch.ones(2, 1), CONFIG)
    assert found.fraction.tolist() == [1.0, 0.0]
    assert torch.equal(found.theta[1], start[1])


def test_without_an_advantage_no_policy_moves():
    policy = make_policy(HEADS[0])
    before = policy.vector()
    rows = make_rows(policy)._replace(advantage=torch.zeros(E, B).double())
    metrics = trust_region_step(policy, rows, CONFIG)
    assert torch.equal(policy.vector(), before)
    assert metrics["step_fraction"].eq(0).all()


@pytest.mark.parametrize("slack", [None, 1.5])
@pytest.mark.parametrize("head", HEADS)
def test_a_step_improves_the_surrogate_within_the_trust_region(head, slack):
    policy = make_policy(head)
    rows = make_rows(policy, rows=100)
    old = policy(rows.obs).detach()
    theta = policy.vector().requires_grad_()
    score = head.log_prob(policy(rows.obs, policy.split(theta)), rows.action)
    norm = torch.autograd.grad((rows.weight * rows.advantage * score).sum(), theta)[0].square().sum(1).sqrt()
    metrics = trust_region_step(policy, rows, replace(CONFIG, kl_slack=slack))
    new = policy(rows.obs).detach()
    kl = (rows.weight * head.kl(old, new)).sum(-1)
    log_old, log_new = head.log_prob(old, rows.action), head.log_prob(new, rows.action)
    before = surrogate(log_old, log_old, rows.advantage, rows.weight)
    assert bool((surrogate(log_new, log_old, rows.advantage, rows.weight) > before).all())
    assert_close(metrics["kl"], kl)
    assert_close(metrics["gradient_norm"], norm)
    assert bool((kl <= (1.5 if slack else 2.0) * CONFIG.kl_limit).all())


def test_members_of_a_stack_do_not_touch_each_other():
    policy = make_policy(HEADS[0])
    rows = make_rows(policy)
    alone = policy.only(slice(1, 2)).requires_grad_(True)
    one = StepRows(rows.obs[1:2], rows.action[1:2], rows.advantage[1:2], rows.weight)
    trust_region_step(policy, rows, CONFIG)
    trust_region_step(alone, one, CONFIG)
    assert_close(policy.vector()[1:2], alone.vector(), rtol=1e-9, atol=1e-12)


class Table(PolicyStack):
    """A tabular softmax policy as a stack of one: observations are one-hot states, outputs their logits."""

    def __init__(self, states, actions):
        super().__init__(1, states, CategoricalHead(actions), (1,), generator())
        self.net = torch.nn.Module()
        self.net.logits = torch.nn.Parameter(torch.randn(1, states, actions, generator=generator(7)).double())

    def forward(self, obs, parameters=None):
        return obs @ (list(self.parameters()) if parameters is None else parameters)[0]


def test_natural_direction_is_the_regression_on_compatible_features():
    """E3: every (state, action) once, weighed by state and policy; min-norm, wᵀφ compared."""
    states, actions = 3, 4
    policy = Table(states, actions)
    g = generator(8)
    state_weight = torch.tensor([0.5, 0.3, 0.2]).double()
    f = torch.randn(states, actions, generator=g, dtype=torch.float64)
    p = policy.net.logits[0].detach().softmax(-1)
    advantage = f - (p * f).sum(-1, keepdim=True)
    state, action = torch.meshgrid(torch.arange(states), torch.arange(actions), indexing="ij")
    obs = torch.nn.functional.one_hot(state.flatten(), states).double()[None]
    one_hot = torch.nn.functional.one_hot(action.flatten(), actions).double()[None]
    weight = (state_weight[:, None] * p).flatten()
    rows = StepRows(obs, one_hot, advantage.flatten()[None], weight)
    theta = policy.vector().requires_grad_()
    outputs = policy(obs, policy.split(theta))
    log_prob = policy.head.log_prob(outputs, one_hot)
    (g_vector,) = torch.autograd.grad(
        surrogate(log_prob, log_prob.detach(), rows.advantage, weight).sum(), theta, retain_graph=True
    )
    product = FisherProduct(policy, outputs, theta, weight, 0.0)
    x = conjugate_gradients(product, g_vector, 50, 1e-26)
    scores = torch.stack([torch.autograd.grad(lp, theta, retain_graph=True)[0][0] for lp in log_prob[0]])
    root = weight.sqrt()[:, None]
    regression = torch.linalg.lstsq(root * scores, root * advantage.flatten()[:, None], driver="gelsd").solution
    assert_close(scores @ x[0], (scores @ regression).squeeze(1), rtol=1e-7, atol=1e-9)
    assert_close(scores @ x[0], advantage.flatten(), rtol=1e-7, atol=1e-9)
    logits_change = x.view(states, actions)  # NPG: the advantage is added to the logits, up to a constant per state
    constant = logits_change - advantage
    assert_close(constant, constant.mean(-1, keepdim=True).expand_as(constant), rtol=1e-7, atol=1e-9)
    assert math.isfinite(float(x.sum()))
