"""As a plugin: named in a config, beginning with the first agent and ending with the last."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from converge.core.agent import Agent
from converge.core.decisions import SendMessage
from converge.core.identity import Identity
from converge.core.message import Message
from converge.extensions.otel import OpenTelemetry
from converge.network.transport.local import LocalTransport, LocalTransportRegistry
from converge.observability import tracing
from converge.observability.metrics import MetricsCollector
from converge.plugins import PluginError, default_manager
from converge.plugins.lifecycle import Lifecycle
from converge.runtime.application import check
from converge.runtime.config import load_config
from converge.runtime.errors import ConfigError
from converge.runtime.loop import AgentRuntime
from tests.otel.collector import silent, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from converge.core.task import Task
    from tests.otel.collector import Collector


class Echo(Agent):
    """Answers what it is asked, and keeps what comes back."""

    def __init__(self) -> None:
        super().__init__(Identity.generate())
        self.heard = asyncio.Queue[Message]()

    def decide(self, messages: Sequence[Message], tasks: Sequence[Task]) -> list[SendMessage]:
        for message in messages:
            self.heard.put_nowait(message)
        return [SendMessage(message.reply({})) for message in messages if message.payload]


def runtime(agent: Agent, registry: LocalTransportRegistry, lifecycle: Lifecycle) -> AgentRuntime:
    return AgentRuntime(agent, LocalTransport(agent.id, registry), lifecycle=lifecycle)


async def test_it_begins_with_the_first_agent_and_ends_with_the_last(collector: Collector) -> None:
    lifecycle, registry = Lifecycle(), LocalTransportRegistry()
    lifecycle.add(OpenTelemetry(collector.uri), "otel")
    first, second = Echo(), Echo()
    for _ in range(2):
        async with runtime(first, registry, lifecycle):
            assert tracing.is_tracing()
            async with runtime(second, registry, lifecycle):
                await first.context.network.send(Message(recipient=second.id, payload={"how": "are you"}))
                async with asyncio.timeout(30):
                    await first.heard.get()
            assert tracing.is_tracing()
        assert not tracing.is_tracing()
        wait_until(lambda: not [thread for thread in threading.enumerate() if "otel" in thread.name.lower()])
    sends = [span for span in collector.spans if span.name == "send"]
    assert len(sends) == 4
    assert len({span.trace_id for span in sends}) == 2  # an answer is in the trace of what it answers


async def test_a_start_that_fails_ends_it_too(collector: Collector) -> None:
    class Broken(Echo):
        def on_start(self) -> None:
            raise RuntimeError("no")

    lifecycle = Lifecycle()
    lifecycle.add(OpenTelemetry(collector.uri), "otel")
    with pytest.raises(RuntimeError, match="no"):
        await runtime(Broken(), LocalTransportRegistry(), lifecycle).start()
    assert not tracing.is_tracing()


async def test_a_silent_collector_holds_up_neither_the_agents_nor_their_stop(collector: Collector) -> None:
    release = threading.Event()
    collector.answer = silent(release)
    lifecycle, registry = Lifecycle(), LocalTransportRegistry()
    telemetry = OpenTelemetry(collector.uri, queue_size=10, flush_timeout_sec=0.3)
    lifecycle.add(telemetry, "otel")
    first, second = Echo(), Echo()
    async with runtime(first, registry, lifecycle), runtime(second, registry, lifecycle):
        for _ in range(100):
            await first.context.network.request(Message(recipient=second.id, payload={"n": 1}), timeout=30)
    assert not tracing.is_tracing()
    assert telemetry.counters["spans_dropped"] > 0
    release.set()
    wait_until(lambda: not [thread for thread in threading.enumerate() if "otel" in thread.name.lower()])


@pytest.mark.parametrize("header", ["junk", f"00-{'0' * 32}-{'1' * 16}-01", f"00-{'a' * 32}-{'1' * 16}-01-more", "00"])
async def test_a_malformed_traceparent_of_a_peer_begins_a_trace_and_harms_nobody(
    collector: Collector, header: str
) -> None:
    lifecycle, registry, agent = Lifecycle(), LocalTransportRegistry(), Echo()
    lifecycle.add(OpenTelemetry(collector.uri), "otel")
    peer, stranger = LocalTransport("peer", registry), Identity.generate()
    await peer.start()
    async with runtime(agent, registry, lifecycle):
        await peer.send(Message(recipient=agent.id, headers={"traceparent": header}).sign(stranger))
        async with asyncio.timeout(30):
            await agent.heard.get()
    await peer.stop()
    (span,) = (span for span in collector.spans if span.attributes.get("converge.messages") == 1)
    assert (span.parent_id, span.links, span.error) == (None, [], None)


CONFIG = """
[[agents]]
class = "quiet:Quiet"

[plugins]
hooks = [{hooks}]
"""


def config(folder: Path, hooks: str) -> Any:
    (folder / "quiet.py").write_text("from converge.core.agent import Agent\n\n\nclass Quiet(Agent): ...\n")
    (folder / "converge.toml").write_text(CONFIG.format(hooks=hooks))
    return load_config(folder / "converge.toml")


def test_checking_a_config_starts_nothing(tmp_path: Path) -> None:
    check(config(tmp_path, '{ use = "otel", endpoint = "http://127.0.0.1:9" }'))
    assert not tracing.is_tracing()


def test_naming_it_twice_is_an_error_of_the_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is a lifecycle plugin 'otel' already"):
        check(config(tmp_path, '"otel", "otel"'))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ('endpoint = "127.0.0.1:4318"', "endpoint: '127.0.0.1:4318' is no URL of a collector"),
        ('endpoint = "http://me:secret@collector"', "has no place in the URL"),
        ('endpoint = "http://collector/?a=b"', "it is the base URL"),
        ('headers = { authorization = "Bearer x" }', "a secret is taken from the environment only"),
        ('headers = { authorization = { env = "OTLP_TOKEN" } }', "the environment variable OTLP_TOKEN is not set"),
        ("flush_timeout_sec = 9", "flush_timeout_sec"),
        ("queue_size = 0", "queue_size"),
        ("metrics_interval_sec = 0", "metrics_interval_sec"),
        ('service = "x"', "did you mean 'service_name'"),
    ],
)
def test_an_option_that_makes_no_sense_is_named(tmp_path: Path, options: str, said: str) -> None:
    with pytest.raises(PluginError) as caught:
        check(config(tmp_path, f'{{ use = "otel", {options} }}'))
    text = str(caught.value)
    assert said.lower() in text.lower(), text
    assert "secret@" not in text
    assert "Bearer" not in text


def test_a_header_comes_from_the_environment_and_is_shown_nowhere(
    collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTLP_TOKEN", "Bearer 7c1")
    caplog.set_level(0)
    table = {"use": "otel", "endpoint": collector.uri, "headers": {"authorization": {"env": "OTLP_TOKEN"}}}
    metrics = MetricsCollector()
    metrics.inc("early_total")
    telemetry = default_manager().build("hooks", table, metrics_collector=metrics)
    assert isinstance(telemetry, OpenTelemetry)
    with telemetry, tracing.trace("step"):
        pass
    assert {headers["authorization"] for headers in collector.headers} == {"Bearer 7c1"}
    assert "7c1" not in repr(vars(telemetry)) + caplog.text
    assert collector.points != []


def test_the_plugin_is_cheap_to_look_at() -> None:
    """What only checks a config does not pay for the SDK."""
    import subprocess
    import sys

    code = "import sys, converge.extensions.otel; print(any(name.startswith('opentelemetry') for name in sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert said.stdout == "False\n"
