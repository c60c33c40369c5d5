"""The command's numbers: reproducible, in the requested dynamics, with runs as the unit of replication."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from zlib import crc32

import numpy as np
import old_archives
import pytest
import stable_baselines3 as sb3

from surefoot.envs import EnvConfig, Physics, TaskError
from surefoot.evaluation import uncertainty_grid as grid
from surefoot.evaluation.episodes import evaluate
from surefoot.evaluation.policies import load_any
from surefoot.training.cli import evaluate as commands_evaluate
from surefoot.training.cli.evaluate import aggregate, main
from surefoot.training.cli.main import main as surefoot
from surefoot.training.cli.parameters import as_yaml
from surefoot.training.cli.results import output_path
from surefoot.training.report.records import read_measurements
from surefoot.training.runs.folder import read_config

PENDULUM = EnvConfig("Pendulum-v1")


def evaluations(run):
    return [json.loads(path.read_text()) for path in sorted((run / "evaluations").glob("*.json"))]


def without_time(text):
    return {name: value for name, value in json.loads(text).items() if name not in ("time", "command", "dirty")}


def test_the_numbers_are_those_of_evaluate_and_come_again(make_run, tmp_path, capsys):
    run = make_run("a", seed=2)
    call = [str(run), "--episodes", "3", "--seeds", "7", "--json", str(tmp_path / "out.json")]
    assert main(call) == 0
    table = capsys.readouterr().out
    (path,) = (run / "evaluations").iterdir()
    first, first_out = path.read_text(), (tmp_path / "out.json").read_text()
    assert main(call) == 0
    assert without_time(path.read_text()) == without_time(first)
    assert without_time((tmp_path / "out.json").read_text()) == without_time(first_out)
    record = json.loads(first)
    expected = evaluate(load_any(run).act, PENDULUM, episodes=3, seed=7).returns
    assert record["return"]["values"] == expected.tolist()
    assert record["return"]["mean"] == expected.mean()
    assert record["score"] is None
    assert f"{expected.mean():.1f} ± {expected.std():.1f}" in table
    assert f"{expected.min():.1f}" in table
    assert "Pendulum-v1: 3 episodes per run" in table


def test_dynamics_are_the_runs_own_with_the_options_over_them(make_run):
    env = EnvConfig("InvertedPendulum-v5", Physics(gravity=3.0), max_episode_steps=20)
    run = make_run("a", env=env)
    main([str(run), "--episodes", "1"])
    main([str(run), "--episodes", "1", "--env.physics.mass", "2.0", "--env.max-episode-steps", "5"])
    found = {
        (r["env"]["physics"]["gravity"], r["env"]["physics"]["mass"], r["env"]["max_episode_steps"])
        for r in evaluations(run)
    }
    assert found == {(1.0, 1.0, 20), (1.0, 2.0, 5)}


def test_several_runs_get_an_interval_and_one_does_not(make_run, capsys, tmp_path):
    runs = [make_run(f"r{i}", seed=i) for i in range(3)]
    out = tmp_path / "out.json"
    main([*map(str, runs), "--episodes", "2", "--json", str(out)])
    (group,) = json.loads(out.read_text())["aggregate"]
    means = [record["return"]["mean"] for record in json.loads(out.read_text())["results"]]
    assert (group["agent"], group["unit"], group["tasks"], group["runs"]) == ("sac", "return", 1, 3)
    np.testing.assert_allclose(group["iqm"]["value"], np.mean(means))  # three values: nothing is cut
    low, high = group["mean"]["interval"]
    assert min(means) <= low < np.mean(means) < high <= max(means)
    assert "95% stratified bootstrap" in capsys.readouterr().out


def record(agent, env_id, value, score):
    return {"agent": agent, "env": {"id": env_id}, "return": {"mean": value}, "score": score and {"mean": score}}


def test_tasks_are_strata_for_scores_and_rows_for_returns():
    scored = [record("h2o", "A", 1.0, 10.0), record("h2o", "A", 2.0, 20.0), record("h2o", "B", 9.0, 60.0)]
    settings = [{"data.source": "a"}, {"data.source": "a"}, {"data.source": "b"}]  # a task's own is no other method
    (group,) = aggregate(scored, settings)
    assert (group["unit"], group["tasks"], group["runs"]) == ("score", 2, 3)
    assert group["mean"] == {"value": 30.0, "interval": None}  # task B has a single run
    mixed = [record("h2o", "A", 1.0, 10.0), *[record("h2o", "B", v, None) for v in (3.0, 3.0)]]
    first, second = aggregate(mixed, [{}] * 3)
    assert (first["unit"], first["mean"]) == ("return", {"value": 1.0, "interval": None})
    assert second["mean"] == {"value": 3.0, "interval": [3.0, 3.0]}


def test_runs_that_differ_in_more_than_their_seed_are_no_seeds_of_one_method(make_run, capsys, tmp_path):
    runs = [make_run("a", seed=0), make_run("b", seed=1), make_run("c", seed=2, gamma=0.5)]
    lone = tmp_path / "alone.pt"  # of the method of the first two
    lone.write_bytes((make_run("d", seed=3) / "checkpoints" / "policy-000000100.pt").read_bytes())
    main([*map(str, runs), str(lone), "--episodes", "1", "--json", str(tmp_path / "out.json")])
    groups = json.loads((tmp_path / "out.json").read_text())["aggregate"]
    assert [(g["agent"], g["method"], g["runs"]) for g in groups] == [
        ("sac", "sac, gamma 0.99", 3),
        ("sac", "sac, gamma 0.5", 1),
    ]
    assert "sac, gamma 0.5" in capsys.readouterr().out


def test_copies_of_a_seed_are_measured_and_count_once_in_an_interval(make_run, capsys, tmp_path):
    runs = [make_run("a", seed=0), make_run("b", seed=0), make_run("c", seed=1), make_run("d", seed=0, gamma=0.5)]
    main([*map(str, runs), "--episodes", "1", "--json", str(tmp_path / "out.json")])
    content = json.loads((tmp_path / "out.json").read_text())
    assert [(g["method"], g["runs"]) for g in content["aggregate"]] == [("sac, gamma 0.99", 2), ("sac, gamma 0.5", 1)]
    assert len(content["results"]) == 4
    assert f"note: {runs[1]}: seed 0 again, in the settings of {runs[0]}, which counts" in capsys.readouterr().out


def test_a_single_run_is_said_to_have_no_interval(make_run, capsys):
    one, other = make_run("a"), make_run("b", env=EnvConfig("InvertedPendulum-v5"))
    main([str(one), str(other), "--episodes", "1"])
    assert capsys.readouterr().out.count("none: a single run") == 2


def test_an_archive_needs_its_task_and_no_flag(tmp_path):
    archive = tmp_path / "model.zip"
    sb3.SAC("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [4]}, device="cpu", buffer_size=10).save(archive)
    with pytest.raises(ValueError, match=r"which task it was trained on; add --env\.id"):
        main([str(archive)])
    assert main([str(archive), "--env.id", "Pendulum-v1", "--episodes", "1"]) == 0
    (found,) = tmp_path.glob("model-Pendulum-v1-*.json")
    record = json.loads(found.read_text())
    assert (record["agent"], record["trained_on"], record["wrappers"]) == ("sb3-sac", None, [])
    assert record["sha256"] == hashlib.sha256(archive.read_bytes()).hexdigest()


def test_a_function_is_evaluated_and_its_result_is_written_here(tmp_path, monkeypatch, capsys):
    (tmp_path / "still_policies.py").write_text("def rest(obs):\n    return 0 * obs[:, :1]\n")
    monkeypatch.chdir(tmp_path)
    assert main(["still_policies:rest", "--env.id", "Pendulum-v1", "--episodes", "2"]) == 0
    (found,) = tmp_path.glob("still_policies-rest-Pendulum-v1-*.json")
    record = json.loads(found.read_text())
    assert (record["agent"], record["source"], len(record["lengths"])) == ("function", "still_policies:rest", 2)
    with pytest.raises(ValueError, match=r"still_policies:rest: does not say which task .* add --env\.id"):
        main(["still_policies:rest"])


@pytest.mark.parametrize("physics", [["mass", "0.01"], ["parameters", "body_mass_scale.*=0.0001"]])
def test_episodes_whose_physics_diverged_are_counted_and_named(physics, tmp_path, monkeypatch, capsys):
    (tmp_path / "strong_policies.py").write_text("def turn(obs):\n    return 0 * obs[:, :2] + [1.0, -1.0]\n")
    monkeypatch.chdir(tmp_path)
    call = ["strong_policies:turn", "--env.id", "Swimmer-v5", "--episodes", "2", "--env.max-episode-steps", "9"]
    assert main([*call, f"--env.physics.{physics[0]}", physics[1], "--json", "all.json"]) == 0
    assert not (tmp_path / "MUJOCO_LOG.TXT").exists()
    shown = capsys.readouterr().out
    assert "diverged" in shown.partition("note:")[0]  # the column of the table
    note = "strong_policies:turn: the physics diverged in 2 of 2 episodes; those episodes count up to there"
    assert f"note: {note}\n" in shown
    (found,) = tmp_path.glob("strong_policies-turn-*.json")
    for record in (json.loads(found.read_text()), json.loads((tmp_path / "all.json").read_text())["results"][0]):
        assert (record["diverged"], record["lengths"]) == (2, [1, 1])


def test_nothing_is_said_of_physics_that_hold(make_run, capsys):
    run = make_run("a")
    main([str(run), "--episodes", "1"])
    assert "diverged" not in capsys.readouterr().out
    assert evaluations(run)[0]["diverged"] == 0


def test_an_older_task_is_run_as_its_v5_and_that_is_said(tmp_path, capsys):
    data, weights = old_archives.sac_data(obs=17, act=6, bound="1."), old_archives.sac_weights(17, 6)
    archive = old_archives.write(tmp_path / "Walker2d-v3.zip", data, weights)
    assert main([str(archive), "--episodes", "1", "--env.max-episode-steps", "5"]) == 0
    assert "Walker2d-v3.zip: trained on Walker2d-v3, run on Walker2d-v5, with the older" in capsys.readouterr().out
    (found,) = tmp_path.glob("Walker2d-v3-Walker2d-v5-*.json")
    record = json.loads(found.read_text())
    assert record["env"]["kwargs"] == {"xml_file": "walker2d.xml"}
    assert record["trained_on"] == "Walker2d-v3"
    for env_id, said in (("Walker2d-v5", "another model"), ("Walker2d-v2", "trained on Walker2d-v2")):
        main([str(archive), "--episodes", "1", "--env.max-episode-steps", "5", "--env.id", env_id])
        assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--env.id", "InvertedPendulum-v5"],
            r"observations Box\(3,\) to actions Box\(1,\), but InvertedPendulum-v5 has .*Box\(4,\)",
        ),
        (["--episodes", "0"], "from 1 to"),
        (["--seeds", "1", "5"], "share start states"),
        (["--seeds", "-1"], "from 0 to"),
        (["--checkpoint", "7"], "no checkpoint '7'; available: 100"),
        (["--device", "cuda:9"], "cuda:9"),
        (["--n", "5"], "--n has no effect without --grid; leave it out"),
        (["--closed"], "--closed has no effect without --grid; leave it out"),
        (["--video-steps", "5"], "--video-steps has no effect without --video; leave it out"),
        (["--env.termination", "a:b"], "--env.termination has no effect on an evaluation: its episodes end where"),
    ],
)
def test_wrong_input_is_named(make_run, options, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        main([str(make_run("a")), *options])


@pytest.mark.parametrize("command", [["evaluate"], ["data", "collect"]])
def test_a_task_that_breaks_the_protocol_is_one_line_before_anything_is_measured(
    make_run, monkeypatch, tmp_path, capsys, command
):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "envs")
    run = make_run("a", env=EnvConfig("faulty_tasks:CarelessBox-v0"))
    out = [str(tmp_path / "out.hdf5"), "--steps", "5"] if command[0] == "data" else ["--episodes", "1"]
    for breach, message in (("four", "step returned a tuple of 4; it must"), ("no info", "reset returned an array of")):
        assert surefoot([*command, str(run), *out, "--env.kwargs", "breach", breach]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line]
        assert [line.startswith(f"surefoot: error: faulty_tasks:CarelessBox-v0: {message}") for line in lines] == [True]
    assert not (tmp_path / "out.hdf5").exists()
    assert evaluations(run) == []


def test_a_task_without_a_time_limit_is_refused_before_its_episodes_are_played(make_run, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "envs")
    run = make_run("a", env=EnvConfig("faulty_tasks:EndlessBox-v0"))
    with pytest.raises(TaskError, match=r"no time limit, so an episode .* might never end; add --env\.max-"):
        main([str(run), "--episodes", "1"])
    assert main([str(run), "--episodes", "1", "--env.max-episode-steps", "3"]) == 0


def test_a_run_given_twice_would_count_twice(make_run):
    run = make_run("a")
    with pytest.raises(ValueError, match="given twice"):
        main([str(run), str(run.parent / "." / run.name)])
    with pytest.raises(ValueError, match="at least one run"):
        main([])


def test_video_is_written_into_the_run(make_run, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(commands_evaluate, "require_drawable", lambda task: None)
    monkeypatch.setattr(
        commands_evaluate, "record_episode", lambda act, task, out, **rest: asked.append((task, out, rest))
    )
    run = make_run("a")
    main([str(run), "--episodes", "1", "--seeds", "4", "--video"])
    ((task, out, rest),) = asked
    assert task.id == "Pendulum-v1"
    assert out.parent == run / "videos"
    assert (rest["seed"], rest["steps"]) == (4, 1000)
    assert "the first 1,000 steps; --video-steps films more" in capsys.readouterr().out  # it returned no True
    with pytest.raises(ValueError, match="--video-steps is 0; it must be from 1 to"):
        main([str(run), "--video", "--video-steps", "0"])


@pytest.mark.parametrize("name", ["run[_b]", "sl[/b]x"])
def test_a_run_is_called_by_its_name_whatever_that_is(make_run, name, capsys):
    assert main([str(make_run(name)), "--episodes", "1"]) == 0
    assert name in capsys.readouterr().out


def without_room(run):
    """Put files where the folders of results would go, so that not even root can write there; return the run."""
    for name in ("evaluations", "plots", "videos"):
        if (run / name).is_dir():
            (run / name).rmdir()
        (run / name).touch()
    return run


def test_a_task_that_cannot_be_drawn_is_refused_before_it_is_measured(make_run, monkeypatch):
    monkeypatch.setattr(commands_evaluate, "measure", lambda *what: pytest.fail("measured"))
    run = make_run("a", env=EnvConfig("surefoot/Pendulum-v0"))
    with pytest.raises(ValueError, match="surefoot/Pendulum-v0 cannot be drawn"):
        main([str(run), "--video"])


def test_where_nothing_can_be_written_the_table_is_shown_and_the_place_named(make_run, monkeypatch, capsys):
    monkeypatch.setattr(commands_evaluate, "require_drawable", lambda task: None)
    run = without_room(make_run("a"))
    assert main([str(run), "--episodes", "2", "--video", "--video-steps", "2"]) == 1
    shown = capsys.readouterr()
    assert "Pendulum-v1: 2 episodes per run" in shown.out
    assert f"surefoot: error: {run}/evaluations/" in shown.err
    assert f"{run}/videos" in shown.err
    assert "could not be written" in shown.err


# --- what overwrites what ---------------------------------------------------------------------------------------------


def test_the_best_policy_and_the_latest_one_of_the_same_step_have_files_of_their_own(make_run):
    run = make_run("a")
    (run / "checkpoints" / "best.pt").write_bytes((run / "checkpoints" / "policy-000000100.pt").read_bytes())
    for checkpoint in ("latest", "best", "100", "best"):
        main([str(run), "--episodes", "1", "--checkpoint", checkpoint])
    assert sorted(record["checkpoint"] for record in evaluations(run)) == ["100", "best", "latest"]


def test_a_file_keeps_the_name_that_it_had_before_the_checkpoint_and_the_set_were_part_of_it(tmp_path):
    record = {"step": 7, "env": {"id": "A-v1"}, "seeds": [1], "episodes": 2, "set": "s", "grid": "closed", "n": 3}
    code = crc32(json.dumps(record, sort_keys=True).encode())
    where = tmp_path, "evaluations"
    before = output_path(*where, record | {"checkpoint": "latest"}, ".json")
    assert before.name == f"s-000000007-{code:08x}.json"
    changes = {"checkpoint": "best"}, {"checkpoint": "7"}, {"set_code": "1"}, {"set_code": "2"}, {"search_episodes": 5}
    others = {output_path(*where, record | {"checkpoint": "latest"} | change, ".json") for change in changes}
    assert len(others - {before}) == len(changes)


def test_sets_of_one_name_in_two_folders_have_files_of_their_own_and_are_told_apart_in_a_report(make_run, tmp_path):
    run = make_run("a", env=EnvConfig("surefoot/Pendulum-v0", max_episode_steps=2))
    box, files = grid.load_set("pendulum-2"), []
    for name, factor in (("a", 1.0), ("b", 2.0)):
        wider = tuple(one._replace(high=factor * one.high) for one in box.parameters)
        files.append(tmp_path / "sets" / name / "my.yaml")
        files[-1].parent.mkdir(parents=True)
        files[-1].write_text(as_yaml(replace(box, parameters=wider)))
    for file in (*files, files[0]):
        assert main([str(run), "--grid", str(file), "--n", "2", "--episodes", "1"]) == 0
    for suffix in (".json", ".csv", ".png"):
        assert len(list((run / "evaluations").glob(f"my-*{suffix}"))) == 2
    assert len(read_measurements(run, read_config(run)[1]).grids) == 2
    (tmp_path / "copy.yaml").write_text(files[0].read_text())
    assert grid.code_of(grid.load_set(str(files[0]))) == grid.code_of(grid.load_set(str(tmp_path / "copy.yaml")))


def test_a_grid_is_shown_too_where_it_cannot_be_written(make_run, capsys):
    run = without_room(make_run("a", env=EnvConfig("surefoot/Pendulum-v0", max_episode_steps=5)))
    assert main([str(run), "--grid", "pendulum-2", "--n", "2", "--episodes", "1"]) == 1
    shown = capsys.readouterr()
    assert "pendulum-2, half-open grid" in shown.out
    assert f"surefoot: error: {run}/evaluations/" in shown.err
