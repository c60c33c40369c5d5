"""Tables in files: dense, sparse and CSV say the same, and a wrong file is refused in one line."""

import numpy as np
import pytest

from surefoot.agents.parts.sparse import ended
from surefoot.evaluation import tables
from surefoot.evaluation.tables import is_table, read_table, write_table

# Two states and an end. Action 0 of state 0 goes to state 1 or ends, action 1 stays and pays; state 1 ends.
P = np.zeros((3, 2, 3))
P[0, 0], P[0, 1], P[1], P[2] = [0, 0.75, 0.25], [1, 0, 0], [0, 0, 1], [1, 0, 0]
R = np.zeros((3, 2, 3))
R[0, 0], R[0, 1, 0], R[1], R[2] = [0, 1, 2], -0.5, 3.0, 9.0
TERMINAL = np.array([False, False, True])
ROWS = {
    "state": [0, 0, 0, 1, 1],
    "action": [0, 0, 1, 0, 1],
    "next_state": [1, 2, 0, 2, 2],
    "probability": [0.75, 0.25, 1, 1, 1],
    "reward": [1, 2, -0.5, 3, 3],
}
CSV = """state,action,next_state,probability,reward
0,0,1,0.75,1
0,0,2,0.25,2
0,1,0,1,-0.5

1,0,2,1,3
1,1,2,1,3
,,0,0.5,
,,1,0.5,
"""


def saved(tmp_path, name="table.npz", **fields):
    path = tmp_path / name
    np.savez(path, **fields)
    return path


def test_the_three_forms_are_one_table(tmp_path):
    start = [0.5, 0.5, 0]
    csv = tmp_path / "table.csv"
    csv.write_text(CSV)
    dense = read_table(saved(tmp_path, P=P, R=R, start=start, terminal=TERMINAL, gamma=0.9))
    rows = read_table(saved(tmp_path, "rows.npz", start=start, **ROWS))
    assert (dense.gamma, dense.horizon) == (0.9, None)
    for one in (rows.mdp, read_table(csv).mdp):
        np.testing.assert_array_equal(one.start, dense.mdp.start)
        for mine, other in zip(one.steps[0], dense.mdp.steps[0], strict=True):
            np.testing.assert_array_equal(mine, other)
    assert ended(dense.mdp).tolist() == TERMINAL.tolist()
    expected = read_table(saved(tmp_path, P=P, R=(P * R).sum(-1), terminal=TERMINAL)).mdp
    np.testing.assert_allclose(expected.steps[0].reward[:2], 0.75 * 1 + 0.25 * 2)
    write_table(tmp_path / "again.npz", dense.mdp, gamma=0.5)
    assert read_table(tmp_path / "again.npz").gamma == 0.5


def test_a_table_by_step_names_its_horizon(tmp_path):
    found = read_table(saved(tmp_path, P=np.stack([P, P]), R=np.stack([R, 2 * R]), terminal=TERMINAL))
    assert (found.horizon, len(found.mdp.steps)) == (2, 2)
    assert found.mdp.steps[1].reward.max() == 6
    assert read_table(saved(tmp_path, P=P, R=R, terminal=TERMINAL, horizon=7)).horizon == 7


def test_tables_are_known_by_their_ending():
    assert [is_table(name) for name in ("a.npz", "dir/b.csv", "surefoot/Fork-v0")] == [True, True, False]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"P": P}, "it has no R; a table needs P and R, or state"),
        ({"x": P}, "it has no action, next_state"),
        ({"P": P, "R": R, "rewards": R}, "unknown keys rewards"),
        ({"P": P, "R": R, "state": [0]}, "it has both P, R and rows"),
        ({"P": P[0], "R": R}, r"P must be \(S, A, S\) or \(H, S, A, S\), not \(2, 3\)"),
        ({"P": P, "R": R[0]}, r"R must be \(3, 2, 3\) or \(3, 2\), as P is"),
        ({"P": 0.9 * P, "R": R}, "state 0, action 0: the probabilities sum to 0.9, not 1"),
        ({"P": P * np.nan, "R": R}, "state 0, action 0: a probability is nan"),
        ({"P": P, "R": R, "start": [1, 0]}, "start must have one probability for each of 3 states"),
        ({"P": P, "R": R, "start": [0, 0, 1], "terminal": TERMINAL}, "state 2 is terminal, but an episode can start"),
        ({"P": P, "R": R, "terminal": [2]}, "terminal must be 3 booleans"),
        ({"P": np.array(["a"]), "R": R}, "P must hold numbers"),
        ({"P": P, "R": R, "horizon": 1.5}, "horizon must be whole numbers, one is 1.5"),
        (ROWS | {"action": [0, 0, 1, 0, 0.5]}, "action must be whole numbers, one is 0.5"),
        (ROWS | {"action": [0, 0, 1, 0, 0]}, "state 1 has no outcome for action 1; give all 2"),
        (ROWS | {"state": [0, 0, 0, 1, -1]}, "counted from 0; one is negative"),
        (ROWS | {"reward": [1.0]}, "must have the same length"),
    ],
)
def test_a_wrong_archive_is_refused_in_one_line(tmp_path, fields, words):
    with pytest.raises(ValueError, match=words) as error:
        read_table(saved(tmp_path, **fields))
    assert "table.npz: " in str(error.value)
    assert "\n" not in str(error.value)


def test_objects_are_never_loaded_and_damage_is_said(tmp_path):
    with pytest.raises(ValueError, match=r"table\.npz: "):
        read_table(saved(tmp_path, P=np.array([{}], dtype=object), R=R))
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match="no NumPy archive that can be read"):
        read_table(tmp_path / "text.npz")
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_table(tmp_path / "none.npz")


def test_a_number_of_states_that_no_memory_holds_is_refused(tmp_path):
    rows = {"action": [0, 0], "next_state": [1, 0], "probability": [1.0, 1.0], "reward": [1.0, 0.0]}
    with pytest.raises(ValueError, match="stand for 35,184,372,088,833 states of 1 actions"):
        read_table(saved(tmp_path, state=[0, 2**45], **rows))


def test_what_a_file_needs_is_known_before_it_is_read(tmp_path, monkeypatch):
    path = saved(tmp_path, P=P, R=R)
    monkeypatch.setattr(tables, "read_npz", None)
    with pytest.raises(ValueError, match="reading it needs up to"):
        read_table(path, max_bytes=100)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n", "its first line must be state,action,next_state,probability,reward"),
        (CSV + "0,1,x,1,1\n", "line 10: '0,1,x,1,1' must be numbers"),
        (CSV + "0,1\n", "line 10 needs 5 finite numbers"),
        (CSV + "0,1,1,inf,1\n", "line 10 needs 5 finite numbers"),
        (CSV + ",,0,0.5,\n", "the start probabilities must be at least 0 and sum to 1; they sum to 1.5"),
    ],
)
def test_a_wrong_csv_file_names_its_line(tmp_path, text, words):
    path = tmp_path / "table.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=words) as error:
        read_table(path)
    assert "\n" not in str(error.value)
