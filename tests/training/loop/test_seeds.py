"""`--num-seeds`: every seed is the run of that seed alone, in one process and one folder that is read as N runs."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
from sameness import assert_same, assert_same_run, rows

import surefoot
from surefoot import agents
from surefoot.envs import EnvConfig, TaskError
from surefoot.evaluation.policy_files import checkpoint_path, load_policy
from surefoot.evaluation.storage import load
from surefoot.training.cli.main import main
from surefoot.training.cli.plot import group
from surefoot.training.comparison import compare
from surefoot.training.config.run import EvalConfig, RunConfig
from surefoot.training.loop.finite import SeedsFailedError
from surefoot.training.loop.interrupt import StopRequest
from surefoot.training.report.data import gather
from surefoot.training.runs.folder import read_config, read_meta, seed_folders
from surefoot.training.session import begin, begin_or_take_up, execute, resume_run, take_up, train


@pytest.fixture(autouse=True)
def without_figures(monkeypatch):
    """A figure takes longer than such a run."""
    monkeypatch.setattr("surefoot.evaluation.figures.curves.learning_curves", lambda *_: None)


@pytest.fixture
def sac():
    """Return a tiny run of three seeds of SAC, which are trained side by side."""
    torch.set_num_threads(1)
    spec = agents.get("sac")
    return RunConfig(
        agent=dataclasses.replace(spec.default, **spec.tiny, learn_log_std_affine=True),
        env=EnvConfig(id="surefoot/Pendulum-v0", max_episode_steps=15),
        eval=EvalConfig(every=20, episodes=1),
        steps=50,
        seed=1,
        num_seeds=3,
        log_every=8,
        checkpoint_every=20,
    )


def of(config, seed, **changes):
    return dataclasses.replace(config, seed=seed, num_seeds=1, **changes)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return a function that trains one seed of a run alone, once for all tests, and returns its folder."""
    out, done = tmp_path_factory.mktemp("alone"), {}

    def run(agent, config, seed):
        if (agent, seed) not in done:
            done[agent, seed] = train(agent, of(config, seed), out=out, name=f"{agent}-{seed}")
        return done[agent, seed]

    return run


def assert_is_alone(folder, agent, config, alone):
    """Every seed in a folder is what the run of that seed alone is."""
    assert [one.name for one in seed_folders(folder)] == [f"seed-{config.seed + i}" for i in range(config.num_seeds)]
    for i, one in enumerate(seed_folders(folder)):
        other = alone(agent, config, config.seed + i)
        assert_same_run(other, one, config.steps)
        for kind in ("policy", "step"):
            files = [checkpoint_path(run, kind, config.steps) for run in (other, one)]
            assert files[1].stat().st_size < 1.1 * files[0].stat().st_size
        assert_same(*[load(checkpoint_path(run, "policy", config.steps)) for run in (other, one)])
        assert (other / "config.yaml").read_text() == (one / "config.yaml").read_text()


@pytest.mark.parametrize("agent", ["sac", "fake"])
def test_every_seed_is_the_run_of_that_seed_alone(agent, sac, tiny, alone, tmp_path, capsys):
    config = sac if agent == "sac" else dataclasses.replace(tiny, num_seeds=2)
    folder = train(agent, config, out=tmp_path, name="run")
    said = "".join(capsys.readouterr())
    line = "seeds side by side, with one stacked update" if agent == "sac" else "one seed after the other (the eager"
    assert said.count(line) == 1
    assert read_meta(folder)["status"] == "finished"
    assert read_config(folder)[1].num_seeds == config.num_seeds
    assert not (folder / "checkpoints").exists()
    assert_is_alone(folder, agent, config, alone)


