"""What the pages say is so: tables, links, options, metrics, versions."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml

from surefoot import agents
from surefoot.agents.interface import Setting, Spaces
from surefoot.configs import preset_names
from surefoot.envs import EnvConfig, spaces_of
from surefoot.envs.termination import never
from surefoot.offline_data import Transitions
from surefoot.training.config.presets import default_config
from surefoot.training.config.run import RunConfig
from surefoot.training.loop.setup import training_env

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")] + sorted(ROOT.glob("docs/**/*.md"))
RENDER = ROOT / "benchmarks" / "render_tables.py"


def test_tables_are_what_the_result_files_say():
    done = subprocess.run([sys.executable, RENDER, "--check"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def render(load_script):
    return load_script("render_tables")


@pytest.fixture
def h2o(load_script):
    return load_script("tables.h2o")


@pytest.fixture
def results(tmp_path):
    """Write a result file without a renderer of its own."""
    provenance = (
        '"command": "benchmarks/toy.py --seeds 0 1", "commit": "0123456789abcdef", "dirty": false, "seeds": [0, 1], '
        '"minutes": 2.5, "versions": {}, "hardware": {"cpus": 2, "processor": "x86_64", "gpu": null}'
    )
    text = f'{{"benchmark": "toy", "speed": {{"ours": 3, "all": [1, 2]}}, "runs": [{{"a": 1}}], {provenance}}}'
    (tmp_path / "toy.json").write_text(text)
    return tmp_path


def test_a_table_is_rendered_between_its_markers_once(render, results):
    page = "before\n<!-- table: toy -->\nold\n<!-- end -->\nafter\n"
    fresh = render.rendered(page, "page", results)
    assert fresh == (
        "before\n<!-- table: toy -->\n"
        "| figure | value |\n| --- | ---: |\n| speed.ours | 3 |\n| speed.all | 1, 2 |\n\n"
        "`python benchmarks/toy.py --seeds 0 1`; commit `0123456789`; 2 CPUs (x86_64); seeds 0, 1; 2.5 minutes.\n"
        "<!-- end -->\nafter\n"
    )
    assert render.rendered(fresh, "page", results) == fresh


def test_jobs_that_end_at_once_stand_side_by_side(render, results, monkeypatch):
    import record

    monkeypatch.setattr(record, "RESULTS", results)
    with ThreadPoolExecutor(4) as pool:  # the lock is one of files, and does not care whose threads they are
        list(pool.map(lambda i: record.record_job("shared", str(i), {"at": i}, began=0.0, seeds=[0]), range(24)))
    assert {job: figures["at"] for job, figures in record.results_of("shared").items()} == {
        str(i): i for i in range(24)
    }
    record.record_job("shared", "3", {"at": -1}, began=0.0, seeds=[0])
    assert record.results_of("shared")["3"]["at"] == -1
    assert record.results_of("none") == {}


@pytest.mark.parametrize("dirty", [False, True])
def test_a_job_has_the_commit_of_the_code_that_recorded_it_or_of_its_training(dirty, render, results, monkeypatch):
    import record

    monkeypatch.setattr(record, "RESULTS", results)
    monkeypatch.setattr(record, "STARTED", record.STARTED | {"commit": "now", "dirty": dirty})
    for job, figures in {"own": {"at": 1}, "trained": {"at": 2, "commit": "then"}, "list": [3]}.items():
        record.record_job("shared", job, figures, began=0.0, seeds=[0])
    changed = {"dirty": True} if dirty else {}
    assert record.results_of("shared") == {
        "own": {"at": 1, "commit": "now", **changed},
        "trained": {"at": 2, "commit": "then", **changed},
        "list": [3],
    }


def of_jobs(jobs, load_script, **more):
    """Return the line under a table of jobs."""
    last = {"command": "benchmarks/toy.py", "commit": "a" * 40, "dirty": False, "seeds": [7, 8, 9], "minutes": 2.5}
    hardware = {"cpus": 2, "processor": "x86_64", "gpu": None}
    return load_script("tables.markdown").provenance({"jobs": jobs, "hardware": hardware, **last, **more})


def test_the_line_of_a_table_of_jobs_is_of_all_of_them(load_script):
    jobs = {
        "h2o/0": {"commit": "a" * 40, "minutes": 30.0},
        "h2o/2": {"commit": "b" * 40, "minutes": 10.6, "resumed_at": ["c" * 40]},
    }
    assert of_jobs(jobs, load_script) == (
        "Last call: `python benchmarks/toy.py`; commit `aaaaaaaaaa`; runs of commits `aaaaaaaaaa`, `bbbbbbbbbb`, "
        "`cccccccccc`; 2 CPUs (x86_64); seeds 0, 2; 41 minutes."
    )
    jobs["bc/0"] = {}
    assert "`cccccccccc`; without a commit of their own: 1 of 3 jobs; 2 CPUs" in of_jobs(jobs, load_script)
    assert of_jobs(jobs, load_script).endswith("seeds 0, 2; 41 minutes of 2 of 3 jobs.")
    same = {job: {"commit": "a" * 40, "dirty": True} for job in ("first", "second")}
    assert of_jobs(same, load_script) == (
        "Last call: `python benchmarks/toy.py`; commit `aaaaaaaaaa`; some with changes; 2 CPUs (x86_64); "
        "seeds 7, 8, 9; 2.5 minutes of the last call."
    )
    unknown = {job: [] for job in ("first", "second")}
    assert "commit unknown; without a commit of their own: all 2 jobs" in of_jobs(unknown, load_script, commit=None)


def test_a_run_that_was_resumed_at_another_commit_says_so(load_script):
    origin = load_script("trained").origin
    first = {"minutes": 3.0, "commit": "one", "dirty": False}
    assert origin(first) == {"minutes": 3.0, "commit": "one"}
    parts = [{"commit": "one", "dirty": False}, {"commit": "two", "dirty": False}, {"commit": "two", "dirty": True}]
    assert origin(first | {"resumed": parts[:1]}) == {"minutes": 3.0, "commit": "one"}
    assert origin(first | {"resumed": parts}) == {
        "minutes": 3.0,
        "commit": "one",
        "resumed_at": ["two"],
        "dirty": True,
    }


def test_a_cell_of_the_gap_table_has_the_seeds_that_were_run_and_no_others(h2o):
    def job(real, **more):
        return {"real": real, "steps": 30, "commit": "0123456789abcdef", **more}

    jobs = {
        "gravity=2/h2o/1": job(30.0),
        "gravity=0.5/h2o/0": job(-7.0, minutes=1.6),
        "gravity=2/h2o/0": job(10.0),
        "none/bc/0": job(4.0),
    }
    table, _, note = h2o.simulator_gap({"jobs": jobs}).partition("\n\n")
    assert table.splitlines() == [
        "| method | no simulator | gravity × 0.5 | gravity × 2 |",
        "| --- | ---: | ---: | ---: |",
        "| H2O |  | −7 | 20 (10 30) |",
        "| behaviour cloning | 4 |  |  |",
    ]
    assert note.endswith("Steps or updates: 30.")


def test_methods_are_compared_seed_by_seed_where_both_were_run(h2o):
    real = {
        "gravity=4/h2o/0": 10.0,
        "gravity=4/h2o/1": 30.0,
        "gravity=4/h2o/2": 50.0,
        "gravity=4/sac-mix/1": 28.0,
        "gravity=4/sac-mix/0": 11.0,
        "gravity=1/sac-mix/0": 9.0,
        "none/sac-offline/0": 2.0,
        "gravity=4/sac-mix/1/replay": 1000.0,
        "friction=0.1/h2o/1": 4.0,
        "friction=0.1/h2o-without-w/1": 1.0,
    }
    tables = h2o.simulator_gap_pairs({"jobs": {job: {"real": value} for job, value in real.items()}})
    of_gravity, of_kind = (table.splitlines() for table in tables.split("\n\n"))
    assert of_gravity[0] == "| real return | gravity × 1 | gravity × 4 |"
    assert of_gravity[2:] == [
        "| SAC-mix less SAC on the data | 7 | 9 |",
        "| H2O less SAC on the data |  | 8 |",
        "| H2O less SAC-mix |  | 0 (−1 2) |",
    ]
    assert of_kind[::2] == ["| real return | friction=0.1 |", "| H2O less H2O without w | 3 |"]


def test_corrections_stand_by_method_and_gravity(h2o):
    jobs = {
        "gravity=4/h2o/1": {"importance_weight": 0.023},
        "gravity=4/h2o/0": {"importance_weight": 0.5},
        "gravity=1/darc/0": {"reward_correction": -0.9},
        "gravity=4/sac-mix/0": {"real": 1.0},
    }
    assert h2o.simulator_gap_corrections({"jobs": jobs}).splitlines()[::2] == [
        "| by seed | gravity × 1 | gravity × 4 |",
        "| DARC: mean Δr a step | −0.90 |  |",
    ]
    assert h2o.simulator_gap_corrections({"jobs": jobs}).splitlines()[-1].endswith("|  | 0.50 0.02 |")


def test_other_gaps_and_other_data_have_tables_of_their_own(h2o):
    def job(real):
        return {"real": real, "steps": 30, "commit": "0123456789abcdef"}

    jobs = {
        "gravity=2/h2o/0": job(1.0),
        "gravity=2/h2o/0/replay:0.1": job(2.0),
        "gravity=2/h2o/0/replay:0.02": job(3.0),
        "none/bc/0/medium": job(4.0),
        "control_delay=2/darc/0": job(5.0),
    }
    gravity, kinds, data, _ = h2o.simulator_gap({"jobs": jobs}).split("\n\n")
    assert gravity.splitlines()[0] == "| method | gravity × 2 |"
    assert kinds.splitlines()[::2] == ["| method | control_delay=2 |", "| DARC | 5 |"]
    assert data.splitlines()[0] == "| method | medium | replay:0.02 | replay:0.1 |"
    assert data.splitlines()[2:] == ["| H2O |  | 3 | 2 |", "| behaviour cloning | 4 |  |  |"]


def test_a_row_of_the_paper_has_a_column_a_gap_and_names_its_data(h2o):
    def job(score):
        return {"score": score, "steps": 100_000, "data": "/data/replay.hdf5", "commit": "0123456789abcdef"}

    jobs = {"replay/noise/h2o/1": job(40.0), "replay/noise/h2o/0": job(20.0), "replay/none/cql/0": job(45.0)}
    table, note = h2o.h2o_table({"jobs": jobs}).split("\n\n")
    assert table.splitlines() == [
        "| method | replay, noise | replay, no simulator |",
        "| --- | ---: | ---: |",
        "| H2O | 30 (20 40) |  |",
        "| CQL |  | 45 |",
    ]
    assert note.endswith("Steps or updates: 100,000; data: `replay.hdf5`.")


def test_a_task_stands_beside_its_public_seeds(load_script):
    of_both = {"public_sac": [5.0, 7.0], "commit": "0123456789ab"}
    jobs = {f"walker/{k}": {"final": 10.0 * k, "minutes": k, **of_both} for k in (1, 2)}
    jobs["walker/1/initial-alpha-0.1"] = {"final": 30.0, "minutes": 3, **of_both}
    *_, row, changed = load_script("tables.backbone").dmc_sac({"jobs": jobs}).splitlines()
    assert row == "| walker | 15 [10, 20] | 10 20 | 6 [5, 7] | 5 7 | 1 2 |"
    assert changed == "| walker, initial alpha 0.1 | 30 | 30 | 6 [5, 7] | 5 7 | 3 |"


def test_curves_of_two_backbones_are_drawn_together_a_panel_a_task(load_script, monkeypatch, tmp_path):
    figures, drawn = load_script("render_figures"), []
    monkeypatch.setattr(figures, "write_figure", lambda figure, out, caption: drawn.append((figure, caption)))
    curves = {"A/sac/0": [1.0, 2.0], "A/sac/1": [3.0, 6.0], "A/sb3-sac/0": [0.0, 1.0], "B/sac/0": [5.0, 5.0]}
    jobs = {job: {"curve": curve} for job, curve in curves.items()} | {"B/sb3-sac/0": {"curve": [4.0, 4.0]}}
    (tmp_path / "sac_sb3.json").write_text(json.dumps({"jobs": jobs}))
    figures.draw_sac_sb3(tmp_path, tmp_path)
    ((figure, caption),) = drawn
    assert [axes.get_title() for axes in figure.axes] == ["A", "B"]
    lines = {tuple(line.get_ydata()) for line in figure.axes[0].lines}
    assert lines == {(1.0, 2.0), (3.0, 6.0), (2.0, 4.0), (0.0, 1.0)}
    assert tuple(figure.axes[0].lines[0].get_xdata()) == (5_000, 10_000)
    assert caption.seeds == "seeds 0, 1"


def test_an_interval_needs_two_seeds(load_script):
    with_interval = load_script("tables.markdown").with_interval
    assert with_interval([5.0]) == "5"
    assert with_interval([1.0, 3.0]) == "2 [1, 3]"


def test_a_view_is_another_table_of_the_same_file(render, results, monkeypatch):
    monkeypatch.setitem(render.VIEWS, "other", "toy")
    monkeypatch.setitem(render.RENDERERS, "other", lambda result: f"speed {result['speed']['ours']}")
    page = "<!-- table: other -->\n<!-- end -->\n"
    assert render.rendered(page, "page", results).splitlines()[1:4:2] == [
        "speed 3",
        "`python benchmarks/toy.py --seeds 0 1`; commit `0123456789`; 2 CPUs (x86_64); seeds 0, 1; 2.5 minutes.",
    ]


def test_every_rule_of_iwocs_stands_on_one_page_with_the_seeds_that_chose_apart(load_script):
    robust = load_script("tables.robust")
    cell = {"worst": 7.0, "average": 8.0, "nominal": 9.0, "cpu_seconds": 1.0, "steps": 1_000, "commit": "0123456789ab"}
    jobs = dict.fromkeys(("iwocs-of-all/1", "iwocs-of-all/3", "dr-sac/3", "nominal/4", "iwocs-longer/1"), cell)

    def methods(table):
        return [line.split(" | ")[0] for line in table.splitlines()[2:]]

    assert methods(robust.iwocs({"jobs": jobs})) == ["| dr-sac", "| nominal"]
    assert methods(robust.iwocs_ablations({"jobs": jobs})) == [
        "| iwocs-longer, chose",
        "| iwocs-of-all",
        "| iwocs-of-all, chose",
    ]


def test_every_module_of_tables_is_asked_and_no_two_have_the_same_table(render):
    modules = {path.stem for path in (RENDER.parent / "tables").glob("*.py")} - {"markdown"}
    assert modules == {subject.__name__.removeprefix("tables.") for subject in render.SUBJECTS}
    assert len(render.RENDERERS) == sum(len(subject.TABLES) for subject in render.SUBJECTS)


def test_a_missing_result_says_so_and_an_open_table_is_refused(render, results):
    page = "<!-- table: absent -->\n<!-- end -->\n"
    assert "*Not measured yet: there is no `benchmarks/results/absent.json`.*" in render.rendered(page, "page", results)
    with pytest.raises(ValueError, match=r"page: tables \['toy'\] are opened, \[\] closed"):
        render.rendered("<!-- table: toy -->\ntext\n", "page", results)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = re.sub(r"`[^`\n]*`(?!\])", "", page.read_text(encoding="utf-8"))  # in code it is no link
    links = re.findall(r"(?<!!)\[[^\]]*\]\(([^)#\s]+)", text)
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not broken


def option_exists(option: str) -> bool:
    """Whether `--agent.tau` or `--env.physics.gravity` is a field of some agent's run."""
    return any(has_field(default_config(name), option.split(".")) for name in agents.REGISTRY)


