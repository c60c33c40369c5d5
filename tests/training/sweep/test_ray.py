"""Sweeps on Ray: what needs no cluster, and (slow) a local Ray of 2 CPUs for real."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from fake_agent import HERE, FakeConfig
from sameness import assert_same_run
from sweeps import TINY, words
from waiting import wait_until

from surefoot.envs import EnvConfig, Physics
from surefoot.evaluation.episodes import evaluate
from surefoot.training.cli.main import main
from surefoot.training.config.presets import to_plain
from surefoot.training.config.run import EvalConfig
from surefoot.training.loop.interrupt import StopRequest
from surefoot.training.loop.setup import start
from surefoot.training.runs import folder as run_folder
from surefoot.training.session import execute
from surefoot.training.sweep.entry import Entry
from surefoot.training.sweep.plan import (
    SearchObjective,
    Sweep,
    expand,
    is_done,
    read_failures,
    read_plan,
    search_range,
)

SETUP_HOOK = "ray_worker.know_fake_and_die_once"

# --- without Ray ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "found"),
    [
        ({"range": ["1e-1", 2]}, ("range", [0.1, 2.0])),
        ({"log_range": [1e-5, "1e-2"]}, ("log_range", [1e-5, 1e-2])),
        ({"choices": [[4, 4], "x"]}, ("choices", [[4, 4], "x"])),
    ],
)
def test_a_search_draws_from_ranges_and_choices(what, found):
    assert search_range("agent.scale", what) == found


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (3, "expected range"),
        ({"rnage": [0, 1]}, "expected range"),
        ({"range": [1, 0]}, "expected a < b$"),
        ({"range": [1, 2, 3]}, "expected two numbers"),
        ({"log_range": [0, 1]}, "expected a < b, above 0"),
        ({"choices": []}, "needs a list"),
        ({"range": [-1, 1]}, "--agent.scale must be positive"),
        ({"choices": [0.1, "much"]}, "agent.scale is 'much'; expected float"),
    ],
)
def test_a_search_that_cannot_be_drawn_from_is_refused_before_anything_starts(what, message):
    with pytest.raises(ValueError, match=message):
        expand(Sweep(("fake",), search={"agent.scale": what}, engine="ray"))


def test_a_search_of_unknown_fields_or_over_seeds_is_refused():
    with pytest.raises(ValueError, match=r"unknown key 'agent\.scael'"):
        expand(Sweep(("fake",), search={"agent.scael": {"range": [0, 1]}}, engine="ray"))
    with pytest.raises(ValueError, match="one seed"):
        expand(Sweep(("fake",), seeds=("0,1",), search={"agent.scale": {"range": [1, 2]}}, engine="ray"))


def test_without_ray_the_extra_is_named_before_a_folder_is_made(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "surefoot.training.sweep.ray", raising=False)
    assert main(["sweep", "--agents", "fake", "--engine", "ray", "--out", str(tmp_path)]) == 2
    assert 'pip install "surefoot[ray]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- with Ray, without a cluster --------------------------------------------------------------------------------------


@pytest.fixture
def sweep_ray():
    """Import the engine, which takes Ray."""
    pytest.importorskip("ray.tune")
    pytest.importorskip("optuna")
    from surefoot.training.sweep import ray as sweep_ray

    return sweep_ray


def test_fields_of_whole_numbers_are_searched_in_whole_numbers(sweep_ray, tiny):
    for field, what, kinds, low, high in (
        ("steps", {"range": [3, 5]}, int, 3, 5),
        ("steps", {"log_range": [3, 5]}, int, 3, 5),
        ("agent.scale", {"range": [0.5, 2]}, float, 0.5, 2),
        ("agent.scale", {"log_range": [1e-3, 1]}, float, 1e-3, 1),
    ):
        drawn = [sweep_ray.domain_of(tiny, field, what).sample() for _ in range(60)]
        assert all(low <= value <= high and isinstance(value, kinds | np.generic) for value in drawn)
        if kinds is int:
            assert set(drawn) == {3, 4, 5}  # both ends included
    logs = [np.log10(sweep_ray.domain_of(tiny, "agent.scale", {"log_range": [1e-4, 1]}).sample()) for _ in range(200)]
    assert np.mean(logs) == pytest.approx(-2, abs=0.4)  # spread evenly over the orders of magnitude


def test_the_robust_objectives_are_the_worst_case_and_the_tail_of_all(sweep_ray, tiny, tmp_path):
    config = replace(tiny, eval=EvalConfig(every=25, episodes=2, seed=3))
    run = start("fake", config, tmp_path / "run")
    run.agent.step()
    dynamics = ({"gravity": 0.5}, {"gravity": 3.0})
    returns = [
        evaluate(run.agent.act, replace(config.env, physics=Physics(**changes)), episodes=4, seed=3).returns
        for changes in dynamics
    ]
    assert returns[0].mean() != returns[1].mean()
    measured = sweep_ray.measure(run, SearchObjective("worst_case", physics=dynamics, episodes=4))
    assert measured == min(values.mean() for values in returns)
    tail = sweep_ray.measure(run, SearchObjective("cvar", physics=dynamics, episodes=4, level=0.25))
    assert tail == pytest.approx(np.sort(np.concatenate(returns))[:2].mean())
    run.env.close()


def test_the_robust_objectives_are_measured_in_c_whatever_steps_training(sweep_ray, monkeypatch):
    measured_in = []

    def evaluate(act, env, **plays):
        measured_in.append(env)
        return SimpleNamespace(returns=np.array([1.0, 3.0]))

    monkeypatch.setattr(sweep_ray, "evaluate", evaluate)
    monkeypatch.setattr(sweep_ray, "make_act", lambda agent: None)
    task = EnvConfig("Hopper-v5", backend="warp", nconmax=20, njmax=50)
    config = SimpleNamespace(eval=EvalConfig(physics=Physics(mass=2.0)), env=task)
    run = SimpleNamespace(config=config, agent=None, device=None)
    assert sweep_ray.measure(run, SearchObjective("worst_case", physics=({"gravity": 0.5}, {}), episodes=2)) == 2.0
    physics = (Physics(mass=2.0, gravity=0.5), Physics(mass=2.0))
    assert measured_in == [EnvConfig("Hopper-v5", physics=one) for one in physics]


def test_a_run_reports_its_objective_and_hands_every_new_checkpoint_over_once(sweep_ray, tiny, tmp_path, monkeypatch):
    reported = []
    monkeypatch.setattr(sweep_ray.tune, "report", lambda metrics, checkpoint: reported.append((metrics, checkpoint)))
    run = start("fake", tiny, tmp_path / "run")  # checkpoints at 21, 42, 60; evaluations at 27, 51
    reporter = run.loggers["ray"] = sweep_ray.Reporter(run, SearchObjective())
    execute(run, StopRequest())
    reporter.send()
    assert [(metrics["step"], checkpoint is not None) for metrics, checkpoint in reported] == [
        (27, True),
        (51, True),
        (60, True),
        (60, True),
    ]
    assert all("eval/episode_return" in metrics for metrics, _ in reported)
    everything = sweep_ray.Reporter(run, None)
    everything.log({"loss": 1.0, "score": None}, 60)
    assert reported[-1][0] == {"loss": 1.0, "step": 60}


@pytest.mark.parametrize(("mode", "worst"), [("max", -np.inf), ("min", np.inf)])
def test_a_trial_that_diverged_ends_as_the_worst_there_is_and_is_noted_without_another_try(
    sweep_ray, tiny, tmp_path, monkeypatch, mode, worst
):
    reported = []
    monkeypatch.setattr(sweep_ray.tune, "report", lambda metrics, checkpoint: reported.append((metrics, checkpoint)))
    monkeypatch.setattr(sweep_ray.tune, "get_checkpoint", lambda: None)
    monkeypatch.setattr(sweep_ray.tune, "get_context", lambda: SimpleNamespace(get_trial_dir=lambda: tmp_path))
    config = replace(tiny, agent=FakeConfig(nan_in="metric"))
    runs = {"name": (to_plain("fake", config), None, {})}
    sweep_ray.execute_trial({"run": "name"}, runs=runs, objective=SearchObjective("noise", mode=mode))  # no error
    metrics, checkpoint = reported[-1]
    assert (metrics["noise"], metrics["step"]) == (worst, 42)
    entry = Entry("name", "fake", None, 0)
    result = SimpleNamespace(
        metrics=metrics | {"done": True}, checkpoint=checkpoint, error=None, config={"run": "name"}
    )
    assert sweep_ray.gather(tmp_path, Sweep(), [entry], [result]) == 0
    (failure,) = read_failures(tmp_path).values()
    assert failure["tries"] == 1
    assert "noise not finite by step 42" in failure["end_of_log"]
    assert run_folder.read_meta(tmp_path / "runs" / "name")["status"] == "failed"
    with pytest.raises(ValueError, match="no trial of name has reported noise"):
        sweep_ray.write_best(tmp_path, Sweep(objective=SearchObjective("noise")), entry, config, [result])


# --- for real ---------------------------------------------------------------------------------------------------------


def environment_of(tmp_path, **variables):
    return {"PYTHONPATH": str(HERE), "DIED": str(tmp_path / "died"), "OMP_NUM_THREADS": "1", **variables}


@pytest.fixture
def local_ray(tmp_path):
    """Start a Ray of 2 CPUs whose workers know the fake agent."""
    ray = pytest.importorskip("ray")
    pytest.importorskip("optuna")
    workers = {"env_vars": environment_of(tmp_path), "worker_process_setup_hook": SETUP_HOOK}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=workers)
    yield ray
    ray.shutdown()


def ray_sweep(tmp_path, *options, **settings):
    chosen = words(TINY | settings)
    return [
        "sweep",
        "--agents",
        "fake",
        "--engine",
        "ray",
        "--set",
        *chosen,
        *options,
        "--out",
        str(tmp_path),
        "--name",
        "r",
    ]


@pytest.mark.slow
def test_a_killed_worker_leads_to_the_same_result_and_a_failing_run_does_not_stop_the_others(tmp_path, local_ray):
    settings = {"agent.padding": [0, 1], "agent.fail_at": [-1, 30], "steps": [300]}
    assert main(ray_sweep(tmp_path, "--max-restarts", "1", **settings)) == 1
    folder = tmp_path / "r"
    assert (tmp_path / "died").exists()
    fine = [entry.name for entry in read_plan(folder) if "fail_at=-1" in entry.name]
    assert all(is_done(folder, name) for name in fine)
    failures = read_failures(folder)
    assert set(failures) == {entry.name for entry in read_plan(folder)} - set(fine)
    assert all("fails as configured" in failure["end_of_log"] for failure in failures.values())
    (killed,) = [name for name in fine if "padding=1" in name]
    assert len(run_folder.read_meta(folder / "runs" / killed)["resumed"]) == 1
    config = folder / "configs" / f"{killed}.yaml"
    assert main(["train", "--config", str(config), "--out", str(tmp_path), "--name", "straight"]) == 0
    assert_same_run(tmp_path / "straight", folder / "runs" / killed, 300)


@pytest.mark.slow
def test_a_search_with_asha_tries_settings_and_writes_the_best_as_a_preset(tmp_path, local_ray):
    file = tmp_path / "search.yaml"
    objective = {"metric": "worst_case", "physics": [{"gravity": 0.5}, {"gravity": 2.0}], "episodes": 2}
    search = {"agent.scale": {"log_range": [1e-3, 1]}, "agent.env_steps": {"choices": [3, 5]}}
    content = {"search": search, "trials": 4, "objective": objective, "asha_grace": 60, "asha_reduction": 2}
    file.write_text(yaml.safe_dump(content))
    call = ray_sweep(tmp_path, **{"steps": [300], "eval.every": [30]})
    assert main(["sweep", str(file), *call[1:]]) == 0
    folder = tmp_path / "r"
    runs = sorted(folder.glob("runs/*"))
    assert len(runs) == 4
    configs = [run_folder.read_config(run)[1] for run in runs]
    assert len({config.agent.scale for config in configs}) == 4
    assert {run_folder.read_meta(run)["status"] for run in runs} <= {"finished", "stopped early"}
    (best,) = folder.glob("best-*.yaml")
    (planned,) = expand(Sweep(("fake",), (str(best),)))
    assert planned.config.agent.scale in {config.agent.scale for config in configs}
    assert planned.config.steps == 300
    assert main(["report", str(folder)]) == 0


DRIVER = """
import os, sys, ray, fake_agent
from surefoot import agents
from surefoot.training.cli import main
agents.REGISTRY["fake"] = "fake_agent:FAKE_SPEC"
names = ("PYTHONPATH", "DIED", "FAKE_PAUSE", "OMP_NUM_THREADS")
workers = {"env_vars": {name: os.environ[name] for name in names}}
workers["worker_process_setup_hook"] = "ray_worker.know_fake_and_die_once"
ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=workers)
sys.exit(main())
"""


def driver(tmp_path, pause, *arguments):
    """Start a sweep in a process of its own, in which an agent step takes `pause` seconds."""
    environment = os.environ | environment_of(tmp_path, FAKE_PAUSE=pause)
    call = [sys.executable, "-c", DRIVER, *arguments]
    return subprocess.Popen(call, env=environment, stdout=subprocess.PIPE, text=True)


def a_short_and_a_long_run(tmp_path):
    """Start a sweep of two runs; return its process once Ray has noted a checkpoint of both in its own state."""
    process = driver(tmp_path, "0.3", *ray_sweep(tmp_path, "--seeds", "0", steps=[15, 600]))
    stored = tmp_path / "r" / "ray-tune" / "grid"  # Ray writes "steps=15" as "steps_15"
    wait_until(lambda: any(stored.glob("*steps?15-*/checkpoint_*")))
    # A second one of the long run: its worker has continued, so the driver has taken in the first.
    wait_until(lambda: any(int(path.name[-6:]) > 0 for path in stored.glob("*steps?600-*/checkpoint_*")))
    seen = time.time()
    wait_until(lambda: any(path.stat().st_mtime > seen for path in stored.glob("experiment_state-*.json")))
    return process


def finish_and_compare(tmp_path):
    """Resume the sweep: what was done is left alone, the other run continues and ends as if nothing had happened."""
    folder = tmp_path / "r"
    assert driver(tmp_path, "0", "sweep", "--resume", str(folder)).wait(300) == 0
    short, long = (folder / "runs" / entry.name for entry in read_plan(folder))
    assert "resumed" not in run_folder.read_meta(short)
    assert len(run_folder.read_meta(long)["resumed"]) == 1
    assert run_folder.read_meta(long)["status"] == run_folder.read_meta(short)["status"] == "finished"
    config = folder / "configs" / f"{long.name}.yaml"
    assert main(["train", "--config", str(config), "--out", str(tmp_path), "--name", "straight"]) == 0
    assert_same_run(tmp_path / "straight", long, 600)


@pytest.mark.slow
def test_after_the_driver_was_killed_resume_finishes_only_what_was_missing(tmp_path):
    pytest.importorskip("ray.tune")
    process = a_short_and_a_long_run(tmp_path)
    process.kill()
    process.communicate()
    finish_and_compare(tmp_path)


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_done_and_resume_goes_on(tmp_path):
    pytest.importorskip("ray.tune")
    process = a_short_and_a_long_run(tmp_path)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert out.splitlines()[-1] == f"stopped; resume with: surefoot sweep --resume {tmp_path / 'r'}"
    finish_and_compare(tmp_path)


@pytest.mark.slow
def test_two_nodes_share_the_runs(tmp_path):
    pytest.importorskip("ray.tune")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        short = words({"steps": [300], "agent.horizon": [300], "log_every": [100]})
        call = ["sweep", "--agents", "dynlin-ucb/s1", "--seeds", "0,1", "--set", *short, "--engine", "ray"]
        assert main([*call, "--address", cluster.address, "--out", str(tmp_path), "--name", "r"]) == 0
    finally:
        cluster.shutdown()
    assert all(is_done(tmp_path / "r", entry.name) for entry in read_plan(tmp_path / "r"))


@pytest.mark.slow
def test_a_cluster_that_does_not_answer_and_a_storage_that_cannot_be_written_are_one_line(tmp_path, capsys):
    pytest.importorskip("ray.tune")
    call = ["sweep", "--agents", "dynlin-ucb/s1", "--engine", "ray", "--out", str(tmp_path)]
    assert main([*call, "--address", "127.0.0.1:9", "--name", "a"]) == 2
    assert "no Ray cluster at 127.0.0.1:9" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([*call, "--storage", str(tmp_path / "file" / "x"), "--name", "b"]) == 2
    err = capsys.readouterr().err
    assert "file/x" in err
