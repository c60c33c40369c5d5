"""The variants and their definitions, an environment step and the loop of the algorithm, a run that stops anywhere.

Algorithm, values and exact answers: docs/derivations/lipschitz_mbrl.md §8, §10, E8 and E16.
"""

import copy
import dataclasses
import itertools
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from tiny import ACT, OBS, make_data, make_setting
from torch.testing import assert_close

from surefoot.agents.interface import Budget, Spaces
from surefoot.agents.lipschitz_mbrl.agent import MBPO_SPEC, LipschitzMBRL, regulariser, state_value
from surefoot.agents.lipschitz_mbrl.settings import VARIANTS, LipschitzMBRLConfig, plan
from surefoot.agents.lipschitz_mbrl.smoothing import Ball, find_perturbation
from surefoot.agents.lipschitz_mbrl.spectral_norm import power_iterate, spectral_norms
from surefoot.agents.parts.acceleration import leaves
from surefoot.agents.parts.interaction import crosses
from surefoot.training.config.presets import load_preset

SMALL = {
    "hidden": (8, 8),
    "model_hidden": (8, 8),
    "model_decay": (0.0, 0.0, 0.0),
    "model_epochs": 2,
    "ensemble_size": 3,
    "elites": 2,
    "batch_size": 8,
    "real_ratio": 0.25,
    "updates_per_step": 2,
    "random_steps": 10,
    "replay_capacity": 100,
    "rollout_starts": 12,
    "model_interval": 6,
    "epoch_length": 12,
    "diagnose_every": 4,
    "diagnose_rows": 16,
}


def make_config(**changes) -> LipschitzMBRLConfig:
    return LipschitzMBRLConfig(**(SMALL | changes))


def make_agent(seed: int = 0, *, data=None, num_envs: int = 1, **changes) -> LipschitzMBRL:
    setting = replace(make_setting(seed, num_envs=num_envs), data=data)
    return LipschitzMBRL(make_config(**changes), setting)


def played(steps: int = 14, **changes) -> LipschitzMBRL:
    agent = make_agent(**changes)
    for _ in range(steps):
        agent.step()
    return agent


def same(one, other) -> bool:
    """Whether two nested states are equal to the last bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(torch.nan_to_num(one.double(), 7.0), torch.nan_to_num(other.double(), 7.0))
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


# --- the variants -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "ensemble_size", "elites", "output"),
    [
        ("pe", 7, 5, "gaussian"),
        ("de", 7, 5, "nll_mean"),
        ("sp", 1, 1, "gaussian"),
        ("sd", 1, 1, "nll_mean"),
        ("rr", 1, 1, "nll_mean"),
        ("sn", 1, 1, "nll_mean"),
    ],
)
def test_a_variant_has_its_model(variant, ensemble_size, elites, output):
    model = LipschitzMBRLConfig(variant=variant).dynamics()
    assert (model.ensemble_size, model.elites, model.model_output) == (ensemble_size, elites, output)
    if output != "gaussian":
        assert LipschitzMBRLConfig(variant=variant, model_output="mse").dynamics().model_output == "mse"


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_learns_and_reports_numbers(variant):
    agent = make_agent(variant=variant)
    seen: dict[str, torch.Tensor] = {}
    for _ in range(16):
        seen |= agent.step().metrics
    assert {*MBPO_SPEC.shown, *MBPO_SPEC.drawn} <= set(seen)
    assert all(bool(value.isfinite().all()) for value in seen.values())
    assert ("robust_loss" in seen) == (variant == "rr")
    assert not any(value.requires_grad for value in seen.values())


@pytest.mark.parametrize(
    ("interval", "num_envs", "models"),
    [(4, 2, "5 models"), (18, 2, "1 model"), (17, 2, "2 models"), (1, 2, "9 models")],
)
def test_the_plan_counts_models_and_updates_of_the_steps_after_the_random_ones(interval, num_envs, models):
    """24 steps, the first 6 random; a model at the first of the other 18 and whenever an interval has passed."""
    config = replace(LipschitzMBRLConfig(), random_steps=5, updates_per_step=3, real_ratio=0, model_interval=interval)
    found = plan(config, Budget(23, num_envs))
    assert found == (24, 54, ("24 environment steps, the first 6 random", f"then {models} and 54 updates"))


@pytest.mark.parametrize("changes", [{}, {"attack": "uniform"}, {"reference": "policy", "centre": "next_obs"}])
def test_a_weight_of_zero_is_the_plain_variant_bit_for_bit(changes):
    """50 updates of everything; the attack's draws come from a generator of its own."""
    states = [
        played(36, **variant).state_dict()
        for variant in ({"variant": "sd"}, {"variant": "rr", "robust_weight": 0.0} | changes)
    ]
    assert same(*states)
    assert not same(states[0]["nets"], played(36, variant="rr", **changes).state_dict()["nets"])


