"""The dynamics model: its losses by hand, what it learns of a known system, and how a training call ends.

Exact answers E10 to E13, E17 and E19 of docs/derivations/lipschitz_mbrl.md.
"""

import copy
import dataclasses
import math

import pytest
import torch
from tiny import make_batch, make_setting
from torch.testing import assert_close

from surefoot.agents.interface import Batch
from surefoot.agents.lipschitz_mbrl.dynamics import (
    MODEL_RANGES,
    DynamicsConfig,
    DynamicsNet,
    bound_term,
    bounded_log_var,
    check_model,
    gaussian_loss,
    model_inputs,
    model_target,
    squared_error,
    truncated_normal_,
)
from surefoot.agents.lipschitz_mbrl.dynamics_training import DynamicsModel, deal, draw_rows, split_rows
from surefoot.agents.parts.networks import StackedMLP

SMALL = DynamicsConfig(model_hidden=(16, 16), model_decay=(1e-4, 1e-4, 1e-4), model_batch_size=16, model_epochs=6)
GAUSSIAN = dataclasses.replace(SMALL, ensemble_size=3, elites=2, model_output="gaussian")
A, B, NOISE = torch.tensor([[0.9, 0.2], [-0.1, 0.8]]), torch.tensor([[0.5], [1.0]]), torch.tensor([0.1, 0.3])


@torch.no_grad()
def moments(model, x):
    """Return mean and log-variance (M, B, 1 + obs) of (r, s' − s) for the inputs, of all members."""
    return model.net(x, None)


def holdout_rmse(model):
    """Return the root of the elites' holdout error (1 + obs,): of the reward and of every change of state."""
    return model.error[model.elites].mean(0).sqrt()


def make_model(config=SMALL, obs_dim=3, action_dim=2, seed=0) -> DynamicsModel:
    return DynamicsModel(config, make_setting(seed), obs_dim, action_dim)


def linear_system(rows: int, seed: int) -> tuple[Batch, torch.Tensor]:
    """s' = As + Bu + noise of std (0.1, 0.3), reward s₀ + u; also the next states without the noise."""
    generator = torch.Generator().manual_seed(seed)
    obs = torch.randn(rows, 2, generator=generator)
    action = 2 * torch.rand(rows, 1, generator=generator) - 1
    clean = obs @ A.T + action @ B.T
    noise = NOISE * torch.randn(rows, 2, generator=generator)
    reward = obs[:, 0] + action[:, 0] + 0.2 * torch.randn(rows, generator=generator)
    return Batch(obs, action, reward, clean + noise, torch.zeros(rows)), clean


# --- the mathematics -------------------------------------------------------------------------------------------------


def test_the_target_has_the_reward_first_and_then_the_change_of_state():
    batch = make_batch(4)
    y = model_target(batch)
    assert_close(y[:, 0], batch.reward)
    assert_close(y[:, 1:], batch.next_obs - batch.obs)
    assert_close(model_inputs(batch.obs, batch.action)[:, :3], batch.obs)


def test_the_losses_by_hand():
    mean, log_var = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]]), torch.tensor([[[0.0, math.log(4.0)], [0.0, 0.0]]])
    target = torch.tensor([[[3.0, 2.0], [1.0, 2.0]]])
    # (4/1 + 0) + (4/4 + ln 4) + (1 + 0) + (0 + 0), over four numbers
    assert_close(gaussian_loss(mean, log_var, target), torch.tensor([(6.0 + math.log(4.0)) / 4]))
    assert_close(squared_error(mean, target), torch.tensor([9.0 / 4]))
    assert_close(bound_term(torch.tensor([[[-1.0, -2.0]]]), torch.tensor([[[0.5, 1.0]]])), torch.tensor([4.5]))


def test_the_gaussian_loss_is_the_negative_log_likelihood():
    generator = torch.Generator().manual_seed(0)
    mean, log_var, target = torch.randn(3, 2, 5, 4, generator=generator, dtype=torch.float64).unbind()
    density = torch.distributions.Normal(mean, (0.5 * log_var).exp()).log_prob(target)
    assert_close(gaussian_loss(mean, log_var, target), (-2 * density - math.log(2 * math.pi)).mean((-2, -1)))