def has_field(config: object, path: list[str]) -> bool:
    name = path[0].replace("-", "_").removeprefix("no_")
    if not dataclasses.is_dataclass(config) or name not in {field.name for field in dataclasses.fields(config)}:
        return False
    return len(path) == 1 or has_field(getattr(config, name), path[1:])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_named_in_the_pages_exist(page):
    named = set(re.findall(r"--((?:agent|env|data|eval)\.[a-z0-9.-]*[a-z0-9])", page.read_text(encoding="utf-8")))
    assert not {option for option in named if not option_exists(option)}
    assert not option_exists("agent.nonsense")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_presets_named_in_the_pages_exist(page):
    text = page.read_text("utf-8")
    files = set(re.findall(r"^# ([\w-]+\.yaml)\b", text, re.M))  # a preset that the page itself writes
    calls = re.findall(r"(?:train\.py|surefoot train) ([a-z0-9-]+) --preset ([\w/.-]*\w)", text)
    named = {call for call in calls if call[1] not in files}
    assert not {call for call in named if call[1].split("/")[-1] not in preset_names(owner_of(*call))}


def owner_of(agent_name: str, preset: str) -> str:
    return preset.split("/")[0] if "/" in preset else agent_name


def logged_by(name: str) -> set[str]:
    """Return the names of the metrics of the first steps of a tiny run, with every optional part switched on."""
    torch.set_num_threads(1)
    spec, rng = agents.get(name), np.random.default_rng(0)
    known = {field.name for field in dataclasses.fields(spec.default)}
    changes = spec.tiny | {key: value for key, value in SWITCHED_ON.items() if key in known}
    env = EnvConfig(**(spec.tiny_env or {"id": "surefoot/Pendulum-v0", "max_episode_steps": 15}))
    config = RunConfig(
        dataclasses.replace(spec.default, **changes),
        env,
        uncertainty="pendulum-2" if spec.needs_uncertainty_set else None,
    )
    spaces = Spaces(*spaces_of(env))
    envs, perturbed = training_env(name, spec, config, torch.device("cpu"))
    setting = Setting(
        spaces, 0, torch.device("cpu"), envs, made_up(spaces, rng), termination=never, perturbed_envs=perturbed
    )
    agent, metrics = spec.make_agent(config.agent, setting), set[str]()
    for _ in range(60):
        metrics |= set(agent.step().metrics)
    return metrics


