"""Replies that no decision, or only some, may come from."""

from __future__ import annotations

import json
from typing import Any

JOIN = {"type": "JoinPool", "pool_id": "p"}
WRONG_WHOLES: list[Any] = [[None], [1, 2], ["JoinPool"], [[JOIN]], [[]], {"decisions": [JOIN]}]
WHOLE = json.dumps([{"type": "ReportTask", "task_id": "t", "result": {"a": ["]", '"', "\\", {"b": 1}]}}])


def not_json() -> list[Any]:
    return [
        "", " ", "\n", "\x00", "no", "null", "true", "1", '"[]"', "{}", "[", "]", "[[", "[]]", "][", "}{", "{]", "[}",
        "[1", "[1,]", "[,]", "['a']", "[{'type': 'JoinPool'}]", "[{type: 1}]", "```json\n```", "```json\n[", "``````",
        "I would rather not.", "Sorry!", "<tool>JoinPool</tool>", "\ufeff", "\ud800", "[\ud800]", '["\\ud800"]',
        "[{}", "[{]}", "[\"", '["\\', '{"a": [', "[//]", "[{}] [", "\u2028[\u2028", "NaN", "[NaN]", "[Infinity]",
        "[-Infinity]", "[1e999]", "[0x10]", "[.5]", "[+1]", "[01]", "[1_000]", '[{"type":"JoinPool","pool_id":"p"]',
    ]  # fmt: skip


def truncated() -> list[Any]:
    return [WHOLE[:end] for end in range(len(WHOLE))]


def nested() -> list[Any]:
    deep = 100_000
    return [
        "[" * deep,
        "[" * deep + "]" * deep,
        "{" * deep,
        '{"a":' * deep,
        '{"a":' * deep + "1" + "}" * deep,
        '[{"type":"SubmitTask","task":{"inputs":{"a":' + "[" * 100 + "]" * 100 + "}}}]",
        '[{"type":"ReportTask","task_id":"t","result":' + "[" * 100_000 + "]" * 100_000 + "}]",
        '[{"type":"JoinPool","pool_id":' + '"' * deep,
        "[[[[]]]]" * 20_000,
        '"' * deep,
        "\\" * deep,
        "[" + "\\" * deep + "]",
        "a" * 1_000_000,
        "[" + "1," * 100_000 + "1]",
    ]


def wrong_types() -> list[Any]:
    bad: list[Any] = [None, True, 1, -1.5, "x" * 257, "", [], {}, ["p"], {"id": "p"}]
    fields = {
        "JoinPool": "pool_id",
        "LeavePool": "pool_id",
        "ClaimTask": "task_id",
    }
    replies = [json.dumps([{"type": name, field: value}]) for name, field in fields.items() for value in bad]
    replies += [json.dumps([{"type": value, "pool_id": "p"}]) for value in [*bad, "joinpool", "Decision", "os.system"]]
    replies += [json.dumps([{"type": "SendMessage", "message": value}]) for value in bad]
    replies += [
        json.dumps([{"type": "SendMessage", "message": {"payload": value}}])
        for value in bad
        if not isinstance(value, dict)
    ]
    replies += [json.dumps([{"type": "SubmitTask", "task": value}]) for value in bad if not isinstance(value, dict)]
    replies += [json.dumps([{"type": "InvokeTool", "tool_name": value}]) for value in bad]
    replies += [json.dumps([{"type": "ReportTask", "task_id": value, "result": 1}]) for value in bad]
    replies += [json.dumps([{"type": "ReportTask", "task_id": "t"}])]
    replies += [json.dumps(value) for value in WRONG_WHOLES]
    replies += [
        json.dumps([{"type": "SubmitTask", "task": {"constraints": {name: value}}}])
        for name, value in [("cpu", -1), ("memory_mb", -1), ("timeout_sec", 0), ("nice", 1), ("cpu", "1")]
    ]
    replies += ['[{"type":"SubmitTask","task":{"constraints":{"cpu":1e999}}}]', '[{"type":"ReportTask","task_id":"t",'
                '"result":NaN}]', '[{"type":"ReportTask","task_id":"t","result":1e400}]',
                '[{"type":"ReportTask","task_id":"t","result":' + "9" * 5_000 + "}]"]  # fmt: skip
    return replies


def forbidden() -> list[Any]:
    """Well-formed, and not allowed by default."""
    decisions: list[dict[str, Any]] = [
        {"type": "CreatePool", "spec": {"id": "p"}},
        {"type": "SubmitBid", "auction_id": "a", "amount": 1},
        {"type": "Vote", "vote_id": "v", "option": "yes"},
        {"type": "Propose", "session_id": "s", "proposal_content": {}},
        {"type": "AcceptProposal", "session_id": "s"},
        {"type": "RejectProposal", "session_id": "s"},
        {"type": "Delegate", "delegatee_id": "x", "scope": ["everything"]},
        {"type": "RevokeDelegation", "delegation_id": "d"},
        {"type": "InvokeTool", "tool_name": "rm", "params": {"path": "/"}},
        {"type": "Decision"},
        {"type": "__class__"},
    ]
    addresses = ["127.0.0.1:22", "http://10.0.0.1/", "ws://hub:1", "../x", "*", "all", "a" * 64, "0" * 64]
    decisions += [
        {"type": "SendMessage", "message": {"recipient": address, "payload": {"secret": 1}}} for address in addresses
    ]
    return [json.dumps([decision]) for decision in decisions]


def no_text() -> list[Any]:
    return [None, 1, 1.5, True, b"[]", [], {}, [JOIN], object(), (), {1}, Exception]


def raised() -> list[BaseException]:
    return [
        ValueError("x"), RuntimeError(), KeyError("k"), OSError(5, "io"), TimeoutError(), StopIteration(),
        StopAsyncIteration(), RecursionError(), MemoryError(), SystemExit(3), KeyboardInterrupt(), AssertionError(),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), BaseException("bare"),
    ]  # fmt: skip


def unusable() -> list[Any]:
    """What no decision may come from."""
    return not_json() + truncated() + nested() + wrong_types() + forbidden() + no_text()
