"""The report: which runs are found, how they are grouped, its numbers, and the page in a real browser."""

import base64
import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.image import imread

from surefoot.configs.casting import flattened, nested, overlay
from surefoot.envs import EnvConfig, Physics
from surefoot.evaluation.describe import describe
from surefoot.evaluation.figures.style import agent_style
from surefoot.training.cli.main import main
from surefoot.training.config.presets import default_config, load_preset, to_plain
from surefoot.training.config.run import RunConfig
from surefoot.training.report import figures
from surefoot.training.report.data import gather, name_methods, read_run
from surefoot.training.report.figures import heat_map, style_of
from surefoot.training.report.numbers import (
    changes,
    differences,
    final_values,
    grid_map,
    improvements,
    numbers,
    physics_map,
    tails,
    write_csv,
)
from surefoot.training.report.page import page
from surefoot.training.runs import folder as run_folder
from surefoot.training.runs.setting import setting_of

PENDULUM = EnvConfig("Pendulum-v1")


def write_run(
    folder, agent="sac", returns=((100, 1.0), (200, 3.0)), seed=0, env=PENDULUM, status="finished", scores=False
):
    """Write a run folder as a run of that agent would: two episodes an evaluation, 1 above and 1 below the return."""
    config = replace(default_config(agent), env=env, seed=seed, steps=200)
    run_folder.create(folder, agent, config, None)
    run_folder.mark(folder, status, 120.0)
    with (folder / "evaluations.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "env_steps", "updates", "episode", "episode_return", "length", "score"])
        rows.writerows([s, s, s, i, v + 2 * i - 1, 9, v * 10 if scores else ""] for s, v in returns for i in range(2))
    (folder / "metrics.csv").write_text("step,seconds\n100,20\n200,50\n")
    return folder


def measured(folder, gravity, friction, values, **said):
    """Write what `surefoot evaluate` would of one environment; `said` is what else the file says."""
    env = {**vars(PENDULUM), "physics": {**vars(Physics()), "gravity": gravity, "friction": friction}}
    record = {"env": env, "return": {"mean": float(np.mean(values)), "values": list(values)}} | said
    (folder / "evaluations").mkdir(exist_ok=True)
    name = "-".join(map(str, (gravity, friction, *([said["step"]] if said else ()))))
    (folder / "evaluations" / f"{name}.json").write_text(json.dumps(record))


@pytest.fixture
def two_agents(tmp_path):
    """Write three seeds of SAC and two of SB3's, where SAC is better in 5 of 6 pairs and one pair ties."""
    for seed, final in enumerate((3.0, 5.0, 7.0)):
        write_run(tmp_path / f"sac{seed}", "sac", ((100, 10.0), (200, final)), seed)
    for seed, final in enumerate((2.0, 3.0)):
        write_run(tmp_path / f"sb3{seed}", "sb3-sac", ((100, 0.0), (200, final)), seed)
    return tmp_path


def found(root, metric, method="sac"):
    (statistic,) = [f for f in numbers(gather([root])) if (f.metric, f.method) == (metric, method)]
    return statistic


# --- what is found ----------------------------------------------------------------------------------------------------


def test_the_final_and_the_best_evaluation_of_each_seed_make_the_numbers(two_agents):
    final, best = found(two_agents, "final return"), found(two_agents, "best return")
    assert (final.value, final.seeds, final.begun) == (5.0, 3, 3)  # IQM of 3: the mean
    assert final.interval == (3.0, 7.0)  # the 2.5% quantile of resampled means: (1/3)³ of them are 3 → 3.7% ≥ 2.5%
    assert best.value == 10.0
    assert found(two_agents, "speed").value == 4.0
    assert found(two_agents, "time").value == 2.0


def measured_too(folder, column, values, **changes):
    """Give a run a further figure of each of its evaluations, and settings by which it is for that."""
    agent, config = run_folder.read_config(folder)
    run_folder.write_config(folder / "config.yaml", agent, replace(config, **changes), None)
    with (folder / "evaluations.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    with (folder / "evaluations.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, [*table[0], column])
        writer.writeheader()
        writer.writerows(row | {column: values[int(row["step"])]} for row in table)


def test_runs_are_compared_by_what_they_are_for_and_best_is_their_best_by_that(tmp_path):
    curve = ((100, 9.0), (150, 5.0), (200, 7.0))
    for seed, worst in enumerate(({100: 1.0, 150: 4.0, 200: 4.0}, {100: 1.1, 150: 6.3, 200: 2.0})):
        measured_too(write_run(tmp_path / f"w{seed}", returns=curve, seed=seed), "worst_case", worst, uncertainty="s")
    assert found(tmp_path, "best worst case").interval == (4.0, 6.3)  # the very numbers, not their rounded means
    assert found(tmp_path, "best return").value == 6.0  # of equal worst cases the later, at 200, and that at 150
    assert found(tmp_path, "final worst case").value == 3.0
    findings = gather([tmp_path])
    assert final_values(findings)[0].name == "worst case"
    assert "sac" in page(findings, numbers(findings))
    assert "Learning curves: Pendulum-v1, worst case" in page(findings, numbers(findings))
    write_run(tmp_path / "old", returns=curve, seed=2, env=EnvConfig("Hopper-v5"))  # of a run without a set
    assert final_values(gather([tmp_path]))[0].name == "return"


def test_a_run_of_an_older_version_is_measured_by_the_return_and_named_so(tmp_path):
    run = write_run(tmp_path / "old", returns=((100, 9.0), (200, 3.0)))
    agent, config = run_folder.read_config(run)
    run_folder.write_config(run / "config.yaml", agent, replace(config, uncertainty="hopper-2"), None)
    facts = read_run(run)
    assert (facts.measure.name, facts.best) == ("return", 100)
    assert found(tmp_path, "best return").value == 9.0


def test_one_seed_has_a_number_and_no_interval(tmp_path):
    write_run(tmp_path / "one")
    statistic = found(tmp_path, "final return")
    assert (statistic.value, statistic.interval, statistic.seeds) == (3.0, None, 1)
    findings = gather([tmp_path])
    assert "1 seed: no interval" in page(findings, numbers(findings))


def test_episodes_never_count_as_seeds(tmp_path):
    for seed in range(2):
        write_run(tmp_path / str(seed), seed=seed)
    assert found(tmp_path, "final return").interval == (3.0, 3.0)  # the two runs agree; their episodes do not


def again(folder, returns, updated, seed=0, status="finished"):
    """Write a run that another one may be the copy of, last touched at `updated`."""
    run_folder.write_meta(write_run(folder, returns=returns, seed=seed, status=status), {"updated": updated})


def test_seeds_without_an_evaluation_step_in_common_have_a_note_and_no_line(tmp_path, monkeypatch):
    """Such as those that were solved before the first evaluation of the others; one such cell ended the report."""
    for seed, step in enumerate((100, 200)):
        write_run(tmp_path / f"sac{seed}", "sac", ((step, 1.0),), seed)
        write_run(tmp_path / f"sb3{seed}", "sb3-sac", ((200, 1.0),), seed)
    legends = []
    monkeypatch.setattr(figures, "_legend", lambda axes: legends.append(axes.get_legend_handles_labels()[1]))
    findings = gather([tmp_path])
    assert "at the steps that all have" in page(findings, numbers(findings))
    assert [label.partition(" (")[2] for label in legends[0]] == ["2 seeds), no step in common", "2 seeds)"]


def test_runs_of_one_seed_and_setting_count_once_and_the_others_are_named(tmp_path, capsys):
    curve, longer = ((100, 1.0), (200, 3.0)), ((100, 1.0), (200, 3.0), (300, 5.0))
    again(tmp_path / "a" / "run", curve, "2025-01-02")
    again(tmp_path / "b" / "run", longer, "2025-01-01")  # most steps: it counts, though another is newer
    again(tmp_path / "c", longer, "2024-01-01")
    again(tmp_path / "d", longer, "2026-01-01", status="failed")
    statistic = found(tmp_path, "final return")
    assert (statistic.value, statistic.interval, statistic.seeds, statistic.begun) == (5.0, None, 1, 1)
    assert main(["report", str(tmp_path)]) == 0
    said, text = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    assert said.startswith("1 finished runs, 1 others, 0 skipped")
    for name in ("a/run", "c"):
        note = f"{tmp_path}/{name}: seed 0 again, in the settings of {tmp_path}/b/run, which counts in its place"
        assert f"note: {note}\n" in said
        assert note in text
    assert "left out: 2" in text
    again(tmp_path / "e", ((200, 7.0),), "2025-01-01", seed=1)
    again(tmp_path / "f", ((200, 9.0),), "2025-01-02", seed=1)  # of as many steps the newest
    statistic = found(tmp_path, "final return")
    assert (statistic.value, statistic.interval, statistic.seeds, statistic.begun) == (7.0, (5.0, 9.0), 2, 2)


def test_unfinished_runs_are_told_and_not_counted(two_agents):
    write_run(two_agents / "sac9", "sac", ((100, 1000.0),), 9, status="failed")
    statistic = found(two_agents, "final return")
    assert (statistic.value, statistic.seeds, statistic.begun) == (5.0, 3, 4)
    findings = gather([two_agents])
    assert [(loss.name, loss.status) for loss in findings.losses] == [("sac9", "failed")]
    text = page(findings, numbers(findings))
    assert "3 of 4" in text
    assert "sac9: failed" in text


def test_failures_of_a_sweep_are_shown_with_the_end_of_their_log(tmp_path):
    write_run(tmp_path / "many" / "runs" / "good")
    write_run(tmp_path / "many" / "runs" / "bad", seed=1, status="failed")
    (tmp_path / "many" / "sweep.yaml").write_text("agents: [sac]\n")
    failures = {name: {"tries": 3, "end_of_log": f"<oh> {name}"} for name in ("bad", "never")}
    (tmp_path / "many" / "failures.json").write_text(json.dumps(failures))
    for root in (tmp_path, tmp_path / "many"):
        findings = gather([root])
        assert [loss.status for loss in findings.losses] == ["failed after 3 tries", "failed 3 times before it began"]
        assert "&lt;oh&gt; never" in page(findings, numbers(findings))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("meta.json", "{"),
        ("config.yaml", "agent_name: nope\n"),
        ("config.yaml", "agent_name: sac\nsteps: much\n"),
        ("evaluations.csv", "step,episode_return,score\n1,x,\n"),
        ("evaluations.csv", "step,episode_return,score\n200,nan,\n"),
        ("evaluations.csv", "step,env_steps\n"),
        ("metrics.csv", None),
    ],
)
def test_a_damaged_run_is_skipped_and_named(two_agents, name, content):
    bad = write_run(two_agents / "bad", seed=9)
    (bad / name).unlink() if content is None else (bad / name).write_text(content)
    findings = gather([two_agents])
    assert [one.path.name for one in findings.skipped] == ["bad"]
    assert len(findings.runs) == 5
    assert escape_free(findings.skipped[0].reason) in page(findings, numbers(findings))


