"""What a hub answers to who watches over it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from converge.observability.http import Response
from converge.observability.metrics import CONTENT_TYPE, MetricsCollector, Sample

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from converge.network.transport.websocket.hub import WebSocketHub
    from converge.observability.http import Route

__all__ = ["routes_of"]

_NOW = ("agents", "connections", "subscriptions", "unauthenticated", "waiting_bytes", "waiting_messages")


def routes_of(hub: WebSocketHub) -> Mapping[str, Route]:
    """`/health`, `/ready` and `/metrics` of `hub`: well and ready while it listens."""
    metrics = MetricsCollector()
    metrics.add_source(lambda: _samples(hub))

    async def state() -> Response:
        listens = hub.is_listening
        body = {"healthy": listens, "agents": hub.metrics()["agents"]}
        return Response(json.dumps(body) + "\n", 200 if listens else 503, "application/json")

    async def all_metrics() -> Response:
        return Response(metrics.format_prometheus(), content_type=CONTENT_TYPE)

    return {"/health": state, "/ready": state, "/metrics": all_metrics}


def _samples(hub: WebSocketHub) -> Iterator[Sample]:
    for name, value in hub.metrics().items():
        if name in _NOW:
            yield Sample(f"converge_hub_{name}", value, "gauge")
        else:
            yield Sample("converge_hub_events_total", value, labels=(("event", name),))
