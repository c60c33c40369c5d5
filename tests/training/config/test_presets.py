"""Presets: what YAML reads as something else arrives as the annotated type, and what does not fit is named."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from fake_agent import FakeConfig

import surefoot
from surefoot import api
from surefoot.configs.casting import overlay
from surefoot.envs import EnvConfig, Physics
from surefoot.training.cli.train import parse
from surefoot.training.config.presets import default_config, from_plain, load_preset, to_plain
from surefoot.training.config.run import EvalConfig, RunConfig
from surefoot.training.sweep.plan import with_settings


@dataclass(frozen=True)
class Inner:
    rate: float = 1.0
    flag: bool = False


@dataclass(frozen=True)
class Everything:
    count: int = 1
    rate: float = 0.5
    name: str = "x"
    path: Path = Path()
    limit: int | None = 3
    mode: Literal["a", "b"] = "a"
    sizes: tuple[int, ...] = (1,)
    pair: tuple[int, float] = (1, 1.0)
    kwargs: dict[str, bool | int | float | str] = field(default_factory=dict)
    anything: Any = None
    inner: Inner = Inner()


def laid_over(text: str) -> Everything:
    return overlay(Everything(), yaml.safe_load(text), "file.yaml")


@pytest.mark.parametrize(
    ("text", "name", "expected"),
    [
        ("rate: 3e-4", "rate", 3e-4),
        ("rate: 2", "rate", 2.0),
        ("count: 1e6", "count", 1_000_000),
        ("count: 1.0e+6", "count", 1_000_000),
        ("count: 9007199254740993", "count", 9007199254740993),  # more digits than a float holds
        ("limit: null", "limit", None),
        ("limit: 1e3", "limit", 1000),
        ("path: runs/a", "path", Path("runs/a")),
        ("mode: b", "mode", "b"),
        ("sizes: [64, 1e2]", "sizes", (64, 100)),
        ("sizes: []", "sizes", ()),
        ("pair: [1, 2]", "pair", (1, 2.0)),
        ("kwargs: {a: yes, b: 1, c: 1.5, d: text}", "kwargs", {"a": True, "b": 1, "c": 1.5, "d": "text"}),
        ("anything: [1, {a: 2}]", "anything", [1, {"a": 2}]),
        ("inner: {rate: 1e-3, flag: yes}", "inner", Inner(1e-3, True)),
    ],
)
def test_values_are_cast_by_the_annotated_type(text, name, expected):
    value = getattr(laid_over(text), name)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rate: yes", "rate is True; expected float"),
        ("count: yes", "count is True; expected int"),
        ("count: 1.5", "count is 1.5; expected int"),
        ("count: .inf", "count is inf; expected int"),
        ("rate: fast", "rate is 'fast'; expected float"),
        ("rate: null", "rate is None; expected float"),
        ("name: yes", "name is True; expected str"),
        ("inner: {flag: 1}", "inner.flag is 1; expected bool"),
        ("mode: c", "mode is 'c'; choose one of a, b"),
        ("sizes: 3", "sizes is 3; expected tuple"),
        ("sizes: [1, x]", r"sizes\[1\] is 'x'; expected int"),
        ("pair: [1]", "expected 2 values"),
        ("limit: x", "limit is 'x'; expected int or NoneType"),
        ("inner: 3", "inner holds settings of its own, found 3"),
        ("ratee: 3", "unknown key 'ratee'; did you mean 'rate'\\? known: anything, count"),
        ("inner: {zzz: 3}", "unknown key 'inner.zzz'; known: flag, rate"),
    ],
)
def test_what_does_not_fit_is_named_with_its_file(text, message):
    with pytest.raises(ValueError, match=f"^file.yaml: .*{message}"):
        laid_over(text)


def test_a_resolved_config_survives_yaml_and_back(tiny):
    text = yaml.safe_dump(to_plain("fake", tiny))
    assert from_plain(yaml.safe_load(text), "config.yaml") == ("fake", tiny)


def test_a_preset_file_lies_over_the_agents_defaults(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("steps: 1e3\nagent: {scale: 2e-1}\nenv: {physics: {gravity: 2}}\n")
    config = load_preset("fake", str(file))
    assert config.agent == FakeConfig(scale=0.2)
    assert (config.steps, config.env.physics, config.eval) == (1000, Physics(gravity=2.0), EvalConfig())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"agent: {beta: 1}", "unknown key 'agent.beta'; known: env_steps, fail_at"),
        (b"steps: -5", "steps is -5; it must be positive"),
        (b"agent: {scale: 0}", "--agent.scale must be positive"),
        (b"- a list", "expected a mapping"),
        (b"a: [1", "not YAML that can be read \\(while"),
        (b"\xff\xfe\x00a", "not YAML that can be read"),
        (b"!!python/object/apply:os.system ['true']", "not YAML that can be read"),
    ],
)
def test_a_bad_preset_file_is_an_error_that_names_it(tmp_path, content, message):
    file = tmp_path / "bad.yaml"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=f"^{file}: .*{message}"):
        load_preset("fake", str(file))


def test_unknown_presets_and_agents_list_the_known_ones(tmp_path):
    with pytest.raises(FileNotFoundError, match="no preset 'nope' for fake; available: none"):
        load_preset("fake", "nope")
    with pytest.raises(ValueError, match=r"unknown agent 'who'; choose one of .*bc, "):
        load_preset("fake", "who/nope")
    with pytest.raises(FileNotFoundError, match=r"absent\.yaml: no such file"):
        load_preset("fake", str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"log_every": -1}, "--log-every is -1"),
        ({"checkpoint_every": 0}, "--checkpoint-every is 0"),
        ({"keep_checkpoints": 0}, "--keep-checkpoints is 0"),
        ({"keep_finished": 0}, "--keep-finished is 0"),
        ({"threads": 0}, "threads is 0"),
        ({"seed": -1}, "seed is -1; it must not be negative"),
        (
            {"seed": 2**32 - 2, "num_seeds": 3},
            "--num-seeds 3 from --seed 4294967294 on ends at 4294967296, beyond 4294967295",
        ),
        ({"device": "gpu"}, "device is 'gpu'; choose auto, cpu, cuda or cuda:N"),
        ({"baselines": ("sac",)}, "baselines: 'sac' is not AGENT/PRESET"),
    ],
)
def test_impossible_runs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(agent=FakeConfig(), **changes)


def test_the_last_of_several_seeds_may_be_the_largest():
    assert RunConfig(agent=FakeConfig(), seed=2**32 - 3, num_seeds=3).num_seeds == 3
    assert RunConfig(agent=FakeConfig(), seed=2**32 - 1).seed == 2**32 - 1


@pytest.mark.parametrize("changes", [{"every": 0}, {"episodes": -2}, {"seed": -1}])
def test_impossible_evaluations_are_refused(changes):
    with pytest.raises(ValueError, match=rf"eval\.{next(iter(changes))} is"):
        EvalConfig(**changes)


def test_every_packaged_preset_loads():
    from surefoot import agents
    from surefoot.configs import preset_names

    for agent_name in sorted(agents.REGISTRY):
        for preset in preset_names(agent_name):
            config = load_preset(agent_name, preset)
            assert config != default_config(agent_name), f"{agent_name}/{preset} changes nothing"


def test_the_configuration_of_an_older_format_is_one_clear_line(tiny):
    plain = to_plain("fake", tiny)
    with pytest.raises(ValueError, match=r"config.yaml: format 1; this Surefoot reads format 2"):
        from_plain(plain | {"format": 1}, "config.yaml")
    older = {key: value for key, value in plain.items() if key not in ("format", "baselines")} | {"beside": []}
    with pytest.raises(ValueError, match=r"unknown key 'beside'.* it names no format: an older Surefoot, which had"):
        from_plain(older, "config.yaml")


ROTATED = {"frameskip": 1, "repeat_action_probability": 0.0}
ANOTHER = "ale_py:ALE/Breakout-v5"


@pytest.mark.parametrize(
    ("settings", "options", "expected"),
    [
        ({"env.kwargs.frameskip": 4}, ["--env.kwargs", "frameskip", "4"], ROTATED | {"frameskip": 4}),
        ({"env.kwargs.mode": {"a": 1}}, ["--env.kwargs", "mode", "{a: 1}"], ROTATED | {"mode": {"a": 1}}),
        ({"env.kwargs": {"frameskip": 4}}, ["--env.kwargs", "frameskip", "4"], ROTATED | {"frameskip": 4}),
        ({"env.id": ANOTHER, "env.kwargs.mode": 1}, ["--env.id", ANOTHER, "--env.kwargs", "mode", "1"], {"mode": 1}),
        ({"steps": 9}, ["--steps", "9"], ROTATED),
    ],
)
def test_arguments_of_a_task_lie_over_the_presets_by_one_rule(settings, options, expected, monkeypatch):
    """On the command line, in a sweep and from Python."""
    preset = load_preset("dhn", "pong")
    assert preset.env.kwargs == ROTATED
    wanted = parse(["dhn", "--preset", "pong", *options])[1].run
    assert wanted.env.kwargs == expected
    assert with_settings(preset, settings, "set") == wanted
    begun = []
    monkeypatch.setattr(api.session, "train", lambda agent, config, **_: begun.append(config))
    monkeypatch.setattr(api, "Run", lambda folder: folder)
    surefoot.train("dhn", "pong", **settings)
    assert begun == [wanted]


def test_mappings_among_the_arguments_of_a_task_are_merged_too():
    base = replace(default_config("sac"), env=EnvConfig("A-v0", kwargs={"task_kwargs": {"random": 1, "time_limit": 5}}))
    changed = with_settings(base, {"env.kwargs.task_kwargs.random": 0}, "set")
    assert changed.env.kwargs == {"task_kwargs": {"random": 0, "time_limit": 5}}