def test_the_log_variance_stays_in_its_bounds_and_keeps_a_gradient():
    raw = torch.tensor([-1e3, -50.0, -10.0, -4.0, 0.0, 0.5, 50.0, 1e3], requires_grad=True)
    low, high = torch.full((8,), -10.0, requires_grad=True), torch.full((8,), 0.5, requires_grad=True)
    log_var = bounded_log_var(raw, low, high)
    assert log_var.min() >= -10.0
    assert log_var.max() <= 0.5 + 3e-5  # the second softplus lifts by e^(low − high)
    assert (log_var.diff() >= 0).all()
    log_var.sum().backward()
    for tensor in (raw, low, high):
        assert tensor.grad.isfinite().all()
    assert raw.grad[3] > 0.9  # in between it is nearly the identity
    assert low.grad[0] == 1.0
    assert high.grad[-1] > 0.99


def test_weights_start_truncated_normal_with_half_the_inverse_root_of_the_fan_in():
    weight = torch.empty(4, 100, 250)
    truncated_normal_(weight, torch.Generator().manual_seed(0))
    std = 0.5 / 10
    assert weight.abs().max() <= 2 * std
    # a normal cut at two standard deviations has 0.8796 of its spread
    assert_close(weight.std(), torch.tensor(0.8796 * std), rtol=0.01, atol=0)
    wide = dataclasses.replace(GAUSSIAN, model_hidden=(64, 64))
    net = DynamicsNet(wide, 3, 2, torch.Generator().manual_seed(0))
    assert all((bias == 0).all() for bias in net.biases)
    for weight in net.weights:
        assert_close(weight.std(), torch.tensor(0.8796 * 0.5 / weight.shape[1] ** 0.5), rtol=0.1, atol=0)


def test_decay_is_the_gradient_of_its_term():
    model, batch = make_model(), make_batch(16)
    plain = copy.deepcopy(model.net)
    x, y = model_inputs(batch.obs, batch.action)[None], model_target(batch)[None]
    model.update_eager(x, y)
    mean, log_var = plain(x)
    decay = sum(c * 0.5 * weight.square().sum() for c, weight in zip(SMALL.model_decay, plain.weights, strict=True))
    bounds = 0.01 * (plain.max_log_var - plain.min_log_var).sum()
    optimiser = torch.optim.Adam(plain.parameters(), lr=1e-3)
    (gaussian_loss(mean, log_var, y).sum() + bounds + decay).backward()
    optimiser.step()
    assert_close(list(model.net.parameters()), list(plain.parameters()), rtol=1e-5, atol=1e-7)


def test_decay_reaches_the_weights_of_its_own_layer_alone():
    model = make_model(dataclasses.replace(SMALL, model_decay=(1e-1, 2e-1, 3e-1)))
    found = {id(p): group["weight_decay"] for group in model.optimiser.param_groups for p in group["params"]}
    assert [found[id(weight)] for weight in model.net.weights] == [1e-1, 2e-1, 3e-1]
    assert {found[id(p)] for p in (*model.net.biases, model.net.min_log_var, model.net.max_log_var)} == {0.0}


def test_frozen_bounds_do_not_move():
    batch = make_batch(32)
    for learn in (True, False):
        model = make_model(dataclasses.replace(SMALL, learn_log_var_bounds=learn))
        model.train(batch)
        for bound, start in ((model.net.min_log_var, -10.0), (model.net.max_log_var, 0.5)):
            assert bool((bound != start).all()) is learn


def test_squared_error_leaves_the_variance_alone():
    model = make_model(dataclasses.replace(SMALL, model_output="mse"))
    before = model.net.weights[-1].detach().clone()
    batch = make_batch(16)
    model.update_eager(model_inputs(batch.obs, batch.action)[None], model_target(batch)[None])
    after = model.net.weights[-1].detach()
    assert not torch.equal(after[..., :4], before[..., :4])
    # Adam's decay is all that moves the unused half, and it moves every weight towards zero
    assert (after[..., 4:].abs() < before[..., 4:].abs()).all()
    assert torch.equal(model.net.min_log_var, torch.full_like(model.net.min_log_var, -10.0))


