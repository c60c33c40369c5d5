"""Which engine a run gets, and the line that it is told where it gets another one than it asked for."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from surefoot.agents.parts.engine import attach, choose, compute_by, coverage, engine_of, flags, native
from surefoot.agents.parts.engine.flat import Flat, flat_of
from surefoot.agents.parts.networks import StackedMLP

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def forgotten():
    """Forget which library was opened."""

    def forget() -> None:
        native._library.cache_clear()
        native.load.cache_clear()

    forget()
    yield
    forget()


@pytest.fixture
def afresh(forgotten, monkeypatch, tmp_path):
    """Look for the library in an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "installed", lambda capability: None)
    monkeypatch.delenv("CXX", raising=False)
    return tmp_path / "cache"


def refused(device: torch.device = CPU, wanted: str = "native", *, traced: bool = False) -> str:
    with pytest.raises(ValueError) as error:  # noqa: PT011 - the whole line is the test
        choose(wanted, device, traced=traced)
    return str(error.value)


def test_auto_is_native_on_a_cpu_and_eager_where_a_graph_is_traced_or_on_a_gpu():
    assert choose("auto", CPU) == ("native", None)
    assert choose("auto", GPU) == ("eager", None)
    assert choose("auto", CPU, traced=True) == ("eager", None)
    assert [choose(engine, CPU)[0] for engine in ("eager", "torch", "native")] == ["eager", "torch", "native"]
    assert choose("torch", GPU) == ("torch", None)


def test_native_runs_on_a_cpu_only():
    assert refused(GPU) == "--engine native runs on a CPU, not on cuda; pass --device cpu or --engine torch"


@pytest.mark.parametrize("engine", ["native", "torch"])
def test_a_traced_update_is_the_eager_one(engine):
    line = f"--engine {engine} does not go with --compile or --cudagraph; drop them, or pass --engine eager"
    assert refused(wanted=engine, traced=True) == line


def test_bf16_products_are_the_native_engines_on_a_cpu():
    line = "--precision bf16 runs on a CPU, not on cuda; pass --device cpu or leave it out"
    assert refused(GPU, "native-bf16") == line
    line = "--precision bf16 does not go with --compile or --cudagraph; drop them, or leave it out"
    assert refused(wanted="native-bf16", traced=True) == line


@pytest.mark.parametrize("known", [{"avx512f"}, {"amx_bf16", "amx_tile"}, set()])
def test_bf16_products_need_the_processor(forgotten, monkeypatch, known):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(native, "processor_flags", lambda: known)
    monkeypatch.setattr(native.platform, "machine", lambda: "x86_64")
    reason = "bf16 products need a processor with AVX512_BF16, which this x86_64 lacks"
    assert refused(wanted="native-bf16") == f"{reason}, or leave out --precision bf16"
    assert choose("auto", CPU) == ("native", None)


