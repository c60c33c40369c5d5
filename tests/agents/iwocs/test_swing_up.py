"""The machinery of benchmarks/iwocs_swing_up.py: planning on a grid; the loop of composite, threshold and search.

docs/derivations/iwocs.md §7.5; on a smaller set than that of E17.
"""

import math

import pytest
import torch
from torch.testing import assert_close

from surefoot.agents.iwocs import THRESHOLDS, Composite


@pytest.fixture
def swing(load_script):
    torch.set_num_threads(1)
    return load_script("iwocs_swing_up")


def test_a_control_is_held_for_four_substeps(swing):
    mass, length, angle, speed, torque = 0.7, 1.2, 2.0, -7.9, -2.0
    costs = []
    for _ in range(4):
        costs.append(angle**2 + 0.1 * speed**2 + 0.001 * torque**2)
        push = 3 * 10 / (2 * length) * math.sin(angle) + 3 * torque / (mass * length**2)
        speed = min(8.0, max(-8.0, speed + 0.05 * push))
        angle += 0.05 * speed
    moved = swing.move(swing.params_of(torch.tensor([[mass, length]])), *torch.tensor([[2.0], [-7.9], [-2.0]]))
    assert_close(torch.cat([*moved]), torch.tensor([angle, speed, -sum(costs) / 4]))


def test_tables_are_read_between_their_nodes_and_angles_go_around(swing):
    n = 10
    table = torch.zeros(n, n, 2)
    table[0] = 1.0  # at −π, which is π too
    table[..., 1] = torch.linspace(-8, 8, n)
    angle = torch.tensor([-math.pi, -math.pi + 0.25 * 2 * math.pi / n, math.pi - 0.25 * 2 * math.pi / n, 0.0])
    speed = torch.tensor([-8.0, 3.3, 8.0, 0.1])
    read = swing.bilinear(table, angle, speed)
    assert_close(read[:, 0], torch.tensor([1.0, 0.75, 0.75, 0.0]))
    assert_close(read[:, 1], speed)


def test_a_plan_satisfies_bellmans_equation_averaged_over_its_models(swing):
    points = torch.tensor([[0.5, 0.7], [1.5, 1.3]])
    for plan in (swing.solve(swing.params_of(points[:1]), 11), swing.solve(swing.params_of(points), 11)):
        angle, speed = 2 * math.pi * 3 / 11 - math.pi, -8.0 + 16 / 10 * 4
        backed_up = []
        for mass, length in zip(*plan.params, strict=True):
            moved = swing.move(
                swing.PendulumParams(mass, length), torch.tensor(angle), torch.tensor(speed), swing.torques()
            )
            later = swing.bilinear(plan.q.amax(-1), moved.angle, moved.speed)
            backed_up.append(moved.reward + 0.95 * later)
        assert_close(plan.q[3, 4], torch.stack(backed_up).mean(0))


def test_in_its_own_model_a_specialist_is_never_refused(swing):
    own = torch.tensor([[0.7, 0.94]])
    plan = swing.solve(swing.params_of(own), 11)
    idle = lambda obs: torch.zeros(len(obs), 1)  # noqa: E731
    composite = Composite([swing.specialist(plan, 1e-3)], idle)
    assert_close(swing.returns_of(composite, own), swing.returns_of(swing.act_of(plan), own))
    assert composite.fractions[0] == 1.0
    swing.returns_of(composite, torch.tensor([[1.5, 0.94]]))
    assert composite.fractions[0] < 0.6


def test_the_value_of_a_specialist_is_that_of_the_proposed_action(swing):
    plan = swing.solve(swing.params_of(torch.tensor([[1.0, 1.0]])), 11)
    one, obs = swing.specialist(plan, 1.0), swing.observe(torch.tensor([0.3, 2.0]), torch.tensor([1.0, -4.0]))
    table = swing.bilinear(plan.q, torch.tensor([0.3, 2.0]), torch.tensor([1.0, -4.0]))
    assert_close(one.q(obs, one.act(obs))[0], table.amax(-1))
    assert_close(one.q(obs, torch.tensor([[-1.0], [0.5]]))[0], torch.stack([table[0, 0], table[1, 3]]))


def test_the_loop_beats_its_default_and_the_default_beats_a_policy_without_a_gate(swing, monkeypatch):
    """A small set and a short episode: 3 × 3 models, 15 × 15 states, 60 controls."""
    monkeypatch.setattr(swing, "POINTS", 3)
    monkeypatch.setattr(swing, "CONTROLS", 60)
    every = swing.grid_search(swing.LOW, swing.HIGH, 3, closed=True).ask()
    default = swing.act_of(swing.solve(swing.params_of(every), 15))
    first, path, status = swing.iwocs(default, 15, turns=3)
    best = max(turn.found.worst for turn in path)
    assert best > 0.8 * first.worst  # a fifth of the loss is gone
    assert path[0].plan.params.mass.item() == pytest.approx(float(first.at[0]))
    assert path[1].plan.params.length.item() == pytest.approx(float(path[0].found.at[1]))
    ungated = swing.search(Composite([swing.specialist(path[0].plan, math.inf)], default))
    assert ungated.worst < first.worst < path[0].found.worst
    assert all(turn.rho in THRESHOLDS for turn in path)
    assert [float(turn.fractions.sum()) for turn in path] == pytest.approx([1.0] * len(path))
    visited = [torch.cat(turn.plan.params).tolist() for turn in path]
    assert status == "repeat"
    assert path[-1].found.at.float().tolist() in visited
