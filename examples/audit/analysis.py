"""The figures of one Python file: its size, its functions, and how complex their control flow is."""

from __future__ import annotations

import ast
import gc
import re
import threading
import warnings
from typing import TypedDict

from attrs import define

__all__ = ["Complex", "Long", "Result", "analyse", "unreadable"]


class Long(TypedDict):
    """A function by its length: lines from its `def` (decorators left out) to its last, both counted."""

    name: str
    line: int
    length: int


class Complex(TypedDict):
    """A function by its cyclomatic complexity."""

    name: str
    line: int
    complexity: int


class Result(TypedDict):
    """What `analyse` finds, as plain data that a store or a message can carry.

    `size` is in bytes. `longest` and `worst` are None without functions, and of equals the first in the file.
    `error` is None, or says why there are no figures: `functions` and `complexity` are 0 then.
    """

    path: str
    size: int
    lines: int
    functions: int
    longest: Long | None
    complexity: int
    worst: Complex | None
    error: str | None


def analyse(data: bytes, path: str) -> Result:
    """The figures of the module whose source is `data`; never raises for what is in the file.

    Encoding declarations and a byte order mark are respected (PEP 263). A file that does not parse is reported with
    the reason in `error`, which starts with the line (`line 3: …`) when the parser knows it.

    Complexity is McCabe's cyclomatic number (T. J. McCabe, "A Complexity Measure", IEEE Transactions on Software
    Engineering SE-2(4), 1976): for each function 1 + its decision points, and the module's total is the sum over its
    functions plus 1 + the decision points outside of them. A decision point is

    - each `if`, `elif`, conditional expression, `for`, `async for`, `while` and `except`;
    - each `and` and `or`: a chain of n operands counts n - 1;
    - each `for` and each `if` in a comprehension or generator expression;
    - each `case` that may fail to match, and each guard of a case; `case _` and `case name` count nothing.

    `else`, `finally`, `with` and `assert` open no path of their own and do not count. A nested function counts on its
    own, as `outer.inner`; a class body and a lambda belong to the function or module that they stand in, and so do
    the decorators, defaults and annotations of a function.
    """
    try:
        tree = _parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return _failed(path, len(data), _lines(data), _reason(error, data))
    functions, outside = _measure(tree)
    return Result(
        path=path,
        size=len(data),
        lines=_lines(data),
        functions=len(functions),
        longest=_longest(functions),
        complexity=outside + sum(function.complexity for function in functions),
        worst=_worst(functions),
        error=None,
    )


def unreadable(path: str, reason: str) -> Result:
    """The result of a file that could not be read at all."""
    return _failed(path, 0, 0, reason)


def _failed(path: str, size: int, lines: int, reason: str) -> Result:
    return Result(path=path, size=size, lines=lines, functions=0, longest=None, complexity=0, worst=None, error=reason)


def _lines(data: bytes) -> int:
    return len(data.splitlines())


_PARSED_NAME = "<source under audit>"
_QUIET = ("ignore", None, Warning, re.compile(re.escape(_PARSED_NAME)), 0)
_PARSING = threading.Lock()
"""One thread parses at a time. It costs nothing, as the parser holds the interpreter anyway; and CPython 3.11 counts
the depth of all threads' trees in one place, so two at once may end in a SystemError (python/cpython#106905)."""


def _parse(data: bytes) -> ast.Module:
    """The tree of `data`, without the warnings that its literals and operators may cause.

    `warnings.catch_warnings` swaps state that all threads share. A filter that stays, for a file name that nobody
    else parses, needs no swap; it has to come first, or a filter "error" would turn a warning into a syntax error.
    """
    with _PARSING:
        if warnings.filters[:1] != [_QUIET]:
            warnings.filterwarnings("ignore", module=_QUIET[3].pattern)
        collects = gc.isenabled()
        gc.disable()  # a tree has no cycles: collecting while it grows finds nothing, and takes a third of the time
        try:
            return ast.parse(data, _PARSED_NAME)
        finally:
            if collects:
                gc.enable()


def _reason(error: Exception, data: bytes) -> str:
    """One line on why `data` does not parse; it can always be encoded as UTF-8."""
    if isinstance(error, RecursionError | MemoryError):
        return f"nested too deeply for the parser ({type(error).__name__})"
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    line = error.lineno if isinstance(error, SyntaxError) else None
    if not line and "null byte" in text and b"\0" in data:  # the parser does not say where it is
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
    text = text.encode("utf-8", "backslashreplace").decode()
    return f"line {line}: {text}" if line else text


@define
class _Function:
    """A function that is being measured, or the module's own code."""

    name: str
    line: int
    length: int
    complexity: int = 1


@define
class _Scope:
    """Where a node stands: the function that its decisions count for, and what names in it start with."""

    function: _Function
    prefix: str


def _measure(tree: ast.Module) -> tuple[list[_Function], int]:
    """The functions of `tree`, and the complexity of the code outside of them.

    One walk with its own stack: its time grows with the tree alone, and no depth of nesting is too much for it.
    """
    functions: list[_Function] = []
    module = _Scope(_Function("", 0, 0), "")
    pending: list[tuple[ast.AST, _Scope]] = [(tree, module)]
    while pending:
        node, scope = pending.pop()
        inside = scope
        if isinstance(node, _DEFINITIONS):
            inside = _enter(node, scope)
            if inside.function is not scope.function:
                functions.append(inside.function)
        else:
            scope.function.complexity += _decisions(node)
        pending.extend(
            # of a definition only the statements are inside, its decorators and defaults are not
            (child, inside if isinstance(child, ast.stmt) else scope)
            for child in ast.iter_child_nodes(node)
            if not isinstance(child, _LEAVES)
        )
    return functions, module.function.complexity


def _longest(functions: list[_Function]) -> Long | None:
    if not functions:
        return None
    found = max(functions, key=lambda function: (function.length, -function.line))
    return Long(name=found.name, line=found.line, length=found.length)


def _worst(functions: list[_Function]) -> Complex | None:
    if not functions:
        return None
    found = max(functions, key=lambda function: (function.complexity, -function.line))
    return Complex(name=found.name, line=found.line, complexity=found.complexity)


_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_LEAVES = (ast.Name, ast.Constant, ast.expr_context, ast.operator, ast.cmpop, ast.unaryop, ast.boolop, ast.alias)
_BRANCHES = (ast.If, ast.IfExp, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler)


def _enter(node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef, scope: _Scope) -> _Scope:
    """The scope of the statements in a definition that stands in `scope`."""
    name = scope.prefix + node.name
    if isinstance(node, ast.ClassDef):
        return _Scope(scope.function, f"{name}.")
    last = node.end_lineno or node.lineno
    return _Scope(_Function(name, node.lineno, last - node.lineno + 1), f"{name}.")


def _decisions(node: ast.AST) -> int:
    """How many decision points `node` itself is, without the nodes below it."""
    if isinstance(node, _BRANCHES):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    if isinstance(node, ast.match_case):
        return (not _always_matches(node.pattern)) + (node.guard is not None)
    return 0


def _always_matches(pattern: ast.pattern) -> bool:
    if isinstance(pattern, ast.MatchOr):
        pattern = pattern.patterns[-1]  # only the last alternative may be a name or a wildcard
    return isinstance(pattern, ast.MatchAs) and pattern.pattern is None
