"""A run has one engine from its first step to its policy files, and says which."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import yaml
from sameness import assert_same_run

from surefoot import agents
from surefoot.agents.parts.engine import compute_by, engine_of, native
from surefoot.envs import EnvConfig
from surefoot.evaluation.policy_files import checkpoint_path, load_policy
from surefoot.evaluation.storage import load, save
from surefoot.training.cli.main import main
from surefoot.training.config.run import EvalConfig, RunConfig
from surefoot.training.loop.interrupt import StopRequest
from surefoot.training.loop.setup import resume
from surefoot.training.session import execute, train

pytestmark = pytest.mark.usefixtures("unrendered")

has_bf16 = pytest.mark.skipif(not native.bf16_capabilities(), reason="this processor has no bf16 products")
ENGINES = ["eager", "torch", "native", pytest.param("native-bf16", marks=has_bf16)]


@pytest.fixture
def sac():
    """Return a function that makes a tiny run of SAC under an engine."""
    torch.set_num_threads(1)
    spec = agents.get("sac")

    def make(engine: str, steps: int = 40) -> RunConfig:
        return RunConfig(
            agent=dataclasses.replace(spec.default, **{**spec.tiny, "hidden": (32, 32)}),
            env=EnvConfig(id="surefoot/Pendulum-v0", max_episode_steps=15),
            eval=EvalConfig(every=20, episodes=1),
            steps=steps,
            checkpoint_every=20,
            engine=engine.removesuffix("-bf16"),
            precision="bf16" if engine.endswith("-bf16") else "float32",
        )

    return make


@pytest.fixture
def without_kernels(monkeypatch):
    """Return the function that takes the native engine away from here on."""
    return lambda: monkeypatch.setattr(native, "_library", lambda precision: native.Unavailable("no kernels here"))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_run_names_its_engine_and_its_policy_acts_as_in_the_run(engine, sac, tmp_path):
    folder = train("sac", sac(engine), out=tmp_path, name="run")
    assert json.loads((folder / "meta.json").read_text())["engine"] == engine
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["engine"] == engine.removesuffix("-bf16")
    assert config["precision"] == ("bf16" if engine.endswith("-bf16") else "float32")
    path = checkpoint_path(folder, "step", 40)
    assert load(path)["engine"] == engine
    run, policy = resume(folder, "sac", sac(engine)), load_policy(folder).policy
    assert engine_of(run.agent.policy) == engine_of(policy) == engine
    for rows in (1, 7):
        obs = torch.randn(rows, 3, generator=torch.Generator().manual_seed(rows))
        assert torch.equal(policy.act(obs), run.agent.policy.act(obs))


def test_auto_is_resolved_in_meta_and_wanted_in_config(sac, tmp_path):
    folder = train("sac", sac("auto"), out=tmp_path, name="run")
    assert json.loads((folder / "meta.json").read_text())["engine"] == "native"
    assert yaml.safe_load((folder / "config.yaml").read_text())["engine"] == "auto"


@pytest.mark.parametrize("engine", ENGINES)
def test_a_resumed_run_is_the_straight_run(engine, sac, tmp_path):
    straight = train("sac", sac(engine, 40), out=tmp_path, name="straight")
    parts = train("sac", sac(engine, 20), out=tmp_path, name="parts")
    execute(resume(parts, "sac", sac(engine, 40)), StopRequest())
    assert_same_run(straight, parts, 40)


def test_auto_without_kernels_is_pytorch_with_one_line(sac, tmp_path, capsys, without_kernels):
    without_kernels()
    folder = train("sac", sac("auto", 20), out=tmp_path, name="run")
    assert json.loads((folder / "meta.json").read_text())["engine"] == "torch"
    lines = [line for line in "".join(capsys.readouterr()).splitlines() if "no kernels here" in line]
    assert lines == ["note: no kernels here; updates run in PyTorch, at about half the speed"]


def test_a_resumed_run_keeps_its_engine_or_is_refused(sac, tmp_path, without_kernels):
    folder = train("sac", sac("auto", 20), out=tmp_path, name="run")
    without_kernels()
    with pytest.raises(ValueError, match=r"began with --engine native, and a run keeps its engine: no kernels here"):
        resume(folder, "sac", sac("auto"))
    other = train("sac", sac("auto", 20), out=tmp_path, name="other")  # PyTorch's
    assert resume(other, "sac", sac("auto")).engine == "torch"
    assert engine_of(load_policy(folder).policy) == "eager"  # a policy acts anywhere


def test_a_run_that_began_in_pytorch_stays_there(sac, tmp_path, monkeypatch, without_kernels):
    with monkeypatch.context() as then:
        then.setattr(native, "_library", lambda precision: native.Unavailable("no kernels here"))
        folder = train("sac", sac("auto", 20), out=tmp_path, name="run")
    assert resume(folder, "sac", sac("auto")).engine == "torch"


def test_another_engine_is_refused_on_resume(sac, tmp_path):
    folder = train("sac", sac("torch", 20), out=tmp_path, name="run")
    with pytest.raises(ValueError, match="engine was 'torch', not 'native'"):
        resume(folder, "sac", sac("native"))


@has_bf16
def test_another_precision_is_refused_on_resume(sac, tmp_path):
    for one, other in (("native", "native-bf16"), ("native-bf16", "native")):
        folder = train("sac", sac(one, 20), out=tmp_path, name=one)
        with pytest.raises(ValueError, match=r"precision was '(bf16|float32)', not '(bf16|float32)'"):
            resume(folder, "sac", sac(other))


@has_bf16
def test_a_run_in_bf16_is_refused_where_there_are_no_such_products_and_its_policy_acts(sac, tmp_path, without_kernels):
    folder = train("sac", sac("native-bf16", 20), out=tmp_path, name="run")
    without_kernels()
    with pytest.raises(ValueError, match=r"began with --precision bf16, and a run keeps its engine: no kernels here"):
        resume(folder, "sac", sac("native-bf16"))
    assert engine_of(load_policy(folder).policy) == "eager"


@has_bf16
def test_a_policy_in_bf16_differs_from_that_of_float32(sac, tmp_path):
    run = resume(train("sac", sac("native-bf16", 20), out=tmp_path, name="run"), "sac", sac("native-bf16", 20))
    obs = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    found = run.agent.policy.act(obs)
    compute_by("native", run.agent.policy)
    exact = run.agent.policy.act(obs)
    assert not torch.equal(found, exact)
    torch.testing.assert_close(found, exact, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("engine", ["torch", "eager"])
def test_bf16_is_refused_with_another_engine(engine, sac, tmp_path):
    config = dataclasses.replace(sac(engine), precision="bf16")
    with pytest.raises(ValueError, match=f"bf16 is the native engine's, which --engine {engine} is not; leave one of"):
        train("sac", config, out=tmp_path, name="run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "asked_for"),
    [
        ("trpo", {"engine": "native"}),
        ("trpo", {"engine": "torch"}),
        ("neusquarecb", {"engine": "torch"}),  # which has a kernel of its own in native
        pytest.param("trpo", {"precision": "bf16"}, marks=has_bf16),
        pytest.param("neusquarecb", {"precision": "bf16"}, marks=has_bf16),
    ],
)
def test_an_engine_is_refused_where_it_would_be_of_nothing(name, asked_for, sac, tmp_path):
    spec = agents.get(name)
    env = EnvConfig(**spec.tiny_env) if spec.tiny_env else sac("native").env
    agent = dataclasses.replace(spec.default, **spec.tiny)
    config = dataclasses.replace(sac("auto"), agent=agent, env=env, **asked_for)
    ((option, value),) = asked_for.items()
    with pytest.raises(ValueError, match=f"^--{option} {value}: this engine computes no network of {name}; leave it"):
        train(name, config, out=tmp_path, name="run")
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_from_before_engines_is_eager(sac, tmp_path):
    """And so is its policy: both went on as they began, in a run of before."""
    straight = train("sac", sac("eager", 40), out=tmp_path, name="straight")
    folder = train("sac", sac("eager", 20), out=tmp_path, name="run")
    for path in folder.rglob("*.pt"):
        payload = load(path)
        del payload["engine"]
        payload.get("config", {}).pop("engine", None)
        save(path, payload)
    assert engine_of(load_policy(folder).policy) == "eager"
    run = resume(folder, "sac", sac("auto"))
    assert run.engine == "eager"
    execute(run, StopRequest())
    one, other = (load(checkpoint_path(f, "step", 40))["agent"] for f in (straight, folder))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_the_command_line_refuses_what_does_not_go_together(tmp_path, capsys):
    call = ["train", "sac", "--engine", "native", "--compile", "--out", str(tmp_path), "--steps", "6000"]
    assert main(call) == 2
    assert "--engine native does not go with --compile or --cudagraph" in "".join(capsys.readouterr())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["bc", "rlpd", "trpo", "mbpo"])
def test_what_the_engine_lacks_is_said(name, tmp_path, data_file, capsys, sac):
    spec = agents.get(name)
    config = dataclasses.replace(
        sac("auto" if name == "trpo" else "native", 20),
        agent=dataclasses.replace(spec.default, **spec.tiny),
        data=dataclasses.replace(RunConfig(agent=None).data, source=str(data_file) if spec.needs_data else None),
    )
    folder = train(name, config, out=tmp_path, name="run")
    notes = [line for line in "".join(capsys.readouterr()).splitlines() if "engine lacks" in line]
    left = {"rlpd": ["note: the native engine lacks what critic of rlpd need; autograd computes them"]}
    assert notes == left.get(name, [])
    assert json.loads((folder / "meta.json").read_text())["engine"] == ("eager" if name == "trpo" else "native")
