"""Damaged and hostile files for every reader: each is read, or refused in one line; none runs, hangs or leads away.

    python tests/campaign/hostile_files.py --minutes 2              # of each reader; adds to what earlier calls found
    python tests/campaign/hostile_files.py --readers hdf5 --minutes 60

Each trial changes a valid file: bytes, lengths, numbers in the text, entries of archives (whose checksums are made to
fit again), paths that lead to a secret file. It fails where the reader raises what the command line would show as a
traceback, where it takes longer than `LONGEST` seconds or more memory than `MOST_MEMORY`, where its process dies, where
the secret is opened or comes out. Trials run in forked processes: one that dies is counted, and the next begins.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OMP_NUM_THREADS"] = "1"  # a process with threads cannot be forked
ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "benchmarks")]

import h5py  # noqa: E402
import numpy as np  # noqa: E402
import old_archives  # noqa: E402
import record as records  # noqa: E402
import tyro  # noqa: E402
import yaml  # noqa: E402

from surefoot.evaluation.policies import load_any  # noqa: E402
from surefoot.evaluation.policies.vecnormalize import read_normalizer  # noqa: E402
from surefoot.evaluation.regret import load_regret  # noqa: E402
from surefoot.evaluation.storage import _CHECKSUM, _COMMENT, _write_with_checksum  # noqa: E402
from surefoot.evaluation.tables import read_table  # noqa: E402
from surefoot.evaluation.uncertainty_grid import load_set  # noqa: E402
from surefoot.offline_data import load, write_minari  # noqa: E402
from surefoot.offline_data.d4rl import read_metadata  # noqa: E402
from surefoot.training.cli.main import main as surefoot  # noqa: E402
from surefoot.training.config.presets import load_preset  # noqa: E402
from surefoot.training.report.data import gather  # noqa: E402
from surefoot.training.report.numbers import numbers  # noqa: E402
from surefoot.training.runs.folder import read_config  # noqa: E402
from surefoot.training.runs.shared_policy import read_stress  # noqa: E402
from surefoot.training.sweep.plan import expand, read_sweep  # noqa: E402

NAME = "hostile_files"
LONGEST = 30  # seconds of CPU time of one trial; ten times that by the clock, however busy the machine
MOST_MEMORY = 8 * 2**30  # bytes of address space beyond what the process has before
BATCH = 50  # trials of one forked process
SECRET = b"SECRET-OF-ANOTHER-FILE"
REFUSALS = (ValueError, OSError, ImportError)  # what the command line turns into one line


class Reader(NamedTuple):
    """What reads a kind of file, and a valid one of it."""

    read: Callable[[Path], Any]
    file: Path  # what is changed, within `folder`
    folder: Path  # what is copied for a trial


@dataclass
class Options:
    """Which readers, and how long."""

    readers: tuple[str, ...] = ()
    """Only these."""
    minutes: float = 2.0
    """Of each reader."""
    seed: int = 0
    """Of the changes; each call goes on from another place than the one before."""
    keep: Path | None = None
    """Where files go that were not refused as they should be."""


def main(options: Options) -> int:
    """Carry the campaign out, and return 1 where something was found."""
    began, found = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        readers = prepare(Path(place))
        for name in options.readers or readers:
            readers[name].read(readers[name].file)  # which must be valid before it is changed
            before = records.results_of(NAME).get(name, {})
            counts, failures = campaign(readers[name], name, options, int(before.get("trials", 0)))
            found += len(failures)
            total = {key: int(before.get(key, 0)) + value for key, value in counts.items()}
            print(f"{name}: {counts}", *failures[:20], sep="\n    ", flush=True)
            figures = total | {"minutes": round(before.get("minutes", 0) + options.minutes, 1)}
            records.record_job(NAME, name, figures, began=began, seeds=[options.seed])
    return int(bool(found))


def campaign(reader: Reader, name: str, options: Options, first: int) -> tuple[dict[str, int], list[str]]:
    """Return how many trials of a reader came to what, and what was found."""
    counts = dict.fromkeys(("trials", "refused", "read", "tracebacks", "hangs", "crashes", "outside"), 0)
    failures, until, i = list[str](), time.monotonic() + 60 * options.minutes, first
    while time.monotonic() < until:
        for index, outcome, detail in batch(reader, name, options, i):
            i = index + 1
            counts["trials"] += 1
            counts[outcome] += 1
            if outcome not in ("refused", "read"):
                failures.append(f"{outcome} in trial {index}: {detail}")
    return counts, failures


def batch(reader: Reader, name: str, options: Options, first: int) -> Iterator[tuple[int, str, str]]:
    """Run trials in a forked process, and yield what each came to; the last one where the process died."""
    to_read, to_write = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(to_read)
        try:  # whatever happens, the child does not go on with what its parent does
            _trials(reader, name, options, first, os.fdopen(to_write, "w"))
            os._exit(0)
        finally:
            os._exit(1)
    os.close(to_write)
    done = first
    with os.fdopen(to_read) as answers:
        for line in answers:
            yield tuple(json.loads(line))  # type: ignore[misc]
            done += 1
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status) != 0 and done < first + BATCH:
        code = os.waitstatus_to_exitcode(status)
        outcome = "hangs" if code in (-signal.SIGALRM, -signal.SIGPROF) else "crashes"
        _keep(name, options, done)
        yield done, outcome, f"the process ended with {code}"


def _trials(reader: Reader, name: str, options: Options, first: int, answers: Any) -> None:
    """Run `BATCH` trials in this process."""
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MOST_MEMORY, used + MOST_MEMORY))
    opened = list[str]()
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    warnings.simplefilter("ignore")
    for index in range(first, first + BATCH):
        folder = _trial_folder(name)
        path = make_trial(reader, folder, random.Random(f"{options.seed} {name} {index}"))
        opened.clear()
        _limit(LONGEST)
        outcome, detail = _outcome(reader, path)
        _limit(0)
        if outcome in ("read", "refused") and any(entry.endswith("secret") for entry in opened):
            outcome, detail = "outside", "the secret file was opened"
        if outcome not in ("read", "refused"):
            _keep(name, options, index)
        answers.write(json.dumps([index, outcome, detail]) + "\n")
        answers.flush()


def _limit(seconds: float) -> None:
    """Let signals, whose default ends the process, come after a time; 0 takes them back."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, 10 * seconds)