# --- what it learns ---------------------------------------------------------------------------------------------------


def test_a_gaussian_model_learns_mean_and_noise_of_a_linear_system():
    rows, _ = linear_system(4000, seed=0)
    config = DynamicsConfig(model_output="gaussian", model_hidden=(64,) * 4)
    model = make_model(config, 2, 1)
    x, y = model_inputs(rows.obs, rows.action), model_target(rows)
    model.net.fit_scaler(x)
    index = draw_rows(1, len(x), model.generator)
    for _ in range(30):
        model.epoch(torch.cat([x, y], -1), index)
    test, clean = linear_system(10_000, seed=1)
    mean, log_var = (field[0, :, 1:] for field in moments(model, model_inputs(test.obs, test.action)))
    rmse = (test.obs + mean - clean).square().mean(0).sqrt()
    assert rmse.max() <= 0.05
    assert_close((0.5 * log_var).exp().mean(0), NOISE, rtol=0.1, atol=0)
    z = (test.next_obs - test.obs - mean) * (-0.5 * log_var).exp()
    assert 0.9 <= z.square().mean() <= 1.15


@pytest.mark.parametrize("output", ["gaussian", "nll_mean", "mse"])
def test_every_kind_of_model_predicts_the_system_after_a_call(output):
    rows, _ = linear_system(2000, seed=0)
    model = make_model(DynamicsConfig(model_output=output, model_hidden=(32,) * 4), 2, 1)
    metrics = model.train(rows)
    test, clean = linear_system(2000, seed=1)
    reward, next_obs = model.predict(test.obs, test.action, torch.Generator().manual_seed(0))
    error = (next_obs - clean).square().mean(0).sqrt()
    error_of_reward = (reward - test.obs[:, 0] - test.action[:, 0]).square().mean().sqrt()
    if output == "gaussian":
        assert (error > NOISE).all()  # the samples carry the noise (a call ends when the mean is learned, not the std)
        assert error.max() < 0.6
    else:
        assert max(error.max(), error_of_reward) < 0.1
    assert metrics["model_holdout_mse"] < 0.07  # noise alone: (0.01 + 0.04 + 0.09)/3
    assert_close(holdout_rmse(model), torch.tensor([0.2, 0.1, 0.3]), rtol=0.2, atol=0)


def test_the_mean_alone_is_deterministic_and_the_gaussian_differs_by_its_std():
    batch = make_batch(20_000)
    alone, sampled = make_model(), make_model(dataclasses.replace(SMALL, model_output="gaussian"))
    generator = torch.Generator().manual_seed(0)
    first, second = (alone.predict(batch.obs, batch.action, generator) for _ in range(2))
    assert_close(first, second, rtol=0, atol=0)
    (r, s), (r2, s2) = (sampled.predict(batch.obs, batch.action, generator) for _ in range(2))
    _, log_var = moments(sampled, model_inputs(batch.obs, batch.action))
    scaled = torch.cat([(r2 - r)[:, None], s2 - s], -1) / (2**0.5 * (0.5 * log_var[0]).exp())
    assert_close(scaled.std(0), torch.ones(4), rtol=0.03, atol=0)


# --- members ----------------------------------------------------------------------------------------------------------


def test_a_stack_is_its_members_trained_one_by_one():
    rows = make_batch(64)
    x, y = model_inputs(rows.obs, rows.action), model_target(rows)
    stack = make_model(GAUSSIAN)
    stack.net.fit_scaler(x)
    singles = [make_model(dataclasses.replace(GAUSSIAN, ensemble_size=1, elites=1)) for _ in range(3)]
    for member, single in enumerate(singles):
        one = {name: value[member : member + 1] for name, value in stack.net.state_dict().items()}
        single.net.load_state_dict(one)
    for step in range(20):
        index = torch.randint(64, (3, 16), generator=torch.Generator().manual_seed(step))
        stack.update_eager(x[index], y[index])
        for member, single in enumerate(singles):
            single.update_eager(x[index[member : member + 1]], y[index[member : member + 1]])
    for member, single in enumerate(singles):
        for together, alone in zip(stack.net.parameters(), single.net.parameters(), strict=True):
            assert_close(together[member : member + 1], alone, rtol=1e-4, atol=1e-6)


