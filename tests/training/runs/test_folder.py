"""The run folder: found by name, movable, and enough to evaluate from."""

import os
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_agent import FakeConfig

from surefoot.evaluation import policy_files, storage
from surefoot.evaluation.storage import save
from surefoot.offline_data import load as load_data
from surefoot.training.loop.setup import resume
from surefoot.training.runs import folder as run_folder
from surefoot.training.runs import lock as lock_of
from surefoot.training.session import train

pytestmark = pytest.mark.usefixtures("unrendered")


@pytest.fixture
def run(tmp_path, tiny):
    return train("fake", tiny, out=tmp_path, name="run")


def test_a_moved_folder_gives_the_policy_of_each_checkpoint(run, tmp_path):
    moved = tmp_path / "elsewhere" / "moved"
    shutil.copytree(run, moved)
    shutil.rmtree(run)
    latest = policy_files.load_policy(moved)
    assert (latest.agent_name, latest.step, latest.agent_config) == ("fake", 60, FakeConfig())
    generator = torch.Generator().manual_seed(0)
    walk = sum(0.1 * torch.randn(1, 3, generator=generator) for _ in range(20))
    obs = torch.tensor([[1.0, 2.0, 3.0]])
    torch.testing.assert_close(latest.policy.act(obs), (obs @ walk.T).tanh())
    assert policy_files.load_policy(moved, 42).step == policy_files.load_policy(moved, "42").step == 42
    assert policy_files.load_policy(moved, "best").step in (27, 51, 60)
    assert policy_files.load_policy(moved / "checkpoints" / "best.pt").agent_name == "fake"


def test_an_absent_checkpoint_lists_those_there_are(run):
    with pytest.raises(FileNotFoundError, match="no checkpoint 7; available: 42, 60, best"):
        policy_files.load_policy(run, 7)
    with pytest.raises(FileNotFoundError, match=r"not a run folder \(no checkpoints folder\)$"):
        policy_files.load_policy(run / "plots")
    with pytest.raises(FileNotFoundError, match=f"no checkpoints folder.; it holds runs, such as .*{run.name}$"):
        policy_files.load_policy(run.parent)


def test_a_training_checkpoint_is_not_a_policy(run, tmp_path):
    with pytest.raises(ValueError, match="no policy in it; give the run folder"):
        policy_files.load_policy(policy_files.checkpoint_path(run, "step", 60))
    save(tmp_path / "other.pt", {"policy": {}, "agent_name": "sacc", "config": {"agent_name": "sacc"}})
    with pytest.raises(ValueError, match="unknown agent 'sacc'"):
        policy_files.load_policy(tmp_path / "other.pt")


def test_spaces_come_back_as_they_were(run):
    from surefoot.envs import spaces_of

    stored = storage.load(run / "checkpoints" / "best.pt")["spaces"]
    observation, action = spaces_of(run_folder.read_config(run)[1].env)
    for space, plain in ((observation, stored["observation"]), (action, stored["action"])):
        back = policy_files._space_from_plain(plain)
        assert back == space
        np.testing.assert_array_equal(back.low, space.low)


def test_an_existing_run_is_never_written_over(run, tiny, tmp_path):
    before = sorted(path.name for path in run.rglob("*"))
    with pytest.raises(FileExistsError, match=f"{run}: not empty; resume that run with --resume {run}, or choose"):
        train("fake", tiny, out=tmp_path, name="run")
    assert sorted(path.name for path in run.rglob("*")) == before


def test_the_folders_above_a_run_are_made(tmp_path, tiny):
    run_folder.create(tmp_path / "a" / "b" / "run", "fake", tiny, None).release()
    assert (tmp_path / "a" / "b" / "run" / "config.yaml").is_file()


def test_a_folder_that_another_process_has_filled_meanwhile_is_left_to_it(tmp_path, tiny, monkeypatch):
    take = lock_of.take

    def take_second(folder, **how):
        lock = take(folder, **how)
        (folder / "config.yaml").write_text("another's")
        return lock

    monkeypatch.setattr(lock_of, "take", take_second)
    with pytest.raises(FileExistsError, match=r"run: not empty; resume that run"):
        run_folder.create(tmp_path / "run", "fake", tiny, None)
    assert (tmp_path / "run" / "config.yaml").read_text() == "another's"
    take(tmp_path / "run").release()  # nobody holds it any more


