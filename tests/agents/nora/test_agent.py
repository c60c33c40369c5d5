"""NORA at play: what must hold in every run (docs/derivations/nora.md E4, E7, E10, E12), and wrong input."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from nora_tasks import Random, make, play
from torch.testing import assert_close

from surefoot import agents
from surefoot.agents.interface import Setting, Spaces
from surefoot.agents.nora.config import VARIANTS, NORAConfig
from surefoot.agents.nora.data import recorded_episodes
from surefoot.agents.nora.tabular_critic import Episode
from surefoot.agents.parts.tabular import TabularMDP, expected_return, greedy, optimal_return, optimal_values
from surefoot.envs import EnvConfig, make_vec
from surefoot.envs.tasks.tetris import PIECES
from surefoot.offline_data import Transitions, collect


def task(name: str, num_envs: int = 4, **kwargs: Any) -> Any:
    return make_vec(EnvConfig(f"surefoot/{name}-v0", num_envs=num_envs, time_aware=True, kwargs=kwargs))


def uniform_data(env: Any, episodes: int, seed: int = 0) -> Transitions:
    g, actions = torch.Generator().manual_seed(seed), env.single_action_space.n
    act = lambda obs: torch.randint(actions, (len(obs),), generator=g)  # noqa: E731
    return collect(act, env, episodes * env.horizon, seed=seed)


# --- E4, E7: optimism, switches, freezing -----------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kwargs"), [("RiverSwim", {}), ("DeepSea", {"size": 10})])
def test_with_the_proven_bonus_the_critic_is_optimistic_at_every_switch(name, kwargs):
    agent = make(task(name, 10, **kwargs), episodes=150, bonus=1.0)
    best = optimal_values(agent.mdp, agent.env.horizon)
    for _ in range(150):
        agent.step()
        assert (agent.critic.q >= best - 1e-9).all()
    assert agent.switches.min() > 5


def test_between_switches_the_critic_is_frozen_and_the_policy_is_k_steps_up_it():
    agent = make(task("RiverSwim", 5), episodes=200, bonus=0.1, policy_step_size=1.0)
    before, k = agent.critic.q.clone(), torch.zeros(5)
    resets = 0
    for _ in range(200):
        switches = agent.switches.clone()
        agent.step()
        switched = agent.switches > switches
        assert torch.equal(agent.critic.q[~switched], before[~switched])
        k = torch.where(switched, 1.0, k + 1)
        assert torch.equal(agent.actor.steps.float(), k)
        policy = agent.actor.policy(agent.critic.q)
        exponent = (k.double()[:, None, None, None] * agent.critic.q).softmax(-1)
        assert_close(policy, exponent, rtol=0, atol=1e-12)
        before, resets = agent.critic.q.clone(), resets + int(switched.sum())
    assert resets > 100


def test_switches_stay_within_their_deterministic_bounds():
    for env, changes, bound in (
        (task("RiverSwim", 6), {"bonus": 0.1, "policy_step_size": 1.0}, 1 + 20 * 6 * 2 * (1 + math.log2(150))),
        (
            task("LinearMDP", 6),
            {"critic": "linear", "bonus": 0.3, "policy_step_size": 5.0},
            1 + 5 * 4 * math.log2(1 + 150 / 4),
        ),
    ):
        switches = play(make(env, episodes=150, **changes), 150).switches
        assert 5 < switches.max() <= bound


def test_the_regret_is_that_of_the_stochastic_policy_that_was_played():
    agent, total = make(Random(3), bonus=0.1, policy_step_size=0.5), torch.zeros(3).double()
    for _ in range(40):
        agent.refresh()
        agent.actor.ascend(agent.table())
        policy = agent.actor.policy(agent.table())
        total += optimal_return(agent.mdp, 4) - expected_return(agent.mdp, policy)
        agent.actor.steps -= 1  # `step` does all this again: nothing has drifted in between
        agent.step()
    assert_close(agent.regret.total, total)
    assert agent.regret.t == 40
    mean_return = agent.regret.reward / 40
    assert ((optimal_return(agent.mdp, 4) - total / 40) - mean_return).abs().max() < 0.7


# --- variants ---------------------------------------------------------------------------------------------------------


def test_a_variant_fills_the_switches_and_one_can_be_changed():
    assert NORAConfig().rules() == VARIANTS["nora"]
    assert NORAConfig(variant="nora", reset=False, optimism="none").rules() == (
        "star",
        "none",
        "rare",
        False,
        False,
        False,
        False,
    )
    assert NORAConfig(variant="noah").rules()[:4] == ("pi", "none", "every", False)
    for name, rules in VARIANTS.items():
        assert rules.needs_data == (name in ("noah", "noah-star", "hy-q"))


@pytest.mark.parametrize(
    ("variant", "critic"),
    [
        *((name, "tabular") for name in sorted(VARIANTS)),
        *((name, "linear") for name in ("nora", "douhua", "noah-star")),
    ],
)
def test_every_variant_learns(variant, critic):
    env = Random(8, seed=1)
    data = uniform_data(Random(20, seed=1), 20) if VARIANTS[variant].needs_data else None
    eta = {} if variant == "oppo" else {"policy_step_size": 2.0}
    agent = play(make(env, variant=variant, critic=critic, bonus=0.1, data=data, **eta), 100)
    uniform = optimal_return(agent.mdp, 4) - expected_return(agent.mdp, torch.full((4, 5, 3), 1 / 3).double())
    fraction = 1.0 if variant == "oppo" else 0.95
    assert agent.regret.total.mean() / 100 < fraction * uniform
    rare = VARIANTS[variant].switch == "rare"
    assert (agent.switches == 100).all() if not rare else (agent.switches < 60).all()


def test_a_critic_of_the_actors_own_values_sees_the_actor():
    agent = play(make(Random(2), variant="plain-ac", policy_step_size=0.5), 30)
    policy, before = agent.actor.policy(agent.table()), agent.critic.visits.clone()
    agent.refresh()
    following = (policy[:, 1] * agent.critic.q[:, 1]).sum(-1)  # (N, S)
    expected = torch.einsum("nsat,nt->nsa", agent.critic.successors[:, 0], following) + agent.critic.reward_sum[:, 0]
    assert_close(agent.critic.q[:, 0], (expected / before[:, 0].clamp(min=1)).clamp(0, 4))


# --- E10: features ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["nora", "douhua"])
def test_with_one_hot_features_the_linear_critic_is_the_tabular_one_with_one_more_visit(variant):
    linear = make(Random(3), critic="linear", variant=variant, bonus=0.2, policy_step_size=2.0)
    checked = 0
    for _ in range(25):
        linear.step()
        planned = linear.switches.clone()
        linear.refresh()
        fresh = linear.switches > planned
        tab = make(Random(3), variant=variant)
        state, action, reward, following = linear.critic.history.rows[..., : linear.critic.history.size]
        tab.critic.observe(Episode(state.long(), action.long(), reward, following.long()))
        n, m, r = tab.critic.visits, tab.critic.successors, tab.critic.reward_sum
        policy = linear.actor.policy(linear.table()) if variant == "douhua" else None
        following = torch.zeros(3, 5).double()
        for h in reversed(range(4)):
            fit = (r[:, h] + torch.einsum("nsat,nt->nsa", m[:, h], following)) / (n[:, h] + 1)
            q = (fit + 0.2 / (n[:, h] + 1).sqrt()).clamp(0, 4 - h)
            assert_close(linear.critic.q[fresh, h], q[fresh], rtol=0, atol=1e-8)
            following = q.amax(-1) if policy is None else (policy[:, h] * q).sum(-1)
        checked += int(fresh.sum())
    assert checked > 20


@pytest.mark.parametrize("data", [False, True])
def test_pooled_weights_are_fitted_to_the_transitions_of_all_steps(data):
    env = Random(3, alike=True)
    linear = make(env, critic="linear", pooled=True, bonus=0.2, data=uniform_data(env, 6) if data else None)
    checked = 0
    for _ in range(25):
        linear.step()
        planned = linear.switches.clone()
        linear.refresh()
        fresh = linear.switches > planned
        tab = make(Random(3))
        state, action, reward, following = linear.critic.history.rows[..., : linear.critic.history.size]
        tab.critic.observe(Episode(state.long(), action.long(), reward, following.long()))
        n, m, r = (x.sum(1) for x in (tab.critic.visits, tab.critic.successors, tab.critic.reward_sum))
        following = torch.zeros(3, 5).double()
        for h in reversed(range(4)):
            q = ((r + torch.einsum("nsat,nt->nsa", m, following)) / (n + 1) + 0.2 / (n + 1).sqrt()).clamp(0, 4 - h)
            assert_close(linear.critic.q[fresh, h], q[fresh], rtol=0, atol=1e-8)
            following = q.amax(-1)
        assert_close(linear.critic.gain[fresh], torch.zeros_like(linear.critic.gain[fresh]))
        assert_close(torch.logdet(linear.critic.gram).squeeze(), (n + 1).log().sum((1, 2)))
        checked += int(fresh.sum())
    assert checked > 15


def test_the_inverse_that_is_kept_is_that_of_the_gram_matrix():
    agent = play(make(task("LinearMDP", 3), critic="linear", bonus=0.3, policy_step_size=5.0), 60)
    inverse = agent.critic.gram.inverse()
    assert_close(agent.critic.inverse, inverse, rtol=0, atol=1e-9)
    grown = torch.logdet(agent.critic.gram) - (-torch.logdet(agent.critic.frozen_inverse))
    assert_close(agent.critic.gain, grown.squeeze(-1), rtol=0, atol=1e-9)
    assert (agent.critic.gain < math.log(2)).all() or agent.critic.drifted().any()


def test_the_last_successor_of_an_episode_is_where_it_ended_not_where_the_next_begins():
    env = task("Tetris", 6, width=3, horizon=4)
    agent = play(make(env, critic="linear", pooled=True, bonus=0.1, policy_step_size=20.0), 5)
    state, action, _, following = agent.critic.history.of(None, torch.arange(6))
    pieces = len(PIECES)
    assert torch.equal(following // pieces, env.boards.next_board[state // pieces, state % pieces, action])
    assert (following >= pieces).all()  # a board of the next episode would be empty, and no drop leaves it so here


def test_blocks_of_features_are_one_long_vector():
    blocks, dense = (
        play(make(tetris(block), critic="linear", bonus=0.1, policy_step_size=20.0, seed=2), 4)
        for block in (True, False)
    )
    assert_close(blocks.critic.q, dense.critic.q, rtol=0, atol=1e-9)
    assert torch.equal(blocks.switches, dense.switches)
    assert blocks.switches.min() > 1


def tetris(blocks: bool) -> Any:
    env = task("Tetris", 2, width=3, horizon=3)
    return env if blocks else Dense(env)


class Dense:
    """A task that does not say that its features are blocks."""

    def __init__(self, env: Any) -> None:
        self.env = env

    def __getattr__(self, name: str) -> Any:
        if name == "block_features":
            raise AttributeError(name)
        return getattr(self.env, name)


def test_a_task_with_too_many_states_for_a_table_is_played_step_by_step(monkeypatch):
    runs = []
    for largest in (2 * 10**6, 0):
        monkeypatch.setattr("surefoot.agents.nora.agent.LARGEST_TABLE", largest)
        agent = play(make(task("Tetris", 6, width=3, horizon=8), critic="linear", bonus=0.1, policy_step_size=20.0), 40)
        runs.append((agent.regret.total.mean(), agent.best_actions().shape, agent.switches.double().mean()))
    (exact, shape, switches), (sampled, other_shape, other_switches) = runs
    assert shape == other_shape == (8, 38 * 12)
    assert abs(exact - sampled) < 0.25 * exact
    assert abs(switches - other_switches) < 0.25 * switches


@pytest.mark.parametrize("pooled", [False, True])
def test_without_a_table_the_optimism_too_is_that_of_the_last_plan(pooled, monkeypatch):
    """Q̄ is computed where it is needed, of the Λ⁻¹ that was planned with: what is observed since does not lower it."""
    monkeypatch.setattr("surefoot.agents.nora.agent.LARGEST_TABLE", 0)
    agent = make(Random(3, alike=True), critic="linear", pooled=pooled, bonus=0.2, total_log_det=3.0)
    cells = [(h, torch.full((3,), s)) for h in range(4) for s in range(5)]
    values = lambda: torch.stack([agent.critic.values(*cell) for cell in cells], 1)  # noqa: E731  # (N, H·S, A)
    agent.step()
    kept = 0
    for _ in range(20):
        before, switches = values(), agent.switches.clone()
        agent.step()
        frozen = agent.switches == switches
        assert torch.equal(values()[frozen], before[frozen])
        assert (agent.critic.inverse[frozen] != agent.critic.frozen_inverse[frozen]).any() or not frozen.any()
        kept += int(frozen.sum())
    assert kept > 10


# --- E12: offline data ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("critic", ["tabular", "linear"])
def test_data_are_known_before_the_first_episode_and_counted_once(critic):
    data = uniform_data(Random(10), 30)
    agent = make(Random(3), critic=critic, bonus=0.1, data=data)

    def counted():
        if critic == "tabular":
            return agent.critic.visits[:, 1].sum((-1, -2))
        return (agent.critic.gram[:, 1, 0].diagonal(dim1=-2, dim2=-1) - 1).sum(-1)

    assert counted().tolist() == [30.0] * 3
    agent.refresh()
    assert agent.critic.q.std() > 0.1  # fitted, not constant
    for episode in range(1, 40):
        agent.step()
        assert_close(counted(), torch.full((3,), 30.0 + episode).double())


def test_no_data_is_nora_and_split_data_are_shared_out():
    data = uniform_data(Random(6), 12)
    env = Random(6)
    shared, split = (recorded_episodes(data, env, 6, how) for how in ("shared", "split"))
    assert shared.state.shape == (4, 6, 12)
    assert split.state.shape == (4, 6, 2)
    rows = data.reward.view(12, 4)
    assert torch.equal(shared.reward[:, 3], rows.T)
    assert torch.equal(split.reward[:, 3], rows[6:8].T)
    assert torch.equal(split.next_state[:-1], split.state[1:])


def test_coverage_by_hand():
    env = task("DeepSea", 2, size=3)
    mdp = TabularMDP(*env.tabular())
    best = greedy(optimal_values(mdp, 3))
    right, wrong = best.argmax(-1).diagonal(dim1=0, dim2=1), 1 - best.argmax(-1).diagonal(dim1=0, dim2=1)

    def data(*episodes):
        time = torch.arange(3.0).repeat(len(episodes))
        obs = torch.cat([torch.nn.functional.one_hot(torch.tensor([0, 1, 2] * len(episodes)), 3), time[:, None]], 1)
        action = torch.cat([right if good else wrong for good in episodes])
        flags = {"terminated": torch.zeros(len(obs)), "truncated": time == 2}
        return Transitions.from_arrays(
            obs=obs, action=action[:, None], reward=torch.zeros(len(obs)), next_obs=obs, **flags
        )

    for episodes, ratio, covered in (
        ((True, True), 1.0, 1.0),
        ((True, False, False), 3.0, 1.0),
        ((False,), math.inf, 0.0),
    ):
        coverage = make(env, bonus=0.1, data=data(*episodes)).coverage
        assert coverage.concentrability.tolist() == [ratio] * 2
        assert coverage.covered.tolist() == [covered] * 2


def test_hybrid_nora_profits_from_poor_data_and_noah_star_only_from_good_data():
    lock = {"horizon": 5, "actions": 3}
    kept = {"bonus": 0.03, "offline": "split"}
    data = uniform_data(task("DiabolicalLock", 80, **lock), 80)
    online, hybrid = (play(make(task("DiabolicalLock", 4, **lock), data=d, **kept), 100) for d in (None, data))
    assert hybrid.regret.total.mean() < 0.75 * online.regret.total.mean()
    assert online.coverage is None
    assert (hybrid.coverage.covered < 1).any()


# --- wrong input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy_step_size": 0}, "--agent.policy-step-size must be positive"),
        ({"bonus": -1.0}, "--agent.bonus must be at least 0"),
        ({"switch_ratio": 1.0}, "--agent.switch-ratio must be above 1"),
        ({"failure_probability": 1.0}, r"--agent.failure-probability must be in \(0, 1\)"),
        ({"episodes": 0}, "--agent.episodes must be at least 1"),
        ({"reward_range": (1.0, 1.0)}, "--agent.reward-range must be LOW below HIGH"),
    ],
)
def test_settings_out_of_range_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        NORAConfig(**changes)


@pytest.mark.parametrize(
    ("env", "changes", "message"),
    [
        (lambda: make_vec(EnvConfig("surefoot/Pendulum-v0")), {}, "need tabular MDPs such as"),
        (lambda: make_vec(EnvConfig("surefoot/RiverSwim-v0")), {}, "pass --env.time-aware"),
        (lambda: task("RiverSwim"), {"episodes": None}, "--agent.episodes is missing"),
        (lambda: task("RiverSwim"), {"critic": "linear"}, "needs a task with features"),
        (lambda: task("RiverSwim"), {"variant": "noah"}, "noah learns from recorded data"),
        (lambda: task("Tetris"), {}, r"takes .* GB; pass --agent.critic linear"),
        (lambda: task("LinearMDP"), {"critic": "linear", "pooled": True}, "in tasks whose steps are alike"),
        (lambda: task("RiverSwim"), {"pooled": True}, "is for the linear critic"),
        (lambda: task("Tetris"), {"critic": "linear", "reset": False}, "too many for the table of exponents"),
        (lambda: task("DeepSea", cells=True), {}, "no --env.kwargs cells"),
        (lambda: Random(2, max_episode_steps=3), {}, "only episodes that all take the task's 4 steps"),
    ],
)
def test_what_cannot_be_played_is_one_line(env, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        make(env(), **changes).step()
    assert "\n" not in str(error.value)


def test_a_task_without_a_horizon_is_refused():
    env = task("RiverSwim")
    env.horizon = None
    with pytest.raises(ValueError, match="no horizon"):
        make(env)


def test_rewards_outside_of_the_clip_range_are_seen_with_the_numbers():
    with pytest.raises(
        ValueError, match=r"episode 1: rewards from step 1 on sum to \d+, outside of the clip range \[0, 0\.8\]"
    ):
        play(make(task("Forest", 3), reward_range=(0.0, 0.04)), 50)
    data = uniform_data(Random(4), 8)
    with pytest.raises(ValueError, match="the recorded data: rewards from step"):
        make(Random(4), reward_range=(0.0, 0.25), data=data)


def test_features_that_do_not_fit_the_table_are_refused():
    env = Random(2)
    env.features = lambda state: torch.zeros(*state.shape, 2, 7)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match=r"features of all states are \(5, 2, 7\); expected \(5, 3, d\)"):
        make(env, critic="linear")
    env.features = lambda state: torch.full((*state.shape, 3, 4), 1.0)  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="longest feature vector has norm 2"):
        make(env, critic="linear")


def test_data_of_another_horizon_or_task_are_refused():
    data = uniform_data(Random(4), 8)
    with pytest.raises(ValueError, match="episode 0 takes 4 steps, but the horizon is 6"):
        make(Random(2, sizes=(5, 3, 6)), data=data)
    with pytest.raises(ValueError, match="8 recorded episodes cannot be split among 9 replicates"):
        make(Random(9), data=data, offline="split")
    with pytest.raises(ValueError, match=r"actions are not numbers 0 … 1"):
        make(Random(2, sizes=(5, 2, 4)), data=data)


# --- state ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes", [{}, {"critic": "linear"}, {"reset": False}, {"variant": "douhua", "critic": "linear"}]
)
def test_a_state_put_away_and_taken_out_goes_on_bit_for_bit(changes):
    agent = play(make(Random(3), bonus=0.1, **changes), 90)
    other = play(make(Random(3), bonus=0.1, seed=5, **changes), 3)
    other.load_state_dict(agent.state_dict())
    play(agent, 20), play(other, 20)
    assert torch.equal(agent.regret.total, other.regret.total)
    assert torch.equal(agent.critic.q, other.critic.q)
    assert torch.equal(agent.switches, other.switches)


def test_the_policy_is_a_table_that_reads_one_hot_states_and_bits():
    for env, critic in ((task("RiverSwim", 3), "tabular"), (task("Tetris", 3, width=3, horizon=6), "linear")):
        agent = play(make(env, critic=critic, bonus=0.1), 20)
        spec = agents.get("nora")
        policy = spec.make_policy(spec.default, Spaces(env.single_observation_space, env.single_action_space))
        with pytest.raises(ValueError, match="holds no actions"):
            policy.act(torch.zeros(1, 7))
        policy.load_state_dict(agent.policy.state_dict())
        obs, _ = env.reset(seed=3)
        for h in range(env.horizon):
            expected = agent.actor.policy(agent.table())[0, h, env.state].argmax(-1)
            assert torch.equal(policy.act(obs), expected)
            obs, *_ = env.step(expected)
    with pytest.raises(ValueError, match="shows no state"):
        policy.act(torch.ones(1, 11))


def test_setting_and_replicates_are_the_environments():
    env = task("RiverSwim", 9)
    config = replace(NORAConfig(), episodes=10)
    setting = Setting(Spaces(env.single_observation_space, env.single_action_space), 0, torch.device("cpu"), env)
    progress = agents.get("nora").make_agent(config, setting).step()
    assert (progress.env_steps, progress.updates) == (20, 1)
    assert progress.episodes[0].length.tolist() == [20.0] * 9
