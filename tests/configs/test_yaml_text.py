"""YAML of strangers: bounded, without code, in one line where it is wrong."""

import time

import pytest

from surefoot.configs.yaml_text import LARGEST, MOST_VALUES, parse_yaml

LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10)
)
MERGES = "a0: &a0 {k: v}\n" + "\n".join(f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 10))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (LAUGHS, "its aliases stand for"),
        (MERGES, "its aliases stand for"),
        ("a: &a [1, *a]", "an alias to what it is a part of"),
        ("&a {b: *a}", "an alias to what it is a part of"),
        ("[" * 5000, "nested too deeply"),
        ("a: [1", "not YAML that can be read"),
        ("2024-99-99", "not YAML that can be read"),
        ("1" * 5000, "not YAML that can be read"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("? [a]\n: b", "unhashable key"),
        ("a: 1\n---\nb: 2", "single document"),
        ("x" * (LARGEST + 1), "at most"),
        ("\x00", "not YAML that can be read"),
    ],
    ids=[
        "laughs",
        "merges",
        "self",
        "self-mapping",
        "deep",
        "cut",
        "date",
        "digits",
        "code",
        "key",
        "two",
        "long",
        "nul",
    ],
)
def test_what_is_no_yaml_or_too_much_is_refused_at_once(text, why):
    began = time.process_time()
    with pytest.raises(ValueError, match=why) as error:
        parse_yaml(text)
    assert time.process_time() - began < 5
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


def test_ordinary_texts_are_read():
    assert parse_yaml("") is None
    assert parse_yaml("base: &b {x: 1, y: [2, 3]}\none: {<<: *b, x: 4}\ntwo: *b") == {
        "base": {"x": 1, "y": [2, 3]},
        "one": {"x": 4, "y": [2, 3]},
        "two": {"x": 1, "y": [2, 3]},
    }


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("steps: 5\nseed: 1\nsteps: 6", "steps is given on line 1 and on line 3"),
        ("steps: 5\nsteps: 5", "steps is given on line 1 and on line 2"),
        ("env:\n  physics:\n    gravity: 1\n    'gravity': 2", "gravity is given on line 3 and on line 4"),
        ("[{x: 1, x: 2}]", "x is given on line 1 and on line 1"),
        ("a: &a {x: 1, x: 2}\nb: *a", "x is given on line 1 and on line 1"),
        ("1: a\n1: b", "1 is given on line 1 and on line 2"),
    ],
)
def test_a_key_that_is_given_twice_is_refused_with_its_lines(text, what):
    with pytest.raises(ValueError, match=f"^not YAML that can be read \\({what}; leave one out\\)$"):
        parse_yaml(text)


def test_equal_keys_of_several_mappings_or_of_several_types_are_read():
    assert parse_yaml("a: {x: 1}\nb: {x: 2}\nx: 3") == {"a": {"x": 1}, "b": {"x": 2}, "x": 3}
    assert parse_yaml("<<: {x: 1}\ny: 2\n<<: {z: 3}\nx: 4") == {"x": 4, "y": 2, "z": 3}
    assert parse_yaml("1: a\n'1': b") == {1: "a", "1": "b"}


def test_as_many_values_as_are_allowed_may_be_repeated():
    part = ", ".join(["1"] * 999)  # with the list itself 1,000 values
    repeats = MOST_VALUES // 1000
    text = f"a: &a [{part}]\nb: [{', '.join(['*a'] * repeats)}]"
    assert len(parse_yaml(text)["b"]) == repeats
    with pytest.raises(ValueError, match="its aliases stand for 101,000 values"):
        parse_yaml(f"a: &a [{part}]\nb: [{', '.join(['*a'] * (repeats + 1))}]")
