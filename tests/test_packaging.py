"""What users install: a wheel that is all of `surefoot` and nothing else, or an editable install of the folders."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from surefoot.agents.parts.engine import flags

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
FOREIGN = b"owner = 'openai-agents'\n"  # a distribution whose top-level package is called as one of our folders
TIMEOUT = 120
COMPILERS = ("c++", "g++", "clang++")
ENGINE = "surefoot/agents/parts/engine"
WHICH = (
    "from surefoot.agents.parts.engine import native\n"
    "try: print(native.library()._name)\n"
    "except native.Unavailable as error: print(error)"
)


def run(*arguments: str | Path, cwd: Path, **environment: str) -> str:
    """Return what a Python process printed; its error output is in the failure."""
    call = [sys.executable, *map(str, arguments)]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(call, cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, f"{call}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def pip(*arguments: str | Path, cwd: Path, **environment: str) -> None:
    """Run pip without a network."""
    always = ("--no-deps", "--no-index", "--quiet")
    run("-m", "pip", "--disable-pip-version-check", *arguments, *always, cwd=cwd, **environment)


def quick_compiler(folder: Path) -> dict[str, str]:
    """Return settings by which kernels are compiled without optimising: it is not their speed that is tested here."""
    if (compiler := next(filter(None, map(shutil.which, COMPILERS)), None)) is None:
        return {}
    path = folder / "compiler"
    path.write_text(f'#!/bin/sh\nexec {compiler} "$@" -O0\n')
    path.chmod(0o755)
    return {"CC": str(path), "CXX": str(path)}


def copy_of_the_checkout(to: Path) -> Path:
    """Return a copy of what a build reads: it leaves nothing in the checkout and finds no old build there."""
    for folder in {Path(folder).parts[0] for folder in FOLDERS.values()}:
        shutil.copytree(ROOT / folder, to / folder, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, to)
    return to


def foreign_wheel(folder: Path) -> Path:
    """Return a wheel that owns the top-level package `agents`."""
    path, info = folder / "foreign-1.0-py3-none-any.whl", "foreign-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("agents/__init__.py", FOREIGN)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: foreign\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", f"agents/__init__.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return path


def libraries() -> set[str]:
    """Return the names in a wheel of the kernels that are compiled here."""
    built = platform.machine() == "x86_64" and any(map(shutil.which, COMPILERS))
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return {f"{ENGINE}/kernels_{name.lower()}{suffix}" for name in flags.INSTRUCTIONS} if built else set()


def site_packages() -> str:
    return os.pathsep.join(dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib")))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel once."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    quick = quick_compiler(tmp_path_factory.mktemp("compiler"))
    pip("wheel", copy_of_the_checkout(source), "--no-build-isolation", "--wheel-dir", out, cwd=out, **quick)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def target(wheel, tmp_path_factory):
    """Install the foreign distribution and then ours into one folder; --upgrade replaces what both would own."""
    folder = tmp_path_factory.mktemp("target")
    for each in (foreign_wheel(wheel.parent), wheel):
        pip("install", "--target", folder, "--upgrade", each, cwd=folder)
    return folder


@pytest.fixture
def installed(target, tmp_path):
    """Return a function that runs Python on the installed folder and the dependencies, without the checkout.

    -S leaves out the .pth files of site-packages, and with them the editable install; -P the working folder.
    """
    path = os.pathsep.join([str(target), site_packages()])
    return lambda *arguments, **more: run("-S", "-P", *arguments, cwd=tmp_path, PYTHONPATH=path, **more)


def names_in(wheel: Path) -> set[str]:
    return {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}


def files_of_the_packages() -> set[str]:
    """Return what a wheel has to hold beside the libraries."""
    return {
        f"{package.replace('.', '/')}/{path.relative_to(ROOT / folder).as_posix()}"
        for package, folder in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".hdf5", ".md", ".cpp", ".h") or path.name == "py.typed"
    }


def test_the_wheel_holds_every_file_of_the_packages_and_no_other(wheel):
    assert names_in(wheel) == files_of_the_packages() | libraries()
    assert "surefoot/py.typed" in names_in(wheel)  # for all of its sub-packages


def test_the_installed_kernels_are_used_unless_their_source_has_changed(installed, target, tmp_path):
    def used() -> str:
        return installed("-c", WHICH, XDG_CACHE_HOME=str(tmp_path / "cache"), CXX="/bin/false").strip()

    assert not libraries() or used() in {str(target / name) for name in libraries()}
    source = target / ENGINE / "kernels.cpp"
    before = source.read_text()
    try:
        source.write_text(before + "\n")
        assert "could not be compiled with /bin/false" in used()
    finally:
        source.write_text(before)


def test_no_library_is_tuned_to_the_machine_that_builds():
    built = [flag for name in flags.INSTRUCTIONS for flag in flags.compile_flags(name)]
    assert not [flag for flag in built if flag.startswith(("-march", "-mtune", "-mcpu", "-ffast-math"))]


def test_a_build_without_a_compiler_goes_on(tmp_path):
    """A whole wheel with no library: updates then run in PyTorch, or a compiler of the user's is found later."""
    source = copy_of_the_checkout(tmp_path / "source")
    environment = {"CC": "/bin/false", "CXX": "/bin/false"}
    run("setup.py", "-q", "build_ext", "--build-lib", tmp_path / "out", cwd=source, **environment)
    assert not list(tmp_path.rglob("*.so"))


