"""Contextual bandits on a real system: contexts, rewards in time, late or never, files, and bad input."""

import math

import numpy as np
import pytest
import torch
from neural_play import make
from sameness import assert_same

from surefoot.agents.neural_bandits.bandit import as_contexts
from surefoot.agents.parts.ask_tell import BanditRequest
from surefoot.evaluation import bandit_files

SMALL = {"hidden": [6], "lr": 0.02, "batch_size": 4, "updates_per_round": 2}
KINDS = ("neusquarecb", "neufastcb", "linear-squarecb", "contextual-linucb", "neural-ucb", "neural-ts")
KINDS += ("neural-epsilon-greedy", "ee-net")


def new(*args, **settings):
    return opened(*args, **settings).learner


def opened(kind="neusquarecb", arms=None, replicates=1, **settings):
    small = {} if kind == "contextual-linucb" else SMALL
    request = BanditRequest({"arms": arms} if arms else None, replicates=replicates, seed=3)
    return bandit_files.make(kind, {**small, **settings}, request)


def drive(learner, rounds, *, arms=3, features=2, seed=0):
    """Play a task where the first feature is the reward; return the arms."""
    rng, played = np.random.default_rng(seed), []
    for _ in range(rounds):
        contexts = rng.random((arms, features))
        decision = learner.ask(contexts)
        played.append(decision.index)
        learner.tell(float(contexts[decision.index, 0]))
    return played


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shared", [True, False])
def test_told_the_simulators_rewards_it_asks_for_the_simulators_arms(kind, shared):
    env = {"data": "iris"} if shared else {"arms": 3, "features": 2, "problem": "linear"}
    if shared:
        pytest.importorskip("sklearn")
    small = {} if kind == "contextual-linucb" else {**SMALL, "hidden": (6,)}
    agent = make(kind, num_envs=2, seed=3, env=env, **small)
    learner = new(kind, arms=3 if shared else None, replicates=2)
    twin = make(kind, num_envs=2, seed=3, env=env, **small)  # steps the same task
    for _ in range(25):
        contexts = as_contexts(twin.shape, twin.obs)
        decision = learner.ask(contexts.numpy())
        twin.obs, reward, *_ = twin.env.step(torch.tensor(decision.index))
        learner.tell(reward)
        agent.play()
        assert_same({"arm": agent.obs}, {"arm": twin.obs})
    assert_same(learner.learner.state_dict(), agent.learner.state_dict())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_a_learner_from_a_file_goes_on_as_it_was(kind, suffix, tmp_path):
    path, made = tmp_path / f"state.{suffix}", opened(kind)
    learner = made.learner
    drive(learner, 12)
    learner.ask(np.eye(3, 2))
    bandit_files.save(path, made)
    again = bandit_files.load(path, kind).learner
    for one in (learner, again):
        one.tell(0.25)
    assert drive(again, 12, seed=1) == drive(learner, 12, seed=1)
    assert_same(again.state_dict(), learner.state_dict())


def test_it_learns_from_what_it_is_told():
    learner = new(lr=0.05, hidden=[20], gamma_scale=40.0, batch_size=16, intercept=True)
    played = drive(learner, 250)
    rng, best = np.random.default_rng(0), []
    for _ in range(250):
        best.append(int(rng.random((3, 2))[:, 0].argmax()))
    right = np.array(played) == np.array(best)
    assert right[150:].mean() > 0.75 > 0.6 > right[:20].mean()
    assert learner.summary()["rounds"] == learner.summary()["learnt"] == 250


def test_rewards_that_come_late_count_and_those_that_never_come_do_not():
    learner, contexts = new(), np.eye(3, 2)
    for reward in (0.5, None, None, 1.0):
        assert learner.ask(contexts).rounds == 1
        learner.tell(reward)
    assert (learner.summary()["learnt"], learner.summary()["open"]) == (2, 2)
    learner.tell(0.25, of=2)
    learner.tell(None, of=3)
    summary = learner.summary()
    assert (summary["learnt"], summary["open"], summary["given_up"]) == (3, 0, 1)
    history = learner.learner.oracle.history
    np.testing.assert_allclose(history.targets[0, :3], [0.5, 0.0, 0.75])  # losses, in the order of learning
    with pytest.raises(ValueError, match="round 2 is known already"):
        learner.tell(0.5, of=2)


def test_a_round_of_replicates_counts_when_all_rewards_are_there():
    learner = new(replicates=2)
    learner.ask(np.stack([np.eye(3, 2)] * 2))
    learner.tell([0.5, None])
    assert (learner.pending, learner.summary()["learnt"]) == (None, 0)
    learner.tell([None, 1.0], of=1)
    assert learner.summary()["learnt"] == 1


GOOD = np.eye(3, 2)


