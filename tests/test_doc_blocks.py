"""Every fenced block of the pages does what it says: executed page by page, in order, in a folder of the page's own.

What becomes of a block, by its language; one without a language, or with another, fails:

| language | what is done |
|---|---|
| `python` | runs as printed; the blocks of a page share one namespace, and their folder is on the path |
| `bash`, `console` | `surefoot …` and `python train.py …` go through the real command line, in this process |
| `yaml` | goes to the reader of what it is: a sweep, an uncertainty set, a bandit, or a preset of the page's agent |
| `text` | is no code; but where it names a command of ours, that command has every option in it |

Of `make …` the target must exist, of `pip install …` the constraints and the extras. A command's exit code is 0, or N
where its comment says `exit code N`. A block whose first line is `# NAME.py` or `# NAME.yaml` is that file, for the
blocks after it: it is written, and as Python not run by itself. There are these aids, and no others:

- Budgets are cut where a run starts or resumes: to `STEPS` steps, one episode per evaluation, `EPISODE` steps per
  episode of tasks that have 1000, `ROLLOUT` steps of PPO (a rollout is one step of the agent), few episodes for
  objectives, grids, stress and recorded behaviour, `RECORDED` steps of a collected file. Networks, batches and all
  else that an agent is set to stay.
- The first `FIRST` baseline runs of a run, and of every method of a sweep, are executed in this process.
- Placeholders are made beforehand: `runs/RUN`, `runs/A`, … are tiny real runs of the agent of the page (`STAND_INS`),
  `mine.hdf5` is a tiny recording of the task of the command, `own.yaml` and `FILE.yaml` are blocks of other pages.
- What needs a GPU, another processor, a download or a service is recognised by its options, and only parsed and
  resolved (`PARSED_ONLY`).
- What several pages train, evaluate or stress by one command they do on the last of them, and the others only parse.
- Runs that are named by the second they start in get a number as well.
- Of the figures with one name and as many panels the first is rendered; the others are made, and get its pixels.
"""

from __future__ import annotations

import functools
import glob
import io
import itertools
import re
import shlex
import shutil
import sys
import tomllib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from matplotlib.figure import Figure

import surefoot
from surefoot import agents
from surefoot.agents.baselines.sb3_config import SB3PPOConfig
from surefoot.agents.interface import Plan
from surefoot.agents.parts.engine.native import bf16_capabilities
from surefoot.configs.allowed_modules import ALLOWED
from surefoot.envs import EnvConfig, UncertainVectorEnv, spaces_of
from surefoot.envs.make import find_spec
from surefoot.evaluation.stress.plan import least_budget
from surefoot.evaluation.uncertainty_grid import load_set
from surefoot.offline_data import Transitions, write_d4rl
from surefoot.offline_data.scores import find_d4rl
from surefoot.offline_data.sources import BEHAVIOUR
from surefoot.training import session
from surefoot.training.cli import bandit as cli_bandit
from surefoot.training.cli import data as cli_data
from surefoot.training.cli import evaluate as cli_evaluate
from surefoot.training.cli import plot as cli_plot
from surefoot.training.cli import stress as cli_stress
from surefoot.training.cli import sweep as cli_sweep
from surefoot.training.cli import train as cli_train
from surefoot.training.cli.main import main
from surefoot.training.config.presets import load_preset
from surefoot.training.loop import setup
from surefoot.training.loop.baselines import BaselineRuns, baseline_folder, plan_baselines
from surefoot.training.runs import folder as run_folder
from surefoot.training.sweep import plan
from surefoot.training.sweep.local import prepare_one

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(path for path in DOCS.rglob("*.md") if path.parent != DOCS / "derivations")]
names = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

STEPS = 24
EPISODE = 20
ROLLOUT = 32
RECORDED = 300
FIRST = 2