ODD_FILES = {
    "evaluations/a.json": ["{", "[]", "3", '{"env": 3}', "[" * 100_000, '{"return": {"values": "many"}}', "\udcff"],
    "evaluations/b.json": ['{"axes": []}', '{"axes": {"mass": [1]}, "table": [], "set": "s", "grid": "g", "n": 1}'],
    "evaluations/c.json": ['{"objectives": [], "results": [3]}', '{"objectives": 1}'],
    "objectives.json": ["{}{", '[{"run": 1}]', "3"],
}


@pytest.mark.parametrize(("name", "content"), [(name, text) for name, texts in ODD_FILES.items() for text in texts])
def test_an_odd_file_beside_a_run_is_named_and_the_run_stays(two_agents, name, content):
    path = two_agents / "sac0" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode(errors="surrogateescape"))
    findings = gather([two_agents])
    assert [one.path for one in findings.skipped] == [path]
    assert len(findings.runs) == 5
    assert str(path) in page(findings, numbers(findings))


@pytest.mark.parametrize("content", ["{", "[3]", '{"a": 3}', '{"a": {"tries": "many", "end_of_log": ""}}'])
def test_an_odd_list_of_failures_is_named_and_the_runs_stay(two_agents, content):
    (two_agents / "sweep.yaml").write_text("agents: [sac]\n")
    (two_agents / "failures.json").write_text(content)
    findings = gather([two_agents])
    assert [one.path for one in findings.skipped] == [two_agents / "failures.json"]
    assert len(findings.runs) == 5


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("evaluations.csv", "step,episode_return,score\n1e999,1,\n"),
        ("evaluations.csv", "step,episode_return,score\n" + "1" * 200_000 + ",1,\n"),
        ("evaluations.csv", "step,-pisode_return,score\n100,1,2\n"),
        ("evaluations.csv", "step,episode_return,score\n100,,2\n"),
        ("metrics.csv", "steps\n3\n"),
        ("meta.json", '{"status": "finished", "minutes": "few"}'),
        ("meta.json", "[]"),
        ("config.yaml", "[" * 5_000),
    ],
)
def test_a_run_whose_own_files_are_odd_is_skipped_whatever_is_wrong(two_agents, name, content):
    bad = write_run(two_agents / "bad", seed=9)
    (bad / name).write_text(content)
    findings = gather([two_agents])
    assert [one.path.name for one in findings.skipped] == ["bad"]
    assert findings.skipped[0].reason
    assert len(findings.runs) == 5


