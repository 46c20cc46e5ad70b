from __future__ import annotations

import ast
import importlib
import json
import sys
import textwrap
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

analysis = importlib.import_module("analysis")
corpus = importlib.import_module("corpus")


def figures(source: str | bytes) -> dict[str, Any]:
    data = textwrap.dedent(source).encode() if isinstance(source, str) else source
    found: dict[str, Any] = analysis.analyse(data, "m.py")
    return found


def complexity(body: str) -> int:
    """The complexity of one function whose body is `body`, counted against a module that is otherwise straight."""
    found = figures("async def f():\n" + textwrap.indent(textwrap.dedent(body), "    "))
    assert found["error"] is None
    assert found["complexity"] == found["worst"]["complexity"] + 1
    return int(found["worst"]["complexity"])


def test_a_module_is_described_by_plain_data() -> None:
    found = figures(
        """\
        import os

        @decorate
        def short(): return 1

        class Box:
            @property
            def long(self):
                if self:
                    return 1

                return 2
        """
    )
    assert found == {
        "path": "m.py",
        "size": 145,
        "lines": 12,
        "functions": 2,
        "longest": {"name": "Box.long", "line": 8, "length": 5},
        "complexity": 4,
        "worst": {"name": "Box.long", "line": 8, "complexity": 2},
        "error": None,
    }
    assert json.loads(json.dumps(found)) == found


def test_an_empty_module_has_no_functions_and_one_path() -> None:
    found = figures(b"")
    assert (found["lines"], found["functions"], found["complexity"]) == (0, 0, 1)
    assert (found["longest"], found["worst"], found["error"]) == (None, None, None)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("pass", 1),
        ("if a: pass", 2),
        ("if a: pass\nelse: pass", 2),
        ("if a: pass\nelif b: pass\nelif c: pass\nelse: pass", 4),
        ("x = 1 if a else 2", 2),
        ("for x in y: pass\nelse: pass", 2),
        ("async for x in y: pass", 2),
        ("while a: pass\nelse: pass", 2),
        ("try: pass\nexcept A: pass\nexcept B: pass\nelse: pass\nfinally: pass", 3),
        ("try: pass\nexcept* A: pass", 2),
        ("with a, b: pass\nasync with c: pass", 1),
        ("assert a", 1),
        ("assert a and b", 2),
        ("return a and b and c", 3),
        ("return a and b or c", 3),
        ("return not a", 1),
        ("return a < b < c", 1),
        ("return [x for x in y]", 2),
        ("return {x: z for x in y if a if b for z in x}", 5),
        ("return (x async for x in y if a or b)", 4),
        ("return lambda: 1 if a else 2", 2),
        ("class C:\n    if a:\n        x = 1", 2),
        ("if a:\n    if b:\n        while c and d:\n            pass", 5),
    ],
)
def test_complexity_counts_by_hand(body: str, expected: int) -> None:
    assert complexity(body) == expected


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        ("case 1", 2),
        ("case 1 | 2 | 3", 2),
        ("case [x, *_]", 2),
        ("case {'k': 1} as d", 2),
        ("case C(x=1)", 2),
        ("case _", 1),
        ("case name", 1),
        ("case (_)", 1),
        ("case 1 | _", 1),
        ("case _ if a", 2),
        ("case 1 if a", 3),
        ("case 1 if a and b", 4),
    ],
)
def test_a_case_counts_unless_it_always_matches_and_so_does_its_guard(case: str, expected: int) -> None:
    assert complexity(f"match x:\n    {case}: pass") == expected


def test_a_match_statement_counts_each_of_its_cases() -> None:
    assert complexity("match x:\n    case 1: pass\n    case 2: pass\n    case _: pass") == 3


def test_nested_functions_count_on_their_own_and_are_named_after_what_they_stand_in() -> None:
    found = figures(
        """\
        def outer():
            if a: pass
            class Local:
                if b: pass
                async def method(self):
                    while c and d or e:
                        pass
            def inner():
                return 1
        if e: pass
        """
    )
    assert found["functions"] == 3
    assert found["worst"] == {"name": "outer.Local.method", "line": 5, "complexity": 4}
    assert found["longest"] == {"name": "outer", "line": 1, "length": 9}
    assert found["complexity"] == 3 + 4 + 1 + 2  # outer, method, inner, the module


def test_decorators_defaults_and_annotations_belong_to_the_code_around_the_function() -> None:
    found = figures("@d(a or b)\ndef f(x=1 if c else 2, *, y: int or str = 3) -> (e and g): pass\n")
    assert found["worst"]["complexity"] == 1
    assert found["complexity"] == 1 + 5


def test_a_function_starts_at_its_def_and_the_first_of_equals_is_named() -> None:
    found = figures("@a\n@b\ndef first():\n    pass\n\ndef second():\n    pass\n")
    assert found["longest"] == {"name": "first", "line": 3, "length": 2}
    assert found["worst"]["name"] == "first"


