"""The mutants of a file: copies that each differ in one small way, of which its tests should notice every one.

Most operators are those of Cosmic Ray; the rest are what goes wrong in code of this kind: a statement that is missing,
a `detach` or a `clamp` that is, `amin` for `amax`, a tolerance that is far too wide. What tests need not notice is left
out: annotations, signatures, fields of settings, messages, assertions, what an `AgentSpec` says of an agent.
"""

from __future__ import annotations

import ast
import difflib
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from cosmic_ray.ast import ast_nodes, get_ast, is_number
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators import (
    binary_operator_replacement,
    boolean_replacer,
    break_continue,
    comparison_operator_replacement,
    number_replacer,
    unary_operator_replacement,
    zero_iteration_for_loop,
)
from cosmic_ray.operators.operator import Operator
from parso.python.tree import Keyword, Name, Number

Region = tuple[tuple[int, int], tuple[int, int]]  # (line, column) of the beginning and the end


class Mutant(NamedTuple):
    """One change of a file."""

    line: int  # from 1
    lines: tuple[int, int]  # first and last of the statement
    where: str  # function, dotted; "" for the module
    before: str
    after: str
    source: str  # the whole file


# --- what is changed ------------------------------------------------------------------------------------------------

SWAPPED = [{"amin", "amax"}, {"min", "max"}, {"argmin", "argmax"}, {"sum", "mean"}, {"any", "all"}, {"floor", "ceil"}]
SWAPPED += [{"zeros", "ones"}, {"zeros_like", "ones_like"}, {"minimum", "maximum"}, {"sin", "cos"}]
OTHER_NAME = {name: other for one, two in map(sorted, SWAPPED) for name, other in ((one, two), (two, one))}
DROPPED = {"detach", "clamp", "clip", "abs", "square", "sqrt", "exp", "log", "clone", "copy", "nan_to_num", "unique"}
TINY = 1e-3  # a number below it is a tolerance or a guard


class DropStatement(Operator):
    """A call, an augmented assignment or an assignment to a part of something becomes `pass`.

    Not the attributes that `__init__` makes: nothing would run without them.
    """

    def mutation_positions(self, node: Any) -> Iterator[Region]:
        if node.type == "simple_stmt" and _does_something(node.children[0]):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        old = node.children[0]
        node.children[0] = Keyword("pass", old.start_pos, prefix=old.get_first_leaf().prefix)
        return node

    @classmethod
    def examples(cls) -> tuple[Any, ...]:
        return ()


def _does_something(statement: Any) -> bool:
    if statement.type != "expr_stmt":
        return statement.type in ("atom_expr", "power")
    target, operator = statement.children[:2]
    if operator.type == "annassign":
        return False
    if operator.value != "=":
        return True
    function = statement.search_ancestor("funcdef")
    return target.type in ("atom_expr", "power") and (function is None or function.name.value != "__init__")


class DropCall(Operator):
    """x.detach() becomes x, and so for other methods that return a changed copy."""

    def mutation_positions(self, node: Any) -> Iterator[Region]:
        yield from [(node.children[i].start_pos, node.children[i + 1].end_pos) for i in _droppable(node)]

    def mutate(self, node: Any, index: int) -> Any:
        i = _droppable(node)[index]
        del node.children[i : i + 2]
        return node

    @classmethod
    def examples(cls) -> tuple[Any, ...]:
        return ()


def _droppable(node: Any) -> list[int]:
    if node.type not in ("atom_expr", "power"):
        return []
    pairs = zip(node.children[1:], node.children[2:], strict=False)
    return [i for i, (name, call) in enumerate(pairs, 1) if _method(name) in DROPPED and _opens(call) == "("]


def _method(trailer: Any) -> str:
    return trailer.children[1].value if _opens(trailer) == "." else ""


def _opens(trailer: Any) -> str:
    return trailer.children[0].value if trailer.type == "trailer" else ""


class SwapName(Operator):
    """`amin` becomes `amax`, `sum` becomes `mean`, and so on."""

    def mutation_positions(self, node: Any) -> Iterator[Region]:
        if isinstance(node, Name) and node.value in OTHER_NAME and _is_called(node):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        node.value = OTHER_NAME[node.value]
        return node

    @classmethod
    def examples(cls) -> tuple[Any, ...]:
        return ()


def _is_called(name: Any) -> bool:
    following = name.get_next_leaf()
    return following is not None and following.value == "(" and name.parent.type != "funcdef"


class ReplaceInteger(number_replacer.NumberReplacer):
    """n becomes n + 1 or n − 1."""

    def mutation_positions(self, node: Any) -> Iterator[Region]:
        return super().mutation_positions(node) if is_number(node) and _is_whole(node.value) else iter(())

    def mutate(self, node: Any, index: int) -> Any:
        number = str(int(node.value, 0) + number_replacer.OFFSETS[index])
        return Number(number, node.start_pos, prefix=node.prefix)


def _is_whole(number: str) -> bool:
    return number.isdigit() or number[:2] in ("0x", "0X")


class ReplaceFloat(Operator):
    """x becomes 1.5·x; a tolerance or a guard a million times as much."""

    def mutation_positions(self, node: Any) -> Iterator[Region]:
        if is_number(node) and not _is_whole(node.value) and float(node.value):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        value = float(node.value)
        return Number(repr(value * (1e6 if value < TINY else 1.5)), node.start_pos, prefix=node.prefix)

    @classmethod
    def examples(cls) -> tuple[Any, ...]:
        return ()


def _named(module: Any, prefix: str, pairs: str) -> list[type[Operator]]:
    return [getattr(module, f"{prefix}_{pair}") for pair in pairs.split()]