def test_a_single_member_sees_every_row_once_an_epoch_and_several_bootstrap():
    generator = torch.Generator().manual_seed(0)
    assert_close(draw_rows(1, 50, generator), torch.arange(50)[None])
    drawn = draw_rows(4, 2000, generator)
    assert drawn.shape == (4, 2000)
    fraction = torch.tensor([len(row.unique()) / 2000 for row in drawn])
    assert_close(fraction, torch.full((4,), 1 - math.exp(-1)), rtol=0.05, atol=0)
    assert not torch.equal(drawn[0], drawn[1])


def test_an_epoch_visits_each_members_rows_in_a_new_order():
    model = make_model(GAUSSIAN)
    seen = []
    model.update = model.update_eager = lambda x, y: seen.append(x[..., 0]) or {"loss": x.mean()}
    table = torch.arange(40.0)[:, None].expand(40, 9)
    index = draw_rows(3, 40, torch.Generator().manual_seed(0))
    model.epoch(table, index)
    first, seen[:] = torch.cat(seen, 1), []
    model.epoch(table, index)
    second = torch.cat(seen, 1)
    assert [batch.shape for batch in seen] == [(3, 16), (3, 16), (3, 8)]
    assert_close(first.sort(1).values, index.sort(1).values.float())
    assert_close(second.sort(1).values, first.sort(1).values)
    assert not torch.equal(first, second)


def test_the_holdout_is_new_at_each_call_apart_from_the_rest_and_bounded():
    generator = torch.Generator().manual_seed(0)
    fit, held = split_rows(100, SMALL, generator)
    assert (len(fit), len(held)) == (80, 20)
    assert sorted(torch.cat([fit, held]).tolist()) == list(range(100))
    assert not torch.equal(split_rows(100, SMALL, generator)[1], held)
    assert len(split_rows(40_000, SMALL, generator)[1]) == 5000
    assert len(split_rows(2, SMALL, generator)[1]) == 1
    with pytest.raises(ValueError, match="on 1 rows; collect at least 2"):
        split_rows(1, SMALL, generator)


def test_rows_are_dealt_evenly_to_the_elites_and_each_meets_every_one():
    generator = torch.Generator().manual_seed(0)
    hands = deal(11, 4, generator)
    assert hands.shape == (4, 3)
    assert sorted(hands.flatten()[:11].tolist()) == list(range(11))
    assert deal(2, 5, generator).shape == (5, 1)
    met = torch.zeros(10, 5)
    for _ in range(2000):
        met[deal(10, 5, generator), torch.arange(5)[:, None]] += 1
    assert_close(met / 2000, torch.full((10, 5), 0.2), rtol=0, atol=0.04)


@pytest.mark.parametrize("rows", [2, 7, 20])
def test_a_prediction_is_that_of_the_elite_the_row_was_dealt_to(rows):
    model, batch = make_model(dataclasses.replace(GAUSSIAN, model_output="nll_mean")), make_batch(rows)
    model.elites = torch.tensor([2, 0])
    reward, next_obs = model.predict(batch.obs, batch.action, torch.Generator().manual_seed(3))
    hands = deal(rows, 2, torch.Generator().manual_seed(3))
    mean, _ = moments(model, model_inputs(batch.obs, batch.action))  # (3, rows, 4)
    for elite, hand in zip((2, 0), hands.flatten()[:rows].split(hands.shape[1]), strict=False):
        assert_close(reward[hand], mean[elite, hand, 0])
        assert_close(next_obs[hand], batch.obs[hand] + mean[elite, hand, 1:])


