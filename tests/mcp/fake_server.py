"""An MCP server that misbehaves as it is told, of the standard library only: it starts in a blink.

Started as a program with a folder, in which it notes what happens, and what it does when it is asked for its tools.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

TOOLS = (
    "echo",
    "die",
    "hang",
    "huge",
    "garbage",
    "spawn",
    "error",
    "refuse",
    "big_number",
    "image",
    "bad_base64",
    "nonsense",
)
_lock = threading.Lock()


def write(message: dict[str, Any]) -> None:
    with _lock:
        sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
        sys.stdout.flush()


def note(folder: Path, name: str, text: str) -> None:
    with (folder / name).open("a") as file:
        file.write(text + "\n")


def tools(folder: Path, manner: str) -> list[dict[str, Any]]:
    if manner == "renames" and len((folder / "starts").read_text().split()) > 1:
        return []
    schema = {"type": "object", "properties": {"text": {"type": "string"}}}
    found: list[dict[str, Any]] = [
        {"name": name, "description": f"Does \x1b[31m{name}.", "inputSchema": schema} for name in TOOLS
    ]
    if manner == "odd names":
        found += [{"name": name, "inputSchema": schema} for name in ("", "x" * 200, "a\nb")]
    if manner == "twice":
        found.append(found[0])
    return found


def call(folder: Path, name: str, params: dict[str, Any]) -> dict[str, Any] | None:
    match name:
        case "die":
            os._exit(3)
        case "hang":
            return None
        case "huge":
            return text("x" * 3_000_000)
        case "garbage":
            sys.stdout.write("this is no message\n" * 3)
            return text("after the garbage")
        case "spawn":
            child = subprocess.Popen(["sleep", "300"])
            return text(str(child.pid))
        case "error":
            return {"content": [{"type": "text", "text": "it \x1b[2Jfailed"}], "isError": True}
        case "big_number":
            return {"content": [], "structuredContent": {"n": 2**70}}
        case "image":
            return {"content": [{"type": "image", "mimeType": "image/png", "data": "AAEC"}]}
        case "nonsense":
            return {"content": "nonsense"}
        case "bad_base64":
            return {"content": [{"type": "image", "mimeType": "image/png", "data": "?"}]}
    return text(params.get("text", "nothing"))


def text(value: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": value}]}


def answer(folder: Path, manner: str, message: dict[str, Any]) -> None:
    method, params = message.get("method"), message.get("params") or {}
    if method == "notifications/cancelled":
        note(folder, "cancelled", str(params.get("requestId")))
    if "id" not in message:
        return
    result: dict[str, Any] | None
    if method == "initialize":
        info = {"name": "fake", "version": "1"}
        version = params["protocolVersion"]
        result = {"protocolVersion": version, "capabilities": {"tools": {}}, "serverInfo": info}
    elif method == "tools/list":
        result = None if manner == "hangs" else {"tools": tools(folder, manner)}
        if manner == "endless":
            result = {"tools": [], "nextCursor": "more"}
    elif method == "tools/call" and params["name"] != "refuse":
        result = call(folder, params["name"], params.get("arguments") or {})
    else:
        write({"id": message["id"], "error": {"code": -32601, "message": f"no {method}"}})
        return
    if result is not None:
        write({"id": message["id"], "result": result})


def main() -> None:
    folder, manner = Path(sys.argv[1]), sys.argv[2]
    note(folder, "starts", str(os.getpid()))
    sys.stderr.write("hello \x1b[31m from the server\n")
    if manner == "floods":
        while True:
            sys.stdout.write("garbage " * 100 + "\n")
    if manner == "one endless line":
        while True:
            sys.stdout.write("garbage " * 1000)
    if manner == "cannot start":
        sys.exit("I need a licence")
    if manner == "ignores signals":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for line in sys.stdin:
        answer(folder, manner, json.loads(line))
    while manner == "ignores signals":
        time.sleep(1)


if __name__ == "__main__":
    main()
