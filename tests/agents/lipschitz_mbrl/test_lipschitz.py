"""The two ways to keep a critic smooth, and what measures it, held to what can be known exactly.

Exact answers E1 to E9, E18 and E20 of docs/derivations/lipschitz_mbrl.md; numbers in square brackets were measured
for it.
"""

import copy
import math

import pytest
import torch
from torch.testing import assert_close

from surefoot.agents.lipschitz_mbrl.lipschitz import ball_slope, local_slopes, log_upper_bound, value_aware_error
from surefoot.agents.lipschitz_mbrl.smoothing import Ball, draw_in_ball, find_perturbation, robust_loss, steepest
from surefoot.agents.lipschitz_mbrl.spectral_norm import bound_layers, power_iterate, spectral_norms
from surefoot.agents.parts.networks import TanhGaussianPolicy, TwinQ, soft_update
from surefoot.agents.parts.tabular import from_dense

OBS, ACT = 11, 3


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_nets(obs: int = OBS, act: int = ACT, hidden: tuple[int, ...] = (64, 64), seed: int = 0):
    """Return random twin critics, a policy and g: states (2, B, obs) to values (2, B) of the policy's action there."""
    start = generator(seed)
    critic = TwinQ(obs, act, hidden, generator=start)
    policy = TanhGaussianPolicy(obs, act, (32, 32), generator=start)
    return critic, policy, lambda x: critic(x, policy.mode(x), frozen=True)


def ball_of(radius: float, norm="inf", scale=None) -> Ball:
    return Ball(radius, norm, torch.ones(OBS) if scale is None else scale)


# --- spectral normalisation (E1 to E3, eq. (7.3)) ---------------------------------------------------------------------


def badly_scaled_regression(beta: float, mode: str, lr: float, steps: int, factor: float = 100.0) -> TwinQ:
    """Return critics after Adam steps towards targets far out of the reach of their bound."""
    start = generator()
    critic = TwinQ(OBS, ACT, (256, 256), generator=start)
    bound_layers(critic, beta, mode, start)
    assert_bounded(critic, beta, mode)
    optimiser = torch.optim.Adam(critic.parameters(), lr=lr, fused=True)
    for _ in range(steps):
        x, a = torch.randn(32, OBS, generator=start), torch.rand(32, ACT, generator=start)
        power_iterate(critic)
        loss = (critic(x, a) - factor * x.sum(-1)).square().mean(-1).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return critic


def assert_bounded(critic, beta: float, mode: str, tolerance: float = 0.02) -> None:
    norms = spectral_norms(critic) / beta
    assert norms.max() <= 1 + tolerance
    assert mode == "clip" or norms.min() >= 1 - tolerance


@pytest.mark.parametrize("mode", ["normalise", "clip"])
@pytest.mark.parametrize("beta", [1.0, 3.0])
def test_every_layer_keeps_its_bound_through_training(mode, beta):
    critic = badly_scaled_regression(beta, mode, lr=3e-4, steps=200)
    power_iterate(critic)  # as at the beginning of an update
    assert_bounded(critic, beta, mode)


def test_twenty_iterations_catch_up_with_a_fast_learner():
    critic = badly_scaled_regression(3.0, "normalise", lr=1e-3, steps=100)
    power_iterate(critic, 20)
    assert_bounded(critic, 3.0, "normalise", 0.005)


def test_without_power_iterations_the_bound_is_lost():
    critic = badly_scaled_regression(1.0, "normalise", lr=1e-3, steps=0)
    with torch.no_grad():
        for i in range(3):
            raw = critic.weights.parametrizations[str(i)].original
            raw.copy_(torch.randn(raw.shape, generator=generator(i)))
    assert spectral_norms(critic)[:2].max() > 2
    power_iterate(critic, 100)
    assert_bounded(critic, 1.0, "normalise")


def test_clipping_leaves_a_small_layer_as_it_is_and_normalising_does_not():
    plain = TwinQ(OBS, ACT, (8, 8), generator=generator())
    clipped, normalised = copy.deepcopy(plain), copy.deepcopy(plain)
    bound_layers(clipped, 100.0, "clip", generator(1))
    bound_layers(normalised, 100.0, "normalise", generator(1), "hidden")
    for before, after in zip(plain.weights, clipped.weights, strict=True):
        assert_close(after, before, rtol=0, atol=0)
    norms = spectral_norms(normalised)
    assert_close(norms[:2], torch.full((2, 2), 100.0), rtol=0.02, atol=0)
    assert_close(norms[2], spectral_norms(plain)[2])  # the output layer is free