# Fields that hide metrics when they are off.
SWITCHED_ON = {"lagrange": True, "success_return": 0.0, "holdout": 0.2}


def made_up(spaces: Spaces, rng: np.random.Generator) -> Transitions:
    """Return recorded episodes of four steps that fit the spaces."""
    width, size = spaces.observation.shape[0], 40
    discrete = isinstance(spaces.action, gym.spaces.Discrete)
    action = np.zeros((size, 1)) if discrete else rng.uniform(-1, 1, (size, spaces.action.shape[0]))
    shown = np.zeros((size, width))
    shown[:, 0], shown[:, -1] = 1, np.tile(np.arange(4), size // 4)  # one-hot states and the time, for finite tasks
    ends = {"terminated": np.zeros(size), "truncated": shown[:, -1] == 3}
    return Transitions.from_arrays(obs=shown, action=action, reward=np.zeros(size), next_obs=shown, **ends)


@pytest.mark.parametrize("name", agents.REGISTRY)
def test_every_metric_stands_in_a_table_of_its_page(name):
    spec = agents.get(name)
    if name in agents.REFERENCES:
        pytest.importorskip("stable_baselines3", reason="extra sb3 not installed")
    text = (ROOT / "docs" / "methods" / f"{spec.page}.md").read_text(encoding="utf-8")
    explained = {
        metric for row in re.findall(r"^\| (`.*?) \|", text, re.M) for metric in re.findall(r"`([\w/]+)`", row)
    }
    metrics = logged_by(name)
    assert metrics or spec.regret
    assert not metrics - explained


def test_the_citation_file_is_complete():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    papers = {reference["identifiers"][0]["value"] for reference in citation["references"]}
    known = {"2206.13464", "2311.08384", "2505.03710", "2410.06212", "2501.13028", "2302.01244", "2211.08997"}
    known |= {"2312.07145"}
    assert papers == {f"arXiv:{paper}" for paper in known}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(paper in readme for paper in known)
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