def _outcome(reader: Reader, path: Path) -> tuple[str, str]:
    try:
        content = reader.read(path)
    except REFUSALS as error:
        text = " ".join(str(error).split())
        leaked = SECRET.decode() in text
        return ("outside", "the secret is in the message") if leaked else ("refused", "")
    except BaseException as error:
        place = [frame for frame in traceback.extract_tb(error.__traceback__) if str(ROOT) in frame.filename][-1:]
        where = f"{Path(place[0].filename).name}:{place[0].lineno}" if place else "?"
        return "tracebacks", f"{type(error).__name__} {' '.join(str(error).split())[:160]} at {where}"
    return ("outside", "the secret came out") if _holds_secret(content) else ("read", "")


def _holds_secret(content: Any) -> bool:
    try:
        arrays = [content.obs, content.action, content.reward] if hasattr(content, "obs") else []
        if any(SECRET in np.ascontiguousarray(array.numpy()).tobytes() for array in arrays):
            return True
        return SECRET.decode() in str(content)[:100_000]
    except (TypeError, ValueError, AttributeError):
        return False


def _trial_folder(name: str) -> Path:
    return Path(f"trial-{name}")


def _keep(name: str, options: Options, index: int) -> None:
    if options.keep is not None:
        shutil.copytree(_trial_folder(name), options.keep / f"{name}-{index}", dirs_exist_ok=True)


# --- changes ----------------------------------------------------------------------------------------------------------

EXTREMES = [
    b"\x00" * 8,
    b"\xff" * 8,
    b"\xff" * 7 + b"\x7f",
    b"\x00\x00\x00\x80",
    b"\x01\x00\x00\x00",
    b"\xff\xff\x00\x00",
]
WORDS = [
    "nan",
    "inf",
    "-inf",
    "-1",
    "0",
    "1e999",
    "1e30",
    "99999999999999999999",
    "null",
    "true",
    '"x"',
    "[]",
    "{}",
    "''",
]
WORDS += [
    "../secret",
    "../../secret",
    "/etc/passwd",
    "evil_module:X-v0",
    "{a: 1}",
    "[[[[1]]]]",
    "\\ud800",
    "\x00",
    "é",
    "",
]
TEXT = {".json", ".yaml", ".yml", ".csv", ".md"}


