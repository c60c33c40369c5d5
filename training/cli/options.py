"""What the command lines of several commands share: how values are written, and what a wrong one looks like."""

from __future__ import annotations

import io
import itertools
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stderr, suppress
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro
import yaml

from surefoot.configs.yaml_text import parse_yaml
from surefoot.training.cli.field_texts import describe_fields

T = TypeVar("T")
REGISTRY = tyro.constructors.ConstructorRegistry()


@REGISTRY.primitive_rule
def plain_mapping(info: Any) -> Any:
    """Let `dict[str, Any]` be written as KEY VALUE pairs, each value as in YAML: 3, s1, "[[0.5, 0], [0, 0.1]]"."""
    if info.type != dict[str, Any]:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="[KEY VALUE ...]",
        instance_from_str=_read,
        is_instance=lambda value: isinstance(value, dict),
        str_from_instance=_write,
    )


@REGISTRY.primitive_rule
def whole_number(info: Any) -> Any:
    """Let an `int` be written as 1e6 or 1_000_000 too, as in a preset."""
    if info.type is not int:
        return None
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=lambda words: _whole(words[0]),
        is_instance=lambda value: isinstance(value, int) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


@REGISTRY.struct_rule
def described(info: Any) -> None:
    """Let the docstrings below fields be found quickly; what is to be made of them is left to tyro's own rule."""
    form: type = info.type
    if is_dataclass(form):
        describe_fields(form)


def _whole(word: str) -> int:
    for read in (int, float):
        with suppress(ValueError):
            number = read(word)
            if float(number).is_integer():
                return int(number)
    raise ValueError(f"{word} is not a whole number")


def _read(words: list[str]) -> dict[str, Any]:
    if len(words) % 2:
        raise ValueError("expected KEY VALUE pairs")
    return once_each((key, parse_yaml(value)) for key, value in zip(words[::2], words[1::2], strict=True))


def once_each(pairs: Iterable[tuple[str, T]]) -> dict[str, T]:
    """Return pairs as a mapping; `ValueError` for a key that occurs twice, of which only the last would count."""
    mapping: dict[str, T] = {}
    for key, value in pairs:
        if key in mapping:
            raise ValueError(f"{key} is given as {mapping[key]!r} and as {value!r}; leave one out")
        mapping[key] = value
    return mapping


def _write(value: dict[str, Any]) -> list[str]:
    def text(item: Any) -> str:
        return yaml.safe_dump(item, default_flow_style=True, width=10**6).removesuffix("...\n").strip()

    return [word for key, item in value.items() for word in (key, text(item))]


# tyro's box around a value that its type refuses: a title, the message, a rule, help.
REFUSED = re.compile(
    r"^[^\w\n]*Value error[^\w\n]*\n(?:[ -]*\n)?(?P<message>.*?)\n[│ ]*[─-]{9,}[│ ]*$",
    re.DOTALL | re.MULTILINE,
)


def read_options(form: Callable[..., T] | type[T], **settings: Any) -> T:
    """Return what `tyro.cli` reads; a value that a type refuses is one line, in the form of all other errors.

    Raises:
        ValueError: an option of several values that is given twice.
    """
    settings = {"registry": REGISTRY, **settings}
    _refuse_repeated(form, settings)
    said = io.TextIOWrapper(io.BytesIO(), encoding=sys.stderr.encoding or "utf-8")  # tyro draws what that can show
    try:
        with redirect_stderr(said):
            read: T = tyro.cli(form, **settings)
            return read
    finally:
        said.seek(0)
        text = said.read()
        message = _uncut(form, settings) if REFUSED.search(text) else None
        print(text if message is None else f"surefoot: error: {message}\n", end="", file=sys.stderr)


def _uncut(form: Any, settings: dict[str, Any]) -> str | None:
    """Return the message of a value that is refused, read again for a terminal so wide that nothing of it is cut.

    A box of 80 columns cuts at commas and within long words, and no one can tell afterwards what was one word.
    """
    said, before = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100000"
    try:
        with redirect_stderr(said), suppress(SystemExit):
            tyro.cli(form, **settings)
    finally:
        os.environ.pop("COLUMNS")
        os.environ.update({} if before is None else {"COLUMNS": before})
    found = REFUSED.search(said.getvalue())
    if found is None:
        return None
    message = " ".join(found["message"].replace("│", " ").split())
    return re.sub(r"^Error parsing (?!-)[^:]*: |^Error parsing ", "", message)


def _refuse_repeated(form: Any, settings: dict[str, Any]) -> None:
    """Raise `ValueError` for an option of several values that is given twice: the last drops what the others hold.

    Of an option of one value the last counts, as everywhere, so that a command can be written with others behind it.
    """
    own = itertools.takewhile(lambda word: word != "--", settings["args"])
    counts = Counter(word.partition("=")[0].replace("_", "-") for word in own if word.startswith("--"))
    repeated = [name for name, count in counts.items() if count > 1]
    lists = _lists(form, settings) if repeated else set()
    if twice := [name for name in repeated if name in lists]:
        raise ValueError(f"{twice[0]} is given twice, and only the last would count; give it once, with all values")


def _lists(form: Any, settings: dict[str, Any]) -> set[str]:
    """Return the options that take several values."""
    known = {name: value for name, value in settings.items() if name != "args"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # tyro has no other way to ask
        actions = tyro.extras.get_parser(form, **known)._actions
    return {name for action in actions if action.nargs not in (None, 0, 1, "?") for name in action.option_strings}


def refuse_place(out: Path, name: str | None, resumed: Path) -> None:
    """Raise `ValueError` where `--out` or `--name` say how a new folder is called beside `--resume`, which has one."""
    if given := [option for option, is_given in (("--out", out != Path("runs")), ("--name", name)) if is_given]:
        raise ValueError(f"{given[0]} has no effect with --resume {resumed}, whose folder stays; leave it out")


def long_names(options: Sequence[str], aliases: dict[str, str]) -> list[str]:
    """Return the options with every alias, also of the form --alias=value, written out."""
    parts = [option.partition("=") for option in options]
    return ["".join((aliases.get(name, name), equals, value)) for name, equals, value in parts]
