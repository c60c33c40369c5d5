"""Settings by dotted names and in sections: nothing of them is lost, and none is taken twice."""

import itertools

import pytest

from surefoot.configs.casting import flattened, merged, nested, read_yaml

TOGETHER = {"env.id": "A-v0", "env.physics.gravity": 2.0, "env.physics": {"friction": 0.5}, "env": {"num_envs": 3}}


def test_what_several_names_say_of_a_section_is_merged_in_any_order():
    whole = {"env": {"id": "A-v0", "physics": {"gravity": 2.0, "friction": 0.5}, "num_envs": 3}}
    for order in itertools.permutations(TOGETHER.items()):
        assert nested(dict(order)) == whole
    assert TOGETHER["env"] == {"num_envs": 3}  # a caller's own stays as it is
    assert TOGETHER["env.physics"] == {"friction": 0.5}
    assert nested(flattened(whole)) == whole
    assert nested({"env": {"physics.gravity": 2.0}, "steps": 5}) == {"env": {"physics": {"gravity": 2.0}}, "steps": 5}


def test_names_in_the_arguments_of_a_task_are_its_own():
    assert nested({"env.kwargs": {"a.b": 1, "c": {"d.e": 2}}}) == {"env": {"kwargs": {"a.b": 1, "c": {"d.e": 2}}}}
    assert nested({"env": {"kwargs": {"a.b": 1}}, "env.kwargs.c": 2}) == {"env": {"kwargs": {"a.b": 1, "c": 2}}}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"steps": 1, "steps.x": 1}, r"^set: steps is given as 1 and as \{'x': 1\}; leave one out$"),
        ({"env.physics.gravity": 2.0, "env.physics": {"gravity": 3.0}}, "set: env.physics.gravity is given as 2.0 and"),
        ({"env.id": "A", "env": {"id": "A"}}, "set: env.id is given as 'A' and as 'A'; leave one out"),
        ({"data": None, "data.view": "exact"}, "set: data is given as None and as {'view': 'exact'}"),
    ],
)
def test_a_setting_that_is_given_twice_is_refused_in_any_order(given, message):
    with pytest.raises(ValueError, match=message):
        nested(given, "set")
    with pytest.raises(ValueError, match="leave one out"):
        nested(dict(reversed(given.items())), "set")


def test_a_mapping_lies_over_another_key_by_key():
    base = {"a": 1, "b": {"c": 2, "d": {"e": 3}}, "f": {"g": 4}, "h": 5}
    over = {"a": 6, "b": {"d": {"x": 7}}, "f": None, "h": {"i": 8}}
    assert merged(base, over) == {"a": 6, "b": {"c": 2, "d": {"e": 3, "x": 7}}, "f": None, "h": {"i": 8}}
    assert base["b"] == {"c": 2, "d": {"e": 3}}


def test_a_folder_in_place_of_a_yaml_file_is_named_as_one(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"^{tmp_path}: a folder; name the YAML file, such as its config.yaml$"):
        read_yaml(tmp_path)
