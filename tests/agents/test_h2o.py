"""Equations of H2O on small cases (the exact answers E2 to E11, E14 and E17 of docs/derivations/h2o.md)."""

import dataclasses
import math

import pytest
import torch
from tiny import ACT, OBS, make_batch, make_data, make_setting, small
from torch.testing import assert_close

from surefoot.agents.h2o import (
    H2O,
    H2O_SPEC,
    SAC_MIX_SPEC,
    H2OConfig,
    H2ONoise,
    dynamics_gap,
    importance_weight,
    log_gap_weights,
    state_std,
    value_regulariser,
)
from surefoot.agents.interface import Batch
from surefoot.agents.parts.classifiers import DomainClassifiers, log_ratio, transition_rows
from surefoot.agents.sac import ActorCritic, SACConfig, twin_q_loss

# --- ω (E2)


def test_omega_sums_to_one_and_ignores_scale_and_order():
    gap = torch.rand(128, generator=torch.Generator().manual_seed(0)) + 1e-3
    omega = log_gap_weights(gap).exp()
    assert omega.sum().item() == pytest.approx(1.0, abs=1e-6)
    assert (omega >= 0).all()
    assert_close(omega, gap / gap.sum())
    assert_close(log_gap_weights(1000 * gap).exp(), omega)
    order = torch.randperm(128, generator=torch.Generator().manual_seed(1))
    assert_close(log_gap_weights(gap[order]).exp(), omega[order])


def test_omega_of_floored_rows():
    floor = 1e-8
    some = log_gap_weights(torch.tensor([-2.0, 0.5, -1.0, 1.5]).clamp(floor, 10)).exp()
    assert_close(some, torch.tensor([floor / 2, 0.25, floor / 2, 0.75]), rtol=1e-5, atol=1e-9)
    every = log_gap_weights(torch.full((8,), -3.0).clamp(floor, 10)).exp()
    assert_close(every, torch.full((8,), 1 / 8))


# --- w (E3)


def test_importance_weight_bounds():
    ratio = torch.tensor([-50.0, -4.0, -1.0, 0.0, 3.0])
    expected = torch.tensor([1e-5, math.exp(-4), math.exp(-1), 1.0, 1.0])
    assert_close(importance_weight(ratio), expected)


def test_default_head_keeps_weights_above_e_to_minus_four():
    classifiers = DomainClassifiers(OBS, ACT, (8,), generator=torch.Generator().manual_seed(0))
    rows = 100 * torch.randn(500, classifiers.width, generator=torch.Generator().manual_seed(1))
    weight = importance_weight(log_ratio(classifiers.g(rows)))
    assert weight.min() >= math.exp(-4) - 1e-6
    assert weight.max() == 1


# --- u: sign (pitfall 1) and widening (eq. (3.10), E17)


class KnownRatio:
    """A classifier whose log P_sim/P_real is 3·s'_0: the simulator is wrong where s'_0 is large."""

    def g(self, rows):
        ratio = 3 * rows[:, OBS + ACT]
        return torch.stack([-ratio / 2, ratio / 2], -1)


def test_gap_is_log_sim_over_real_at_the_widened_successors():
    batch = make_batch(6)
    spread = torch.randn(10, 6, OBS, generator=torch.Generator().manual_seed(2))
    expected = 3 * (batch.next_obs[:, 0] + spread[:, :, 0].mean(0))
    assert_close(dynamics_gap(KnownRatio(), batch, spread), expected)
    assert_close(dynamics_gap(KnownRatio(), batch, torch.zeros(1, 6, OBS)), 3 * batch.next_obs[:, 0])


def test_state_std_honest_and_padded():
    data = make_data(400)
    data.obs = data.obs * 2 + 3
    assert_close(state_std(data, "data"), data.obs.std(0, correction=0) + 1e-3)
    padded = torch.cat([data.obs, torch.zeros(10 * 400, OBS)])
    assert_close(state_std(data, "padded"), padded.std(0, correction=0) + 1e-3)


# --- regulariser (E4, E5)


def make_q(rows: int, seed: int) -> torch.Tensor:
    return torch.randn(2, rows, generator=torch.Generator().manual_seed(seed))


def test_uniform_omega_is_log_mean_exp_and_one_hot_picks_a_row():
    q_real, q_sim = make_q(5, 0), make_q(7, 1)
    uniform = torch.full((7,), -math.log(7))
    assert_close(value_regulariser(q_real, q_sim, uniform), q_sim.exp().mean(-1).log() - q_real.mean(-1))
    one_hot = torch.full((7,), -torch.inf).index_fill(0, torch.tensor([3]), 0.0)
    assert_close(value_regulariser(q_real, q_sim, one_hot), q_sim[:, 3] - q_real.mean(-1))


