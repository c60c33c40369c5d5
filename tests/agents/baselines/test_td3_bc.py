"""TD3+BC (arXiv 2106.06860): its equations by hand and in float64, and a bandit whose best compromise is known."""

import copy
import dataclasses
import re
from pathlib import Path

import pytest
import torch
from tiny import ACT, Data, make_batch, make_data, make_setting, make_spaces, small
from torch import nn
from torch.testing import assert_close

from surefoot.agents.baselines.td3_bc import (
    TD3_BC_SPEC,
    TD3BC,
    TD3BCConfig,
    fitted_normaliser,
    policy_objective,
    standardised,
    value_weight,
)
from surefoot.agents.interface import Batch
from surefoot.evaluation.policy_files import load_policy, save_policy
from surefoot.training.config.presets import load_preset, to_plain


def shifted_data() -> Data:
    """Data whose states are far from standardised."""
    data = make_data()
    data.obs, data.next_obs = (5 + torch.tensor([0.1, 3.0, 40.0]) * obs for obs in (data.obs, data.next_obs))
    return data


def make_agent(seed=0, *, data=None, **changes) -> TD3BC:
    return TD3BC(small(TD3BCConfig(), **changes), make_setting(seed, data=data or shifted_data()))


def by_hand(data: Data, obs: torch.Tensor) -> torch.Tensor:
    """Return states standardised by the data's mean and standard deviation + 0.001, in float64."""
    rows = data.obs.double()
    mean = rows.sum(0) / len(rows)
    std = ((rows - mean).square().sum(0) / len(rows)).sqrt()
    return (obs.double() - mean) / (std + 1e-3)


# --- the mathematics -------------------------------------------------------------------------------------------------

Q = [[2.0, -4.0], [70.0, 80.0]]
ACTION, RECORDED = [[0.5, 0.0], [-1.0, 0.25]], [[0.0, 0.0], [-0.5, 0.25]]


def test_the_weight_of_the_value_is_alpha_over_the_mean_absolute_value_of_the_first_critic():
    assert value_weight(torch.tensor(Q), 2.5).item() == pytest.approx(2.5 / 3)
    assert not value_weight(torch.tensor(Q, requires_grad=True), 2.5).requires_grad


def test_the_objective_of_the_policy_by_hand():
    """λ = 2.5/3, mean Q₁ = −1; squared differences ¼, 0, ¼, 0 over rows and components."""
    loss, metrics = policy_objective(*map(torch.tensor, (Q, ACTION, RECORDED)), 2.5)
    assert loss.item() == pytest.approx(2.5 / 3 + 0.125)
    figures = {name: value.item() for name, value in metrics.items()}
    assert figures == pytest.approx({"policy_loss": 2.5 / 3 + 0.125, "cloning_error": 0.125, "value_weight": 2.5 / 3})


def test_the_gradient_of_the_objective_by_hand():
    """With λ held fixed. Were it differentiated as well, the first critic would have −5/9 and −5/18."""
    q, action = torch.tensor(Q, requires_grad=True), torch.tensor(ACTION, requires_grad=True)
    policy_objective(q, action, torch.tensor(RECORDED), 2.5)[0].backward()
    assert_close(q.grad, torch.tensor([[-1.25 / 3, -1.25 / 3], [0.0, 0.0]]))
    assert_close(action.grad, torch.tensor([[0.25, 0.0], [-0.25, 0.0]]))


