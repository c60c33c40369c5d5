"""`surefoot stress`: one page, one JSON file, and one line where something is wrong."""

import json
import re
import shutil
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from surefoot.envs import EnvConfig, Physics
from surefoot.evaluation.stress import measure
from surefoot.training.cli import stress
from surefoot.training.cli.main import main
from surefoot.training.cli.stress import chosen_sets, require_one_task, short_names

POLE = EnvConfig("InvertedPendulum-v5", max_episode_steps=12)


def test_two_policies_on_one_page(make_run, tmp_path, capsys):
    runs = [make_run(name, seed, env=POLE) for seed, name in enumerate(("first", "second"))]
    out = tmp_path / "made" / "page.html"
    call = ["stress", *map(str, runs), "--sets", "inverted-pendulum-2", "--budget", "230", "--out", str(out)]
    assert main(call) == 0
    content = json.loads(out.with_suffix(".json").read_text())
    first, second = content["policies"]
    assert (first["name"], second["name"]) == ("first", "second")
    assert first["training_seed"] == 0
    assert first["nominal"]["returns"] != second["nominal"]["returns"]
    text = out.read_text()
    for heading in ("Returns", "One parameter at a time", "Two parameters at a time", "The worst point of each set"):
        assert f"<h2>{heading}</h2>" in text
    for words in (
        "What was not tried",
        "How episodes ended",
        "rank 1",
        "mass of pole",
        "values beyond its",
    ):
        assert words in text
    assert text.count("<svg ") == 1 + 2 + 2 + 2  # both policies, a distribution each, two curves, a map each
    printed = capsys.readouterr().out
    assert "worst at mass of pole" in printed
    assert f"page: {out}" in printed


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--sets", "inverted-pendulum-2", "--budget", "30"], "--budget 30 is too small"),
        (["--sets", "hopper-2"], "the uncertainty set hopper-2 is for Hopper-v5, not for InvertedPendulum-v5"),
        (["--sets", "nothing-2"], "unknown uncertainty set 'nothing-2'"),
        (["--sets", "inverted-pendulum-2", "inverted-pendulum-2"], "names a set twice"),
        (["--env.id", "Hopper-v5"], "maps observations"),
        (["--env.id", "Pendulum-v1"], "maps observations"),
        (["--out", "page.md"], ".html"),
        (["--seed", "-1"], "--seed is -1"),
        (["--budget", "0"], "--budget is 0"),
        (["--env.termination", "a:b"], "--env.termination has no effect on a stress test: its episodes end where"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(options, said, make_run, tmp_path, capsys):
    run = make_run("a", env=POLE)
    before = sorted(tmp_path.rglob("*"))
    assert main(["stress", str(run), *options]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("task", "breach", "said"),
    [
        (
            "EndlessBox",
            "",
            "no time limit, so an episode of an evaluation might never end; add --env.max-episode-steps N",
        ),
        ("CarelessBox", "no reward", "returned None (NoneType) as the reward; it must be one number"),
    ],
)
def test_a_task_is_looked_at_before_its_episodes_are_played(task, breach, said, make_run, monkeypatch, capsys):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "envs")
    monkeypatch.setattr(stress, "stress", lambda *arguments, **settings: pytest.fail("episodes are played"))
    run = make_run("a", env=EnvConfig(f"faulty_tasks:{task}-v0", kwargs={"breach": breach}))
    assert main(["stress", str(run)]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("error", [TypeError("a policy's own"), KeyboardInterrupt(), ValueError("bad")])
def test_what_was_measured_before_an_error_is_kept(error, make_run, tmp_path, monkeypatch, capsys):
    out, kept = tmp_path / "new" / "page.html", tmp_path / "new" / "page.unfinished.json"
    call = ["stress", str(make_run("a", env=POLE)), "--sets", "inverted-pendulum-1", "--budget", "170"]

    def find_worst(*arguments, **settings):
        raise error

    monkeypatch.setattr(measure, "find_worst", find_worst)
    with pytest.raises(TypeError) if isinstance(error, TypeError) else nullcontext():
        assert main([*call, "--out", str(out)]) == (130 if isinstance(error, KeyboardInterrupt) else 2)
    assert f"what was measured until here: {kept}" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == [kept.name]
    (found,) = json.loads(kept.read_text())["policies"]
    assert (found["name"], len(found["nominal"]["returns"])) == ("a", 10)
    assert set(found["sets"][0]) == {"name", "parameters", "episodes", "curves"}


@pytest.mark.parametrize("moment", [0, 3])
def test_a_stopped_test_goes_on_where_it_was_and_comes_to_the_same(moment, make_run, tmp_path, monkeypatch, capsys):
    out, played = tmp_path / "page.html", []
    runs = [str(make_run(name, seed, env=POLE)) for seed, name in enumerate(("first", "second"))]
    options = ["--sets", "inverted-pendulum-1", "--budget", "170", "--worst-moment", str(moment)]
    play = measure.play

    def counted(act, task, box, points, seeds, stop_at=10**9, **settings):
        if len(played) == stop_at:
            raise KeyboardInterrupt
        played.append((points.tolist(), list(seeds)))
        return play(act, task, box, points, seeds, **settings)

    monkeypatch.setattr(measure, "play", counted)
    assert main(["stress", *runs, *options, "--out", str(tmp_path / "whole.html")]) == 0
    whole, played[:] = list(played), []
    for stop_at in (len(whole) // 3, len(whole) - 3):  # within the first policy, and within the second
        monkeypatch.setattr(measure, "play", partial(counted, stop_at=stop_at))
        assert main(["stress", *runs, *options, "--out", str(out)]) == 130
        assert "the same command goes on from it" in capsys.readouterr().out
    monkeypatch.setattr(measure, "play", counted)
    assert main(["stress", *runs, *options, "--out", str(out)]) == 0
    again = [one for one in whole if played.count(one) > whole.count(one)]
    assert all(len(points) == 10 for points, _ in again)  # the nominal episodes, by which a policy is known again
    assert len(played) < len(whole) + 5
    found, expected = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("page", "whole"))
    assert found["policies"] == expected["policies"]
    assert not (tmp_path / "page.unfinished.json").exists()


def test_nothing_is_taken_from_a_stopped_test_of_another_policy(make_run, tmp_path, monkeypatch, capsys):
    out, options = tmp_path / "page.html", ["--sets", "inverted-pendulum-1", "--budget", "170"]
    run = make_run("a", env=POLE)
    monkeypatch.setattr(measure, "find_worst", lambda *arguments, **settings: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["stress", str(run), *options, "--out", str(out)]) == 130
    monkeypatch.undo()
    shutil.rmtree(run)
    make_run("a", 1, env=POLE)
    assert main(["stress", str(run), *options, "--out", str(out)]) == 0
    assert "nothing is taken from it" in capsys.readouterr().out
    assert main(["stress", str(run), *options, "--out", str(tmp_path / "fresh.html")]) == 0
    found, expected = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("page", "fresh"))
    assert found["policies"] == expected["policies"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"plays": 3}', '{"plays": {"a": {"key": [[1], [2, 3], [4]]}}}'])