@pytest.mark.parametrize("agent", ["sac", "fake"])
def test_a_stopped_and_resumed_run_is_the_straight_one(agent, sac, tiny, alone, tmp_path):
    config = sac if agent == "sac" else dataclasses.replace(tiny, num_seeds=2)
    seen = []

    def ask_to_stop(row):
        seen.append((row["seed"], row["step"]))
        return row["seed"] == config.seed and row["step"] > 30

    folder = train(agent, config, out=tmp_path, name="run", callback=ask_to_stop)
    assert read_meta(folder)["status"] == "interrupted"
    begun = {seed for seed, _ in seen}
    assert begun == ({1, 2, 3} if agent == "sac" else {0})
    assert [run.name for run in seed_folders(folder)] == [f"seed-{seed}" for seed in sorted(begun)]
    resume_run(folder, agent, config)
    assert read_meta(folder)["status"] == "finished"
    assert_is_alone(folder, agent, config, alone)


def test_a_longer_budget_is_the_run_that_had_it_from_the_start(sac, alone, tmp_path):
    folder = train("sac", dataclasses.replace(sac, steps=30), out=tmp_path, name="run")
    resume_run(folder, "sac", sac)
    assert_is_alone(folder, "sac", sac, alone)
    assert begin_or_take_up(folder, "sac", sac, None) is None


def test_seeds_that_were_killed_between_two_checkpoints_catch_up(sac, alone, tmp_path):
    folder = train("sac", dataclasses.replace(sac, steps=40), out=tmp_path, name="run")
    early = train("sac", of(sac, 2, steps=20), out=tmp_path, name="early")
    shutil.rmtree(folder / "seed-2")
    shutil.copytree(early, folder / "seed-2")  # 20 steps behind
    shutil.rmtree(folder / "seed-3")  # before its first checkpoint
    resume_run(folder, "sac", sac)
    assert_is_alone(folder, "sac", sac, alone)


@pytest.mark.parametrize("where", ["acting", "learning"])
def test_a_seed_that_fails_is_left_behind_and_the_others_go_on(where, sac, alone, tmp_path):
    run = begin("sac", sac, tmp_path / "run", None)
    broken = run.opened[2].agent
    whole = broken.gather

    def gather():
        due = whole()
        if broken.collector.env_steps < 33:
            return due
        if where == "acting":
            raise TaskError("the task broke")
        broken.nets.log_alpha.data.fill_(torch.nan)
        return due

    broken.gather = gather
    what = "the task broke" if where == "acting" else "training has diverged"
    with pytest.raises(SeedsFailedError, match=rf"1 of 3 seeds failed; the others .* Seed 2: .*{what}"):
        execute(run, StopRequest())
    folder = tmp_path / "run"
    assert read_meta(folder)["status"] == "failed"
    assert [read_meta(one)["status"] for one in seed_folders(folder)] == ["finished", "failed", "finished"]
    for seed in (1, 3):
        assert_same_run(alone("sac", sac, seed), folder / f"seed-{seed}", 50)
    resume_run(folder, "sac", sac)  # whose task is whole again
    assert_same_run(alone("sac", sac, 2), folder / "seed-2", 50)
    assert read_meta(folder)["status"] == "finished"


def test_a_seed_that_fails_after_another_does_not_stop_the_next(tiny, tmp_path, monkeypatch):
    spec = agents.get("fake")
    made = []

    def make(config, setting):
        made.append(setting.seed)
        spoilt = dataclasses.replace(config, nan_in="metric") if setting.seed == 0 else config
        return spec.make_agent(spoilt, setting)

    monkeypatch.setattr(agents, "get", lambda name: dataclasses.replace(spec, make_agent=make))
    with pytest.raises(SeedsFailedError, match="1 of 2 seeds failed"):
        train("fake", dataclasses.replace(tiny, num_seeds=2), out=tmp_path, name="run")
    assert made == [0, 1]
    assert [read_meta(one)["status"] for one in seed_folders(tmp_path / "run")] == ["failed", "finished"]


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_no_seeds_and_another_number_of_them_are_refused(tiny, tmp_path, capsys):
    task = ("--env.id", "surefoot/Pendulum-v0", "--out", str(tmp_path / "runs"))
    assert main(["train", "sac", *task, "--num-seeds", "0"]) == 2
    assert "--num-seeds is 0; it must be positive" in capsys.readouterr().err
    assert main(["train", "oracle", "--num-seeds", "2", "--out", str(tmp_path / "runs")]) == 2
    assert "--num-seeds 2" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    several = train("fake", dataclasses.replace(tiny, num_seeds=2), out=tmp_path, name="several")
    alone = train("fake", tiny, out=tmp_path, name="alone")
    for folder, before, now in ((several, 2, 3), (several, 2, 1), (alone, 1, 2)):
        with pytest.raises(ValueError, match=f"--num-seeds was {before}, not {now}; only"):
            take_up(folder, "fake", dataclasses.replace(tiny, num_seeds=now))