@pytest.mark.parametrize("attack", ["two-sided", "fgsm", "uniform", "none"])
def test_the_euclidean_ball_can_be_trained_in_with_every_attack(attack):
    """Drawing no point at all divided by its dimension, 0: no run with this norm came to its first update."""
    agent = played(12, variant="rr", norm="2", attack=attack)
    assert agent.step().metrics["robust_loss"].isfinite()
    if attack == "uniform":
        lengths = torch.cat([noise.attack.norm(dim=-1) for _, noise in agent.draw(20)])
        assert 0.9 < lengths.max() <= 1 + 1e-6


def test_uniform_noise_draws_nothing_that_others_draw():
    """The batches and noises of sd and of a robust loss without weight on anything random are the same."""
    plain, noisy = (make_agent(variant=variant, attack="uniform") for variant in ("sd", "rr"))
    for _ in range(11):
        plain.step()
        noisy.step()
    assert torch.equal(plain.noise_generator.get_state(), noisy.noise_generator.get_state())
    assert torch.equal(plain.replay.generator.get_state(), noisy.replay.generator.get_state())
    assert not torch.equal(plain.attack_generator.get_state(), noisy.attack_generator.get_state())


@pytest.mark.parametrize("layers", ["all", "hidden"])
def test_spectral_normalisation_bounds_critics_and_targets_through_training(layers):
    fast = {"critic_lr": 0.02, "tau": 0.5}  # so that a target, too, moves far
    agent = played(24, variant="sn", spectral_bound=2.0, bounded_layers=layers, power_iterations=100, **fast)
    assert_close(spectral_norms(agent.nets.critic)[:2], torch.full((2, 2), 2.0), rtol=0.2, atol=0)  # one step behind
    power_iterate(agent.nets.critic, 100)  # as the next update begins; the target's come right after its move
    for net in (agent.nets.critic, agent.nets.target):
        norms = spectral_norms(net)
        assert_close(norms[:2], torch.full((2, 2), 2.0), rtol=0.03, atol=0)
        assert bool((norms[2] - 2.0).abs().max() < 0.06) == (layers == "all")
    raw = [net.weights.parametrizations["0"].original for net in (agent.nets.critic, agent.nets.target)]
    assert not torch.equal(*raw)


# --- the robust loss as one update has it ----------------------------------------------------------------------------


def reference_regulariser(agent, batch, ball, *, reference="stored", centre="obs"):
    """The loss a critic and a row at a time, by the definition."""
    critic, policy, total = agent.nets.critic, agent.policy, 0.0
    for j in range(2):
        for i in range(len(batch.reward)):
            s = (batch.obs if centre == "obs" else batch.next_obs)[i : i + 1]
            a = batch.action[i : i + 1] if reference == "stored" else policy.act(s)
            c = critic(s, a)[j]
            g = lambda x, j=j: critic(x, policy.mode(x))[j]  # noqa: E731
            delta = find_perturbation(lambda x, g=g: g(x[0])[None], s, c[None].detach(), ball)[0]
            total = total + (g(s + delta) - c).square().sum() / len(batch.reward)
    return total


