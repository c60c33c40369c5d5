"""The parts of deep IWOCS against docs/derivations/iwocs.md E13 and E14, and pitfalls 2, 3 and 7."""

import math

import pytest
import torch
from torch.testing import assert_close

from surefoot.agents.interface import Batch
from surefoot.agents.iwocs import THRESHOLDS, Composite, Specialist, best_threshold, choose, is_valid, prediction_loss
from surefoot.agents.iwocs.composite import Gate, prediction_error, remembered, repeated
from surefoot.agents.parts.tabular import from_dense, stationary_values
from surefoot.agents.sac import soft_target
from surefoot.envs import SETS, EnvConfig, play


def specialist(action, value=0.0, other=1.0, step=0.0, rho=math.inf):
    """One that always proposes `action`, worth `value` or `other`, and predicts that the state moves by `step`."""
    return Specialist(
        lambda obs: torch.full((len(obs), 1), action),
        lambda obs, a: torch.stack([a[:, 0] * 0 + value, a[:, 0] * 0 + other]),
        lambda obs, a: obs + step,
        rho,
    )


def default(obs):
    return torch.full((len(obs), 1), -9.0)


# --- learning ---------------------------------------------------------------------------------------------------------


def test_the_entropy_free_critic_has_the_same_fixed_point_whatever_the_entropy_weight():
    g = torch.Generator().manual_seed(0)
    moves = torch.rand(4, 2, 4, generator=g, dtype=torch.float64)
    moves /= moves.sum(-1, keepdim=True)
    reward = torch.randn(4, 2, generator=g, dtype=torch.float64)
    policy = torch.randn(4, 2, generator=g, dtype=torch.float64).softmax(-1)
    gamma = 0.9
    expected = stationary_values(from_dense(torch.eye(4).double()[0], moves[None], reward[None]), policy, gamma)
    s, a, s2, a2 = (index.flatten() for index in torch.meshgrid(*map(torch.arange, (4, 2, 4, 2)), indexing="ij"))
    weight = moves[s, a, s2] * policy[s2, a2]
    every = Batch(s, a, reward[s, a], s2, torch.zeros_like(weight))  # each transition once, with its next action

    class Fixed:
        @staticmethod
        def sample(obs, noise):
            return a2, policy[obs, a2].log()

    def fixed_point(alpha):
        q = torch.zeros(2, 4, 2, dtype=torch.float64)
        for _ in range(300):
            y = soft_target(every, Fixed, lambda obs, action: q[:, obs, action], torch.zeros(()), gamma, alpha)  # noqa: B023
            q = torch.zeros(8, dtype=torch.float64).index_add(0, s * 2 + a, weight * y).view(4, 2).expand(2, 4, 2)
        return (policy * q[0]).sum(-1)

    assert_close(fixed_point(None), expected)
    assert_close(fixed_point(torch.tensor(0.0)), expected)
    assert (fixed_point(torch.tensor(1.0)) - expected).abs().min() > 0.5


def test_prediction_errors_are_summed_over_the_observation():
    predicted, seen = torch.tensor([[0.0, 1.0], [2.0, 2.0]]), torch.tensor([[0.5, 0.5], [2.0, 0.0]])
    assert prediction_loss(predicted, seen) == 1.5
    assert is_valid(prediction_error(predicted, seen), 1.0).tolist() == [True, False]


# --- choosing ---------------------------------------------------------------------------------------------------------


def test_the_most_pessimistic_usable_model_is_chosen():
    q = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]])
    valid = torch.tensor([[True, True, False, False], [True, False, True, False]])
    assert choose(q, valid).tolist() == [1, 0, 1, -1]


def test_of_equal_thresholds_the_larger_is_taken():
    assert THRESHOLDS == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert best_threshold([1.0, 3.0, 2.0, 3.0] + [0.0] * 6) == 0.4


