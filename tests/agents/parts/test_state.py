"""What is saved by naming it, and given back in place; parameters in [-1, 1] (docs/derivations/iwocs.md, 8.5)."""

from types import SimpleNamespace

import torch
from torch import nn

from surefoot.agents.parts.env_parameters import BatchWithParameters, ParameterScaling, replay_with_parameters
from surefoot.agents.parts.state import Stateful, pack_one


class Parts(Stateful):
    STATEFUL = ("generator", "tensor", "module", "number", "part")

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.tensor = torch.full((2,), float(seed), requires_grad=True)
        self.module = nn.Linear(1, 1)
        self.number = seed
        self.part = SimpleNamespace(kept=seed)
        self.left_out = seed


def test_everything_that_is_named_comes_back_and_nothing_else():
    saved, fresh = Parts(1), Parts(2)
    place, drawn = fresh.tensor, fresh.tensor.data_ptr()
    state = saved.state_dict()
    assert set(state) == set(Parts.STATEFUL)
    fresh.load_state_dict(state)
    assert torch.equal(torch.rand(3, generator=fresh.generator), torch.rand(3, generator=saved.generator))
    assert fresh.tensor is place  # written in place
    assert fresh.tensor.data_ptr() == drawn
    assert fresh.tensor.tolist() == [1.0, 1.0]
    assert torch.equal(fresh.module.weight, saved.module.weight)
    assert fresh.module.weight is not saved.module.weight
    assert (fresh.number, fresh.part.kept, fresh.left_out) == (1, 1, 2)


def test_what_is_put_away_is_a_copy_without_a_graph():
    tensor = torch.ones(2, requires_grad=True)
    packed = pack_one(tensor * 3)
    assert not packed.requires_grad
    plain = torch.ones(2)
    packed = pack_one(plain)
    plain += 1
    assert packed.tolist() == [1.0, 1.0]
    assert pack_one(7) == 7


def test_parameters_are_scaled_to_the_box_and_back():
    low, high = torch.tensor([1.0, -2.0]).double(), torch.tensor([5.0, 0.0]).double()
    scaling = ParameterScaling(SimpleNamespace(low=low, high=high))
    assert scaling.dims == 2
    x = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [0.0, 0.5]]).double()
    params = torch.tensor([[1.0, -2.0], [5.0, 0.0], [3.0, -0.5]]).double()
    assert torch.equal(scaling.params(x), params)
    assert torch.equal(scaling.scaled(params), x.float())


def test_transitions_with_parameters_are_kept_and_drawn_whole():
    replay = replay_with_parameters(4, (3, 2, 1), torch.Generator().manual_seed(0), torch.device("cpu"))
    rows = BatchWithParameters(
        *(torch.arange(2.0)[:, None].expand(2, n).squeeze() for n in (3, 2, 1, 3, 1)), torch.ones(2, 1)
    )
    replay.push(rows)
    drawn = replay.sample(6)
    assert [field.shape for field in drawn] == [(6, 3), (6, 2), (6,), (6, 3), (6,), (6, 1)]
    assert drawn.parameters.eq(1).all()
    assert len(drawn.transitions) == 5
    assert drawn.transitions.terminated is drawn.terminated
