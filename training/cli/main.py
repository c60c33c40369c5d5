"""The command line: `surefoot train | evaluate | sweep | ...`. Only what a command needs is imported."""

from __future__ import annotations

import ast
import sys
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path

from surefoot import agents
from surefoot.configs import preset_names
from surefoot.training.cli.errors import one_line_errors

COMMANDS = {
    "train": "train an agent, or go on with a run",
    "evaluate": "measure the policies of finished runs",
    "data": "list, inspect, download, collect and convert recorded data",
    "plot": "draw learning curves of runs",
    "solve": "find the best policy of a table for a tail, a target or a budget of the return",
    "report": "write one page, and a CSV file, of all runs under some folders",
    "sweep": "train many runs: agents, presets, seeds and settings, or a search",
}
OVERVIEW = "usage: surefoot COMMAND ...\n\n" + "\n".join(f"  {name:<10}{does}" for name, does in COMMANDS.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (failed while running), 2 (wrong input), 130 or 143 (stopped)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
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
        print(f"{OVERVIEW}\n\nsurefoot COMMAND --help says more; surefoot --version")
        return 0
    if command == "--version":
        print(f"surefoot {metadata.version('surefoot')}")
        return 0
    if command not in COMMANDS:
        print(f"surefoot: error: unknown command {command!r}\n\n{OVERVIEW}", file=sys.stderr)
        return 2
    if command == "train" and rest in ([], ["-h"], ["--help"]):
        print(agents_overview())
        return 0 if rest else 2
    run_command = import_module(f"surefoot.training.cli.{command}").main
    if command in ("train", "sweep"):  # they tell set-up, where an error is the user's, from training, where it is ours
        return run_command(rest)
    with one_line_errors(2):
        return run_command(rest)


def agents_overview() -> str:
    """Return usage, every agent with its summary, and its presets."""
    lines = ["usage: train.py AGENT [--preset NAME] [options]        train.py AGENT --help lists all options", ""]
    for name in agents.REGISTRY:
        lines.append(f"  {name:<11}{_summary(name)}")
        if presets := preset_names(name):
            lines.append(f"  {'':<11}  presets: {', '.join(presets)}")
    return "\n".join(lines)


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
