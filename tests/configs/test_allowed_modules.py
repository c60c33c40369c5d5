"""No module that only a file names is imported: of a policy, a run, a preset, a plan, a set or a data set."""

import importlib
import json
import os
import sys
from dataclasses import replace

import pytest
import torch
import yaml

import surefoot
from surefoot.configs.allowed_modules import (
    ALLOWED,
    KNOWN,
    flag_to_go_on,
    imports_allowed,
    may_import,
    named_modules,
    require_allowed_kwargs,
)
from surefoot.envs import EnvConfig, find_spec, make_single
from surefoot.envs.packages import EXTRAS
from surefoot.envs.termination import _load
from surefoot.evaluation.storage import save
from surefoot.offline_data import load, write_minari
from surefoot.training.cli.main import main
from surefoot.training.config.presets import default_config, to_plain

EVIL = """
from pathlib import Path
import gymnasium
Path(r"{marker}").touch()
gymnasium.register("X-v0", "gymnasium.envs.classic_control:PendulumEnv", max_episode_steps=10)
def rule(obs, action, next_obs):
    return obs[:, 0] > 9
"""
SMALL = {"hidden": (8,), "batch_size": 8, "random_steps": 8, "learning_starts": 8}
TINY = {"agent": SMALL, "eval": {"episodes": 1}, "log_every": 20}
OPTIONS = ["--steps", "40", "--agent.hidden", "8", "--agent.batch-size", "8", "--agent.random-steps", "8"]
OPTIONS += ["--agent.learning-starts", "8", "--eval.episodes", "1", "--baselines", "--out", "runs"]


@pytest.fixture
def marker(tmp_path, monkeypatch):
    """What exists once `evilmod` of the working folder has been imported."""
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "imported"
    (tmp_path / "evilmod.py").write_text(EVIL.format(marker=marker))
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry != str(tmp_path)])
    monkeypatch.delenv(ALLOWED, raising=False)
    yield marker
    sys.modules.pop("evilmod", None)
    importlib.invalidate_caches()


def rewritten(folder):
    """Return a run folder whose files now say that its task is `evilmod:X-v0`."""
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("Pendulum-v1", "evilmod:X-v0"))
    for path in folder.glob("checkpoints/*.pt"):
        payload = torch.load(path, weights_only=True)
        payload["config"]["env"]["id"] = "evilmod:X-v0"
        payload.pop("format")
        save(path, payload)
    return folder


def run(make_run):
    return rewritten(make_run("good"))


def policy_file(make_run):
    return next(run(make_run).glob("checkpoints/policy-*.pt"))


def stopped_run():
    """Return a run that can be resumed."""
    return surefoot.train("sac", steps=40, env="Pendulum-v1", callback=lambda row: True, **TINY).folder


def written(name, content):
    with open(name, "w") as file:
        yaml.safe_dump(content, file)
    return name


CASES = {
    "evaluate a policy file": lambda make: ["evaluate", policy_file(make)],
    "evaluate a run": lambda make: ["evaluate", run(make), "--episodes", "1"],
    "stress": lambda make: ["stress", policy_file(make)],
    "card": lambda make: ["card", policy_file(make)],
    "export": lambda make: ["export", policy_file(make), "x.onnx"],
    "push": lambda make: ["push", policy_file(make), "--to", "a/b"],
    "collect": lambda make: ["data", "collect", run(make), "x.hdf5", "--steps", "5"],
    "resume": lambda make: ["train", "--resume", rewritten(stopped_run())],
    "plot": lambda make: ["plot", run(make)],
    "report": lambda make: ["report", run(make)],
    "config": lambda make: ["train", "--config", run(make) / "config.yaml", *OPTIONS],
    "preset": lambda make: [
        "train",
        "sac",
        "--preset",
        written("p.yaml", {"env": {"id": "evilmod:X-v0"}}),
        *OPTIONS,
    ],
    "rule": lambda make: [
        *("train", "mbpo", "--steps", "6000", "--out", "runs", "--preset"),
        written("p.yaml", {"env": {"id": "Pendulum-v1", "termination": "evilmod:rule"}}),
    ],
    "plan": lambda make: [
        "sweep",
        written("s.yaml", {"agents": ["sac"], "set": {"env.id": ["evilmod:X-v0"], "steps": [20]}}),
        "--out=runs",
    ],
    "plan with a preset": lambda make: [
        "sweep",
        written("s.yaml", {"agents": ["sac"], "presets": [written("p.yaml", {"env": {"id": "evilmod:X-v0"}})]}),
        "--out=runs",
    ],
    "set": lambda make: [
        *("evaluate", make("good"), "--grid"),
        written("s.yaml", {"env": "evilmod:X-v0", "parameters": {"body_mass": {"low": 1, "high": 2}}}),
    ],
}


