"""`surefoot bandit`: a line of JSON per call, one learner in a file, processes that take turns."""

import json
import multiprocessing
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import numpy as np
import pytest

from surefoot.envs import DynamicalLinear
from surefoot.evaluation import bandit_files
from surefoot.training.cli.main import main

ACTIONS = "[[1,0],[0,1],[0.5,0.5]]"
BOUNDS = ("--bounds", "action_weight", "0.7", "input_matrix", "0.7", "noise_std", "0.05")


def run(*words):
    """Return exit code, what was printed, and the error."""
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(["bandit", *map(str, words)])
    return code, out.getvalue(), err.getvalue()


def line(*words):
    code, out, err = run(*words)
    assert (code, err, out.count("\n")) == (0, "", 1), err
    return json.loads(out)


def refused(*words):
    code, out, err = run(*words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("surefoot: error: ")
    return err


@pytest.fixture
def state(tmp_path):
    path = tmp_path / "mine.json"
    line("new", path, "--actions", ACTIONS, *BOUNDS)
    return path


def test_a_learner_is_asked_and_told_through_its_file(state):
    first = line("ask", state)
    assert (first["round"], first["rounds"]) == (1, 1)
    assert first["action"] == json.loads(ACTIONS)[first["index"]]
    assert line("tell", state, "-2e-1") == {"rounds": 1, "missing": 0}
    assert line("ask", state)["rounds"] == 2
    assert line("tell", state, "null")["pending"] == {"round": 3, "left": 1}
    assert line("tell", state, 0.5)["missing"] == 1
    assert line("tell", state, 0.1, "--of", 2)["missing"] == 0
    shown = line("show", state)
    assert (shown["learner"], shown["rounds"], shown["doubling"], shown["spectral_radius_bound"]) == (
        "dynlin-ucb", 3, True, 0.5,
    )  # fmt: skip
    assert bandit_files.load(state).learner.turns.t == 3


def test_wrong_calls_say_one_line_and_leave_the_file_as_it_is(state, tmp_path):
    line("ask", state)
    before = state.read_bytes()
    assert "tell the reward of round 1 first" in refused("ask", state)
    assert "not a finite number" in refused("tell", state, "NaN")
    assert "no JSON" in refused("tell", state, "much")
    assert "has not been told" in refused("tell", state, 0.1, "--of", 4)
    assert "exists already" in refused("new", state, "--actions", ACTIONS, *BOUNDS)
    assert "not among contexts" in refused("ask", state, "--contexts", "[[1]]")
    assert state.read_bytes() == before
    assert "no such file" in refused("ask", tmp_path / "none.json")
    assert "--actions none.json: no such file" in refused("new", tmp_path / "b.json", "--actions", "none.json")
    assert "actions: a table" in refused("new", tmp_path / "b.json", *BOUNDS)
    assert "action_weight, input_matrix, noise_std missing" in refused("new", tmp_path / "b.json", "--actions", ACTIONS)
    assert "new|ask|tell|show" in refused("sell", state)
    assert "unknown agent 'dynlin'" in refused("new", tmp_path / "b.json", "dynlin", "--actions", ACTIONS)
    assert not (tmp_path / "b.json").exists()
    state.write_bytes(before.replace(b'"format": 1', b'"format": 2'))
    assert "format 2" in refused("show", state)
    state.write_bytes(before[:-9])
    assert "damaged" in refused("tell", state, 0.3)


def test_a_learner_that_is_refused_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "bounds: action_weight" in refused("new", "nested/deep/x.json", "--actions", ACTIONS)
    assert "ucb" in refused("new", "nested/x.json", "ucb", "--actions", ACTIONS, *BOUNDS)
    assert refused("new", ".", "--force") == "surefoot: error: .: a folder; name the file to write\n"
    assert refused("ask", "nested/x.json").startswith("surefoot: error: nested/x.json: no such file; ")
    assert not list(tmp_path.iterdir())


def test_other_learners_sets_and_suffixes(tmp_path):
    polytope = '{"polytope": {"matrix": [[1,0],[0,1],[-1,0],[0,-1],[1,1]], "bound": [1,1,0,0,1.5]}}'
    made = line("new", tmp_path / "p.npz", "linucb", "--actions", polytope, *BOUNDS, "--horizon", 100)
    assert (made["learner"], made["horizon"], made["doubling"]) == ("linucb", 100, False)
    assert len(bandit_files.load(tmp_path / "p.npz").request.actions) == 5
    assert line("ask", tmp_path / "p.npz")["rounds"] == 1
    ball = line("new", tmp_path / "b.json", "--actions", '{"ball": 2, "dimension": 3}', *BOUNDS)
    assert len(ball["best"]) == 3
    assert line("ask", tmp_path / "b.json")["index"] is None
    two = tmp_path / "two.json"
    line("new", two, "exp3", "--actions", ACTIONS, *BOUNDS, "spectral_radius", "0.5", "--replicates", 2, "--seed", 3)
    assert np.array(line("ask", two)["action"]).shape == (2, 2)
    assert line("tell", two, "[0.1, null]")["missing"] == 1


def test_a_preset_file_and_a_log_to_start_from(tmp_path):
    rng = np.random.default_rng(0)
    table = np.array(json.loads(ACTIONS))[rng.integers(3, size=600)]
    x, rows = 0.0, ["first,second,reward"]
    for u in table:
        rows.append(f"{u[0]},{u[1]},{x - 0.2 * u[0] + 0.6 * u[1] + 0.05 * rng.normal():.6f}")
        x = 0.5 * x + 0.6 * u[0] - 0.3 * u[1] + 0.05 * rng.normal()
    (tmp_path / "log.csv").write_text("\n".join([*rows, "1,0,"]))
    found = line("identify", tmp_path / "log.csv")
    assert found["h"][0][1] < 1.0 < found["h"][0][2]
    assert found["h"][1][1] < 0.0 < found["h"][1][2]
    assert found["bounds"]["spectral_radius"] == pytest.approx(found["spectral_radius"][2])
    assert DynamicalLinear(1, **found["system"], actions=json.loads(ACTIONS)).h[0] == pytest.approx(found["h"][0][0])
    assert found["spectral_radius"][1] < 0.5 < found["spectral_radius"][2]
    (tmp_path / "own.yaml").write_text(
        f"actions: {ACTIONS}\nhorizon: 500\nsettings: {{bias_scale: 0.5}}\n"
        "bounds: {spectral_radius: 0.5, action_weight: 0.7, input_matrix: 0.7, noise_std: 0.05}\n"
    )
    started = line("new", tmp_path / "a.json", "--preset", tmp_path / "own.yaml", "--log", tmp_path / "log.csv")
    assert started["best"] == [1.0, 0.0]
    assert started["estimate"][0] > started["estimate"][1] + 0.3  # shrunk by λ = ln 500
    assert bandit_files.load(tmp_path / "a.json").config.bias_scale == 0.5
    for text, message in (
        ("acts: []", "unknown key 'acts'"),
        ("settings: 3", "settings is 3; it must hold names"),
        (f"actions: {ACTIONS}\nreplicates: two", "replicates is 'two'"),
        ("bounds:\nseed:", "actions: a table"),  # left open: as if left out
    ):
        (tmp_path / "own.yaml").write_text(text)
        assert message in refused("new", tmp_path / "c.json", "--preset", tmp_path / "own.yaml")
    (tmp_path / "log.csv").write_text("1,2,3\n1,2\n")
    assert "as many in each" in refused("identify", tmp_path / "log.csv")
    (tmp_path / "log.csv").write_text("1,0,0.5\n" * 50)  # the second component never moved
    told = line("identify", tmp_path / "log.csv")
    assert (told["h"][1][1:], told["bounds"], told["system"]) == ([None, None], None, None)
    assert "lags is -1" in refused("identify", tmp_path / "log.csv", "--lags", -1)


def ask_and_tell(path, number, results):
    """Play what the file lets this process play: it asks where nothing is pending, and tells."""
    told = 0
    for i in range(number):
        run("ask", path)
        told += run("tell", path, 0.01 * i)[0] == 0
    results.put(told)


def test_processes_that_call_at_once_lose_nothing(tmp_path):
    path = tmp_path / "shared.json"
    line("new", path, "linucb", "--actions", ACTIONS, *BOUNDS)
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=ask_and_tell, args=(path, 12, results)) for _ in range(3)]
    for worker in workers:
        worker.start()
    told = sum(results.get(timeout=120) for _ in workers)
    for worker in workers:
        worker.join(60)
    learner = bandit_files.load(path).learner
    assert 12 <= told == learner.turns.t
    assert float(learner.learner.ridge.gram.diagonal().sum()) > 2 + 0.5 * (told - 1)  # every reward is a sample
    assert [file.name for file in tmp_path.iterdir() if file.suffix == ".tmp"] == []