def test_the_gradient_goes_through_the_weight_alone():
    """d(βW/σ)/dW at fixed u, v, by finite differences in float64."""
    critic = TwinQ(2, 1, (4,), generator=generator()).double()
    bound_layers(critic, 2.0, "normalise", generator(1))
    bound = critic.weights.parametrizations["0"][0]
    raw = critic.weights.parametrizations["0"].original
    assert torch.autograd.gradcheck(bound, (raw.detach().clone().requires_grad_(),))
    assert not bound.u.requires_grad
    assert not bound.v.requires_grad


def test_the_slope_between_any_two_points_is_below_the_product_of_bounds():
    critic = badly_scaled_regression(1.5, "normalise", lr=3e-4, steps=50)
    power_iterate(critic)
    x, y = torch.randn(2, 10_000, OBS + ACT, generator=generator(5)) * 3
    rise = (critic(*x.split([OBS, ACT], -1)) - critic(*y.split([OBS, ACT], -1))).abs()
    assert (rise / (x - y).norm(dim=-1)).max() <= 1.05 * 1.5**3


def test_a_target_keeps_its_own_bound_and_is_restored_bit_for_bit():
    critic = TwinQ(OBS, ACT, (64, 64), generator=generator())
    bound_layers(critic, 2.0, "normalise", generator(1))
    target = copy.deepcopy(critic).requires_grad_(False)
    optimiser = torch.optim.Adam(critic.parameters(), lr=1e-3)
    x, a = torch.randn(32, OBS, generator=generator(2)), torch.rand(32, ACT, generator=generator(3))
    for _ in range(100):
        power_iterate(critic)
        optimiser.zero_grad()
        (critic(x, a) - 50 * x[:, 0]).square().mean().backward()
        optimiser.step()
        soft_update(target.parameters(), critic.parameters(), 0.05)
        power_iterate(target)
    assert_bounded(target, 2.0, "normalise")
    raw = [critic.weights.parametrizations["0"].original, target.weights.parametrizations["0"].original]
    assert not torch.equal(*raw)
    again = TwinQ(OBS, ACT, (64, 64), generator=generator(9))
    bound_layers(again, 2.0, "normalise", generator(8))
    again.load_state_dict(target.state_dict())
    assert_close(again(x, a), target(x, a), rtol=0, atol=0)


# --- the attack (E4 to E7) -------------------------------------------------------------------------------------------

SPREAD = torch.linspace(0.1, 5, OBS)


@pytest.mark.parametrize("attack", ["two-sided", "fgsm", "uniform"])
@pytest.mark.parametrize("norm", ["inf", "2"])
def test_the_perturbation_stays_in_its_ball(attack, norm):
    _, _, value = make_nets()
    states = torch.randn(200, OBS, generator=generator(1))
    noise = draw_in_ball(generator(2), (2, 200, OBS), norm)
    ball = ball_of(0.3, norm, SPREAD)
    delta = find_perturbation(value, states, torch.zeros(2, 200), ball, attack, noise) / SPREAD
    length = delta.abs().amax(-1) if norm == "inf" else delta.norm(dim=-1)
    assert length.max() <= 0.3 * (1 + 1e-6)
    assert length.max() > 0.29


def test_noise_is_uniform_in_the_ball():
    """P(‖x‖ ≤ r) = r^n; in the cube each coordinate has variance 1/3."""
    in_disc = draw_in_ball(generator(), (20_000, 3), "2").norm(dim=-1)
    assert (in_disc <= 0.5).float().mean().item() == pytest.approx(0.125, abs=0.01)
    cube = draw_in_ball(generator(), (20_000, 3), "inf")
    assert_close(cube.var(0), torch.full((3,), 1 / 3), atol=0.01, rtol=0)


