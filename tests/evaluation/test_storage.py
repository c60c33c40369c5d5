"""Checkpoints: whole or absent, and nothing runs when one is read."""

import hashlib
import io
import os
import pickle
import random
import resource
import signal
import time
import zipfile
from contextlib import suppress

import pytest
import torch
from leftovers import FORK, leave_half_a_file
from sameness import assert_same

from surefoot.agents.parts import blocks
from surefoot.evaluation import storage
from surefoot.evaluation.policy_files import load_policy
from surefoot.evaluation.storage import load, save

PAYLOAD = {
    "tensor": torch.arange(5.0),
    "optimiser": torch.optim.Adam([torch.zeros(2, requires_grad=True)]).state_dict(),
    "generator": torch.Generator().get_state(),
    "nested": {"a": [1, 2.5, None, True, "x"], 3: (1, 2)},
}


def test_what_is_saved_comes_back(tmp_path):
    storage.save(tmp_path / "a.pt", PAYLOAD)
    loaded = storage.load(tmp_path / "a.pt")
    assert loaded.pop("format") == storage.FORMAT
    assert_same(loaded, PAYLOAD)
    assert [path.name for path in tmp_path.iterdir()] == ["a.pt"]


def test_the_checksum_is_the_comment_of_a_whole_zip_file(tmp_path):
    storage.save(tmp_path / "a.pt", PAYLOAD)
    content = (tmp_path / "a.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        assert archive.testzip() is None
        comment = archive.comment
    assert comment.endswith(hashlib.sha256(content[: -len(comment)]).hexdigest().encode())
    assert content.endswith(comment)


def test_what_a_killed_process_left_of_a_checkpoint_goes_with_the_next_one(tmp_path):
    left = leave_half_a_file(tmp_path / "a.pt")
    storage.save(tmp_path / "a.pt", PAYLOAD)
    assert not left.exists()


def test_a_value_that_could_not_be_read_back_is_refused_by_name(tmp_path):
    import numpy as np

    with pytest.raises(TypeError, match=r"payload\['a'\]\[1\] is a ndarray; checkpoints hold only tensors"):
        storage.save(tmp_path / "a.pt", {"a": [1, np.zeros(2)]})
    assert list(tmp_path.iterdir()) == []


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("malicious-was-here",)


def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": 1, "agent": Malicious()}, tmp_path / "zip.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Malicious()))
    for name in ("zip.pt", "plain.pt"):
        with pytest.raises(ValueError, match=f"{name}: refused"):
            storage.load(tmp_path / name)
    assert not (tmp_path / "malicious-was-here").exists()


def test_pytorch_is_told_not_to_run_code_either(tmp_path, monkeypatch):
    storage.save(tmp_path / "a.pt", PAYLOAD)
    seen, own = [], torch.load
    monkeypatch.setattr(torch, "load", lambda *what, **how: seen.append(how["weights_only"]) or own(*what, **how))
    storage.load(tmp_path / "a.pt")
    assert seen == [True]


@pytest.mark.parametrize("in_blocks", [True, False])
def test_large_tensors_lie_beside_a_checkpoint_only_where_that_is_asked_for(tmp_path, in_blocks, monkeypatch):
    monkeypatch.setattr(blocks, "SIZE", 64)
    payload = {"large": torch.arange(40.0), "small": torch.arange(15.0)}
    storage.save(tmp_path / "a.pt", payload, in_blocks=in_blocks)
    assert sorted(path.stat().st_size for path in tmp_path.glob("blocks/*")) == ([32, 64, 64] if in_blocks else [])
    assert_same({name: storage.load(tmp_path / "a.pt")[name] for name in payload}, payload)


