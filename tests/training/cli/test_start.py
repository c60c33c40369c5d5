"""What a command imports before it needs it: nothing slow. By modules, since seconds depend on the machine."""

import json
import resource
import subprocess
import sys

import pytest

from surefoot import agents
from surefoot.envs import EnvConfig, Physics
from surefoot.training.cli.data import COMMANDS as DATA_COMMANDS
from surefoot.training.cli.main import COMMANDS, _asks_for_help, main
from surefoot.training.config.presets import default_config
from surefoot.training.runs.folder import mark

SLOW = (
    "torch",
    "torch._dynamo",
    "matplotlib",
    "gymnasium",
    "mujoco",
    "h5py",
    "numpy",
    "pandas",
    "scipy.sparse",
    "stable_baselines3",
)
NOT_FOR_HELP = (*SLOW, "http.client", "rich", "tqdm", "typeguard")
HELP = (
    *(f"train {name}" for name in (*agents.METHODS, "sac", "rarl", "bc", "trpo", "qr-dqn", "linucb", "sb3-ppo")),
    *(name for name in COMMANDS if name not in ("train", "plot", "report")),
    *(f"data {name}" for name in DATA_COMMANDS),
)


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
def help_of(words):
    with redirect_stdout(io.StringIO()) as text:
        assert main([*words.split(), "--help"]) == 0
    return text.getvalue()
texts = {{words: help_of(words) for words in {HELP[:2]}}}
with stand_ins():  # which each would have of its own, and import all again
    texts |= {{words: help_of(words) for words in {HELP[2:]}}}
    from surefoot import agents
    from surefoot.training.config.presets import default_config
    settings = {{name: repr(default_config(name)) for name in agents.REGISTRY}}
slow = [name for name in {NOT_FOR_HELP} if name in sys.modules]
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


def test_neither_commands_nor_agents_nor_an_evaluation_import_what_they_do_not_need(make_run):
    """In one process, as PyTorch takes seconds: what an earlier step has imported is there in every later one."""
    run = str(make_run("run"))
    commands, agents, evaluation = slow_imports(
        "\n".join(f"import surefoot.training.cli.{name}" for name in ("train", "sweep", "data")),
        "from surefoot import agents\nfor name in agents.REGISTRY: agents.get(name)",
        command("evaluate", run, "--episodes", "1", "--env.max-episode-steps", "2"),
    )
    assert "torch" in commands
    assert not agents & {"torch._dynamo", "matplotlib", "pandas"}
    assert not evaluation & set(SLOW) - {"torch", "numpy", "gymnasium", "mujoco"}


@pytest.fixture
def runs(make_run):
    """Two runs, one of them evaluated, of which the report has the mean of the worst episodes."""
    first, second = (make_run(f"run-{seed}", seed) for seed in range(2))
    changed = EnvConfig("surefoot/Pendulum-v0", max_episode_steps=9, physics=Physics(gravity=1.5))
    third = make_run("changed", env=changed)
    assert main(["evaluate", str(first), str(second), "--episodes", "12", "--env.max-episode-steps", "2"]) == 0
    for folder in (first, second, third):
        (folder / "metrics.csv").write_text("step,seconds\n100,20\n200,50\n")
        mark(folder, "finished", 50)
    return [str(first), str(second), str(third)]


def test_page_and_curves_need_no_pytorch_and_are_the_same_without(runs, tmp_path, monkeypatch):
    def made(folder):
        assert main(["report", *runs, "--out", str(folder / "page.html")]) == 0
        assert main(["plot", *runs, "--out", str(folder / "curves.png")]) == 0
        return [(folder / name).read_bytes() for name in ("page.html", "page.csv", "curves.png")]

    with_pytorch, folder = made(tmp_path), tmp_path / "without"
    folder.mkdir()
    report, plot = slow_imports(
        command("report", *runs, "--out", str(folder / "page.html")),
        command("plot", *runs, "--out", str(folder / "curves.png")),
    )
    assert report == plot == {"matplotlib", "numpy"}
    without = [(folder / name).read_bytes() for name in ("page.html", "page.csv", "curves.png")]
    assert without == with_pytorch
    assert b"CVaR" in without[1]


def test_a_command_that_uses_pytorch_after_all_starts_again_with_it():
    assert json.loads(
        run("""
import json
from surefoot.training.cli import main as entry
def compute(command, rest):
    import torch
    try:
        said.append(float(torch.ones(2).sum()))
    except Exception:
        said.append("an error that a reader of files would pass over")
    return 0
entry._run, said = compute, []
entry.main(["plot", "run"])
print(json.dumps(said))
""")
    ) == [2.0]


USES = ("torch.ones(2)", "float(torch.pi)", "torch.pi * 2", "list(torch.x)", "torch.nn.Module()", "torch.x[0]")


def test_stand_ins_that_are_for_definitions_are_for_nothing_else():
    code = """
import json
from surefoot.training.cli.stand_ins import NeedsReal, stand_ins
used = []
with stand_ins(only_definitions=True):
    import torch
    from surefoot.agents import sac
"""
    for use in USES:
        code += f"    try: {use}\n    except NeedsReal: pass\n    else: used.append({use!r})\n"
    assert json.loads(run(f"{code}print(json.dumps(used))")) == []


def test_no_engine_imports_the_compiler(tmp_path):
    """Which its optimiser's methods would: a checkpoint is written and the run resumed as well."""
    train = [
        "train",
        "sac",
        "--env.id",
        "surefoot/Pendulum-v0",
        "--env.max-episode-steps",
        "10",
        "--eval.episodes",
        "1",
    ]
    tiny = ["--steps", "20", "--agent.hidden", "8", "--agent.learning-starts", "10", "--agent.random-steps", "10"]
    codes = []
    for engine in ("torch", "eager"):
        where = ["--out", str(tmp_path), "--name", engine, "--engine", engine]
        codes += [command(*train, *tiny, *where), command("train", "--resume", str(tmp_path / engine), "--steps", "30")]
    assert not any("torch._dynamo" in found for found in slow_imports(*codes))


def test_help_takes_a_moment():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(command("--help"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.6  # 0.08 where nothing else runs
