"""Plain values, as YAML has them, in and out of nested dataclasses, cast by the annotated type."""

from __future__ import annotations

import dataclasses
import difflib
import types
from collections.abc import Mapping
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from surefoot.configs.yaml_text import parse_yaml

T = TypeVar("T")


def is_yaml(name: str) -> bool:
    """Whether something is named by the path of its YAML file."""
    return name.endswith((".yaml", ".yml"))


def read_yaml(source: Traversable) -> dict[str, Any]:
    """Return the mapping in a YAML file; loading never runs code."""
    if source.is_dir():
        raise FileNotFoundError(f"{source}: a folder; name the YAML file, such as its config.yaml")
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such file")
    try:
        content = parse_yaml(source.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"{source}: not YAML that can be read ({error})") from error
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{source}: expected a mapping of settings, found {type(content).__name__}")
    return content


def plain(value: Any) -> Any:
    """Return dataclasses, mappings, sequences and paths as dictionaries, lists and text."""
    if dataclasses.is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def flattened(plain: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested mapping as one level of dotted names; an empty one is a value."""
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        flat |= flattened(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
    return flat


def nested(flat: Mapping[str, Any], where: str = "settings") -> dict[str, Any]:
    """Return dotted names taken apart, the inverse of `flattened`; what several names say of one section is merged.

    Names in a mapping are taken apart, too, but for those in `kwargs`, which are a task's own and may have dots.

    Raises:
        ValueError: a setting that is given twice, or both as a value and by names below it.
    """
    whole: dict[str, Any] = {}
    for name, value in flat.items():
        parts = name.split(".")
        if isinstance(value, Mapping) and "kwargs" not in parts:
            value = nested(value, where)
        for part in reversed(parts):
            value = {part: value}
        _join(whole, value, where)
    return whole


def _join(whole: dict[str, Any], more: Mapping[str, Any], where: str, prefix: str = "") -> None:
    """Add nested settings to others of which they may repeat none."""
    for key, value in more.items():
        if isinstance(value, Mapping) and isinstance(whole.setdefault(key, {}), dict):
            _join(whole[key], value, where, f"{prefix}{key}.")
        elif key in whole:
            raise ValueError(f"{where}: {prefix}{key} is given as {whole[key]!r} and as {value!r}; leave one out")
        else:
            whole[key] = value


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping with others laid over it, key by key, also within mappings that both have."""
    both = {key for key in base.keys() & changes.keys() if isinstance(base[key], Mapping)}
    inner = {key: merged(base[key], changes[key]) for key in both if isinstance(changes[key], Mapping)}
    return {**base, **changes, **inner}


def option(name: str) -> str:
    """Return a field, such as `eval.objective_episodes`, as the command line spells it."""
    return f"--{name.replace('_', '-')}"


def overlay(base: T, changes: Any, where: str, prefix: str = "") -> T:
    """Return the dataclass `base` with a nested mapping laid over it, each value cast to its field's type."""
    if not isinstance(changes, Mapping):
        raise ValueError(f"{where}: {prefix.rstrip('.')} holds settings of its own, found {changes!r}")
    hints = get_type_hints(type(base))
    known = [field.name for field in dataclasses.fields(base)]  # type: ignore[arg-type]
    cast_changes = {}
    for key, value in changes.items():
        if key not in known:
            raise ValueError(f"{where}: {_unknown(prefix, str(key), known)}")
        current = getattr(base, key)
        if dataclasses.is_dataclass(current):
            cast_changes[key] = overlay(current, value, where, f"{prefix}{key}.")
        else:
            cast_changes[key] = _cast(hints[key], value, f"{where}: {prefix}{key}")
    try:
        return dataclasses.replace(base, **cast_changes)  # type: ignore[type-var]
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _unknown(prefix: str, key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown key '{prefix}{key}'; {hint}known: {', '.join(sorted(known))}"


def _cast(annotation: Any, value: Any, where: str) -> Any:
    """Return `value` as the annotated type. PyYAML reads 3e-4 and 1e6 as strings and yes as True: neither may pass."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return value
    if origin in (Union, types.UnionType):
        return _cast_union(arguments, value, where)
    if origin is Literal:
        if not any(value == choice and type(value) is type(choice) for choice in arguments):
            raise ValueError(f"{where} is {value!r}; choose one of {', '.join(map(str, arguments))}")
        return value
    if origin in (tuple, list) and isinstance(value, list | tuple):
        return origin(_cast_items(origin, arguments, value, where))
    if origin is dict and isinstance(value, Mapping):
        return {_cast(arguments[0], k, where): _cast(arguments[1], v, f"{where}.{k}") for k, v in value.items()}
    if annotation in _SCALARS:
        return _cast_scalar(annotation, value, where)
    raise ValueError(f"{where} is {value!r}; expected {_type_name(annotation)}")


def _cast_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in arguments:
        return None
    exact = [argument for argument in arguments if argument is type(value)]
    others = [argument for argument in arguments if argument is not type(None)]
    for argument in exact + others:
        try:
            return _cast(argument, value, where)
        except ValueError:
            continue
    raise ValueError(f"{where} is {value!r}; expected {' or '.join(map(_type_name, arguments))}")


def _cast_items(origin: Any, arguments: tuple[Any, ...], value: Any, where: str) -> list[Any]:
    variadic = origin is list or (len(arguments) == 2 and arguments[1] is Ellipsis)
    if not variadic and len(value) != len(arguments):
        raise ValueError(f"{where} is {value!r}; expected {len(arguments)} values")
    kinds = [arguments[0]] * len(value) if variadic else arguments
    return [_cast(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value, strict=True))]


_SCALARS = (bool, int, float, str, Path)


def _cast_scalar(kind: type, value: Any, where: str) -> Any:
    wrong = ValueError(f"{where} is {value!r}; expected {_type_name(kind)}")
    if kind is bool or isinstance(value, bool):  # True is an int to Python, and `yes` is True to YAML
        if kind is bool and isinstance(value, bool):
            return value
        raise wrong
    if kind in (str, Path):
        if not isinstance(value, str):
            raise wrong
        return kind(value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise wrong from None
    if kind is int and not number.is_integer():
        raise wrong
    return number if kind is float else int(value) if isinstance(value, int) else int(number)


def _type_name(annotation: Any) -> str:
    return getattr(annotation, "__name__", str(annotation)) if get_origin(annotation) is None else str(annotation)
