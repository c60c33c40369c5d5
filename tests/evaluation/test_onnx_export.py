"""ONNX models act as the policy does: for every agent whose policy is a network, memory included."""

import json
import re
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from surefoot import agents, load_policy
from surefoot.agents.interface import Spaces
from surefoot.envs import EnvConfig, Physics, own_action_space, spaces_of
from surefoot.evaluation import onnx_export
from surefoot.evaluation.episodes import evaluate, make_act
from surefoot.evaluation.policies import AnyPolicy, fitted, load_any
from surefoot.training.cli.main import main

POLE = EnvConfig("InvertedPendulum-v5")


def opened(agent, task, **settings):
    """Return an untrained policy of an agent as it is opened from a file."""
    spec = agents.get(agent)
    config = replace(spec.default, **settings)
    spaces = Spaces(*spaces_of(task))
    torch.manual_seed(0)
    policy = spec.make_policy(config, spaces)
    for parameter in policy.parameters():
        parameter.data.normal_(0, 0.3)
    return AnyPolicy(make_act(policy), spaces, own_action_space(task), agent, agent, 0, task, policy, 0)


@pytest.fixture
def plainly(monkeypatch):
    """Let the policies of these tests, which come from no file, be exported as they are."""
    monkeypatch.setattr(onnx_export, "_eager", lambda path, checkpoint: plainly_policy[0])
    plainly_policy = [None]

    def use(policy):
        plainly_policy[0] = policy.policy
        return policy

    return use


def session_of(path):
    onnx.checker.check_model(onnx.load(path))
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def test_a_run_becomes_a_model_in_the_tasks_own_units(make_run, tmp_path, capsys):
    run, out = make_run("a", env=POLE), tmp_path / "sub" / "policy.onnx"
    assert main(["export", str(run), str(out)]) == 0
    assert "from obs to action" in capsys.readouterr().out
    obs = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    (given,) = session_of(out).run(None, {"obs": obs})
    wanted = load_policy(run).predict(obs)
    assert np.abs(wanted).max() > 0.01
    np.testing.assert_allclose(given, wanted, rtol=0, atol=3e-6)  # 1e-6 of the action bound
    (single,) = session_of(out).run(None, {"obs": obs[:1]})
    np.testing.assert_allclose(single, wanted[:1], atol=1e-6)
    known = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    assert json.loads(known["action"]) == {"shape": [1], "low": [-3.0], "high": [3.0]}
    assert json.loads(known["observation_names"])[1:3] == ["position of hinge", "velocity of slider"]
    assert json.loads(known["observation_units"]) == ["m", "rad", "m/s", "rad/s"]
    assert json.loads(known["action_names"]) == ["slide"]
    assert json.loads(known["stressed_in"]) == []
    assert known["task"] == "InvertedPendulum-v5"


CHANGED = EnvConfig(
    "InvertedPendulum-v5",
    Physics(gravity=2.0, parameters=("control_delay=1",)),
    max_episode_steps=9,
    action_repeat=2,
    time_aware=True,
    action_bound=0.5,
    kwargs={"reset_noise_scale": 0.2},
)


def test_a_model_is_measured_in_the_task_of_its_run(make_run, tmp_path):
    run, out = make_run("a", env=CHANGED), tmp_path / "policy.onnx"
    assert main(["export", str(run), str(out)]) == 0
    model, policy = load_any(out), load_any(run)
    assert model.env_config == policy.env_config == replace(CHANGED, physics=Physics())
    assert (model.step, policy.step) == (100, 100)
    model = fitted(model, model.env_config)
    returns = [evaluate(one.act, policy.env_config, episodes=3, seed=0).returns for one in (model, policy)]
    np.testing.assert_allclose(*returns, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON; export it anew"),
        ("3", "env holds settings of its own, found 3"),
        ('{"code": "import os"}', "unknown key 'env.code'"),
        ('{"num_envs": "many"}', "env.num_envs"),
        ('{"action_repeat": 0}', "--env.action-repeat is 0"),
    ],
)
def test_a_model_with_a_task_that_is_none_is_refused_in_one_line(text, message, make_run, tmp_path, capsys):
    out = tmp_path / "policy.onnx"
    assert main(["export", str(make_run("a", env=POLE)), str(out)]) == 0
    model = onnx.load(out)
    (entry,) = [entry for entry in model.metadata_props if entry.key == "env"]
    entry.value = text
    onnx.save(model, out)
    with pytest.raises(ValueError, match=re.escape(f"{out}: 'env' in its metadata: ")) as raised:
        load_any(out)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("step", "read"), [("7", 7), ("", 0), ("-1", 0), ("many", 0), ("9" * 40, 0), ("\u0663", 0)])