@pytest.mark.parametrize(
    ("contexts", "message"),
    [
        (None, r"ask with contexts \(K, d\)"),
        (np.ones((3, 4)), r"made for \(3, 2\); arms and features cannot change"),
        (np.ones((4, 2)), r"shape \(4, 2\)"),
        (np.ones((0, 2)), "there is nothing to choose from"),
        (np.ones((3, 0)), "there is nothing to choose from"),
        ([[0, 1], [2]], "no array of numbers"),
        ("no", "no array of numbers"),
        (np.ones(2), r"shape \(2,\)"),
        ([[0, 1], [math.nan, 1], [0, 0]], r"contexts\[1, 0\] is nan"),
        ([[0, 1], [1, 1], [0, math.inf]], r"contexts\[2, 1\] is inf"),
    ],
)
def test_bad_contexts_are_one_line_and_change_nothing(contexts, message):
    learner = new()
    drive(learner, 3)
    before = learner.state_dict()
    with pytest.raises(ValueError, match=message) as error:
        learner.ask(contexts)
    assert "\n" not in str(error.value)
    assert_same(learner.state_dict(), before)
    assert learner.ask(GOOD).round == 4


@pytest.mark.parametrize("kind", ["neufastcb", "neusquarecb", "contextual-linucb"])
@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (1.5, r"reward of replicate 0 is 1.5; rewards must be in \[0, 1\]"),
        (-0.1, r"rewards must be in \[0, 1\]"),
        (math.nan, "not a finite number"),
        ("high", "not a finite number"),
        ([0.1, 0.2], "2 reward"),
    ],
)
def test_bad_rewards_are_one_line_and_change_nothing(kind, reward, message):
    learner = new(kind)
    drive(learner, 3)
    learner.ask(GOOD)
    before = learner.state_dict()
    with pytest.raises(ValueError, match=message):
        learner.tell(reward)
    assert_same(learner.state_dict(), before)
    learner.tell(1)


@pytest.mark.parametrize("kind", ["neusquarecb", "neural-ucb"])
def test_a_reward_that_makes_the_network_diverge_is_refused_and_changes_nothing(kind):
    learner = new(kind)
    drive(learner, 3)
    with pytest.warns(UserWarning, match="up to 1e[+]08 long, and a network learns from lengths of about 1"):
        learner.ask(1e8 * GOOD)
    before = learner.state_dict()
    with pytest.raises(ValueError, match=r"round 4 makes the network diverge, .* up to 1e[+]08 long; scale"):
        learner.tell(0.5)
    assert_same(learner.state_dict(), before)
    learner.tell(None), learner.tell(None, of=4)
    assert learner.ask(GOOD).round == 5
    assert "1e+08 long" in learner.summary()["warnings"][0]
    with pytest.raises(ValueError, match="no prediction in these contexts is a number"):
        new(kind).ask(3e38 * np.ones((3, 2)))


def test_linear_classes_take_contexts_of_any_length():
    learner = new("contextual-linucb")
    learner.ask(1e8 * GOOD), learner.tell(0.5)
    assert learner.summary()["warnings"] == []


def test_the_length_of_the_longest_context_is_said():
    """5 alone and 13 with others; not the 12.2 of a component in all of them."""
    learner = new()
    learner.ask(np.array([[3.0, 4.0], [0.0, 1.0]]))
    assert learner.longest == 5.0
    learner.tell(0.5)
    with pytest.warns(UserWarning, match="contexts are up to 13 long"):
        learner.ask(np.array([[2.0, 0.0], [12.0, 5.0]]))


def test_calls_out_of_turn_and_requests_that_make_no_sense_are_refused():
    learner = new()
    with pytest.raises(ValueError, match="no decision is under way"):
        learner.tell(0.5)
    with pytest.raises(ValueError, match="one row: there is nothing to choose from"):
        learner.ask(np.ones((1, 2)))
    learner.ask(GOOD)
    with pytest.raises(ValueError, match="round 1 is under way"):
        learner.ask(GOOD)
    with pytest.raises(ValueError, match="round 2 has not been asked for"):
        learner.tell(0.5, of=2)
    for actions in ([[1, 0], [0, 1]], {"arms": 1}, {"ball": 1.0}):
        with pytest.raises(ValueError, match="two at least"):
            bandit_files.make("neusquarecb", {}, BanditRequest(actions))
    with pytest.raises(ValueError, match="replicates is 0; there is at least one system"):
        new(replicates=0)
    with pytest.raises(ValueError, match=r"^horizon is missing"):
        new(gamma_rule="theory")


def test_files_of_others_and_damaged_ones_are_refused(tmp_path):
    path, made = tmp_path / "state.json", opened()
    learner = made.learner
    drive(learner, 3)
    bandit_files.save(path, made)
    with pytest.raises(ValueError, match="holds a learner of the kind neusquarecb, not neufastcb"):
        bandit_files.load(path, "neufastcb")
    path.write_text(path.read_text().replace('"asked": 3', '"asked": 4').replace('"asked":3', '"asked":4'))
    with pytest.raises(ValueError, match="damaged"):
        bandit_files.load(path)
    state, other = learner.state_dict(), new(arms=3)
    with pytest.raises(ValueError, match="the state is of"):
        other.load_state_dict(state)
    assert other.summary()["rounds"] == 0
