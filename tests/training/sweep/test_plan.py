"""Sweeps: what a grid expands to, wrong input before anything starts, processes that die, stops, and resuming."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from fake_agent import HERE
from sameness import assert_same_run
from sweeps import TINY, words
from waiting import wait_until

from surefoot.envs import Physics
from surefoot.evaluation import policy_files
from surefoot.training.cli.main import main
from surefoot.training.cli.sweep import StatusLine, parse
from surefoot.training.config.presets import default_config
from surefoot.training.loop.setup import start_or_resume
from surefoot.training.report.data import gather
from surefoot.training.runs import folder as run_folder
from surefoot.training.runs.lock import take
from surefoot.training.sweep import local as sweep_local
from surefoot.training.sweep.entry import Entry
from surefoot.training.sweep.plan import (
    SearchObjective,
    Sweep,
    create,
    expand,
    is_done,
    parse_seeds,
    read_failures,
    read_plan,
    read_sweep,
    resolved,
    wandb_settings,
)
from surefoot.training.sweep.progress import SweepProgress, fraction_done

pytestmark = pytest.mark.usefixtures("unrendered")

# --- the grid ---------------------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination_with_the_presets_below_the_settings():
    settings = {"env.physics.gravity": [1.5, "2e0"], "agent.gamma": [0.9], "data.source": ["sample:halfcheetah-demo"]}
    runs = expand(Sweep(("sac,sac-mix",), ("sac/demo-sim",), ("0..1",), settings))
    assert [(run.agent_name, run.config.env.physics.gravity, run.config.seed) for run in runs] == [
        (agent, gravity, seed) for agent in ("sac", "sac-mix") for gravity in (1.5, 2.0) for seed in (0, 1)
    ]
    assert {run.config.agent.gamma for run in runs} == {0.9}
    configs = [run.config for run in runs]
    assert {(config.agent.hidden, config.baselines, config.threads) for config in configs} == {((128, 128), (), 1)}
    assert runs[0].name == "sac-sac-demo-sim-gravity=1.5-s0"
    assert len({run.name for run in runs}) == 8


def test_a_setting_may_be_without_effect_in_some_runs_of_a_grid_but_not_in_all():
    settings = {"agent.min_q_weight": [0.0, 2.0], "agent.sampled_actions": [5, 10]}
    both = settings | {"data.source": ["sample:halfcheetah-demo"], "env.id": ["HalfCheetah-v5"]}
    assert len(expand(Sweep(("cql",), set=both))) == 4
    with pytest.raises(ValueError, match="sampled_actions has no effect in any run of the sweep, with --agent"):
        expand(Sweep(("cql",), set=both | {"agent.min_q_weight": [0.0]}))


def test_a_section_in_a_grid_keeps_what_is_set_within_it():
    runs = expand(Sweep(("fake",), set={"env.physics.friction": [0.5, 0.9], "env.physics": [{"gravity": 2.0}]}))
    assert [run.config.env.physics for run in runs] == [Physics(gravity=2.0, friction=f) for f in (0.5, 0.9)]
    assert ["friction=0.5" in run.name for run in runs] == [True, False]
    search = {"env.physics": {"choices": [{"gravity": 2.0}]}, "env.physics.gravity": {"range": [1.0, 2.0]}}
    with pytest.raises(ValueError, match=r"search: env\.physics\.gravity is given as 2\.0 and as 1\.0"):
        expand(Sweep(("fake",), engine="ray", search=search))


def test_an_agent_can_be_tied_to_a_preset_of_its_own():
    runs = expand(Sweep(("h2o/demo", "sac"), ("demo-sim", "sac/halfcheetah")))
    assert [(run.agent_name, run.preset) for run in runs] == [
        ("h2o", "demo"),
        ("sac", "demo-sim"),
        ("sac", "sac/halfcheetah"),
    ]


def test_seeds_are_spans_and_numbers():
    assert parse_seeds(["0..3", "7,9"]) == [0, 1, 2, 3, 7, 9]
    with pytest.raises(ValueError, match="'-1' is neither"):
        parse_seeds(["-1"])


def test_names_stay_short_and_tell_equally_named_fields_apart():
    fake = Sweep(("fake",), seeds=("4",), set={"env.physics.gravity": [1.0, 2.0], "eval.physics.gravity": [1.0, 3.0]})
    assert expand(fake)[-1].name == "fake-HalfCheetah-v5-env.physics.gravity=2.0-eval.physics.gravity=3.0-s4"
    long = expand(Sweep(("fake",), set={"env.kwargs": [{"xml_file": "a" * 200}, {"xml_file": "a" * 201}]}))
    assert len({run.name for run in long}) == 2
    assert max(len(run.name) for run in long) < 120


def test_a_file_and_its_command_line_are_the_same_sweep(tmp_path):
    file = tmp_path / "many.yaml"
    file.write_text("agents: [fake, bc]\nseeds: 0..2\nset: {steps: 60, agent.hidden: [[4, 4], [8]]}\nmax_restarts: 1\n")
    command_line = "--agents fake,bc --seeds 0..2 --set steps=60 agent.hidden=[4,4],[8] --max-restarts 1"
    by_words = parse(command_line.split()).sweep
    by_file = parse([str(file)]).sweep
    assert (
        (by_file.set, by_file.max_restarts) == (by_words.set, 1) == ({"steps": [60], "agent.hidden": [[4, 4], [8]]}, 1)
    )
    assert parse_seeds(by_file.seeds) == parse_seeds(by_words.seeds) == [0, 1, 2]
    assert parse([str(file), "--seeds", "5"]).sweep.seeds == ("5",)
    for options in (["--max-restarts", "3"], ["--max-restarts=3"], ["--yes", "--max-restarts", "3"]):
        behind = parse([*options, str(file)]).sweep
        assert behind == replace(by_file, max_restarts=3)


def test_a_field_that_a_grid_names_twice_is_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "--agents", "fake", "--set", "steps=10", "seed=1", "steps=20"]) == 2
    line = "surefoot: error: --set: steps is given as [10] and as [20]; leave one out\n"
    assert capsys.readouterr().err == line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"agents": ("nope",)}, "unknown agent 'nope'"),
        ({"presets": ("nope",)}, "no preset 'nope' for fake"),
        ({"set": {"agent.scael": [1]}}, "unknown key 'agent.scael'; did you mean 'scale'"),
        ({"set": {"agent.scale": ["much"]}}, "agent.scale is 'much'; expected float"),
        ({"set": {"agent.scale": [0.0]}}, "--agent.scale must be positive"),
        ({"set": {"steps.more": [1]}}, "steps is {'more': 1}; expected int"),
        ({"set": {"steps": [5], "steps.more": [1]}}, "set: steps is given as 5 and as {'more': 1}; leave one out"),
        (
            {"set": {"env.physics.gravity": [2.0, 3.0], "env.physics": [{"gravity": 2.0}]}},
            "fake: set: env.physics.gravity is given as 2.0 and as 2.0",
        ),
        ({"set": {"seed": [1, 2]}}, "seed is the sweep's own; use seeds"),
        ({"set": {"steps": []}}, "an empty grid: no steps given"),
        ({"seeds": ()}, "an empty grid: no seeds given"),
        ({"seeds": ("3", "3")}, "the same run twice: fake-HalfCheetah-v5-s3"),
        (
            {"set": {"env.physics.gravity": [2, 2.0]}},
            "twice: fake-HalfCheetah-v5-gravity=2-s0 and fake-HalfCheetah-v5-gravity=2.0-s0; leave one out$",
        ),
        ({"seeds": ("0..10000",)}, "the grid has 10,001 runs; add --yes"),
        (
            {"seeds": ("0..2",), "set": {"num_seeds": [2]}},
            "--seeds 0 and 1 share some with --num-seeds 2; space",
        ),
        ({"set": {"num_seeds": [2]}, "engine": "ray"}, "--num-seeds 2 needs --engine local and no search"),
        ({"agents": ("bc",)}, "bc learns from recorded data"),
        ({"search": {"agent.scale": {"range": [0, 1]}}}, "search needs Ray Tune: add --engine ray"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(sweep, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        expand(Sweep(**{"agents": ("fake",)} | sweep))


def test_many_runs_are_possible_when_meant(monkeypatch):
    monkeypatch.setattr("surefoot.training.sweep.plan.MOST_RUNS", 2)
    assert len(expand(Sweep(("fake",), seeds=("0..2",)), allow_many=True)) == 3
    with pytest.raises(ValueError, match="has 3 runs; add --yes"):
        expand(Sweep(("fake",), seeds=("0..2",)))
    search = {"search": {"agent.scale": {"range": [0, 1]}}, "engine": "ray"}
    with pytest.raises(ValueError, match="has 5 runs; add --yes"):
        expand(Sweep(("fake",), trials=5, **search))


@pytest.mark.parametrize("change", [{"level": 0.0}, {"episodes": 0}, {"metric": "worst_case"}])
def test_an_objective_that_measures_nothing_is_refused(change):
    with pytest.raises(ValueError, match="objective"):
        SearchObjective(**change)


def test_an_objective_of_unknown_physics_is_refused():
    with pytest.raises(ValueError, match="unknown key 'wind'"):
        SearchObjective("worst_case", physics=({"wind": 2.0},))


def test_wrong_input_makes_no_folder(tmp_path, capsys):
    assert main(["sweep", "--agents", "fake", "--set", "agent.scael=1", "--out", str(tmp_path), "--name", "x"]) == 2
    assert main(["sweep", "--out", str(tmp_path)]) == 2
    assert main(["sweep", str(tmp_path / "absent.yaml"), "--out", str(tmp_path)]) == 2
    assert main(["sweep", "--resume", str(tmp_path)]) == 2
    assert main(["sweep", "--agents", "fake", "--set", "steps", "--out", str(tmp_path)]) == 2
    assert main(["sweep", "--agents", "fake", "--cpus-per-run", "9999", "--out", str(tmp_path)]) == 2
    assert list(tmp_path.iterdir()) == []
    err = capsys.readouterr().err
    assert "unknown key 'agent.scael'" in err
    assert "name the agents to train" in err
    assert "not the folder of a sweep" in err


SEARCH = {"agents": ["fake"], "engine": "ray", "search": {"agent.scale": {"range": [0, 1]}}}


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (
            {},
            ["--trials", "5"],
            "--trials has no effect without a search, whose fields a YAML file names; leave it out",
        ),
        ({}, ["--asha-grace", "9"], "--asha-grace has no effect without a search"),
        ({}, ["--objective.metric", "regret"], "--objective.metric has no effect without a search"),
        ({"storage": "s3://x"}, [], "--storage has no effect with --engine local; leave it out"),
        ({"address": "auto"}, [], "--address has no effect with --engine local; leave it out"),
        (SEARCH, ["--asha-reduction", "2"], "--asha-reduction has no effect without --asha-grace; leave it out"),
        (SEARCH, ["--objective.episodes", "2"], "--objective.episodes has no effect on an objective that is neither"),
        (
            SEARCH | {"objective": {"metric": "worst_case", "physics": [{"gravity": 2.0}], "level": 0.2}},
            [],
            "--objective.level has no effect on an objective that is not cvar; leave it out",
        ),
    ],
)
def test_an_option_without_effect_is_refused(content, options, message, tmp_path):
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"agents": ["fake"]} | content))
    with pytest.raises(ValueError, match=message):
        parse([str(tmp_path / "sweep.yaml"), *options])


def test_options_of_a_search_are_taken(tmp_path):
    objective = {"metric": "cvar", "physics": [{"gravity": 2.0}], "episodes": 2, "level": 0.2}
    more = {"trials": 5, "asha_grace": 9, "asha_reduction": 2, "storage": "s3://x", "address": "auto"}
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(SEARCH | more | {"objective": objective}))
    assert parse([str(tmp_path / "sweep.yaml")]).sweep.objective.level == 0.2


# --- slots and the line -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpus_per_run", "gpus_per_run", "number"),
    [(1, 0, 8), (2, 0, 4), (0.5, 0, 16), (1, 0.25, 8), (1, 0.5, 4), (1, 2, 1)],
)
def test_runs_side_by_side_are_bounded_by_cpus_and_gpus(cpus_per_run, gpus_per_run, number):
    sweep = Sweep(cpus_per_run=cpus_per_run, gpus_per_run=gpus_per_run)
    assert sweep_local.side_by_side(sweep, cpus=8, gpus=2) == number


def test_a_run_that_asks_for_more_than_there_is_is_refused():
    with pytest.raises(ValueError, match="--cpus-per-run is 9"):
        sweep_local.side_by_side(Sweep(cpus_per_run=9), cpus=8, gpus=0)
    with pytest.raises(ValueError, match=r"--gpus-per-run is 0\.5, but PyTorch sees 0"):
        sweep_local.side_by_side(Sweep(gpus_per_run=0.5), cpus=8, gpus=0)


@pytest.mark.parametrize(("gpus", "fits"), [(0.3, True), (1.0, True), (2.0, True), (1.5, False), (2.01, False)])
def test_a_run_has_a_part_of_one_gpu_or_whole_ones(gpus, fits):
    if fits:
        assert Sweep(gpus_per_run=gpus).gpus_per_run == gpus
        return
    with pytest.raises(ValueError, match=rf"--gpus-per-run is {gpus}; above 1 it must be a whole number"):
        Sweep(gpus_per_run=gpus)


@pytest.mark.parametrize(
    ("inherited", "gpus_per_run", "seen"),
    [
        ("2,3", 1.0, ["2", "3"]),
        ("2,3", 0.5, ["2", "2", "3", "3"]),
        ("7, 4,5,1", 2.0, ["7,4", "5,1"]),
        ("GPU-a,GPU-b", 1.0, ["GPU-a", "GPU-b"]),
        ("", 2.0, ["0,1", "2,3"]),  # of a process that sees none, no slot is asked for
    ],
)
def test_the_gpus_of_a_slot_are_of_those_that_the_sweep_itself_may_use(monkeypatch, inherited, gpus_per_run, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", inherited)
    slots = [sweep_local.devices_of(slot, gpus_per_run) for slot in range(len(seen))]
    assert slots == [{"CUDA_VISIBLE_DEVICES": devices} for devices in seen]


def test_the_slots_share_the_gpus_out(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    seen = [sweep_local.devices_of(slot, 0.5)["CUDA_VISIBLE_DEVICES"] for slot in range(4)]
    assert seen == ["0", "0", "1", "1"]
    assert sweep_local.devices_of(1, 2)["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert sweep_local.devices_of(1, 0) == {}


def test_the_line_foretells_the_end_from_the_steps_done_in_this_session():
    progress = SweepProgress(done=5, running=2, failed=1, total=10, work=6.0)
    # 2 runs' worth in 60 s; 10 - 1 failed - 6 = 3 more: 90 s
    assert progress.line(60, work_before=4.0) == "5 of 10 runs done, 2 running, 1 failed, about 2 min left"
    assert "left" not in progress.line(60, work_before=6.0)


def test_the_line_is_not_repeated_where_nothing_changed(capsys):
    line = StatusLine()
    for done in (0, 0, 1):
        line(SweepProgress(done, 1, 0, 2, float(done)))
    assert capsys.readouterr().out.count("runs done") == 2


def test_a_run_under_way_counts_by_its_last_whole_row(tmp_path):
    assert fraction_done(tmp_path, 100) == 0
    (tmp_path / "metrics.csv").write_text("step,env_steps\n")
    assert fraction_done(tmp_path, 100) == 0
    (tmp_path / "metrics.csv").write_text("step,env_steps\n10,10\n25,25\n")
    assert fraction_done(tmp_path, 100) == 0.25


def test_a_run_of_several_seeds_counts_by_the_rows_of_all(tmp_path):
    (tmp_path / "config.yaml").touch()
    for seed, steps in ((0, 100), (1, 20)):
        (tmp_path / f"seed-{seed}").mkdir()
        (tmp_path / f"seed-{seed}" / "config.yaml").touch()
        (tmp_path / f"seed-{seed}" / "metrics.csv").write_text(f"step,env_steps\n{steps},0\n")
    assert fraction_done(tmp_path, 100, num_seeds=4) == pytest.approx(0.3)


def test_a_sweep_of_runs_of_several_seeds(tmp_path, knows_fake, capsys):
    arguments = sweep_of(tmp_path, "--seeds", "0,2", num_seeds=[2])
    assert main(arguments) == 0
    assert "2 of 2 runs done" in capsys.readouterr().out
    (cell,) = gather([tmp_path / "many"]).cells
    assert [run.config.seed for run in cell.runs] == [0, 1, 2, 3]
    assert not gather([tmp_path / "many"]).losses


# --- for real ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def knows_fake(monkeypatch):
    """Let the processes of a sweep know the fake agent."""
    whole = sweep_local.server_command
    script = [sys.executable, str(HERE / "fake_agent.py")]
    monkeypatch.setattr(sweep_local, "server_command", lambda folder: [*script, *whole(folder)[4:]])


def sweep_of(tmp_path, *options, **settings):
    """Return the arguments of a small sweep of the fake agent."""
    chosen = words(TINY | settings)
    return ["sweep", "--agents", "fake", "--set", *chosen, *options, "--out", str(tmp_path), "--name", "many"]


def test_every_run_is_an_ordinary_run_folder_and_a_failing_one_does_not_stop_the_others(tmp_path, knows_fake, capsys):
    settings = {"agent.fail_at": [-1, 7], "checkpoint_every": [9]}
    assert main(sweep_of(tmp_path, "--max-restarts", "1", **settings)) == 1
    folder = tmp_path / "many"
    good, bad = [entry.name for entry in read_plan(folder)]
    assert is_done(folder, good)
    _, config = run_folder.read_config(folder / "runs" / good)
    assert (config.seed, config.threads, config.steps) == (0, 1, 60)
    assert run_folder.read_meta(folder / "runs" / good)["preset"] is None
    # It dies before its first checkpoint (agent step 3 makes one, at step 9: it is resumed from there) and is given up.
    assert policy_files.checkpoint_steps(folder / "runs" / bad)[-1] == 18
    failure = read_failures(folder)[bad]
    assert failure["tries"] == 2
    assert "the fake agent fails as configured" in failure["end_of_log"]
    assert "resumed" in run_folder.read_meta(folder / "runs" / bad)
    output = capsys.readouterr()
    assert "1 of 2 runs done, 0 running, 1 failed" in output.out
    assert "fails as configured" in output.err


def test_wrong_input_is_not_tried_again(tmp_path, monkeypatch):
    settings = {"env.id": ["surefoot/Pendulum-v0"], "data.source": ["sample:nothing"], "steps": [60]}
    assert main(["sweep", "--agents", "bc", "--set", *words(settings), "--out", str(tmp_path), "--name", "many"]) == 1
    (failure,) = read_failures(tmp_path / "many").values()
    assert failure["tries"] == 1


def test_a_killed_run_ends_as_the_undisturbed_one(tmp_path, knows_fake, monkeypatch):
    monkeypatch.setenv("FAKE_PAUSE", "0.02")
    victims = []
    start = sweep_local._start

    def start_and_kill_the_first(server, folder, name, *rest):
        process = start(server, folder, name, *rest)
        if not victims:
            victims.append(name)
            wait_until(lambda: len(policy_files.checkpoint_steps(folder / "runs" / name)) > 1)
            process.kill()
        return process

    monkeypatch.setattr(sweep_local, "_start", start_and_kill_the_first)
    assert main(sweep_of(tmp_path, steps=[300])) == 0
    (entry,) = read_plan(tmp_path / "many")
    run = tmp_path / "many" / "runs" / entry.name
    assert len(run_folder.read_meta(run)["resumed"]) == 1
    monkeypatch.delenv("FAKE_PAUSE")
    config = tmp_path / "many" / "configs" / f"{entry.name}.yaml"
    assert main(["train", "--config", str(config), "--out", str(tmp_path), "--name", "straight"]) == 0
    assert_same_run(tmp_path / "straight", run, 300)


def driver(tmp_path, *arguments):
    """Start a sweep in a process of its own, fake agent and all."""
    code = "\n".join(
        (
            "import sys, fake_agent",
            "from surefoot import agents",
            "from surefoot.training.cli import main as cli",
            "from surefoot.training.sweep import local as sweep_local",
            "agents.REGISTRY['fake'] = 'fake_agent:FAKE_SPEC'",
            "whole = sweep_local.server_command",
            "sweep_local.server_command = lambda folder: [sys.executable, fake_agent.__file__, *whole(folder)[4:]]",
            "sys.exit(cli.main())",
        )
    )
    environment = os.environ | {"FAKE_PAUSE": "0.02", "PYTHONPATH": str(HERE)}
    call = [sys.executable, "-c", code, *arguments]
    return subprocess.Popen(call, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def has_checkpoint(folder: Path) -> bool:
    return any(policy_files.checkpoint_steps(run) for run in folder.glob("runs/*"))


class Ended:
    """The process of a run that ends with a code as soon as it is asked to."""

    def __init__(self, code):
        self.code, self.asked = code, []

    def poll(self):
        return self.code if self.asked else None

    def wait(self):
        return self.poll()

    def send_signal(self, number):
        self.asked.append(number)


@pytest.mark.parametrize(("code", "failed"), [(130, False), (-2, False), (1, True), (-9, True), (2, True)])
def test_a_run_that_the_end_of_a_sweep_has_interrupted_has_not_failed(tmp_path, code, failed):
    sweep = Sweep(("sac",), max_restarts=0)
    create(tmp_path / "many", sweep, expand(sweep))
    (entry,) = read_plan(tmp_path / "many")
    (tmp_path / "many" / "logs" / f"{entry.name}.log").write_text("the end")
    pool = sweep_local.WorkerPool(tmp_path / "many", sweep, lock=0)
    pool.tries[pool.waiting.pop().name] = 1
    pool.children[pool.free.pop(0)] = entry, (1, 1), Ended(code)
    pool.end()
    assert list(read_failures(tmp_path / "many")) == [entry.name] * failed
    assert pool.progress()[:3] == (0, 0, int(failed))
    assert pool.waiting == [entry] * (not failed)


def test_ctrl_c_stops_cleanly_and_resume_finishes_only_what_was_missing(tmp_path, knows_fake, capsys):
    process = driver(tmp_path, *sweep_of(tmp_path, "--max-restarts", "0", steps=[30, 900]))
    folder = tmp_path / "many"
    wait_until(lambda: len(list(folder.glob("runs/*steps=900*/checkpoints/step-*"))) > 0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"resume with: surefoot sweep --resume {folder}" in out
    assert read_failures(folder) == {}
    assert " failed" not in err
    stamps = {run: (run / "meta.json").read_text() for run in folder.glob("runs/*")}
    assert {run_folder.read_meta(run)["status"] for run in stamps} <= {"finished", "interrupted"}
    assert "interrupted" in {run_folder.read_meta(run)["status"] for run in stamps}
    assert main(["sweep", "--resume", str(folder), "--max-restarts", "1"]) == 0
    assert all(is_done(folder, entry.name) for entry in read_plan(folder))
    assert read_sweep(folder / "sweep.yaml").max_restarts == 1
    for run, text in stamps.items():
        if '"status": "finished"' in text:
            assert (run / "meta.json").read_text() == text
    assert main(["sweep", "--resume", str(folder), "--seeds", "0..9"]) == 2
    assert "seeds may not change on resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--name", "x"], "--name has no effect with --resume {0}, whose folder stays; leave it out"),
        (["--out", "x", "--name", "x"], "--out has no effect with --resume {0}, whose folder stays; leave it out"),
        (["many.yaml"], "many.yaml does not go with --resume {0}, which has its own sweep.yaml"),
    ],
)
def test_a_sweep_is_resumed_under_its_own_name_and_file(options, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    create(tmp_path / "many", Sweep(("sac",)), [])
    assert main(["sweep", "--resume", "many", *options]) == 2
    assert capsys.readouterr().err == f"surefoot: error: {message.format('many')}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["many"]


def test_who_is_refused_a_sweep_changes_nothing_in_it(tmp_path, capsys):
    folder = tmp_path / "many"
    create(folder, Sweep(("sac",)), [])
    lock = take(folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["sweep", "--resume", str(folder), "--max-restarts", "7"]) == 2
    assert f"{folder}: in use by process" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    lock.release()
    unlocked = {path: content for path, content in before.items() if path.name != "lock"}
    assert main(["sweep", "--resume", str(folder), "--cpus-per-run", "9999"]) == 2
    assert "--cpus-per-run is 9999.0, but this machine has " in capsys.readouterr().err
    assert {path: path.read_bytes() for path in unlocked} == unlocked
    assert not (folder / "failures.json").exists()
    assert main(["sweep", "--resume", str(folder), "--max-restarts", "7"]) == 0
    assert read_sweep(folder / "sweep.yaml").max_restarts == 7


ENTRY = {"name": "a", "agent_name": "sac", "preset": None, "seed": 0}


@pytest.mark.slow
def test_after_the_driver_was_killed_its_runs_save_and_end_and_two_drivers_never_meet(tmp_path, knows_fake):
    process = driver(tmp_path, *sweep_of(tmp_path, steps=[900]))
    folder = tmp_path / "many"
    wait_until(lambda: has_checkpoint(folder))
    process.kill()
    process.communicate()
    assert main(["sweep", "--resume", str(folder)]) == 0  # once its run has noticed
    (entry,) = read_plan(folder)
    assert is_done(folder, entry.name)
    assert len(run_folder.read_meta(folder / "runs" / entry.name)["resumed"]) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "../../victim"}, "'../../victim' cannot be the name of a run"),
        ({"name": ".."}, "'..' cannot be the name of a run"),
        ({"name": "/tmp"}, "'/tmp' cannot be the name of a run"),
        ({"name": ["a"]}, "cannot be the name of a run"),
        ({"agent_name": "evilmod:X"}, "unknown agent 'evilmod:X'"),
        ({"agent_name": 3}, "unknown agent 3"),
        ({"seed": "0; rm"}, "preset None and seed '0; rm' are no such"),
        ({"preset": 1}, "preset 1 and seed 0 are no such"),
        ({"more": 1}, "not the plan of a sweep"),
    ],
)
def test_a_plan_that_names_something_else_than_its_runs_is_refused_and_nothing_is_touched(
    tmp_path, knows_fake, capsys, change, message
):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "thesis.txt").write_text("years")
    folder = tmp_path / "sweeps" / "many"
    (folder / "runs").mkdir(parents=True)
    (folder / "sweep.yaml").write_text("agents: [sac]\n")
    (folder / "plan.json").write_text(json.dumps([ENTRY | change]))
    for more in ((), ("--only", str(change.get("name", "a")))):
        assert main(["sweep", "--resume", str(folder), *more]) == 2
        assert f"{folder}/plan.json: " in (err := capsys.readouterr().err)
        assert message in err
    for text in ("[", "{}", "[3]", ""):
        (folder / "plan.json").write_text(text)
        assert main(["sweep", "--resume", str(folder)]) == 2
        assert "plan.json: not the plan of a sweep" in capsys.readouterr().err
    assert (victim / "thesis.txt").read_text() == "years"


def test_what_is_in_the_way_of_a_run_and_not_ours_stays(tmp_path, tiny):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="run: in the way, and not made by Surefoot; move it away"):
        start_or_resume(tmp_path / "run", "fake", tiny)
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_the_runs_are_grouped_and_tagged_for_wandb():
    settings = wandb_settings(Path("runs/many"), Entry("name", "h2o", "h2o/demo", 3))
    assert settings == {"WANDB_RUN_GROUP": "many", "WANDB_TAGS": "many,h2o,h2o-demo,seed-3"}


def test_offline_wandb_keeps_group_and_tags(tmp_path, knows_fake, monkeypatch):
    pytest.importorskip("wandb", reason="extra wandb not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(sweep_of(tmp_path, "--seeds", "3", logger=[["wandb"]])) == 0
    (kept,) = tmp_path.glob("many/runs/*/wandb/offline-run-*/*.wandb")
    content = kept.read_bytes()  # texts with their length before them
    assert content.count(b"\x04many") == 2  # the group, and the first tag
    assert b"\x06seed-3" in content


def test_one_run_can_be_carried_out_alone(tmp_path, knows_fake, monkeypatch):
    monkeypatch.setattr(sweep_local.WorkerPool, "fill", lambda pool: pool.waiting.clear())
    assert main(sweep_of(tmp_path, "--seeds", "0,1")) == 0
    folder = tmp_path / "many"
    first, second = [entry.name for entry in read_plan(folder)]
    assert main(["sweep", "--resume", str(folder), "--only", second]) == 0
    assert (is_done(folder, first), is_done(folder, second)) == (False, True)
    alone = ["sweep", "--resume", str(folder), "--only", first]
    assert main([*alone, "--cpus-per-run", "9999"]) == 0  # a scheduler's matter, which gave this process what it has
    assert is_done(folder, first)
    assert main(["sweep", "--resume", str(folder), "--only", "nope"]) == 2


def test_a_run_that_diverged_ends_as_wrong_input_does_which_is_not_tried_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep_local.WorkerPool, "fill", lambda pool: pool.waiting.clear())
    assert main(sweep_of(tmp_path, **{"agent.nan_in": ["metric"]})) == 0
    folder = tmp_path / "many"
    (entry,) = read_plan(folder)
    assert main(["sweep", "--resume", str(folder), "--only", entry.name]) == sweep_local.SAME_AGAIN
    assert run_folder.read_meta(folder / "runs" / entry.name)["status"] == "failed"
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("surefoot: error: ")]
    assert len(errors) == 1
    assert "noise not finite by step 42" in errors[0]


def test_the_sweep_file_in_the_folder_asks_for_the_same_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_local.WorkerPool, "fill", lambda pool: pool.waiting.clear())
    assert main(sweep_of(tmp_path, "--seeds", "0,1")) == 0
    again = read_sweep(tmp_path / "many" / "sweep.yaml")
    assert [run.name for run in expand(again)] == [entry.name for entry in read_plan(tmp_path / "many")]
    assert yaml.safe_load((tmp_path / "many" / "sweep.yaml").read_text())["engine"] == "local"


@pytest.mark.parametrize(
    ("agent", "changes", "asked", "metric", "mode"),
    [
        ("sac", {}, {}, "eval/episode_return", "max"),
        ("sac", {"uncertainty": "hopper-2"}, {}, "eval/worst_case", "max"),
        ("dhn", {}, {}, "eval/objective", "max"),
        ("dynlin-ucb", {}, {}, "regret", "min"),
        ("dynlin-ucb", {}, {"metric": "regret"}, "regret", "min"),
        ("sac", {"uncertainty": "hopper-2"}, {"metric": "eval/episode_return"}, "eval/episode_return", "max"),
        ("sac", {}, {"metric": "critic_loss", "mode": "min"}, "critic_loss", "min"),
    ],
)
def test_a_search_is_for_what_its_runs_are_for_unless_told(agent, changes, asked, metric, mode):
    config = replace(default_config(agent), **changes)
    found = resolved(SearchObjective(**asked), agent, config)
    assert (found.metric, found.mode) == (metric, mode)
