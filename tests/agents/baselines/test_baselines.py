"""DARC, CQL and behaviour cloning: their own equations, by hand (docs/derivations/h2o.md §9, E18, E19)."""

import math

import pytest
import torch
from tiny import ACT, make_batch, make_setting, small
from torch.testing import assert_close

from surefoot.agents.baselines.bc import BC, BCConfig, cloning_loss
from surefoot.agents.baselines.cql import CQL, CQLConfig, conservative_gap, importance_corrected
from surefoot.agents.baselines.darc import DARC, DARC_PLUS_SPEC, DARC_SPEC, DARCNoise, reward_correction
from surefoot.agents.interface import Batch
from surefoot.agents.parts.classifiers import classifier_step, transition_rows
from surefoot.agents.sac import two_domain_loss


def test_darc_pays_for_realistic_transitions():
    g = torch.tensor([[2.0, -2.0], [0.0, 0.0], [-2.0, 2.0], [30.0, 0.0]])
    assert_close(reward_correction(g), torch.tensor([4.0, 0.0, -4.0, 10.0]))


def test_darc_corrects_simulated_rewards_and_leaves_real_ones():
    agent, twin = (DARC(small(DARC_PLUS_SPEC.default), make_setting()) for _ in range(2))
    real, sim, rows = make_batch(4, 1), make_batch(6, 2), (make_batch(5, 3), make_batch(5, 4))
    generator = torch.Generator().manual_seed(0)
    shapes = ((10, ACT), (10, ACT), (2, 5, agent.classifiers.width))
    noise = DARCNoise(*(torch.randn(shape, generator=generator) for shape in shapes))
    metrics = agent.update(real, sim, *rows, noise)

    classifier_step(twin.classifiers, twin.classifier_optimiser, *rows, 0.1 * noise.classifier)
    correction = reward_correction(twin.classifiers.g(transition_rows(sim)))
    both = Batch(*(torch.cat(pair) for pair in zip(real, sim, strict=True)))
    paid = torch.cat([real.reward, sim.reward + correction])
    y = twin.nets.td_target(both._replace(reward=paid), noise.target)
    expected = two_domain_loss(twin.nets.critic(both.obs, both.action), y, real_rows=4)
    assert correction.abs().min() > 0
    assert_close(metrics["td_loss"], expected.detach())
    assert_close(metrics["reward_correction"], correction.mean())
    assert_descended(agent.nets, twin.nets, expected + twin.nets.actor_loss(both.obs, noise.policy)[0])


def assert_descended(nets, twin, loss):
    """Assert that the gradients left by an update of `nets` are those of a loss written out for its twin."""
    for mine, other in ((nets.policy, twin.policy), (nets.critic, twin.critic)):
        pairs = [(a, b) for a, b in zip(mine.parameters(), other.parameters(), strict=True) if b.requires_grad]
        expected = torch.autograd.grad(loss, [b for _, b in pairs], retain_graph=True)
        assert_close([a.grad for a, _ in pairs], list(expected))


def test_darc_draws_noise_for_every_row_and_counts_one_update():
    agent = DARC(small(DARC_PLUS_SPEC.default), make_setting())
    while not (progress := agent.step()).updates:
        pass
    assert progress.updates == 1
    assert_close(agent.nets.alpha.log(), torch.tensor(0.0), rtol=0, atol=1e-3)  # one step of Adam


def test_darc_and_darc_plus_differ_in_the_rows_they_learn_values_from():
    plain, plus = DARC_SPEC.default, DARC_PLUS_SPEC.default
    assert (plain.real_batch_size, plain.sim_batch_size) == (0, 256)
    assert (plus.real_batch_size, plus.sim_batch_size) == (128, 128)
    assert plain.entropy_in_target
    assert plus.entropy_in_target