def test_tiles_are_taken_where_processor_and_system_have_them(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(native, "_may_use_tiles", lambda: True)
    monkeypatch.setattr(native, "processor_flags", lambda: {"avx512_bf16"})
    assert native.capability_for("bf16") == "AVX512_BF16"
    monkeypatch.setattr(native, "processor_flags", lambda: {"avx512_bf16", "amx_bf16", "amx_tile"})
    assert native.capability_for("bf16") == "AMX_BF16"
    monkeypatch.setattr(native, "_may_use_tiles", lambda: False)
    assert native.capability_for("bf16") == "AVX512_BF16"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert native.bf16_capabilities() == []


def falls_back(reason: str) -> None:
    """Assert that the reason is the refusal, and the note of `auto`."""
    assert refused() == f"{reason}, or pass --engine torch"
    assert choose("auto", CPU) == ("torch", f"note: {reason}; updates run in PyTorch, at about half the speed")


def test_without_a_compiler(afresh, monkeypatch):
    monkeypatch.setenv("PATH", str(afresh))
    falls_back("no C++ compiler was found for the native engine; install g++, or set CXX")


def test_a_compiler_that_fails(afresh, monkeypatch):
    monkeypatch.setenv("CXX", "/bin/false --of mine")
    reason = "the native engine could not be compiled with /bin/false --of mine (exit status 1)"
    falls_back(f"{reason}; set CXX to another C++ compiler")
    assert list(afresh.rglob("*")) == [afresh / "surefoot"]  # nothing half-made


def test_a_compiler_that_is_not_there(afresh, monkeypatch):
    monkeypatch.setenv("CXX", "/no/such/compiler")
    reason = "the native engine could not be compiled with /no/such/compiler (No such file or directory)"
    falls_back(f"{reason}; set CXX to another C++ compiler")


def test_a_compiler_says_what_it_misses(afresh, monkeypatch, tmp_path):
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\necho In file included from x >&2\necho 'x.cpp:1: error: no such thing' >&2\nexit 1")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert "(x.cpp:1: error: no such thing)" in refused()


def test_a_failure_is_found_out_once(afresh, monkeypatch, tmp_path):
    """Every policy that is loaded asks; a compiler takes seconds."""
    compiler, calls = tmp_path / "compiler", tmp_path / "calls"
    compiler.write_text(f"#!/bin/sh\necho x >> {calls}\nexit 1")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert [choose("auto", CPU)[0] for _ in range(3)] == ["torch"] * 3
    assert calls.read_text().count("x") == 1


def test_a_cache_that_cannot_be_written(afresh, monkeypatch):
    afresh.write_text("a file in the way")  # permissions do not stop a root user
    reason = f"the native engine could not be kept in {afresh / 'surefoot'} (Not a directory)"
    falls_back(f"{reason}; set XDG_CACHE_HOME to a folder that can be written")


def test_a_processor_without_vectors(afresh, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr(native.platform, "machine", lambda: "aarch64")
    falls_back("the native engine needs AVX2 or AVX-512, which this aarch64 lacks")


def test_a_library_that_cannot_be_opened(afresh):
    capability = torch.backends.cpu.get_cpu_capability()
    path = native.cache_folder() / f"kernels-{capability.lower()}-{flags.key(capability)}.so"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"half of it")
    assert refused().startswith(f"the native engine could not be loaded ({path}: ")
    assert refused().endswith("; delete that file, or pass --engine torch")


def test_what_a_killed_compilation_left_goes_with_the_next_and_one_under_way_is_waited_for(
    afresh, monkeypatch, tmp_path
):
    capability, kill = torch.backends.cpu.get_cpu_capability(), tmp_path / "kill"
    kill.write_text('#!/bin/sh\necho half > "$(echo "$@" | sed "s/.* -o //")"\nkill -9 $PPID\n')
    kill.chmod(0o755)
    if (pid := os.fork()) == 0:
        os.environ["CXX"] = str(kill)
        with suppress(Exception):
            native.compiled(capability)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    (left,) = (afresh / "surefoot").iterdir()
    assert left.name.startswith("compiling-")
    calls: list[Path] = []
    monkeypatch.setattr(native, "_compile", lambda capability, out: calls.append(out) or out.write_text("kernels"))
    with ThreadPoolExecutor() as pool:
        with native._locked(afresh / "surefoot") as locked:
            others = [pool.submit(native.compiled, capability) for _ in range(2)]
            assert locked
            assert not wait(others, timeout=0.1).done
            assert not calls
        assert {other.result() for other in others} == {native.compiled(capability)}
    assert len(calls) == 1
    assert list((afresh / "surefoot").iterdir()) == [native.compiled(capability)]


def fake_library(folder: Path, key: str) -> str:
    """Compile a library that says it was made of `key`; return its capability."""
    capability, source = torch.backends.cpu.get_cpu_capability(), folder / "fake.cpp"
    source.write_text(f'extern "C" const char* kernel_key() {{ return "{key}"; }}')
    suffix = native.sysconfig.get_config_var("EXT_SUFFIX")
    out = folder / f"kernels_{capability.lower()}{suffix}"
    native.subprocess.run(["c++", "-shared", "-fPIC", str(source), "-o", str(out)], check=True)
    return capability


@pytest.mark.parametrize("stale", [True, False])
def test_an_installed_library_of_another_source_is_not_used(stale, monkeypatch, tmp_path):
    key = flags.key(torch.backends.cpu.get_cpu_capability())
    capability = fake_library(tmp_path, "another" if stale else key)
    monkeypatch.setattr(flags, "key", lambda capability: key)
    monkeypatch.setattr(flags, "FOLDER", tmp_path)
    assert (native.installed(capability) is None) == stale


def test_the_key_changes_with_source_and_flags(monkeypatch, tmp_path):
    keys = set(map(flags.key, flags.INSTRUCTIONS))
    monkeypatch.setattr(flags, "COMPILE", [*flags.COMPILE, "-g"])
    keys.add(flags.key("AVX2"))
    names = (*flags.SOURCES, *flags.HEADERS)
    for name in names:
        shutil.copy(flags.FOLDER / name, tmp_path)
    monkeypatch.setattr(flags, "FOLDER", tmp_path)
    for name in names:
        (tmp_path / name).write_text("// another")
        keys.add(flags.key("AVX2"))
    assert len(keys) == len(flags.INSTRUCTIONS) + 1 + len(names)


def test_a_network_tells_its_engine_and_takes_one_that_is_there(monkeypatch):
    net = StackedMLP(2, 3, (4,), 1, generator=torch.Generator())
    assert engine_of(net) == engine_of(object()) == "eager"
    compute_by("eager", net)
    assert net.computed_by is None
    with monkeypatch.context() as without:
        without.setattr(native, "_library", lambda precision: native.Unavailable("none here"))
        compute_by("native", net)
        assert engine_of(net) == "eager"
    compute_by("native", net)
    assert engine_of(net) == "native"
    compute_by("native", object())  # a policy that is no network


def test_the_cache_is_the_users(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert native.cache_folder() == Path("/somewhere/surefoot")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert native.cache_folder() == Path(os.path.expanduser("~/.cache/surefoot"))


def network(**shape: bool) -> StackedMLP:
    return StackedMLP(2, 3, (4,), 1, generator=torch.Generator().manual_seed(0), **shape)


def test_what_is_attached_is_computed_by_the_engine_and_lies_in_one_tensor():
    owner = torch.nn.ModuleDict({"critic": network(), "normalised": network(layer_norm=True)})
    held = {name: value.clone() for name, value in owner.state_dict().items()}
    attach("torch", [owner, torch.ones(1)])
    parameters = list(owner.parameters())
    whole = flat_of(parameters)
    assert whole is not None
    assert {p.untyped_storage().data_ptr() for p in parameters} == {whole.values.untyped_storage().data_ptr()}
    assert all(torch.equal(value, held[name]) for name, value in owner.state_dict().items())
    assert engine_of(owner) == "torch"
    attach("torch", [owner])  # what an optimiser has is left where it is
    assert flat_of(parameters) is whole


def test_what_stays_with_autograd_is_told_unless_nothing_trains_it():
    agent = torch.nn.ModuleDict({"critic": network(), "normalised": network(layer_norm=True)})
    agent["target"] = network(layer_norm=True).requires_grad_(False)
    assert coverage(agent) == ([], ["critic", "normalised"])
    compute_by("torch", agent)
    assert coverage(agent) == (["critic"], ["normalised"])
    parts = SimpleNamespace(STATEFUL=("nets", "steps"), nets=agent, steps=3)
    assert coverage(SimpleNamespace(STATEFUL=("parts",), parts=parts)) == (
        ["parts.nets.critic"],
        ["parts.nets.normalised"],
    )


def test_a_flat_tensor_is_that_of_all_of_its_parameters_in_their_order():
    parameters = [torch.nn.Parameter(torch.full((2,), float(i))) for i in range(3)]
    assert flat_of(parameters) is None
    whole = Flat(parameters)
    assert flat_of(parameters) is whole
    first, second, third = parameters
    for others in ([], [first, second], [first, third, second], [first, second, torch.nn.Parameter(third.clone())]):
        assert flat_of(others) is None


def test_the_first_compiler_that_is_there_compiles(afresh, monkeypatch, tmp_path):
    """Of two the second is no argument of the first."""
    for name in ("g++", "clang++"):
        compiler = tmp_path / "bin" / name
        compiler.parent.mkdir(exist_ok=True)
        compiler.write_text(f'#!/bin/sh\necho "error: {name} was told $1" >&2\nexit 1')
        compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert f"with g++ (error: g++ was told {flags.COMPILE[0]})" in refused()