@pytest.mark.parametrize(("reference", "centre"), [("stored", "obs"), ("policy", "obs"), ("policy", "next_obs")])
def test_the_regulariser_is_its_definition(reference, centre):
    agent = played(11, reference=reference, centre=centre, perturbation_radius=0.3)
    [(batch, noise)] = agent.draw(1)
    ball = Ball(0.3, "inf", agent.obs_scale)
    q = agent.nets.critic(batch.obs, batch.action)
    loss = regulariser(agent.nets.critic, agent.policy, batch, q, ball, agent.config, noise.attack)
    expected = reference_regulariser(agent, batch, ball, reference=reference, centre=centre)
    assert_close(loss, expected, rtol=1e-4, atol=0)
    gradients = [
        torch.autograd.grad(x, list(agent.nets.critic.parameters()), retain_graph=True) for x in (loss, expected)
    ]
    assert_close(*gradients)


@pytest.mark.parametrize("norm", ["inf", "2"])
def test_the_attack_of_the_regulariser_sees_the_policy_move(norm):
    """Critics that ignore the state: all of their slope in s is that of π̄, without which δ and the loss were 0."""
    agent = played(11, reference="policy", norm=norm, perturbation_radius=1.0)
    with torch.no_grad():
        agent.nets.critic.weights[0][:, :OBS] = 0.0
    [(batch, noise)] = agent.draw(1)
    ball, nets = Ball(1.0, norm, agent.obs_scale), agent.nets
    q = nets.critic(batch.obs, batch.action)
    loss = regulariser(nets.critic, nets.policy, batch, q, ball, agent.config, noise.attack)
    assert loss > 0
    assert_close(loss, reference_regulariser(agent, batch, ball, reference="policy"), rtol=1e-3, atol=0)


def test_an_update_descends_td_plus_lam_times_the_robust_loss():
    """The step of the critics is Adam's on that sum; policy and temperature move as without it."""
    one, other = (
        played(11, variant="rr", robust_weight=0.7, perturbation_radius=20.0) for _ in range(2)
    )  # a ball in which the loss counts
    [(batch, noise)] = one.draw(1)
    one.update_eager(batch, noise)
    nets = other.nets
    y, q = nets.td_target(batch, noise.target), nets.critic(batch.obs, batch.action)
    ball = Ball(other.config.perturbation_radius, "inf", other.obs_scale)
    robust = regulariser(nets.critic, nets.policy, batch, q, ball, other.config, None)
    loss = (q - y).square().mean(1).sum() + 0.7 * robust
    before = copy.deepcopy(list(nets.policy.parameters()))
    nets.critic_optimiser.zero_grad()
    nets.policy.zero_grad()
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for p in nets.policy.parameters())
    nets.critic_optimiser.step()
    assert_close(list(nets.critic.parameters()), list(one.nets.critic.parameters()))
    for ours, theirs in zip(nets.critic.parameters(), one.nets.critic.parameters(), strict=True):
        assert_close(ours.grad, theirs.grad)
    assert any(not torch.equal(a, b) for a, b in zip(before, one.policy.parameters(), strict=True))


def test_the_scale_of_the_ball_is_the_spread_of_what_was_seen():
    agent = played(11)
    rows = agent.replay.unpack(agent.replay.rows[:10])  # what the model of step 10 was trained on
    assert_close(agent.obs_scale, rows.obs.std(0, correction=0))
    assert_close(played(11, scale="raw").obs_scale, torch.ones(OBS))


# --- the loop --------------------------------------------------------------------------------------------------------


def test_a_batch_is_twelve_real_and_244_imagined_rows():
    agent = played(11, batch_size=256, real_ratio=0.05)
    agent.replay.rows.fill_(1.0)
    agent.imagination.replay.rows.fill_(2.0)
    for batch, noise in agent.draw(3):
        assert batch.reward.eq(1).nonzero().flatten().tolist() == list(range(12))
        assert batch.reward.eq(2).sum() == 244
        assert (noise.policy.shape, noise.attack.numel()) == ((256, ACT), 0)
    with pytest.raises(ValueError, match="leaves no real transition"):
        make_config(batch_size=19, real_ratio=0.05)


