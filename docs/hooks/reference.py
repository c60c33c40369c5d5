"""Makes the pages of the API reference, one a module, from the sources, and those of CONTRIBUTING and CHANGELOG."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
SOURCES = ROOT / "build" / "typing"
SOURCES.mkdir(parents=True, exist_ok=True)  # before mkdocstrings looks for it: it drops a path that is not there


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lay links to the folders of the package under one parent, where the sources are read (as `make typecheck`)."""
    parent = SOURCES / "surefoot"
    parent.mkdir(parents=True, exist_ok=True)
    targets = {path.name: path for path in (ROOT / FOLDERS["surefoot"]).glob("*.py")}
    targets |= {name.partition(".")[2]: ROOT / folder for name, folder in FOLDERS.items() if name.count(".") == 1}
    for old in parent.iterdir():
        if not old.exists():  # what it led to is gone
            old.unlink(missing_ok=True)
    for name, target in targets.items():
        new = parent / f".{name}.{os.getpid()}"  # another build, or mypy, may be reading
        new.symlink_to(target)
        new.replace(parent / name)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages; put the pages of the folders that the navigation names in their place."""
    for name in ("CONTRIBUTING", "CHANGELOG"):
        text = (ROOT / f"{name}.md").read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, f"{name.lower()}.md", content=text))
    surefoot = griffe.load("surefoot", search_paths=[SOURCES], allow_inspection=False)
    nav: list[dict[str, Any]] = []
    for title, entry in [item for each in config.nav or [] for item in each.items()]:
        pages = pages_of(surefoot, files, config) if entry == "reference/" else pages_in(entry, files)
        nav += [{title: pages}] if pages else []
    config.nav = nav
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Let links to CONTRIBUTING and CHANGELOG, which lie outside of docs/, lead to their pages."""
    outside = r"(?<=\]\()((?:\.\./)*)\.\./(CONTRIBUTING|CHANGELOG)\.md"
    return re.sub(outside, lambda found: f"{found[1]}{found[2].lower()}.md", markdown)


def pages_in(entry: Any, files: Files) -> Any:
    """Return the pages of a folder, its index first; what names no folder stays."""
    if not (isinstance(entry, str) and entry.endswith("/")):
        return entry
    inside = [file.src_uri for file in files.documentation_pages() if Path(file.src_uri).parent == Path(entry)]
    return sorted(inside, key=lambda page: (not page.endswith("index.md"), page))


def pages_of(module: griffe.Object | griffe.Alias, files: Files, config: MkDocsConfig) -> Any:
    """Add the page of a module, and those of all that is in it; return its part of the navigation."""
    at = "/".join(["reference", *module.path.split(".")[1:]])
    if not module.is_init_module:
        files.append(File.generated(config, f"{at}.md", content=f"# `{module.path}`\n\n::: {module.path}\n"))
        return f"{at}.md"
    hidden = {"surefoot.api", "surefoot.bandits"}  # its functions are on the page of `surefoot`
    inner = [each for name, each in sorted(module.modules.items()) if not each.is_alias and each.path not in hidden]
    inner.sort(key=lambda each: each.is_init_module)
    files.append(File.generated(config, f"{at}/index.md", content=page_of_package(module, inner)))
    return [f"{at}/index.md", *({each.name: pages_of(each, files, config)} for each in inner)]


def page_of_package(package: griffe.Object | griffe.Alias, inner: list[Any]) -> str:
    """Return the page of a package: what it defines, links to what it exports, its modules."""
    pages = {each.name: f"{each.name}/index.md" if each.is_init_module else f"{each.name}.md" for each in inner}
    public = [package.members[name] for name in map(str, package.exports or ()) if name in package.members]
    members = [n for n, each in package.members.items() if n[0] != "_" and not each.is_alias and not each.is_module]
    if package.path == "surefoot":  # the public API stands on this page; functions come first
        members = sorted((each.name for each in public if each.is_alias), key=lambda name: (name[0].isupper(), name))
    others = [
        f"[`{each.name}`][{each.target_path}]" if each.is_alias else f"[`{each.name}`]({pages[each.name]})"
        for each in public
        if each.name not in members
    ]
    lines = [f"# `{package.path}`", "", f"::: {package.path}", "    options:", f"      members: {members or False}", ""]
    lines += ["Exported from its modules: " + ", ".join(others) + ".", ""] if others else []
    lines += ["| module | what it holds |", "|---|---|"] if inner else []
    for each in inner:
        text = each.docstring.value.partition("\n")[0] if each.docstring else ""
        lines.append(f"| [`{each.name}`]({pages[each.name]}) | {text.replace('|', chr(92) + '|')} |")
    return "\n".join(lines)


class Tidy(griffe.Extension):
    """Leaves out members without a docstring that are no surprise: special methods, and attributes set by `__init__`.

    `Raises: As X.`, which names no exception, is read as a sentence.
    """

    def on_instance(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^Raises:\n +As (.*)", r"Raises as \1", obj.docstring.value, flags=re.MULTILINE
            )
        owner = obj.parent
        if (
            owner
            and owner.is_class
            and obj.is_attribute
            and any("dataclass" in str(each.value) for each in owner.decorators)
        ):
            obj.public = bool(obj.docstring)  # not taken away: the signature of a dataclass is made of its fields

    def on_package(self, *, pkg: griffe.Object, **_: object) -> None:
        for name, each in list(pkg.members.items()):
            if each.is_alias:
                continue
            known = name.startswith("__") or (each.is_attribute and "__init__" in pkg.members)
            if pkg.is_class and known and name != "__init__" and not each.docstring:
                pkg.del_member(name)
            elif each.is_module or each.is_class:
                self.on_package(pkg=each)
