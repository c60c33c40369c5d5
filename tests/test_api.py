"""`import surefoot`: train, resume, evaluate, and policies that answer in the task's own units with their memory."""

import gymnasium as gym
import numpy as np
import pytest
import torch

import surefoot
from surefoot import agents, api
from surefoot.agents.distributional.dhn.equations import DHNConfig
from surefoot.agents.interface import Spaces
from surefoot.agents.iwocs.config import IWOCSConfig
from surefoot.agents.sac import SACConfig
from surefoot.envs import EnvConfig, Physics, own_action_space, spaces_of
from surefoot.evaluation import policy_files
from surefoot.training.config.presets import to_plain
from surefoot.training.config.run import RunConfig
from surefoot.training.runs import folder as run_folder

TINY = {
    "steps": 60,
    "log_every": 20,
    "env": {"id": "Pendulum-v1", "max_episode_steps": 10},
    "eval": {"every": 30, "episodes": 1},
    "agent": {"hidden": (8,), "batch_size": 8, "learning_starts": 16, "rollout_steps": 4, "random_steps": 8},
}


class Valve(gym.Env):
    """Box(0, 5) actions; the reward is the action itself, so that a wrong unit shows. Four steps per episode."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Box(0.0, 5.0, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left = 4
        return self.observation_space.sample() * 0, {}

    def step(self, action):
        self.left -= 1
        return np.zeros(2, np.float32), float(action[0]), self.left == 0, False, {}


gym.register("Valve-v0", Valve)


def write_policy(folder, name, config, env):
    """Write the run folder of an agent that was never trained; return it and the policy."""
    run_folder.create(folder, name, RunConfig(config, env), None)
    spaces = Spaces(*spaces_of(env))
    policy = agents.get(name).make_policy(config, spaces)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value in policy.state_dict().values():
            if value.is_floating_point():
                value.copy_(0.5 * torch.randn(value.shape, generator=generator))
    path = policy_files.checkpoint_path(folder, "policy", 1)
    plain = to_plain(name, RunConfig(config, env))
    policy_files.save_policy(path, plain, spaces, own_action_space(env), 1, policy)
    return folder, policy


# --- what there is ----------------------------------------------------------------------------------------------------


def test_the_public_names_are_there_and_no_others():
    assert all(hasattr(surefoot, name) for name in surefoot.__all__)
    assert set(dir(surefoot)) == set(surefoot.__all__)
    with pytest.raises(AttributeError, match="no attribute 'tarin'"):
        surefoot.tarin  # noqa: B018


def test_agents_and_presets_are_listed():
    assert surefoot.agents() == list(agents.REGISTRY)
    assert surefoot.agents()[0] == "h2o"
    assert "demo" in surefoot.presets("h2o")
    with pytest.raises(ValueError, match="unknown agent 'h3o'"):
        surefoot.presets("h3o")


# --- train and resume -------------------------------------------------------------------------------------------------


def test_a_callback_sees_the_rows_stops_the_run_and_resume_ends_it_as_if_nothing_had_been(tmp_path):
    seen = []
    straight = surefoot.train("sac", out=tmp_path, name="straight", callback=lambda row: seen.append(row), **TINY)
    assert straight.status == "finished"
    assert [row["step"] for row in seen] == [row["step"] for row in straight.metrics()] == [20, 40, 60]
    stopped = surefoot.train("sac", out=tmp_path, name="stopped", callback=lambda row: row["step"] >= 20, **TINY)
    assert (stopped.status, [row["step"] for row in stopped.metrics()]) == ("interrupted", [20])
    resumed = surefoot.resume(stopped)
    assert (resumed.status, resumed.evaluations()) == ("finished", straight.evaluations())
    assert surefoot.resume(resumed.folder).folder == resumed.folder  # finished: nothing to do
    assert surefoot.resume(resumed, steps=80).config.steps == 80
    weights = [run.policy(60).act.__self__.state_dict() for run in (straight, resumed)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_settings_lie_over_the_preset_by_the_names_of_the_command_line(tmp_path):
    one = surefoot.train("sac", "demo-sim", out=tmp_path, name="a", **{**TINY, "env.physics.gravity": 3.0, "seed": 4})
    config = one.config
    assert (config.env.physics.gravity, config.env.max_episode_steps, config.seed) == (3.0, 10, 4)
    assert (one.agent_name, config.agent.hidden) == ("sac", (8,))
    named = surefoot.train("sac", out=tmp_path, name="b", **{**TINY, "env": "MountainCarContinuous-v0", "steps": 20})
    assert named.config.env == EnvConfig("MountainCarContinuous-v0")


def test_a_dotted_setting_and_its_section_are_one_in_any_order(monkeypatch):
    begun = []
    monkeypatch.setattr(api.session, "train", lambda agent, config, **_: begun.append(config.env))
    monkeypatch.setattr(api, "Run", lambda folder: folder)
    settings = {"env.physics.gravity": 2.0, "env": "Pendulum-v1", "env.physics": {"friction": 0.5}}
    surefoot.train("sac", **settings)
    surefoot.train("sac", **dict(reversed(settings.items())))
    assert begun == [EnvConfig("Pendulum-v1", Physics(gravity=2.0, friction=0.5))] * 2


def test_fields_of_a_task_lie_over_its_own_with_its_arguments():
    own = EnvConfig("Pendulum-v1", kwargs={"g": 5.0, "render_mode": None})
    over = {"kwargs.g": 4.0, "physics": {"gravity": 2.0}}
    assert api._task(over, own) == EnvConfig(
        "Pendulum-v1", Physics(gravity=2.0), kwargs={"g": 4.0, "render_mode": None}
    )
    assert api._task({"id": "Reacher-v5", "kwargs": {"xml_file": "x"}}, own).kwargs == {"xml_file": "x"}
    assert surefoot.make_env(own, kwargs={"render_mode": None}).unwrapped.g == 5.0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"stepz": 3}, "unknown key 'stepz'; did you mean 'steps'"),
        ({"agent": {"hiden": 3}}, "unknown key 'agent.hiden'"),
        ({"steps": "many"}, "steps is 'many'; expected int"),
        ({"steps": 1, "steps.x": 1}, r"surefoot.train: steps is given as 1 and as {'x': 1}; leave one out"),
        ({"env.id": "Pendulum-v1", "env": "Pendulum-v1"}, "env.id is given as 'Pendulum-v1' and as"),
    ],
)
def test_wrong_settings_are_one_line_and_leave_nothing_behind(overrides, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        surefoot.train("sac", out=tmp_path, name="a", **overrides)
    assert list(tmp_path.iterdir()) == []


# --- policies ---------------------------------------------------------------------------------------------------------


def test_predict_answers_as_it_is_asked_in_the_tasks_own_units(tmp_path):
    folder, policy = write_policy(tmp_path / "run", "sac", SACConfig(hidden=(8,)), EnvConfig("Valve-v0"))
    loaded = surefoot.load_policy(surefoot.Run(folder))
    obs = np.random.default_rng(0).normal(size=(6, 2)).astype(np.float32)
    expected = 2.5 * (policy.act(torch.from_numpy(obs)).numpy() + 1)
    assert 0 <= expected.min() < expected.max() <= 5
    assert expected.max() - expected.min() > 0.5
    for i, row in enumerate(obs):
        action = loaded.predict(row)
        assert (type(action), action.shape) == (np.ndarray, (1,))
        np.testing.assert_allclose(action, expected[i], rtol=1e-5)
    np.testing.assert_allclose(loaded.predict(obs), expected, rtol=1e-5)
    np.testing.assert_allclose(loaded.predict(obs.tolist()), expected, rtol=1e-5)
    tensors = loaded.predict(torch.from_numpy(obs))
    assert isinstance(tensors, torch.Tensor)
    np.testing.assert_allclose(tensors, expected, rtol=1e-5)
    assert (loaded.stateful, loaded.needs_rewards) == (False, False)
    assert "sac on Valve-v0 at step 1" in repr(loaded)


def test_a_wrong_shape_is_one_line(tmp_path):
    folder, _ = write_policy(tmp_path / "run", "sac", SACConfig(hidden=(8,)), EnvConfig("Valve-v0"))
    loaded = surefoot.load_policy(folder)
    for wrong in (np.zeros(3), np.zeros((2, 2, 2)), 0.0):
        with pytest.raises(ValueError, match=r"observations have 2 values; expected \(2,\) or \(N, 2\), got the shape"):
            loaded.predict(wrong)


def test_a_loop_over_make_env_and_evaluate_agree_and_so_does_a_function(tmp_path):
    folder, _ = write_policy(tmp_path / "run", "sac", SACConfig(hidden=(8,)), EnvConfig("Pendulum-v1"))
    policy, env = surefoot.load_policy(folder), surefoot.make_env("Pendulum-v1")
    assert env.action_space == gym.spaces.Box(-2.0, 2.0, (1,), np.float32)
    obs, _ = env.reset(seed=10_000)
    total, ended = 0.0, False
    policy.reset()
    while not ended:
        obs, reward, terminated, truncated, _ = env.step(policy.predict(obs))
        total, ended = total + reward, terminated or truncated
    results = [
        surefoot.evaluate(folder, episodes=2),
        surefoot.evaluate(policy, "Pendulum-v1", episodes=2),
        surefoot.evaluate(policy.predict, "Pendulum-v1", episodes=2),
        surefoot.evaluate(surefoot.Run(folder), episodes=2),
    ]
    for result in results:
        assert result.returns[0] == pytest.approx(total, rel=1e-4)
    heavy = surefoot.evaluate(folder, {"max_episode_steps": 20}, episodes=1)
    assert heavy.lengths.tolist() == [20]


def test_evaluate_warns_of_physics_that_diverged():
    light = {"id": "Swimmer-v5", "physics": {"mass": 0.01}, "max_episode_steps": 5}
    with pytest.warns(UserWarning, match=r"^Swimmer-v5: the physics diverged in 2 of 2 episodes; those"):
        result = surefoot.evaluate(lambda obs: 0 * obs[:, :2] + [1.0, -1.0], light, episodes=2)
    assert (result.broken.tolist(), result.returns.tolist()) == ([True, True], [0.0, 0.0])


def test_evaluate_needs_a_task_that_fits(tmp_path):
    folder, _ = write_policy(tmp_path / "run", "sac", SACConfig(hidden=(8,)), EnvConfig("Valve-v0"))
    with pytest.raises(ValueError, match="which task"):
        surefoot.evaluate(lambda obs: obs)
    with pytest.raises(ValueError, match=r"maps observations Box\(2,\) to actions Box\(1,\), but Pendulum-v1 has"):
        surefoot.evaluate(folder, "Pendulum-v1")
    with pytest.raises(ValueError, match=r"shape \(1, 1\) for 20 observations"):
        surefoot.evaluate(lambda obs: np.zeros((1, 1)), "Pendulum-v1")
    result = surefoot.evaluate(lambda obs: np.full((len(obs), 1), 4.0), "Valve-v0", episodes=3)
    np.testing.assert_allclose(result.returns, 16.0, rtol=1e-5)  # four steps of 4, in the task's own units


def test_a_time_aware_policy_counts_the_steps_itself(tmp_path):
    env = EnvConfig("Valve-v0", time_aware=True)
    folder, policy = write_policy(tmp_path / "run", "sac", SACConfig(hidden=(8,)), env)
    loaded = surefoot.load_policy(folder)
    for steps in (0, 1, 2):
        obs = torch.tensor([[0.3, -0.2]])
        expected = 2.5 * (policy.act(torch.cat([obs, torch.full((1, 1), float(steps))], 1)) + 1)
        torch.testing.assert_close(loaded.predict(obs), expected)
        loaded.observe(1.0)
    loaded.reset()
    torch.testing.assert_close(
        loaded.predict(torch.tensor([[0.3, -0.2, 0.0]])), loaded.predict(torch.tensor([[0.3, -0.2, 0.0]]))
    )


# --- policies with a memory -------------------------------------------------------------------------------------------


@pytest.fixture
def gated(tmp_path):
    """Return a run of IWOCS whose specialist may act in the first step only: it foresees badly."""
    config = IWOCSConfig(hidden=(8,), iterations=1)
    folder, policy = write_policy(tmp_path / "untrained", "iwocs", config, EnvConfig("Valve-v0"))
    policy.used.fill_(1)
    policy.rho.fill_(1e-6)
    env, plain = EnvConfig("Valve-v0"), to_plain("iwocs", RunConfig(config, EnvConfig("Valve-v0")))
    place = policy_files.checkpoint_path(folder, "policy", 2)
    policy_files.save_policy(place, plain, Spaces(*spaces_of(env)), own_action_space(env), 2, policy)
    return folder, policy


def test_iwocs_keeps_its_gate_when_predict_is_called_step_by_step(gated):
    folder, policy = gated
    loaded, obs = surefoot.load_policy(folder), torch.tensor([[0.4, -0.7], [1.2, 0.1]])
    specialist, default = (2.5 * (part.act(obs) + 1) for part in (policy.actors[0], policy.default))
    assert not torch.allclose(specialist, default, atol=1e-2)
    assert (loaded.stateful, loaded.needs_rewards) == (True, False)
    for _ in range(2):
        loaded.reset()
        torch.testing.assert_close(loaded.predict(obs), specialist)
        for _ in range(3):
            torch.testing.assert_close(loaded.predict(obs), default)
    loaded.observe(0.0, [False, True])  # the second row begins another episode: no step before, so no gate
    torch.testing.assert_close(loaded.predict(obs), torch.stack([default[0], specialist[1]]))
    one = surefoot.load_policy(folder)
    one.reset()
    torch.testing.assert_close(one.predict(obs[0]), specialist[0])


@pytest.fixture
def stock(tmp_path):
    """Return a run of DηN on GATE, whose actions depend on the rewards so far."""
    config = DHNConfig(hidden=(8, 8), quantiles=4, stock_range=(-2.0, 2.0))
    return write_policy(tmp_path / "run", "dhn", config, EnvConfig("surefoot/Gate-v0"))


def test_a_stock_policy_acts_on_the_rewards_it_observes(stock):
    folder, policy = stock
    loaded = surefoot.load_policy(folder)
    assert (loaded.stateful, loaded.needs_rewards) == (True, True)
    obs = torch.eye(3)
    loaded.reset()
    reference = policy.stateful()
    for rewards in ([1.0, 0.0, -3.0], [0.5, 2.0, 0.0], [0.0, 0.0, 4.0]):
        assert loaded.predict(obs).tolist() == reference(obs).tolist()
        ended = torch.tensor([False, True, False])
        loaded.observe(rewards, ended)
        reference.observe(torch.tensor(rewards), ended)
    assert type(loaded_single(folder).predict([1.0, 0.0, 0.0])) is int


def loaded_single(folder):
    policy = surefoot.load_policy(folder, objective="cvar(0.5)")
    policy.reset()
    return policy


def test_what_was_forgotten_is_an_error_and_not_a_wrong_action(stock):
    loaded = surefoot.load_policy(stock[0])
    with pytest.raises(RuntimeError, match=r"dhn remembers its episode: call reset\(\) where one begins"):
        loaded.predict([1.0, 0.0, 0.0])
    loaded.reset()
    with pytest.raises(RuntimeError, match=r"observe\(\) comes after predict"):
        loaded.observe(1.0)
    loaded.predict([1.0, 0.0, 0.0])
    with pytest.raises(
        RuntimeError, match=r"acts on the rewards so far: call observe\(reward, ended\) after every step"
    ):
        loaded.predict([1.0, 0.0, 0.0])
    loaded.observe(1.0)
    with pytest.raises(ValueError, match=r"1 rows in the step before, 2 now; call reset\(\)"):
        loaded.predict(np.eye(3)[:2])
    with pytest.raises(ValueError, match="another than that of mean"):
        surefoot.load_policy(stock[0], objective="mean")


def test_a_bandit_is_asked_told_saved_and_opened(tmp_path):
    polytope = {"polytope": {"matrix": [[1, 0], [0, 1], [-1, 0], [0, -1]], "bound": [1, 1, 0, 0]}}
    bounds = {"action_weight": 1.0, "input_matrix": 0.5, "noise_std": 0.1, "spectral_radius": 0.5}
    bandit = surefoot.bandit("dynlin-ucb", actions=polytope, bounds=bounds, horizon=50, bias_scale=0.5)
    decision = bandit.ask()
    assert (decision.round, decision.rounds, bandit.pending.round) == (1, 1, 1)
    assert decision.action.tolist() in [[0, 0], [0, 1], [1, 0], [1, 1]]
    bandit.tell(0.25)
    bandit.save(tmp_path / "one.json")
    opened = surefoot.load_bandit(str(tmp_path / "one.json"), "dynlin-ucb")
    assert opened.summary() == bandit.summary()
    assert opened.config.bias_scale == 0.5
    with pytest.raises(ValueError, match="holds a learner of the kind dynlin-ucb, not exp3"):
        surefoot.load_bandit(tmp_path / "one.json", "exp3")
    with pytest.raises(ValueError, match=r"surefoot.bandit: unknown key 'bias_scal'"):
        surefoot.bandit("dynlin-ucb", actions=[[0], [1]], bounds=bounds, bias_scal=1)
    with pytest.raises(ValueError, match="polytope"):
        surefoot.bandit("dynlin-ucb", actions={"polytope": {"matrix": [[1.0]], "bound": [1.0]}}, bounds=bounds)


def test_a_log_identifies_its_system():
    actions = np.random.default_rng(0).choice([-1.0, 1.0], size=(400, 1))
    rewards = 2 * actions[:, 0] + np.concatenate([[0.0], 0.5 * actions[:-1, 0]])
    found = surefoot.identify(actions, rewards, lags=3)
    np.testing.assert_allclose(found.markov[:, 0], [2.0, 0.5, 0.0, 0.0], atol=1e-10)
    assert found.h[0].value == pytest.approx(2.5)


def test_actions_are_clipped_for_a_task_and_nothing_is_ignored_without_one(data_file):
    data = surefoot.load_data(data_file, "Pendulum-v1", clip_actions=True)
    assert torch.equal(data.action, surefoot.load_data(data_file).action.clamp(-1, 1))
    with pytest.raises(ValueError, match=r"surefoot\.load_data: clip_actions needs env, the task that says whether"):
        surefoot.load_data(data_file, clip_actions=True)


@pytest.mark.parametrize(
    ("device", "message"), [("gpu", "device is 'gpu'"), ("cuda:99", "device cuda:99 was requested")]
)
def test_a_device_that_is_not_there_is_named_before_anything_is_opened(device, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        surefoot.load_policy(tmp_path / "none.pt", device=device)
    with pytest.raises(ValueError, match=message):
        surefoot.evaluate(tmp_path / "none.pt", device=device)


@pytest.mark.parametrize(
    ("policy", "settings", "message"),
    [
        (abs, {"env": "Pendulum-v1", "episodes": 2.5}, "episodes is 2.5; it must be a whole number from 1 to"),
        (abs, {"env": "Pendulum-v1", "episodes": 0}, "episodes is 0; it must be a whole number from 1 to"),
        (abs, {"env": "Pendulum-v1", "seed": -5}, "seed is -5; it must be a whole number from 0 to"),
        (abs, {"env": 5}, "env is 5; pass a Gymnasium id, an EnvConfig or a mapping of its fields"),
        (None, {"env": "Pendulum-v1"}, "policy is None; pass a run, a path, a loaded policy or a function"),
    ],
)
def test_what_no_evaluation_can_be_of_is_said_in_a_line(policy, settings, message):
    with pytest.raises(ValueError, match=message):
        surefoot.evaluate(policy, **settings)
