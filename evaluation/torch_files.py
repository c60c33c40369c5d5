"""Files of `torch.save`: what they say of their tensors is compared with what they hold, before PyTorch reads them."""

from __future__ import annotations

import zipfile
from collections.abc import Collection, Iterator
from typing import Any

from surefoot.evaluation import pickles
from surefoot.evaluation.pickles import Record

_STORAGES = {
    "FloatStorage": 4,
    "DoubleStorage": 8,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
}
_NAMES = frozenset(
    {f"torch.{name}" for name in _STORAGES}
    | {"torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter", "collections.OrderedDict"}
)


def check_claims(archive: zipfile.ZipFile, size: int, further: Collection[str] = ()) -> None:
    """Raise `ValueError` where a storage is not as long as it says: PyTorch would read past its end.

    Args:
        archive: what `torch.save` wrote.
        size: of the file in bytes.
        further: names that it may mention besides those of tensors.
    """
    if sum(info.file_size for info in archive.infolist()) > size:  # PyTorch stores them as they are
        raise ValueError("its entries claim more than the file holds")
    (described,) = [name for name in archive.namelist() if name.endswith("/data.pkl")] or [""]
    for kind, key, numbers in _claims(pickles.read(archive.read(described), _NAMES.union(further), persistent=True)):
        stored = archive.getinfo(f"{described.removesuffix('data.pkl')}data/{key}").file_size
        if stored != numbers * _STORAGES[kind]:
            raise ValueError(f"storage {key} claims {numbers} numbers in {stored} bytes")


def check_old_claims(content: bytes) -> None:
    """The same for the format before PyTorch 1.6: pickles one after the other, the third of four the tensors'."""
    rest, total = content, 0
    for _ in range(4):
        described, end = pickles.read_first(rest, _NAMES, persistent=True)
        rest = rest[end:]
        total += sum(numbers * _STORAGES[kind] for kind, _, numbers in set(_claims(described)))
    if total > len(rest):
        raise ValueError(f"its storages claim {total:,} bytes in {len(rest):,}")


def _claims(root: Any) -> Iterator[tuple[str, str, int]]:
    """Yield kind, key and length of the storages that a pickle refers to; what refers to itself ends too."""
    waiting, seen = [root], set[int]()
    while waiting:
        value = waiting.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Record):
            if value.name == "persistent":
                yield _claim(value)
            waiting += [value.args, value.state, *value.items.values()]
        elif isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list | tuple):
            waiting += value


def _claim(record: Record) -> tuple[str, str, int]:
    match record.args:
        case ("storage", pickles.Name(text=text), str(key), str(), int(numbers), *_) if numbers >= 0:
            return text.removeprefix("torch."), key, numbers
    raise ValueError("a reference that is no storage")