def test_states_are_standardised_by_the_data_and_a_constant_component_becomes_zero():
    normaliser = fitted_normaliser(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert_close(normaliser(torch.tensor([[3.0, 5.0], [4.0, 5.5]])), torch.tensor([[1.0, 0.0], [2.0, 500.5]]) / 1.001)


def test_both_states_of_a_transition_are_standardised_and_nothing_else():
    data, batch = shifted_data(), make_batch(5, seed=3)
    result = standardised(batch, fitted_normaliser(data.obs))
    assert_close(result.obs.double(), by_hand(data, batch.obs), rtol=1e-5, atol=1e-5)
    assert_close(result.next_obs.double(), by_hand(data, batch.next_obs), rtol=1e-5, atol=1e-5)
    for name in ("action", "reward", "terminated"):
        assert getattr(result, name) is getattr(batch, name)


# --- the agent -------------------------------------------------------------------------------------------------------


def drift(agent: TD3BC) -> None:
    """Move the networks and their targets apart from each other."""
    generator, nets = torch.Generator().manual_seed(6), agent.nets
    with torch.no_grad():
        for net in (nets.policy, nets.critic, nets.target_policy, nets.target_critic):
            for parameter in net.parameters():
                parameter.add_(0.6 * torch.randn(parameter.shape, generator=generator))


def next_inputs(agent: TD3BC) -> tuple[Batch, torch.Tensor]:
    """Return what the agent will draw for its next update: raw rows, and noise (B, act)."""
    generators = agent.real.generator.get_state(), agent.noise_generator.get_state()
    batch = agent.real.sample(agent.config.batch_size)
    noise = torch.randn(batch.action.shape, generator=agent.noise_generator)
    agent.real.generator.set_state(generators[0])
    agent.noise_generator.set_state(generators[1])
    return batch, noise


def test_the_targets_of_an_update_in_float64():
    """From raw rows: standardised states, noise clipped at ±0.5, the lesser of the target critics, no value after."""
    agent = make_agent(batch_size=64, target_noise=0.4)
    drift(agent)
    target_policy, target_critic, critic = (
        copy.deepcopy(net).double() for net in (agent.nets.target_policy, agent.nets.target_critic, agent.nets.critic)
    )
    batch, noise = next_inputs(agent)
    metrics = agent.step().metrics
    obs, next_obs = (by_hand(shifted_data(), states) for states in (batch.obs, batch.next_obs))
    offset = 0.4 * noise.double()
    assert bool((offset > 0.5).any())
    assert bool((offset < -0.5).any())
    action = (target_policy(next_obs) + offset.clip(-0.5, 0.5)).clip(-1, 1)
    values = target_critic(next_obs, action)
    assert 5 < (values[0] < values[1]).sum() < 59
    y = torch.where(batch.terminated > 0, 0.0, 0.99 * torch.minimum(*values)) + batch.reward
    q = critic(obs, batch.action.double())
    expected = ((q[0] - y) ** 2).mean() + ((q[1] - y) ** 2).mean()
    assert metrics["critic_loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert metrics["q"].item() == pytest.approx(q.mean().item(), rel=1e-4)


def test_the_step_of_the_policy_in_float64():
    """The gradient of the whole update; of the first critic after its own step, and into no critic."""
    agent = make_agent(batch_size=16, policy_delay=1)
    drift(agent)
    policy = copy.deepcopy(agent.nets.policy).double()
    batch, _ = next_inputs(agent)
    metrics = agent.step().metrics
    critic, obs = copy.deepcopy(agent.nets.critic).double(), by_hand(shifted_data(), batch.obs)
    action = policy(obs)
    q = critic(obs, action)[0]
    weight = 2.5 / q.abs().mean().item()
    loss = -weight * q.mean() + (action - batch.action.double()).pow(2).sum() / (16 * ACT)
    gradient = torch.autograd.grad(loss, list(policy.parameters()))
    assert metrics["policy_loss"].item() == pytest.approx(loss.item(), rel=1e-5)
    assert metrics["value_weight"].item() == pytest.approx(weight, rel=1e-5)
    assert_close([p.grad.double() for p in agent.nets.policy.parameters()], list(gradient), rtol=1e-4, atol=1e-5)


def networks(agent: TD3BC) -> dict[str, torch.Tensor]:
    names = ("policy", "target_policy", "critic", "target_critic")
    return {name: torch.cat([p.detach().flatten() for p in getattr(agent.nets, name).parameters()]) for name in names}


def test_the_policy_and_the_targets_wait_for_every_third_update():
    agent = make_agent(policy_delay=3)
    for update in range(1, 7):
        before, metrics, after = networks(agent), agent.step().metrics, networks(agent)
        moved = {name for name in before if not torch.equal(before[name], after[name])}
        assert moved == (set(before) if update % 3 == 0 else {"critic"})
        assert ("policy_loss" in metrics) == (update % 3 == 0)


def test_a_state_holds_the_updates_since_the_policy_moved_and_the_constants():
    agent, other = make_agent(policy_delay=3), make_agent(seed=1, policy_delay=3)
    for _ in range(2):
        agent.step()
    other.normaliser.mean.add_(0.1)  # as far as another device may round
    other.load_state_dict(agent.state_dict())
    assert "policy_loss" in other.step().metrics
    agent.step()
    assert torch.equal(other.act(shifted_data().obs), agent.act(shifted_data().obs))


def test_a_policy_file_alone_acts_on_states_as_the_task_gives_them(tmp_path):
    data, agent = shifted_data(), make_agent()
    for _ in range(4):
        agent.step()
    plain = to_plain("td3-bc", dataclasses.replace(load_preset("td3-bc", "demo"), agent=agent.config))
    save_policy(tmp_path / "policy.pt", plain, make_spaces(), make_spaces().action, 4, agent.policy)
    obs = data.obs[:7]
    expected = copy.deepcopy(agent.nets.policy).double()(by_hand(data, obs)).detach()
    assert_close(load_policy(tmp_path / "policy.pt").policy.act(obs).double(), expected, rtol=1e-4, atol=1e-5)
    assert_close(agent.act(obs).double(), expected, rtol=1e-4, atol=1e-5)
    assert (agent.policy.policy(obs).double() - expected).abs().max() > 0.1  # unstandardised it would be another


# --- a bandit --------------------------------------------------------------------------------------------------------

RECORDED_MEAN, BEST = 0.25, 0.5  # of each component, times −state and times state: the data leads away from the best


def value(state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
    """Return Q = 2 − Σ (a − 0.5·state)² of state (B, 1), 1 or −1."""
    return 2 - (action - BEST * state).square().sum(1)


def bandit() -> Data:
    """One-step episodes in two states, 900 and 1100: actions of a grid over the whole box, and as many at one point."""
    steps = torch.cat([torch.linspace(-1, 1, 7), torch.full((7,), 2 * RECORDED_MEAN)])
    action = torch.cartesian_prod(steps, steps).repeat(2, 1)
    state = torch.tensor([1.0, -1.0]).repeat_interleave(len(steps) ** 2)[:, None]
    obs = torch.cat([1000 + 100 * state, torch.full_like(state, 7.0), -state], 1)
    action = -state * action
    return Data(obs=obs, action=action, reward=value(state, action), next_obs=obs, terminated=torch.ones(len(obs)))


def compromise(alpha: float) -> float:
    """Return each component of the optimal action, times the state, by iteration in which λ is a number.

    λ·2(a − best) + (a − recorded mean) = 0: the behaviour term is a mean over both components, Q a sum.
    """
    action = -RECORDED_MEAN
    for _ in range(200):
        weight = alpha / (2 - ACT * (action - BEST) ** 2)
        action = (2 * weight * BEST - RECORDED_MEAN) / (2 * weight + 1)
    return action


class KnownValue(nn.Module):
    """Q₁ as it is, and a lesser Q₂ that is none of the policy's business, of standardised states."""

    def __init__(self) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(()))

    def forward(self, obs: torch.Tensor, action: torch.Tensor, *, frozen: bool = False) -> torch.Tensor:
        q = value(obs[:, :1].sign(), action) + 0 * self.unused
        return torch.stack([q, q - 9])


def ends_at(agent: TD3BC, updates: int) -> torch.Tensor:
    """Return the actions (2, act) in both states after so many updates, times the state."""
    for _ in range(updates):
        agent.step()
    return agent.act(agent.real.everything().obs[[0, -1]]) * torch.tensor([[1.0], [-1.0]])


@pytest.mark.parametrize(("alpha", "known"), [(0.0, -RECORDED_MEAN), (1.0, None), (300.0, BEST)])
def test_the_policy_of_a_bandit_is_the_compromise_of_value_and_recorded_actions(alpha, known):
    expected = compromise(alpha)
    assert known is None or expected == pytest.approx(known, abs=3e-3)
    agent = make_agent(data=bandit(), alpha=alpha, hidden=(16,), batch_size=392, policy_lr=3e-3)
    agent.nets.critic, agent.nets.target_critic = KnownValue(), KnownValue()
    assert_close(ends_at(agent, 400), torch.full((2, ACT), expected), rtol=0, atol=0.05)


def test_a_critic_learned_from_the_data_leads_the_policy_to_the_best_actions():
    agent = make_agent(data=bandit(), alpha=300.0, hidden=(64, 64), batch_size=98, policy_lr=1e-3, critic_lr=1e-3)
    assert_close(ends_at(agent, 1000), torch.full((2, ACT), BEST), rtol=0, atol=0.2)


# --- what is around it -----------------------------------------------------------------------------------------------


def test_the_defaults_and_the_preset_are_the_papers():
    config = load_preset("td3-bc", "halfcheetah-medium")
    agent = config.agent
    assert agent == TD3_BC_SPEC.default
    assert (agent.alpha, agent.hidden, agent.batch_size, agent.gamma, agent.tau) == (2.5, (256, 256), 256, 0.99, 0.005)
    assert (agent.policy_lr, agent.critic_lr, agent.policy_delay) == (3e-4, 3e-4, 2)
    assert (agent.target_noise, agent.target_noise_clip) == (0.2, 0.5)
    assert (config.steps, config.eval.every, config.eval.episodes) == (1_000_000, 5_000, 10)
    assert (config.data.source, config.env.id) == ("d4rl:halfcheetah-medium-v2", "HalfCheetah-v5")


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match=r"agent\.alpha must be at least 0, not -1"):
        TD3BCConfig(alpha=-1)


def test_the_page_explains_every_metric():
    page = Path(__file__).parents[3] / "docs" / "methods" / f"{TD3_BC_SPEC.page}.md"
    rows = re.findall(r"^\| (`.*?) \|", page.read_text(encoding="utf-8"), re.M)
    assert set(make_agent(policy_delay=1).step().metrics) == set(re.findall(r"`(\w+)`", "".join(rows)))