def test_or_the_middle_of_them_the_lower_of_two():
    values = {1: [0.0, 9.0, 1.0, 1.0], 2: [9.0, 9.0, 1.0, 1.0], 3: [9.0, 9.0, 9.0, 1.0], 4: [9.0] * 4}
    chosen = {n: best_threshold(some, (0.0, 1.0, 3.0, 10.0), "middle") for n, some in values.items()}
    assert chosen == {1: 1.0, 2: 0.0, 3: 1.0, 4: 1.0}


def test_a_model_is_a_repetition_where_no_parameter_differs_by_more_than_its_share_of_the_range():
    span, model = torch.tensor([1.0, 100.0]), torch.tensor([0.5, 50.0])
    before = [model + torch.tensor(step) for step in ([0.02, 0.0], [0.0, 2.0], [0.03, 0.0], [-0.01, -3.0])]
    assert repeated(model, before, span, 0.0201) == [0, 1]
    assert repeated(model, [], span, 0.1) == []
    assert repeated(model, [model + 1e-3, model], span, 0.0) == [1]  # on a grid: the same point


def test_the_tolerance_0_rejects_a_specialist_even_where_it_foresees_exactly():
    composite = Composite([specialist(1.0, step=1.0, rho=0.0)], default)
    for t in range(4):
        assert composite(torch.full((3, 1), float(t))).tolist() == [[-9.0]] * 3
        composite.observe(torch.zeros(3), torch.zeros(3))
    assert_close(composite.fractions, torch.tensor([0.0, 1.0]))


def test_with_one_model_and_boundless_tolerance_it_is_the_specialist():
    composite = Composite([specialist(1.0)], default)
    for t in range(4):
        assert composite(torch.full((2, 2), 7.0 * t)).tolist() == [[1.0]] * 2
        composite.observe(torch.zeros(2), torch.zeros(2))
    assert_close(composite.fractions, torch.tensor([1.0, 0.0]))


def test_validity_looks_at_the_step_before_and_at_what_was_executed():
    """Model A foresees +1, model B +2. B is the pessimist, so it acts where both are usable."""
    a = specialist(1.0, value=5.0, other=6.0, step=1.0, rho=0.1)
    b = specialist(2.0, value=0.0, other=9.0, step=2.0, rho=0.1)  # by the smaller of its two critics
    composite, still = Composite([a, b], default), torch.zeros(3)
    assert composite(torch.zeros(3, 1)).flatten().tolist() == [2.0, 2.0, 2.0]
    composite.observe(still, still)
    assert composite(torch.tensor([[1.0], [2.0], [3.0]])).flatten().tolist() == [1.0, 2.0, -9.0]
    composite.observe(still, torch.tensor([0.0, 0.0, 1.0]))  # the last environment begins another episode
    assert composite(torch.tensor([[9.0], [3.0], [50.0]])).flatten().tolist() == [-9.0, 1.0, 2.0]
    executed = []
    spy = specialist(1.0)._replace(predict=lambda obs, action: executed.append(action) or obs + 9.0, rho=1.0)
    composite = Composite([spy], default)
    for _ in range(3):
        composite(torch.zeros(1, 1))
        composite.observe(torch.zeros(1), torch.zeros(1))
    assert [float(action) for action in executed] == [1.0, -9.0]


def test_errors_are_remembered_as_a_faded_mean_of_the_episode():
    errors, memory = torch.tensor([[4.0, 1.0, 7.0, 2.0], [0.0, 8.0, 1.0, 1.0]]).T[:, :, None], 0.5
    trace, found = torch.zeros(3, 1), []
    for t, error in enumerate(errors):
        trace, mean = remembered(trace, error, torch.tensor([t == 0]), memory)
        found.append(mean[:, 0].tolist())
    first, second = (1.0, 8.0), (7.0, 1.0)  # of the step that an episode begins in there is none
    assert found[0] == [0.0, 0.0]
    assert found[1] == list(first)
    assert_close(found[2], [(0.5 * a + b) / 1.5 for a, b in zip(first, second, strict=True)])
    assert_close(found[3], [(0.25 * a + 0.5 * b + c) / 1.75 for a, b, c in zip(first, second, (2.0, 1.0), strict=True)])