def test_conservative_gap_by_hand():
    q_sampled = torch.tensor([[[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]]])  # (1 critic, 3 actions, 2 rows)
    q_data = torch.tensor([[3.0, 0.0]])
    rows = [math.log(1 + math.e**2 + math.e**4) - 3.0, math.log(3) + 1.0]
    assert conservative_gap(q_sampled, q_data).item() == pytest.approx(sum(rows) / 2)
    cold = conservative_gap(q_sampled, q_data, temperature=0.01).item()
    assert cold == pytest.approx((4.0 - 3.0 + 1.0 + 0.01 * math.log(3)) / 2, rel=1e-4)


def test_importance_correction_makes_the_sum_an_integral():
    """exp(Q − log p) over actions from p averages to ∫ exp Q: here Q = log(1 − a²) on [−1, 1], integral 4/3."""
    action = torch.rand(200_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    corrected = importance_corrected(torch.log(1 - action.square()), torch.full_like(action, -math.log(2)))
    assert corrected.exp().mean().item() == pytest.approx(4 / 3, rel=0.01)


def test_cql_values_of_sampled_actions_are_taken_in_their_own_state():
    agent = CQL(small(CQLConfig(), sampled_actions=3), make_setting())
    batch, noise = make_batch(8), agent.draw_noise()
    values = agent.sampled_values(batch, noise)
    assert values.shape == (2, 9, 8)
    row, sample = 5, 1
    uniform = agent.nets.critic(batch.obs[row : row + 1], noise.uniform[sample, row : row + 1])
    assert_close(values[:, sample, row], uniform[:, 0] + ACT * math.log(2), rtol=1e-5, atol=1e-5)
    action, log_prob = agent.policy.sample(batch.next_obs[row : row + 1], noise.following[sample, row : row + 1])
    following = agent.nets.critic(batch.obs[row : row + 1], action)[:, 0] - log_prob
    assert_close(values[:, 3 + sample, row], following, rtol=1e-4, atol=1e-5)


def test_an_update_of_cql_descends_td_and_weighted_gaps_of_both_critics_and_the_actors_loss():
    agent, twin = (CQL(small(CQLConfig(), sampled_actions=3, min_q_weight=0.7), make_setting()) for _ in range(2))
    batch, noise = make_batch(8), agent.draw_noise()
    agent.update(batch, noise)
    nets = twin.nets
    q, y = nets.critic(batch.obs, batch.action), nets.td_target(batch, noise.target)
    gaps = [
        torch.logsumexp(sampled, 0) - data for sampled, data in zip(twin.sampled_values(batch, noise), q, strict=True)
    ]
    loss = (q - y).square().mean(1).sum() + 0.7 * sum(gap.mean() for gap in gaps)
    assert_descended(agent.nets, nets, loss + nets.actor_loss(batch.obs, noise.policy)[0])
    assert agent.step()[:2] == (0, 1)


def test_cql_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"--agent\.sampled-actions must be at least 1"):
        CQLConfig(sampled_actions=0)


def test_cql_lowers_sampled_actions_against_the_data():
    setting = make_setting()
    setting.data.action = torch.full((64, ACT), 0.9)  # data in one corner of the action space
    agent = CQL(small(CQLConfig(), critic_lr=1e-2, gamma=0.0), setting)
    gaps = [agent.step().metrics["conservative_gap"].item() for _ in range(150)]
    assert sum(gaps[-10:]) < sum(gaps[:10]) - 5


def test_cloning_loss_is_the_mean_negative_log_likelihood():
    agent = BC(small(BCConfig()), make_setting())
    batch = make_batch(8)
    expected = -sum(
        agent.policy.log_prob(o[None], a[None]).item() for o, a in zip(batch.obs, batch.action, strict=True)
    )
    assert cloning_loss(agent.policy, batch).item() == pytest.approx(expected / 8, rel=1e-5)


def test_cloning_recovers_a_linear_policy():
    setting = make_setting()
    setting.data.action = (0.5 * setting.data.obs[:, :ACT]).tanh()
    agent = BC(small(BCConfig(), hidden=(64,), policy_lr=1e-2, batch_size=64), setting)
    for _ in range(600):
        assert agent.step()[:2] == (0, 1)
    error = (agent.act(setting.data.obs) - setting.data.action).abs().mean()
    assert error < 0.05