@pytest.mark.parametrize("case", CASES)
def test_a_command_imports_no_module_that_only_a_file_names(case, make_run, marker, capsys):
    words = [str(word) for word in CASES[case](make_run)]
    code = main(words)
    assert not marker.exists()
    assert "evilmod" not in sys.modules
    text = capsys.readouterr().err
    if case in ("plot", "report", "set"):  # which need no task, or only in a child
        return
    assert code == 2
    assert "--allow-code" in text
    assert "evilmod" in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize("case", ["evaluate a run", "card", "collect", "preset"])
def test_with_permission_it_is_imported(case, make_run, marker):
    words = [str(word) for word in CASES[case](make_run)]
    assert main([*words, "--allow-code"]) == 0
    assert marker.exists()
    assert ALLOWED not in os.environ  # the permission is of that one command


def test_what_the_command_line_itself_names_is_imported(make_run, marker):
    assert main(["evaluate", str(make_run("good")), "--env.id=evilmod:X-v0", "--episodes", "1"]) == 0
    assert marker.exists()


def test_from_python_a_file_needs_permission_and_an_argument_does_not(make_run, marker):
    folder, stopped = run(make_run), rewritten(stopped_run())
    for call in (
        lambda: surefoot.load_policy(folder),
        lambda: surefoot.evaluate(folder, episodes=1),
        lambda: surefoot.resume(stopped),
        lambda: surefoot.Run(folder).policy(),
        lambda: surefoot.train("sac", written("p.yaml", {"env": {"id": "evilmod:X-v0"}})),
    ):
        with pytest.raises(ValueError, match=r"names the module 'evilmod'.*allow_code=True"):
            call()
    assert not marker.exists()
    assert surefoot.load_policy(folder, allow_code=True).env.id == "evilmod:X-v0"
    assert marker.exists()
    assert not may_import("other")
    del sys.modules["evilmod"]
    marker.unlink()
    assert surefoot.make_env("evilmod:X-v0").observation_space.shape == (3,)
    assert marker.exists()


def test_a_module_that_is_imported_already_makes_tasks_but_no_rules(monkeypatch):
    monkeypatch.delenv(ALLOWED, raising=False)
    with pytest.raises(ValueError, match="unknown environment"):  # nothing ran, for `json` is imported already
        find_spec("json:Nothing-v0")
    with pytest.raises(ValueError, match=r"names the module 'os'"):
        _load("os:system")
    assert _load("surefoot.envs.termination:never")


def test_an_argument_of_a_task_names_no_module_either(monkeypatch):
    monkeypatch.delenv(ALLOWED, raising=False)
    with pytest.raises(ValueError, match=r"argument env_id = 'evilmod:X-v0'.*names the module 'evilmod'"):
        make_single(EnvConfig("Pendulum-v1", kwargs={"env_id": "evilmod:X-v0"}))
    require_allowed_kwargs({"env_id": "X-v0", "n": 3, "address": "https://a.b"}, "Pendulum-v1")


def test_minari_metadata_import_nothing(marker, monkeypatch, tmp_path):
    pytest.importorskip("minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    path = write_minari("toy/a-v0", load("sample:halfcheetah-demo")) / "data" / "metadata.json"
    evil = {"id": "evilmod:X-v0", "entry_point": "evilmod:rule", "kwargs": {}, "additional_wrappers": []}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"env_spec": json.dumps(evil)}))
    for command in (["info", "minari:toy/a-v0"], ["convert", "minari:toy/a-v0", "x.hdf5"], ["list"]):
        main(["data", *command])
    assert not marker.exists()
    assert "evilmod" not in sys.modules


def test_names_of_modules_are_told_from_other_words():
    words = ["--env.id=my.pkg:Task-v0", "env.id=a:X,b:Y", "minari:x/y-v0", "hf:a/b", "cuda:0", "https://x.y", "rule:go"]
    assert named_modules(words) == {"my.pkg", "a", "b", "rule"}


def test_permission_ends_with_its_block_and_is_inherited(monkeypatch):
    monkeypatch.setenv(ALLOWED, "mine")
    with imports_allowed({"theirs"}):
        assert may_import("mine")
        assert may_import("theirs")
        assert not may_import("others")
        assert os.environ[ALLOWED] == "mine,theirs"  # which a process started here has too
        with imports_allowed({"*"}):
            assert may_import("others")
    assert may_import("mine")
    assert not may_import("theirs")


def test_the_command_to_go_on_says_what_it_needs():
    config = replace(default_config("sac"), env=EnvConfig("mine:X-v0"))
    assert flag_to_go_on(yaml.safe_dump(to_plain("sac", config))) == " --allow-code"
    for env in (EnvConfig("Hopper-v5"), EnvConfig("ale_py:ALE/Pong-v5")):
        assert flag_to_go_on(yaml.safe_dump(to_plain("sac", replace(config, env=env)))) == ""


def test_packages_of_the_extras_are_known():
    assert set(EXTRAS) < KNOWN