# What is only parsed and resolved. The pattern is searched in the command and in the data source it resolves to.
PARSED_ONLY = {
    r"--device cuda": "needs a GPU",
    r"\bdata download\b": "downloads",
    r"\bhf:": "downloads",
    r"\bd4rl:": "needs data that are downloaded",
    r"\bminari:": "needs the optional package, and writes to the reader's own store",
    r"--logger wandb": "needs an account of a service",
    r"--engine ray": "starts a cluster; tests/training/sweep/test_ray.py does",
    r"--metric value_aware_error": "needs a run that is long enough to have trained its model",
    r"--video": "needs a driver that draws; tests/evaluation/figures/test_video.py has one",
}
if not bf16_capabilities():
    PARSED_ONLY[r"--precision bf16"] = "needs a processor that this machine has not"
# The agent whose runs stand for runs/RUN, runs/A, … on a page; elsewhere SAC on Hopper, or on the task of the grid.
STAND_INS = {
    "dhn.md": ("dhn", "fork"),
    "dynlin_ucb.md": ("dynlin-ucb", "s1"),
    "iwocs.md": ("iwocs", "demo"),
    "lipschitz_mbrl.md": ("mbpo", "demo"),
    "neural_bandits.md": ("neusquarecb", "logistic"),
    "robust_baselines.md": ("m2td3", "hopper-2"),
}
PLACEHOLDERS = {**{f"runs/{name}": seed for seed, name in enumerate(("RUN", "A", "B", "C"))}, "RUN": 0}


# --- reading a page ---------------------------------------------------------------------------------------------------


class Block(NamedTuple):
    """A fenced block, and the line that its text begins in, from 1."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The name of the file that the block is, by its first line."""
        found = re.match(r"# ([\w-]+\.(?:py|ya?ml))\b", self.text)
        return found[1] if found else None


def blocks_of(page: str) -> list[Block]:
    """Return the fenced blocks of a page in order."""
    blocks, open_fence, lines = list[Block](), None, list[str]()
    for number, line in enumerate(page.splitlines(), 1):
        fence = re.match(r"^( *)(`{3,}|~{3,})\s*(\S*)", line)
        if open_fence is None and fence:
            open_fence, began, lines = fence, number + 1, []
        elif open_fence and fence and fence[2].startswith(open_fence[2]) and not fence[3]:
            blocks.append(Block(open_fence[3], "\n".join(lines) + "\n", began))
            open_fence = None
        elif open_fence:
            lines.append(line.removeprefix(open_fence[1]))
    assert open_fence is None, "a fence is left open"
    return blocks


def commands_of(block: Block) -> list[str]:
    """Return the command lines of a block: continued lines joined, prompts of a console off, its output left out."""
    lines = block.text.replace("\\\n", " ").splitlines()
    if block.language == "console":
        lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def without_variables(words: list[str]) -> list[str]:
    """Return a command without the variables that it sets."""
    return list(itertools.dropwhile(lambda word: re.match(r"[A-Z_]+=", word), words))


def pathlike(word: str) -> bool:
    """Return whether a word may name a file, which can be another one on every page."""
    value = word.partition("=")[2] if word.startswith("--") else word
    return re.search(r":|\.[a-z]\w*$", value) is not None


def deed(words: list[str], page: str) -> tuple[str, ...]:
    """Return what two pages have in common that do the same: the words, and whose run a placeholder stands for."""
    return (*words, "" if words[0] == "train" else str(STAND_INS.get(Path(page).name)))


@functools.cache
def last_pages() -> dict[tuple[str, ...], str]:
    """Return the last page on which a command stands that takes long and leaves nothing that the page comes back to."""
    found = {}
    for page in PAGES:
        blocks = blocks_of(page.read_text(encoding="utf-8"))
        for command in (one for block in blocks if block.language == "bash" for one in commands_of(block)):
            words = without_variables(shlex.split(command, comments=True))
            words = ["train", *words[2:]] if words[:2] == ["python", "train.py"] else words[words[0] == "surefoot" :]
            of_the_page = {"--help", "--resume", "--name", "--out"} & {*words} or any(map(pathlike, words))
            if words[:1] in (["train"], ["evaluate"], ["stress"]) and not of_the_page:
                found[deed(words, page.name)] = str(page.relative_to(ROOT))
    return found


