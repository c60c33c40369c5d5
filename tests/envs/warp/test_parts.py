"""Parts of the worlds one by one, with stand-ins for the simulator: frames of contacts, rows, who is stepped."""

from copy import copy
from types import SimpleNamespace

import mujoco
import numpy as np
import pytest
import torch
import warp as wp
from mujoco_warp._src import collision_driver

from surefoot.envs import EnvConfig, Parameter, UncertaintySet, UncertainVectorEnv, find_set, make_single
from surefoot.envs.model_parameters import ModelParameters
from surefoot.envs.uncertainty.world_robots import WorldRobots
from surefoot.envs.warp import simulation
from surefoot.envs.warp.contact_frames import frames_as_in_c
from surefoot.envs.warp.parameter_rows import ParameterRows
from surefoot.envs.warp.vector_env import WarpVectorEnv
from surefoot.envs.warp.worlds import Worlds, about_other_points

SCENE = """<mujoco><worldbody><geom type="plane" size="5 5 1" euler="{tilt} 0 0"/>
<body pos="0 0 0.05"><freejoint/><geom type="{kind}" size="0.1 0.3" euler="{lean} 20 0"/></body>
</worldbody></mujoco>"""


@pytest.mark.parametrize("kind", ["capsule", "cylinder"])
@pytest.mark.parametrize(("tilt", "lean"), [(0, 10), (0, 80), (15, -75)])
def test_contacts_of_a_steep_capsule_with_a_plane_have_the_frames_of_c(kind, tilt, lean, monkeypatch):
    """Frames with the normals of C and other tangents are turned into those of C; those of other geoms are left."""
    model = mujoco.MjModel.from_xml_string(SCENE.format(kind=kind, tilt=tilt, lean=lean))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    wanted = data.contact.frame.reshape(-1, 3, 3)
    assert len(wanted) > 0
    turned = np.stack(
        [np.stack([normal, *np.linalg.qr(normal[:, None], "complete")[0].T[1:]]) for normal, *_ in wanted]
    )
    contact = SimpleNamespace(
        geom=wp.array(data.contact.geom, dtype=wp.vec2i, device="cpu"),
        worldid=wp.zeros(len(wanted), dtype=int, device="cpu"),
        frame=wp.array(turned, dtype=wp.mat33, device="cpu"),
    )
    warped = SimpleNamespace(
        contact=contact,
        geom_xmat=wp.array(data.geom_xmat.reshape(1, -1, 3, 3), dtype=wp.mat33, device="cpu"),
        nacon=wp.array([len(wanted)], dtype=int, device="cpu"),
        naconmax=len(wanted),
    )
    types = SimpleNamespace(geom_type=wp.array(model.geom_type, dtype=int, device="cpu"))
    monkeypatch.setattr(collision_driver, "collision", lambda model, data: None)
    with frames_as_in_c():
        collision_driver.collision(types, warped)
    np.testing.assert_allclose(contact.frame.numpy(), wanted if kind == "capsule" else turned, atol=1e-6)


def test_a_world_reckons_about_the_centre_of_its_own_masses_and_shows_forces_about_the_point_of_c():
    """The published sets leave subtree masses as compiled: C's point is then a multiple of the centre of mass."""
    env, uncertainty = make_single(EnvConfig("Ant-v5")), find_set("ant-2")
    rows = ParameterRows(env, uncertainty, {}, 2, own_centres=True)
    rows.begin(1, uncertainty.high)
    model = env.unwrapped.model  # as world 1 has it in C
    changed = copy(model)
    mujoco.mj_setConst(changed, mujoco.MjData(changed))
    np.testing.assert_allclose(rows._rows["body_subtreemass"][1], changed.body_subtreemass)
    ratio = rows._rows["body_subtreemass"][:, model.body_rootid] / model.body_subtreemass[model.body_rootid]
    assert ratio[1, 1] > 2
    assert (ratio[0] == 1).all()
    of_c, own = mujoco.MjData(model), mujoco.MjData(model)
    changed.body_invweight0[:], changed.dof_invweight0[:] = model.body_invweight0, model.dof_invweight0
    for data, which in ((of_c, model), (own, changed)):
        data.qpos[:3] = (2.0, -1.0, 0.2)  # it lies on the floor, off the origin
        mujoco.mj_step(which, data)
        mujoco.mj_rnePostConstraint(which, data)
    centres = torch.from_numpy(own.subtree_com[model.body_rootid])
    given = torch.from_numpy(own.cfrc_ext), centres, torch.from_numpy(ratio[1, :, None])
    assert np.abs(of_c.cfrc_ext - own.cfrc_ext).max() > 1.0  # else nothing is compared
    np.testing.assert_allclose(about_other_points(*given).numpy(), of_c.cfrc_ext, atol=1e-6)


@pytest.mark.parametrize(("name", "kept"), [("ant-2", True), ("humanoidstandup-1", False)])
def test_a_task_that_shows_inertias_keeps_the_point_of_c(name, kept):
    uncertainty = find_set(name)
    env = UncertainVectorEnv(EnvConfig(uncertainty.env, backend="warp", num_envs=1), uncertainty)
    assert env.env.worlds.rows.own_centres == kept