def escape_free(text):
    """Return the start of a text up to what HTML would write otherwise."""
    return re.split(r"[&<>'\"]", text)[0]


def test_every_run_counts_once_and_baseline_runs_are_runs_too(two_agents):
    shutil.move(two_agents / "sac2", two_agents / "sb30" / "baselines" / "sac2")
    assert len(gather([two_agents, two_agents / "sac0", two_agents / "." / "sb30"]).runs) == 5


def test_links_to_runs_and_sweeps_are_followed_and_each_real_folder_counts_once(two_agents, tmp_path_factory):
    root = tmp_path_factory.mktemp("links")
    (root / "sac0").symlink_to(two_agents / "sac0")
    (root / "again").symlink_to(two_agents / "sac0")
    (root / "up").symlink_to(root)  # endless
    (root / "gone").symlink_to(root / "nothing")
    assert [run.folder for run in gather([root]).runs] == [root / "again"]
    write_run(two_agents / "many" / "runs" / "bad", seed=7, status="failed")
    (two_agents / "many" / "sweep.yaml").write_text("agents: [sac]\n")
    (two_agents / "many" / "failures.json").write_text('{"bad": {"tries": 3, "end_of_log": "oh"}}')
    (two_agents / "many" / "runs" / "back").symlink_to(two_agents)
    (root / "many").symlink_to(two_agents / "many")
    for roots in ([root], [two_agents, root], [root / "many"]):
        findings = gather(roots)
        assert len(findings.runs) == 6
        assert [(loss.name, loss.status) for loss in findings.losses] == [("bad", "failed after 3 tries")]
        assert not findings.repeats