def test_steepest_is_the_maximiser_of_a_linear_function_over_the_ball():
    """max ∇ᵀδ is ε‖S∇‖₁ over the cube and ε‖S∇‖₂ over the disc; a gradient of 0 has no direction."""
    gradient = torch.randn(7, OBS, generator=generator())
    for norm, dual in (("inf", 1), ("2", 2)):
        delta = steepest(gradient, ball_of(0.2, norm, SPREAD))
        assert_close((gradient * delta).sum(-1), 0.2 * (SPREAD * gradient).norm(dual, dim=-1))
        assert not steepest(torch.zeros(OBS), ball_of(0.2, norm, SPREAD)).any()


@pytest.mark.parametrize(("radius", "mean_gain"), [(0.01, 1.3), (0.1, 1.3), (0.5, 1.1)])  # [1.50, 1.53, 1.30]
def test_the_attack_raises_the_loss_more_than_random_points_do(radius, mean_gain):
    _, _, value = make_nets()
    states = torch.randn(1000, OBS, generator=generator(1)).expand(2, -1, -1)
    reference = value(states)
    delta = find_perturbation(value, states[0], reference, ball_of(radius))
    inner = {side: (value(states + side * delta) - reference).square() for side in (1, -1)}
    assert (inner[1] >= inner[-1]).all()
    if radius <= 0.01:
        assert (inner[1] > 0).all()  # the loss is 0 at δ = 0
    best = torch.zeros_like(reference)
    draws = generator(3)
    for _ in range(64):
        noise = find_perturbation(
            value, states[0], reference, ball_of(radius), "uniform", draw_in_ball(draws, states.shape, "inf")
        )
        best = torch.maximum(best, (value(states + noise) - reference).square())
    assert inner[1].mean() >= mean_gain * best.mean()


def test_at_the_policys_own_action_plain_fgsm_does_nothing_and_the_two_sided_attack_does():
    _, _, value = make_nets()
    states = torch.randn(1000, OBS, generator=generator(1))
    reference = value(states.expand(2, -1, -1))
    assert not find_perturbation(value, states, reference, ball_of(0.1), "fgsm").any()
    delta = find_perturbation(value, states, reference, ball_of(0.1))
    assert delta.abs().amax(-1).gt(0).float().mean() >= 0.99


def test_away_from_it_both_attacks_agree_in_a_small_ball():
    _, _, value = make_nets()
    states = torch.randn(200, OBS, generator=generator(1))
    reference = value(states.expand(2, -1, -1)) + 1.0
    deltas = [find_perturbation(value, states, reference, ball_of(1e-3), attack) for attack in ("two-sided", "fgsm")]
    assert_close(*deltas, rtol=0, atol=0)


def test_no_attack_is_no_perturbation():
    _, _, value = make_nets()
    assert not find_perturbation(value, torch.randn(5, OBS), torch.ones(2, 5), ball_of(0.1), "none").any()


def test_the_policy_and_the_critics_gradients_are_left_alone():
    critic, policy, _ = make_nets()
    value = lambda x: critic(x, policy.mode(x))  # noqa: E731  # one that would reach the critics' weights
    states = torch.randn(50, OBS, generator=generator(1))
    actions = torch.rand(50, ACT, generator=generator(2))
    for parameter in critic.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    q = critic(states, actions)
    x = states + find_perturbation(value, states, q.detach(), ball_of(0.1))
    assert all(
        bool((p.grad == 7).all()) for p in critic.parameters()
    )  # the attack asks for gradients of its input alone
    critic.zero_grad()
    robust_loss(critic(x, policy.mode(x)), q).backward()
    assert all(p.grad is None or not p.grad.any() for p in policy.parameters())
    assert all(bool(p.grad.any()) for p in critic.weights)


def test_the_attack_sees_the_policy_move():
    """Q = a: all of its slope in s is the policy's."""
    policy = TanhGaussianPolicy(2, 1, (16,), generator=generator())
    states = torch.randn(50, 2, generator=generator(1))
    value = lambda x: policy.mode(x).squeeze(-1)  # noqa: E731
    delta = find_perturbation(value, states, value(states)[None], Ball(0.1, "inf", torch.ones(2)))
    assert delta.abs().gt(0.09).all()


