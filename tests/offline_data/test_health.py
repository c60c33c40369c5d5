import json
import re
from dataclasses import asdict

import gymnasium as gym
import numpy as np
import pytest

from surefoot.offline_data import normalized_score, write_minari
from surefoot.offline_data.health import Health, check_health, examine


def report_of(arrays, **options):
    report = Health("arrays")
    examine(arrays, report, **options)
    return report


def test_a_healthy_file_is_described_in_numbers(rows, save):
    report = check_health(save(rows), env_id="Hopper-v5")
    facts = report.facts
    assert report.problems == []
    assert report.notes == ["the last episode is cut: its final row has neither flag"]
    assert (facts["steps"], facts["episodes"], facts["terminals"], facts["timeouts"]) == (10, 3, 1, 1)
    assert facts["return"] == {"mean": 10.5, "std": 7.5, "min": 3.0, "max": 18.0}  # without the cut episode
    assert facts["length"] == {"mean": 3.5, "std": 0.5, "min": 3.0, "max": 4.0}
    assert facts["normalized_score"] == pytest.approx(100 * (10.5 + 20.272305) / (3234.3 + 20.272305))
    assert (facts["action_at_bounds"], facts["action_largest"]) == (0.2, 1.0)
    assert facts["cut_last_episode"] is True
    zeros = ("nan", "infinite", "both_flags", "discontinuities", "crossings", "duplicates", "action_out_of_bounds")
    assert [facts[name] for name in zeros] == [0] * 7
    json.dumps(asdict(report), allow_nan=False)


SICK = [
    ("observations", lambda x: np.where(x == 3, np.nan, x), "observations: 1 NaN and 0 infinite values.*row 6"),
    ("rewards", lambda x: np.where(x > 8, np.inf, x), "rewards: 0 NaN and 1 infinite values.*row 9"),
    ("rewards", lambda x: x[:-2], "differ in length: observations 10.*rewards 8"),
    ("actions", lambda x: 2 * x, r"actions: 6 rows leave \[-1, 1\], the largest magnitude is 2"),
    ("terminals", lambda x: 0.5 * x, "terminals: 1 values are neither 0 nor 1"),
    ("timeouts", lambda x: np.zeros_like(x), r"1 rows inside an episode .*first in row 6"),
    ("next_observations", lambda x: np.flip(x, 0), "rows inside an episode whose next_observations is not"),
    ("next_observations", lambda x: x[:, :1], "differ in shape"),
    ("observations", lambda x: x[:, 0], r"observations must have shape \(N, D\)"),
]


def test_a_time_limit_counts_the_ends_that_a_file_does_not_name(rows, save):
    expected = report_of(rows, max_episode_steps=4).facts
    assert (expected["episodes"], report_of(rows, max_episode_steps=4).problems) == (3, [])
    assert "not those of episodes of 3 steps (first in row 5)" in " ".join(
        report_of(rows, max_episode_steps=3).problems
    )
    rows["timeouts"][:] = False
    assert report_of(rows).facts["episodes"] == 2
    facts = report_of(rows, max_episode_steps=4).facts
    assert {name: facts[name] for name in ("episodes", "length", "crossings", "discontinuities")} == {
        name: expected[name] for name in ("episodes", "length", "crossings", "discontinuities")
    }
    for limit in (0, -5):
        with pytest.raises(ValueError, match=f"max_episode_steps is {limit}; it must be from 1 to"):
            check_health(save(rows), max_episode_steps=limit)


def test_a_successor_that_differs_in_one_coordinate_is_a_jump(rows):
    rows["next_observations"][1, 0] += 1
    report = report_of(rows)
    assert report.facts["discontinuities"] == 1
    assert "first in row 1" in " ".join(report.problems)


def test_rows_outside_of_the_bounds_are_counted_once_each(rows, save):
    rows["observations"][[1, 4, 8]] = 2000.0  # in every coordinate
    rows["observations"][5, 0] = -2000.0
    report = check_health(save(rows), observation_space=gym.spaces.Box(-1000, 1000, (2,)))
    assert "observations: 4 rows leave the environment's bounds" in report.problems


@pytest.mark.parametrize(("name", "change", "message"), SICK)
def test_each_fault_is_reported(rows, name, change, message):
    rows[name] = change(rows[name])
    assert any(re.search(message, line) for line in report_of(rows).problems)


