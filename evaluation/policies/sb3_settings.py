"""The files that RL Zoo puts beside an archive: the task's id, its arguments and the wrappers around it.

`config.yml` holds the hyper-parameters, `args.yml` the command line, `env_kwargs.yml` the constructor's arguments. They
are YAML with tags of Python objects, which are read as the plain values inside them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from surefoot.configs.yaml_text import parse_yaml

LARGEST_FILE = 2**20  # bytes
NORMALIZERS = ("vecnormalize.pkl", "vec_normalize.pkl")
TIME_FEATURE = re.compile(r"(sb3_contrib\.common|rl_zoo3?|utils)\.wrappers\.TimeFeatureWrapper")
UNSUPPORTED = ("vec_env_wrapper",)


class Settings(NamedTuple):
    """What lies around an archive."""

    found: tuple[str, ...] = ()  # the files that were read
    task: str | None = None  # its id
    kwargs: dict[str, Any] = {}  # noqa: RUF012 - of the task's constructor
    normalize: bool | None = None  # whether observations are normalised; None: no file says so
    time_feature: bool = False
    stack: int = 1  # observations shown at once


def places(archive: Path) -> list[Path]:
    """Return the folders in which the files of an archive may lie: its own, and one of the archive's name."""
    return [folder for folder in (archive.parent, archive.with_suffix("")) if folder.is_dir()]


def beside(archive: Path, names: tuple[str, ...]) -> Path | None:
    """Return the first of the files that lies beside an archive."""
    return next((place / name for place in places(archive) for name in names if (place / name).is_file()), None)


def read_settings(archive: Path) -> Settings:
    """Return what the files beside an archive say.

    Raises:
        ValueError: a file that is no such YAML, or a wrapper that is not known here.
    """
    paths = {name: beside(archive, (f"{name}.yml",)) for name in ("config", "args", "env_kwargs")}
    config, args, env_kwargs = ({} if path is None else _mapping(path) for path in paths.values())
    found = tuple(str(path) for path in paths.values() if path)
    if paths["config"] is None:
        return Settings(found, task=_text(args.get("env")), kwargs=env_kwargs)
    return Settings(
        found,
        task=_text(args.get("env")),
        kwargs=env_kwargs,
        normalize=_normalizes(config.get("normalize"), paths["config"]),
        time_feature=_has_time_feature(config, paths["config"]),
        stack=_stacked(config.get("frame_stack"), paths["config"]),
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _normalizes(value: Any, path: Path) -> bool:
    """Return whether observations are normalised: `true`, or the arguments of VecNormalize as text or mapping."""
    if value is None or isinstance(value, bool):
        return bool(value)
    if isinstance(value, dict):
        return value.get("norm_obs", True) is not False
    if isinstance(value, str):
        return not re.search(r"norm_obs['\"]?\s*[=:]\s*False", value)
    raise ValueError(f"{path}: normalize is {str(value)[:80]}, not a truth value or arguments")


def _has_time_feature(config: dict[str, Any], path: Path) -> bool:
    """Return whether the one wrapper that is known is there; any other is refused."""
    wrappers = config.get("env_wrapper")
    listed = wrappers if isinstance(wrappers, list) else [] if wrappers is None else [wrappers]
    for wrapper in listed:
        if not (isinstance(wrapper, str) and TIME_FEATURE.fullmatch(wrapper)):
            raise ValueError(f"{path}: the wrapper {str(wrapper)[:80]} is not known; known is TimeFeatureWrapper")
    for name in UNSUPPORTED:
        if config.get(name) is not None:
            raise ValueError(f"{path}: {name} is {str(config[name])[:80]}, which is not known")
    return bool(listed)


def _stacked(value: Any, path: Path) -> int:
    if value is None:
        return 1
    if type(value) is int and 1 <= value <= 1000:
        return value
    raise ValueError(f"{path}: frame_stack is {str(value)[:80]}, not a number of observations")


# --- YAML of RL Zoo ---------------------------------------------------------------------------------------------------


class _PlainLoader(yaml.SafeLoader):
    """YAML whose tags of Python objects are read as what is in them."""


def _plain(loader: _PlainLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        values = loader.construct_sequence(node, deep=True)
        return values[0] if "apply" in suffix and len(values) == 1 else values  # the only argument of a call
    return str(getattr(node, "value", ""))


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _plain)


def _mapping(path: Path) -> dict[str, Any]:
    """Return the mapping in a file: as one, or as the pairs of an OrderedDict."""
    if path.stat().st_size > LARGEST_FILE:
        raise ValueError(f"{path}: {path.stat().st_size:,} bytes are no hyper-parameters")
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), _PlainLoader)
        return {} if content is None else {str(key): value for key, value in dict(content).items()}
    except (ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"{path}: no mapping of settings ({reason})") from error