def test_updates_drawn_together_share_nothing():
    drawn = played(11, variant="rr", attack="uniform", batch_size=64).draw(3)
    for tensors in zip(*(leaves(one) for one in drawn), strict=True):
        if tensors[0].unique().numel() > 1:  # no row of the tiny task is terminal
            assert not any(torch.equal(a, b) for a, b in itertools.combinations(tensors, 2))
    assert [noise.attack.shape for _, noise in drawn] == [(2, 64, OBS)] * 3


def test_without_real_rows_every_row_is_from_a_model_rollout():
    agent = played(11, real_ratio=0.0)
    agent.imagination.replay.rows.fill_(2.0)
    assert all(bool(batch.reward.eq(2).all()) for batch, _ in agent.draw(2))


def test_time_outs_are_no_ends_and_the_next_state_is_the_true_one():
    agent = played(20)  # the tiny task cuts every episode at its seventh step
    rows = agent.replay.unpack(agent.replay.rows[: len(agent.replay)])
    assert not rows.terminated.any()
    move = torch.nn.functional.pad(0.1 * rows.action, (0, OBS - ACT))
    assert_close(rows.next_obs, rows.obs + move)


def test_models_rollouts_updates_and_measurements_come_when_they_are_due():
    """random 10, interval 6, G = 2, epoch 12: models before steps 11, 17, 23; measured at multiples of 4 from 12 on."""
    agent = make_agent(rollout_schedule=(0, 2, 1, 3))
    trained, updates, lengths, diagnosed = [], [], [], []
    for step in range(1, 41):
        progress = agent.step()
        updates.append(progress.updates)
        if "model_loss" in progress.metrics:
            trained.append(step)
            lengths.append(float(progress.metrics["rollout_length"]))
        if "lip_upper" in progress.metrics:
            diagnosed.append(step)
    assert trained == [11, 17, 23, 29, 35]
    assert updates == [0] * 10 + [2] * 30
    assert lengths == [1, 1, 2, 2, 3]
    assert diagnosed == [12, 16, 20, 24, 28, 32, 36, 40]
    assert [n for n in range(10) if crosses(n, n + 3, 4)] == [1, 2, 3, 5, 6, 7, 9]


def test_every_environment_counts_its_steps():
    agent = make_agent(num_envs=3)
    progress = [agent.step() for _ in range(6)]
    assert [p.updates for p in progress] == [0, 0, 0, 0, 6, 6]  # 12 steps are 10 random ones
    assert [p.env_steps for p in progress] == [3] * 6


def test_nothing_is_learned_from_an_empty_imagination():
    agent = make_agent()
    agent.imagination.termination = lambda obs, action, next_obs: torch.ones(len(obs), dtype=torch.bool)
    agent.model.predict = lambda obs, action, generator: (obs[:, 0] * torch.nan, obs)  # type: ignore[method-assign]
    for _ in range(11):
        progress = agent.step()
    assert progress.updates == 0
    assert float(progress.metrics["rollout_dropped"]) == 12


def test_a_fixed_temperature_stays():
    agent = played(14, learn_alpha=False, initial_alpha=0.2)
    assert_close(agent.nets.alpha, torch.tensor(0.2))
    assert not torch.equal(played(14, initial_alpha=0.2).nets.alpha, torch.tensor(0.2))


def test_recorded_data_trains_the_model_and_nothing_else(monkeypatch):
    agent = make_agent(data=make_data(40), offline_rows=7)
    sizes = []
    train = agent.model.train
    monkeypatch.setattr(agent.model, "train", lambda rows: (sizes.append(len(rows.reward)), train(rows))[1])
    for _ in range(18):
        agent.step()
    assert sizes == [10 + 40, 16 + 7]
    assert len(agent.replay) == 18
    other = make_agent(1, data=make_data(40), offline_rows=7)
    other.load_state_dict(agent.state_dict())
    assert same(other.state_dict(), agent.state_dict())


