"""What the spans and metrics of this process come from."""

from __future__ import annotations

import os
import uuid
from importlib.metadata import version
from typing import TYPE_CHECKING

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

if TYPE_CHECKING:
    from converge.extensions.otel.options import OpenTelemetryOptions

__all__ = ["resource_of", "scope_of_converge"]

_DEFAULT_SERVICE = "converge"


def resource_of(options: OpenTelemetryOptions) -> Resource:
    """The resource: the options go before `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, these before defaults."""
    given = {"service.name": options.service_name, "service.instance.id": options.instance_id}
    named = {name: value for name, value in given.items() if value is not None}
    resource = Resource.create({"process.pid": os.getpid(), **named})
    missing = {}
    if str(resource.attributes["service.name"]).startswith("unknown_service"):  # the SDK's own default
        missing["service.name"] = _DEFAULT_SERVICE
    if not resource.attributes.get("service.instance.id"):  # SDKs before 1.40 make none
        missing["service.instance.id"] = str(uuid.uuid4())
    return resource.merge(Resource(missing))


def scope_of_converge() -> InstrumentationScope:
    """What has made the spans: Converge itself, and the code of users that calls its `trace`."""
    return InstrumentationScope("converge", version("converge-core"))
