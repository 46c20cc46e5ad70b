"""The import paths of the contract, what importing them loads, and the shape of the source tree."""

from __future__ import annotations

import importlib
import inspect
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

FORBIDDEN = (
    "anthropic",
    "apsw",
    "cattrs",
    "click",
    "docstring_parser",
    "hypothesis",
    "mistralai",
    "msgspec",
    "openai",
    "opentelemetry",
    "pytest",
    "rich",
    "tomllib",
    "websockets",
    "yaml",
)
"""What an agent that runs does not need, or not before it asks for it."""

SHARED_LEVELS = ("", "network", "network/transport", "extensions", "extensions/storage")
"""Folders of `converge` that several distributions fill (PEP 420)."""

CONTRACT: dict[str, dict[str, str | None]] = {
    "converge.core.identity": {
        "Identity": "public_key, private_key, fingerprint",
        "Identity.generate": "",
        "Identity.from_public_key": "public_key",
        "Identity.save": "self, path, password=None",
        "Identity.load": "path, password=None",
    },
    "converge.core.message": {
        "Message": "id, sender, recipient=None, topics=(), payload=None, task_id=None, timestamp=None, signature=None",
        "Message.sign": "self, identity",
        "Message.verify": "self, public_key=None",
        "Message.to_bytes": "self",
        "Message.from_bytes": "data",
        "Message.to_dict": "self",
        "Message.from_dict": "data",
        "Message.encrypt_payload": "self, key",
        "Message.decrypt_payload": "self, key",
        "Message.evolve": "self",
        "sign_batch": "messages, identity",
    },
    "converge.core.snapshot": {"Snapshot": "message", "Snapshot.message": "self"},
    "converge.core.topic": {
        "Topic": "namespace, attributes=None, version='1.0'",
        "Topic.to_dict": "self",
        "Topic.from_dict": "data",
    },
    "converge.core.task": {
        "Task": "id, objective, inputs, outputs=None, constraints=None, evaluator='default', state=None,"
        "assigned_to=None, result=None, claimed_at=None, pool_id=None, topic=None, required_capabilities=None",
        "TaskState": None,
    },
    "converge.core.pool": {
        "Pool": "id, topics, admission_policy, governance, agents, trust_model, trust_threshold",
        "Pool.add_agent": "self, agent_id",
        "Pool.remove_agent": "self, agent_id",
    },
    "converge.core.capability": {
        "Capability": "name, version, description, constraints, costs, latency_ms",
        "CapabilitySet.add": "self, capability",
        "CapabilitySet.has": "self, name",
    },
    "converge.core.store": {
        "Store.put": "self, key, value",
        "Store.get": "self, key",
        "Store.delete": "self, key",
        "Store.list": "self, prefix=''",
        "Store.put_if_absent": "self, key, value",
        "VersionedStore.get_versioned": "self, key",
        "VersionedStore.compare_and_set": "self, key, value, expected",
        "VersionedStore.put_many": "self, items",
        "VersionedStore.changes": "self, cursor, prefix=''",
        "versioned": "store",
    },
    "converge.core.agent": {
        "Agent": "identity",
        "Agent.decide": "self, messages, tasks",
        "Agent.on_start": "self",
        "Agent.on_stop": "self",
        "Agent.on_tick": "self, messages, tasks",
        "Agent.sign_message": "self, message",
        "AgentState": None,
        "Outcome": "decision, status, value=None, error=None",
    },
    "converge.core.decisions": {"Decision": None},  # the others, with their parameters: core/test_decisions.py
    "converge.core.tools": {
        "Tool": None,
        "tool": None,
        "ToolRegistry": "",
        "ToolRegistry.register": "self, tool",
        "ToolRegistry.get": "self, name",
        "ToolRegistry.list_names": "self",
    },
    "converge.network.transport.base": {
        "Transport.start": "self",
        "Transport.stop": "self",
        "Transport.send": "self, message",
        "Transport.receive": "self, timeout=None",
        "Transport.receive_verified": "self, identity_registry=None, timeout=None",
        "Transport.subscribe": "self, topic",
        "Transport.unsubscribe": "self, topic",
    },
    "converge.network.transport.local": {
        "LocalTransport": "agent_id, registry=None",
        "LocalTransportRegistry": "",
        "LocalTransportRegistry.register": "self, agent_id, mailbox",
        "LocalTransportRegistry.unregister": "self, agent_id",
        "LocalTransportRegistry.subscribe": "self, agent_id, topic",
        "LocalTransportRegistry.unsubscribe": "self, agent_id, topic",
        "LocalTransportRegistry.clear": "self",
    },
    "converge.network.identity_registry": {
        "IdentityRegistry": "",
        "IdentityRegistry.register": "self, agent_id, public_key",
        "IdentityRegistry.unregister": "self, agent_id",
        "IdentityRegistry.get": "self, agent_id",
        "IdentityRegistry.__contains__": "self, agent_id",
    },
    "converge.network.discovery": {
        "AgentDescriptor": "id, topics, capabilities, public_key=None",
        "AgentDescriptor.to_dict": "self",
        "AgentDescriptor.from_dict": "data",
        "DiscoveryQuery": "topics=(), capabilities=(), trust_threshold=0.0",
        "DiscoveryService": "store=None, trust_model=None",
        "DiscoveryService.register": "self, descriptor",
        "DiscoveryService.unregister": "self, agent_id",
        "DiscoveryService.query": "self, query, candidates=None, refresh_from_store=False",
    },
    "converge.network.network": {
        "build_descriptor": "agent",
        "AgentNetwork": "transport",
        "AgentNetwork.register_agent": "self, agent",
        "AgentNetwork.unregister_agent": "self, agent_id",
        "AgentNetwork.send": "self, message",
        "AgentNetwork.broadcast": "self, message",
        "AgentNetwork.discover": "self, query",
    },
    "converge.network.errors": {"Undeliverable": None},
    "converge.coordination.pool_manager": {
        "PoolManager": "store=None",
        "PoolManager.create_pool": "self, spec",
        "PoolManager.join_pool": "self, agent_id, pool_id, *, token=None",
        "PoolManager.leave_pool": "self, agent_id, pool_id",
        "PoolManager.get_pool": "self, pool_id",
        "PoolManager.get_pools_for_agent": "self, agent_id",
    },
    "converge.coordination.task_manager": {
        "TaskManager": "store=None",
        "TaskManager.submit": "self, task",
        "TaskManager.submit_many": "self, tasks",
        "TaskManager.claim": "self, agent_id, task_id, *, pool_ids=None, capabilities=None",
        "TaskManager.report": "self, agent_id, task_id, result",
        "TaskManager.fail_task": "self, task_id, reason, *, agent_id=None",
        "TaskManager.cancel_task": "self, task_id",
        "TaskManager.release_expired_claims": "self, now_ts=None",
        "TaskManager.get_task": "self, task_id",
        "TaskManager.list_pending_tasks": "self",
        "TaskManager.list_pending_tasks_for_agent": "self, agent_id, pool_ids=None, capabilities=None, topics=None,"
        "limit=None",
        "TaskManager.renew_claim": "self, agent_id, task_id",
        "Claim": None,
    },
    "converge.coordination.bidding": {
        "AuctionType": None,
        "BiddingProtocol": "auction_type, store=None",
        "BiddingProtocol.submit_bid": "self, agent_id, amount, content=None",
        "BiddingProtocol.resolve": "self",
    },
    "converge.coordination.negotiation": {
        "NegotiationState": None,
        "NegotiationProtocol": "store=None",
        "NegotiationProtocol.get_session": "self, session_id",
    },
    "converge.coordination.delegation": {
        "DelegationProtocol": "store=None",
        "DelegationProtocol.get": "self, delegation_id",
        "DelegationProtocol.revoke": "self, delegation_id, *, agent_id=None",
    },
    "converge.coordination.consensus": {"Consensus.majority_vote": "votes", "Consensus.plurality_vote": "votes"},
    "converge.coordination.errors": {"ClaimLost": None, "TaskConflict": None},
    "converge.runtime.loop": {
        "AgentRuntime": "agent, transport, pool_manager=None, task_manager=None, metrics_collector=None,"
        "discovery_service=None, agent_descriptor=None, identity_registry=None, replay_log=None, tool_registry=None,"
        "checkpoint_store=None, checkpoint_interval_sec=60.0, inbox=None, inbox_kwargs=None, scheduler=None,"
        "executor_factory=None, executor_kwargs=None, health_check=None, ready_check=None, receive_timeout_sec=30.0,"
        "claim_ttl_interval_sec=None",
        "AgentRuntime.start": "self",
        "AgentRuntime.stop": "self",
        "AgentRuntime.is_healthy": "self",
        "AgentRuntime.is_ready": "self",
        "AgentRuntime.running": None,
        "Inbox": "maxsize=None, drop_when_full=False",
        "Inbox.push": "self, message",
        "Inbox.poll": "self, batch_size=10",
    },
    "converge.runtime.scheduler": {
        "Scheduler": "",
        "Scheduler.notify": "self",
        "Scheduler.wait_for_work": "self, timeout",
    },
    "converge.runtime.executor": {
        "Executor.execute": "self, decisions",
        "StandardExecutor": "agent_id, network, task_manager, pool_manager, *, metrics_collector=None,"
        "votes_store=None, safety_policy=None, replay_log=None, tool_registry=None, custom_handlers=None,"
        "tool_timeout_sec=60.0, tool_allowlist=None",
    },
    "converge.policy.admission": {
        "AdmissionPolicy.can_admit": "self, agent_id, context",
        "OpenAdmission": "",
        "WhitelistAdmission": "agents",
        "TokenAdmission": "token",
    },
    "converge.policy.trust": {
        "TrustModel": "default_trust=0.5",
        "TrustModel.get_trust": "self, agent_id",
        "TrustModel.update_trust": "self, agent_id, delta",
    },
    "converge.policy.governance": {
        "GovernanceModel.resolve_dispute": "self, context",
        "DemocraticGovernance": "",
        "DictatorialGovernance": "leader_id",
        "BicameralGovernance": "",
        "VetoGovernance": "veto_agent_id",
        "EmpiricalGovernance": "",
    },
    "converge.policy.safety": {
        "ResourceLimits": "max_cpu_tokens=1.0, max_memory_mb=512, max_network_requests=100",
        "ActionPolicy": "allowed_actions=None",
        "ActionPolicy.is_allowed": "self, name",
        "validate_safety": "limits, cpu, mem",
    },
    "converge.observability.metrics": {
        "MetricsCollector": None,
        "MetricsCollector.inc": None,
        "MetricsCollector.gauge": None,
        "MetricsCollector.snapshot": "self",
        "MetricsCollector.format_prometheus": "self",
    },
    "converge.observability.tracing": {
        "trace": "name",
        "get_current_trace_id": "",
        "register_span_exporter": None,
        "SpanExporter": None,
    },
    "converge.observability.replay": {
        "ReplayLog.record_message": "self, message",
        "ReplayLog.export": "self, path",
        "ReplayLog.load": "self, path",
    },
    "converge.observability.logging": {
        "configure_logging": None,
        "get_logger": None,
        "log_struct": None,
        "JsonFormatter": None,
    },
    "converge.extensions.crypto": {
        "encrypt": "plaintext, key, associated_data=None",
        "decrypt": "ciphertext, key, associated_data=None",
        "derive_key": "password, salt, length=32, iterations=100_000",
        "secure_random_bytes": "length",
    },
    "converge.extensions.storage.memory": {"MemoryStore": ""},
    "converge.extensions.storage.sqlite": {"SQLiteStore": "path"},
    "converge.network.transport.websocket": {
        "WebSocketTransport": "agent_id, uri, identity=None, hub_id=None",
        "WebSocketHub": "host='127.0.0.1', port=0",
        "WebSocketHub.__aenter__": "self",
        "WebSocketHub.uri": None,
    },
}
"""What the contract documents and is built today: module → name → parameters; None where it gives no parameters.

A default of None stands for one whose value the contract leaves open.
"""