def test_measuring_changes_nothing():
    one, other = (make_agent(variant="pe", diagnose_every=every) for every in (3, 1000))
    for _ in range(20):
        one.step()
        other.step()
    states = [agent.state_dict() for agent in (one, other)]
    for state in states:
        state.pop("diagnose_generator")
    assert same(*states)


@pytest.mark.parametrize("changes", [*({"variant": variant} for variant in VARIANTS), {"attack": "uniform"}], ids=str)
@pytest.mark.parametrize("stop", [4, 13])  # among the random steps; in the middle of a model's interval
def test_a_run_that_stops_anywhere_goes_on_as_the_same_run(changes, stop):
    straight = played(stop, **changes)
    state = copy.deepcopy(straight.state_dict())
    resumed = make_agent(1, **changes)
    resumed.load_state_dict(state)
    for _ in range(8):
        straight.step()
        resumed.step()
    assert same(straight.state_dict(), resumed.state_dict())


# --- what is measured ------------------------------------------------------------------------------------------------


def test_a_coordinate_that_never_moves_has_its_own_unit():
    agent = played(40, random_steps=38, diagnose_rows=30)
    agent.obs_scale[1] = 0.0
    agent.model.predict = lambda obs, action, generator: (obs[:, 0], obs.clone())  # type: ignore[method-assign]
    agent.replay.rows[: len(agent.replay)] = 0.0
    agent.replay.unpack(agent.replay.rows).next_obs[:, 1] = 0.25
    assert_close(agent.diagnose()["model_error"], torch.tensor(0.25 / OBS**0.5))


def test_the_measurements_by_hand():
    """A value linear in s and a model that is off by a known shift."""
    agent = played(40, random_steps=38, diagnose_rows=30)
    shift = torch.tensor([0.5, 0.0, 0.0])
    index = torch.randint(len(agent.replay), (30,), generator=copy.deepcopy(agent.diagnose_generator))
    rows = agent.replay.unpack(agent.replay.rows[index])
    agent.model.predict = lambda obs, action, generator: (rows.reward, rows.next_obs + shift)  # type: ignore[method-assign]
    v = [state_value(agent.nets.critic, agent.policy, x) for x in (rows.next_obs, rows.next_obs + shift)]
    measured = agent.diagnose()
    error = (v[1] - v[0]).square().mean()
    assert_close(measured["value_aware_error"], error.log())
    assert_close(measured["value_aware_error_relative"], (error / v[0].var()).log())
    assert_close(measured["model_error"], (0.5 / agent.obs_scale[0] / OBS**0.5))
    x = rows.obs.clone().requires_grad_()
    slopes = torch.autograd.grad(agent.nets.critic(x, agent.policy.mode(x)).amin(0).sum(), x)[0].norm(dim=1)
    assert_close(measured["lip_local"], slopes.mean())
    assert_close(measured["lip_local_p99"], slopes.quantile(0.99))
    assert measured["lip_local_p99"] < slopes.max()
    assert measured["lip_ball"] <= measured["lip_upper"].exp() * 2  # the policy's factor, for so small a policy