def test_a_model_that_names_no_task_and_no_step_is_opened_all_the_same(step, read, make_run, tmp_path):
    out = tmp_path / "policy.onnx"
    assert main(["export", str(make_run("a", env=POLE)), str(out)]) == 0
    model = onnx.load(out)
    for entry in list(model.metadata_props):
        if entry.key == "env":
            model.metadata_props.remove(entry)
        elif entry.key == "step":
            entry.value = step
    onnx.save(model, out)
    opened_again = load_any(out)
    assert (opened_again.env_config, opened_again.step) == (POLE, read)


@pytest.mark.parametrize(
    ("agent", "task", "settings"),
    [
        ("td3-bc", POLE, {"hidden": (8,)}),
        ("bc", POLE, {"hidden": (8,)}),
        ("hnpg", EnvConfig("CartPole-v1"), {"policy_hidden": (8,)}),
        ("hnpg", EnvConfig("CartPole-v1", time_aware=True), {"policy_hidden": (8,), "horizon": 5}),
    ],
)
def test_networks_without_a_memory(agent, task, settings, plainly, tmp_path):
    policy = plainly(opened(agent, task, **settings))
    path = onnx_export.export(policy, tmp_path / "a.onnx", {})
    obs = torch.randn(50, policy.spaces.observation.shape[0])
    (given,) = session_of(path).run(None, {"obs": obs.numpy()})
    wanted = policy.act(obs)
    assert len(np.unique(given)) > 1
    scale = 3.0 if task is POLE else 1.0
    np.testing.assert_allclose(given, scale * wanted.numpy(), atol=3e-6)


@pytest.mark.parametrize(
    "gate",
    [
        {},
        {"gate_memory": 0.6, "gate_choice": "accurate"},
        {"gate_memory": 0.6, "gate_first": "default"},
        {"gate_memory": 0.6, "gate_first": "searched"},
    ],
)
def test_iwocs_goes_on_from_the_steps_before(gate, plainly, tmp_path):
    policy = opened("iwocs", POLE, hidden=(8,), entropy_free_hidden=(8,), iterations=2, **gate)
    policy.policy.usual.copy_(torch.tensor([1.0, 1.2]))
    policy.policy.used.fill_(2)
    policy.policy.first.fill_(1)  # who acts first by a search
    policy.policy.rho.fill_(3.0)  # some foreseen, some not
    policy = plainly(policy)._replace(act=make_act(policy.policy))
    session = session_of(onnx_export.export(policy, tmp_path / "a.onnx", {}))
    generator, rows = np.random.default_rng(0), 30
    state = {"previous_obs": np.zeros((rows, 4)), "previous_action": np.zeros((rows, 1)), "fresh": np.ones(rows)}
    state |= {"trace": np.zeros((rows, 3))} if gate else {}
    for _ in range(6):
        obs = generator.normal(size=(rows, 4)).astype(np.float32)
        inputs = {"obs": obs, **{name: value.astype(np.float32) for name, value in state.items()}}
        action, before, chosen, *trace = session.run(None, inputs)
        wanted = policy.act(torch.from_numpy(obs))
        np.testing.assert_allclose(action, 3 * wanted.numpy(), atol=3e-6)
        ended = generator.random(rows) < 0.3
        policy.act.observe(torch.zeros(rows), torch.from_numpy(ended))
        state = {"previous_obs": before, "previous_action": chosen, "fresh": ended.astype(np.float32)}
        state |= {"trace": trace[0]} if gate else {}
    assert (policy.act.fractions > 0.05).all()  # the gate decided something