def test_linear_variant_is_below_and_constants_cancel():
    q_real, q_sim = make_q(5, 0), make_q(7, 1)
    log_omega = make_q(7, 2)[0].log_softmax(0)
    value = value_regulariser(q_real, q_sim, log_omega)
    assert (value_regulariser(q_real, q_sim, log_omega, linear=True) <= value).all()
    assert_close(value_regulariser(q_real + 9, q_sim + 9, log_omega), value, rtol=1e-4, atol=1e-4)


def test_temperature_scales_q_and_not_omega():
    q_real, q_sim, log_omega = make_q(5, 0), make_q(7, 1), make_q(7, 2)[0].log_softmax(0)
    expected = 3 * (log_omega.exp() * (q_sim / 3).exp()).sum(-1).log() - q_real.mean(-1)
    assert_close(value_regulariser(q_real, q_sim, log_omega, temperature=3.0), expected)


def test_gradient_is_beta_softmax_on_simulated_and_minus_beta_over_rows_on_real():
    beta = 0.7
    q_real, q_sim = make_q(5, 0).requires_grad_(), make_q(7, 1).requires_grad_()
    log_omega = make_q(7, 2)[0].log_softmax(0)
    (beta * value_regulariser(q_real, q_sim, log_omega).sum()).backward()
    assert_close(q_sim.grad, beta * (q_sim.detach() + log_omega).softmax(-1))
    assert_close(q_sim.grad.sum(-1), torch.full((2,), beta))
    assert_close(q_real.grad, torch.full((2, 5), -beta / 5))


def make_agent(seed: int = 0, **changes) -> H2O:
    return H2O(small(H2OConfig(), **changes), make_setting(seed))


def test_regulariser_beyond_its_clip_has_no_gradient():
    for offset, moves in ((10.0, True), (5000.0, False)):
        agent = make_agent(adaptive_weighting=False)
        q_real = torch.zeros(2, 4, requires_grad=True)
        q_sim = torch.full((2, 6), offset, requires_grad=True)
        penalty, metrics = agent.regularise(q_real, q_sim, make_batch(6), agent.draw_noise())
        penalty.backward()
        assert (q_sim.grad.abs().sum() > 0) == moves
        assert metrics["regulariser_clipped"].item() == 1 - moves
        assert penalty.item() == pytest.approx(2 * 0.01 * min(offset, 1000), rel=1e-5)


# --- weighted TD error (E6)


def test_gradient_of_a_row_is_proportional_to_its_weight():
    q, y = make_q(6, 0)[:1].requires_grad_(), torch.zeros(6)
    weight = torch.tensor([0.0, 0.1, 0.2, 0.5, 0.9, 1.0])
    twin_q_loss(q, y, weight).backward()
    assert_close(q.grad[0], weight * 2 * q.detach()[0] / 6)


# --- gradient routing (E7)


def test_critic_and_actor_losses_leave_the_classifiers_alone():
    agent = make_agent()
    real, sim, noise = agent.real.sample(4), make_batch(6), agent.draw_noise()
    both = Batch(*(torch.cat(pair) for pair in zip(real, sim, strict=True)))
    y = agent.nets.td_target(both, noise.target)
    critic_loss, _ = agent.critic_loss(agent.nets.critic(both.obs, both.action), y, sim, noise)
    actor_loss, _ = agent.nets.actor_loss(both.obs, noise.policy)
    parameters = list(agent.classifiers.parameters())
    for loss in (critic_loss, actor_loss):
        grads = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
        assert all(grad is None for grad in grads)


# --- fixed point (E8)


