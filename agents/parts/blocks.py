"""Blocks of a large tensor: a checkpoint writes each once, under its content hash, and names it while it stays.

A tensor in a state may carry the names of its blocks, as far as its owner knows that they have not changed since they
were written. Whoever saves it need not hash those, and adds the names of the others, which its owner finds next time.
"""

from __future__ import annotations

from torch import Tensor

SIZE = 2**22  # bytes; a smaller tensor is no blocks

Names = list[str | None]  # block by block; None where the content is not known to have been written


def count(tensor: Tensor) -> int:
    """Return the number of blocks of a tensor; the last may be shorter."""
    return -(-tensor.nbytes // SIZE)


def label(tensor: Tensor, names: Names) -> Names:
    """Let `tensor` carry names, cut or filled up to its number of blocks; return the list that it carries."""
    carried = (names + [None] * count(tensor))[: count(tensor)]
    tensor.block_names = carried  # type: ignore[attr-defined]
    return carried


def names_of(tensor: Tensor) -> Names:
    """Return the list that a tensor carries, to be filled in; of one that carries none nothing is remembered."""
    names: Names = getattr(tensor, "block_names", [None] * count(tensor))
    return names


def without(names: Names, first: int, last: int) -> Names:
    """Return the names after the bytes `first` to `last` (exclusive) of the tensor have changed."""
    changed = range(first // SIZE, -(-last // SIZE) if last > first else 0)
    return [None if i in changed else name for i, name in enumerate(names)]