@pytest.mark.parametrize("first", [{}, {"gate_first": "searched"}])
def test_iwocs_goes_on_among_the_models_that_explain_an_episode(first, plainly, tmp_path):
    settings = {"hidden": (8,), "entropy_free_hidden": (8,), "iterations": 2, "gate": "models", "gate_tolerance": 0.5}
    policy = opened("iwocs", POLE, **settings, **first)
    policy.policy.first.fill_(1 if first else -1)
    gate = policy.policy.open_models(torch.tensor([[-1.0, 0.0], [0.0, 1.0], [1.0, -1.0]]))
    for known in (gate.values, gate.lowest):
        known.copy_(torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [1.0, 1.0, 0.0]]))
    for parameter in gate.predictor.parameters():
        parameter.normal_(0, 0.3)
    policy.policy.deploy(2)
    policy = plainly(policy)._replace(act=make_act(policy.policy))
    session = session_of(onnx_export.export(policy, tmp_path / "a.onnx", {}))
    generator, rows = np.random.default_rng(0), 30
    state = {"previous_obs": np.zeros((rows, 4)), "previous_action": np.zeros((rows, 1)), "fresh": np.ones(rows)}
    state |= {"trace": np.zeros((rows, 3)), "who": np.zeros(rows)}
    for _ in range(6):
        obs = generator.normal(size=(rows, 4)).astype(np.float32)
        inputs = {"obs": obs, **{name: value.astype(np.float32) for name, value in state.items()}}
        action, before, chosen, trace, who = session.run(None, inputs)
        wanted = policy.act(torch.from_numpy(obs))
        np.testing.assert_allclose(action, 3 * wanted.numpy(), atol=3e-6)
        ended = generator.random(rows) < 0.3
        policy.act.observe(torch.zeros(rows), torch.from_numpy(ended))
        state = {"previous_obs": before, "previous_action": chosen, "fresh": ended, "trace": trace, "who": who}
    assert (policy.act.fractions > 0.01).all()  # everyone acted somewhere


def test_dhn_goes_on_with_its_stock(plainly, tmp_path):
    fork = EnvConfig("surefoot/Fork-v0")
    policy = opened("dhn", fork, hidden=(8,), quantiles=4, stock_range=(-5.0, 1.0), objective="cvar(0.5)")
    policy = plainly(policy)._replace(act=make_act(policy.policy))
    session = session_of(onnx_export.export(policy, tmp_path / "a.onnx", {}))
    start = onnx_export._best_start(make_act(policy.policy), fork)
    act = policy.policy.stateful(None, start)
    generator, rows, width = np.random.default_rng(0), 40, policy.spaces.observation.shape[0]
    state = {"stock": np.zeros(rows), "reward": np.zeros(rows), "fresh": np.ones(rows)}
    seen = set()
    for _ in range(5):
        obs = np.eye(width, dtype=np.float32)[generator.integers(0, width, rows)]
        inputs = {"obs": obs, **{name: value.astype(np.float32) for name, value in state.items()}}
        action, stock = session.run(None, inputs)
        np.testing.assert_array_equal(action, act(torch.from_numpy(obs)).numpy())
        reward, ended = generator.normal(size=rows).astype(np.float32), generator.random(rows) < 0.2
        act.observe(torch.from_numpy(reward), torch.from_numpy(ended))
        state = {"stock": stock, "reward": reward, "fresh": ended.astype(np.float32)}
        seen |= set(action.tolist())
    assert len(seen) > 1


def test_the_stock_that_dhn_begins_with_is_searched_in_the_task_of_the_run(plainly, tmp_path):
    lake = EnvConfig("FrozenLake-v1", flatten=True)
    policy = opened("dhn", lake, hidden=(8,), quantiles=4, stock_range=(-5.0, 1.0), objective="cvar(0.5)")
    policy = plainly(policy)._replace(act=make_act(policy.policy))
    onnx_export.export(policy, tmp_path / "a.onnx", {})
    starts = torch.eye(16)[:1].expand(onnx_export.STARTS, -1)  # one-hot: every episode begins in the first field
    wanted = policy.policy.outer(starts, policy.act.objective).stock
    assert onnx_export._best_start(policy.act, lake) == wanted