def test_without_memory_an_error_counts_in_its_own_step_alone():
    trace, error = torch.tensor([[torch.inf], [3.0]]), torch.tensor([[0.25]])
    assert remembered(trace, error, torch.tensor([False]), 0.0)[1].tolist() == [[0.25]]


def test_a_memory_keeps_a_model_out_that_was_wrong_before_and_is_the_environments_own():
    """Model A foresees +1, B +2; the state moves by 1, 2 and 2: A was right, then is not, but its mean is below ρ."""
    a = specialist(1.0, value=0.0, step=1.0, rho=0.6)
    b = specialist(2.0, value=5.0, other=6.0, step=2.0, rho=0.4)
    acts = {}
    for memory in (0.0, 0.9):
        composite, still = Composite([a, b], default, Gate(memory)), torch.zeros(2)
        states, ends = ([0.0, 0.0], [1.0, 2.0], [3.0, 4.0], [5.0, 6.0]), ([0.0, 0.0], [0.0, 1.0], [0.0, 0.0])
        acts[memory] = []
        for state, end in zip(states, (*ends, None), strict=True):
            acts[memory].append(composite(torch.tensor(state)[:, None]).flatten().tolist())
            if end is not None:
                composite.observe(still, torch.tensor(end))
    assert acts[0.0] == [[1.0, 1.0], [1.0, 2.0], [2.0, 1.0], [2.0, 2.0]]
    assert acts[0.9] == [[1.0, 1.0], [1.0, 2.0], [1.0, 1.0], [2.0, 2.0]]  # the second forgets: another episode


def test_the_most_accurate_acts_in_the_unit_of_what_is_usual_for_each_and_the_pessimist_in_the_first_step():
    sharp = specialist(1.0, value=9.0, other=9.0, step=0.2)._replace(usual=0.1)
    blunt = specialist(2.0, value=0.0, step=0.6)._replace(usual=1.0)
    still = torch.zeros(2)
    for choice, then in (("pessimistic", [2.0, 2.0]), ("accurate", [1.0, 2.0])):
        composite = Composite([sharp, blunt], default, Gate(choice=choice))
        assert composite(torch.zeros(2, 1)).flatten().tolist() == [2.0, 2.0]
        composite.observe(still, still)
        # errors 0.02 and 0.38, which are 0.2 and 0.38 of the usual; 0.2 and 0.6, which are 2 and 0.6
        assert composite(torch.tensor([[0.22], [0.0]])).flatten().tolist() == then


@pytest.mark.parametrize("choice", ["pessimistic", "accurate"])
def test_a_rejected_specialist_does_not_act_in_the_first_step_either(choice):
    rejected, kept = specialist(1.0, value=-5.0, rho=0.0), specialist(2.0, value=3.0, rho=0.1)
    gate = Gate(choice=choice)
    assert Composite([rejected, kept], default, gate)(torch.zeros(2, 1)).flatten().tolist() == [2.0, 2.0]
    assert Composite([rejected], default, gate)(torch.zeros(2, 1)).flatten().tolist() == [-9.0, -9.0]


@pytest.mark.parametrize("choice", ["pessimistic", "accurate"])
def test_the_default_acts_in_first_steps_alone_where_it_is_asked_to(choice):
    one = specialist(1.0, step=1.0, rho=0.1)
    composite = Composite([one], default, Gate(memory=0.5, choice=choice, first="default"))
    assert composite(torch.zeros(3, 1)).flatten().tolist() == [-9.0] * 3
    composite.observe(torch.zeros(3), torch.tensor([1.0, 0.0, 0.0]))  # the first begins anew
    assert composite(torch.tensor([[1.0], [1.0], [5.0]])).flatten().tolist() == [-9.0, 1.0, -9.0]  # 5: unforeseen
    composite.observe(torch.zeros(3), torch.zeros(3))
    assert composite(torch.tensor([[2.0], [2.0], [6.0]])).flatten().tolist() == [1.0, 1.0, -9.0]
    assert Composite([one], default)(torch.zeros(1, 1)).item() == 1.0


