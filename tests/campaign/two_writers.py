"""Start two processes on one run at the same moment, again and again: one trains, the other is told so.

python tests/campaign/two_writers.py --rounds 50    # a minute or two; adds to what earlier calls have come to
"""

from __future__ import annotations

import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import tyro
from tiny_runs import (
    draw_nothing,
    ended,
    forked,
    preload,
    records,
    rows,
    surefoot,
    surefoot_and_imports,
    tiny_run,
    write_data,
)

from surefoot.evaluation.policy_files import checkpoint_path, checkpoint_steps
from surefoot.training.runs.folder import write_config, write_meta

NAME = "two_writers"
COUNTS = ("rounds", "refused", "one after the other", "both", "neither", "doubled rows")
REFUSED = 2  # the exit code


@dataclass
class Options:
    """How often."""

    rounds: int = 50


def main(options: Options) -> int:
    """Carry the rounds out, and return 1 where two trained at once, neither did, or a row stands twice."""
    draw_nothing()
    began = time.perf_counter()
    counts = {key: records.results_of(NAME).get("sac", {}).get(key, 0) for key in COUNTS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = tiny_run("sac", write_data(folder / "data.hdf5"), keep_checkpoints=9, keep_finished=9)
        write_config(folder / "config.yaml", "sac", config, None)
        call = ("train", "--config", folder / "config.yaml", "--out", folder, "--name", "whole")
        work = surefoot_and_imports(folder / "imports", *call)
        assert ended(forked(work, folder / "log"), 600) == 0, (folder / "log").read_text()
        preload(folder / "imports")
        for _ in range(options.rounds):
            one_round(folder, counts)
            print(", ".join(f"{value} {key}" for key, value in counts.items()), flush=True)
    records.record_job(NAME, "sac", counts, began=began, seeds=[0])
    return int(any(counts[key] for key in COUNTS[-3:]))


def one_round(folder: Path, counts: dict[str, int]) -> None:
    """Let two processes resume the same run from its first checkpoint; count what became of them."""
    run, log = folder / "run", folder / "log"
    shutil.rmtree(run, ignore_errors=True)
    log.write_text("")
    shutil.copytree(folder / "whole", run)
    for step in checkpoint_steps(run)[1:]:
        checkpoint_path(run, "step", step).unlink()
    write_meta(run, {"status": "running"})
    pids = [forked(surefoot("train", "--resume", run), log) for _ in range(2)]
    codes = sorted(code if (code := ended(pid, 600)) is not None else -1 for pid in pids)
    counts["rounds"] += 1
    told = log.read_text().count("in use by process")
    if codes == [0, REFUSED] and told == 1:
        counts["refused"] += 1
    elif codes == [0, 0]:  # the second may have come when the first had finished
        counts["one after the other" if "is finished" in log.read_text() else "both"] += 1
    else:
        counts["neither"] += 1
        print(codes, log.read_text()[-1500:])
    for name, key in (("metrics.csv", ["step"]), ("evaluations.csv", ["step", "episode"])):
        table = [tuple(row[one] for one in key) for row in rows(run / name)]
        counts["doubled rows"] += len(table) - len(set(table))


if __name__ == "__main__":
    raise SystemExit(main(tyro.cli(Options, description=__doc__)))
