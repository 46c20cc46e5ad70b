"""Traces and metrics through OpenTelemetry, pushed to an OTLP collector over HTTP."""

from __future__ import annotations

from converge.extensions.otel.options import OpenTelemetryOptions
from converge.extensions.otel.plugin import OpenTelemetry

__all__ = ["OpenTelemetry", "OpenTelemetryOptions"]
