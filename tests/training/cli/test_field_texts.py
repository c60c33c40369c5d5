"""The help texts of options: the docstrings below the fields of dataclasses, as tyro reads them."""

from dataclasses import dataclass, field, fields

import pytest
from tyro import _docstrings

from surefoot.envs import EnvConfig, Physics
from surefoot.training.cli import evaluate, solve, stress, train
from surefoot.training.cli.field_texts import describe_fields, field_texts
from surefoot.training.config.presets import default_config
from surefoot.training.config.run import DataConfig, EvalConfig, RunConfig
from surefoot.training.sweep.plan import Sweep


@dataclass
class Base:
    """No text of a field."""

    first: int = 1
    """In one
    line."""
    silent: int = 2
    second: str = "a"
    """Of the base."""

    def method(self) -> None:
        """No text of a field."""


@dataclass
class Derived(
    Base,
):
    second: str = "b"
    """Of the class itself."""

    third: tuple[int, ...] = field(default=(), metadata={"help": "Its own."})
    """Not this one."""


class NoDataclass:
    second: str = "c"
    """Not looked for."""


@dataclass
class Mixed(Derived, NoDataclass):
    pass


def test_texts_are_those_below_the_fields_of_a_class_and_of_its_bases():
    assert field_texts(Base) == {"first": "In one line.", "second": "Of the base."}
    own = {"first": "In one line.", "second": "Of the class itself.", "third": "Not this one."}
    assert field_texts(Derived) == field_texts(Mixed) == own


def test_a_class_without_source_at_the_top_of_a_module_has_none():
    @dataclass
    class Inner:
        known: int = 1
        """Within a function."""

    namespace: dict[str, type] = {}
    exec("class Made:\n    known: int = 1\n    'Of no file.'", {"__name__": "nowhere"}, namespace)
    assert field_texts(Inner) == field_texts(dataclass(namespace["Made"])) == {}


def test_help_that_a_field_has_stays():
    describe_fields(Derived)
    helps = {entry.name: entry.metadata.get("help") for entry in fields(Derived)}
    assert helps == {"first": "In one line.", "silent": None, "second": "Of the class itself.", "third": "Its own."}


FORMS = (RunConfig, EvalConfig, EnvConfig, Physics, DataConfig, Sweep)
REQUESTS = (train.Launch, evaluate.Request, stress.Request, solve.Request)


@pytest.mark.parametrize("form", [*FORMS, *REQUESTS], ids=lambda form: f"{form.__module__}.{form.__name__}")
def test_texts_are_tyros_but_for_line_breaks(form):
    require_tyros(form)


@pytest.mark.parametrize("name", ["h2o", "iwocs", "mbpo", "sb3-ppo"])
def test_an_agents_texts_are_tyros_but_for_line_breaks(name):
    require_tyros(type(default_config(name).agent))


def require_tyros(form):
    found = {entry.name: _docstrings.get_field_docstring(form, entry.name, ()) for entry in fields(form)}
    texts = {name: " ".join(text.split()) for name, text in found.items() if text is not None}
    assert field_texts(form) == texts
