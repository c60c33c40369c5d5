"""Wrong command lines, hundreds of them: each is refused in a few lines, before anything is made.

    python tests/campaign/wrong_lines.py               # all of them, in this process, and one in 60 in one of its own
    python tests/campaign/wrong_lines.py --only solve  # those that contain a word

A line fails where the exit code is 0, where the answer is a traceback, longer than `MOST_LINES` or silent on the option
whose number is wrong, where it takes longer than `LONGEST` seconds, or where a file is new or changed afterwards.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

import numpy as np  # noqa: E402
import record as records  # noqa: E402
import tyro  # noqa: E402
from numeric_fields import numeric_fields  # noqa: E402

from surefoot import agents  # noqa: E402
from surefoot.training.cli.main import main as surefoot  # noqa: E402
from surefoot.training.config.presets import default_config  # noqa: E402
from surefoot.training.sweep.plan import Sweep  # noqa: E402

NAME = "wrong_lines"
MOST_LINES = 25  # the parser draws a box around its message; ours are one line
LONGEST = 60  # seconds
OWN_PROCESS = 60  # one line of so many runs as a process of its own, too
TRAIN = "--env.id Pendulum-v1 --steps 200 --baselines --out new"
# What means something negative or infinite, as tests/configs/test_ranges.py has it.
ANY_SIGN = {"gravity", "log_std_min", "log_std_offset", "target_entropy", "lagrange_target", "success_return"}
ANY_SIGN |= {"gradient_steps", "on_policy_weight", "critic_on_policy_weight", "policy_on_policy_weight"}

NUMBER = re.compile(r"--(?:[a-z-]+\.)*([a-z0-9-]+) (?:nan|-1)(?: nan)*$")
LINES = Path(__file__).with_suffix(".txt")


@dataclass
class Options:
    """Which lines."""

    only: str = ""
    """Those that contain this."""
    own_process: bool = True
    """Run one in 60 as a process of its own, too."""


def main(options: Options) -> int:
    """Run all lines, and return 1 where one was not refused as it should be."""
    began, failures = time.perf_counter(), list[str]()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        prepare()
        lines = [line for line in all_lines() if options.only in line]
        lengths, processes = list[int](), 0
        for i, line in enumerate(lines):
            problem, length = in_this_process(line)
            lengths.append(length)
            if options.own_process and i % OWN_PROCESS == 0:
                processes += 1
                problem = problem or in_its_own(line)
            if problem:
                failures.append(f"{line}: {problem}")
                print(f"NOT REFUSED  {line}\n    {problem}", flush=True)
    figures = {"lines": len(lines), "refused": len(lines) - len(failures), "own_processes": processes}
    figures |= {"one_line": sum(n <= 1 for n in lengths), "longest": max(lengths), "failures": failures}
    if not options.only:
        records.record(NAME, figures, began=began, seeds=[])
    print(f"{figures['refused']} of {figures['lines']} wrong lines refused, {figures['one_line']} of them in one line")
    return int(bool(failures))


# --- the lines --------------------------------------------------------------------------------------------------------


def all_lines() -> list[str]:
    """Return every wrong line, each once."""
    written = [line for line in LINES.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    lines = [line.replace("{train}", TRAIN) for line in written]
    return list(dict.fromkeys([*lines, *_numbers()]))


def _numbers() -> Iterator[str]:
    """Yield a line for every numeric field of every agent, of a run and of a sweep, with a number out of its range."""
    seen = set[tuple[type, str]]()
    for name in agents.REGISTRY:
        for parent, option, hint, _ in numeric_fields(default_config(name)):
            if (type(parent), option) not in seen:
                seen.add((type(parent), option))
                yield f"train {name} {TRAIN} --{option.replace('_', '-')} {_wrong(option, hint)}"
    for _, option, hint, _ in numeric_fields(Sweep()):
        yield f"sweep --agents sac --out new --{option.replace('_', '-')} {_wrong(option, hint)}"


def _wrong(option: str, hint: Any) -> str:
    pair = "tuple[float, float]" in str(hint)  # which takes two
    number = "nan" if option.rpartition(".")[2] in ANY_SIGN or pair else "-1"
    return f"{number} {number}" if pair else number


# --- running one ------------------------------------------------------------------------------------------------------


def in_this_process(line: str) -> tuple[str, int]:
    """Return what is wrong with the answer to a line, and how many lines it has."""
    out, err, before = io.StringIO(), io.StringIO(), snapshot()
    signal.signal(signal.SIGALRM, _too_long)
    signal.alarm(LONGEST)
    crash = ""
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = surefoot(shlex.split(line))
    except BaseException as error:
        code, crash = -1, "".join(traceback.format_exception_only(error)).strip()
        crash += f" at {traceback.extract_tb(error.__traceback__)[-1]}"
    finally:
        signal.alarm(0)
    text = err.getvalue() + out.getvalue()
    problem = crash or judged(code, text)
    if not problem and (wrong := NUMBER.search(line)) and wrong[1] not in text.replace("_", "-"):
        problem = f"does not say that {wrong[1]} is wrong: {text.strip()[:200]}"
    if (after := snapshot()) != before:
        changed = sorted({path for path, _ in after ^ before})
        problem = problem or f"left {', '.join(changed[:3])}"
        restore()
    return problem, len(text.strip().splitlines())


def in_its_own(line: str) -> str:
    """Return what is wrong with the answer of the command as a process of its own."""
    command = [sys.executable, "-P", "-c", "import sys; from surefoot.training.cli.main import main; sys.exit(main())"]
    try:
        done = subprocess.run([*command, *shlex.split(line)], capture_output=True, text=True, timeout=10 * LONGEST)
    except subprocess.TimeoutExpired:
        return f"as a process: no end within {10 * LONGEST} seconds"
    problem = judged(done.returncode, done.stderr + done.stdout)
    return f"as a process: {problem}" if problem else ""


def judged(code: int, text: str) -> str:
    """Return what is wrong with an exit code and what was printed."""
    if code not in (1, 2):
        return f"exit code {code}: {text.strip()[-200:]}"
    if "Traceback" in text:
        return f"a traceback: {text.strip()[-300:]}"
    length = len(text.strip().splitlines())
    return "" if 1 <= length <= MOST_LINES else f"{length} lines"


def _too_long(number: int, frame: Any) -> None:
    raise TimeoutError(f"no answer within {LONGEST} seconds")


# --- the working folder -----------------------------------------------------------------------------------------------


def prepare() -> None:
    """Make what the lines name."""
    tiny = "--agent.hidden 8 --agent.batch-size 8 --agent.random-steps 8 --agent.learning-starts 8 --eval.episodes 1"
    base = f"train sac --env.id Pendulum-v1 --env.max-episode-steps 20 --baselines --out . {tiny}"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert surefoot(f"{base} --steps 60 --name run".split()) == 0
        assert surefoot(f"{base} --steps 60 --name stopped".split()) == 0
        assert surefoot(["data", "collect", "run", "data.hdf5", "--steps", "60"]) == 0
    for name in ("text.txt", "text.zip", "text.onnx", "text.pt", "text.npz", "text.csv", "text.yaml"):
        Path(name).write_text("no file of this kind: [\n")
    for name in ("folder", "folder.hdf5"):
        Path(name).mkdir()
    rows = {"state": [0, 1], "action": [0, 0], "next_state": [1, 0], "probability": [1.0, 1.0], "reward": [1.0, 0.0]}
    np.savez("table.npz", **{key: np.array(values) for key, values in rows.items()})
    Path("set.yaml").write_text("env: Pendulum-v1\nparameters: {mass: {low: 0.5, high: 2.0}}\n")
    Path("plan.yaml").write_text("agents: [sac]\nsteps: 5\n")
    os.environ["MINARI_DATASETS_PATH"] = str(Path("store").absolute())
    KEPT.update({path: path.read_bytes() for path in Path().rglob("*") if path.is_file()})


KEPT: dict[Path, bytes] = {}


def snapshot() -> set[tuple[str, int]]:
    """Return all that is in the working folder, with the time of its last change."""
    paths = [path for path in Path().rglob("*") if path.name != "lock"]  # of a run: who looked at it last
    return {(str(path), path.stat().st_mtime_ns if path.is_file() else 0) for path in paths}


def restore() -> None:
    """Make the working folder what it was."""
    for path in sorted(Path().rglob("*"), reverse=True):
        if path.is_file() and path not in KEPT:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()) and str(path) not in ("folder", "folder.hdf5"):
            path.rmdir()
    for path, content in KEPT.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__.splitlines()[0] if __doc__ else "")))