def test_every_module_of_the_wheel_is_imported_from_it_with_its_presets_and_its_sample(installed, target):
    """In one process: the packages that these import take longer than all of ours."""
    modules = [".".join(path.relative_to(target).with_suffix("").parts) for path in target.glob("surefoot/**/*.py")]
    wanted = sorted(name.removesuffix(".__init__") for name in modules if not name.endswith("sb3_bridge"))  # an extra
    code = (
        f"import importlib\nfor name in {wanted}: print(importlib.import_module(name).__file__)\n"
        "from surefoot.offline_data import load\n"
        "from surefoot.training.config.presets import load_preset\n"
        "print(load_preset('h2o', 'demo').data.source, len(load('sample:halfcheetah-demo')))"
    )
    *files, source, rows = installed("-c", code).split()
    assert len(files) == len(wanted) > 30
    assert all(Path(file).is_relative_to(target) for file in files), files
    assert source == "sample:halfcheetah-demo"
    assert int(rows) > 10_000


def test_the_console_command_is_there(installed, target):
    (ours,) = metadata.distributions(name="surefoot", path=[str(target)])
    (entry,) = ours.entry_points.select(group="console_scripts")
    assert (entry.name, entry.value) == ("surefoot", "surefoot.training.cli.main:main")
    extras = {
        "minari",
        "wandb",
        "tensorboard",
        "video",
        "sb3",
        "atari",
        "dm-control",
        "robotics",
        "ray",
        "onnx",
        "hub",
        "warp",
        "sklearn",
        "benchmarks",
        "docs",
        "dev",
    }
    assert set(ours.metadata.get_all("Provides-Extra")) == extras
    assert installed(target / "bin" / "surefoot", "--version").strip() == f"surefoot {ours.version}"


def test_a_distribution_called_agents_stays_whole(installed, target):
    assert (target / "agents" / "__init__.py").read_bytes() == FOREIGN
    code = "import agents, surefoot.agents; print(agents.owner, 'h2o' in surefoot.agents.REGISTRY)"
    assert installed("-c", code).split() == ["openai-agents", "True"]


@pytest.mark.parametrize("package", FOLDERS)
def test_the_editable_install_maps_the_folders(package):
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert Path(str(spec.origin)) == ROOT / FOLDERS[package] / "__init__.py"


@pytest.mark.slow
def test_build_makes_a_wheel_with_the_libraries_from_the_source_distribution(tmp_path):
    """`python -m build` packs the sources and makes the wheel from what it packed, not from the checkout."""
    source = copy_of_the_checkout(tmp_path / "source")
    run("-m", "build", "--no-isolation", "--outdir", tmp_path / "out", source, cwd=tmp_path)
    (built,) = (tmp_path / "out").glob("*.whl")
    assert len(list((tmp_path / "out").glob("*.tar.gz"))) == 1
    assert names_in(built) == files_of_the_packages() | libraries()


@pytest.mark.slow
def test_an_editable_install_in_a_fresh_environment_follows_the_checkout(tmp_path):
    for name in ("checkout", "elsewhere"):
        (tmp_path / name).mkdir()
    checkout = copy_of_the_checkout(tmp_path / "checkout")
    run("-m", "venv", "--without-pip", "fresh", cwd=tmp_path)
    fresh = tmp_path / "fresh" / "bin" / "python"
    scheme = {"base": str(tmp_path / "fresh"), "platbase": str(tmp_path / "fresh")}
    site = Path(sysconfig.get_path("purelib", "venv", scheme))
    (site / "dependencies.pth").write_text("\n".join(site_packages().split(os.pathsep)))  # nested .pth are not read
    pip("--python", fresh, "install", foreign_wheel(tmp_path), cwd=tmp_path)
    pip("--python", fresh, "install", "--no-build-isolation", "--editable", checkout, cwd=tmp_path)
    (checkout / "configs" / "h2o" / "mine.yaml").write_text("seed: 3\n")
    code = (
        "import agents, surefoot.agents, surefoot.configs\n"
        "print(agents.owner, surefoot.agents.__file__, *surefoot.configs.preset_names('h2o'))"
    )
    call = [fresh, "-c", code]
    done = subprocess.run(call, cwd=tmp_path / "elsewhere", capture_output=True, text=True, check=True, timeout=TIMEOUT)
    owner, file, *presets = done.stdout.split()
    assert owner == "openai-agents"
    assert Path(file) == checkout / "agents" / "__init__.py"
    assert "mine" in presets
    assert (site / "agents" / "__init__.py").read_bytes() == FOREIGN