OPERATORS: list[type[Operator]] = [
    DropStatement,
    DropCall,
    SwapName,
    ReplaceInteger,
    ReplaceFloat,
    *_named(
        binary_operator_replacement,
        "ReplaceBinaryOperator",
        "Add_Sub Sub_Add Mul_Div Div_Mul FloorDiv_Mul Mod_Mul Pow_Mul BitAnd_BitOr BitOr_BitAnd",
    ),
    *_named(
        comparison_operator_replacement,
        "ReplaceComparisonOperator",
        "Lt_LtE Lt_GtE LtE_Lt LtE_Gt Gt_GtE Gt_LtE GtE_Gt GtE_Lt Eq_NotEq NotEq_Eq Is_IsNot IsNot_Is",
    ),
    *_named(unary_operator_replacement, "ReplaceUnaryOperator", "Delete_USub Delete_Invert Delete_Not"),
    boolean_replacer.AddNot,
    boolean_replacer.ReplaceAndWithOr,
    boolean_replacer.ReplaceOrWithAnd,
    boolean_replacer.ReplaceFalseWithTrue,
    boolean_replacer.ReplaceTrueWithFalse,
    break_continue.ReplaceBreakWithContinue,
    zero_iteration_for_loop.ZeroIterationForLoop,
]


# --- what is not ------------------------------------------------------------------------------------------------------


def left_out(source: str) -> list[Region]:
    """Return the regions that are not mutated."""
    tree, regions = ast.parse(source), []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            first = node.decorator_list[0] if node.decorator_list else node
            regions.append(((first.lineno, 0), (node.body[0].lineno, node.body[0].col_offset)))
        elif isinstance(node, ast.ClassDef):
            fields = [item for item in node.body if isinstance(item, ast.AnnAssign | ast.Assign)]
            regions += [region_of(item) for item in (*fields, *node.decorator_list)]
        elif isinstance(node, ast.AnnAssign):
            regions.append(region_of(node.annotation))
        elif isinstance(node, ast.Raise | ast.Assert | ast.Import | ast.ImportFrom | ast.JoinedStr) or _is_strict(node):
            regions.append(region_of(node))
    return [in_characters(region, source) for region in regions + [region_of(item) for item in _described(tree)]]


def _is_strict(node: ast.AST) -> bool:
    """Whether this is `strict=True` of `zip`, an assertion."""
    return isinstance(node, ast.keyword) and node.arg == "strict"


def _described(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield what says of an agent what the rest must know: the module's assignments of texts, types and AgentSpecs."""
    for item in tree.body:
        if isinstance(item, ast.Assign) and isinstance(item.value, ast.Call):
            if getattr(item.value.func, "id", "") in ("AgentSpec", "TypeVar", "NewType"):
                yield item
        elif isinstance(item, ast.If) and "TYPE_CHECKING" in ast.dump(item.test):
            yield item


def region_of(node: Any) -> Region:
    """Return where a node stands, columns in bytes."""
    return (node.lineno, node.col_offset), (node.end_lineno, node.end_col_offset)


def in_characters(region: Region, source: str) -> Region:
    """Return a region with columns in characters, as Cosmic Ray counts them."""
    lines = source.split("\n")
    (line, column), (last, end) = region
    return (line, len(lines[line - 1].encode()[:column].decode())), (last, len(lines[last - 1].encode()[:end].decode()))


# --- all of them, and some --------------------------------------------------------------------------------------------


def places(source: str) -> dict[Region, list[tuple[type[Operator], int]]]:
    """Return every place that can be changed, with the operators that do and the number of the occurrence."""
    skipped, nodes, found = left_out(source), list(ast_nodes(get_ast(source))), {}
    for operator in OPERATORS:
        regions = [region for node in nodes for region in operator().mutation_positions(node)]
        for occurrence, region in enumerate(regions):
            if not any(begin <= region[0] and region[1] <= end for begin, end in skipped):
                found.setdefault(region, []).append((operator, occurrence))
    return dict(sorted(found.items()))


def draw(source: str, count: int, seed: str) -> Iterator[Mutant]:
    """Yield `count` mutants at places drawn at random, one a place; fewer where there are not so many."""
    generator, found = random.Random(seed), places(source)
    for region in generator.sample(list(found), len(found)):
        if count == 0:
            return
        if mutant := make(source, region, *generator.choice(found[region])):
            count -= 1
            yield mutant


def make(source: str, region: Region, operator: type[Operator], occurrence: int) -> Mutant | None:
    """Return a mutant; None where the change is none, or is no Python."""
    mutated = mutate_code(source, operator(), occurrence)
    if mutated is None or mutated == source or not compiles(mutated):
        return None
    return describe(source, mutated, region[0][0])


def compiles(source: str) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def describe(source: str, mutated: str, line: int) -> Mutant:
    """Return a mutant with the lines that differ, without their spaces at the ends."""
    changes = list(difflib.ndiff(source.splitlines(), mutated.splitlines()))
    before, after = (" ".join(c[2:].strip() for c in changes if c.startswith(sign)) for sign in ("- ", "+ "))
    where, lines = surroundings(source, line)
    return Mutant(line, lines, where, before, " ".join(after.split()), mutated)


def surroundings(source: str, line: int) -> tuple[str, tuple[int, int]]:
    """Return the dotted name of the function or class around a line, and the lines of its innermost statement."""
    names, lines, level = [], (line, line), [*ast.parse(source).body]
    while level:
        around = [node for node in level if node.lineno <= line <= (node.end_lineno or 0)]
        if not around:
            break
        node, inside = around[-1], [child for child in ast.iter_child_nodes(around[-1]) if hasattr(child, "lineno")]
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            lines = (node.lineno, max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or line)
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        level = [child for child in inside if isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case)]
    return ".".join(names), lines