def make_trial(reader: Reader, folder: Path, chance: random.Random) -> Path:
    """Write a changed copy of a reader's folder, and return the path to read."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(reader.folder, folder)
    path = folder / reader.file.relative_to(reader.folder)
    content = path.read_bytes()
    if path.suffix in TEXT:
        content = changed_text(content, chance)
    elif zipfile.is_zipfile(path) and chance.random() < 0.7:
        content = changed_archive(content, chance)
    else:
        content = changed_bytes(content, chance)
    path.write_bytes(content)
    return path


def changed_bytes(content: bytes, chance: random.Random) -> bytes:
    """Return bytes with a few of them changed, cut, doubled or moved."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        place = chance.randrange(len(data) + 1)
        size = chance.choice((1, 2, 4, 8, 64, 512))
        match chance.randrange(7):
            case 0:
                data[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                extreme = chance.choice(EXTREMES)
                data[place : place + len(extreme)] = extreme
            case 2 if chance.random() < 0.2:
                del data[place:]
            case 3:
                del data[place : place + size]
            case 4:
                data[place:place] = chance.randbytes(size)
            case 5:
                data[place:place] = data[place : place + size]
            case _:
                data[place : place + 1] = bytes(
                    [(data[place] ^ (1 << chance.randrange(8))) if place < len(data) else 0]
                )
        data = data or bytearray(b"\x00")
    return bytes(data)


def changed_text(content: bytes, chance: random.Random) -> bytes:
    """Return text with some of its numbers, words or lines changed, or changed as bytes."""
    if chance.random() < 0.2:
        return changed_bytes(content, chance)
    text = content.decode("utf-8", "replace")
    for _ in range(chance.choice((1, 1, 2, 5))):
        tokens = list(re.finditer(r'-?\d[\d.e+-]*|"[^"]*"|\w[\w./-]*|[\[\]{}:,]', text))
        if not tokens:
            return b""
        token, word = chance.choice(tokens), chance.choice(WORDS)
        other = chance.choice([word, word, token[0] * chance.choice((0, 2, 50)), chance.choice(tokens)[0], "[" * 2000])
        text = text[: token.start()] + other + text[token.end() :]
    if chance.random() < 0.05:
        text = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 40)) + text
    return text.encode("utf-8", "replace")


def changed_archive(content: bytes, chance: random.Random) -> bytes:
    """Return a zip file with an entry changed, left out, doubled or packed, its checksums made to fit."""
    own = content[-_COMMENT:].startswith(_CHECKSUM)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    place = chance.randrange(len(entries))
    name, old = entries[place]
    match chance.randrange(8):
        case 0:
            del entries[place]
        case 1:
            entries[place] = (chance.choice(("../secret", "/etc/passwd", name + "x", "x")), old)
        case 2:
            entries.append((name, changed_bytes(old, chance)))
        case 3:
            entries[place] = (name, bytes(chance.choice((0, 10**6, 10**8))))
        case 4 if old[:1] == b"{":
            entries[place] = (name, changed_text(old, chance))
        case _:
            entries[place] = (name, changed_bytes(old, chance))
    out = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if chance.random() < 0.2 else zipfile.ZIP_STORED
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w", method) as archive:
        warnings.simplefilter("ignore")  # of names that are there twice
        for name, entry in entries:
            archive.writestr(name, entry)
    if not own:
        return out.getvalue()
    signed = io.BytesIO()
    _write_with_checksum(signed, out.getbuffer())
    return signed.getvalue()


# --- valid files ------------------------------------------------------------------------------------------------------


def prepare(place: Path) -> dict[str, Reader]:
    """Write a valid file of every kind and return its readers; a secret lies where paths of the changes lead."""
    (place / "secret").write_bytes(SECRET * 100)
    tiny = "--agent.hidden 8 --agent.batch-size 8 --agent.random-steps 8 --agent.learning-starts 8 --eval.episodes 1"
    base = f"train sac --env.id Pendulum-v1 --env.max-episode-steps 20 --steps 60 --baselines --out . {tiny}"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        assert surefoot([*base.split(), "--name", "run"]) == 0
        assert surefoot(["export", "run", "onnx/policy.onnx"]) == 0
    run, policy = place / "run", next((place / "run" / "checkpoints").glob("policy-*.pt"))
    alone = _folder(place / "policy")
    shutil.copy(policy, alone / "policy.pt")
    data = _write_data(_folder(place / "hdf5") / "data.hdf5")
    readers = {
        "hdf5": Reader(lambda path: load(str(path)), data, data.parent),
        "hdf5 metadata": Reader(read_metadata, data, data.parent),
        "policy": Reader(load_any, alone / "policy.pt", alone),
        "onnx": Reader(load_any, place / "onnx" / "policy.onnx", place / "onnx"),
        "run": Reader(lambda path: read_config(path.parent), run / "config.yaml", run),
    }
    for name in ("config.yaml", "meta.json", "metrics.csv", "evaluations.csv"):
        readers[f"report {name}"] = Reader(lambda path: numbers(gather([path.parent])), run / name, run)
    return readers | _minari(place, data) | _tables(place) | _texts(place, run) | _archives(place)


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path