@pytest.mark.parametrize("choice", ["pessimistic", "accurate"])
def test_one_specialist_acts_in_first_steps_alone_whatever_the_critics_say(choice):
    low, high = specialist(1.0, value=0.0, step=1.0, rho=0.1), specialist(2.0, value=9.0, step=2.0, rho=0.1)
    composite = Composite([low, high], default, Gate(memory=0.5, choice=choice, first=1))
    assert composite(torch.zeros(3, 1)).flatten().tolist() == [2.0] * 3
    composite.observe(torch.zeros(3), torch.tensor([1.0, 0.0, 0.0]))  # the first begins anew
    assert composite(torch.tensor([[1.0], [1.0], [5.0]])).flatten().tolist() == [2.0, 1.0, -9.0]  # 5: unforeseen


def test_of_the_most_accurate_only_the_usable_act():
    near, far = specialist(1.0, step=0.1, rho=0.05), specialist(2.0, step=0.5, rho=1.0)
    composite = Composite([near, far], default, Gate(choice="accurate"))
    composite(torch.zeros(1, 1)), composite.observe(torch.zeros(1), torch.zeros(1))
    assert composite(torch.zeros(1, 1)).tolist() == [[2.0]]


def test_steps_are_counted_for_each_episode_of_a_job_and_not_for_the_idle():
    composite, still = Composite([specialist(1.0, step=1.0, rho=0.1)], default), torch.zeros(3)
    composite.track(torch.tensor([1, 0, -1]), 3)
    composite(torch.zeros(3, 1))
    composite.observe(still, still)
    composite.track(torch.tensor([1, 2, -1]), 3)
    composite(torch.tensor([[1.0], [5.0], [1.0]]))  # foreseen, not foreseen
    assert_close(composite.fractions_by_job, torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    assert_close(composite.fractions, torch.tensor([0.75, 0.25]))


def test_a_reset_forgets():
    composite = Composite([specialist(1.0, step=9.0, rho=0.1)], default)
    composite(torch.zeros(2, 1)), composite.observe(torch.zeros(2), torch.zeros(2)), composite(torch.zeros(2, 1))
    composite.reset()
    assert composite(torch.zeros(5, 1)).flatten().tolist() == [1.0] * 5  # another number of environments
    assert_close(composite.fractions, torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("num_envs", [1, 3, 6])
def test_in_many_models_the_memory_follows_the_environment(num_envs):
    """Episodes end and begin at different times: the returns must not depend on how many environments there are."""
    push = Specialist(
        lambda obs: (3 * obs[:, 1:2] + obs[:, 3:]).clamp(-1, 1),
        lambda obs, a: torch.zeros(2, len(obs)),
        lambda obs, a: obs + 0.04 * torch.nn.functional.pad(obs[:, 2:], (0, 2)),
        rho=0.3,
    )
    one, config = SETS["inverted-pendulum-2"], EnvConfig("InvertedPendulum-v5", max_episode_steps=40)
    idle = lambda obs: torch.full((len(obs), 1), 0.1)  # noqa: E731
    composite = Composite([push], idle)
    played = play(composite, config, one, one.grid(3, closed=True), range(9), num_envs=num_envs)
    alone = [
        play(Composite([push], idle), config, one, point[None], [i]) for i, point in enumerate(one.grid(3, closed=True))
    ]
    assert played.returns.tolist() == [float(each.returns[0]) for each in alone]
    assert len(set(played.lengths)) > 2
    assert 0.05 < float(composite.fractions[0]) < 0.95