# --- the aids ---------------------------------------------------------------------------------------------------------


def cut(config: Any) -> Any:
    """Return the configuration of a run with a budget of seconds."""
    env, shown = config.env, config.eval
    if (find_spec(env.id).max_episode_steps or 0) >= 1000 and (env.max_episode_steps or 1000) > EPISODE:
        env = replace(env, max_episode_steps=EPISODE)
    grid = None if shown.grid is None else 2
    shown = replace(shown, every=STEPS, episodes=1, objectives=shown.objectives[:1], objective_episodes=64, grid=grid)
    data = config.data
    if data.source and data.source.startswith(BEHAVIOUR):
        data = replace(data, source=re.sub(r":\d+", ":20", data.source, count=1))
    agent = replace(config.agent, n_steps=ROLLOUT) if isinstance(config.agent, SB3PPOConfig) else config.agent
    budget = {"steps": min(config.steps, STEPS), "log_every": STEPS // 2, "baselines": config.baselines[:FIRST]}
    return replace(config, agent=agent, env=env, eval=shown, data=data, **budget)


@functools.cache
def renderer(render: Any) -> Any:
    """Return `Figure.savefig` that renders the first of all figures with the same name and as many panels."""
    rendered: dict[tuple[str, int], Any] = {}

    def save(figure: Figure, file: Any, **options: Any) -> None:
        if isinstance(file, str):  # what a block draws itself
            render(figure, file, **options)
            return
        within_a_page = isinstance(file, io.StringIO)  # as text, and without a name
        name = "" if within_a_page else Path(file.name).name.split(".")[1]  # of .NAME.png.….tmp
        kind = name, len(figure.axes)
        if kind not in rendered:
            render(figure, drawn := io.StringIO() if within_a_page else io.BytesIO(), **options)
            rendered[kind] = drawn.getvalue()
        file.write(rendered[kind])

    return save


class BaselinesHere(BaselineRuns):
    """Baseline runs one after the other in this process, by the arguments that their own processes would get."""

    def __enter__(self) -> BaselinesHere:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def wait(self) -> None:
        for entry in self.config.baselines:
            assert main(self._command(entry, baseline_folder(self.run, entry))[4:]) == 0


def sweep_here(folder: Path, sweep: Any, show: Any, stop: Any) -> None:
    """Execute the first runs of every method of a sweep in this process."""
    entries = sorted(plan.read_plan(folder), key=lambda entry: (entry.agent_name, str(entry.preset)))
    for _, runs in itertools.groupby(entries, lambda entry: (entry.agent_name, entry.preset)):
        for entry in itertools.islice(runs, FIRST):
            if run := prepare_one(folder, entry.name):
                session.execute(run, stop)


def stress_little(measure: Any, request: Any, chosen: Any, task: Any, sets: Any, device: Any) -> Any:
    """Measure with the fewest episodes that there can be."""
    return measure(replace(request, budget=least_budget(1, sets)), chosen, task, sets, device)


@pytest.fixture
def aids(monkeypatch):
    """Cut budgets, and let nothing start a process of its own."""
    settle, restart, run_loop, record = setup.settle, setup.resume, session.run_loop, cli_data.record

    def settle_and_cut(name, config):  # a page's own lengths must go together, not those of seconds
        if config.steps <= STEPS:
            return config, Plan(config.steps, None, ())
        settled, plan = settle(name, config)
        return cut(settled), plan

    monkeypatch.setattr(setup, "settle", settle_and_cut)
    monkeypatch.setattr(setup, "resume", lambda folder, name, config, *rest: restart(folder, name, cut(config), *rest))

    def short_loop(run, *rest):  # a run that is resumed has its budget from the command line
        run.config = replace(run.config, steps=min(run.config.steps, run.counters.step + STEPS))
        run_loop(run, *rest)

    monkeypatch.setattr(session, "run_loop", short_loop)
    monkeypatch.setattr(session, "BaselineRuns", BaselinesHere)
    monkeypatch.setattr(session, "quick_process", nullcontext)
    monkeypatch.setattr(cli_evaluate.objectives, "EPISODES", 200)
    monkeypatch.setattr(cli_sweep, "execute_locally", sweep_here)
    monkeypatch.setattr(cli_stress, "measure", functools.partial(stress_little, cli_stress.measure))
    monkeypatch.setattr(cli_data, "record", lambda act, env, steps, **kw: record(act, env, min(steps, RECORDED), **kw))
    monkeypatch.setattr(sys, "argv", ["surefoot"])
    monkeypatch.setattr(Figure, "savefig", renderer(Figure.savefig))
    named, count = run_folder.default_name, itertools.count()  # short runs start several times in a second
    monkeypatch.setattr(run_folder, "default_name", lambda *which: f"{named(*which)}-{next(count)}")
    monkeypatch.setenv("MPLBACKEND", "Agg")
    monkeypatch.delenv(ALLOWED)  # a page says itself where a module may be imported
    torch.set_num_threads(1)


def block_of(page: str, file: str) -> str:
    """Return the text of the block of a page that is a file."""
    return next(block.text for block in blocks_of((DOCS / page).read_text(encoding="utf-8")) if block.file == file)


def write_recording(path: Path, env: EnvConfig) -> None:
    """Write recorded episodes of ten made-up steps that fit a task."""
    observation, action = spaces_of(env)
    rng, size = np.random.default_rng(0), 100
    discrete = not action.shape
    rows = {name: rng.normal(size=(size, *observation.shape)) for name in ("obs", "next_obs")}
    rows |= {"action": rng.integers(0, action.n, size) if discrete else rng.uniform(-1, 1, (size, *action.shape))}
    rows |= {"reward": rng.normal(size=size), "terminated": np.zeros(size)}
    ends = np.arange(1, size + 1) % 10 == 0
    write_d4rl(path, Transitions.from_arrays(**rows, truncated=ends), {"env_id": env.id})


# --- a reader who does everything that a page says --------------------------------------------------------------------


class Reader:
    """Follows one page in a folder."""

    def __init__(self, page: str, folder: Path, make_run: Any) -> None:
        self.page, self.folder, self.make_run = page, folder, make_run
        self.namespace: dict[str, Any] = {"__name__": "__main__"}
        self.parsed_only: list[str] = []

    def follow(self, text: str) -> None:
        """Do what each block of a page says; an `AssertionError` names the first line that cannot be followed."""
        how = {"python": self.python, "bash": self.shell, "console": self.shell, "yaml": self.yaml, "text": self.text}
        for block in blocks_of(text):
            assert block.language in how, f"{self.page}:{block.line}: a block without a language, or {block.language!r}"
            how[block.language](block)

    def fail(self, line: int, what: str) -> None:
        raise AssertionError(f"{self.page}:{line}: {what}")

    def python(self, block: Block) -> None:
        if block.file:
            (self.folder / block.file).write_text(block.text, encoding="utf-8")
            return
        try:
            code = compile("\n" * (block.line - 1) + block.text, self.page, "exec")
            with own_modules(self.folder, on_path=True), quiet():
                exec(code, self.namespace)
        except Exception as error:
            here = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == self.page]
            line = here[-1] if here else getattr(error, "lineno", block.line)
            raise AssertionError(f"{self.page}:{line}: {type(error).__name__}: {error}") from error

    def shell(self, block: Block) -> None:
        for command in commands_of(block):
            self.command(command, block.line)

    def command(self, command: str, line: int) -> None:
        words = shlex.split(command, comments=True)
        expected = int(found[1]) if (found := re.search(r"#.*\bexit code (\d)", command)) else 0
        words = without_variables(words)
        if not any(re.search(pattern, command) for pattern in PARSED_ONLY):
            self.lay_out_runs(words)
        self.lay_out_files(words)
        words = [place for word in words for place in (sorted(glob.glob(word)) or [word])]
        if words[:1] == ["make"]:
            self.make_target(words, line)
        elif words[:2] == ["pip", "install"]:
            self.pip_install(words, line)
        elif words[:2] == ["python", "train.py"]:
            self.ours(["train", *words[2:]], expected, line)
        elif words[:1] == ["surefoot"]:
            self.ours(words[1:], expected, line)
        else:
            self.fail(line, f"nothing is known of the command {command!r}")

    def ours(self, words: list[str], expected: int, line: int) -> None:
        with own_modules(self.folder, on_path=False), quiet() as said:
            reason = None
            try:
                reason = reason_to_parse(words)
                later = last_pages().get(deed(words, self.page), self.page) != self.page
                code = parse(words) if reason or later else main(words)
            except (Exception, SystemExit) as error:
                code = f"{type(error).__name__} {error}"
        if code != expected:
            self.fail(line, f"`surefoot {shlex.join(words)}` ended with {code}:\n{said.getvalue()[-2000:]}")
        if reason:
            self.parsed_only.append(reason)

    def make_target(self, words: list[str], line: int) -> None:
        target = next(word for word in words[1:] if "=" not in word)
        if not re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M):
            self.fail(line, f"the Makefile has no target {target!r}")

    def pip_install(self, words: list[str], line: int) -> None:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        named = [part for word in words for extras in re.findall(r"\[(.*)\]$", word) for part in extras.split(",")]
        missing = set(named) - set(project["optional-dependencies"])
        if missing or not all((ROOT / word).is_file() for word in words if word.endswith(".txt")):
            self.fail(line, f"{shlex.join(words)}: no such constraints, or extras {missing}")

    def yaml(self, block: Block) -> None:
        path = self.folder / (block.file or "block.yaml")
        path.write_text(block.text, encoding="utf-8")
        try:
            self.read_yaml(path, yaml.safe_load(block.text))
        except Exception as error:
            raise AssertionError(f"{self.page}:{block.line}: {type(error).__name__}: {error}") from error

    def read_yaml(self, path: Path, content: dict[str, Any]) -> None:
        if "parameters" in content:
            uncertainty = load_set(str(path))
            UncertainVectorEnv(EnvConfig(uncertainty.env), uncertainty).close()
        elif "agents" in content:
            plan.expand(plan.read_sweep(path))
        elif "actions" in content:
            cli_bandit.new(cli_bandit.New(self.folder / "of_a_block.json", preset=path, force=True))
        else:
            pages = {agents.get(name).page: name for name in reversed(agents.REGISTRY)}
            load_preset(pages.get(Path(self.page).stem, "sac"), str(path))  # the tutorials train SAC

    def text(self, block: Block) -> None:
        for command, options in re.findall(r"^ *surefoot (\w+(?: \w+)?)(.*(?:\n +.*)*)", block.text, re.M):
            words = command.split()[: 2 if command.startswith("data") else 1]
            with quiet() as said:
                main([*words, "--help"])
            known = set(re.findall(r"--[\w.-]+", said.getvalue()))
            if unknown := set(re.findall(r"--[a-z][\w.-]*\w", options)) - known:
                self.fail(block.line, f"surefoot {' '.join(words)} has no {sorted(unknown)}")

    def lay_out_runs(self, words: list[str]) -> None:
        """Make the runs that a command names by a placeholder, anew each time: the command decides whose they are."""
        for name in set(words) & set(PLACEHOLDERS):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            agent, preset, env = self.stand_in(words)
            shutil.copytree(self.make_run(agent, preset, env, PLACEHOLDERS[name]), self.folder / name)

    def lay_out_files(self, words: list[str]) -> None:
        """Make the files that a command names by a placeholder, unless the page has made them."""
        if "mine.hdf5" in words and "collect" not in words and not (self.folder / "mine.hdf5").exists():
            task = words[words.index("--env.id") + 1] if "--env.id" in words else "Hopper-v5"
            write_recording(self.folder / "mine.hdf5", EnvConfig(task))
        elsewhere = {
            "own.yaml": ("guides/uncertainty_sets.md", "own.yaml"),
            "FILE.yaml": ("guides/sweeps.md", "many.yaml"),
        }
        for name, place in elsewhere.items():
            if name in words and not (self.folder / name).exists():
                (self.folder / name).write_text(block_of(*place), encoding="utf-8")

    def stand_in(self, words: list[str]) -> tuple[str, str | None, str | None]:
        if "--objective" in words:
            return *STAND_INS["dhn.md"], None
        if Path(self.page).name in STAND_INS:
            return *STAND_INS[Path(self.page).name], None
        return "sac", None, load_set(words[words.index("--grid") + 1]).env if "--grid" in words else "Hopper-v5"


