"""The command line: `surefoot train | evaluate | sweep | ...`. Only what a command needs is imported."""

from __future__ import annotations

import ast
import os
import re
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from surefoot import agents
from surefoot.configs import preset_names
from surefoot.configs.allowed_modules import imports_allowed, named_modules
from surefoot.training.cli.errors import one_line_errors, program
from surefoot.training.cli.imports import quick_imports
from surefoot.training.cli.stand_ins import NeedsReal, stand_ins

COMMANDS = {
    "train": "train an agent, or resume a run",
    "evaluate": "evaluate the policies of finished runs",
    "stress": "show where policies fail: curves, maps and the worst case over uncertainty sets",
    "card": "write a policy's model card, with where it fails",
    "push": "send a policy with its card and its stress test to the Hugging Face Hub",
    "export": "write a policy as an ONNX model",
    "data": "list, inspect, download, collect and convert recorded data",
    "bandit": "drive a real system with a bandit learner: ask for actions, tell rewards",
    "parameters": "list what can differ in a task: units, ranges, nominal values",
    "plot": "draw learning curves of runs",
    "solve": "optimise an objective of the return distribution (CVaR, target, shortfall) in a tabular MDP",
    "report": "write an HTML report and a CSV file of all runs under some folders",
    "sweep": "train many runs over agents, presets, seeds and settings, or a hyper-parameter search",
}
OVERVIEW = "usage: surefoot COMMAND ...\n\n" + "\n".join(f"  {name:<12}{does}" for name, does in COMMANDS.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (failed while running), 2 (wrong input), 130 or 143 (stopped)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _exit_code(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush when Python ends
        return 128 + signal.SIGPIPE


def _exit_code(arguments: list[str]) -> int:
    try:
        return _dispatch(arguments)
    except KeyboardInterrupt:
        print("surefoot: interrupted", file=sys.stderr)
        return 130
    except SystemExit as stop:  # argparse and tyro: 0 after help, 2 after a wrong argument
        return stop.code if isinstance(stop.code, int) else 1


def _dispatch(arguments: list[str]) -> int:
    command, rest = (arguments[0], arguments[1:]) if arguments else ("", [])
    if command in ("-h", "--help"):
        print(f"{OVERVIEW}\n\nsurefoot COMMAND --help for more; surefoot --version")
        return 0
    if command == "--version":
        from importlib import metadata  # a tenth of the time that a help text takes

        print(f"surefoot {metadata.version('surefoot')}")
        return 0
    if command not in COMMANDS and command != "sweep-server":  # which is no command for people
        print(f"surefoot: error: unknown command {command!r}\n\n{OVERVIEW}", file=sys.stderr)
        return 2
    if command == "train" and rest in ([], ["-h"], ["--help"]):
        print(agents_overview())
        return 0 if rest else 2
    with one_line_errors(2):
        _require_words(rest)
    named = {"*"} if "--allow-code" in rest else named_modules(rest)
    if _asks_for_help(rest):
        with quick_imports(), stand_ins(), imports_allowed(named):
            return _run(command, rest)
    if command in ("plot", "report"):
        with suppress(NeedsReal), stand_ins(only_definitions=True), imports_allowed(named):
            return _run(command, rest)
    with imports_allowed(named):
        return _run(command, rest)


def _require_words(rest: list[str]) -> None:
    """Raise `ValueError` for a word that is empty, as a variable of the shell is that was never set."""
    for before, word in zip(["", *rest], rest, strict=False):
        if word == "" or re.fullmatch(r"--[\w.-]+=", word):
            option = word.rstrip("=") or (before if before.startswith("--") else "an argument")
            raise ValueError(f"{option} is empty; leave it out, or say what it is to be")


def _asks_for_help(rest: list[str]) -> bool:
    """Whether nothing but a help text is wanted, of a command or of what it names: `sac --help`, `collect --help`."""
    *named, last = rest or [""]
    return last in ("-h", "--help") and len(named) < 2 and not any(word.startswith("-") for word in named)


def _run(command: str, rest: list[str]) -> int:
    with quick_imports():
        module = import_module(f"surefoot.training.cli.{command.replace('-', '_')}")
    run_command: Callable[[list[str]], int] = module.main
    if command in ("train", "sweep", "sweep-server"):
        # They separate set-up, where an error is the user's, from training, where it is ours.
        return run_command(rest)
    with one_line_errors(2):
        return run_command(rest)


GROUPS = {
    "Methods": agents.METHODS,
    "Baselines": agents.BASELINES,
    "Reference implementations": agents.REFERENCES,
}


def agents_overview() -> str:
    """Return usage and, in the groups of the README, every agent with its summary and its presets."""
    lines = [
        f"usage: {program()} AGENT [--preset NAME] [options]",
        f"       {program()} AGENT --help       every option of an agent",
    ]
    indent, seen = " " * (max(map(len, agents.REGISTRY)) + 4), dict[tuple[str, ...], str]()
    for title, names in GROUPS.items():
        lines += ["", f"{title}:"]
        for name in names:
            lines += _paragraph(f"  {name}".ljust(len(indent)), _summary(name), indent)
            presets = tuple(preset_names(name))
            text = f"as {seen[presets]}" if presets in seen else ", ".join(presets)
            seen.setdefault(presets, name)
            lines += _paragraph(f"{indent}presets: ", text, f"{indent}         ") if presets else []
    return "\n".join(lines)


def _paragraph(start: str, text: str, indent: str) -> list[str]:
    width = max(60, shutil.get_terminal_size().columns)
    return textwrap.wrap(text, width, initial_indent=start, subsequent_indent=indent, break_on_hyphens=False)


def _summary(agent_name: str) -> str:
    """Return the summary in an agent's registry entry, read from its source: importing all agents takes seconds."""
    module, attribute = agents.REGISTRY[agent_name].split(":")
    source = Path(agents.__file__).parent.joinpath(*module.split(".")[2:]).with_suffix(".py")
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == attribute:
            texts = [item.value for item in ast.walk(node.value) if isinstance(item, ast.Constant)]
            return next((text for text in texts if isinstance(text, str)), "")
    raise LookupError(f"{module} has no {attribute}")


if __name__ == "__main__":
    sys.exit(main())
