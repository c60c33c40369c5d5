"""SAC's losses by hand, against Stable-Baselines3 on copied weights (docs/derivations/h2o.md E16), its bookkeeping."""

import gymnasium as gym
import pytest
import torch
import torch.nn.functional as F
from stable_baselines3 import SAC as OracleSAC
from tiny import ACT, DriftEnv, make_batch, make_setting, make_spaces, small
from torch.testing import assert_close

from surefoot.agents.interface import Spaces
from surefoot.agents.sac import (
    SAC,
    ActorCritic,
    ActorCriticConfig,
    SACConfig,
    policy_loss,
    soft_target,
    temperature_loss,
    twin_q_loss,
    two_domain_loss,
)


def test_twin_q_loss_by_hand():
    q, y = torch.tensor([[1.0, 2.0], [0.0, 5.0]]), torch.tensor([0.0, 4.0])
    assert twin_q_loss(q, y).item() == pytest.approx((1 + 4) / 2 + (0 + 1) / 2)
    assert twin_q_loss(q, y, torch.tensor([1.0, 0.5])).item() == pytest.approx((1 + 2) / 2 + 0.5 / 2)


def test_two_domains_weigh_the_same_whatever_their_rows():
    q, y = torch.tensor([[1.0, 1.0, 1.0, 3.0]] * 2), torch.zeros(4)
    assert two_domain_loss(q, y, 3).item() == pytest.approx(2 * (1 + 9))
    assert two_domain_loss(q, y, 0).item() == pytest.approx(twin_q_loss(q, y).item())
    weighted = two_domain_loss(q, y, 3, torch.tensor([0.25]))
    assert weighted.item() == pytest.approx(2 * (1 + 9 / 4))


def test_policy_and_temperature_loss_by_hand():
    log_prob, q = torch.tensor([-1.0, 3.0]), torch.tensor([[5.0, 1.0], [2.0, 4.0]])
    assert policy_loss(log_prob, q, torch.tensor(0.5)).item() == pytest.approx((0.5 * 2 - (2 + 1)) / 2)
    log_alpha = torch.tensor(0.3, requires_grad=True)
    loss = temperature_loss(log_alpha, log_prob, target_entropy=-2.5)
    assert loss.item() == pytest.approx(-0.3 * (1.0 - 2.5))
    loss.backward()
    assert log_alpha.grad.item() == pytest.approx(1.5)


def make_nets(seed: int = 0, **changes) -> ActorCritic:
    return ActorCritic(small(ActorCriticConfig(), **changes), make_setting(seed))


def test_target_masks_terminals_and_carries_entropy_only_if_told():
    nets, batch, noise = make_nets(), make_batch(12), torch.randn(12, ACT)
    action, log_prob = nets.policy.sample(batch.next_obs, noise)
    value = nets.target(batch.next_obs, action).min(0).values
    for alpha, bonus in ((None, 0.0), (torch.tensor(0.7), 0.7 * log_prob)):
        y = soft_target(batch, nets.policy, nets.target, noise, 0.9, alpha)
        expected = torch.where(batch.terminated > 0, batch.reward, batch.reward + 0.9 * (value - bonus))
        assert_close(y, expected.detach())
        assert not y.requires_grad


@pytest.mark.parametrize("entropy", [True, False])
def test_the_temperature_reaches_the_targets_as_the_config_says(entropy):
    nets, batch, noise = make_nets(initial_alpha=0.2, entropy_in_target=entropy), make_batch(12), torch.randn(12, ACT)
    assert nets.alpha.item() == pytest.approx(0.2)
    alpha = torch.tensor(0.2) if entropy else None
    assert_close(nets.td_target(batch, noise), soft_target(batch, nets.policy, nets.target, noise, 0.99, alpha))


def test_the_loss_of_the_actor_is_that_of_policy_and_temperature_each_with_its_own_gradient():
    """The policy's loss does not move the temperature, nor the temperature's the policy."""
    nets, obs, noise = make_nets(initial_alpha=0.2, target_entropy=-2.5), make_batch(8).obs, torch.randn(8, ACT)
    loss, metrics = nets.actor_loss(obs, noise)
    action, log_prob = nets.policy.sample(obs, noise)
    expected = (0.2 * log_prob - nets.critic(obs, action).amin(0)).mean()
    assert_close(metrics["policy_loss"], expected.detach())
    assert_close(loss, expected - torch.tensor(0.2).log() * (log_prob.detach().mean() - 2.5))
    weights = [parameter for parameter in nets.policy.parameters() if parameter.requires_grad]
    of_alpha, *of_policy = torch.autograd.grad(loss, [nets.log_alpha, *weights])
    assert_close(of_alpha, 2.5 - log_prob.detach().mean())
    assert_close(of_policy, list(torch.autograd.grad(expected, weights)))