def test_only_rows_that_changed_are_brought_to_the_worlds_and_no_force_was_there_before():
    uncertainty = find_set("hopper-2")
    rows = ParameterRows(make_single(EnvConfig("Hopper-v5")), uncertainty, {}, 3, own_centres=False)
    assert not rows.forces.any()
    views = {name: torch.zeros(rows._rows[name].shape) for name in rows.varied}
    stand_in = SimpleNamespace(device="cpu", rows=views.__getitem__)
    for world in (0, 2):
        rows.begin(world, uncertainty.low)
    rows.upload(stand_in, [])
    for name, view in views.items():
        np.testing.assert_allclose(view[[0, 2]], rows._rows[name][[0, 2]].astype(np.float32))
        assert not view[1].any()
        view.zero_()
    rows.begin(0, uncertainty.low)  # what it has
    rows.upload(stand_in, [])
    assert not any(view.any() for view in views.values())
    rows.begin(2, uncertainty.high)
    rows.upload(stand_in, [])
    assert {tuple(view.flatten(1).any(1).tolist()) for view in views.values()} == {(False, False, True)}


WORLDS = 3
MANY_KINDS = UncertaintySet(
    "many kinds",
    "Hopper-v5",
    (
        Parameter("body_mass_scale.*", 0.5, 2.0),
        Parameter("body_inertia_scale.torso", 0.5, 2.0),
        Parameter("geom_friction.*", 0.1, 3.0, nominal=1.0),
        Parameter("dof_damping_scale.@actuated", 0.5, 2.0),
        Parameter("actuator_gear.0", 100.0, 300.0),
        Parameter("force_x.*", -3.0, 3.0),
    ),
    scale_inertia=True,
)


class Arrays:
    """Stands in for a simulation of N worlds: the arrays that parameters are brought to, single precision."""

    def __init__(self, rows):
        self.device = torch.device("cpu")
        self._rows = {name: torch.from_numpy(array).float() for name, array in rows._rows.items()}
        self._forces = torch.from_numpy(rows.forces).float()
        self.rows, self.field = self._rows.__getitem__, {"xfrc_applied": self._forces}.__getitem__

    def all(self):
        return [self._forces.clone(), *(self._rows[name].clone() for name in sorted(self._rows))]


def changed_in_turn(uncertainty, fixed, together, monkeypatch):
    """What worlds have after each of some calls, and what is saved of them; `together`: as tensors or in a loop."""
    monkeypatch.setattr(ModelParameters, "is_arithmetic", together)
    rows = ParameterRows(make_single(EnvConfig(uncertainty.env)), uncertainty, fixed, WORLDS, own_centres=True)
    arrays, found = Arrays(rows), []
    unit = np.random.default_rng(0).random((4, WORLDS, len(uncertainty.low)))
    values = uncertainty.low + unit * (uncertainty.high - uncertainty.low)
    for world in range(WORLDS):
        rows.begin(world, values[0, world])
    rows.upload(arrays, range(WORLDS))
    for chosen in values[1:3]:
        rows.change(arrays, torch.from_numpy(chosen))
        found.append((arrays.all(), rows.state_dict()))
    rows.begin(0, values[2, 0])  # what it has
    rows.begin(1, values[0, 1])  # what the host's row still has
    rows.begin(2, values[3, 2])
    rows.upload(arrays, [0, 1, 2])
    found.append((arrays.all(), rows.state_dict()))
    rows.begin(0, values[3, 0])  # has not been brought to the world when all get other ones
    rows.change(arrays, torch.from_numpy(values[0]))
    rows.upload(arrays, [])
    return [*found, (arrays.all(), rows.state_dict())]


SETS_OF_ALL_ROBOTS = ["ant-3", "halfcheetah-3", "hopper-3", "humanoidstandup-3", "inverted-pendulum-2", "walker-force"]
OF_MUJOCO = [*map(find_set, SETS_OF_ALL_ROBOTS), MANY_KINDS]


