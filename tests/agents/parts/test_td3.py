"""TD3's pieces (docs/derivations/iwocs.md §8.2) by hand, and one update against Stable-Baselines3 on copied weights."""

import pytest
import torch
from tiny import ACT, OBS, make_batch, make_setting
from torch.testing import assert_close

from surefoot.agents.parts.acceleration import take_step
from surefoot.agents.parts.td3 import DeterministicPolicy, TD3Config, TD3Nets, policy_loss, smoothed
from surefoot.agents.sac import twin_q_loss

SMALL = TD3Config(hidden=(8, 8))


def make_nets(config=SMALL, seed=0, **changes) -> TD3Nets:
    return TD3Nets(config, make_setting(seed), (OBS, ACT), stream="networks", **changes)


def test_smoothing_clips_the_noise_and_then_the_action():
    x, noise = torch.tensor([0.0, 0.0, 0.9, -0.9]), torch.tensor([1.0, -9.0, 9.0, 0.5])
    assert_close(smoothed(x, noise, 0.2, 0.5), torch.tensor([0.2, -0.5, 1.0, -0.8]))


def test_the_policy_follows_the_first_critic_alone():
    q = torch.tensor([[1.0, 3.0], [-50.0, -70.0]], requires_grad=True)
    loss = policy_loss(q)
    assert loss.item() == -2.0
    loss.backward()
    assert_close(q.grad, torch.tensor([[-0.5, -0.5], [0.0, 0.0]]))


def test_the_target_is_that_of_the_target_networks_and_masks_terminals():
    nets, batch, noise = make_nets(), make_batch(12), torch.randn(12, ACT)
    with torch.no_grad():
        for net in (nets.policy, nets.critic):  # the on-line ones must not matter
            for parameter in net.parameters():
                parameter.add_(1.0)
    action = (nets.target_policy(batch.next_obs) + (0.2 * noise).clamp(-0.5, 0.5)).clamp(-1, 1)
    value = nets.target_critic(batch.next_obs, action).min(0).values
    expected = torch.where(batch.terminated > 0, batch.reward, batch.reward + 0.99 * value)
    assert_close(nets.td_target(batch, noise), expected.detach())
    assert not nets.td_target(batch, noise).requires_grad


def test_critics_may_see_more_than_the_policy():
    nets, batch, noise = make_nets(parameter_dim=2), make_batch(5), torch.zeros(5, ACT)
    seen = torch.cat([batch.next_obs, torch.ones(5, 2)], -1)
    value = nets.target_critic(seen, nets.target_policy(batch.next_obs)).amin(0)
    expected = batch.reward + 0.99 * (1 - batch.terminated) * value
    assert_close(nets.td_target(batch, noise, seen), expected.detach())


def test_targets_start_equal_and_move_by_tau():
    nets = make_nets(TD3Config(hidden=(8,), tau=0.25))
    before = [p.clone() for p in (*nets.target_policy.parameters(), *nets.target_critic.parameters())]
    online = [*nets.policy.parameters(), *nets.critic.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, online, strict=True))
    with torch.no_grad():
        for parameter in online:
            parameter.add_(4.0)
    nets.move_targets()
    after = [*nets.target_policy.parameters(), *nets.target_critic.parameters()]
    assert_close(after, [p + 1.0 for p in before])
    assert not any(p.requires_grad for p in after)


def test_exploration_is_noise_on_the_action_from_the_generator_given():
    generator = torch.Generator().manual_seed(0)
    policy = DeterministicPolicy(OBS, ACT, (8,), 0.1, generator=generator)
    obs = torch.randn(20_000, OBS, generator=generator) * 0.1
    mean = policy.act(obs)
    assert_close(mean, policy.net(obs).tanh().detach())
    assert bool((mean.abs() < 1).all())
    spread = policy.act(obs, explore=True, generator=torch.Generator().manual_seed(1)) - mean
    assert spread.std().item() == pytest.approx(0.1, rel=0.02)
    again = policy.act(obs, explore=True, generator=torch.Generator().manual_seed(1)) - mean
    assert torch.equal(spread, again)
    with torch.no_grad():
        policy.net.biases[-1].fill_(9.0)
    assert policy.act(obs, explore=True, generator=generator).max() == 1.0


def test_two_updates_are_those_of_stable_baselines3():
    """Without target noise: its own generator would draw another. The policy moves with the second update."""
    oracle_module = pytest.importorskip("stable_baselines3")
    import gymnasium as gym
    import numpy as np

    config = TD3Config(hidden=(8, 8), target_noise=0.0, gamma=0.9, tau=0.1, policy_lr=1e-3, critic_lr=1e-3)
    nets = make_nets(config)

    class Task(gym.Env):
        observation_space = gym.spaces.Box(-np.inf, np.inf, (OBS,), np.float32)
        action_space = gym.spaces.Box(-1.0, 1.0, (ACT,), np.float32)

        def reset(self, *, seed=None, options=None):
            return np.zeros(OBS, np.float32), {}

    settings = {"net_arch": [8, 8]}
    oracle = oracle_module.TD3(
        "MlpPolicy",
        Task(),
        learning_rate=1e-3,
        gamma=0.9,
        tau=0.1,
        target_policy_noise=0.0,
        policy_delay=2,
        policy_kwargs=settings,
        device="cpu",
    )
    copies = [(oracle.actor.mu, nets.policy.net, 0)]
    copies += [(getattr(oracle.critic, f"qf{k}"), nets.critic, k) for k in (0, 1)]
    for theirs, ours, k in copies:
        linear = [layer for layer in theirs if isinstance(layer, torch.nn.Linear)]
        with torch.no_grad():
            for layer, weight, bias in zip(linear, ours.weights, ours.biases, strict=True):
                layer.weight.copy_(weight[k].T)
                layer.bias.copy_(bias[k, 0])
    oracle.actor_target.load_state_dict(oracle.actor.state_dict())
    oracle.critic_target.load_state_dict(oracle.critic.state_dict())
    oracle.set_logger(oracle_module.common.logger.configure(None, []))
    batches = [make_batch(16, seed) for seed in (0, 1)]
    for update, batch in enumerate(batches, 1):
        rows = oracle_module.common.type_aliases.ReplayBufferSamples(
            batch.obs, batch.action, batch.next_obs, batch.terminated[:, None], batch.reward[:, None]
        )
        oracle.replay_buffer.sample = lambda *args, rows=rows, **kwargs: rows
        oracle.train(gradient_steps=1, batch_size=16)
        y = nets.td_target(batch, torch.randn(16, ACT))
        take_step([nets.critic_optimiser], twin_q_loss(nets.critic(batch.obs, batch.action), y))
        if update == 2:
            loss = policy_loss(nets.critic(batch.obs, nets.policy(batch.obs), frozen=True))
            take_step([nets.policy_optimiser], loss)
            nets.move_targets()
    obs, action = batches[0].obs, batches[0].action
    assert_close(nets.policy(obs), oracle.actor(obs))
    assert_close(nets.critic(obs, action), torch.stack(oracle.critic(obs, action)).squeeze(-1))
    assert_close(nets.target_policy(obs), oracle.actor_target(obs))
    assert_close(nets.target_critic(obs, action), torch.stack(oracle.critic_target(obs, action)).squeeze(-1))