def test_no_run_at_all_is_an_error(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert main(["report", str(tmp_path / "absent")]) == 2
    assert main(["report"]) == 2
    err = capsys.readouterr().err
    assert "no run in" in err
    assert "no such folder" in err


# --- groups -----------------------------------------------------------------------------------------------------------


def test_training_in_an_uncertainty_set_is_another_method(tmp_path):
    for i, uncertainty in enumerate((None, "pendulum-2")):
        folder = write_run(tmp_path / str(i), seed=i)
        config = replace(run_folder.read_config(folder)[1], uncertainty=uncertainty)
        run_folder.write_config(folder / "config.yaml", "sac", config, None)
    methods = gather([tmp_path]).methods
    assert [method.label for method in methods] == ["sac, uncertainty None", "sac, uncertainty pendulum-2"]


def test_methods_are_told_apart_by_what_differs_and_by_their_colours(tmp_path):
    runs = []
    for i, gamma in enumerate((0.9, 0.99, 0.99)):
        folder = write_run(tmp_path / str(i), seed=i)
        config = default_config("sac")
        config = replace(config, agent=replace(config.agent, gamma=gamma), env=PENDULUM, seed=i, steps=200)
        run_folder.write_config(folder / "config.yaml", "sac", config, None)
        runs.append(read_run(folder))
    methods = list(name_methods(runs).values())
    assert [method.label for method in methods] == ["sac, gamma 0.9", "sac, gamma 0.99"]
    one, other = map(style_of, methods)
    assert one[0] == agent_style("sac").color  # the first keeps its agent's
    assert one[0] != other[0]
    assert one[2] != other[2]


NOT_SHARED = {  # settings by which runs are no seeds of one setting, and how the label says it
    "eval.episodes": (9, "eval.episodes 9"),
    "eval.seed": (5, "eval.seed 5"),
    "eval.every": (77, "eval.every 77"),
    "eval.worlds": (3, "eval.worlds 3"),
    "env.flatten": (True, "flatten True"),
    "env.action_bound": (2.0, "action_bound 2.0"),
    "env.time_aware": (True, "time_aware True"),
    "env.num_envs": (3, "num_envs 3"),
    "env.termination": ("m:f", "termination m:f"),
    "data.fraction": (0.5, "fraction 0.5"),
    "engine": ("torch", "engine torch"),
    "device": ("cpu", "device cpu"),
    "compile": (True, "compile True"),
    "num_seeds": (2, "num_seeds 2"),
}
SHARED = {"log_every": 7, "checkpoint_every": 8, "threads": 2, "logger": ("tensorboard",), "keep_finished": 3}
SHARED |= {
    "env.vectorization": "async",
    "seed": 9,
    "keep_checkpoints": 3,
    "resume_episodes": "fresh",
    "precision": "bf16",
}


def test_everything_but_the_seed_and_what_decides_no_number_separates_runs(tmp_path):
    first = read_run(write_run(tmp_path / "a"))
    for name, value in ({name: value for name, (value, _) in NOT_SHARED.items()} | SHARED).items():
        changed = replace(first, config=overlay(first.config, nested({name: value}), "test"))
        if name == "engine":
            changed = replace(changed, meta=first.meta | {"engine": value})
        methods = [method.label for method in name_methods([first, changed]).values()]
        if name in SHARED:
            assert methods == ["sac"], name
        else:
            assert methods[1] == f"sac, {NOT_SHARED[name][1]}", name
            assert methods[0] != methods[1]


def test_no_setting_is_passed_over_but_the_named_ones(tmp_path):
    run = read_run(write_run(tmp_path / "a"))
    known = set(flattened(to_plain("sac", run.config)))
    assert known - set(setting_of("sac", run.config, run.meta)) == {*SHARED, "baselines"}


def test_what_differs_between_methods_is_a_column_of_their_table(tmp_path):
    """Budget, its unit and the data of a run and its baselines stand beside their numbers."""
    for name, agent, steps in (("one", "sac", 300), ("two", "bc", 300), ("three", "mbpo", 15_000)):
        folder = write_run(tmp_path / name, agent)
        _, config = run_folder.read_config(folder)
        source = "my.hdf5" if agent == "bc" else None
        config = replace(config, steps=steps, data=replace(config.data, source=source))
        run_folder.write_config(folder / "config.yaml", agent, config, None)
    findings = gather([tmp_path])
    columns = differences(findings, findings.tasks[0], ["sac", "bc", "mbpo"])
    assert columns == {"data.source": ["none", "my.hdf5", "none"], "steps": ["300", "300 updates", "15,000"]}
    text = page(findings, numbers(findings))
    for shown in ("<th>data.source</th><th>steps</th>", "<td>my.hdf5</td><td>300 updates</td>"):
        assert shown in text


def test_training_dynamics_are_tasks_of_their_own(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", env=replace(PENDULUM, physics=Physics(gravity=2.0)))
    tasks = gather([tmp_path]).tasks
    assert tasks == ("Pendulum-v1", "Pendulum-v1, gravity 2.0; evaluated in the unmodified dynamics")


def test_settings_are_shown_as_a_difference_to_the_defaults(tmp_path):
    run = read_run(write_run(tmp_path / "a", seed=5))
    assert changes(run) == {"env.id": ("HalfCheetah-v5", "Pendulum-v1"), "steps": (1_000_000, 200)}


# --- numbers between methods ------------------------------------------------------------------------------------------


def test_the_probability_of_improvement_counts_pairs_and_halves_ties(two_agents):
    (pair,) = improvements(gather([two_agents]))
    assert (pair.ours, pair.theirs, pair.tasks, pair.seeds) == ("sac", "sb3-sac", 1, (3, 2))
    assert pair.probability.value == pytest.approx(5.5 / 6)
    low, high = pair.probability.interval
    assert 0.5 <= low < 5.5 / 6 < high == 1.0


def test_scores_are_used_across_tasks_only_where_every_run_has_one(tmp_path):
    other = replace(PENDULUM, physics=Physics(gravity=2.0))
    for seed in range(2):
        write_run(tmp_path / f"a{seed}", seed=seed, scores=True)
        write_run(tmp_path / f"b{seed}", seed=seed, env=other, returns=((200, 5.0 + seed),), scores=True)
    findings = gather([tmp_path])
    assert final_values(findings)[0].name == "score"
    (pooled,) = [f for f in numbers(findings) if f.task == "all its 2 tasks"]
    assert (pooled.value, pooled.seeds, pooled.begun) == (40.0, 4, 4)  # IQM of 30, 30, 50, 60
    write_run(tmp_path / "d", seed=5, env=replace(PENDULUM, max_episode_steps=1000), scores=True)
    assert final_values(gather([tmp_path]))[0].name == "score"
    capped = write_run(tmp_path / "e", seed=5, env=replace(PENDULUM, max_episode_steps=7), scores=True)
    assert final_values(gather([tmp_path]))[0].name == "return"  # the references are of 1,000 steps
    shutil.rmtree(capped)
    write_run(tmp_path / "c", "sb3-sac")
    findings = gather([tmp_path])
    assert final_values(findings)[0].name == "return"
    assert not [f for f in numbers(findings) if f.task.startswith("all its")]  # returns of tasks are not comparable


def test_an_environment_that_not_every_run_was_measured_in_is_no_number(tmp_path):
    for seed in range(2):
        measured(write_run(tmp_path / str(seed), seed=seed), 2.0, 1.0, [1.0, 2.0])
    measured(tmp_path / "0", 3.0, 1.0, [1.0, 2.0])
    tails = [statistic.metric for statistic in numbers(gather([tmp_path])) if statistic.metric.startswith("CVaR")]
    assert len(tails) == 1
    assert "gravity 2.0" in tails[0]


def test_measurements_under_other_dynamics_become_tails_and_a_heat_map(tmp_path):
    for seed in range(2):
        run = write_run(tmp_path / str(seed), seed=seed)
        for gravity, friction in ((1.0, 1.0), (2.0, 1.0), (2.0, 0.5)):
            measured(run, gravity, friction, np.arange(20.0) + 10 * gravity + seed)
        (run / "evaluations" / "grid.json").write_text("[1, 2]")  # of another kind: left out
    (cell,) = gather([tmp_path]).cells
    names, table, rows, columns, labels, nominal, runs, left_out = physics_map(cell)
    assert (len(runs), left_out) == (2, 0)
    assert labels == ("gravity (factor)", "friction (factor)")
    assert nominal == (1.0, 1.0, 20.0)
    assert cell.runs[0].measurements.grids == {}
    assert (names, rows, columns) == (("gravity", "friction"), [1.0, 2.0], [0.5, 1.0])
    np.testing.assert_allclose(table, [[np.nan, 20.0], [30.0, 30.0]])
    statistic = found(tmp_path, f"CVaR 0.1 in {describe({**vars(PENDULUM), 'physics': vars(Physics())})}")
    assert (statistic.value, statistic.seeds) == (
        pytest.approx(11.0),
        2,
    )  # worst two of 20 from 10 and 11 on, then both seeds


@pytest.mark.parametrize("change", [{"episodes": 5}, {"seeds": [3]}, {"checkpoint": "best"}, {"action_bound": 1.0}])
def test_measurements_that_differ_in_how_they_were_made_are_not_pooled(tmp_path, change):
    for seed, differing in enumerate(({}, change, {})):
        run = write_run(tmp_path / str(seed), seed=seed)
        for gravity, friction in ((1.0, 1.0), (2.0, 1.0), (2.0, 0.5)):
            measured(run, gravity, friction, np.full(20, 10.0 * gravity + seed))
        for path in (run / "evaluations").iterdir():
            record = {"episodes": 20, "seeds": [0], "checkpoint": "latest"} | json.loads(path.read_text())
            for name, value in differing.items():
                (record["env"] if name in record["env"] else record)[name] = value
            path.write_text(json.dumps(record))
    (cell,) = gather([tmp_path]).cells
    assert tails(cell) == {}  # no environment in which all runs were measured in the same way
    np.testing.assert_allclose(physics_map(cell)[1], [[np.nan, 11.0], [21.0, 21.0]])  # of those that are most
    caption = heat_map(physics_map(cell), cell, "x")
    assert "seeds 0, 2. Number: mean over 2 of 3 runs" in caption
    for path in (tmp_path / "1" / "evaluations").iterdir():
        shutil.copy(tmp_path / "0" / "evaluations" / path.name, path)
    (cell,) = gather([tmp_path]).cells
    assert len(tails(cell)) == 3
    assert all(name.endswith(", 20 episodes from seed 0") for name in tails(cell))


def test_of_a_run_that_was_extended_the_measurements_of_its_newest_policy_count(tmp_path):
    for seed in range(2):
        run = write_run(tmp_path / str(seed), seed=seed)
        for step, value in ((200, 0.0), (60, 1000.0)):
            for gravity, friction in ((1.0, 1.0), (2.0, 1.0), (2.0, 0.5), (1.0, 0.5)):
                measured(run, gravity, friction, [value + gravity + seed], step=step)
        measured(run, 3.0, 1.0, [5.0], step=60)  # where the newest policy was not measured
        measured(run, 1.0, 1.0, [7.0], step=100, checkpoint="best")  # another kind
    findings = gather([tmp_path])
    (cell,) = findings.cells
    np.testing.assert_allclose(physics_map(cell).table, [[1.5, 1.5], [2.5, 2.5]])
    assert sorted(values[0] for values in tails(cell).values()) == [1.0, 1.0, 2.0, 2.0, 7.0]
    assert [one.path.name for one in findings.skipped[:5]] == [
        f"{name}-60.json" for name in ("1.0-0.5", "1.0-1.0", "2.0-0.5", "2.0-1.0", "3.0-1.0")
    ]
    reason = "of the policy at step 60; the run was measured at step 200 since, which counts"
    assert {one.reason for one in findings.skipped} == {reason}


def test_a_map_averages_what_all_its_runs_have_and_says_what_it_leaves_out(tmp_path):
    for seed, points in enumerate(
        (((1.0, 1.0), (2.0, 1.0), (2.0, 0.5), (3.0, 0.5)), ((1.0, 1.0), (2.0, 1.0), (2.0, 0.5)))
    ):
        run = write_run(tmp_path / str(seed), seed=seed)
        for gravity, friction in points:
            measured(run, gravity, friction, [10.0 * gravity + 100 * seed])
    (cell,) = gather([tmp_path]).cells
    found_map = physics_map(cell)
    np.testing.assert_allclose(found_map.table, [[np.nan, 60.0], [70.0, 70.0]])
    assert (len(found_map.runs), found_map.left_out) == (2, 1)
    caption = heat_map(found_map, cell, "x")
    assert "seeds 0, 1. Number: mean over 2 runs" in caption
    assert "no band; 1 points left out at which only some of them were measured" in caption
    shutil.rmtree(tmp_path / "1" / "evaluations")
    (cell,) = gather([tmp_path]).cells
    assert "seed 0. Number: mean over 1 of 2 runs" in heat_map(physics_map(cell), cell, "x")


@pytest.mark.parametrize(("step", "value"), [(60, 1.0), (200, 5.0)])
def test_objectives_of_an_older_policy_do_not_replace_those_of_the_runs_end(tmp_path, step, value):
    run = write_run(tmp_path / "a", agent="dhn")
    row = {"run": "dhn", "objective": "mean", "value": 1.0, "predicted": 1.0, "step": 200}
    (run / "objectives.json").write_text(json.dumps([row]))
    env = vars(PENDULUM) | {"physics": vars(Physics())}
    record = {"env": env, "objectives": ["mean"], "results": [row | {"value": 5.0}], "step": step}
    (run / "evaluations").mkdir()
    (run / "evaluations" / "a.json").write_text(json.dumps(record))
    ((_, found_row),) = read_run(run).measurements.objectives.items()
    assert found_row["value"] == value


def test_grids_become_worst_cases_averages_and_heat_maps(tmp_path):
    for seed in range(2):
        run = write_run(tmp_path / str(seed), seed=seed)
        points = [{"at": {}, "mean": float(10 * i + seed)} for i in range(6)]
        record = {"set": "mine", "grid": "closed", "n": 3, "axes": {"mass": [1.0, 2.0], "wind": [0.0, 1.0, 2.0]}}
        record |= {"table": points, "worst": {"mean": float(seed)}, "average": 25.0 + seed}
        record |= {"nominal": {"mean": 7.0 + seed, "at": {"mass": 1.0, "wind": 2.5}}}
        (run / "evaluations").mkdir()
        (run / "evaluations" / "grid.json").write_text(json.dumps(record))
    worst, average = (found(tmp_path, f"{what} over mine (closed, n=3)") for what in ("worst case", "average"))
    assert (worst.value, worst.interval, worst.seeds, average.value) == (0.5, (0.0, 1.0), 2, 25.5)
    findings = gather([tmp_path])
    measured = grid_map(findings.cells[0], "mine (closed, n=3)")
    assert (measured.names, measured.rows, measured.columns) == (("mass", "wind"), [1.0, 2.0], [0.0, 1.0, 2.0])
    np.testing.assert_allclose(measured.table, [[0.5, 10.5, 20.5], [30.5, 40.5, 50.5]])
    assert measured.nominal == (1.0, 2.5, 7.5)
    text = page(findings, numbers(findings))
    assert "<strong>sac: mine (closed, n=3)</strong>" in text
    assert "seeds 0, 1. Number: mean over 2 runs; worst 0.5; star: nominal, 1 up, 2.5 across; no band." in text


def grid_of(folder, values, **said):
    """Write what `surefoot evaluate --grid` would of one parameter of a set called `mine`."""
    axes, mean = {"axes": {"mass": values}}, {"mean": values[-1]}
    record = {"set": "mine", "grid": "closed", "n": len(values), **axes, "table": [mean] * len(values), "average": 0.0}
    record |= {"worst": mean, "nominal": mean | {"at": {"mass": 1.0}}} | said
    (folder / "evaluations").mkdir(exist_ok=True)
    (folder / "evaluations" / f"{values[-1]}-{said.get('set_code')}.json").write_text(json.dumps(record))


def test_other_sets_of_the_same_name_are_not_pooled(tmp_path):
    runs = [write_run(tmp_path / str(seed), seed=seed) for seed in range(2)]
    for run, high in zip(runs, (2.0, 3.0), strict=True):
        grid_of(run, [1.0, high])  # as files were written before a set had a code
        grid_of(run, [1.0, 4.0], set_code="abc")
        grid_of(run, [1.0, 5.0], set_code=f"def{high}")
    metrics = [one.metric for one in numbers(gather([tmp_path])) if one.metric.startswith("worst case")]
    assert metrics == ["worst case over mine abc (closed, n=2)"]


def test_objectives_show_what_was_predicted_and_what_was_achieved(tmp_path):
    for seed in range(2):
        run = write_run(tmp_path / str(seed), agent="dhn", seed=seed)
        own = {"run": "dhn", "objective": "cvar(0.1)", "value": 2.0 + seed, "predicted": 4.0}
        baseline = {"run": "qr-dqn", "objective": "mean", "value": 9.0, "predicted": 9.0}
        (run / "objectives.json").write_text(json.dumps([own, baseline]))
        later = {"objective": "target(3)", "value": 1.0, "predicted": 2.0 + seed, "interval": [0.5, 2.5]}
        record = {"env": vars(PENDULUM) | {"physics": vars(Physics())}, "objectives": ["target(3)"], "results": [later]}
        (run / "evaluations").mkdir()
        (run / "evaluations" / "later.json").write_text(json.dumps(record))
    env = describe(vars(PENDULUM) | {"physics": vars(Physics())})
    for name, expected in (
        ("cvar(0.1)", {"achieved": 2.5, "predicted": 4.0}),
        ("target(3)", {"achieved": 1.0, "predicted": 2.5}),
    ):
        for statistic, value in expected.items():
            number = found(tmp_path, f"{name} in {env}, {statistic}", "dhn")
            assert (number.value, number.seeds, number.unit) == (value, 2, "discounted reward")
    findings = gather([tmp_path])
    assert not [statistic for statistic in numbers(findings) if statistic.metric.startswith("mean")]
    text = page(findings, numbers(findings))
    assert f"cvar(0.1) in {env}, achieved" in text
    assert (
        text.count("outside of the 95% interval of what was achieved in 1 of 2 runs") == 1
    )  # 2 lies inside, 3 does not


def test_bandits_are_measured_by_the_regret_of_their_replicates(tmp_path):
    for agent, exponent in (("linucb", 1.0), ("dynlin-ucb", 0.5)):
        config = load_preset(agent, "s1")
        config = RunConfig(config.agent, replace(config.env, num_envs=3), steps=1000)
        folder = tmp_path / agent
        run_folder.create(folder, agent, config, "s1")
        run_folder.mark(folder, "finished", 6.0)
        for name in ("evaluations", "metrics"):
            (folder / f"{name}.csv").write_text("step,seconds,episode_return,score\n")
        rounds = np.array([1, 10, 100, 300, 1000])
        np.savez(folder / "regret.npz", rounds=rounds, regret=rounds[:, None] ** exponent * np.array([1.0, 2.0, 3.0]))
    statistic = found(tmp_path, "final regret", "linucb")
    assert (statistic.value, statistic.seeds, statistic.begun) == (2000.0, 3, 3)
    findings = gather([tmp_path])
    text = page(findings, numbers(findings))
    assert "slope 0.50" in text
    assert "slope 1.00" in text


# --- the page ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def full_report(two_agents):
    """Write a page with every kind of figure, a failure and a damaged run; return it."""
    for i, run in enumerate(sorted(two_agents.glob("sac*"))):
        for gravity, friction in ((1.0, 1.0), (2.0, 1.0), (2.0, 0.5), (1.0, 0.5)):
            measured(run, gravity, friction, np.arange(20.0) + 10 * gravity + i)
    write_run(two_agents / "sac9", seed=9, status="failed")
    (write_run(two_agents / "bad", seed=8) / "meta.json").write_text("{")
    assert main(["report", str(two_agents), "--out", str(two_agents / "out" / "page.html")]) == 0
    return two_agents / "out" / "page.html"


def test_the_page_is_one_file_that_fetches_nothing(full_report):
    text = full_report.read_text()
    assert "<script" not in text
    assert not re.findall(r"(?:src|href)=\"(?!#|data:image/png)[^\"]*\"", text)
    assert not re.findall(r"url\((?!#)", text)
    assert "default-src 'none'" in text
    assert text.count("<figure>") >= 4
    names = re.findall(r'\bid="([^"]*)"', text)
    shared = {name for name in names if names.count(name) > 1}
    definitions = {name: set(re.findall(rf'<(?:path|clipPath) id="{name}"[^>]*>', text)) for name in shared}
    assert all(len(kinds) == 1 for kinds in definitions.values())  # the same name never means two things


def test_the_csv_holds_every_number_and_empty_cells_for_missing_intervals(full_report, two_agents):
    write_run(two_agents / "lone", "sb3-td3")
    assert main(["report", str(two_agents), "--out", str(full_report)]) == 0
    with full_report.with_suffix(".csv").open(newline="") as file:
        rows = {(row["method"], row["metric"]): row for row in csv.DictReader(file)}
    final = rows["sac", "final return"]
    assert (final["value"], final["low"], final["high"], final["seeds"], final["begun"]) == (
        "5.0",
        "3.0",
        "7.0",
        "3",
        "4",
    )
    lone = rows["sb3-td3", "final return"]
    assert (lone["low"], lone["high"], lone["seeds"]) == ("", "", "1")


def test_the_csv_of_before_is_whole_where_it_cannot_be_written_anew(two_agents, monkeypatch):
    path = two_agents / "x.csv"
    path.write_text("before")
    monkeypatch.setattr("os.replace", lambda *names: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(OSError, match=r"x\.csv: could not be written"):
        write_csv(numbers(gather([two_agents])), path)
    assert path.read_text() == "before"
    assert not list(two_agents.glob("x.csv?*"))


@pytest.fixture
def browser(tmp_path):
    """Start headless Chromium and return a function that sends it one command and collects its events."""
    if shutil.which("chromium") is None:
        pytest.skip("no chromium; Debian's package has it")
    client = pytest.importorskip("websockets.sync.client")
    call = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0"]
    process = subprocess.Popen(
        [*call, f"--user-data-dir={tmp_path / 'profile'}", "about:blank"], stderr=subprocess.PIPE, text=True
    )
    address = next(line.split()[-1] for line in process.stderr if "DevTools listening on" in line)
    with client.connect(address, max_size=None) as socket:
        yield Browser(socket)
    process.terminate()
    process.wait()


class Browser:
    """Chromium's DevTools protocol, as much of it as is needed."""

    def __init__(self, socket):
        self.socket, self.events, self.number, self.session = socket, [], 0, None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.send(f"{domain}.enable")

    def send(self, method, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        self.socket.send(json.dumps(message | ({"sessionId": self.session} if self.session else {})))
        while (answer := self.receive()).get("id") != self.number:
            pass
        return answer["result"]

    def receive(self):
        answer = json.loads(self.socket.recv(timeout=60))
        self.events.append(answer)
        return answer

    def open(self, path, width, height):
        self.events.clear()
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        self.send("Page.navigate", url=path.as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.receive()

    def value_of(self, expression):
        return self.send("Runtime.evaluate", expression=expression, returnByValue=True)["result"]["value"]

    def edge_of_first_wide_table(self):
        """Return the brightness (0 to 1) of the last pixel of each row of the first table that scrolls."""
        box = self.value_of(
            "[...document.querySelectorAll('.table')].find(t => t.scrollWidth > t.clientWidth)"
            ".getBoundingClientRect().toJSON()"
        )
        clip = {"x": box["right"] - 1, "y": box["top"] + 2, "width": 1, "height": box["height"] - 4, "scale": 1}
        shot = self.send("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return imread(io.BytesIO(base64.b64decode(shot["data"])), format="png")[..., :3].mean(-1)

    def events_of(self, *methods):
        return [event["params"] for event in self.events if event.get("method") in methods]


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_a_browser_shows_every_figure_and_asks_for_nothing(full_report, browser, width, height):
    browser.open(full_report, width, height)
    sizes = browser.value_of(
        "[...document.querySelectorAll('figure > svg')].map(s => s.getBoundingClientRect().toJSON())"
    )
    assert len(sizes) >= 4
    assert all(box["width"] > 200 and box["height"] > 50 for box in sizes)
    assert browser.value_of("document.documentElement.scrollWidth") <= width  # nothing to scroll sideways but tables
    asked = [request["request"]["url"] for request in browser.events_of("Network.requestWillBeSent")]
    assert [url for url in asked if not url.startswith("data:image/png")] == [full_report.as_uri()]
    assert browser.events_of("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown") == []


def test_a_table_wider_than_a_phone_shows_that_it_scrolls(full_report, browser):
    browser.open(full_report, 390, 844)
    assert np.median(browser.edge_of_first_wide_table()) < 0.75  # a shade on white
    browser.value_of("document.querySelectorAll('.table').forEach(t => { t.scrollLeft = 9999 }) ?? 0")
    assert np.median(browser.edge_of_first_wide_table()) > 0.98  # at its end: no shade
    named = "[...document.querySelectorAll('.table')].every(t => t.tabIndex == 0 && t.ariaLabel.includes('scrolls'))"
    assert browser.value_of(named)
    browser.open(full_report, 1280, 900)
    assert browser.value_of("[...document.querySelectorAll('.table')].every(t => t.scrollWidth <= t.clientWidth)")
