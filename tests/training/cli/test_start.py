"""What a command imports before it needs it: nothing slow. By modules, since seconds depend on the machine."""

import json
import resource
import subprocess
import sys

import pytest

from surefoot import agents
from surefoot.training.cli.main import _asks_for_help, main
from surefoot.training.config.presets import default_config

SLOW = ("torch", "torch._dynamo", "matplotlib", "gymnasium", "mujoco", "h5py", "numpy", "pandas", "stable_baselines3")
HELP = ("train sac", "train dhn", "train sb3-ppo", "evaluate", "sweep", "data", "data collect", "solve")


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.splitlines()[-1]


def slow_imports(code: str) -> set[str]:
    """Return which slow modules a fresh process has imported after running the code."""
    return set(json.loads(run(f"{code}\nimport json, sys\nprint(json.dumps([m for m in {SLOW} if m in sys.modules]))")))


def command(*arguments: str) -> str:
    return f"from surefoot.training.cli.main import main\nassert main({list(arguments)}) in (0, 2)"


@pytest.mark.parametrize("arguments", ["--help", "--version", "train --help", "plot --help", "report --help", "fly"])
def test_help_imports_nothing_slow(arguments):
    assert slow_imports(command(*arguments.split())) == set()


@pytest.fixture(scope="module")
def with_stand_ins():
    """What a process says that has only stand-ins for slow modules: help texts, settings, and then real numbers."""
    return json.loads(
        run(f"""
import io, json, sys
from contextlib import redirect_stdout
from surefoot.training.cli.main import main
from surefoot.training.cli.stand_ins import stand_ins
sys.argv[0] = "surefoot"
texts = {{}}
for words in {HELP}:
    with redirect_stdout(io.StringIO()) as text:
        assert main([*words.split(), "--help"]) == 0
    texts[words] = text.getvalue()
with stand_ins():
    from surefoot import agents
    from surefoot.training.config.presets import default_config
    settings = {{name: repr(default_config(name)) for name in agents.REGISTRY}}
slow = [name for name in {SLOW} if name in sys.modules]
import torch
from surefoot.training.cli import evaluate
print(json.dumps([texts, settings, slow, (evaluate.torch.ones(2) + torch.ones(2)).tolist()]))
""")
    )


@pytest.mark.parametrize("words", HELP)
def test_help_without_what_is_slow_is_the_same_help(with_stand_ins, words, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["surefoot"])
    main([*words.split(), "--help"])
    assert capsys.readouterr().out == with_stand_ins[0][words]


def test_settings_without_what_is_slow_are_every_agents_settings(with_stand_ins):
    names = [name for name in agents.REGISTRY if name != "fake"]
    assert with_stand_ins[1] == {name: repr(default_config(name)) for name in names}


def test_help_imports_nothing_slow_and_leaves_no_stand_in_behind(with_stand_ins):
    assert with_stand_ins[2:] == [[], [2, 2]]


@pytest.mark.parametrize(
    "arguments", [[], ["sac"], ["--help", "sac"], ["sac", "--preset", "--help"], ["--resume", "--help"]]
)
def test_only_a_call_that_wants_help_alone_gets_stand_ins(arguments):
    assert not _asks_for_help(arguments)


def test_agents_do_not_import_the_compiler_or_figures():
    found = slow_imports("from surefoot import agents\nfor name in agents.REGISTRY: agents.get(name)")
    assert "torch" in found
    assert not found & {"torch._dynamo", "matplotlib", "pandas", "stable_baselines3"}


def test_an_evaluation_without_figures_imports_no_matplotlib_and_no_compiler(make_run):
    found = slow_imports(command("evaluate", str(make_run("run")), "--episodes", "1", "--env.max-episode-steps", "2"))
    assert "torch" in found
    assert not found & {"torch._dynamo", "matplotlib", "pandas", "h5py"}


@pytest.mark.parametrize(("name", "file"), [("plot", "figure.png"), ("report", "page.html")])
def test_figures_of_runs_need_no_recorded_data_and_no_compiler(name, file, make_run, tmp_path):
    found = slow_imports(command(name, str(make_run("run")), "--out", str(tmp_path / file)))
    assert "matplotlib" in found
    assert not found & {"torch._dynamo", "pandas", "h5py", "stable_baselines3"}


@pytest.mark.parametrize("name", ["train", "sweep", "data"])
def test_commands_without_figures_import_no_matplotlib(name):
    assert not slow_imports(f"import surefoot.training.cli.{name}") & {"torch._dynamo", "matplotlib", "pandas"}


def test_help_takes_a_moment():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(command("--help"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.6  # 0.08 where nothing else runs
