"""What can be set; for what is not, the SDK's environment variables `OTEL_*` hold, and then its defaults."""

from __future__ import annotations

from urllib.parse import urlsplit

from attrs import Attribute, field, frozen, validators

from converge.plugins import Secret

__all__ = ["MAX_FLUSH_TIMEOUT_SEC", "OpenTelemetryOptions"]

MAX_FLUSH_TIMEOUT_SEC = 4.5
"""The most that a stop may wait for the collector: Converge gives a lifecycle listener 5 s."""


def _check_endpoint(_: object, __: Attribute[str | None], value: str | None) -> None:
    if value is None:
        return
    url = urlsplit(value)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ValueError(f"{value!r} is no URL of a collector; write one such as http://127.0.0.1:4318")
    if url.username or url.password:
        raise ValueError('a password has no place in the URL; write headers = { authorization = { env = "NAME" } }')
    if url.query or url.fragment:
        raise ValueError(f"{value!r} has a query; it is the base URL, to which v1/traces and v1/metrics are added")


@frozen(kw_only=True)
class OpenTelemetryOptions:
    """Options of the `otel` hooks plugin.

    `endpoint`: the base URL of the collector, to which `/v1/traces` and `/v1/metrics` are added. `service_name` and
    `instance_id`: how the processes are told apart; by default `OTEL_SERVICE_NAME` or "converge", and a new UUID for
    each process. `headers`: sent with each request, such as `{ authorization = { env = "OTLP_TOKEN" } }`.

    `traces`, `metrics`: what is pushed. `metrics_interval_sec`: how often (`OTEL_METRIC_EXPORT_INTERVAL`, 60 s).
    `queue_size`: spans that may wait (`OTEL_BSP_MAX_QUEUE_SIZE`, 2,048); beyond, new ones are dropped and counted.
    `flush_timeout_sec`: how long the last agent's stop may wait for the collector to take the rest.
    """

    endpoint: str | None = field(default=None, validator=_check_endpoint)
    service_name: str | None = None
    instance_id: str | None = None
    headers: dict[str, Secret] = field(factory=dict)
    traces: bool = True
    metrics: bool = True
    metrics_interval_sec: float | None = field(default=None, validator=validators.optional(validators.gt(0)))
    queue_size: int | None = field(default=None, validator=validators.optional(validators.ge(1)))
    flush_timeout_sec: float = field(default=4.0, validator=[validators.gt(0), validators.le(MAX_FLUSH_TIMEOUT_SEC)])