def test_a_file_in_the_place_of_a_stopped_test_is_not_replaced(text, make_run, tmp_path, capsys):
    out, kept = tmp_path / "page.html", tmp_path / "page.unfinished.json"
    kept.write_text(text)
    assert main(["stress", str(make_run("a", env=POLE)), "--sets", "inverted-pendulum-1", "--out", str(out)]) == 2
    assert f"{kept}: not what a stress test keeps until it is done; move it away" in capsys.readouterr().err
    assert kept.read_text() == text


def test_finished_policies_are_kept_until_all_are_and_no_longer(make_run, tmp_path, monkeypatch):
    runs = [str(make_run(name, seed, env=POLE)) for seed, name in enumerate(("first", "second"))]
    out, kept = tmp_path / "page.html", tmp_path / "page.unfinished.json"
    seen = []

    def parts(act, task, sets, *, keep, **settings):
        keep({"sets": ["some"]})
        seen.append([(one["name"], one["sets"]) for one in json.loads(kept.read_text())["policies"]])
        return {"sets": ["all"]}

    monkeypatch.setattr(stress, "stress", parts)
    monkeypatch.setattr(stress, "not_tried", lambda *what: [])
    monkeypatch.setattr(stress, "write", lambda request, content: None)
    assert main(["stress", *runs, "--sets", "inverted-pendulum-1", "--out", str(out)]) == 0
    assert seen == [[("first", ["some"])], [("first", ["all"]), ("second", ["some"])]]
    assert not kept.exists()