@contextmanager
def own_modules(folder: Path, on_path: bool) -> Iterator[None]:
    """Forget what was imported from the page's folder before; a command finds it again where it is started."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]
    before = list(sys.path)
    if on_path:
        sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = before


@contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Yield what is written meanwhile."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        yield said


# --- what is only parsed ----------------------------------------------------------------------------------------------


def reason_to_parse(words: list[str]) -> str | None:
    """Return the pattern of `PARSED_ONLY` that a command of ours, or the data that its preset names, matches."""
    text = f"surefoot {' '.join(words)}"
    if words[0] == "train" and "--help" not in words and "--resume" not in words:
        text += f" {cli_train.parse(words[1:])[1].run.data.source}"
    return next((pattern for pattern in PARSED_ONLY if re.search(pattern, text)), None)


def parse(words: list[str]) -> int:
    """Resolve all that can be without doing anything; whatever is wrong raises."""
    command, rest = words[0], words[1:]
    if command == "train":
        name, launch = cli_train.parse(rest)
        plan_baselines(name, launch.run, launch.preset)
        if str(launch.run.data.source).startswith("d4rl:"):
            find_d4rl(launch.run.data.source.removeprefix("d4rl:"))
    elif command == "sweep":
        plan.expand(cli_sweep.parse(rest).sweep)
    elif command == "evaluate":
        cli_evaluate.check(cli_evaluate.parse(rest))
    elif command == "plot":
        cli_plot.parse(rest)
    elif command == "stress":
        cli_stress.check(cli_stress.parse(rest))
    else:
        assert command == "data", command
        parse_data(rest)
    return 0


def parse_data(words: list[str]) -> None:
    """Let the command line of `surefoot data` end where the command would begin."""
    function = cli_data.COMMANDS[words[0]]
    for name in re.findall(r"\bd4rl:(\S+)|\bdownload (\S+)", " ".join(words)):
        find_d4rl("".join(name))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(cli_data.COMMANDS, words[0], functools.wraps(function)(lambda *given, **named: 0))
        assert cli_data.main(words) == 0


# --- the tests --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Return a dictionary of tiny runs, and where new ones go."""
    return {}, tmp_path_factory.mktemp("stand-ins")