def test_both_critics_at_once_are_each_on_its_own():
    critic, policy, value = make_nets()
    states = torch.randn(50, OBS, generator=generator(1))
    reference = critic(states, torch.rand(50, ACT, generator=generator(2))).detach()
    together = find_perturbation(value, states, reference, ball_of(0.2))
    assert not torch.equal(*together)
    for j in range(2):
        alone = lambda x, j=j: value(x.expand(2, -1, -1))[j : j + 1]  # noqa: E731
        assert_close(find_perturbation(alone, states, reference[j : j + 1], ball_of(0.2))[0], together[j])
    x = states + together
    expected = sum(((critic(x[j], policy.mode(x[j]))[j] - reference[j]) ** 2).mean() for j in range(2))
    assert_close(robust_loss(critic(x, policy.mode(x)), reference), expected)


def test_the_robust_loss_moves_both_of_its_terms_unless_the_reference_is_detached():
    perturbed, reference = torch.tensor([[3.0, 1.0]]).requires_grad_(), torch.tensor([[1.0, 1.0]]).requires_grad_()
    robust_loss(perturbed, reference).backward()
    assert_close(perturbed.grad, torch.tensor([[2.0, 0.0]]))
    assert_close(reference.grad, torch.tensor([[-2.0, 0.0]]))
    reference.grad = None
    robust_loss(perturbed, reference, detach_reference=True).backward()
    assert reference.grad is None


# --- what it does to a critic (E9) -----------------------------------------------------------------------------------


def fit(lam: float, attack: str = "two-sided", steps: int = 500, rows: int = 128) -> tuple[float, float, float]:
    """Fit 3·sin(4s₀) + s₁a on 2000 points; return mean ‖∇V‖, the product of spectral norms, the squared error."""
    start = generator()
    s, a = torch.rand(2000, 2, generator=start) * 2 - 1, torch.rand(2000, 1, generator=start) * 2 - 1
    y = 3 * (4 * s[:, 0]).sin() + s[:, 1] * a[:, 0]
    critic, policy, value = make_nets(2, 1, (64, 64))
    optimiser = torch.optim.Adam(critic.parameters(), lr=2e-3, fused=True)
    ball = Ball(0.2, "inf", torch.ones(2))
    for _ in range(steps):
        pick = torch.randint(2000, (rows,), generator=start)
        q = critic(s[pick], a[pick])
        loss = (q - y[pick]).square().mean(-1).sum()
        if lam:
            noise = draw_in_ball(start, (2, rows, 2), "inf") if attack == "uniform" else None
            x = s[pick] + find_perturbation(value, s[pick], q.detach(), ball, attack, noise)
            loss = loss + lam * robust_loss(critic(x, policy.mode(x)), q)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    slopes = local_slopes(lambda x: value(x).amin(0), s)
    error = (critic(s, a) - y).square().mean()
    return slopes.mean().item(), log_upper_bound(critic).exp().mean().item(), error.item()


def test_the_robust_loss_smooths_more_with_more_weight_and_more_than_noise_does():
    slopes, products, errors = zip(*(fit(lam) for lam in (0.0, 0.1, 0.3, 1.0)), strict=True)
    assert list(slopes) == sorted(slopes, reverse=True)  # [6.96, 6.52, 5.84, 4.14]
    assert slopes[-1] <= 0.7 * slopes[0]
    assert products[-1] < 0.85 * products[0]  # [67, 62, 56, 41]
    assert list(errors) == sorted(errors)
    noisy, *_ = fit(1.0, "uniform")
    assert slopes[-1] < 0.9 * noisy < 0.9 * slopes[0]  # [4.14 against 5.53]


# --- estimates (E20, eq. (9.1) to (9.4)) ------------------------------------------------------------------------------


def test_the_upper_bound_of_a_linear_network_is_its_norm():
    critic = TwinQ(2, 1, (3,), generator=generator())
    with torch.no_grad():
        critic.weights[0].copy_(torch.tensor([[3.0, 0, 0], [0, 4.0, 0], [0, 0, 0.5]]))
        critic.weights[1].copy_(torch.tensor([[[2.0], [0.0], [0.0]], [[0.0], [0.0], [6.0]]]))
    assert_close(log_upper_bound(critic), torch.tensor([math.log(4 * 2), math.log(4 * 6)]))