def test_nothing_is_left_of_a_run_that_cannot_begin(tiny, tmp_path):
    wrong = dataclasses.replace(tiny, num_seeds=2, env=EnvConfig("CartPole-v1"))
    with pytest.raises(ValueError, match="CartPole"):
        train("fake", wrong, out=tmp_path, name="run")
    assert not list(tmp_path.iterdir())


# --- who reads it -----------------------------------------------------------------------------------------------------


@pytest.fixture
def two(tiny, tmp_path):
    """Return the folder of a run of two seeds."""
    return train("fake", dataclasses.replace(tiny, num_seeds=2), out=tmp_path / "runs", name="run")


def test_evaluate_and_plot_and_report_read_it_as_so_many_runs(two, tiny, tmp_path, capsys):
    assert main(["evaluate", str(two), "--episodes", "2", "--json", str(tmp_path / "found.json")]) == 0
    found = json.loads((tmp_path / "found.json").read_text())
    assert [result["label"] for result in found["results"]] == [str(two / "seed-0"), str(two / "seed-1")]
    assert found["aggregate"][0]["runs"] == 2
    assert all(list((one / "evaluations").glob("*.json")) for one in seed_folders(two))
    assert main(["plot", str(two), "--metric", "walk", "--out", str(tmp_path / "walk.png")]) == 0
    assert list(group(seed_folders(two)).values()) == [seed_folders(two)]
    (cell,) = gather([two.parent]).cells
    assert [run.config.seed for run in cell.runs] == [0, 1]
    alone = train("fake", of(tiny, 2), out=two.parent, name="alone")
    (cell,) = gather([two.parent]).cells  # a seed alone is one more of the same method
    assert len(cell.runs) == 3
    assert len(gather([two, alone]).runs) == 3


def test_the_report_names_seeds_that_failed_or_never_began(two):
    shutil.rmtree(two / "seed-1")
    meta = read_meta(two / "seed-0") | {"status": "failed"}
    (two / "seed-0" / "meta.json").write_text(json.dumps(meta))
    assert [(loss.name, loss.status) for loss in gather([two]).losses] == [
        ("run-seed-0", "failed"), ("run-seed-1", "not begun"),
    ]  # fmt: skip


def test_python_reads_each_seed_and_says_where_they_are(two):
    run = surefoot.Run(two)
    assert [seed.config.seed for seed in run.seeds] == [0, 1]
    assert run.seeds[1].metrics()[0]["step"] == 15
    assert run.seeds[0].seeds == [run.seeds[0]]
    with pytest.raises(ValueError, match=r"a run of several seeds, each with its own metrics.csv: see `seeds`"):
        run.metrics()
    with pytest.raises(FileNotFoundError, match=r"it holds runs, such as .*seed-1"):
        run.policy()


def test_the_comparison_with_baseline_runs_is_over_all_seeds(two, tiny):
    shutil.copytree(two, two / "baselines" / "fake-x", ignore=shutil.ignore_patterns("baselines"))
    config = dataclasses.replace(tiny, num_seeds=2, baselines=("fake/x",))
    compare(two, "fake", config, torch.device("cpu"))
    own, baseline = json.loads((two / "comparison.json").read_text())
    assert own["real_return"] == baseline["real_return"]
    last = [[float(r["episode_return"]) for r in rows(one / "evaluations.csv")[-2:]] for one in seed_folders(two)]
    assert own["real_return"] == pytest.approx(sum(map(sum, last)) / 4)
    assert load_policy(two / "seed-1").seed == 1
