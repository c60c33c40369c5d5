"""Messages name what the command line has: options as its parser spells them, not fields of Python objects."""

import ast
import dataclasses
import re
from pathlib import Path

import pytest
import tyro

from surefoot import agents
from surefoot.training.cli.main import main
from surefoot.training.config.presets import default_config
from surefoot.training.sweep.plan import Sweep

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("agents", "envs", "evaluation", "offline_data", "training")
DOTTED = re.compile(r"(?<![-.\w/])(agent|env|eval|data)\.[a-z_]+")


def fields_of(config):
    """Return the names of all fields of a nested dataclass."""
    for field in dataclasses.fields(config):
        yield field.name
        value = getattr(config, field.name)
        yield from fields_of(value) if dataclasses.is_dataclass(value) else ()


def known_fields():
    """Return every field with a name of several words, of a run of any agent and of a sweep."""
    configs = [default_config(name) for name in agents.REGISTRY] + [Sweep()]
    return {name for config in configs for name in fields_of(config) if "_" in name}


def messages():
    """Yield (place, text) of every error that is raised with a message; what is filled in is left out."""
    for file in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                parts = [part for argument in node.exc.args for part in ast.walk(argument)]
                filled = {id(x) for part in parts if isinstance(part, ast.FormattedValue) for x in ast.walk(part)}
                texts = [p.value for p in parts if isinstance(p, ast.Constant) and id(p) not in filled]
                yield f"{file.relative_to(ROOT)}:{node.lineno}", "…".join(map(str, texts))


def test_no_message_spells_an_option_as_a_field():
    wrong, seen = [], 0
    names = re.compile(rf"(?<![-.\w])({'|'.join(sorted(known_fields()))})(?![\w.(])")
    for place, text in messages():
        seen += 1
        wrong += [f"{place}: {text}"] * bool(DOTTED.search(text) or names.search(text))
    assert seen > 200
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (("--steps", 0), "--steps"),
        (("--log-every", 0), "--log-every"),
        (("--keep-checkpoints", 0), "--keep-checkpoints"),
        (("--num-seeds", 0), "--num-seeds"),
        (("--seed", -1), "--seed"),
        (("--device", "tpu"), "--device"),
        (("--threads", 0), "--threads"),
        (("--eval.every", 0), "--eval.every"),
        (("--eval.objective-episodes", 0), "--eval.objective-episodes"),
        (("--eval.grid", 1), "--eval.grid"),
        (("--eval.grid", 3), "--uncertainty"),
        (("--baselines", "sac"), "--baselines"),
        (("--env.num-envs", 0), "--env.num-envs"),
        (("--env.max-episode-steps", 0), "--env.max-episode-steps"),
        (("--agent.learning-starts", -1), "--agent.learning-starts"),
        (("--agent.batch-size", 0), "--agent.batch-size"),
        (("--agent.learning-starts", 10**7), "--agent.learning-starts"),
        (("--env.id", "CartPole-v1"), "--env.id"),
    ],
)
def test_what_is_wrong_is_named_by_its_option(options, name, tmp_path, capsys):
    task = () if "--env.id" in options else ("--env.id", "surefoot/Pendulum-v0")
    assert main(["train", "sac", *map(str, (*task, *options)), "--out", str(tmp_path / "runs")]) == 2
    error = capsys.readouterr().err
    words = re.findall(r"--[a-z][a-z.-]*[a-z]", error)
    assert name in words, error
    assert "--env.id" in words or not DOTTED.search(error), error
    assert not (tmp_path / "runs").exists()


def test_the_parser_spells_options_as_the_messages_do():
    config = default_config("sac")
    spelt = tyro.extras.get_parser(type(config), default=config).format_help()
    for option in ("--agent.learning-starts", "--eval.objective-episodes", "--env.max-episode-steps", "--num-seeds"):
        assert option in spelt
