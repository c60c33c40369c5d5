"""Blocks of checkpoints: written once, named while they do not change, and never another content than the tensor's."""

import os
import random
import shutil

import pytest
import torch
from sameness import assert_same

from surefoot.agents.interface import Batch
from surefoot.agents.parts import blocks
from surefoot.agents.parts.replay import Replay
from surefoot.evaluation import storage

ROW = 4 * (3 + 2 + 1 + 3 + 1)  # bytes of a row of `replay`
SIZE = 5_250  # of a block; more than a generator's state, and no whole number of rows


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(blocks, "SIZE", SIZE)
    monkeypatch.setattr(storage.os, "fsync", lambda descriptor: None)  # which takes milliseconds a file


def replay(capacity):
    return Replay(capacity, 3, 2, torch.Generator().manual_seed(0))


def fresh_rows(count, generator):
    return Batch(*(torch.randn(count, *shape, generator=generator) for shape in ((3,), (2,), (), (3,), ())))


def save(ring, path):
    storage.save(path, {"replay": ring.state_dict()}, in_blocks=True)


def names(folder):
    return {path.name for path in (folder / "blocks").iterdir()}


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.uint8, torch.bool, torch.int64])
def test_large_tensors_of_any_kind_come_back_from_their_blocks(tmp_path, dtype):
    tensors = {
        "matrix": torch.arange(9000).view(30, 300).to(dtype),
        "transposed": torch.arange(9000).view(30, 300).to(dtype).T,
        "whole blocks": torch.ones(2 * SIZE, dtype=dtype),
        "small": torch.ones(3, dtype=dtype),
    }
    payload = {"nested": [tensors, (1, tensors["matrix"])]}
    storage.save(tmp_path / "a.pt", payload, in_blocks=True)
    loaded = storage.load(tmp_path / "a.pt")
    assert_same(loaded["nested"], payload["nested"])
    assert len(names(tmp_path)) > 1


@pytest.mark.parametrize("seed", range(6))
def test_a_ring_is_loaded_as_it_was_saved_whatever_happened_between_saves(tmp_path, seed):
    """A block that is wrongly taken for unchanged would bring old rows back."""
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    ring, kept = replay(chance.choice([400, 640, 1000])), []
    for step in range(40):
        for _ in range(chance.randrange(4)):
            ring.push(fresh_rows(chance.choice([1, 1, 30, 200, 1500]), generator))
        event = chance.random()
        if event < 0.1:
            ring.resize(chance.choice([400, 640, 1000]))
            kept = []  # an older state does not fit any more
        elif event < 0.3 and kept:
            state = storage.load(chance.choice(kept)[0])["replay"]
            ring = chance.choice([ring, replay(ring.capacity)])
            ring.load_state_dict(state)
        elif event < 0.4:
            ring.state_dict()  # which nobody saves
        kept.append((tmp_path / f"{step}.pt", ring.state_dict()))
        if event > 0.9:
            ring.push(fresh_rows(50, generator))  # between taking a state and saving it
        storage.save(kept[-1][0], {"replay": kept[-1][1]}, in_blocks=True)
        kept = kept[-2:]
        storage.remove_unused_blocks(tmp_path, [path for path, _ in kept])
        for path, state in kept:
            assert_same(storage.load(path)["replay"], state)


def test_a_tensor_without_names_is_looked_at_each_time(tmp_path):
    tensor = torch.ones(9000)
    for name in ("a.pt", "b.pt"):
        storage.save(tmp_path / name, {"a": tensor}, in_blocks=True)
        assert_same(storage.load(tmp_path / name)["a"], tensor)
        tensor += 1


