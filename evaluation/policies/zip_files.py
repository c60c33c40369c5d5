"""Zip files of others: what their entries claim is checked before anything is read."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Collection, Iterator, Mapping
from typing import IO, Any

import torch
from torch import Tensor

from surefoot.evaluation.policies import pickles
from surefoot.evaluation.policies.pickles import Record

MOST_TIMES = 100  # that an entry may be larger than it is stored: text of zeros shrinks so, weights do not
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


def read_entry(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return an entry; `KeyError` without one, `ValueError` where it claims more than can be in it."""
    info = archive.getinfo(name)
    if info.file_size > MOST_TIMES * info.compress_size + 1024:
        raise ValueError(f"{name} claims {info.file_size:,} bytes in {info.compress_size:,}")
    return archive.read(info)


def read_tensors(content: bytes) -> dict[str, Tensor]:
    """Return the tensors of a file that `torch.save` wrote, a mapping of names, without running code.

    Raises:
        ValueError: another file, a damaged one, or one that would run something or claims more than it holds.
    """
    try:
        if zipfile.is_zipfile(io.BytesIO(content)):
            check_claims(zipfile.ZipFile(io.BytesIO(content)), len(content))
        else:
            _check_old_claims(content)
        tensors = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError("refused: it holds objects whose loading could run code") from error
    except (zipfile.BadZipFile, RuntimeError, EOFError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"damaged ({' '.join(str(error).split())[:80]})") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(tensor, Tensor) for tensor in tensors.values()):
        raise ValueError("no mapping of names to tensors")
    return {str(name): _own(str(name), tensor) for name, tensor in tensors.items()}


def _own(name: str, tensor: Tensor) -> Tensor:
    """Return a tensor that does not share memory; a small storage can pose as a large tensor."""
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise ValueError(f"{name} is larger than what is stored of it")
    return tensor.detach().clone()


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


def _check_old_claims(content: bytes) -> None:
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


def open_zip(file: IO[bytes]) -> zipfile.ZipFile:
    """Return a zip file; `ValueError` where it is none or damaged."""
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, OSError) as error:
        raise ValueError(f"no zip file ({error})") from error
