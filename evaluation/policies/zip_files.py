"""Zip files of others: what their entries claim is checked before anything is read."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping
from typing import IO

import torch
from torch import Tensor

from surefoot.evaluation.torch_files import check_claims, check_old_claims

MOST_TIMES = 100  # that an entry may be larger than it is stored: text of zeros shrinks so, weights do not


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
            check_old_claims(content)
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


def open_zip(file: IO[bytes]) -> zipfile.ZipFile:
    """Return a zip file; `ValueError` where it is none or damaged."""
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, OSError) as error:
        raise ValueError(f"no zip file ({error})") from error