def test_many_faults_are_reported_together(rows):
    rows["observations"] = np.full_like(rows["observations"], np.nan)
    rows["actions"] = rows["actions"] * 3
    rows["terminals"] = rows["terminals"][:8]
    del rows["timeouts"]
    report = report_of(rows)
    assert len(report.problems) == 4
    assert report.facts["steps"] == 8


@pytest.mark.parametrize("name", ["observations", "actions", "rewards", "terminals"])
def test_a_missing_array_is_reported_and_the_rest_is_checked(rows, name):
    del rows[name]
    rows["timeouts"] = rows["timeouts"].astype(float) * 0.5
    problems = report_of(rows).problems
    assert f"missing arrays: {name}" in problems
    assert "timeouts: 1 values are neither 0 nor 1" in problems


def test_empty_arrays(rows):
    assert report_of({name: values[:0] for name, values in rows.items()}).problems == ["no transitions in it"]
    assert "no transitions in it" in report_of({}).problems


def test_crossing_successors_are_counted(rows):
    rows["next_observations"] = np.roll(rows["observations"], -1, axis=0)
    report = report_of(rows)
    assert report.facts["crossings"] == 2
    assert report.facts["discontinuities"] == 0
    assert report.problems == [
        "2 of 2 last rows of episodes hold the next episode's first observation as successor: next_observations was "
        "made by shifting observations"
    ]


def walk(starts, ends_at):
    """Episodes of two steps, s, s + 5, and a successor at the end."""
    obs = np.array([[s + step] for s in starts for step in (0, 5)], np.float32)
    successors = np.array([[x] for s, end in zip(starts, ends_at, strict=True) for x in (s + 5, end)], np.float32)
    n = len(obs)
    flags = {"terminals": np.zeros(n, bool), "timeouts": np.arange(n) % 2 == 1}
    return {"observations": obs, "next_observations": successors, "actions": np.zeros((n, 1), np.float32)} | {
        "rewards": np.ones(n, np.float32),
        **flags,
    }


@pytest.mark.parametrize(
    ("starts", "ends_at", "crossings", "is_a_problem"),
    [
        ([0] * 12, [7, 0, 7, 0] + [7] * 8, 2, False),  # an episode may end where every episode begins
        ([0] * 12, [0] * 12, 11, False),  # so may all
        ([0, 1] * 6, [7, 0] + [9] * 10, 1, False),
        ([0, 1] * 6, [1, 0] * 6, 11, True),
        ([0, 1] * 6, [1, 0] * 5 + [9, 0], 10, True),  # nearly all
        ([0, 1] * 6, [1, 0] * 4 + [9, 9, 1, 0], 9, False),
    ],
)
def test_a_crossing_is_a_problem_where_nearly_all_ends_have_it_and_first_observations_vary(
    starts, ends_at, crossings, is_a_problem
):
    report = report_of(walk(starts, ends_at))
    assert report.facts["crossings"] == crossings
    said = f"{crossings} of 11 last rows of episodes hold the next episode's first observation as successor"
    assert [line.startswith(said) for line in report.problems] == [True] * is_a_problem
    assert any(line == f"{said}, which is right only where episodes can end there" for line in report.notes) != (
        is_a_problem
    )


def test_both_flags_and_rounded_actions_are_notes(rows):
    rows["terminals"] = rows["terminals"] | rows["timeouts"]
    rows["actions"] = rows["actions"] * np.float32(1.00001)
    report = report_of(rows)
    assert report.problems == []
    assert report.facts["both_flags"] == 1
    assert any("2 rows leave [-1, 1] by rounding" in note for note in report.notes)


def test_duplicates_are_counted(rows):
    rows = {name: np.concatenate([values, values[:4]]) for name, values in rows.items()}
    assert report_of(rows).facts["duplicates"] == 4


def test_missing_timeouts_are_a_problem_until_the_limit_is_given(rows):
    del rows["timeouts"]
    assert any("no timeouts" in line for line in report_of(rows).problems)
    counted = report_of(rows, max_episode_steps=4)
    assert counted.problems == []
    assert counted.facts["episodes"] == 3


def test_fit_to_an_environment(rows, save):
    path, box = save(rows), gym.spaces.Box
    fits = check_health(path, observation_space=box(-np.inf, np.inf, (2,)), action_space=box(-1, 1, (1,)))
    assert fits.problems == []
    other = check_health(path, observation_space=box(-np.inf, np.inf, (11,)), action_space=box(-1, 1, (3,)))
    assert other.problems == [
        "observations have shape (2,), the environment's have (11,)",
        "actions have shape (1,), the environment's have (3,)",
    ]
    tight = check_health(path, observation_space=box(0, 2, (2,)))
    assert tight.problems == ["observations: 1 rows leave the environment's bounds"]