def copy_to_oracle(nets: ActorCritic, oracle: OracleSAC) -> None:
    """Give Stable-Baselines3's networks our weights (theirs are (out, in), one module a critic)."""
    policy = oracle.policy
    with torch.no_grad():
        for ours, theirs in ((nets.critic, policy.critic), (nets.target, policy.critic_target)):
            for member, net in enumerate(theirs.q_networks):
                linears = [module for module in net if isinstance(module, torch.nn.Linear)]
                for linear, weight, bias in zip(linears, ours.weights, ours.biases, strict=True):
                    linear.weight.copy_(weight[member].T)
                    linear.bias.copy_(bias[member, 0])
        net = nets.policy.net
        body = [module for module in policy.actor.latent_pi if isinstance(module, torch.nn.Linear)]
        for linear, weight, bias in zip(body, net.weights, net.biases, strict=False):
            linear.weight.copy_(weight[0].T)
            linear.bias.copy_(bias[0, 0])
        for linear, columns in ((policy.actor.mu, slice(0, ACT)), (policy.actor.log_std, slice(ACT, 2 * ACT))):
            linear.weight.copy_(net.weights[-1][0, :, columns].T)
            linear.bias.copy_(net.biases[-1][0, 0, columns])


@pytest.fixture
def oracle_and_nets():
    env = OracleEnv()
    oracle = OracleSAC("MlpPolicy", env, policy_kwargs={"net_arch": [8, 8]}, seed=0, device="cpu")
    nets = make_nets()
    copy_to_oracle(nets, oracle)
    return oracle, nets


class OracleEnv(gym.Env):
    def __init__(self):
        self.observation_space, self.action_space = make_spaces()


def oracle_sample(oracle, obs, noise):
    """Stable-Baselines3's action and log-prob for given noise: its distribution with its rsample's draw replaced."""
    mean, log_std, _ = oracle.actor.get_action_dist_params(obs)
    distribution = oracle.actor.action_dist.proba_distribution(mean, log_std)
    gaussian = mean + log_std.exp() * noise
    action = torch.tanh(gaussian)
    return action, distribution.log_prob(action, gaussian)


def test_losses_and_gradients_equal_stable_baselines3(oracle_and_nets):
    oracle, nets = oracle_and_nets
    batch, alpha = make_batch(32), torch.tensor(0.4)
    noise, next_noise = torch.randn(2, 32, ACT, generator=torch.Generator().manual_seed(5))

    y = soft_target(batch, nets.policy, nets.target, next_noise, 0.99, alpha)
    next_action, next_log_prob = oracle_sample(oracle, batch.next_obs, next_noise)
    next_q = torch.cat(oracle.critic_target(batch.next_obs, next_action), 1).min(1).values - alpha * next_log_prob
    oracle_y = (batch.reward + (1 - batch.terminated) * 0.99 * next_q).detach()
    assert_close(y, oracle_y, rtol=1e-5, atol=1e-5)

    loss = twin_q_loss(nets.critic(batch.obs, batch.action), y)
    oracle_q = oracle.critic(batch.obs, batch.action)
    oracle_loss = sum(F.mse_loss(q, oracle_y[:, None]) for q in oracle_q)  # theirs, without its factor ½
    assert_close(loss, oracle_loss, rtol=1e-5, atol=1e-5)
    loss.backward()
    oracle_loss.backward()
    first = torch.stack([net[0].weight.grad.T for net in oracle.critic.q_networks])
    last = torch.stack([net[-1].weight.grad.T for net in oracle.critic.q_networks])
    assert_close(nets.critic.weights[0].grad, first, rtol=1e-5, atol=1e-5)
    assert_close(nets.critic.weights[-1].grad, last, rtol=1e-5, atol=1e-5)

    action, log_prob = nets.policy.sample(batch.obs, noise)
    actor_loss = policy_loss(log_prob, nets.critic(batch.obs, action), alpha)
    oracle_action, oracle_log_prob = oracle_sample(oracle, batch.obs, noise)
    oracle_min = torch.cat(oracle.critic(batch.obs, oracle_action), 1).min(1).values
    oracle_actor_loss = (alpha * oracle_log_prob - oracle_min).mean()
    assert_close(actor_loss, oracle_actor_loss, rtol=1e-5, atol=1e-5)
    actor_loss.backward()
    oracle_actor_loss.backward()
    assert_close(nets.policy.net.weights[0].grad[0], oracle.actor.latent_pi[0].weight.grad.T, rtol=1e-5, atol=1e-5)
    mean_gradient = nets.policy.net.weights[-1].grad[0, :, :ACT]
    assert_close(mean_gradient, oracle.actor.mu.weight.grad.T, rtol=1e-5, atol=1e-5)


