"""The gates that know more than IWOCS's own: the simulator as a predictor, and the model known."""

import numpy as np
import pytest
import torch

from surefoot.agents.iwocs.composite import Specialist
from surefoot.agents.iwocs.models import CompositeAmongModels, ModelGate
from surefoot.envs import EnvConfig, UncertainVectorEnv, make_single

TASK = EnvConfig("InvertedPendulum-v5")


@pytest.fixture
def oracles(load_script):
    return load_script("iwocs_oracles")


def gate_of(oracles, values):
    """Return a gate over the points of the grid, with values (J, P), untrained."""
    gate = ModelGate((4, 1, 2), len(oracles.GRID), len(values), (), torch.Generator())
    gate.values.copy_(values)
    gate.lowest.copy_(values)
    return gate


def test_the_simulator_errs_in_no_step_of_the_model_it_is_in_and_in_others_it_does(oracles):
    simulator = oracles.Simulator(gate_of(oracles, torch.zeros(1, 100)), make_single(TASK))
    env = UncertainVectorEnv(EnvConfig("InvertedPendulum-v5", num_envs=3), oracles.UNCERTAINTY)
    mine = torch.tensor([0, 47, 99])
    env.set_params(torch.from_numpy(oracles.GRID[mine.numpy()]))
    obs, _ = env.reset(seed=0)
    for action in (0.1, -0.2, 0.1):  # nobody falls
        actions = torch.full((3, 1), action)
        after, *_ = env.step(actions)
        errors = simulator.errors(obs, actions, after)
        assert errors.shape == (3, 100)
        own = errors[torch.arange(3), mine]
        assert (own < oracles.ROUNDING).all()
        others = errors.clone()
        others[torch.arange(3), mine] = torch.inf
        assert (others.amin(1) > 3 * oracles.ROUNDING).all()
        obs = after


def test_with_the_model_known_the_best_in_it_acts_from_the_first_step(oracles):
    values = torch.zeros(3, 100)
    values[0, :30], values[1, 30:60], values[2, 60:] = 1.0, 1.0, 1.0  # the default's row is the first
    acting = [lambda obs, a=a: torch.full((len(obs), 1), a) for a in (0.1, 0.2, 0.3)]
    specialists = [Specialist(act, None, None, 0.0) for act in acting[1:]]
    known = oracles.Known(CompositeAmongModels(specialists, acting[0], gate_of(oracles, values), 3.0), episodes=2)
    jobs = torch.tensor([0, 59, 60, 119, 120, 199, -1])
    known.track(jobs, 200)
    taken = known(torch.zeros(7, 4)).flatten().tolist()
    np.testing.assert_allclose(taken[:6], [0.1, 0.1, 0.2, 0.2, 0.3, 0.3])


def test_the_ablations_differ_from_the_gate_in_one_thing_each(oracles):
    """s' = s + ψ a, ψ = −1 or 1, z = 0.5: the wrong model errs by 2 |a|. The first specialist holds for −1."""

    class Exact(ModelGate):
        def error(self, obs, action, parameters, next_obs):
            return (obs + parameters * action - next_obs).abs().sum(-1)

    gate = Exact((1, 1, 1), 2, 3, (), torch.Generator())
    gate.points.copy_(torch.tensor([[-1.0], [1.0]]))
    gate.values.copy_(torch.tensor([[0.0, 0.0], [9.0, 9.0], [0.0, 10.0]]))  # the first holds in both, the second in one
    gate.lowest.copy_(gate.values)
    gate.usual.fill_(0.5)

    def acting(action):
        return lambda obs: torch.full((len(obs), 1), action)

    def taken(make, first, tolerance, steps):
        specialists = [Specialist(acting(a), None, None, 0.0) for a in (first, 3.0)]
        composite = make(CompositeAmongModels(specialists, acting(first), gate, tolerance))
        state, actions = torch.zeros(1, 1), []
        for _ in range(steps):
            actions.append(round(composite(state).item(), 2))
            state = state + actions[-1]
            composite.observe(torch.zeros(1), torch.zeros(1))
        return actions

    def plain(composite):
        return composite

    def kind(cls):
        return lambda one: cls(one.specialists, one.default, one.models, one.tolerance)

    assert taken(plain, 1.0, 2.5, 3) == [1.0, 1.0, 1.0]  # who acts holds in both
    assert taken(kind(oracles.Restless), 1.0, 2.5, 3) == [1.0, 3.0, 3.0]  # who gets most in the model that is left
    # from here on it holds for −1 alone, and the default acts until that is out
    gate.values[1, 1] = gate.lowest[1, 1] = 0.0
    assert taken(plain, 1.0, 4.5, 4) == [1.0, 1.0, 3.0, 3.0]  # 3 a step: twice
    assert taken(kind(oracles.Forgetful), 1.0, 4.5, 4) == [1.0, 1.0, 1.0, 1.0]
    assert taken(plain, 0.2, 1.0, 4) == [0.2] * 4  # 0.4 is less than the usual 0.5
    assert taken(oracles.counting_every_error, 0.2, 1.0, 4) == [0.2, 0.2, 3.0, 3.0]  # 0.8 a step


def test_episodes_that_are_not_the_longest_fell(oracles):
    returns = np.full((100, 5), 1000.0)
    returns[7, 2], returns[7, 3], returns[9, 0] = 10.0, 20.0, 999.0
    found = oracles.outcome(returns)
    assert (found["worst"], found["at"]) == (606.0, oracles.GRID[7].tolist())
    assert (found["fell"], found["models_with_a_fall"], found["episodes"]) == (3, 2, 500)