def test_the_holdout_error_is_that_of_each_members_mean_also_over_several_blocks():
    model, batch = make_model(GAUSSIAN), make_batch(2500)
    x, y = model_inputs(batch.obs, batch.action), model_target(batch)
    mean, _ = moments(model, x)
    assert_close(model.holdout_error(x, y), (y - mean).square().mean(1))
    model.error = torch.tensor([[9.0, 9.0], [1.0, 4.0], [3.0, 12.0]])
    model.elites = torch.tensor([1, 2])
    assert_close(holdout_rmse(model), torch.tensor([2.0, 8.0]).sqrt())


def test_elites_are_the_members_with_the_least_holdout_error(monkeypatch):
    model = make_model(GAUSSIAN)
    monkeypatch.setattr(model, "holdout_error", lambda x, y: torch.tensor([[0.5], [0.1], [0.3]]).expand(3, 4))
    metrics = model.train(make_batch(40))
    assert model.elites.tolist() == [1, 2]
    assert_close(metrics["model_holdout_mse"], torch.tensor(0.2))


# --- the scaler and the end of a call ---------------------------------------------------------------------------------


def test_the_scaler_standardises_what_varies_and_leaves_a_constant_alone():
    net = DynamicsNet(GAUSSIAN, 3, 2, torch.Generator().manual_seed(0))
    x = 4 * torch.randn(500, 5, generator=torch.Generator().manual_seed(1)) + 3
    x[:, 2] = 7.0
    assert_close(net(x)[0], StackedMLP.forward(net, x)[..., :4])  # nothing is known yet
    net.fit_scaler(x)
    assert net.input_std.shape == (3, 1, 5)
    assert (net.input_std[:, 0, 2] == 1.0).all()
    scaled = (x - net.input_mean[1]) / net.input_std[1]
    assert_close(scaled.mean(0), torch.zeros(5), rtol=0, atol=1e-5)
    assert_close(scaled.std(0, correction=0), torch.tensor([1.0, 1, 0, 1, 1]), rtol=1e-5, atol=1e-6)
    assert all(field.isfinite().all() for field in net(x))
    expected = StackedMLP.forward(net, scaled)
    assert_close(net(x)[0], expected[..., :4])


def test_training_scales_by_the_rows_that_are_not_held_out():
    model, batch = make_model(), make_batch(50)
    state = model.generator.get_state()
    model.train(batch)
    fit, _ = split_rows(50, SMALL, generator_at(state))
    x = model_inputs(batch.obs, batch.action)[fit]
    assert_close(model.net.input_mean[0, 0], x.mean(0))
    assert_close(model.net.input_std[0, 0], x.std(0, correction=0))


def generator_at(state):
    generator = torch.Generator()
    generator.set_state(state)
    return generator


def follow(model, errors):
    """Let a call see these holdout errors (E,), one per epoch, and mark every epoch in the weights of member e."""
    said = iter(errors)
    epochs = []

    def epoch(table, index):
        epochs.append(len(epochs) + 1)
        with torch.no_grad():
            model.net.biases[0].fill_(float(len(epochs)))
        return torch.tensor(0.0)

    model.epoch, model.holdout_error = epoch, lambda x, y: torch.tensor(next(said))[:, None].expand(-1, 4)
    return epochs


def test_a_call_ends_at_the_sixth_epoch_without_an_improvement_with_each_members_best_weights():
    model = make_model(dataclasses.replace(GAUSSIAN, model_epochs=50))
    model.train(make_batch(40))
    before = [9.0, 9.0, 9.0]
    errors = [[4.0, 2.0, 1.0], [3.0, 1.985, 1.0], [3.0, 1.97, 1.0]] + [[2.98, 1.96, 1.0]] * 20
    epochs = follow(model, [before, *errors])
    metrics = model.train(make_batch(40))
    # member 0 improved last in epoch 2 (2.98 is less than 1 % better), member 1 in epoch 3: 1.97 is 1.5 % below 2
    assert len(epochs) == metrics["model_epochs"] == 3 + 6
    assert model.net.biases[0][:, 0, 0].tolist() == [2.0, 3.0, 1.0]
    assert_close(model.error.mean(-1), torch.tensor([3.0, 1.97, 1.0]))