@pytest.mark.parametrize("uncertainty", OF_MUJOCO, ids=lambda one: one.name)
def test_parameters_that_change_for_all_at_once_are_those_of_the_loop_bit_for_bit(uncertainty, monkeypatch):
    fixed = {"dof_armature_scale.*": 1.5}
    mine, theirs = (changed_in_turn(uncertainty, fixed, one, monkeypatch) for one in (True, False))
    for (one, saved), (other, also) in zip(mine, theirs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        np.testing.assert_equal(saved, also)
    assert any(not torch.equal(a, b) for a, b in zip(mine[0][0], mine[1][0], strict=True))


@pytest.mark.parametrize(
    ("fixed", "own"), [({"dof_armature.*": 2.0}, True), ({"body_mass.foot": 9.0}, False), ({}, True)]
)
def test_worlds_have_centres_of_their_own_where_no_mass_is_derived_from_those_that_are_fixed(fixed, own):
    env = make_single(EnvConfig("Hopper-v5"))
    rows = ParameterRows(env, find_set("hopper-2"), fixed, WORLDS, own_centres=True)
    assert (rows.own_centres, rows.varied.count("body_subtreemass")) == (own, 1)


@pytest.mark.parametrize(
    ("names", "arithmetic"),
    [
        (("body_mass.torso", "force_x.foot"), True),
        (("gravity",), False),
        (("actuator_gain.*",), False),
        (("body_ipos_x.torso",), False),
    ],
)
def test_what_mujoco_derives_is_left_to_the_loop(names, arithmetic):
    parameters = ModelParameters(make_single(EnvConfig("Hopper-v5")).unwrapped.model, names, [None] * len(names))
    assert parameters.is_arithmetic == arithmetic


def test_parameters_that_are_not_allowed_change_no_world():
    uncertainty = find_set("hopper-2")
    rows = ParameterRows(make_single(EnvConfig("Hopper-v5")), uncertainty, {}, WORLDS, own_centres=True)
    arrays = Arrays(rows)
    before = arrays.all()
    with pytest.raises(ValueError, match=r"body_mass\.torso cannot be -1 kg"):
        rows.change(arrays, torch.tensor([[1.0, 2.0], [1.0, -1.0], [1.0, 2.0]]).double())
    assert all(torch.equal(a, b) for a, b in zip(before, arrays.all(), strict=True))


def test_the_environment_keeps_the_parameters_of_episodes_to_come_and_changes_those_of_running_ones():
    env, calls = object.__new__(WarpVectorEnv), []
    rows = SimpleNamespace(change=lambda to, values: calls.append((to, values)))
    env.worlds = SimpleNamespace(rows=rows, simulation="all")
    given = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    env.send("params", given)
    assert calls == [("all", given)]
    env.send("next_params", given)
    given.zero_()
    assert env.next_params.tolist() == [[1.0], [2.0]]


@pytest.mark.parametrize("kind", ["NEFC", "NJMAX_NNZ", "BROADPHASE", "NARROWPHASE", "CCD"])
def test_every_kind_of_full_buffer_names_the_number_to_raise(kind):
    """The third world's does not count."""
    full = int(getattr(simulation.mjw.OverflowType, kind))
    one = object.__new__(simulation.Simulation)
    one.label, one.sizes = "Hopper-v5", {simulation.CONTACTS: 7, simulation.CONSTRAINTS: 9}
    one.field = lambda name: torch.tensor([0, full, full])
    one.check_buffers(np.array([True, False, False]))
    option = (
        "--env.njmax, which is 9" if kind.startswith("N") and kind != "NARROWPHASE" else "--env.nconmax, which is 7"
    )
    with pytest.raises(simulation.TaskError, match=rf"Hopper-v5: world 1 has more .*; raise {option}"):
        one.check_buffers(np.array([True, True, False]))


def test_only_the_worlds_that_are_named_are_busy_and_the_others_get_no_action():
    robots, seen = object.__new__(WorldRobots), []
    robots._actions = torch.full((4, 1), 9.0)
    columns = torch.arange(4.0), 10 * torch.arange(4.0), *torch.eye(4)[:3].bool()

    def advance(actions, busy):
        seen.append((actions.tolist(), busy.tolist()))
        return columns

    robots.worlds = SimpleNamespace(advance=advance)
    moved = robots.advance(np.array([3, 1]), np.array([[0.5], [-0.25]]))
    assert seen == [([[0.0], [-0.25], [0.0], [0.5]], [False, True, False, True])]
    assert [column.tolist() for column in moved] == [[3, 1], [30, 10], [False, False], [False, True], [False, False]]
    assert moved.reward.dtype == np.float64


@pytest.mark.parametrize("needed", [True, False])
def test_what_follows_from_a_start_is_computed_before_it_is_observed_where_a_task_shows_it(needed):
    worlds, order = object.__new__(Worlds), []
    worlds.rows = SimpleNamespace(begin=lambda world, values: None)
    worlds.generators, worlds.device, worlds.task = [None] * 3, torch.device("cpu"), None
    worlds.definition = SimpleNamespace(start=lambda task, generator: (np.zeros(1), np.zeros(1)))
    worlds._put = lambda at, qpos, qvel: order.append("put")
    worlds._fields = dict
    worlds._observed = lambda fields: order.append("observed") or torch.tensor([[1.0], [2.0], [3.0]])
    worlds._sensed = lambda obs, at: obs
    worlds._needs_forward, worlds._obs = needed, torch.zeros(3, 1)
    worlds._before, held = {"xpos": torch.zeros(3)}, torch.tensor([4.0, 5.0, 6.0])
    worlds.simulation = SimpleNamespace(forward=lambda: order.append("forward"), field={"xpos": held}.__getitem__)
    obs = worlds.begin(np.array([0, 2]), np.zeros((2, 0)))
    assert order == ["put", *(["forward"] if needed else []), "observed"]
    assert (obs[:, 0].tolist(), worlds._before["xpos"].tolist()) == ([1.0, 0.0, 3.0], [4.0, 0.0, 6.0])
