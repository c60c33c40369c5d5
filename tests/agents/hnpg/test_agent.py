"""HNPG: λ and its limits, the critics' targets and sweep, the seeds of a stack, both forms, and bad input.

Exact answers E4 and E5 of docs/derivations/hnpg.md.
"""

import math
from dataclasses import replace

import gymnasium as gym
import pytest
import torch
from torch.testing import assert_close

from surefoot.agents import get
from surefoot.agents.baselines.trpo import TRPO, TRPOConfig
from surefoot.agents.hnpg.agent import HNPG, HNPGConfig, bootstrap_target, episode_grid, hybrid_weights
from surefoot.agents.hnpg.exact import hybrid_least_squares
from surefoot.agents.interface import Batch, Setting, Spaces
from surefoot.agents.parts.on_policy import OnPolicyConfig
from surefoot.agents.parts.trust_region import StepRows, TrustRegionConfig, trust_region_step
from surefoot.envs import EnvConfig, make_vec, spaces_of
from surefoot.offline_data import Transitions
from surefoot.training.loop.behaviour import record_behaviour

H = 3
LOCK = EnvConfig("surefoot/CombinationLock-v0", num_envs=20, kwargs={"horizon": H}, time_aware=True)
SMALL = HNPGConfig(
    horizon=H, policy_hidden=(8, 8), critic_hidden=(8, 8), batch_steps=60, critic_steps=4, value_samples=3
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def setting_for(env=LOCK, *, data=None, seed=0, num_seeds=1):
    envs = make_vec(replace(env, num_envs=env.num_envs * num_seeds))
    if data is None and env.id.startswith("surefoot/Comb"):
        data = record_behaviour(env, 200, seed=0)
    return Setting(Spaces(*spaces_of(env)), seed, torch.device("cpu"), envs, data, num_seeds=num_seeds)


def make(config=SMALL, **kwargs):
    return HNPG(config, setting_for(**kwargs))


# --- λ (E4) ----------------------------------------------------------------------------------------------------------


def test_weights_are_the_two_means():
    weight = hybrid_weights(0.25, 4, 2).double()
    values = torch.randn(6, generator=generator()).double()
    expected = (values[:4].mean() + 0.25 * values[4:].mean()) / 1.25
    assert_close((weight * values).sum(), expected)
    assert_close(hybrid_weights(1.0, 5, 5), torch.full((10,), 0.1))  # the plain mean over the concatenation
    assert hybrid_weights(math.inf, 3, 2).tolist() == [0.0, 0.0, 0.0, 0.5, 0.5]
    assert hybrid_weights(0.0, 2, 3).tolist() == [0.5, 0.5, 0.0, 0.0, 0.0]


def rows_of(agent, rollout, off):
    state = agent.nets.generator.get_state()
    rows = agent.policy_rows(rollout, off)
    agent.nets.generator.set_state(state)
    return rows


def test_duplicating_the_offline_batch_changes_nothing():
    """Critic and policy step in float64, one agent given every offline sample twice."""
    vectors = []
    for copies in (1, 2):
        agent = make(replace(SMALL, on_policy_weight=0.7, offline_actions="data"))
        rollout, _, _ = agent.nets.collect()
        off = agent.draw_offline(rollout)
        agent.nets.policy.double(), agent.nets.critic.double()
        rollout = type(rollout)(*(x.double() if x.is_floating_point() else x for x in rollout))
        off = Batch(*(torch.cat([x.double()] * copies, 1) for x in off))
        # Both draws a' below and V(s) are random: give each agent an action that does not depend on the draw.
        agent.nets.head.sample = lambda outputs, generator: outputs.chunk(2, -1)[0]
        agent.evaluate_policy(rollout, off)
        trust_region_step(agent.nets.policy, agent.policy_rows(rollout, off), agent.config)
        vectors.append(
            torch.cat([agent.nets.policy.vector().flatten(), *(p.flatten() for p in agent.nets.critic.parameters())])
        )
    assert_close(vectors[0], vectors[1], rtol=1e-9, atol=1e-11)


def test_without_offline_weight_an_iteration_is_plain_trpo():
    """λ = inf against the TRPO agent, without the hybrid parts, three iterations, same seeds."""
    hybrid = make(replace(SMALL, on_policy_weight=math.inf))
    fields = {name: getattr(SMALL, name) for name in OnPolicyConfig.__dataclass_fields__}
    plain = TRPO(TRPOConfig(**fields), setting_for())
    for _ in range(3):
        ours, theirs = hybrid.step(), plain.step()
        assert_close(ours.metrics["kl"], theirs.metrics["kl"], rtol=1e-4, atol=1e-7)
        assert_close(ours.metrics["on_policy_loss"], theirs.metrics["on_policy_loss"], rtol=1e-4, atol=1e-7)
        assert "offline_loss" not in ours.metrics  # (f − r)² is not (f − z)², and there is no z
    assert "offline_loss" in make(replace(SMALL, policy_on_policy_weight=math.inf)).step().metrics
    assert_close(hybrid.nets.policy.vector(), plain.nets.policy.vector(), rtol=1e-4, atol=1e-6)
    assert_close(list(hybrid.nets.critic.parameters()), list(plain.nets.critic.parameters()), rtol=1e-4, atol=1e-6)


def separate_trpo_step(policy, obs, action, advantage):
    """TRPO written for one network, autograd's Hessian and dense algebra: nothing shared with the library but the
    network."""
    theta = policy.vector()
    old = policy(obs).detach()
    old_log_prob = policy.head.log_prob(old, action)

    def outputs(vector):
        return policy(obs, policy.split(vector))

    def gain(vector):
        return (advantage * (policy.head.log_prob(outputs(vector), action) - old_log_prob).exp()).mean()

    def kl(vector):
        return policy.head.kl(old, outputs(vector)).mean()

    g = torch.autograd.functional.jacobian(gain, theta).flatten()
    fisher = torch.autograd.functional.hessian(kl, theta).reshape(len(g), len(g)) + 0.1 * torch.eye(len(g)).double()
    x, residual, direction = torch.zeros_like(g), g.clone(), g.clone()
    for _ in range(10):
        square = residual @ residual
        if square < 1e-10:
            break
        curved = fisher @ direction
        x = x + square / (direction @ curved) * direction
        residual = residual - square / (direction @ curved) * curved
        direction = residual + residual @ residual / square * direction
    step = x * (0.02 / (x @ fisher @ x)).sqrt()
    for j in range(10):
        candidate = theta + 0.5**j * step
        better = gain(candidate) - gain(theta)
        if better > 0 and better / (0.5**j * (g @ step)) > 0.1 and kl(candidate) <= 0.015:
            return candidate
    return theta


def test_the_policy_step_is_a_separately_written_trpo_step():
    agent = make(replace(SMALL, horizon=None, on_policy_weight=math.inf), env=replace(LOCK, time_aware=False))
    agent.step()
    rollout, _, _ = agent.nets.collect()
    agent.nets.policy.double()
    obs = agent.nets.by_member(rollout.obs).double()
    action = agent.nets.by_member(rollout.action).double()
    advantage = torch.randn(action.shape[:2], generator=generator()).double()
    expected = separate_trpo_step(agent.nets.policy, obs, action, advantage)
    weight = torch.full((obs.shape[1],), 1 / obs.shape[1]).double()
    trust_region_step(agent.nets.policy, StepRows(obs, action, advantage, weight), TrustRegionConfig())
    assert_close(agent.nets.policy.vector(), expected, rtol=1e-6, atol=1e-9)


def test_without_on_policy_weight_only_offline_states_move_the_policy():
    agent = make(replace(SMALL, on_policy_weight=0.0))
    rollout, _, _ = agent.nets.collect()
    off = agent.draw_offline(rollout)
    rows = rows_of(agent, rollout, off)
    count = off.obs.shape[1]
    assert rows.weight[count:].eq(0).all()
    assert_close(rows.obs[:, :count], off.obs)
    assert agent.critic_on_policy_weight == agent.policy_on_policy_weight == 0.0


def test_lambda_one_is_the_mean_over_both_batches():
    agent = make()
    rollout, _, _ = agent.nets.collect()
    rows = rows_of(agent, rollout, agent.draw_offline(rollout))
    assert_close(rows.weight, torch.full_like(rows.weight, 1 / 40))


# --- the critics -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lam", [0.0, 0.3, 1.0, 1e6])
def test_linear_critics_are_fitted_to_the_closed_form(lam):
    """E5: a critic without hidden layers under the hybrid weights, by plain gradient descent to the end."""
    g = generator()
    phi = torch.randn(12, 3, generator=g).double()
    targets = torch.randn(12, generator=g).double()
    weight = hybrid_weights(lam, 7, 5).double()
    w = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    for _ in range(3000):
        (grad,) = torch.autograd.grad((weight * (phi @ w - targets).square()).sum(), w)
        w = (w - 0.1 * grad).detach().requires_grad_()
    closed = hybrid_least_squares(phi[:7], targets[:7], phi[7:], targets[7:], lam)
    assert_close(w.detach(), closed, rtol=1e-5, atol=1e-5)


def test_no_gradient_reaches_the_bootstrapped_target():
    agent = make()
    obs = torch.randn(1, 5, 8)
    z = bootstrap_target(agent.nets.policy, agent.nets.critic, slice(1, 2), torch.ones(1, 5), obs, 1.0, generator())
    assert not z.requires_grad
    action = agent.nets.head.sample(agent.nets.policy(obs, agent.nets.policy.members(slice(1, 2))), generator())
    assert_close(z, 1 + agent.nets.critic.value(obs, action, slice(1, 2)))


def test_the_sweep_is_a_loop_over_steps_written_plainly():
    """h from H − 1 to 0, target from the critic just fitted and an action of the next step's policy; f_H = 0."""
    agent = make(replace(SMALL, on_policy_weight=0.5))
    rollout, _, _ = agent.nets.collect()
    off = agent.draw_offline(rollout)
    nets, policy = agent.nets, agent.nets.policy
    reference = [p.detach().clone() for p in nets.critic.parameters()]
    state = nets.generator.get_state()
    returns = rollout.reward.flip(0).cumsum(0).flip(0)  # (H, 1, n)
    agent.evaluate_policy(rollout, off)
    draws = generator()
    draws.set_state(state)
    for h in (2, 1, 0):
        z = off.reward[h]
        if h < 2:
            out = policy(off.next_obs[h][None], [p[h + 1 : h + 2] for p in policy.parameters()])
            a = policy.head.sample(out, draws)[0]
            parameters = [p[h + 1 : h + 2] for p in reference]
            z = z + nets.critic(torch.cat([off.next_obs[h], a], -1)[None], parameters)[0, :, 0].detach()
        leaves = [p[h : h + 1].clone().requires_grad_() for p in reference]
        adam = torch.optim.Adam(leaves, lr=3e-4)
        for _ in range(4):
            f_off = nets.critic(torch.cat([off.obs[h], off.action[h]], -1)[None], leaves)[0, :, 0]
            f_on = nets.critic(torch.cat([rollout.obs[h, 0], rollout.action[h, 0]], -1)[None], leaves)[0, :, 0]
            loss = (f_off - z).square().mean() + 0.5 * (f_on - returns[h, 0]).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
        for parameter, leaf in zip(reference, leaves, strict=True):
            parameter[h] = leaf.detach()[0]
    assert_close([p.detach() for p in nets.critic.parameters()], reference, rtol=1e-4, atol=1e-6)


def test_rounds_bootstrap_through_time_outs_and_not_through_terminations():
    agent = make(replace(SMALL, horizon=None), env=replace(LOCK, time_aware=False))
    off = Batch(*(torch.zeros(1, 2, *shape) for shape in ((8,), (10,), (), (8,), ())))
    off = off._replace(reward=torch.ones(1, 2), terminated=torch.tensor([[1.0, 0.0]]))
    z = bootstrap_target(
        agent.nets.policy,
        agent.nets.critic,
        slice(None),
        off.reward,
        off.next_obs,
        0.9 * (1 - off.terminated),
        generator(),
    )
    assert z[0, 0] == 1.0
    assert z[0, 1] != 1.0


# --- offline data ----------------------------------------------------------------------------------------------------


def test_each_member_gets_offline_transitions_of_its_own_step():
    agent = make(num_seeds=2)
    rollout, _, _ = agent.nets.collect()
    off = agent.draw_offline(rollout)
    assert off.obs.shape == (2 * H, 20, 8)
    z = off.obs @ make_vec(LOCK).rotation / 8
    for member in range(2 * H):
        assert bool((z[member, :, 3:6].argmax(-1) == member // 2).all())
        assert bool((off.terminated[member] == (member // 2 == H - 1)).all())


def test_data_actions_keep_what_was_recorded_and_resampled_ones_do_not():
    for variant in ("data", "resample"):
        agent = make(replace(SMALL, offline_actions=variant))
        rollout, _, _ = agent.nets.collect()
        off = agent.draw_offline(rollout)
        rows = agent.policy_rows(rollout, off)
        assert bool((rows.action[:, :20] == off.action).all()) == (variant == "data")
        assert_close(rows.obs[:, :20], off.obs)


def test_offline_advantages_are_values_over_the_states_mean():
    agent = make(replace(SMALL, offline_actions="data"))
    rollout, _, _ = agent.nets.collect()
    off = agent.draw_offline(rollout)
    agent.nets.values = lambda obs: torch.full(obs.shape[:2], 7.0)
    advantage = agent.policy_rows(rollout, off).advantage[:, :20]
    assert_close(advantage, agent.nets.critic.value(off.obs, off.action).detach() - 7.0)


def transitions(lengths, time_aware=True):
    steps = torch.cat([torch.arange(n) for n in lengths]).float()
    obs = torch.stack([torch.zeros_like(steps), steps if time_aware else steps + 1], 1)
    end = torch.cat([torch.arange(n) == n - 1 for n in lengths])
    return Transitions.from_arrays(
        obs=obs, action=torch.zeros(len(steps), 1), reward=steps, next_obs=obs + 1, terminated=end
    )


def test_episodes_of_another_length_are_refused():
    assert episode_grid(transitions([4, 4, 4]), 4) == 3
    with pytest.raises(ValueError, match=r"episode 1 takes 3 steps, but the horizon is 4"):
        episode_grid(transitions([4, 3, 4]), 4)
    with pytest.raises(ValueError, match=r"episode 0 takes 4 steps, but the horizon is 2"):
        episode_grid(transitions([4, 4]), 2)
    with pytest.raises(ValueError, match="is not the step"):
        episode_grid(transitions([4, 4], time_aware=False), 4)


# --- seeds, forms, learning ------------------------------------------------------------------------------------------


def test_seeds_of_a_stack_differ_and_do_not_mix():
    agent = make(num_seeds=2)
    agent.step()
    nets = agent.nets
    assert nets.policy.vector().shape[0] == 2 * H
    assert not torch.equal(nets.policy.vector()[0], nets.policy.vector()[1])
    before = nets.policy.vector()
    rollout, _, _ = nets.collect()
    off = agent.draw_offline(rollout)
    rows = agent.policy_rows(rollout, off)
    half = rows._replace(advantage=rows.advantage * (torch.arange(2 * H) % 2 == 0)[:, None])
    trust_region_step(nets.policy, half, agent.config)
    moved = (nets.policy.vector() != before).any(1)
    assert moved.tolist() == [True, False] * H


def test_the_deployed_policy_picks_the_network_of_the_step():
    agent = make(num_seeds=2)
    agent.step()
    obs = torch.randn(6, 9)
    obs[:, -1] = torch.tensor([0, 1, 2, 2, 1, 0])
    actions = agent.act(obs)
    for row in range(6):
        member = int(obs[row, -1]) * 2  # the first seed's
        own = agent.nets.policy.members(slice(member, member + 1))
        assert_close(actions[row], agent.nets.policy(obs[None, row : row + 1, :-1], own)[0, 0, :10].detach())


@pytest.mark.parametrize("name", ["hnpg", "trpo"])
@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1"])
def test_the_stationary_form_acts_in_box_and_discrete_tasks(name, env_id):
    env = EnvConfig(env_id, num_envs=4, max_episode_steps=25)
    spaces = Spaces(*spaces_of(env))
    rows, g = 64, generator()
    discrete = isinstance(spaces.action, gym.spaces.Discrete)
    action = torch.randint(2, (rows, 1), generator=g) if discrete else torch.rand(rows, 1, generator=g)
    width = spaces.observation.shape[0]
    data = Transitions.from_arrays(
        obs=torch.randn(rows, width, generator=g),
        action=action,
        reward=torch.ones(rows),
        next_obs=torch.randn(rows, width, generator=g),
        terminated=torch.arange(rows) % 16 == 15,
    )
    spec = get(name)
    wanted = {"batch_steps": 100, "critic_steps": 3, "rounds": 2, "value_samples": 2}
    config = replace(spec.default, **{k: v for k, v in wanted.items() if k in spec.default.__dataclass_fields__})
    agent = spec.make_agent(config, setting_for(env, data=data, num_seeds=2))
    for _ in range(2):
        progress = agent.step()
        assert progress.env_steps == 100
        assert all(bool(value.isfinite().all()) for value in progress.metrics.values())
    assert (progress.metrics["kl"] > 0).all()
    acted = agent.act(torch.zeros(5, width), explore=True)
    assert acted.shape == ((5,) if discrete else (5, 1))


def test_returns_of_the_stationary_form_are_discounted_and_cut_only_by_time():
    env = EnvConfig("CartPole-v1", num_envs=3)
    agent = TRPO(TRPOConfig(batch_steps=120, gamma=0.9), setting_for(env))
    rollout, _, _ = agent.nets.collect()
    agent.nets.values = lambda obs: torch.full(obs.shape[:2], 100.0)  # what stands for the cut-off future
    returns = agent.nets.by_time(agent.nets.returns(rollout))[:, 0]
    for i in range(3):
        following = 100.0
        for t in reversed(range(40)):
            ended = bool(rollout.ended[t, 0, i])
            following = 1.0 + 0.9 * (0.0 if ended else following)
            assert_close(returns[t, i], torch.tensor(following), rtol=1e-4, atol=1e-4)
    assert bool(rollout.terminated.any())


def test_advantages_of_the_stationary_form_bootstrap_a_cut_and_not_an_end():
    """Constant V = 100: δ = 1 + γ·100 − 100 before an end, 1 − 100 at one; the sum stops at a cut."""
    env = EnvConfig("CartPole-v1", num_envs=3, max_episode_steps=8)
    agent = TRPO(TRPOConfig(batch_steps=120, gamma=0.9, gae_lambda=0.5), setting_for(env))
    rollout, _, _ = agent.nets.collect()
    agent.nets.values = lambda obs: torch.full(obs.shape[:2], 100.0)
    assert bool((rollout.ended.bool() & ~rollout.terminated.bool()).any())  # time-outs
    rollout.terminated[3] = 1.0  # and ends
    rollout.ended[3] = True
    advantages = agent.nets.by_time(agent.nets.advantages(rollout))[:, 0]
    for i in range(3):
        following = 0.0
        for t in reversed(range(40)):
            delta = 1.0 - 100.0 + 90.0 * (1 - float(rollout.terminated[t, 0, i]))
            following = delta + 0.9 * 0.5 * (0.0 if rollout.ended[t, 0, i] else following)
            assert_close(advantages[t, i], torch.tensor(following), rtol=1e-4, atol=1e-4)


def test_hnpg_opens_a_short_lock_much_sooner_than_trpo():
    """H = 3, 20 iterations of 1000 samples; uniform actions succeed once in 1000."""
    env = replace(LOCK, num_envs=334)
    data = record_behaviour(env, 5_000, seed=0)
    rates = {}
    for name in ("hnpg", "trpo"):
        config = replace(get(name).default, horizon=H, success_return=1.0)
        agent = get(name).make_agent(config, setting_for(env, data=data))
        for _ in range(20):
            rates[name] = float(agent.step().metrics["success"])
    assert rates["hnpg"] > 0.2
    assert rates["hnpg"] > 3 * rates["trpo"]


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"on_policy_weight": -1.0}, "--agent.on-policy-weight must be at least 0"),
        ({"on_policy_weight": math.nan}, "--agent.on-policy-weight must be at least 0"),
        ({"critic_on_policy_weight": -0.5}, "--agent.critic-on-policy-weight must be at least 0"),
        ({"kl_limit": 0.0}, "--agent.kl-limit must be positive, not 0.0"),
        ({"kl_limit": math.inf}, "--agent.kl-limit must be positive"),
        ({"kl_slack": 0.5}, "--agent.kl-slack must be at least 1, or None"),
        ({"horizon": 0}, "--agent.horizon must be at least 1, not 0"),
        ({"damping": -0.1}, "--agent.damping must be at least 0"),
        ({"gae_lambda": 1.1}, r"--agent.gae-lambda must be in \[0, 1\]"),
        ({"policy_hidden": ()}, "--agent.policy-hidden must be one or more widths"),
        ({"rounds": 0}, "--agent.rounds must be at least 1"),
    ],
)
def test_settings_out_of_range_are_named(change, message):
    with pytest.raises(ValueError, match=message) as error:
        HNPGConfig(**change)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("env", "horizon", "message"),
    [
        (LOCK, 2, "episodes of this task continue after 2 steps"),
        (LOCK, 4, "an episode of this task ended after 3 steps"),
        (replace(LOCK, time_aware=False), 3, "add --env.time-aware"),
        (EnvConfig("Pendulum-v1", time_aware=True), 20, "--env.max-episode-steps 20"),
        (EnvConfig("InvertedPendulum-v5", time_aware=True), 100, "an episode of this task ended after"),
    ],
)
def test_a_task_that_is_not_of_the_horizon_is_refused(env, horizon, message):
    with pytest.raises(ValueError, match=message) as error:
        TRPO(TRPOConfig(horizon=horizon), setting_for(env))
    assert "\n" not in str(error.value)


def test_data_of_another_horizon_is_refused():
    data = record_behaviour(replace(LOCK, kwargs={"horizon": 4}), 5, seed=0)
    with pytest.raises(ValueError, match=r"episode 0 takes 4 steps, but the horizon is 3"):
        make(data=data)
