"""The docstrings below the fields of dataclasses, which are the help texts of their options.

tyro finds them too. But it parses a class's whole module for every class anew, which is a third of the time that a help
text takes, and keeps the line breaks of the source.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import fields, is_dataclass
from functools import cache
from itertools import pairwise, takewhile
from pathlib import Path
from types import MappingProxyType
from typing import Any


@cache
def describe_fields(form: Any) -> None:
    """Lay the text of every field of a dataclass down as its `metadata["help"]`, where tyro looks first."""
    texts = field_texts(form)
    for field in fields(form):
        if field.name in texts:
            field.metadata = MappingProxyType({"help": texts[field.name], **field.metadata})


def field_texts(form: type) -> dict[str, str]:
    """Return field -> the docstring below it, in one line, of a dataclass and its bases; none where there is no source.

    Of classes at the top of a module, as all of ours are.
    """
    texts: dict[str, str] = {}
    for kind in filter(is_dataclass, reversed(form.__mro__)):
        for field, text in pairwise(_body(kind)):
            match field, text:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                    texts[name] = " ".join(words.split())
    return texts


def _body(kind: type) -> list[ast.stmt]:
    """Return the statements of a class: of the lines below `class NAME` that are indented, empty or close a bracket."""
    file = Path(getattr(sys.modules.get(kind.__module__), "__file__", None) or "")
    lines = iter(file.read_text(encoding="utf-8").splitlines() if file.is_file() else [])
    start = (f"class {kind.__name__}:", f"class {kind.__name__}(")
    head = next((line for line in lines if line.startswith(start)), "")
    statements = ast.parse("\n".join([head, *takewhile(lambda line: line[:1] in ("", " ", ")"), lines)])).body
    return [inner for outer in statements if isinstance(outer, ast.ClassDef) for inner in outer.body]
