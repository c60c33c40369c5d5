"""Companion runs: other methods trained in parallel, each an ordinary run of its own, and the comparison at the end."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from surefoot import agents
from surefoot.training import grid
from surefoot.training.checkpoint import write_atomically
from surefoot.training.config import RunConfig
from surefoot.training.evaluation import EvalResult, acting, evaluate
from surefoot.training.presets import load_preset
from surefoot.training.run_folder import checkpoint_steps, load_policy, load_regret, method_name, read_config

LAST_LINES = 15  # of a failed companion's log, enough for the error and where it came from


def companion_folder(run: Path, entry: str) -> Path:
    """Return where the companion `AGENT/PRESET` of a run lives."""
    return run / "beside" / entry.replace("/", "-")


def require_companions(config: RunConfig, *, regret: str | None = None) -> None:
    """Raise for an entry of `beside` that names no agent or preset, or is measured otherwise, before anything starts.

    `regret` is what the run's regret is counted in, as `AgentSpec.regret`.
    """
    for entry in config.beside:
        agent_name, preset = entry.split("/")
        load_preset(agent_name, preset)
        if (theirs := agents.get(agent_name).regret) != regret:
            kinds = " and ".join(f"regret per {unit}" if unit else "return" for unit in (regret, theirs))
            raise ValueError(f"beside: {entry}: cannot be compared: they are measured by {kinds}")


class Companions:
    """The companions of a run as child processes, one CPU thread each, leaving one CPU to the run itself."""

    def __init__(self, run: Path, config: RunConfig, should_stop: Callable[[], object]) -> None:
        self.run, self.config, self.should_stop = run, config, should_stop
        self.children: list[subprocess.Popen[bytes]] = []
        self.lock = threading.Lock()
        self.stopping = False

    def __enter__(self) -> Companions:
        self.pool = ThreadPoolExecutor(max_workers=max(1, (os.cpu_count() or 1) - 1))
        self.waiting = [self.pool.submit(self._train, entry) for entry in self.config.beside]
        return self

    def __exit__(self, *error: object) -> None:
        """Ask whatever still runs to save and end, and wait for it."""
        with self.lock:
            self.stopping = True
            for child in self.children:
                if child.poll() is None:
                    child.send_signal(signal.SIGINT)
        self.pool.shutdown(wait=True, cancel_futures=True)

    def wait(self) -> None:
        """Wait for every companion or for a request to stop; `ChildProcessError` with the log's end if one failed."""
        for future in self.waiting:
            while not self.should_stop() and not _ended(future):
                pass
            if future.done():
                future.result()

    def _train(self, entry: str) -> None:
        folder = companion_folder(self.run, entry)
        folder.parent.mkdir(exist_ok=True)
        log = folder.with_suffix(".log")
        with log.open("ab") as output:
            with self.lock:
                if self.stopping:
                    return
                # A session of its own: Ctrl-C in the terminal reaches it through this run only, once.
                child = subprocess.Popen(
                    self._command(entry, folder),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
                self.children.append(child)
            code = child.wait()
        if code and not self.stopping:
            end = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:])
            raise ChildProcessError(f"the companion run {entry} failed with exit code {code}; the end of {log}:\n{end}")

    def _command(self, entry: str, folder: Path) -> list[str]:
        agent_name, preset = entry.split("/")
        call = [sys.executable, "-m", "surefoot.training.cli", "train", agent_name]
        if checkpoint_steps(folder):
            return [*call, "--resume", str(folder)]
        if folder.exists():  # killed before its first checkpoint
            shutil.rmtree(folder)
        place = ["--out", str(folder.parent), "--name", folder.name]
        return [*call, "--preset", preset, *place, "--seed", str(self.config.seed), "--threads", "1"]


def _ended(future: Future[None], patience: float = 0.2) -> bool:
    """Whether the future is done, after waiting for it a moment; its error is left for `result`."""
    try:
        future.exception(timeout=patience)
    except TimeoutError:
        return False
    return True


# --- the comparison ---------------------------------------------------------------------------------------------------


def with_companions(run: Path, agent_name: str, config: RunConfig) -> dict[str, Path]:
    """Return label -> folder of a run and its companions: the agent, or AGENT/PRESET where several are of one."""
    agents_of = [agent_name, *(entry.split("/")[0] for entry in config.beside)]
    labels = [entry if agents_of.count(of) > 1 else of for of, entry in zip(agents_of[1:], config.beside, strict=True)]
    folders = (companion_folder(run, entry) for entry in config.beside)
    return {method_name(agent_name, config): run} | dict(zip(labels, folders, strict=True))


def compare(run: Path, agent_name: str, config: RunConfig, device: torch.device) -> None:
    """Draw the learning curves of a run and its companions; with companions, also print and write a table.

    Every policy is measured at its last checkpoint in the simulator (`env.physics`) and in the real dynamics
    (`eval.physics`) of this run, on the same episodes.
    """
    runs = with_companions(run, agent_name, config)
    if unit := agents.get(agent_name).regret:
        compare_regret(runs, run, unit)
        return
    from surefoot.training.plots import diagnostics, learning_curves  # matplotlib takes half a second to import

    learning_curves(runs, run / "plots" / "learning_curve.png")
    if drawn := agents.get(agent_name).drawn:
        alike = {label: folder for label, folder in runs.items() if read_config(folder)[0] == agent_name}
        diagnostics(alike, run / "plots" / "diagnostics.png", drawn)
    if config.eval.grid is not None:
        compare_worlds(runs, run, config, device)
        return
    if config.beside:
        rows = [_measure(label, folder, config, device) for label, folder in runs.items()]
        _write_comparison(run, rows)
        Console().print(_table(rows, config))


