"""Replay: transitions as rows of one packed tensor on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from surefoot.agents.interface import Batch, OfflineData
from surefoot.agents.parts import blocks
from surefoot.configs.memory import require_memory

Rows = TypeVar("Rows", bound=tuple[Tensor, ...])  # a NamedTuple of tensors that share their first axis


class Ring(Generic[Rows]):
    """A ring of `capacity` rows, each one item of a NamedTuple of tensors.

    One float32 row holds all fields side by side, so a minibatch is one `index_select` and its fields are views.
    """

    def __init__(
        self,
        kind: type[Rows],
        widths: Sequence[int | None],
        capacity: int,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        """`widths` has the numbers an item of each field, None for a field (B,) of single numbers."""
        if capacity < 1:
            raise ValueError(f"replay capacity must be at least 1, not {capacity}")
        self.kind, self.flat = kind, [width is None for width in widths]
        self.widths = [1 if width is None else width for width in widths]
        self.rows = _rows(capacity, sum(self.widths), torch.float32, device)
        self.generator = generator
        self.position = 0  # where the next row goes
        self.size = 0
        self.pushed = 0  # rows, since the state was last taken
        self.names: blocks.Names = []  # of the blocks of rows in that state

    def __len__(self) -> int:
        return self.size

    @property
    def capacity(self) -> int:
        return self.rows.shape[0]

    def push(self, batch: Rows) -> None:
        """Append N rows; past the end the oldest are overwritten."""
        columns = [field[:, None] if flat else field for field, flat in zip(batch, self.flat, strict=True)]
        rows = self.pack(columns)[-self.capacity :]
        head = min(len(rows), self.capacity - self.position)
        self.rows[self.position : self.position + head] = rows[:head]
        if head < len(rows):
            self.rows[: len(rows) - head] = rows[head:]
        self.position = (self.position + len(rows)) % self.capacity
        self.size = min(self.size + len(rows), self.capacity)
        self.pushed += len(rows)

    def resize(self, capacity: int) -> None:
        """Change the capacity; of the rows, the newest that fit stay, in their order."""
        kept = min(self.size, capacity)
        first = (self.position - kept) % self.capacity
        head, rows = self.rows[first : first + kept], self.rows.new_empty(capacity, self.rows.shape[1])
        rows[: len(head)] = head
        rows[len(head) : kept] = self.rows[: kept - len(head)]  # what stands at the ring's beginning
        self.rows, self.size, self.position, self.names = rows, kept, kept % capacity, []

    def pack(self, columns: list[Tensor]) -> Tensor:
        """Return the columns (B, …) of all fields as rows (B, width)."""
        return torch.cat(columns, -1)

    def sample(self, batch_size: int) -> Rows:
        """Return `batch_size` rows drawn uniformly with replacement."""
        if not self.size:
            raise ValueError("cannot sample from an empty replay; push transitions first")
        index = torch.randint(self.size, (batch_size,), generator=self.generator, device=self.rows.device)
        return self.unpack(self.rows.index_select(0, index))

    def everything(self) -> Rows:
        """Return all rows there are, as fields that are views."""
        return self.unpack(self.rows[: self.size])

    def unpack(self, rows: Tensor) -> Rows:
        """Return packed rows (B, width) as fields that are views."""
        fields = rows.split(self.widths, -1)
        return self.kind(*(f.squeeze(-1) if flat else f for f, flat in zip(fields, self.flat, strict=True)))

    def state_dict(self) -> dict[str, Any]:
        """Everything; rows are a copy of the filled part only, and carry the names of blocks that have not changed."""
        rows = self.rows[: self.size].clone()
        self.names, self.pushed = blocks.label(rows, self._unchanged()), 0
        return {"rows": rows, "position": self.position, "generator": self.generator.get_state()}

    def _unchanged(self) -> blocks.Names:
        """Return the names of the last state's blocks, but for those that rows have been pushed into since."""
        pushed = min(self.pushed, self.capacity)
        first, row = (self.position - pushed) % self.capacity, self.rows[0].nbytes
        past = max(0, first + pushed - self.capacity)  # rows at the ring's beginning
        names = blocks.without(self.names, first * row, (first + pushed - past) * row)
        return blocks.without(names, 0, past * row)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        rows, position = state["rows"], state["position"]
        if len(rows) > self.capacity or rows.shape[1] != self.rows.shape[1]:
            raise ValueError(
                f"the saved replay holds rows of shape {tuple(rows.shape)}, this one takes up to "
                f"{self.capacity} rows of {self.rows.shape[1]} numbers; resume with the run's own config"
            )
        if len(rows) < self.capacity and position != len(rows):  # of a smaller ring that was full: the oldest first
            rows, position = rows.roll(-position, 0), len(rows)
        self.rows[: len(rows)] = rows
        self.size, self.position, self.names = len(rows), position, []
        self.generator.set_state(state["generator"])


