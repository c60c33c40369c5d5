"""What turns tensors into rows, and rows into files."""

import csv
import dataclasses
import json
import os
import struct

import pytest
import torch

from surefoot.agents.interface import Episodes, Progress
from surefoot.training.runs.loggers import CsvLog, make_loggers, require_installed
from surefoot.training.runs.meters import Meter

pytestmark = pytest.mark.usefixtures("unrendered")

BLOCK = 2**15  # bytes, of LevelDB's log format


def progress(episodes=(), **metrics):
    return Progress(1, 1, {name: torch.as_tensor(value) for name, value in metrics.items()}, tuple(episodes))


def test_each_metric_is_averaged_over_the_steps_that_reported_it():
    meter = Meter(torch.device("cpu"))
    meter.add(progress(a=1.0, b=torch.tensor([1.0, 3.0])))
    meter.add(progress(a=4.0))
    assert meter.read() == {"episodes": 0.0, "a": 2.5, "b": 2.0}
    assert meter.read() == {"episodes": 0.0}  # a new interval


def test_only_environments_that_ended_count_as_episodes():
    nan = float("nan")
    ended = Episodes(torch.tensor([True, False, True]), torch.tensor([1.0, nan, 5.0]), torch.tensor([10, 99, 20]))
    none = Episodes(torch.zeros(3, dtype=torch.bool), torch.full((3,), nan), torch.zeros(3))
    meter = Meter(torch.device("cpu"))
    meter.add(progress([ended, none, ended]))
    assert meter.read() == {"episodes": 4.0, "episode_return": 3.0, "episode_length": 15.0}


def test_means_are_those_of_sums_in_float64_bit_for_bit_also_through_a_checkpoint():
    meter, generator, reference = Meter(torch.device("cpu")), torch.Generator().manual_seed(0), {}
    for i in range(200):
        metrics = {"one": torch.randn((), generator=generator), "many": torch.randn(7, generator=generator)}
        meter.add(Progress(1, 1, metrics))
        for name, value in metrics.items():
            total = reference.setdefault(name, torch.zeros((), dtype=torch.float64))
            total.add_(value if value.ndim == 0 else value.double().mean())
        if i == 100:
            state, meter = meter.state_dict(), Meter(torch.device("cpu"))
            meter.load_state_dict(state)
    assert all(total.dtype == torch.float64 for total in state["sums"].values())
    assert meter.read() == {"episodes": 0, **{name: total.item() / 200 for name, total in reference.items()}}


def test_a_meter_owns_its_sums():
    """A CUDA graph writes each replay's metrics into the same tensors: what was added must not change with them."""
    meter, metric = Meter(torch.device("cpu")), torch.tensor(1.0)
    meter.add(progress(a=metric))
    metric.fill_(3.0)
    meter.add(progress(a=metric))
    assert meter.read()["a"] == 2.0


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_grows_by_columns_and_is_cut_back_to_a_state(tmp_path):
    log = CsvLog(tmp_path / "a.csv", ["step"])
    log.start()
    log.write([{"step": 1}])
    state = log.state_dict()
    log.write([{"step": 2, "new": 0.1}, {"step": 3, "new": None}])
    assert table(log.path) == [{"step": "1", "new": ""}, {"step": "2", "new": "0.1"}, {"step": "3", "new": ""}]
    again = CsvLog(log.path, ["step"])
    again.load_state_dict(state)
    again.write([{"step": 7}])
    assert table(log.path) == [{"step": "1"}, {"step": "7"}]


def test_a_missing_logger_names_its_extra_before_anything_is_made(tmp_path, tiny, monkeypatch):
    from surefoot.training.runs import loggers
    from surefoot.training.session import train

    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    for name in ("wandb", "tensorboard"):
        with pytest.raises(ImportError, match=rf'pip install "surefoot\[{name}\]"'):
            train("fake", dataclasses.replace(tiny, logger=(name,)), out=tmp_path, name="run")
    assert not list(tmp_path.iterdir())
    require_installed(())


def test_tensorboard_holds_every_number_by_environment_step(tmp_path):
    pytest.importorskip("tensorboard", reason="extra tensorboard not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = make_loggers(("tensorboard",), tmp_path, {})["tensorboard"]
    logger.log({"loss": 1.5, "score": None}, 10)
    logger.log({"loss": 2.5}, 20)
    logger.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["loss"]
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(10, 1.5), (20, 2.5)]


@pytest.fixture
def wandb_offline(monkeypatch, tmp_path):
    pytest.importorskip("wandb", reason="extra wandb not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def test_wandb_works_offline_and_a_resumed_run_keeps_its_id(tmp_path, tiny, wandb_offline):
    from surefoot.evaluation.policy_files import checkpoint_path
    from surefoot.evaluation.storage import load
    from surefoot.training.loop.interrupt import StopRequest
    from surefoot.training.loop.setup import resume
    from surefoot.training.session import execute, train

    folder = train("fake", dataclasses.replace(tiny, logger=("wandb",)), out=tmp_path, name="run")
    first = load(checkpoint_path(folder, "step", 60))["loggers"]["wandb"]["id"]
    execute(resume(folder, "fake", dataclasses.replace(tiny, logger=("wandb",), steps=90)), StopRequest())
    assert load(checkpoint_path(folder, "step", 90))["loggers"]["wandb"]["id"] == first
    runs = sorted(path.name for path in (folder / "wandb").glob("offline-run-*"))
    assert all(name.endswith(first) for name in runs)
    parts = [wandb_rows(path) for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb"))]
    steps = [[row["_step"] for row in rows] for rows in parts]
    assert [rows[-1] for rows in steps] == [60, 90]
    assert steps[1][0] > 60  # not from 0 again, under the same id
    for rows in parts:
        assert [row["_step"] for row in rows] == sorted({row["_step"] for row in rows})  # one row a step
        assert all(row["step"] == row["_step"] for row in rows)
    assert {"walk", "eval/episode_return"} <= set(parts[0][-1])  # at 60: an interval's row, then the last evaluation


def wandb_rows(path):
    """Return the rows of history in a file that W&B wrote off line."""
    from wandb.proto import wandb_internal_pb2

    content, records, place = path.read_bytes(), [b""], 7  # after the file's header; LevelDB's log format
    while place + 7 <= len(content):
        size, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        if BLOCK - place % BLOCK < 7:  # no room for a header
            place += BLOCK - place % BLOCK
            continue
        records[-1] += content[place + 7 : place + 7 + size]
        records += [b""] * (kind in (1, 4))  # whole, or the last part
        place += 7 + size
    rows = []
    for record in (wandb_internal_pb2.Record.FromString(data) for data in records[:-1]):
        if record.WhichOneof("record_type") == "history":
            items = record.history.item
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


def test_wandb_without_a_network_says_what_to_do(tmp_path, command):
    """In a process of its own: wandb reads its mode once a process."""
    pytest.importorskip("wandb", reason="extra wandb not installed")
    nobody = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40, "WANDB_INIT_TIMEOUT": "2"}
    env = os.environ | nobody | {"WANDB_MODE": "online"}
    task = ("--env.id", "surefoot/Pendulum-v0", "--steps", 9)
    process = command("train", "fake", *task, "--logger", "wandb", "--out", tmp_path, env=env)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert "surefoot: error: Weights & Biases did not start" in err.splitlines()[-1]
    assert "WANDB_MODE=offline" in err.splitlines()[-1]
    assert not list(tmp_path.iterdir())