@pytest.mark.parametrize(
    "data",
    [
        b"# -*- coding: latin-1 -*-\ndef caf\xe9(): return '\xe9'\n",
        b"\xef\xbb\xbfdef caf\xc3\xa9(): return 1\n",
        b"#!/usr/bin/python\r\n# coding: cp1252\r\ndef caf\xe9(): return '\x80'\r\n",
        "def café(): return 1\n".encode(),
    ],
    ids=["latin-1 cookie", "byte order mark", "cookie in line 2 with CRLF", "utf-8"],
)
def test_encoding_declarations_are_respected(data: bytes) -> None:
    found = figures(data)
    assert found["error"] is None
    assert found["longest"]["name"] == "café"
    assert found["size"] == len(data)
    assert found["lines"] == data.count(b"\n")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"x = 1\ndef f(:\n", "line 2: invalid syntax"),
        (b"print 'hello'\n", "line 1: Missing parentheses"),
        (b"x = 1\ny = '\xe9'\n", "'utf-8' codec can't decode byte 0xe9"),
        (b"# coding: no-such\n", "unknown encoding: no-such"),
        (b"\xef\xbb\xbf# coding: latin-1\n", "encoding problem"),
        (b"x = 1\n\0\n", "line 2: source code string cannot contain null bytes"),
        (b"(" * 5000 + b")" * 5000, "line 1: too many nested parentheses"),
        (b"x = " + b"-" * 200_000 + b"1\n", "nested too deeply for the parser"),
        (b"lambda: " * 5000 + b"1\n", "nested too deeply for the parser"),
        (b"".join(b" " * n + b"if a:\n" for n in range(200)), "too many levels of indentation"),
    ],
    ids=[
        "syntax",
        "python-2",
        "not-utf-8",
        "unknown-encoding",
        "bom-and-cookie",
        "null-byte",
        "parens",
        "minus",
        "lambdas",
        "indentation",
    ],
)
def test_a_file_that_does_not_parse_is_reported_with_reason_and_line(data: bytes, error: str) -> None:
    found = figures(data)
    assert error in found["error"]
    assert "\n" not in found["error"]
    assert (found["size"], found["lines"]) == (len(data), len(data.splitlines()))
    assert (found["functions"], found["complexity"], found["longest"], found["worst"]) == (0, 0, None, None)


def test_an_unreadable_file_has_a_result_of_the_same_shape() -> None:
    found = analysis.unreadable("a.py", "cannot be read: Permission denied")
    assert found.keys() == figures(b"").keys()
    assert (found["path"], found["size"], found["error"]) == ("a.py", 0, "cannot be read: Permission denied")


def test_the_walk_is_not_bounded_by_the_recursion_limit() -> None:
    chain = b"if a: pass\n" + b"elif b: pass\n" * 250
    source = b"def f():\n" + b"".join(b"    " + line + b"\n" for line in chain.splitlines())
    tree = ast.parse(source)
    frame, depth = sys._getframe(), 0
    while frame.f_back is not None:
        frame, depth = frame.f_back, depth + 1
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(depth + 60)
    try:
        functions, outside = analysis._measure(tree)
    finally:
        sys.setrecursionlimit(limit)
    assert ([f.complexity for f in functions], outside) == ([252], 1)


def test_source_that_makes_the_parser_warn_is_analysed_without_a_warning_or_an_error() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert figures(rb"x = '\d'; y = 1 is 1; assert (x, 'y')")["error"] is None
    assert caught == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert figures(rb"x = '\d'; y = 1if x else 2")["error"] is None


def test_warnings_of_other_code_are_left_alone() -> None:
    figures(b"")
    with pytest.warns((DeprecationWarning, SyntaxWarning), match="invalid escape"):
        ast.parse(r"'\d'")


def test_the_filter_is_added_once_however_many_files_are_analysed() -> None:
    figures(b"")
    before = list(warnings.filters)
    for _ in range(10):
        figures(rb"'\d'")
    assert warnings.filters == before


def test_threads_analyse_warning_sources_side_by_side() -> None:
    data = rb"x = '\d'" + b"\ndef f(a): return a and 1\n" * 50
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(analysis.analyse, [data] * 64, ["m.py"] * 64))
    assert found == [figures(data)] * 64


def test_the_whole_standard_library_is_analysed_without_an_exception() -> None:
    files = corpus.find("stdlib")
    root = corpus.root_of("stdlib")
    results = [analysis.analyse(corpus.read(root, file.path), file.path) for file in files]
    assert [(found["path"], found["size"]) for found in results] == [(file.path, file.size) for file in files]
    failed = [found for found in results if found["error"]]
    assert len(failed) < len(files) / 50  # the samples of broken syntax among the library's own tests
    assert all(found["complexity"] > found["functions"] for found in results if not found["error"])
    assert sum(found["functions"] for found in results) > 10_000


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_make_it_raise(data: bytes) -> None:
    found = figures(data)
    assert found["size"] == len(data)
    assert (found["error"] is None) == (found["complexity"] > 0)
    json.dumps(found, ensure_ascii=False).encode()
