"""What traces cost: a span beside one of OpenTelemetry's own SDK, and a round trip of two agents with and without them.

Run: `python benchmarks/tracing.py [rounds]` (default 9). In each round every case runs in turn, so that a slow moment
meets all alike; the figures are medians over the rounds, in microseconds of CPU. A span is opened and closed with three
attributes and goes through the SDK's `BatchSpanProcessor` to an exporter that drops it; `no exporter` is the same block
while nobody takes spans. A round trip is two messages between agents on the local transport, each signed and answered
by a `decide`: four spans. Exit code 1 when a span takes more than `LIMIT` times that of the SDK.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import sys
import time
from collections import defaultdict
from contextlib import contextmanager
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult

from converge.core.agent import Agent
from converge.core.decisions import SendMessage
from converge.core.identity import Identity
from converge.core.message import Message
from converge.extensions.otel.resource import scope_of_converge
from converge.extensions.otel.spans import Conversion, WaitingSpan
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.observability.tracing import Span, register_span_exporter, trace, unregister_span_exporter
from converge.runtime.loop import AgentRuntime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from opentelemetry.sdk.trace import ReadableSpan

    from converge.core.task import Task
    from converge.observability.tracing import AttributeValue

LIMIT = 1.0
SPANS, ROUND_TRIPS = 2_000, 400
ATTRIBUTES: dict[str, AttributeValue] = {"converge.agent.id": "a" * 64, "converge.messages": 1, "converge.tasks": 0}


class Dropping(SpanExporter):
    """Translates what is Converge's as `converge-otel` does, and drops all."""

    def __init__(self) -> None:
        self._convert = Conversion(Resource.get_empty(), scope_of_converge())

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        for each in spans:
            if isinstance(each, WaitingSpan):
                self._convert(each.span)
        return SpanExportResult.SUCCESS


class Taking:
    """What `converge-otel` does with a span where it ends."""

    def __init__(self, processor: BatchSpanProcessor) -> None:
        self._processor = processor

    def export(self, span: Span) -> None:
        self._processor.on_end(WaitingSpan(span))


class Answering(Agent):
    answered = 0

    def decide(self, messages: Sequence[Message], tasks: Sequence[Task]) -> list[SendMessage]:
        self.answered += len(messages)
        return [SendMessage(Message(recipient=message.sender, payload={"n": 1})) for message in messages]


@contextmanager
def taking(exporter: Taking) -> Iterator[None]:
    register_span_exporter(exporter)
    try:
        yield
    finally:
        unregister_span_exporter(exporter)


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    provider = TracerProvider(shutdown_on_exit=False)
    processor = BatchSpanProcessor(Dropping(), max_queue_size=10 * SPANS)
    provider.add_span_processor(processor)
    tracer, exporter = provider.get_tracer("bench"), Taking(processor)

    def of_the_sdk() -> None:
        for _ in range(SPANS):
            with tracer.start_as_current_span("step", attributes=ATTRIBUTES):
                pass

    def of_converge() -> None:
        for _ in range(SPANS):
            with trace("step", ATTRIBUTES):
                pass

    taken: dict[str, list[float]] = defaultdict(list)
    for _ in range(rounds):
        taken["span of the SDK"].append(timed(of_the_sdk, SPANS))
        taken["span, no exporter"].append(timed(of_converge, SPANS))
        taken["round trip, no exporter"].append(timed(round_trips, ROUND_TRIPS))
        with taking(exporter):
            taken["span"].append(timed(of_converge, SPANS))
            taken["round trip"].append(timed(round_trips, ROUND_TRIPS))
        processor.force_flush()
    processor.shutdown()  # type: ignore[no-untyped-call]  # the SDK's method has no annotation
    median = {case: statistics.median(values) for case, values in taken.items()}
    ratio = median["span"] / median["span of the SDK"]
    for case, value in median.items():
        print(f"{case:26}{value:8.1f} µs")
    print(
        json.dumps(
            {
                "benchmark": "tracing",
                "python": sys.version.partition(" ")[0],
                "rounds": rounds,
                "microseconds": {case: round(value, 2) for case, value in median.items()},
                "ratio": round(ratio, 2),
                "limit": LIMIT,
            }
        )
    )
    return int(ratio > LIMIT)


def round_trips() -> None:
    asyncio.run(_round_trips())


async def _round_trips() -> None:
    registry = LocalTransportRegistry()
    one, other = Answering(Identity.generate()), Answering(Identity.generate())
    runtimes = [AgentRuntime(agent, LocalTransport(agent.id, registry)) for agent in (one, other)]
    async with runtimes[0], runtimes[1]:
        await one.context.network.send(Message(recipient=other.id, payload={}))
        while one.answered < ROUND_TRIPS:  # noqa: ASYNC110  # an event would be one more thing to measure
            await asyncio.sleep(0.005)


def timed(work: Callable[[], None], count: int) -> float:
    """The microseconds of CPU that each of `count` takes."""
    gc.collect()
    start = time.process_time()
    work()
    return (time.process_time() - start) * 1e6 / count


if __name__ == "__main__":
    sys.exit(main())