def test_scores_come_from_the_file_or_the_name_and_never_from_d4rl_for_minari(rows, save, data, tmp_path, monkeypatch):
    assert check_health(save(rows)).facts["normalized_score"] is None
    named = save(rows | {"metadata/env_id": np.bytes_("Hopper-v5")}, "named.hdf5")
    assert check_health(named).facts["normalized_score"] == pytest.approx(float(normalized_score("Hopper-v5", 10.5)))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    folder = write_minari("mujoco/hopper/medium-v0", data)
    assert check_health("minari:mujoco/hopper/medium-v0", env_id="Hopper-v5").facts["normalized_score"] is None
    metadata = folder / "data" / "metadata.json"
    metadata.write_text(json.dumps(json.loads(metadata.read_text()) | {"ref_min_score": 0.5, "ref_max_score": 20.5}))
    assert check_health("minari:mujoco/hopper/medium-v0").facts["normalized_score"] == 50.0


def test_minari_sets_are_checked_alike(rows, save, data, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    write_minari("toy/line-v0", data)
    ours, theirs = check_health("minari:toy/line-v0"), check_health(save(rows))
    skipped = {"arrays", "metadata"}
    assert {k: v for k, v in ours.facts.items() if k not in skipped} == {
        k: v for k, v in theirs.facts.items() if k not in skipped
    }


@pytest.mark.parametrize("shape", [(10,), (10, 1)])
@pytest.mark.parametrize("kind", [np.int64, np.float32])
def test_discrete_actions_are_no_problem(rows, save, shape, kind):
    rows["actions"] = np.resize([0, 1, 2, 3], 10).astype(kind).reshape(shape)
    report = check_health(save(rows), action_space=gym.spaces.Discrete(4))
    assert report.problems == []
    assert report.facts["action_counts"] == {"0": 3, "1": 3, "2": 2, "3": 2}
    assert report.facts["actions_fit_environment"]
    assert check_health(save(rows)).problems == []  # also where no task is named
    few = check_health(save(rows), action_space=gym.spaces.Discrete(3))
    assert few.problems == ["actions: 2 rows are not among the environment's numbers 0 to 2"]
    rows["actions"] = rows["actions"] + 0.5
    (line,) = check_health(save(rows), action_space=gym.spaces.Discrete(5)).problems[-1:]
    assert "not whole numbers, but the space is Discrete" in line


def test_a_minari_set_of_dictionaries_is_named_for_what_it_is(tmp_path, monkeypatch):
    minari = pytest.importorskip("minari", reason="extra minari not installed")
    from minari.data_collector import EpisodeBuffer

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "store"))
    box = gym.spaces.Box(-1, 1, (1,), np.float32)
    steps = np.zeros((5, 1), np.float32)
    episode = EpisodeBuffer(
        observations={"place": steps, "goal": steps},
        actions=steps[:4],
        rewards=np.zeros(4),
        terminations=np.arange(4) == 3,
        truncations=np.zeros(4, bool),
    )
    spaces = {"observation_space": gym.spaces.Dict(place=box, goal=box), "action_space": box}
    with pytest.warns(UserWarning, match="is set to None"):  # metadata that are not given
        minari.create_dataset_from_buffers("toy/dictionaries-v0", [episode], **spaces)
    with pytest.raises(ValueError, match=r"observations are Dict\(.*only flat Box spaces"):
        check_health("minari:toy/dictionaries-v0")


@pytest.mark.parametrize("largest", [2, 300])
def test_whole_numbers_of_a_box_are_no_choices(rows, save, largest):
    rows["actions"] = np.arange(10)[:, None] % 2 * np.float32(largest)
    path = save(rows)
    report = check_health(path, action_space=gym.spaces.Box(-1, 1, (1,)))
    assert "action_counts" not in report.facts
    assert report.facts["action_out_of_bounds"] == 5
    assert f"actions: 5 rows leave [-1, 1], the largest magnitude is {largest}" in report.problems
    assert check_health(path).facts["action_counts"] == {"0": 5, f"{largest}": 5}  # nothing says that they are a Box's
    numbers = check_health(path, action_space=gym.spaces.Discrete(largest + 1))
    assert numbers.facts["action_counts"] == {"0": 5, f"{largest}": 5}