def test_truncated_and_foreign_files_are_refused_in_one_line(tmp_path):
    storage.save(tmp_path / "whole.pt", PAYLOAD)
    whole = (tmp_path / "whole.pt").read_bytes()
    contents = {
        "half": whole[: len(whole) // 2],
        "empty": b"",
        "html": b"<!DOCTYPE html><html>",
        "noise": b"\x80\x02xyz",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: ") as refused:
            storage.load(tmp_path / name)
        assert "\n" not in str(refused.value)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="not a Surefoot checkpoint"):
        storage.load(tmp_path / "list.pt")
    with pytest.raises(FileNotFoundError, match=r"absent\.pt: no such checkpoint"):
        storage.load(tmp_path / "absent.pt")


def test_a_newer_format_says_upgrade(tmp_path):
    torch.save({"format": storage.FORMAT + 1}, tmp_path / "new.pt")
    with pytest.raises(ValueError, match=r"format 4, this Surefoot reads format 3; upgrade"):
        storage.load(tmp_path / "new.pt")


def test_an_older_format_says_what_can_be_done(tmp_path):
    torch.save({"format": 1}, tmp_path / "old.pt")
    with pytest.raises(ValueError, match=r"format 1, of an older Surefoot, .* use the version that wrote it, or train"):
        storage.load(tmp_path / "old.pt")


def test_a_file_of_the_format_before_is_read(tmp_path):
    torch.save({"format": 2, **PAYLOAD}, tmp_path / "old.pt")  # no checksum
    loaded = storage.load(tmp_path / "old.pt")
    assert_same({name: loaded[name] for name in PAYLOAD}, PAYLOAD)


@pytest.mark.parametrize("place", [40, 0.3, 0.5, 0.8, -100, -10])
def test_a_changed_byte_is_noticed_wherever_it_is(tmp_path, place):
    path = tmp_path / "a.pt"
    storage.save(path, {"a": torch.arange(1000.0)})
    content = bytearray(path.read_bytes())
    content[place if isinstance(place, int) else int(place * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.pt: damaged \(its checksum differs\); use an earlier one") as refused:
        storage.load(path)
    assert "\n" not in str(refused.value)


def test_a_file_without_its_end_is_not_taken_for_an_older_one_without_a_checksum(tmp_path):
    path = tmp_path / "a.pt"
    storage.save(path, PAYLOAD)
    whole = path.read_bytes()
    for cut in (1, 64, 80):
        path.write_bytes(whole[:-cut])
        with pytest.raises(ValueError, match=r"a\.pt: truncated, damaged or not a checkpoint"):
            storage.load(path)


def begin(work, *arguments):
    """Return a process of its own that does some work, and what it sends."""
    ours, theirs = FORK.Pipe(duplex=False)
    process = FORK.Process(target=work, args=(*arguments, theirs))
    process.start()
    theirs.close()  # what is received ends with the process
    return process, ours


def save_on_a_full_disk(path, way, told):
    torch.set_num_threads(1)  # a fork has no other
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # the kernel refuses to grow a file beyond this
    try:
        ballast = torch.arange(3_000_000).float()
        storage.save(path, {"version": 2, "ballast": ballast}, in_blocks=way == "blocks")
    except OSError as error:
        told.send(str(error))


@pytest.mark.parametrize("way", ["whole", "blocks"])
def test_a_disk_that_is_full_leaves_the_previous_checkpoint(tmp_path, way):
    path = tmp_path / "a.pt"
    storage.save(path, {"version": 1})
    process, told = begin(save_on_a_full_disk, path, way)
    message = told.recv()
    process.join()
    assert f"{path}: could not be written (" in message
    assert "\n" not in message
    assert storage.load(path)["version"] == 1
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OSError, match=r"absent/a\.pt: could not be written \(No such file or directory\)"):
        storage.save(tmp_path / "absent" / "a.pt", {})


def save_forever(path, announced):
    torch.set_num_threads(1)
    blocks.SIZE = 2**18
    for version in range(10**6):
        payload = {"a": torch.full((500_000,), version), "b": version}
        storage.save(path, payload, in_blocks=version % 3 > 0)
        storage.remove_unused_blocks(path.parent, [path])
        announced.send(version)


def test_sigkill_during_saves_leaves_a_whole_checkpoint(tmp_path):
    """Kill a process that does nothing but save, at random moments; the file is always one of its versions, whole."""
    path, delay = tmp_path / "a.pt", random.Random(0)
    for _ in range(20):
        process, versions = begin(save_forever, path)
        announced = versions.recv()  # the first save is done
        time.sleep(delay.uniform(0, 0.05))
        process.kill()
        with suppress(EOFError):
            while True:
                announced = versions.recv()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        loaded = storage.load(path)
        assert loaded["b"] >= announced
        assert bool((loaded["a"] == loaded["b"]).all())
    storage.remove_leftovers(tmp_path)
    storage.remove_unused_blocks(tmp_path, [])
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


def test_parts_of_a_checkpoint_are_files_beside_it_alone(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(range(64)))
    folder = tmp_path / "run"
    (folder / "blocks").mkdir(parents=True)
    path = folder / "evil.pt"
    stored = {"stored in blocks": ["../../secret"], "shape": [64], "dtype": torch.uint8}
    for changed, why in (
        ({}, "names parts that Surefoot did not write"),
        ({"stored in blocks": ["a" * 64]}, "is missing"),
        ({"stored in blocks": [], "shape": [10**13]}, "its blocks hold 0 bytes, not 10000000000000"),
        ({"stored in blocks": [], "shape": [-1]}, "its blocks hold 0 bytes, not -1"),
        ({"shape": "x"}, "names parts"),
        ({"dtype": "float32"}, "names parts"),
    ):
        save(path, {"tensor": stored | changed})
        with pytest.raises(ValueError, match=why):
            load(path)


def test_a_checkpoint_that_claims_more_than_it_holds_is_refused(tmp_path):
    """PyTorch would take the memory of a packed entry, and read past the end of a storage."""
    path = tmp_path / "evil.pt"
    save(path, {"tensor": torch.arange(10.0), "keys": {(1, "a"): 0.5, 0.25: torch.float16}})
    content = path.read_bytes()
    assert load(path)["keys"] == {(1, "a"): 0.5, 0.25: torch.float16}

    def written(change, method=zipfile.ZIP_STORED):
        out = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", method) as new:
            for info in old.infolist():
                new.writestr(info.filename, change(info.filename, old.read(info)))
        with path.open("wb") as file:
            storage._write_with_checksum(file, out.getbuffer())

    written(lambda name, entry: entry)
    load(path)
    written(lambda name, entry: entry[:20] if "/data/" in name else entry)
    with pytest.raises(ValueError, match="damaged or not a checkpoint"):
        load(path)
    written(lambda name, entry: bytes(10**7) if "/data/" in name else entry, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="damaged or not a checkpoint"):
        load(path)


@pytest.mark.parametrize(
    "change", [{"config": 3}, {"config": {}}, {"agent_name": 3}, {"spaces": {}}, {"policy": {"x": 1}}]
)
def test_a_policy_file_with_something_missing_is_refused_in_a_line(change, make_run, tmp_path):
    path = next((make_run("run") / "checkpoints").glob("policy-*.pt"))
    payload = load(path)
    payload.pop("format")
    save(tmp_path / "changed.pt", payload | change)
    with pytest.raises(ValueError, match=r"changed\.pt"):
        load_policy(tmp_path / "changed.pt")
