"""YAML from anybody: no code, and no more than it says.

An alias stands for as much as it repeats, and ten levels of ten aliases in 500 bytes for 10¹⁰ values: what a text
stands for is counted before anything is made of it.
"""

from __future__ import annotations

from typing import Any

import yaml

LARGEST = 10_000_000  # characters of a text
MERGE = "tag:yaml.org,2002:merge"
MOST_VALUES = 100_000  # that aliases may repeat, all together


def parse_yaml(text: str, loader: type[yaml.SafeLoader] = yaml.SafeLoader) -> Any:
    """Return the plain values of a YAML text; `ValueError`, one line, for what is none or too much."""
    if len(text) > LARGEST:
        raise ValueError(f"{len(text):,} characters of YAML; at most {LARGEST:,} are read")
    try:
        reader = loader(text)
        try:
            node = reader.get_single_node()
            _require_bounded(node)
            _require_once_each(node)
            return None if node is None else reader.construct_document(node)
        finally:
            reader.dispose()
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else " ".join(str(error).split())
        raise ValueError(f"not YAML that can be read ({reason[:300]})") from error


def _require_once_each(root: yaml.Node | None) -> None:
    """Raise `ValueError` where a mapping has a key twice, of which PyYAML takes the later and drops the other.

    What `<<` merges in may be among the keys beside it, which go before it, and all of several `<<` are merged.
    """
    seen: set[int] = set()
    nodes = [root] if root else []
    while nodes:
        node = nodes.pop()
        if id(node) in seen or not isinstance(node, yaml.CollectionNode):
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            _require_keys_apart(node)
        nodes += [part for item in node.value for part in (item if isinstance(item, tuple) else (item,))]


def _require_keys_apart(node: yaml.MappingNode) -> None:
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
            continue
        line, named = key.start_mark.line + 1, (key.tag, key.value)
        if named in lines:
            raise ValueError(f"{key.value} is given on line {lines[named]} and on line {line}; leave one out")
        lines[named] = line


def _require_bounded(root: yaml.Node | None) -> None:
    """Raise `ValueError` where a text repeats more than `MOST_VALUES` values by its aliases, or repeats itself."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            if sizes[id(node)] < 0:
                raise ValueError("an alias to what it is a part of")
            return sizes[id(node)]
        sizes[id(node)] = -1
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        flat = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
        sizes[id(node)] = 1 + sum(map(size, flat))
        return sizes[id(node)]

    repeated = (size(root) if root else 0) - len(sizes)
    if repeated > MOST_VALUES:
        raise ValueError(f"its aliases stand for {repeated:,} values; at most {MOST_VALUES:,}")