def test_each_step_moves_its_own_parameters_only():
    nets, batch = make_nets(), make_batch(8)
    before = {name: first_weight(nets, name).detach().clone() for name in ("policy", "critic", "target")}
    actor_loss, _ = nets.actor_loss(batch.obs, torch.randn(8, ACT))
    nets.descend(actor_loss)
    assert not torch.equal(before["policy"], first_weight(nets, "policy"))
    assert torch.equal(before["critic"], first_weight(nets, "critic"))  # the policy loss left the critics alone
    assert_close(before["target"], first_weight(nets, "target"), rtol=0, atol=1e-7)


def test_an_update_moves_the_targets_by_tau_toward_the_critics_it_has_moved():
    agent = SAC(small(SACConfig(), tau=0.3, critic_lr=0.05), make_setting())
    updates, largest = 0, 0.0
    while updates < 3:
        before = [parameter.clone() for parameter in agent.nets.target.parameters()]
        done = agent.step().updates
        for old, new, critic in zip(
            before, agent.nets.target.parameters(), agent.nets.critic.parameters(), strict=True
        ):
            assert_close(new, old + 0.3 * done * (critic.detach() - old))
            largest = max(largest, float((new - old).abs().max()))
        updates += done
    assert largest > 0.01  # far above the tolerance: 0.3 of Adam's first step


def first_weight(nets, name):
    module = getattr(nets, name)
    return (module.net if name == "policy" else module).weights[0]


def test_temperature_falls_when_the_policy_is_too_random_and_rises_when_too_sure():
    for target, direction in ((-50.0, -1), (50.0, 1)):
        nets, batch = make_nets(target_entropy=target), make_batch(8)
        start = nets.alpha.item()
        nets.descend(nets.actor_loss(batch.obs, torch.randn(8, ACT))[0])
        assert (nets.alpha.item() - start) * direction > 0


def test_same_seed_same_two_hundred_losses():
    def losses():
        agent = SAC(small(SACConfig()), make_setting(3))
        steps = [agent.step() for _ in range(210)]
        return torch.stack([step.metrics["critic_loss"] for step in steps if step.metrics])

    first, second = losses(), losses()
    assert len(first) >= 200
    assert torch.equal(first, second)


def test_pacing_of_rollouts_and_updates():
    config = small(SACConfig(), rollout_steps=6, updates_per_step=0.5, learning_starts=6, random_steps=0)
    agent = SAC(config, make_setting(num_envs=2))
    done = [(p.env_steps, p.updates) for p in (agent.step() for _ in range(8))]
    assert done == [(6, 0), (2, 1), (2, 1), (2, 1), (2, 1), (2, 1), (2, 1), (2, 1)]
    assert agent.collector.env_steps == 24  # taken, the last round's not yet counted in full


def test_stored_successor_is_the_true_one_and_time_outs_do_not_terminate():
    agent = SAC(small(SACConfig(), learning_starts=1000, random_steps=1000), make_setting())
    for _ in range(7):
        progress = agent.step()
    assert progress.episodes[0].ended.item()
    last = agent.replay.unpack(agent.replay.rows[6:7])
    assert_close(last.next_obs[:, :ACT], last.obs[:, :ACT] + 0.1 * last.action)
    assert last.terminated.item() == 0
    assert agent.collector.interaction.obs.eq(0).all()  # the next episode starts from the reset


def test_first_steps_are_uniform_then_the_policys():
    agent = SAC(small(SACConfig(), random_steps=2000, learning_starts=10_000), make_setting())
    actions = torch.cat([agent.collector.choose(agent.policy) for _ in range(2000)])
    assert actions.abs().max() <= 1
    assert actions.std().item() == pytest.approx(3**-0.5, rel=0.05)
    agent.collector.env_steps = 2000
    assert agent.collector.choose(agent.policy).std() < 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": 1.5}, r"agent\.gamma must be in \[0, 1\], not 1\.5"),
        ({"tau": 0.0}, r"agent\.tau must be in \(0, 1\]"),
        ({"critic_lr": -1e-3}, r"--agent\.critic-lr must be positive"),
        ({"batch_size": 0}, r"--agent\.batch-size must be at least 1"),
        ({"hidden": ()}, r"agent\.hidden must be one or more widths"),
        ({"hidden": (8, 0)}, r"agent\.hidden must be one or more widths from 1 to 65,536, not \(8, 0\)"),
        ({"hidden": (10**9,)}, r"one or more widths from 1 to 65,536, not \(1000000000,\)"),
        ({"random_steps": -1}, r"--agent\.random-steps must be at least 0"),
        ({"log_std_min": 2.0}, r"--agent\.log-std-min must be below 2, not 2\.0"),
    ],
)
def test_hyper_parameters_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        SACConfig(**change)


def test_discrete_actions_are_refused_with_a_way_out():
    setting = make_setting()
    discrete = Spaces(setting.spaces.observation, gym.spaces.Discrete(3))
    with pytest.raises(ValueError, match=r"continuous .* choose another --env\.id"):
        SAC(SACConfig(), type(setting)(discrete, 0, setting.device, env=DriftEnv()))
