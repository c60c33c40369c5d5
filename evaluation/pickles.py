"""Pickles read as data: a machine that knows the opcodes and calls nothing, imports nothing, makes nothing large.

A pickle is a program. Here its names stay names, its calls become records of what would have been called, and only
names on a caller's list are admitted at all. Each opcode makes at most one small object, so memory and time are
proportional to the file. What a record means is for the caller to say (`vecnormalize.py`, `sb3_archives.py`).
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable, Collection
from typing import Any

LARGEST_KEY = 2**31  # of numbers that are keys: chosen large ones would collide
LONGEST_KEY = 8  # numbers or words of a key that is made of several
_MARK = object()


class Record:
    """Something that a pickle would have made: by which name, of what, with what state."""

    __slots__ = ("args", "items", "name", "state")

    def __init__(self, name: str, args: Any = ()) -> None:
        self.name, self.args = name, args
        self.state: Any = None
        self.items: dict[Any, Any] = {}  # of a mapping

    def __repr__(self) -> str:
        return f"<Record {self.name}>"


class Name:
    """A name that a pickle mentions, on the caller's list."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


def read(data: bytes, names: Collection[str], *, persistent: bool = False) -> Any:
    """Return what a pickle describes: plain values, and `Record`s for everything else.

    Args:
        data: the pickle.
        names: what it may mention, such as `numpy.dtype`.
        persistent: whether it may refer to things outside it; they become records named `persistent`.

    Raises:
        ValueError: a damaged pickle, or one with a name or an operation that is not admitted; one line, with the byte.
    """
    return read_first(data, names, persistent=persistent)[0]


def read_first(data: bytes, names: Collection[str], *, persistent: bool = False) -> tuple[Any, int]:
    """Return the same of the first of several pickles, and where it ends."""
    position: int | None = 0
    machine = _Machine(names, persistent)
    try:
        for opcode, argument, position in pickletools.genops(data):
            if opcode.name == "STOP":
                return machine.pop(), (position or 0) + 1
            machine.run(opcode.name, argument)
    except _Refused as refusal:
        raise ValueError(f"{refusal} at byte {position}") from None
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, struct.error) as error:
        reason = " ".join(str(error).split())[:80]
        raise ValueError(f"damaged: no pickle from byte {position} on ({reason})") from None
    raise ValueError("damaged: the pickle has no end")


class _Refused(Exception):
    pass


class _Machine:
    def __init__(self, names: Collection[str], persistent: bool) -> None:
        self.names, self.persistent = names, persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, name: str, argument: Any) -> None:
        if name in _PUSHED:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _MEMO_WRITES:
            self.memo[argument] = self.stack[-1]
        elif name in _MEMO_READS:
            self.stack.append(self.memo[argument])
        elif name in _DONE:
            _DONE[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise _Refused(f"refused: the operation {name}")

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark in place of a value")
        return value

    def pop_to_mark(self) -> list[Any]:
        values: list[Any] = []
        while (value := self.stack.pop()) is not _MARK:
            values.append(value)
        return values[::-1]

    def mention(self, text: str) -> None:
        if text not in self.names:
            raise _Refused(f"refused: it mentions {text[:80]!r}")
        self.stack.append(Name(text))

    def call(self) -> None:
        arguments, called = self.pop(), self.pop()
        if not isinstance(called, Name) or not isinstance(arguments, tuple):
            raise TypeError("a call of something that is no name")
        self.stack.append(Record(called.text, arguments))

    def build(self) -> None:
        state = self.pop()
        if not isinstance(self.stack[-1], Record):
            raise TypeError("a state for something that has none")
        self.stack[-1].state = state

    def put(self, flat: list[Any]) -> None:
        """Add keys and values, one after the other, to the mapping on top."""
        holder = self.stack[-1]
        mapping = holder.items if isinstance(holder, Record) else holder
        if not isinstance(mapping, dict):
            raise TypeError("keys for something that has none")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            mapping[_key(key)] = value

    def extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise TypeError("entries for something that is no list")
        self.stack[-1].extend(values)

    def add(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], set):
            raise TypeError("members for something that is no set")
        self.stack[-1].update(map(_key, values))

    def refer(self) -> None:
        if not self.persistent:
            raise _Refused("refused: the operation BINPERSID")
        self.stack.append(Record("persistent", self.pop()))

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.stack.append(tuple(values[::-1]))

    def dict_of(self, flat: list[Any]) -> None:
        self.stack.append({})
        self.put(flat)


def _key(key: Any) -> Any:
    """Return a key that is cheap to compare, whatever it is."""
    if isinstance(key, str | bytes | bool | float | None) or (isinstance(key, int) and abs(key) < LARGEST_KEY):
        return key
    if isinstance(key, tuple) and len(key) <= LONGEST_KEY:
        return tuple(map(_key, key))
    raise TypeError(f"a key that is a {type(key).__name__}")


def _module_name(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.mention(f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "")


def _one(machine: _Machine) -> list[Any]:
    return [machine.pop()]


def _pair(machine: _Machine) -> list[Any]:
    value, key = machine.pop(), machine.pop()
    return [key, value]


_PUSHED = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("SHORT_BINBYTES", "BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
    "MARK": lambda: _MARK,
}
_MEMO_WRITES, _MEMO_READS = ("PUT", "BINPUT", "LONG_BINPUT"), ("GET", "BINGET", "LONG_BINGET")
_DONE: dict[str, Callable[[_Machine, Any], Any]] = {
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.stack[-1]),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.pop_to_mark(),
    "DUP": lambda m, _: m.stack.append(m.stack[-1]),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, _: m.tuple_of(1),
    "TUPLE2": lambda m, _: m.tuple_of(2),
    "TUPLE3": lambda m, _: m.tuple_of(3),
    "LIST": lambda m, _: m.stack.append(m.pop_to_mark()),
    "DICT": lambda m, _: m.dict_of(m.pop_to_mark()),
    "FROZENSET": lambda m, _: m.stack.append(frozenset(map(_key, m.pop_to_mark()))),
    "APPEND": lambda m, _: m.extend(_one(m)),
    "APPENDS": lambda m, _: m.extend(m.pop_to_mark()),
    "ADDITEMS": lambda m, _: m.add(m.pop_to_mark()),
    "SETITEM": lambda m, _: m.put(_pair(m)),
    "SETITEMS": lambda m, _: m.put(m.pop_to_mark()),
    "GLOBAL": lambda m, text: m.mention(text.replace(" ", ".")),
    "STACK_GLOBAL": lambda m, _: _module_name(m),
    "REDUCE": lambda m, _: m.call(),
    "NEWOBJ": lambda m, _: m.call(),
    "BUILD": lambda m, _: m.build(),
    "BINPERSID": lambda m, _: m.refer(),
}