def test_a_call_ends_at_its_cap():
    model = make_model(dataclasses.replace(SMALL, model_epochs=4))
    model.train(make_batch(40))
    epochs = follow(model, [[9.0]] + [[0.5**i] for i in range(20)])
    model.train(make_batch(40))
    assert len(epochs) == 4
    assert model.net.biases[0].unique().tolist() == [4.0]


def test_the_weights_that_stay_have_the_error_that_is_recorded(monkeypatch):
    rows, _ = linear_system(500, seed=0)
    model = make_model(dataclasses.replace(SMALL, model_lr=0.02, model_epochs=30), 2, 1)
    held, errors, evaluate = [], [], model.holdout_error

    def record(x, y):
        held[:] = x, y
        errors.append(evaluate(x, y))
        return errors[-1]

    monkeypatch.setattr(model, "holdout_error", record)
    model.train(rows)
    assert_close(evaluate(*held), model.error)
    after_first = torch.stack(errors[1:])
    overall = after_first.mean(-1)
    assert model.error.mean() <= overall.min() / 0.99
    assert overall[-1] > model.error.mean()  # the last weights were not the best: else this test would be vacuous


def test_a_second_call_goes_on_from_the_first():
    rows, _ = linear_system(1000, seed=0)
    model = make_model(SMALL, 2, 1)
    model.train(rows)
    steps = float(next(iter(model.optimiser.state.values()))["step"])
    first, error = model.net.weights[0].detach().clone(), float(model.error.mean())
    seen = []
    update = model.update
    model.update = lambda x, y: seen.append(model.net.weights[0].detach().clone()) or update(x, y)
    model.train(rows)
    assert torch.equal(seen[0], first)
    assert float(next(iter(model.optimiser.state.values()))["step"]) > steps
    assert float(model.error.mean()) < 1.2 * error


def test_a_bad_call_keeps_the_former_weights_and_says_so():
    rows, _ = linear_system(400, seed=0)
    model = make_model(GAUSSIAN, 2, 1)
    assert model.train(rows)["model_members_put_back"] == 0
    kept = copy.deepcopy(model.state_dict())
    epoch = model.epoch

    def spoil(table, index):
        loss = epoch(table, index)
        with torch.no_grad():
            model.net.biases[-1][1] = torch.nan  # diverged
            model.net.biases[-1][2] += 1e3  # finite, and much worse
            for state in model.optimiser.state.values():
                state["exp_avg"][1] = torch.nan
        return loss

    model.epoch = spoil
    metrics = model.train(rows)
    assert metrics["model_members_put_back"] == 2
    for name, value in model.net.state_dict().items():
        assert_close(value[1:], kept["net"][name][1:], rtol=0, atol=0)
        if name.startswith(("weights", "input_mean")):
            assert not torch.equal(value[0], kept["net"][name][0])
    assert model.error.isfinite().all()
    assert all(moment.isfinite().all() for moment in model.moments())
    for now, before in zip(model.moments(), saved_moments(kept["optimiser"]), strict=True):
        assert_close(now[1:], before[1:], rtol=0, atol=0)
    model.epoch = epoch
    assert model.train(rows)["model_members_put_back"] == 0


def saved_moments(state):
    return [moments[name] for moments in state["state"].values() for name in ("exp_avg", "exp_avg_sq")]


def test_a_member_that_diverges_after_its_best_epoch_starts_the_next_call_with_sound_moments():
    rows, _ = linear_system(400, seed=0)
    model = make_model(SMALL, 2, 1)
    epoch, calls = model.epoch, []

    def spoil_later(table, index):
        calls.append(epoch(table, index))
        if len(calls) == 3:
            with torch.no_grad():
                model.net.weights[0].fill_(torch.inf)
        return calls[-1]

    model.epoch = spoil_later
    assert model.train(rows)["model_members_put_back"] == 0
    model.epoch = epoch
    assert all(tensor.isfinite().all() for tensor in (*model.tensors(), *model.moments()))
    assert model.train(rows)["model_members_put_back"] == 0


