"""DARC, CQL and behaviour cloning: their own equations, by hand (docs/derivations/h2o.md §9, E18, E19)."""

import math

import pytest
import torch
from tiny import ACT, make_batch, make_data, make_setting, small
from torch.testing import assert_close

from surefoot.agents.baselines.bc import BC, BCConfig, cloning_loss, split_episodes
from surefoot.agents.baselines.cql import (
    CQL,
    SAC_OFFLINE_SPEC,
    CQLConfig,
    conservative_gap,
    importance_corrected,
)
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


def sampled_values(agent, batch, noise):
    """Return corrected Q (2, 3·A, B) of the sampled actions."""
    obs, action, log_density = agent.rows_of(batch, noise)
    q = agent.nets.critic(obs, action)[:, len(batch.reward) :]
    return q.view(2, *log_density.shape) - log_density


def test_cql_values_of_sampled_actions_are_taken_in_their_own_state():
    agent = CQL(small(CQLConfig(), sampled_actions=3), make_setting())
    batch, noise = make_batch(8), agent.draw_noise()
    values = sampled_values(agent, batch, noise)
    assert values.shape == (2, 9, 8)
    row, sample = 5, 1
    uniform = agent.nets.critic(batch.obs[row : row + 1], noise.uniform[sample, row : row + 1])
    assert_close(values[:, sample, row], uniform[:, 0] + ACT * math.log(2), rtol=1e-5, atol=1e-5)
    action, log_prob = agent.policy.sample(batch.next_obs[row : row + 1], noise.following[sample, row : row + 1])
    following = agent.nets.critic(batch.obs[row : row + 1], action)[:, 0] - log_prob
    assert_close(values[:, 3 + sample, row], following, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weight", [0.7, 0.0])
def test_an_update_of_cql_descends_td_and_weighted_gaps_of_both_critics_and_the_actors_loss(weight):
    config = small(CQLConfig(), sampled_actions=3, min_q_weight=weight)
    agent, twin = (CQL(config, make_setting()) for _ in range(2))
    batch, noise = make_batch(8), agent.draw_noise()
    metrics = agent.update(batch, noise)
    nets = twin.nets
    q, y = nets.critic(batch.obs, batch.action), nets.td_target(batch, noise.target)
    loss = (q - y).square().mean(1).sum()
    if weight:
        gaps = [
            torch.logsumexp(sampled, 0) - data
            for sampled, data in zip(sampled_values(twin, batch, noise), q, strict=True)
        ]
        loss = loss + weight * sum(gap.mean() for gap in gaps)
    assert_descended(agent.nets, nets, loss + nets.actor_loss(batch.obs, noise.policy)[0])
    assert ("conservative_gap" in metrics) == (weight > 0)  # nothing is sampled for a term that is left out
    assert agent.step()[:2] == (0, 1)


def test_sac_offline_is_cql_without_its_term():
    assert SAC_OFFLINE_SPEC.default == CQLConfig(min_q_weight=0.0)
    assert SAC_OFFLINE_SPEC.default.rows_sampled == 0
    assert CQLConfig().rows_sampled == 10


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


def test_whole_episodes_are_held_out_and_nothing_is_in_both_parts():
    data = make_data(rows=12)
    data.episode_end = torch.tensor([0, 1, 0, 0, 1, 1, 0, 0, 0, 1, 0, 1]).bool()  # lengths 2, 3, 1, 4, 2
    episode = {row.item(): i for i, rows in enumerate(data.reward.split([2, 3, 1, 4, 2])) for row in rows}
    held_out = set()
    for seed in range(8):
        kept, held = split_episodes(data, 0.4, torch.Generator().manual_seed(seed))
        parts = [{episode[row.item()] for row in part.reward} for part in (kept, held)]
        assert not parts[0] & parts[1]
        assert [len(part) for part in parts] == [3, 2]
        assert len(kept.reward) + len(held.reward) == 12
        held_out |= parts[1]
    assert held_out == set(range(5))
    few = split_episodes(data, 0.01, torch.Generator())
    many = split_episodes(data, 0.99, torch.Generator())
    assert [len({episode[row.item()] for row in part.reward}) for part in (few[1], many[0])] == [1, 1]
    data.episode_end = torch.zeros(12).bool()
    data.episode_end[-1] = True
    with pytest.raises(ValueError, match=r"--agent\.holdout 0\.4 needs data of two episodes or more, not 1"):
        split_episodes(data, 0.4, torch.Generator())


def test_early_stopping_keeps_the_policy_with_the_highest_held_out_likelihood():
    """Little data of noise, many updates: the likelihood of new episodes first rises and then falls."""
    setting = make_setting()
    setting.data.episode_end = torch.arange(64) % 8 == 7
    agent = BC(small(BCConfig(), hidden=(64,), policy_lr=1e-2, holdout=0.5, holdout_every=10), setting)
    held, losses, told = agent.held_out.batch, [], []
    for update in range(1, 301):
        told.append(agent.step().metrics["held_out_loss"])
        shown = told[-1].item()
        if update == 1 or update % 10 == 0:
            losses.append(cloning_loss(agent.trained, held).item())
        assert shown == pytest.approx(losses[-1], rel=1e-5)
        assert cloning_loss(agent.policy, held).item() == pytest.approx(min(losses), rel=1e-5)
    assert 0 < losses.index(min(losses)) < len(losses) - 1
    assert_close(torch.stack(told[9::10]), torch.tensor(losses[1:]))  # what was told once stays what it was
    assert agent.policy is not agent.trained
    other = BC(agent.config, setting)
    other.load_state_dict(agent.state_dict())
    assert_close(other.act(held.obs), agent.act(held.obs), rtol=0, atol=0)
    assert other.held_out.updates == 300


def test_a_fraction_that_leaves_nothing_to_learn_from_is_refused():
    with pytest.raises(ValueError, match=r"--agent\.holdout is 1\.0; a fraction of the episodes"):
        BCConfig(holdout=1.0)