def test_local_and_ball_slopes_of_a_linear_value():
    weight = torch.tensor([3.0, -4.0])
    value = lambda x: x @ weight  # noqa: E731
    states = torch.randn(9, 2, generator=generator())
    assert_close(local_slopes(value, states), torch.full((9,), 5.0))
    assert_close(ball_slope(value, states, Ball(0.1, "2", torch.ones(2))), torch.tensor(5.0), rtol=1e-4, atol=0)
    # Along the corner (1, −1): (3 + 4)/√2.
    corner = ball_slope(value, states, Ball(0.1, "inf", torch.ones(2)))
    assert_close(corner, torch.tensor(7 / math.sqrt(2)), rtol=1e-4, atol=0)


def test_the_ball_slope_sees_a_kink_that_the_gradient_does_not():
    """V = max(0, 10(x − 0.5)) at 0: slope 0 there, and no direction. At 0.4 + it is behind the kink."""
    value = lambda x: x[..., 0] + (10 * (x[..., 0] - 0.5)).relu()  # noqa: E731
    states = torch.tensor([[0.4]])
    assert_close(local_slopes(value, states), torch.tensor([1.0]))
    assert_close(ball_slope(value, states, Ball(0.2, "inf", torch.ones(1))), torch.tensor((0.2 + 1.0) / 0.2))


def test_the_ball_slope_looks_both_ways_and_at_falls_and_passes_over_flat_places():
    """V = x − 10·max(0, 0.3 − x) at 0.4: up by 0.2 in the direction of the gradient, down by 1.2 against it."""
    value = lambda x: (x[..., 0] - 10 * (0.3 - x[..., 0]).relu()) * (x[..., 0] > -5)  # noqa: E731
    ball = Ball(0.2, "inf", torch.ones(1))
    assert_close(ball_slope(value, torch.tensor([[0.4]]), ball), torch.tensor(1.2 / 0.2))
    assert_close(ball_slope(value, torch.tensor([[-9.0], [0.4]]), ball), torch.tensor(1.2 / 0.2))
    assert ball_slope(value, torch.tensor([[-9.0]]), ball) == 0


def test_the_value_aware_error_by_hand():
    assert_close(value_aware_error(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 1.0])), torch.tensor(2.5))


# --- theory (E18) ---------------------------------------------------------------------------------------------------


def wasserstein_on_a_line(p: torch.Tensor, q: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """W₁ (…) of two distributions (…, S) on sorted places (S,): the area between their distribution functions."""
    gap = (p.cumsum(-1) - q.cumsum(-1)).abs()[..., :-1]
    return (gap * places.diff()).sum(-1)


@pytest.mark.parametrize("seed", range(30))
def test_model_error_costs_no_more_value_than_the_slope_allows(seed):
    """|T^πQ − T̂^πQ| ≤ γ·K·W₁ per step, ‖Q^π − Q̂‖ ≤ γ/(1−γ)·K(V)·sup W₁ at the fixed points: eq. (2.3), (2.6)."""
    draws, gamma, states, actions = generator(seed), 0.9, 12, 3
    places = torch.rand(states, generator=draws, dtype=torch.float64).sort().values
    true, model = torch.rand(2, states, actions, states, generator=draws, dtype=torch.float64).pow(6)
    true, model = true / true.sum(-1, keepdim=True), model / model.sum(-1, keepdim=True)
    reward = torch.rand(states, actions, generator=draws, dtype=torch.float64)
    pi = torch.rand(states, actions, generator=draws, dtype=torch.float64).softmax(-1)
    distance = wasserstein_on_a_line(true, model, places)

    def lipschitz(v):
        return (v.diff().abs() / places.diff()).max()

    def fixed_point(transition):
        kernel = (pi[..., None] * from_dense(torch.ones(states), transition[None], reward[None]).probability[0]).sum(1)
        v = torch.linalg.solve(torch.eye(states, dtype=torch.float64) - gamma * kernel, (pi * reward).sum(1))
        return v, reward + gamma * transition @ v

    v, q = fixed_point(true)
    model_v, model_q = fixed_point(model)
    gap = gamma * ((true - model) @ v).abs()
    assert (gap <= gamma * lipschitz(v) * distance + 1e-12).all()
    for slope in (lipschitz(v), lipschitz(model_v)):
        assert (q - model_q).abs().max() <= gamma / (1 - gamma) * slope * distance.max()
