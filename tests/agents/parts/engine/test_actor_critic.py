"""The losses in native code against their definitions and autograd, on rows that lie apart in memory."""

import pytest
import torch
from torch.testing import assert_close

from surefoot.agents.interface import Batch
from surefoot.agents.parts.engine import actor_critic, flags
from surefoot.agents.parts.engine.flat import Flat, flat_pair
from surefoot.agents.sac import policy_loss, temperature_loss, twin_q_loss

B = 37
pytestmark = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in flags.INSTRUCTIONS, reason="no native kernels for this processor"
)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("entropy", [True, False])
def test_the_soft_target_of_rows_that_are_columns_of_a_table(entropy):
    table = draw(B, 7)
    table[:, 5] = (table[:, 5] > 0).float()
    batch = Batch(table[:, :2], table[:, 2:4], table[:, 4], table[:, :2], table[:, 5])
    q, log_prob, log_alpha = draw(2, B, 1, seed=1), draw(B, seed=2), torch.tensor(-1.3)
    y = actor_critic.soft_target(batch, q, log_prob, 0.9, log_alpha if entropy else None)
    value = q[..., 0].amin(0) - (log_alpha.exp() * log_prob if entropy else 0.0)
    assert y.shape == (B,)
    assert_close(y, batch.reward + 0.9 * (1 - batch.terminated) * value)


def test_the_squared_error_its_derivative_and_the_mean_value():
    q, y = draw(2, B, 1).requires_grad_(), draw(B, seed=1)
    loss = twin_q_loss(q[..., 0], y)
    (expected,) = torch.autograd.grad(loss, q)
    by_q, found, mean = actor_critic.squared_error(q.detach(), y)
    assert_close(by_q, expected)
    assert_close(found, loss.detach())
    assert_close(mean, q.detach().mean())


@pytest.mark.parametrize("learned", [True, False])
def test_the_actors_objective_and_the_temperatures(learned):
    q, log_prob = draw(2, B, 1).requires_grad_(), draw(B, seed=1).requires_grad_()
    log_alpha = torch.tensor(-0.7).requires_grad_(learned)
    if learned:
        log_alpha.grad = torch.tensor(0.25)  # what was there before is added to
    actor = policy_loss(log_prob, q[..., 0], log_alpha.detach().exp())
    by = torch.autograd.grad(actor, [q, log_prob])
    by_q, by_log_prob, metrics = actor_critic.actor_objective(q.detach(), log_prob.detach(), log_alpha, -2.0)
    assert_close((by_q, by_log_prob), by)
    assert_close(metrics["policy_loss"], actor.detach())
    assert_close(metrics["alpha"], log_alpha.detach().exp())
    assert_close(metrics["entropy"], -log_prob.detach().mean())
    if learned:
        fresh = torch.tensor(-0.7).requires_grad_()
        (by_alpha,) = torch.autograd.grad(temperature_loss(fresh, log_prob, -2.0), fresh)
        assert_close(log_alpha.grad, 0.25 + by_alpha)


def test_a_pair_of_flat_tensors_is_there_where_both_are():
    one, other, loose = ([torch.nn.Parameter(draw(3)), torch.nn.Parameter(draw(2, 2))] for _ in "abc")
    a, b = Flat(one), Flat(other)
    first, second = flat_pair(one, other)
    assert first is a.values
    assert second is b.values
    assert flat_pair(one, loose) is None
    assert flat_pair(loose, one) is None
    assert not a.values.requires_grad
    assert a.values.shape == (7,)
    a.values += 1
    assert torch.equal(one[1].detach(), a.values[3:].view(2, 2))  # the parameters are views


def test_seeds_side_by_side_are_each_as_alone():
    seeds, table = 3, draw(3, B, 7)
    table[..., 5] = (table[..., 5] > 0).float()
    obs, action, reward, ended = table[..., :2], table[..., 2:4], table[..., 4], table[..., 5]
    q, log_prob, y = draw(2 * seeds, B, 1, seed=1), draw(seeds, B, seed=2), draw(seeds, B, seed=3)
    log_alpha = draw(seeds, seed=4).requires_grad_()
    log_alpha.grad = torch.full((seeds,), 0.25)
    target = actor_critic.soft_target(Batch(obs, action, reward, obs, ended), q, log_prob, 0.9, log_alpha.detach())
    errors = actor_critic.squared_error(q, y)
    by_q, by_log_prob, metrics = actor_critic.actor_objective(q, log_prob, log_alpha, -2.0)
    for s in range(seeds):
        own, lone_q = Batch(obs[s], action[s], reward[s], obs[s], ended[s]), q[2 * s : 2 * s + 2]
        alpha = log_alpha[s].detach().clone().requires_grad_()
        alpha.grad = torch.tensor(0.25)
        assert_close(target[s], actor_critic.soft_target(own, lone_q, log_prob[s], 0.9, alpha.detach()))
        alone = actor_critic.squared_error(lone_q, y[s])
        assert_close((errors[0][2 * s : 2 * s + 2], errors[1][s], errors[2][s]), alone)
        lone_by_q, lone_by_log_prob, lone_metrics = actor_critic.actor_objective(lone_q, log_prob[s], alpha, -2.0)
        assert_close((by_q[2 * s : 2 * s + 2], by_log_prob[s]), (lone_by_q, lone_by_log_prob))
        assert_close({name: value[s] for name, value in metrics.items()}, lone_metrics)
        assert_close(log_alpha.grad[s], alpha.grad)