def _write_data(path: Path) -> Path:
    rows, generator = 120, np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        for name, width in (("observations", 3), ("next_observations", 3), ("actions", 1)):
            values = generator.uniform(-0.9, 0.9, (rows, width)).astype(np.float32)
            file.create_dataset(name, data=values, compression="gzip" if width == 3 else None, shuffle=width == 3)
        file["rewards"] = generator.normal(size=rows)
        file["terminals"], file["timeouts"] = np.zeros(rows, bool), np.arange(1, rows + 1) % 40 == 0
        file["metadata/algorithm"] = np.bytes_(b"sac")
    return path


def _minari(place: Path, data: Path) -> dict[str, Reader]:
    os.environ["MINARI_DATASETS_PATH"] = str(place / "store")
    folder = write_minari("toy/line-v0", load(str(data), view="qlearning"))
    return {
        "minari hdf5": Reader(lambda path: load(str(path.parents[1])), folder / "data" / "main_data.hdf5", folder),
        "minari metadata": Reader(lambda path: load(str(path.parents[1])), folder / "data" / "metadata.json", folder),
    }


def _tables(place: Path) -> dict[str, Reader]:
    folder = _folder(place / "tables")
    rows = {"state": [0, 1], "action": [0, 0], "next_state": [1, 0], "probability": [1.0, 1.0], "reward": [1.0, 0.0]}
    np.savez(folder / "table.npz", **{key: np.array(values) for key, values in rows.items()})
    lines = [",".join(map(str, row)) for row in zip(*rows.values(), strict=True)]
    (folder / "table.csv").write_text("\n".join([",".join(rows), *lines]) + "\n")
    np.savez(folder / "regret.npz", rounds=np.arange(3), regret=np.zeros((3, 2)))
    return {
        "table npz": Reader(read_table, folder / "table.npz", folder),
        "table csv": Reader(read_table, folder / "table.csv", folder),
        "regret": Reader(lambda path: load_regret(path.parent), folder / "regret.npz", folder),
    }


def _texts(place: Path, run: Path) -> dict[str, Reader]:
    folder = _folder(place / "texts")
    ranges = {"mass": {"low": 0.5, "high": 2.0}, "length": {"low": 0.5, "high": 2.0, "nominal": 1.0}}
    (folder / "set.yaml").write_text(yaml.safe_dump({"env": "Pendulum-v1", "parameters": ranges}))
    plan = {"agents": ["sac"], "seeds": ["0..2"], "set": {"agent.hidden": [[8], [16]], "env.id": ["Pendulum-v1"]}}
    (folder / "plan.yaml").write_text(yaml.safe_dump(plan | {"objective": {"level": 0.1}, "cpus_per_run": 1.0}))
    preset = {"env": {"id": "Pendulum-v1", "physics": {"mass": 1.5}}, "agent": {"hidden": [8]}, "steps": 5000}
    (folder / "preset.yaml").write_text(yaml.safe_dump(preset))
    policy = load_any(run)
    known = {"agent": policy.agent_name, "step": policy.step, "training_seed": policy.training_seed, "sha256": None}
    task = {"id": policy.env_config.id}
    stressed = {"label": "run", **known, "env": task, "sets": [{"name": "disturbances"}]}
    (folder / "stress.json").write_text(json.dumps({"stress": 1, "policies": [stressed]}))
    return {
        "set yaml": Reader(lambda path: load_set(str(path)), folder / "set.yaml", folder),
        "sweep yaml": Reader(lambda path: expand(read_sweep(path)), folder / "plan.yaml", folder),
        "preset yaml": Reader(lambda path: load_preset("sac", str(path)), folder / "preset.yaml", folder),
        "stress json": Reader(lambda path: read_stress(run, policy, path), folder / "stress.json", folder),
    }


def _archives(place: Path) -> dict[str, Reader]:
    folder = _folder(place / "sb3")
    old_archives.write(folder / "sac.zip")
    (folder / "vecnormalize.pkl").write_bytes(old_archives.old_statistics(np.zeros(3), np.ones(3)))
    (folder / "sac").mkdir()
    old_archives.write_config(folder / "sac", normalize=True)
    settings = next(path for path in (folder / "sac").rglob("*.yml"))
    return {
        "sb3 archive": Reader(load_any, folder / "sac.zip", folder),
        "vecnormalize": Reader(read_normalizer, folder / "vecnormalize.pkl", folder),
        "sb3 settings": Reader(lambda path: load_any(_archive_of(path)), settings, folder),
    }


def _archive_of(path: Path) -> Path:
    return next(parent for parent in path.parents if (parent / "sac.zip").is_file()) / "sac.zip"


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__.splitlines()[0] if __doc__ else "")))