def test_what_cannot_be_exported_is_one_line_and_leaves_no_file(make_run, tmp_path, capsys):
    run = make_run("a", env=POLE)
    assert main(["export", str(run), str(tmp_path / "policy.pt")]) == 2
    assert "ends in .onnx" in capsys.readouterr().err
    policy = load_any(run)
    numpy_only = policy._replace(policy=None, act=lambda obs: torch.as_tensor(np.sin(obs.numpy()[:, :1])))
    with pytest.raises(ValueError, match=r"other actions than the policy|no network to export"):
        onnx_export.export(numpy_only, tmp_path / "b.onnx", {})
    assert not list(tmp_path.glob("*.onnx"))


def test_what_float32_rounds_coarser_is_allowed_and_nothing_beyond(tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 256), torch.nn.Tanh(), torch.nn.Linear(256, 1)).requires_grad_(
        False
    )
    policy = opened("bc", POLE, hidden=(8,))._replace(policy=None, act=lambda obs: 100 * network(obs))
    path, module = onnx_export.export(policy, tmp_path / "a.onnx", {}), onnx_export.deployed(policy)
    assert onnx_export.TOLERANCE < onnx_export.difference_of(path, module, policy) < onnx_export.COARSEST
    monkeypatch.setattr(onnx_export, "COARSEST", 0)
    with pytest.raises(ValueError, match="other actions than the policy"):
        onnx_export.export(policy, tmp_path / "b.onnx", {})


class Faulty(torch.nn.Module):
    """A policy with a memory, of which one output is the root of an observation, NaN below 0."""

    signature = onnx_export.Signature({"stock": 0}, {"next_stock": 0})

    def __init__(self, wrong):
        super().__init__()
        self.wrong = wrong

    def forward(self, obs, stock):
        root = obs[:, 0].sqrt() if self.wrong != "infinite" else 1 / obs[:, 0].relu()
        return (root[:, None], stock + 1) if self.wrong == "action" else (obs[:, :1], stock + root)


@pytest.mark.parametrize("wrong", ["action", "next_stock"])
def test_what_is_not_finite_is_no_agreement(wrong, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "deployed", lambda policy, checkpoint: Faulty(wrong))
    with pytest.raises(
        ValueError, match="its actions, or those of its ONNX graph, are not finite; nothing was written"
    ):
        onnx_export.export(opened("bc", POLE, hidden=(8,)), tmp_path / "a.onnx", {})
    assert not list(tmp_path.glob("*.onnx"))


def test_a_memory_that_is_infinite_in_both_is_an_agreement(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_export, "deployed", lambda policy, checkpoint: Faulty("infinite"))
    assert onnx_export.export(opened("bc", POLE, hidden=(8,)), tmp_path / "a.onnx", {}).is_file()


@pytest.mark.parametrize("agent", ["iwocs", "dhn"])
def test_a_model_with_a_memory_is_loaded_back_and_plays_the_same_episodes(agent, plainly, tmp_path):
    if agent == "iwocs":
        task, settings = POLE, {"hidden": (8,), "entropy_free_hidden": (8,), "iterations": 2}
    else:
        task, settings = EnvConfig("surefoot/Fork-v0"), {"hidden": (8,), "quantiles": 4, "stock_range": (-5.0, 1.0)}
    policy = opened(agent, task, **settings)
    if agent == "iwocs":
        policy.policy.used.fill_(2)
        policy.policy.rho.fill_(3.0)
    policy = plainly(policy)
    act = make_act(policy.policy)
    if agent == "dhn":
        act.start = onnx_export._best_start(act, task)
    path = onnx_export.export(policy, tmp_path / "a.onnx", {"task": task.id})
    loaded = load_policy(path)
    assert (loaded.stateful, loaded.needs_rewards) == (True, agent == "dhn")
    ours, theirs = (evaluate(one, task, episodes=12, seed=5, num_envs=4) for one in (act, loaded.act))
    np.testing.assert_allclose(theirs.returns, ours.returns, rtol=1e-4)
    np.testing.assert_array_equal(theirs.lengths, ours.lengths)
    again = evaluate(loaded.act, task, episodes=12, seed=5, num_envs=4)  # nothing of the episodes before is left
    np.testing.assert_array_equal(again.returns, theirs.returns)