@pytest.fixture
def reader(runs, aids, tmp_path, monkeypatch):
    """Return a function that makes the reader of a page, whose working directory is a folder of its own."""
    made, place = runs

    def make_run(agent: str, preset: str | None, env: str | None, seed: int) -> Path:
        key = (agent, preset, env, seed)
        if key not in made:
            task = {} if env is None else {"env": env}
            with quiet():
                made[key] = surefoot.train(agent, preset, out=place, name=str(len(made)), seed=seed, **task).folder
        return made[key]

    monkeypatch.chdir(tmp_path)
    return lambda page: Reader(page, tmp_path, make_run)


@names
def test_every_block_of_a_page_does_what_it_says(page, reader):
    reader(str(page.relative_to(ROOT))).follow(page.read_text(encoding="utf-8"))


def test_what_is_only_parsed_is_on_some_page():
    pages = [page.read_text(encoding="utf-8") for page in PAGES]
    commands = [
        one for text in pages for block in blocks_of(text) if block.language == "bash" for one in commands_of(block)
    ]
    unused = {pattern for pattern in PARSED_ONLY if not any(re.search(pattern, command) for command in commands)}
    assert not unused


BROKEN = {
    "no language": ("", "surefoot data list", "a block without a language"),
    "another language": ("sh", "surefoot data list", "or 'sh'"),
    "a name that is not there": ("python", "import surefoot\n\nsurefoot.tarin", "page.md:5: AttributeError"),
    "no Python": ("python", "data = load(…)", "SyntaxError"),
    "an exception of ours": ("python", "import surefoot\nsurefoot.train('sac', stepz=3)", "did you mean 'steps'"),
    "an unknown command": ("bash", "surefoot evaluat runs/RUN", "unknown command 'evaluat'"),
    "an unknown option": ("bash", "surefoot evaluate runs/RUN --episode 3", "--episode"),
    "an unknown setting": ("bash", "python train.py sac --agent.hiden 8 8", "hiden"),
    "an unknown preset": ("bash", "python train.py sac --preset hoper", "hoper"),
    "a preset of nobody, to be parsed only": ("bash", "python train.py sac --preset hoper --device cuda", "hoper"),
    "an option that is parsed only": ("bash", "surefoot evaluate runs/RUN --video --episode 3", "--episode"),
    "data without a name": ("bash", "surefoot data download halfcheetah-mediun-v2", "halfcheetah-mediun-v2"),
    "a run that no command made": ("bash", "surefoot evaluate runs/mine", "no run folder"),
    "another exit code": ("bash", "surefoot data list  # exit code 1", "ended with 0"),
    "a program that is not ours": ("console", "$ rm -r runs", "nothing is known of"),
    "a target that is not there": ("bash", "make tea", "no target 'tea'"),
    "an extra that is not there": ("bash", "pip install -e '.[dream]'", "dream"),
    "an unknown field": ("yaml", "agents: [sac]\nseedz: 3", "seedz"),
    "a preset that does not fit": ("yaml", "agent: {hiden: [8]}", "hiden"),
    "a bandit that does not fit": ("yaml", "actions: [[1, 0], [0, 1]]\nbound: 1", "bound"),
    "a parameter that is not there": (
        "yaml",
        "env: Hopper-v5\nparameters: {body_mass.torsoo: {low: 1, high: 2}}",
        "torsoo",
    ),
    "a synopsis with an option too many": ("text", "surefoot plot RUN [RUN ...] [--metrik NAME]", "--metrik"),
    "a module that is not on the path": (
        "bash",
        "surefoot train sac --env.id missing_module:Own-v0",
        "cannot import 'missing_module'",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_block_fails(what, reader, tmp_path):
    language, text, message = BROKEN[what]
    (tmp_path / "own_module.py").write_text("")
    with pytest.raises(AssertionError) as failure:
        reader("page.md").follow(f"A page.\n```{language}\n{text}\n```\n")
    assert message in str(failure.value)
    assert "page.md:" in str(failure.value)


def test_a_block_follows_those_before_it(reader, tmp_path):
    page = """
```python
# own_module.py
NUMBER = 3
```

1. Indented, as in a list:

   ```python
   import own_module

   number = own_module.NUMBER
   ```

```python
assert number == 3
```
"""
    followed = reader("page.md")
    followed.follow(page)
    assert followed.namespace["number"] == 3
    with pytest.raises(AssertionError, match="a fence is left open"):
        followed.follow("text\n```python\nnumber = 4\n")
