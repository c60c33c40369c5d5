"""`surefoot parameters`: the table, the file it writes, and what it refuses."""

import pytest

from surefoot.envs import SETS, EnvConfig, disturbances
from surefoot.evaluation.uncertainty_grid import load_set
from surefoot.training.cli.main import main
from surefoot.training.cli.parameters import as_yaml

pytestmark = pytest.mark.usefixtures("unrendered")


def test_the_table_has_every_parameter_with_its_unit_and_the_names_that_fit_behind_the_dot(capsys):
    assert main(["parameters", "Hopper-v5"]) == 0
    out = capsys.readouterr().out
    for parameter in disturbances(EnvConfig("Hopper-v5")).parameters:
        assert f" {parameter.name} " in out
    assert "m/s²" in out
    assert "bodies: world, torso, thigh, leg, foot" in out
    assert "sensors: @qpos, @qvel, 0 to 10" in out


def test_a_published_set_whose_nominal_values_are_the_models_own_is_read_back(tmp_path):
    (tmp_path / "own.yaml").write_text(as_yaml(SETS["hopper-2"]))
    assert load_set(str(tmp_path / "own.yaml")).parameters == SETS["hopper-2"].parameters


def test_the_file_is_a_set_that_grid_and_uncertainty_read(tmp_path, capsys):
    file = tmp_path / "own.yaml"
    chosen = ["control_delay", "actuator_gain.0", "body_mass_scale.*"]
    assert main(["parameters", "Hopper-v5", "--per-part", "--only", *chosen, "--yaml", str(file)]) == 0
    own = load_set(str(file))
    assert own.param_names == tuple(chosen)
    known = {p.name: p for p in disturbances(EnvConfig("Hopper-v5"), per_part=True).parameters}
    assert own.parameters == tuple(known[name] for name in chosen)
    assert own.recompute_constants
    assert own.scale_inertia


def test_the_ranges_lie_around_the_physics_that_is_given(capsys):
    physics = ["--physics.parameters", "control_delay=9", "gravity=4"]
    assert main(["parameters", "Pendulum-v1", "--only", "control_delay", "gravity", *physics]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "=" not in line]
    assert ["control_delay", "9", "0", "9", "steps"] in rows
    assert ["gravity", "4", "4", "20", "m/s²"] in rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["CartPole-v1", "--only", "mass"], "disturbances has no parameter 'mass'; it has gravity, cart_mass"),
        (["NoTask-v9"], "unknown environment 'NoTask-v9'"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(arguments, message, tmp_path, capsys):
    file = tmp_path / "own.yaml"
    assert main(["parameters", *arguments, "--yaml", str(file)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not file.exists()


def test_a_fixed_parameter_without_a_value_is_refused_by_the_parser(tmp_path, capsys):
    file = tmp_path / "own.yaml"
    assert main(["parameters", "CartPole-v1", "--physics.parameters", "mass", "--yaml", str(file)]) == 2
    assert "'mass' must be NAME=VALUE" in capsys.readouterr().err
    assert not file.exists()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            ["parameters", "CartPole-v1", "--physics.parameters", "gravity=strong"],
            "physics.parameters: 'gravity=strong' must be NAME=VALUE with a finite number",
        ),
        (["stress", "a.zip", "--budget", "many"], "--budget: many is not a whole number"),
        (["data", "collect", "behaviour", "a.hdf5", "--steps", "many"], "--steps: many is not a whole number"),
        (
            ["train", "sac", "--env.physics.parameters", "mass"],
            "physics.parameters: 'mass' must be NAME=VALUE, each name",
        ),
        (["train", "sac", "--env.num-envs", "1e9"], "--env.num-envs is 1000000000; it must be from 1 to 10,000,000\n"),
        (["train", "sac", "--env.num-envs", "x" * 300], f"--env.num-envs: {'x' * 300} is not a whole number\n"),
    ],
)
def test_a_value_that_its_type_refuses_is_one_line_in_the_programs_own_form(command, message, capsys):
    assert main(command) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"surefoot: error: {message}")
    assert error.count("\n") == 1