@pytest.mark.parametrize("beta", [0.0, 0.3])
def test_table_minimiser_is_the_target_less_the_adaptive_penalty(beta):
    d_real = torch.tensor([0.4, 0.3, 0.2, 0.1, 0.0, 0.0], dtype=torch.float64)
    d_sim = torch.tensor([0.05, 0.1, 0.15, 0.2, 0.25, 0.25], dtype=torch.float64)
    omega = torch.tensor([0.02, 0.05, 0.08, 0.15, 0.3, 0.4], dtype=torch.float64)
    weight = torch.tensor([1, 1, 0.9, 0.7, 0.3, 0.1], dtype=torch.float64)
    y = torch.randn(6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q = y.clone().requires_grad_()
    optimiser = torch.optim.LBFGS([q], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def loss():
        optimiser.zero_grad()
        # The table's frequencies enter as weights; the log-sum-exp term is the library's, with Q_real meaned by hand.
        tilted = value_regulariser(torch.zeros(1, 1, dtype=torch.float64), q[None], omega.log())[0]
        bellman = ((d_real + d_sim * weight) * (q - y).square()).sum()
        value = bellman + beta * (tilted - (d_real * q).sum())
        value.backward()
        return value

    optimiser.step(loss)
    tilted = (omega * q.exp() / (omega * q.exp()).sum()).detach()
    expected = -beta / 2 * (tilted - d_real) / (d_real + weight * d_sim)
    assert_close(q.detach() - y, expected, rtol=0, atol=1e-5)
    if beta:
        assert (q - y)[0] > 0 > (q - y)[5]  # real-heavy pairs up, simulated pairs with a large gap down
    else:
        assert_close(q.detach(), y)


# --- reductions (E9)


def one_h2o_update(agent: H2O, real: Batch, sim: Batch, noise: H2ONoise) -> None:
    rows = agent.real.sample(agent.config.classifier_batch_size * agent.config.uses_classifiers)
    agent.update(real, sim, rows, rows, noise)


def test_without_its_additions_it_is_sac_on_both_domains_bit_for_bit():
    agent = make_agent(regulariser_weight=0.0, importance_weights=False)
    nets = ActorCritic(agent.config, make_setting())
    real, sim, noise = make_batch(4, 1), make_batch(6, 2), agent.draw_noise()
    one_h2o_update(agent, real, sim, noise)
    both = Batch(*(torch.cat(pair) for pair in zip(real, sim, strict=True)))
    q, y = nets.critic(both.obs, both.action), nets.td_target(both, noise.target)
    loss = twin_q_loss(q[:, 4:], y[4:]) + twin_q_loss(q[:, :4], y[:4])
    nets.descend(loss + nets.actor_loss(both.obs, noise.policy)[0])
    assert_same_nets(agent.nets, nets)


def test_without_real_rows_either_it_is_plain_sac_in_the_simulator_bit_for_bit():
    from surefoot.agents.sac import SAC, SACNoise

    agent = make_agent(regulariser_weight=0.0, importance_weights=False, real_batch_size=0)
    heads = {
        name: getattr(agent.config, name) for name in ("log_std_offset", "learn_log_std_affine", "last_layer_gain")
    }
    sac = SAC(small(SACConfig(), entropy_in_target=False, **heads), make_setting())
    for step in range(3):
        sim, noise = make_batch(6, step), agent.draw_noise()
        one_h2o_update(agent, make_batch(0), sim, noise)
        sac.update(sim, SACNoise(noise.policy, noise.target))
    assert_same_nets(agent.nets, sac.nets)


def assert_same_nets(first: ActorCritic, second: ActorCritic) -> None:
    for name in ("policy", "critic", "target"):
        pairs = zip(getattr(first, name).parameters(), getattr(second, name).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs), name
    assert torch.equal(first.log_alpha, second.log_alpha)


def test_zero_gap_leaves_log_mean_exp_less_the_real_mean():
    """With classifiers that see no difference w is 1, û is floored everywhere, and the regulariser is not zero."""
    agent = make_agent()
    for parameter in agent.classifiers.parameters():
        torch.nn.init.zeros_(parameter)
    sim, noise = make_batch(6), agent.draw_noise()
    weight, _ = agent.weigh(sim)
    assert weight.eq(1).all()
    q_real, q_sim = make_q(4, 0), make_q(6, 1)
    penalty, metrics = agent.regularise(q_real, q_sim, sim, noise)
    expected = 0.01 * (q_sim.exp().mean(-1).log() - q_real.mean(-1)).sum()
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-4)
    assert penalty.item() != 0
    assert metrics["gap_floored"] == 1


# --- targets (E10)


def test_targets_have_no_entropy_by_default_and_mask_terminals_only():
    agent, batch, noise = make_agent(), make_batch(10), torch.randn(10, ACT)
    action, _ = agent.policy.sample(batch.next_obs, noise)
    value = agent.nets.target(batch.next_obs, action).amin(0)
    expected = batch.reward + 0.99 * (1 - batch.terminated) * value
    assert_close(agent.nets.td_target(batch, noise), expected.detach())


# --- the agent: what an update uses, the Lagrange form (eq. (4.11), (4.12)), E11, E14, defaults (§7.1)


def test_update_applies_weights_and_gap_of_the_updated_classifiers():
    agent = make_agent()
    for _ in range(20):
        metrics = agent.step().metrics
    assert 0 < metrics["importance_weight"] <= 1
    assert 0 <= metrics["gap_floored"] <= 1
    assert {"classifier_loss_sa", "classifier_loss_sas", "regulariser", "omega_std", "td_loss"} <= metrics.keys()


def test_classifiers_learn_from_fresh_batches_of_the_named_size():
    agent = make_agent(classifier_batch_size=32)
    before = agent.classifiers.g_net.weights[0].clone()
    while not agent.step().updates:
        pass
    assert not torch.equal(before, agent.classifiers.g_net.weights[0])
    assert agent.draw_noise().classifier.shape == (2, 32, 2 * OBS + ACT)


@pytest.mark.parametrize(
    ("changes", "absent"),
    [
        ({"importance_weights": False}, {"importance_weight"}),
        ({"adaptive_weighting": False}, {"gap", "omega_std"}),
        ({"regulariser_weight": 0.0}, {"regulariser", "gap"}),
        ({"regulariser_weight": 0.0, "importance_weights": False}, {"regulariser", "gap", "classifier_loss_sa"}),
    ],
)
def test_every_ablation_still_moves_policy_and_critics(changes, absent):
    agent = make_agent(**changes)
    before = [agent.policy.net.weights[0].clone(), agent.nets.critic.weights[0].clone()]
    progress = [agent.step() for _ in range(10)]
    after = [agent.policy.net.weights[0], agent.nets.critic.weights[0]]
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not absent & progress[-1].metrics.keys()


def test_lagrange_multiplier_grows_while_the_regulariser_exceeds_its_target():
    for q_level, direction in ((5.0, 1), (-5.0, -1)):
        agent = make_agent(lagrange=True, adaptive_weighting=False)
        q_real, q_sim = torch.zeros(2, 4), torch.full((2, 6), q_level, requires_grad=True)
        loss, metrics = agent.regularise(q_real, q_sim, make_batch(6), agent.draw_noise())
        loss.backward()
        assert metrics["multiplier"].item() == pytest.approx(math.e)
        assert_close(q_sim.grad.sum(), torch.tensor(2 * 0.01 * math.e))  # α'β a critic
        assert -agent.log_multiplier.grad * direction > 0
        assert agent.log_multiplier.grad.item() == pytest.approx(-0.01 * math.e * (q_level - 1), rel=1e-4)


def test_lagrange_multiplier_moves_only_in_its_own_form():
    for lagrange in (False, True):
        agent = make_agent(lagrange=lagrange)
        while not agent.step().updates:
            pass
        assert (agent.log_multiplier.item() != 1.0) == lagrange


def test_real_rows_stay_byte_identical_while_the_ring_turns():
    agent = make_agent(sim_capacity_ratio=0.25)
    before = agent.real.rows.clone()
    for _ in range(3 * agent.sim.capacity):
        agent.step()
    assert torch.equal(agent.real.rows, before)
    assert len(agent.sim) == agent.sim.capacity == 16


def test_same_seed_same_two_hundred_losses():
    def losses():
        agent = make_agent(5)
        steps = [agent.step().metrics for _ in range(210)]
        return torch.stack([torch.stack(list(m.values())) for m in steps if m])

    first, second = losses(), losses()
    assert len(first) >= 200
    assert torch.equal(first, second)


def test_sac_mix_is_h2o_without_both_corrections():
    config = SAC_MIX_SPEC.default
    assert dataclasses.replace(config, importance_weights=True, regulariser_weight=0.01) == H2O_SPEC.default
    assert not config.uses_classifiers


def test_defaults_are_the_authors():
    config = H2OConfig()
    assert (config.real_batch_size, config.sim_batch_size, config.classifier_batch_size) == (128, 128, 256)
    assert (config.regulariser_weight, config.temperature, config.gap_samples, config.gap_std_multiplier) == (
        0.01,
        1.0,
        10,
        1.0,
    )
    assert (config.gamma, config.tau, config.policy_lr, config.classifier_noise) == (0.99, 0.005, 3e-4, 0.1)
    assert (config.rollout_steps, config.random_steps, config.entropy_in_target) == (1000, 0, False)
    assert (config.log_std_offset, config.learn_log_std_affine, config.last_layer_gain) == (-1.0, True, 0.01)


@pytest.mark.parametrize(
    "change", [{"regulariser_weight": -1.0}, {"temperature": 0.0}, {"gap_samples": 0}, {"gap_floor": 0.0}]
)
def test_hyper_parameters_out_of_range(change):
    with pytest.raises(ValueError, match=rf"--agent\.{next(iter(change)).replace('_', '-')} must be"):
        H2OConfig(**change)


def test_regulariser_without_real_rows_is_refused():
    with pytest.raises(ValueError, match=r"needs real rows; pass --agent\.regulariser-weight 0"):
        H2OConfig(real_batch_size=0)


def test_transition_rows_of_data_and_batch_agree():
    assert_close(transition_rows(make_data(5)), transition_rows(make_batch(5)))