def test_the_worst_moment_is_on_the_page_and_in_the_numbers(make_run, tmp_path, capsys):
    run, out = make_run("a", env=POLE), tmp_path / "page.html"
    call = ["stress", str(run), "--sets", "inverted-pendulum-1", "--budget", "170", "--worst-moment", "3"]
    assert main([*call, "--out", str(out)]) == 0
    (box,) = json.loads(out.with_suffix(".json").read_text())["policies"][0]["sets"]
    found = box["worst_moment"]
    assert found["at"] == box["worst"]["at"]
    assert (found["duration"], found["episodes_per_onset"]) == (3, 10)
    assert found["mean_when_chosen"] == min(found["tried"].values()) == found["tried"][str(found["onset"])]
    assert found["interval"][0] <= found["mean"] <= found["interval"][1]
    text = out.read_text()
    assert "<h2>The worst moment</h2>" in text
    assert f"3 steps from step {found['onset']} on" in text
    assert "change within an episode otherwise than for 3 steps" in text
    assert main([*call[:-1], "-1"]) == 2
    assert "--worst-moment is -1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "options", "name"),
    [
        ("stress", ["--out"], "a.html"),
        ("card", ["--out"], "a.md"),
        ("export", [], "a.onnx"),
        ("evaluate", ["--json"], "a.json"),
    ],
)
def test_where_nothing_can_be_written_is_said_before_anything_is_opened(command, options, name, tmp_path, capsys):
    (tmp_path / "file").touch()
    call = [command, str(tmp_path / "gone.zip"), *options, str(tmp_path / "file" / name)]
    assert main(call) == 2
    error = capsys.readouterr().err
    assert "is a file, not a folder" in error
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_policies_of_different_tasks_do_not_share_a_page(make_run, capsys):
    runs = [str(make_run("a", env=POLE)), str(make_run("b", env=EnvConfig("Pendulum-v1")))]
    assert main(["stress", *runs]) == 2
    error = capsys.readouterr().err
    assert (
        "different tasks (InvertedPendulum-v5, max episode steps 12; Pendulum-v1), which differ in --env.id, " in error
    )


@pytest.mark.parametrize(
    ("changes", "option"),
    [
        ({"action_bound": 0.5}, "--env.action-bound"),
        ({"time_aware": True}, "--env.time-aware"),
        ({"flatten": True}, "--env.flatten"),
        ({"kwargs": {"reset_noise_scale": 0.5}}, "--env.kwargs"),
        ({"physics": Physics(parameters=("control_delay=2",))}, "--env.physics.parameters"),
    ],
)
def test_tasks_that_differ_in_any_field_are_different(changes, option):
    with pytest.raises(ValueError, match=rf"which differ in {option}; stress those of one task together$"):
        require_one_task([POLE, replace(POLE, **changes)])


def test_what_decides_no_episode_makes_no_other_task():
    require_one_task([POLE, replace(POLE, num_envs=7, vectorization="async", termination="rules:ends")])


def test_a_policy_of_smaller_actions_has_a_page_of_its_own(make_run, capsys):
    runs = [str(make_run("a", env=POLE)), str(make_run("b", env=replace(POLE, action_bound=0.5)))]
    assert main(["stress", *runs]) == 2
    assert "12), which differ in --env.action-bound; stress" in capsys.readouterr().err


def test_a_set_with_a_body_that_this_robot_lacks(make_run, tmp_path, capsys):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("env: InvertedPendulum-v5\nparameters: {body_mass.tail: {low: 1, high: 2}}\n")
    assert main(["stress", str(make_run("a", env=POLE)), "--sets", str(wrong)]) == 2
    assert "the task has no 'tail' for body_mass; it has world, cart, pole" in capsys.readouterr().err


def test_by_default_a_task_has_its_largest_published_set_and_all_that_can_be_disturbed():
    assert [one.name for one in chosen_sets((), EnvConfig("Hopper-v5"))] == ["hopper-3", "disturbances"]
    (every,) = chosen_sets((), EnvConfig("Pendulum-v1"))
    assert {"control_delay", "sensor_drop"} <= set(every.param_names)
    two = chosen_sets(("disturbances", "walker-1"), EnvConfig("Walker2d-v5"))
    assert [one.env for one in two] == ["Walker2d-v5", "Walker2d-v5"]


def test_a_set_that_is_named_twice_is_refused_whatever_it_is_called(tmp_path):
    one, two, other = (tmp_path / f"{name}.yaml" for name in ("one", "two", "other"))
    for path in (one, two):
        path.write_text("env: InvertedPendulum-v5\nparameters: {body_mass.pole: {low: 3, high: 6}}\n")
    other.write_text("env: InvertedPendulum-v5\nparameters: {body_mass.pole: {low: 3, high: 7}}\n")
    names = str(one), f"{tmp_path}/./one.yaml", str(two)
    for first, second in ((names[0], names[1]), (names[0], names[2]), ("disturbances", "disturbances")):
        message = f"--sets names a set twice: {first} and {second}; leave one out"
        with pytest.raises(ValueError, match=re.escape(message)):
            chosen_sets((first, str(other), second), POLE)
    assert [one.name for one in chosen_sets((names[0], str(other)), POLE)] == [names[0], str(other)]


def test_names_are_as_short_as_tells_them_apart(tmp_path):
    paths = [tmp_path / "sac" / "Hopper" / "Hopper.zip", tmp_path / "tqc" / "Hopper" / "Hopper.zip"]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.touch()
    assert short_names(paths) == ["sac/Hopper/Hopper", "tqc/Hopper/Hopper"]
    assert short_names(paths[:1]) == ["Hopper"]
