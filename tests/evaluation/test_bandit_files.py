"""The files of learners that are asked and told: bitwise, checked, of one kind, never half-written."""

import json
import math
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from surefoot import agents
from surefoot.agents.interface import AgentSpec
from surefoot.agents.parts.ask_tell import BanditRequest, Decision, given_rewards
from surefoot.evaluation import bandit_files


@dataclass(frozen=True)
class ToyConfig:
    gain: float = 0.5


class Toy:
    """Keeps every kind of value that a state may hold."""

    def __init__(self, config, request, device):
        self.generator = torch.Generator().manual_seed(request.seed)
        self.state = {
            "weights": torch.rand(3, 2, generator=self.generator, dtype=torch.float64),
            "never": torch.tensor([math.inf, -0.0, 1e-320], dtype=torch.float64),
            "arms": np.arange(4),
            "plain": [1, 2**62, 0.1, math.inf, None, True, "text", {}],
            "rounds": {3: torch.tensor(1), 7: []},
            "generator": self.generator.get_state(),
        }

    replicates, pending = 1, None

    def ask(self, contexts=None):
        return Decision(1, 1, 0, np.zeros(2))

    def tell(self, reward, of=None):
        pass

    def summary(self):
        return {}

    def state_dict(self):
        return self.state

    def load_state_dict(self, state):
        self.state = {name: state[name] for name in self.state}


@pytest.fixture
def kinds(monkeypatch):
    toy = AgentSpec(ToyConfig(), None, None, "toy", make_ask_tell=Toy)
    known = agents.get
    monkeypatch.setattr(agents, "get", lambda name: toy if name == "toy" else known(name))


def same(one, other):
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.numpy().tobytes() == other.numpy().tobytes()
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


@pytest.mark.parametrize("name", ["toy.json", "toy.npz", "toy"])
def test_a_state_comes_back_to_the_last_bit(kinds, tmp_path, name):
    opened = bandit_files.make("toy", {"gain": 0.1}, BanditRequest([[1.0, 0.0]], {"noise": 0.2}, seed=3))
    bandit_files.save(tmp_path / name, opened)
    again = bandit_files.load(tmp_path / name, "toy")
    assert same(opened.learner.state, again.learner.state)
    assert (again.kind, again.config, again.request) == ("toy", ToyConfig(0.1), opened.request)
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["toy.json", "toy.npz"])
def test_a_damaged_file_is_refused_wherever_it_is_damaged(kinds, tmp_path, name):
    path = tmp_path / name
    bandit_files.save(path, bandit_files.make("toy", {}, BanditRequest()))
    whole = path.read_bytes()
    for at in range(0, len(whole), max(1, len(whole) // 97)):
        for damaged in (whole[:at], whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]):
            path.write_bytes(damaged)
            with suppress(ValueError):  # not raised where a zip has fields that nothing reads
                again = bandit_files.load(path)
                assert same(again.learner.state, Toy(ToyConfig(), BanditRequest(), None).state)
                assert damaged[:2] == b"PK"


def test_other_files_and_other_kinds_are_refused(kinds, tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(FileNotFoundError, match="no such file"):
        bandit_files.load(path)
    bandit_files.save(path, bandit_files.make("toy", {}, BanditRequest()))
    with pytest.raises(ValueError, match="holds a learner of the kind toy, not dynlin-ucb"):
        bandit_files.load(path, "dynlin-ucb")
    content = json.loads(path.read_text())
    for changes, message in (({"format": 9}, "format 9"), ({"settings": {"gain": 2.0}}, "checksum")):
        path.write_text(json.dumps(content | changes))
        with pytest.raises(ValueError, match=message):
            bandit_files.load(path)
    path.write_text("[]")
    with pytest.raises(ValueError, match="no file of a bandit learner"):
        bandit_files.load(path)


def test_agents_that_act_in_environments_only_are_refused(kinds):
    with pytest.raises(ValueError, match="sac cannot be asked and told"):
        bandit_files.make("sac", {}, BanditRequest())
    with pytest.raises(ValueError, match="gian"):
        bandit_files.make("toy", {"gian": 1.0}, BanditRequest())


def test_rewards_are_numbers_or_missing():
    assert [part.tolist() for part in given_rewards(0.5, 1)] == [[0.5], [True]]
    assert [part.tolist() for part in given_rewards(None, 2)] == [[0.0, 0.0], [False, False]]
    assert [part.tolist() for part in given_rewards([1, None], 2)] == [[1.0, 0.0], [True, False]]
    assert given_rewards(torch.tensor([1.0, 2.0]), 2)[0].tolist() == [1.0, 2.0]
    for wrong in (math.nan, math.inf, "1", True, [0.1, math.nan], [1.0], object(), [[1.0], [2.0]]):
        with pytest.raises(ValueError, match=r"not a finite number|were told"):
            given_rewards(wrong, 2 if isinstance(wrong, list) else 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"replicates": 1.5}, "replicates is 1.5; it must be a whole number"),
        ({"replicates": "2"}, "replicates is '2'"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"bounds": [1]}, r"bounds is \[1\]; it must hold names and their values"),
    ],
)
def test_requests_of_the_wrong_kind_are_named(kinds, changes, message):
    with pytest.raises(ValueError, match=message):
        bandit_files.make("toy", {}, BanditRequest(**changes))
    assert bandit_files.make("toy", {}, BanditRequest(replicates=np.int64(2))).request.replicates == 2