NAMES = [(module, name, parameters) for module, names in CONTRACT.items() for name, parameters in names.items()]


def found(module: str, name: str) -> object:
    value: object = importlib.import_module(module)
    for part in name.split("."):
        value = getattr(value, part)
    return value


def documented(parameters: str) -> inspect.Signature:
    scope: dict[str, Callable[..., object]] = {}
    exec(f"def call({parameters}): ...", scope)
    return inspect.signature(scope["call"])


def differences(promised: inspect.Signature, actual: inspect.Signature) -> list[str]:
    """What a caller who follows the contract would stumble over."""
    positional = [p.name for p in promised.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    taken = [p.name for p in actual.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    wrong = [] if taken[: len(positional)] == positional else [f"positional: {taken}, not {positional}"]
    for parameter in promised.parameters.values():
        mine = actual.parameters.get(parameter.name)
        if mine is None or mine.kind is mine.POSITIONAL_ONLY:
            wrong.append(f"{parameter.name} cannot be given by name")
        elif parameter.default is not parameter.empty:
            if mine.default is mine.empty:
                wrong.append(f"{parameter.name} has no default")
            elif parameter.default not in (None, ()) and mine.default != parameter.default:
                wrong.append(f"{parameter.name} defaults to {mine.default!r}, not {parameter.default!r}")
    return wrong + [
        f"{mine.name} is required beyond the contract"
        for mine in actual.parameters.values()
        if mine.name not in promised.parameters
        and mine.default is mine.empty
        and mine.kind in (mine.POSITIONAL_OR_KEYWORD, mine.KEYWORD_ONLY)
    ]


@pytest.mark.parametrize(("module", "name", "parameters"), NAMES, ids=[f"{module}.{name}" for module, name, _ in NAMES])
def test_a_documented_name_can_be_imported_and_called_as_documented(
    module: str, name: str, parameters: str | None
) -> None:
    value = found(module, name)
    if parameters is not None:
        assert callable(value)
        assert differences(documented(parameters), inspect.signature(value)) == []


def test_a_signature_that_differs_is_noticed() -> None:
    promised = documented("a, b=1, *, c=None")
    assert differences(promised, documented("a, b=1, *, c=3, d=None")) == []
    for other in ("b, a=1, *, c=3", "a, b=2, *, c=3", "a, b=1", "a, b=1, *, c", "a, b=1, *, c=None, d"):
        assert differences(promised, documented(other)) != []


def loaded_by(*imports: str) -> set[str]:
    code = f"import json, sys\nfor name in {imports!r}: __import__(name)\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return {name.partition(".")[0] for name in json.loads(done.stdout)}


@pytest.mark.parametrize(
    "name", ["converge.runtime.loop", "converge.runtime.executor", "converge.coordination.task_manager"]
)
def test_what_runs_an_agent_loads_no_sdk_and_nothing_it_may_not_need(name: str) -> None:
    assert loaded_by(name) & set(FORBIDDEN) == set()


def test_all_of_core_but_its_testing_kit_does_without_them_config_files_aside() -> None:
    source = ROOT / "converge-core/src"
    files = [file.relative_to(source).with_suffix("") for file in sorted(source.rglob("*.py"))]
    names = [".".join(file.parts).removesuffix(".__init__") for file in files]
    core = [name for name in names if not name.startswith("converge.testing")]
    assert loaded_by(*core) & set(FORBIDDEN) == {"tomllib"}


def test_the_check_of_what_is_loaded_can_fail() -> None:
    assert loaded_by("converge.cli.main") >= {"click"}


def test_no_module_is_longer_than_500_lines() -> None:
    lengths = {
        str(file.relative_to(ROOT)): len(file.read_text().splitlines())
        for folder in ("converge-*/src", "examples", "benchmarks")
        for file in ROOT.glob(f"{folder}/**/*.py")
    }
    assert len(lengths) > 100
    assert {name: length for name, length in lengths.items() if length > 500} == {}


def test_no_init_stands_where_distributions_share_a_namespace() -> None:
    for source in ROOT.glob("converge-*/src"):
        for level in SHARED_LEVELS:
            assert not (source / "converge" / level / "__init__.py").exists()


def test_every_other_folder_is_a_package_with_one_docstring() -> None:
    shared = {Path("converge") / level for level in SHARED_LEVELS}
    for source in ROOT.glob("converge-*/src"):
        for folder in {file.parent for file in source.rglob("*.py")}:
            if folder.relative_to(source) not in shared:
                init = folder / "__init__.py"
                assert init.exists(), folder
                assert init.read_text().startswith('"""'), init
