"""What a policy's outputs mean, against PyTorch's distributions and by hand (docs/derivations/hnpg.md §4.2)."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from torch.distributions import Categorical, Independent, Normal, kl_divergence
from torch.testing import assert_close

from surefoot.agents.parts.heads import CategoricalHead, GaussianHead, head_for


def outputs_of(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def gaussian(outputs):
    mean, log_std = outputs.chunk(2, -1)
    return Independent(Normal(mean, log_std.exp()), 1)


def test_a_gaussian_is_pytorchs_in_density_divergence_and_curvature():
    head, old, new = GaussianHead(3, bounded=True), outputs_of(2, 5, 6), outputs_of(2, 5, 6, seed=1)
    action = outputs_of(2, 5, 3, seed=2)
    assert_close(head.log_prob(old, action), gaussian(old).log_prob(action))
    assert_close(head.kl(old, new), kl_divergence(gaussian(old), gaussian(new)))
    v = outputs_of(6, seed=3)
    hessian = torch.autograd.functional.hessian(lambda x: head.kl(old[0, 0], x), old[0, 0])
    assert_close(head.fisher(old[0, 0], v), hessian @ v)
    assert_close(head.mode(old), old[..., :3])
    assert torch.equal(head.from_data(action), action)


def test_gaussian_actions_have_mean_and_spread_and_are_clipped_where_the_task_is_bounded():
    outputs = torch.tensor([0.5, -3.0, 0.7, -2.0]).double().expand(40_000, 4)
    drawn = GaussianHead(2, bounded=True).sample(outputs, torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.float64
    assert_close(drawn.mean(0), outputs[0, :2], atol=0.05, rtol=0)
    assert_close(drawn.std(0), outputs[0, 2:].exp(), atol=0, rtol=0.02)
    wide = torch.tensor([[-3.0, 0.25, 2.0]])
    assert GaussianHead(3, bounded=True).to_task(wide).tolist() == [[-1.0, 0.25, 1.0]]
    assert GaussianHead(3, bounded=True).to_critic(wide).tolist() == [[-1.0, 0.25, 1.0]]
    assert GaussianHead(3, bounded=False).to_task(wide) is wide


def test_a_softmax_is_pytorchs_in_density_divergence_and_curvature():
    head, old, new = CategoricalHead(4), outputs_of(2, 5, 4), outputs_of(2, 5, 4, seed=1)
    index = torch.randint(4, (2, 5), generator=torch.Generator().manual_seed(0))
    action = torch.nn.functional.one_hot(index, 4).double()
    assert_close(head.log_prob(old, action), Categorical(logits=old).log_prob(index))
    assert_close(head.kl(old, new), kl_divergence(Categorical(logits=old), Categorical(logits=new)))
    v = outputs_of(4, seed=3)
    hessian = torch.autograd.functional.hessian(lambda x: head.kl(old[0, 0], x), old[0, 0])
    assert_close(head.fisher(old[0, 0], v), hessian @ v)
    assert torch.equal(head.mode(old).argmax(-1), old.argmax(-1))
    assert head.to_critic(action) is action


def test_softmax_actions_come_as_often_as_they_should_and_count_from_the_tasks_first():
    head, p = CategoricalHead(3, start=5), torch.tensor([0.2, 0.5, 0.3]).double()
    drawn = head.sample(p.log().expand(40_000, 3), torch.Generator().manual_seed(0))
    assert_close(drawn.mean(0), p, atol=0.01, rtol=0)
    assert drawn.sum(-1).eq(1).all()
    assert set(head.to_task(drawn).tolist()) == {5, 6, 7}
    recorded = torch.tensor([[7.0], [5.0]])
    assert head.from_data(recorded).tolist() == [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    assert head.from_data(recorded).dtype == torch.float32
    assert head.from_data(recorded[:1]).shape == (1, 3)


def test_the_head_is_that_of_the_action_space():
    discrete = head_for(gym.spaces.Discrete(4, start=-1))
    assert (type(discrete), discrete.dim, discrete.start) == (CategoricalHead, 4, -1)
    for bound, bounded in ((1.0, True), (np.inf, False)):
        box = head_for(gym.spaces.Box(-bound, bound, (3,), np.float32))
        assert (type(box), box.dim, box.bounded) == (GaussianHead, 3, bounded)
    for space in (gym.spaces.Box(-1, 1, (2, 2)), gym.spaces.MultiDiscrete([2, 2])):
        with pytest.raises(
            ValueError, match=r"this agent needs Box or Discrete actions, not .*; choose another --env.id"
        ):
            head_for(space)