class ImageRing(Ring[Rows]):
    """A ring whose fields of whole numbers from 0 to 255 take a byte a number; the others keep their four."""

    def __init__(
        self,
        kind: type[Rows],
        widths: Sequence[int | None],
        images: Sequence[str],
        capacity: int,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        """`images` names the fields that are stored as bytes."""
        self.is_image = [name in images for name in kind._fields]  # type: ignore[attr-defined]
        sizes = [width if p else 4 * (width or 1) for width, p in zip(widths, self.is_image, strict=True)]
        super().__init__(kind, sizes, 1, generator, device)
        self.flat = [width is None for width in widths]
        self.rows = _rows(capacity, sum(self.widths), torch.uint8, device)

    def pack(self, columns: list[Tensor]) -> Tensor:
        parts = zip(columns, self.is_image, strict=True)
        return torch.cat([x.to(torch.uint8) if p else x.float().contiguous().view(torch.uint8) for x, p in parts], -1)

    def unpack(self, rows: Tensor) -> Rows:
        parts = zip(rows.split(self.widths, -1), self.is_image, self.flat, strict=True)
        fields = [(x.float() if p else x.contiguous().view(torch.float32), flat) for x, p, flat in parts]
        return self.kind(*(x.squeeze(-1) if flat else x for x, flat in fields))


class Replay(Ring[Batch]):
    """A ring of transitions; offline data, on-line data and model rollouts are all instances of it."""

    def __init__(
        self,
        capacity: int,
        obs_dim: int,
        action_dim: int,
        generator: torch.Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(Batch, [obs_dim, action_dim, None, obs_dim, None], capacity, generator, device)


def _rows(capacity: int, width: int, dtype: torch.dtype, device: torch.device | str) -> Tensor:
    """Return rows (capacity, width) to fill; `ValueError` where the device has no memory for them."""
    device = torch.device(device)
    there = torch.cuda.mem_get_info(device)[1] if device.type == "cuda" else None
    require_memory(float(capacity) * width * dtype.itemsize, f"a replay of {capacity:,} transitions", there)
    return torch.empty(capacity, width, dtype=dtype, device=device)


def join(first: Batch, second: Batch) -> Batch:
    """Return the rows (…, B) of two batches as one, the first's before the second's."""
    return Batch(*(torch.cat(pair, first.reward.dim() - 1) for pair in zip(first, second, strict=True)))


def fold(batch: Batch, parts: int) -> Batch:
    """Return a batch (parts·B, …) with its rows, in their order, as (parts, B, …)."""
    return Batch(*(field.unflatten(0, (parts, len(field) // parts)) for field in batch))


def adjacent(fields: Sequence[Tensor]) -> Tensor | None:
    """Return the float32 rows (N, width) of which the fields are the columns, in order; None where they are not."""
    first = fields[0]
    n, width, place = len(first), first.stride(0), first.storage_offset()
    for field in fields:
        columns = 1 if field.ndim == 1 else field.shape[1]
        shape, stride = ((n,), (width,)) if field.ndim == 1 else ((n, columns), (width, 1))
        same_memory = field.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not (same_memory and field.dtype == torch.float32 and (field.shape, field.stride()) == (shape, stride)):
            return None
        if field.storage_offset() != place:
            return None
        place += columns
    whole = place - first.storage_offset() == width
    return first.as_strided((n, width), (width, 1)) if whole else None


class FixedReplay(Replay):
    """The offline data: never pushed to, and not written into checkpoints; a resumed run reads its source again."""

    def __init__(
        self, data: OfflineData | Batch, generator: torch.Generator, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__(1, data.obs.shape[1], data.action.shape[1], generator, device)
        fields = (data.obs, data.action, data.reward, data.next_obs, data.terminated)
        rows = adjacent(fields)
        if rows is None or rows.device != self.rows.device:
            rows = torch.empty(len(data.reward), sum(self.widths), device=device)
            for column, field in zip(rows.split(self.widths, -1), fields, strict=True):  # `cat` takes twice the memory
                column.copy_(field[:, None] if field.ndim == 1 else field)
        self.rows, self.size = rows, len(rows)
        self._fingerprint: Tensor | None = None

    def push(self, batch: Batch) -> None:
        raise TypeError("offline data is fixed: push what the agent experiences to a replay of its own")

    def fingerprint(self) -> Tensor:
        """Return row count and float64 sum: equal for the same data, on whatever device. Computed once."""
        if self._fingerprint is None:
            parts = self.rows.split(2**12)  # in float64 all of them take twice as much memory as there is
            total = sum(float(part.cpu().double().sum()) for part in parts)
            self._fingerprint = torch.tensor([len(self.rows), total], dtype=torch.float64)
        return self._fingerprint.clone()

    def _is_same_data(self, fingerprint: Tensor) -> bool:
        """Whether a saved fingerprint is this data's; earlier versions summed all rows at once, in another order."""
        if torch.equal(fingerprint, self.fingerprint()):
            return True
        rows, total = fingerprint.tolist()
        return bool(len(self.rows) == rows and float(self.rows.cpu().double().sum()) == total)

    def state_dict(self) -> dict[str, Any]:
        return {"fingerprint": self.fingerprint(), "generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if not self._is_same_data(state["fingerprint"]):
            raise ValueError(
                f"the offline data ({len(self)} rows) is not the data this run was trained on "
                f"({int(state['fingerprint'][0])} rows, or other values); put the original file back to resume"
            )
        self.generator.set_state(state["generator"])