def test_only_what_changed_is_hashed_and_written(tmp_path, monkeypatch):
    ring, generator = replay(1000), torch.Generator().manual_seed(0)
    ring.push(fresh_rows(1000, generator))
    save(ring, tmp_path / "a.pt")
    first, hashed = names(tmp_path), []
    assert len(first) == -(-1000 * ROW // SIZE)
    sha256 = storage.hashlib.sha256
    monkeypatch.setattr(storage.hashlib, "sha256", lambda content: hashed.append(len(content)) or sha256(content))
    ring.push(fresh_rows(200, generator))
    save(ring, tmp_path / "b.pt")
    assert len(names(tmp_path) - first) == len(hashed) - 1 == -(-200 * ROW // SIZE)  # and the file itself
    save(ring, tmp_path / "c.pt")
    assert len(hashed) == 2 + 1 + 1  # nothing changed: only the file


def test_a_resumed_ring_writes_nothing_that_is_there(tmp_path):
    ring = replay(1000)
    ring.push(fresh_rows(1000, torch.Generator()))
    save(ring, tmp_path / "a.pt")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "blocks").iterdir()}
    other = replay(1000)
    other.load_state_dict(storage.load(tmp_path / "a.pt")["replay"])
    save(other, tmp_path / "b.pt")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "blocks").iterdir()} == before


def test_a_block_that_is_gone_is_written_again(tmp_path):
    ring = replay(1000)
    ring.push(fresh_rows(1000, torch.Generator()))
    save(ring, tmp_path / "a.pt")
    shutil.rmtree(tmp_path / "blocks")
    save(ring, tmp_path / "b.pt")
    assert_same(storage.load(tmp_path / "b.pt")["replay"], ring.state_dict())


def test_blocks_go_with_the_last_checkpoint_that_names_them(tmp_path):
    ring, generator = replay(1000), torch.Generator().manual_seed(0)
    for name in ("a.pt", "b.pt"):
        ring.push(fresh_rows(200, generator))
        save(ring, tmp_path / name)
    both = names(tmp_path)
    storage.remove_unused_blocks(tmp_path, [tmp_path / "a.pt", tmp_path / "b.pt"])
    assert names(tmp_path) == both
    storage.remove_unused_blocks(tmp_path, [tmp_path / "b.pt"])
    assert len(both - names(tmp_path)) == 1  # a's last, which was not full
    assert_same(storage.load(tmp_path / "b.pt")["replay"], ring.state_dict())


def test_nothing_is_removed_while_a_checkpoint_cannot_be_read(tmp_path):
    ring = replay(1000)
    ring.push(fresh_rows(1000, torch.Generator()))
    save(ring, tmp_path / "a.pt")
    (tmp_path / "b.pt").write_bytes(b"damaged")
    before = names(tmp_path)
    storage.remove_unused_blocks(tmp_path, [tmp_path / "b.pt"])
    assert names(tmp_path) == before


@pytest.mark.parametrize("harm", ["flipped", "short", "missing"])
def test_a_harmed_block_is_refused_in_one_line(tmp_path, harm):
    ring = replay(1000)
    ring.push(fresh_rows(1000, torch.Generator()))
    save(ring, tmp_path / "a.pt")
    block = sorted((tmp_path / "blocks").iterdir())[3]
    content = block.read_bytes()
    if harm == "missing":
        block.unlink()
    else:
        block.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if harm == "flipped" else content[:-1])
    expected = {
        "missing": rf"a\.pt: its part blocks/{block.name} is missing; copy the whole folder",
        "short": r"a\.pt: its blocks hold 39999 bytes, not 40000; use an earlier checkpoint",
    }
    with pytest.raises(
        ValueError, match=expected.get(harm, rf"{block.name}: damaged \(its checksum differs\)")
    ) as refused:
        storage.load(tmp_path / "a.pt")
    assert "\n" not in str(refused.value)


def test_a_save_that_fails_leaves_no_blocks_behind(tmp_path, monkeypatch):
    def full(source, target):
        if str(target).endswith(".pt"):
            raise OSError(28, "No space left on device")
        rename(source, target)

    rename = os.replace
    monkeypatch.setattr(storage.os, "replace", full)
    with pytest.raises(OSError, match=r"a\.pt: could not be written \(No space left on device\)"):
        storage.save(tmp_path / "a.pt", {"a": torch.ones(9000)}, in_blocks=True)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
