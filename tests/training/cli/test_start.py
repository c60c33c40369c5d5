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


def slow_imports(*codes: str) -> list[set[str]]:
    """Return which slow modules a fresh process has imported after each piece of code, run one after another."""
    look = f"found.append([name for name in {SLOW} if name in sys.modules])"
    code = "\n".join(["import json, sys", "found = []", *(f"{code}\n{look}" for code in codes)])
    return [set(names) for names in json.loads(run(f"{code}\nprint(json.dumps(found))"))]


def command(*arguments: str) -> str:
    return f"from surefoot.training.cli.main import main\nassert main({list(arguments)}) in (0, 2)"


@pytest.mark.parametrize("arguments", ["--help", "--version", "train --help", "plot --help", "report --help", "fly"])
def test_help_imports_nothing_slow(arguments):
    assert slow_imports(command(*arguments.split())) == [set()]


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


def test_neither_agents_nor_an_evaluation_nor_figures_import_what_they_do_not_need(make_run, tmp_path):
    """In one process, as PyTorch takes seconds: what an earlier step has imported is there in every later one."""
    run = str(make_run("run"))
    agents, evaluation, curves, page = slow_imports(
        "from surefoot import agents\nfor name in agents.REGISTRY: agents.get(name)",
        command("evaluate", run, "--episodes", "1", "--env.max-episode-steps", "2"),
        command("plot", run, "--out", str(tmp_path / "figure.png")),
        command("report", run, "--out", str(tmp_path / "page.html")),
    )
    assert "torch" in agents
    assert "matplotlib" not in evaluation
    assert "matplotlib" in curves
    assert not page & {"torch._dynamo", "pandas", "h5py", "stable_baselines3"}  # the compiler, recorded data


def test_commands_without_figures_import_no_matplotlib():
    (found,) = slow_imports("\n".join(f"import surefoot.training.cli.{name}" for name in ("train", "sweep", "data")))
    assert not found & {"torch._dynamo", "matplotlib", "pandas"}


def test_help_takes_a_moment():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(command("--help"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.6  # 0.08 where nothing else runs