def test_devices_that_are_not_here_and_settings_out_of_range_are_named(kinds):
    with pytest.raises(ValueError, match="device is 'nowhere', which is not here; cpu always is"):
        bandit_files.make("toy", {}, BanditRequest(), device="nowhere")
    with pytest.raises(ValueError, match=r"where: bias_scale must be at least 0"):  # no flag of a run's
        bandit_files.make("dynlin-ucb", {"bias_scale": -1}, BanditRequest([[0], [1]]), where="where")


def test_a_state_of_another_learner_is_refused_and_changes_nothing():
    request = BanditRequest([[1.0, 0.0], [0.0, 1.0]], {"action_weight": 1.0, "noise_std": 0.1})
    learner, other = (bandit_files.make(kind, {}, request) for kind in ("linucb", "uniform"))
    two = bandit_files.make("linucb", {}, replace(request, replicates=2))
    for one, reward in ((learner, 0.5), (other, 0.5), (two, [0.5, 0.5])):
        one.ask(), one.tell(reward)
    before, whole = bandit_files._encode(learner.state_dict(), bandit_files._inline), learner.state_dict()
    turns = whole["state"]["turns"]
    part = whole | {"state": whole["state"] | {"turns": turns | {"t": 9, "learner": {}}}}
    for state, message in (
        ({}, "no state of this learner: it is of"),
        (3, "it is of nothing"),
        (other.state_dict(), "'kind': 'uniform'"),
        (two.state_dict(), "'replicates': 2"),
        (part, "does not fit this linucb"),
    ):
        with pytest.raises(ValueError, match=message):
            learner.load_state_dict(state)
        assert bandit_files._encode(learner.state_dict(), bandit_files._inline) == before
    again = bandit_files.make("linucb", {}, request)
    again.load_state_dict(learner.state_dict())
    assert bandit_files._encode(again.state_dict(), bandit_files._inline) == before


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ({"polytope": {"matrix": 3, "bound": [1]}}, r"polytope.matrix is empty|expected 2 dimension"),
        ({"polytope": {"matrix": [3], "bound": [1]}}, "polytope.matrix is 1; expected 2 dimension"),
        ({"polytope": {"matrix": [[1, 0], [1]], "bound": [1]}}, "not a matrix of numbers"),
        ({"polytope": {"matrix": [[1, 0]], "bound": [1]}, "ball": 1}, "a polytope comes alone, not with ball"),
    ],
)
def test_polytopes_that_are_none_are_named(actions, message):
    with pytest.raises(ValueError, match=message):
        bandit_files.action_set(actions)