def compare_worlds(runs: dict[str, Path], run: Path, config: RunConfig, device: torch.device) -> None:
    """Play the last policies of runs at every point of the grid; print and write the table and draw the maps.

    Reset seeds begin 10,000 above those of the evaluations: nothing was chosen by them.
    """
    assert config.uncertainty is not None
    assert config.eval.grid is not None
    uncertainty = grid.load_set(config.uncertainty)
    results, rows = {}, []
    for label, folder in runs.items():
        loaded = load_policy(folder, device=device)
        task = replace(config.env, physics=config.eval.physics, clock=loaded.config.env.clock, num_envs=grid.LANES)
        results[label] = grid.evaluate_static(
            acting(loaded.policy),
            task,
            uncertainty,
            n=config.eval.grid,
            closed=config.eval.grid_closed,
            episodes=config.eval.episodes,
            seeds=(config.eval.seed + 10_000,),
            device=device,
        )
        rows.append({"method": label, "step": loaded.step, **grid.plain(results[label])})
    _write_comparison(run, rows)
    pictures = grid.draw_beside(results, run / "plots" / "worlds.png", f"{config.uncertainty}, seed {config.seed}")
    kind = "closed" if config.eval.grid_closed else "half-open"
    Console().print(grid.comparison(f"{config.uncertainty}, {kind} grid, seed {config.seed}", list(results.items())))
    for picture in pictures:
        print(f"picture: {picture}")


def compare_regret(runs: dict[str, Path], run: Path, unit: str) -> None:
    """Draw the regret of runs, counted in `unit`s, in the folder of the first; of several, print and write a table."""
    from surefoot.training.plots import last_decade_slope, regret_curves

    regret_curves(runs, run / "plots" / "regret.png", unit=unit)
    if len(runs) == 1:
        return
    rows = []
    for label, folder in runs.items():
        rounds, regret = load_regret(folder)
        error = float(regret[-1].std(ddof=1)) / regret.shape[1] ** 0.5 if regret.shape[1] > 1 else None
        numbers = {"regret": float(regret[-1].mean()), "standard_error": error}
        numbers["slope"] = last_decade_slope(rounds, regret)
        rows.append({"method": label, f"{unit}s": int(rounds[-1]), "replicates": regret.shape[1], **numbers})
    rows.sort(key=lambda row: row["regret"])
    _write_comparison(run, rows)
    Console().print(_regret_table(rows, unit))


def _regret_table(rows: list[dict[str, Any]], unit: str) -> Table:
    kind = "steady-state pseudo-regret" if unit == "round" else "regret"
    caption = f"mean ± standard error over replicates; slope: log-log, last decade of {unit}s"
    table = Table(title=f"{kind} after {rows[0][f'{unit}s']:,} {unit}s", caption=caption)
    for name in ("method", "replicates", "regret", "slope"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for row in rows:
        error = "" if row["standard_error"] is None else f" ± {row['standard_error']:,.1f}"
        slope = "-" if math.isnan(row["slope"]) else f"{row['slope']:.2f}"
        table.add_row(row["method"], str(row["replicates"]), f"{row['regret']:,.1f}{error}", slope)
    return table


def _write_comparison(run: Path, rows: list[dict[str, Any]]) -> None:
    text = json.dumps(rows, indent=2) + "\n"
    write_atomically(run / "comparison.json", lambda file: file.write(text.encode()))


def _measure(label: str, folder: Path, config: RunConfig, device: torch.device) -> dict[str, Any]:
    loaded = load_policy(folder, device=device)
    simulator, real = (
        evaluate(
            acting(loaded.policy),
            replace(config.env, physics=physics, clock=loaded.config.env.clock),  # as the policy sees the task
            episodes=config.eval.episodes,
            seed=config.eval.seed,
            device=device,
        )
        for physics in (config.env.physics, config.eval.physics)
    )
    spec = agents.get(loaded.agent_name)
    saw = [name for name, used in (("simulator", spec.acts), ("data", loaded.config.data.source is not None)) if used]
    return {"method": label, "saw": " + ".join(saw), "step": loaded.step} | _numbers(simulator, real)


def _numbers(simulator: EvalResult, real: EvalResult) -> dict[str, Any]:
    return {
        "simulator_return": float(np.mean(simulator.returns)),
        "simulator_std": float(np.std(simulator.returns)),
        "real_return": float(np.mean(real.returns)),
        "real_std": float(np.std(real.returns)),
        "score": None if real.score is None else float(np.mean(real.score)),
    }


def _table(rows: list[dict[str, Any]], config: RunConfig) -> Table:
    caption = f"mean ± std over {config.eval.episodes} episodes of the last policy; score: D4RL-normalised"
    table = Table(title=f"{config.env.id}, seed {config.seed}", caption=caption)
    for name in ("method", "learned from"):
        table.add_column(name)
    for name in ("simulator return", "real return", "score"):
        table.add_column(name, justify="right")
    for row in rows:
        returns = [_spread(row[f"{place}_return"], row[f"{place}_std"]) for place in ("simulator", "real")]
        table.add_row(row["method"], row["saw"], *returns, "-" if row["score"] is None else f"{row['score']:.1f}")
    return table


def _spread(mean: float, std: float) -> str:
    """Return mean ± std; two decimals where returns are so small that they say something."""
    digits = 0 if abs(mean) + std >= 10 else 2
    return f"{mean:.{digits}f} ± {std:.{digits}f}"