def test_the_value_is_the_least_of_the_critics_at_the_policys_own_action():
    agent = played(11)
    obs = torch.randn(5, OBS, generator=torch.Generator().manual_seed(0))
    q = agent.nets.critic(obs, agent.act(obs))
    assert_close(state_value(agent.nets.critic, agent.policy, obs), torch.minimum(q[0], q[1]))


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "xx"}, "--agent.variant must be one of pe, de, sp, sd, rr, sn"),
        ({"perturbation_radius": -0.1}, "--agent.perturbation-radius must be at least 0"),
        ({"perturbation_radius": float("nan")}, "--agent.perturbation-radius must be at least 0"),
        ({"perturbation_radius": float("inf")}, "--agent.perturbation-radius must be at least 0"),
        ({"robust_weight": -1.0}, "--agent.robust-weight must be at least 0"),
        ({"spectral_bound": 0.0}, "--agent.spectral-bound must be positive"),
        ({"spectral_bound": float("inf")}, "--agent.spectral-bound must be positive"),
        ({"rollout_schedule": (20, 20, 1, 1)}, "--agent.rollout-schedule must be"),
        ({"rollout_schedule": (20, 150, 3, 2)}, "--agent.rollout-schedule must be"),
        ({"real_ratio": 1.5}, "--agent.real-ratio must be in"),
        ({"updates_per_step": 0}, "--agent.updates-per-step must be at least 1"),
        ({"random_steps": 1}, "--agent.random-steps must be at least 2"),
        ({"power_iterations": 0}, "--agent.power-iterations must be at least 1"),
        ({"model_output": "gaussian"}, "--agent.model-output must be nll_mean or mse"),
        ({"elites": 9, "variant": "pe"}, "--agent.elites must be at most"),
        ({"centre": "next_obs"}, "--agent.reference policy"),
        ({"gamma": 1.1}, "--agent.gamma must be"),
    ],
)
def test_numbers_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_config(**changes)


@pytest.mark.parametrize(
    ("spaces", "message"),
    [
        (Spaces(gym.spaces.Box(0, 255, (8, 8, 3), np.uint8), gym.spaces.Box(-1, 1, (2,))), "vector .* observations"),
        (Spaces(gym.spaces.Box(-1, 1, (3,)), gym.spaces.Discrete(4)), "continuous .* action"),
    ],
)
def test_images_and_discrete_actions_are_refused(spaces, message):
    with pytest.raises(ValueError, match=message):
        LipschitzMBRL(make_config(), replace(make_setting(), spaces=spaces, data=None))


def test_a_setting_without_a_termination_rule_is_refused():
    with pytest.raises(ValueError, match="needs `termination`, the task's termination function"):
        LipschitzMBRL(make_config(), replace(make_setting(), data=None, termination=None))


# --- presets ---------------------------------------------------------------------------------------------------------

TABLE = {  # §10: schedule, target entropy, G, F, retained epochs, width of the model, epoch length
    "hopper": ((20, 150, 1, 15), -1, 20, 250, 1, 200, 1000),
    "walker2d": ((20, 150, 1, 1), -3, 20, 250, 1, 200, 1000),
    "halfcheetah": ((20, 150, 1, 1), -3, 40, 250, 1, 200, 1000),
    "ant": ((20, 100, 1, 25), -4, 20, 250, 1, 200, 1000),
    "humanoid": ((20, 300, 1, 25), -2, 20, 1000, 5, 400, 1000),
    "inverted-pendulum": ((20, 150, 1, 1), -0.05, 10, 250, 1, 200, 250),
}


@pytest.mark.parametrize("preset", TABLE)
def test_a_preset_holds_mbpos_values(preset):
    config = load_preset("mbpo", preset).agent
    shown = (config.rollout_schedule, config.target_entropy, config.updates_per_step, config.model_interval)
    assert (*shown, config.retain_epochs, config.model_hidden[0], config.epoch_length) == TABLE[preset]
    assert (config.rollout_starts, config.batch_size, config.real_ratio, config.hidden) == (
        100_000,
        256,
        0.05,
        (256, 256),
    )


def test_the_demo_compares_variants_that_differ_in_nothing_else():
    ours, theirs = load_preset("mbpo", "demo"), load_preset("mbpo", "demo-sd")
    assert (ours.agent.variant, theirs.agent.variant) == ("rr", "sd")
    assert dataclasses.replace(ours.agent, variant="sd") == theirs.agent
    assert dataclasses.replace(ours, agent=theirs.agent, baselines=()) == theirs
    assert ours.baselines == ("mbpo/demo-sd",)
    assert ours.agent == dataclasses.replace(load_preset("mbpo", "pendulum").agent, variant="rr")
