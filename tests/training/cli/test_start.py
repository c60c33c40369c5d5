"""What a command imports before it needs it: nothing slow. By modules, since seconds depend on the machine."""

import json
import resource
import subprocess
import sys

import pytest

SLOW = ("torch", "torch._dynamo", "matplotlib", "gymnasium", "mujoco", "h5py", "pandas", "stable_baselines3")


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


def test_agents_do_not_import_the_compiler_or_figures():
    found = slow_imports("from surefoot import agents\nfor name in agents.REGISTRY: agents.get(name)")
    assert "torch" in found
    assert not found & {"torch._dynamo", "matplotlib", "pandas", "stable_baselines3"}


def test_an_evaluation_without_figures_imports_no_matplotlib_and_no_compiler(make_run):
    found = slow_imports(command("evaluate", str(make_run("run")), "--episodes", "1", "--env.max-episode-steps", "2"))
    assert "torch" in found
    assert not found & {"torch._dynamo", "matplotlib", "pandas"}


@pytest.mark.parametrize("name", ["train", "sweep", "data"])
def test_commands_without_figures_import_no_matplotlib(name):
    assert not slow_imports(f"import surefoot.training.cli.{name}") & {"torch._dynamo", "matplotlib", "pandas"}


def test_help_takes_a_moment():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(command("--help"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.6  # 0.08 where nothing else runs