def test_a_first_call_that_diverges_leaves_the_start():
    model = make_model()
    start = copy.deepcopy(model.net.state_dict())
    batch = make_batch(40)._replace(reward=torch.full((40,), torch.inf))
    assert model.train(batch)["model_members_put_back"] == 1
    assert_close(model.net.state_dict(), start, rtol=0, atol=0)
    assert all((moment == 0).all() for moment in model.moments())
    assert model.train(make_batch(40))["model_members_put_back"] == 0


# --- state and settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [SMALL, GAUSSIAN])
def test_a_restored_model_goes_on_bit_for_bit(config):
    batch, more = make_batch(60), make_batch(90, seed=1)
    straight = make_model(config)
    straight.train(batch)
    straight.elites = torch.arange(config.ensemble_size).flip(0)[: config.elites]
    restored = make_model(config, seed=5)
    restored.load_state_dict(copy.deepcopy(straight.state_dict()))
    assert_close((restored.elites, restored.error), (straight.elites, straight.error), rtol=0, atol=0)
    for model in (straight, restored):
        model.train(more)
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    outputs = [m.predict(batch.obs, batch.action, g) for m, g in zip((straight, restored), generators, strict=True)]
    assert_close(*outputs, rtol=0, atol=0)
    assert_close(straight.net.state_dict(), restored.net.state_dict(), rtol=0, atol=0)
    assert torch.equal(straight.generator.get_state(), restored.generator.get_state())


def test_nothing_random_comes_from_elsewhere():
    batch = make_batch(60)
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        models.append(make_model(GAUSSIAN))
        models[-1].train(batch)
    assert_close(models[0].net.state_dict(), models[1].net.state_dict(), rtol=0, atol=0)


@pytest.mark.slow
def test_compiled_training_is_eager_training():
    rows, _ = linear_system(300, seed=0)
    models = [
        DynamicsModel(GAUSSIAN, dataclasses.replace(make_setting(), compile=compiled), 2, 1)
        for compiled in (False, True)
    ]
    for model in models:
        model.train(rows)
    assert_close(models[1].net.state_dict(), models[0].net.state_dict(), rtol=1e-3, atol=1e-4)


def test_a_graph_without_a_gpu_is_refused():
    with pytest.raises(ValueError, match="--cudagraph needs a CUDA device"):
        DynamicsModel(SMALL, dataclasses.replace(make_setting(), cudagraph=True), 3, 2)


@pytest.mark.gpu
def test_graphed_training_is_eager_training():
    rows = Batch(*(field.cuda() for field in linear_system(300, seed=0)[0]))
    models = []
    for graphed in (False, True):
        setting = dataclasses.replace(make_setting(), device=torch.device("cuda"), cudagraph=graphed)
        models.append(DynamicsModel(GAUSSIAN, setting, 2, 1))
        models[-1].train(rows)
    assert_close(models[1].net.state_dict(), models[0].net.state_dict(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"elites": 2}, "--agent.elites must be at most --agent.ensemble-size 1, not 2"),
        ({"model_hidden": (8,)}, "one number per layer, 2 for --agent.model-hidden, not 5"),
    ],
)
def test_settings_that_do_not_fit_each_other_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        check_model(dataclasses.replace(DynamicsConfig(), **changes))


def test_every_setting_has_a_range_and_its_default_lies_in_it():
    config = DynamicsConfig()
    names = {field.name for field in dataclasses.fields(config)}
    assert names - set(MODEL_RANGES) == {"learn_log_var_bounds"}
    assert set(MODEL_RANGES) <= names
    assert all(holds(getattr(config, name)) for name, (holds, _) in MODEL_RANGES.items())
    wrong = {"holdout_ratio": 1.0, "model_improvement": -0.1, "model_output": "sampled", "model_hidden": ()}
    wrong |= {"ensemble_size": 0, "model_lr": 0.0, "model_patience": -1, "model_decay": (-1e-5,)}
    assert not any(MODEL_RANGES[name][0](value) for name, value in wrong.items())
    other_ends = {"holdout_ratio": 0.0, "model_improvement": 1.0, "model_keep_factor": 0.0, "bound_weight": -1e-9}
    assert not any(MODEL_RANGES[name][0](value) for name, value in other_ends.items())
    assert MODEL_RANGES["model_improvement"][0](0.0)
