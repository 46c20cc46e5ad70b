"""One server on loopback that answers as the three vendors do, and as they fail."""

from __future__ import annotations

import json
import sys
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from attrs import frozen

from converge.testing.llm import Answer, Failure
from tests.llm.providers.wires import Wire

if TYPE_CHECKING:
    from types import TracebackType

_MOST_HANG_SEC = 60
_STATUSES = {"rate_limited": 429, "overloaded": 503, "rejected": 400, "no_key": 401}


@frozen
class Raw:
    """Bytes in place of what a vendor would send."""

    body: bytes
    content_type: str = "application/json"
    status: int = 200
    headers: dict[str, str] | None = None


@frozen
class Cut:
    """The stream of `answer`, of which the first `events` are sent; then the connection ends."""

    answer: Answer
    events: int


@frozen
class Seen:
    """A request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), OSError):  # who asked may go at any time
            super().handle_error(request, client_address)  # type: ignore[arg-type]  # typed more narrowly above


class LoopbackVendor:
    """The three vendors, each below a path of its own. `will` says what is answered; what is asked is in `seen`."""

    def __init__(self, vendor: str) -> None:
        self.vendor = vendor
        self.seen: list[Seen] = []
        self._script: deque[Answer | Failure | Raw | Cut] = deque()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        root = f"http://127.0.0.1:{self._server.server_address[1]}/{self.vendor}"
        return f"{root}/v1" if self.vendor == "openai" else root

    def will(self, *outcomes: Answer | Failure | Raw | Cut) -> None:
        self._script.extend(outcomes)

    def asked(self) -> bool:
        """Whether a request has arrived."""
        return bool(self.seen)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _next(self, seen: Seen) -> Answer | Failure | Raw | Cut:
        with self._lock:
            self.seen.append(seen)
            return self._script.popleft() if self._script else Raw(b"nothing more is scripted", "text/plain", 418)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        vendor = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                headers = {name.lower(): value for name, value in self.headers.items()}
                outcome = vendor._next(Seen(self.path, headers, body))
                wire = Wire(self.path.split("/")[1])
                try:
                    self._send(wire, outcome, body, headers)
                except OSError:  # who asked has gone
                    self.close_connection = True

            def _send(
                self,
                wire: Wire,
                outcome: Answer | Failure | Raw | Cut,
                body: dict[str, Any],
                headers: dict[str, str],
            ) -> None:
                if isinstance(outcome, Raw):
                    self._whole(outcome.status, outcome.body, outcome.content_type, more=outcome.headers)
                elif isinstance(outcome, Cut):
                    self._stream(wire.events(outcome.answer)[: outcome.events])
                elif isinstance(outcome, Failure):
                    self._fail(wire, outcome, headers, streamed=bool(body.get("stream")))
                elif body.get("stream"):
                    self._stream(wire.events(outcome))
                else:
                    self._whole(200, json.dumps(wire.whole(outcome)).encode())

            def _fail(self, wire: Wire, failure: Failure, headers: dict[str, str], *, streamed: bool) -> None:
                if failure.kind in _STATUSES:
                    self._refuse(wire, failure, headers)
                elif failure.kind == "hang":
                    vendor._over.wait(_MOST_HANG_SEC)
                    self.close_connection = True
                elif failure.kind == "garbage":
                    if streamed:
                        self._stream([b"data: {this is no json\n\n", b"event: message_start\ndata: {nor this\n\n"])
                    else:
                        self._whole(200, b"<html>this is no json")
                elif streamed:
                    events = wire.events(Answer("a text that breaks off"))
                    self._stream(events[: len(events) // 2])
                else:
                    text = json.dumps(wire.whole(Answer("a text that breaks off"))).encode()
                    self._whole(200, text[: len(text) // 2], length=len(text))

            def _refuse(self, wire: Wire, failure: Failure, headers: dict[str, str]) -> None:
                status = _STATUSES[failure.kind]
                key = headers.get("x-api-key") or headers.get("authorization", "").removeprefix("Bearer ")
                text = f"Incorrect API key provided: {key}." if failure.kind == "no_key" else "Not now."
                more = {} if failure.retry_after is None else {"Retry-After": failure.retry_after}
                self._whole(status, json.dumps(wire.error(status, text)).encode(), more=more)

            def _whole(
                self,
                status: int,
                body: bytes,
                content_type: str = "application/json",
                length: int | None = None,
                more: dict[str, str] | None = None,
            ) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body) if length is None else length))
                for name, value in (more or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)
                self.close_connection = length is not None

            def _stream(self, events: list[bytes]) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.send_header("Connection", "close")
                self.end_headers()
                for event in events:
                    self.wfile.write(event)
                self.close_connection = True

            def log_message(self, *args: object) -> None:
                """Nothing: the requests are in `seen`."""

        return Handler