def test_a_seed_of_a_run_is_named_with_its_run_and_any_other_folder_by_itself(tmp_path):
    run, alone = tmp_path / "run", tmp_path / "seed-3"
    for folder in (run, run / "seed-10", run / "seed-9", run / "seed-x", alone):
        folder.mkdir(exist_ok=True)
        (folder / "config.yaml").touch()
    assert run_folder.seed_folders(run) == [run / "seed-9", run / "seed-10"]
    assert run_folder.seed_folders(alone) == [alone]
    assert [run_folder.full_name(folder) for folder in (run / "seed-9", run, alone, run / "seed-x")] == [
        "run-seed-9", "run", "seed-3", "seed-x",
    ]  # fmt: skip
    assert run_folder.whole_run(run / "seed-10") == run


def test_an_empty_folder_may_be_used(tmp_path, tiny):
    (tmp_path / "run").mkdir()
    assert train("fake", tiny, out=tmp_path, name="run") == tmp_path / "run"


def test_places_that_cannot_be_written_are_named(tmp_path, tiny):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(FileExistsError, match="a file is in the way of the run folder"):
        train("fake", tiny, out=tmp_path, name="file")
    with pytest.raises(
        OSError, match=r"file/run: cannot make the run folder \(Not a directory\); choose another --out"
    ):
        train("fake", tiny, out=tmp_path / "file", name="run")


def test_the_default_name_is_safe_and_says_what_it_is(tiny):
    name = run_folder.default_name("fake", tiny, "sac/demo")
    assert name.startswith("fake-surefoot_Pendulum-v0-demo-s0-20")
    assert "/" not in name


def test_nothing_of_ours_is_ever_unpickled(run, tiny, data_file, monkeypatch):
    """Policies, whole checkpoints, configs and data are read while every way into pickle is closed."""

    def refuse(*arguments, **options):
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler", "_Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    for checkpoint in ("latest", "best", 42):
        policy_files.load_policy(run, checkpoint)
    assert resume(run, *run_folder.read_config(run)).counters.step == 60
    assert len(load_data(str(data_file))) == 120


def test_meta_json_says_what_the_run_is_from_its_first_moment(tiny, tmp_path):
    run_folder.create(tmp_path / "new", "fake", replace(tiny, seed=4), "sac/demo", "native")
    meta = run_folder.read_meta(tmp_path / "new")
    what = {"agent": "fake", "preset": "sac/demo", "seed": 4, "engine": "native"}
    assert {name: meta[name] for name in what} == what
    assert {"started", "commit", "versions", "command"} <= set(meta)
    run_folder.write_meta(tmp_path / "new", {"seed": 5, "more": 1})
    assert run_folder.read_meta(tmp_path / "new") == meta | {"seed": 5, "more": 1}


def test_a_run_is_finished_where_it_was_carried_through_under_the_same_settings(run, tiny):
    assert run_folder.is_finished(run, tiny)
    assert not run_folder.is_finished(run, replace(tiny, steps=61))
    run_folder.mark(run, "interrupted", 90.0)
    assert not run_folder.is_finished(run, tiny)
    assert run_folder.read_meta(run)["minutes"] == 1.5


def test_a_resumed_run_has_its_new_settings_and_remembers_each_time(run, tiny):
    run_folder.write_meta(run, {"preset": "sac/demo"})
    longer = replace(tiny, steps=90)
    for fresh in (False, True):
        run_folder.mark_resumed(run, "fake", longer, fresh_episodes=fresh)
    assert run_folder.read_config(run) == ("fake", longer)
    assert "preset: sac/demo" in (run / "config.yaml").read_text()
    assert [entry["episodes"] for entry in run_folder.read_meta(run)["resumed"]] == ["replayed", "fresh"]


def test_what_best_was_chosen_by_is_said_in_words(run):
    best = {"measure": "worst case", "value": 12.34567, "step": 12_000, "worlds": 16}
    run_folder.write_meta(run, {"best": best})
    assert run_folder.best_in_words(run) == "its worst case over 16 worlds, 12.35 at step 12,000"
    del best["worlds"]
    run_folder.write_meta(run, {"best": best | {"measure": "return"}})
    assert run_folder.best_in_words(run) == "its return, 12.35 at step 12,000"
    run_folder.write_meta(run, {"best": None})
    assert run_folder.best_in_words(run) == "the mean return of an evaluation (a run of an older version)"


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_every_file_of_a_run_can_be_read_by_whom_the_umask_lets(umask, tmp_path, tiny):
    before = os.umask(umask)
    try:
        folder = train("fake", tiny, out=tmp_path, name="shared")
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in folder.rglob("*")}
    assert {"config.yaml", "meta.json", "metrics.csv", "best.pt", "step-000000060.pt", "learning_curve.png"} <= set(
        modes
    )
    for path in folder.rglob("*"):
        assert modes[path.name] == (0o777 if path.is_dir() else 0o666) & ~umask, path
