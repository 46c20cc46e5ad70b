"""The distributions work alone and together, as wheels, as editables, and mixed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.packaging.conftest import NAMES

if TYPE_CHECKING:
    from tests.packaging.conftest import Built, Environment, Environments, Mode

CORE, CLI, FILE, SQLITE = "converge-core", "converge-cli", "converge-storage-file", "converge-storage-sqlite"
WEBSOCKET, OTEL, LLM, MCP = "converge-websocket", "converge-otel", "converge-llm", "converge-mcp"
WHEEL: Mode = "wheel"
EDITABLE: Mode = "editable"
WAYS: dict[str, dict[str, Mode]] = {
    "core alone, wheel": {CORE: WHEEL},
    "core alone, editable": {CORE: EDITABLE},
    "core and sqlite, wheels": {CORE: WHEEL, SQLITE: WHEEL},
    "core and cli, wheels": {CORE: WHEEL, CLI: WHEEL},
    "core and websocket, wheels": {CORE: WHEEL, WEBSOCKET: WHEEL},
    "core and otel, wheels": {CORE: WHEEL, OTEL: WHEEL},
    "core and mcp, wheels": {CORE: WHEEL, MCP: WHEEL},
    "core and llm, wheels": {CORE: WHEEL, LLM: WHEEL},
    "all, wheels": dict.fromkeys(NAMES, WHEEL),
    "all, editable": dict.fromkeys(NAMES, EDITABLE),
    "all, only core editable": dict.fromkeys(NAMES, WHEEL) | {CORE: EDITABLE},
    "all, only core a wheel": dict.fromkeys(NAMES, EDITABLE) | {CORE: WHEEL},
}
DOCUMENTED: dict[str, dict[str, str]] = {
    CORE: {
        "converge.core.agent": "Agent AgentState Outcome",
        "converge.core.capability": "Capability CapabilitySet",
        "converge.core.decisions": "AcceptProposal ClaimTask CreatePool Decision Delegate InvokeTool JoinPool "
        "LeavePool Propose RejectProposal ReportTask RevokeDelegation SendMessage SubmitBid SubmitTask Vote",
        "converge.core.errors": "ConvergeError CursorExpired MessageDecodeError VersionConflict",
        "converge.core.identity": "Identity",
        "converge.core.message": "Message",
        "converge.core.pool": "Pool",
        "converge.core.store": "Store versioned",
        "converge.core.task": "Task TaskState",
        "converge.core.tools": "Tool ToolRegistry tool",
        "converge.core.topic": "Topic",
        "converge.coordination.consensus": "Consensus",
        "converge.coordination.errors": "ClaimLost TaskConflict",
        "converge.coordination.pool_manager": "PoolManager",
        "converge.coordination.task_manager": "Claim TaskManager",
        "converge.extensions.crypto": "decrypt derive_key encrypt secure_random_bytes",
        "converge.extensions.storage.memory": "MemoryStore",
        "converge.network.discovery": "AgentDescriptor DiscoveryQuery DiscoveryService",
        "converge.network.errors": "Undeliverable",
        "converge.network.identity_registry": "IdentityRegistry",
        "converge.network.network": "AgentNetwork build_descriptor",
        "converge.network.transport.base": "Transport",
        "converge.network.transport.local": "LocalTransport LocalTransportRegistry",
        "converge.observability.logging": "JsonFormatter configure_logging get_logger log_struct",
        "converge.observability.metrics": "MetricsCollector",
        "converge.observability.replay": "ReplayLog",
        "converge.observability.tracing": "SpanExporter get_current_trace_id register_span_exporter trace",
        "converge.plugins": "PluginError PluginManager Secret default_manager hookimpl plugin_field",
        "converge.policy.admission": "AdmissionPolicy OpenAdmission TokenAdmission WhitelistAdmission",
        "converge.policy.governance": "BicameralGovernance DemocraticGovernance DictatorialGovernance "
        "EmpiricalGovernance GovernanceModel VetoGovernance",
        "converge.policy.safety": "ActionPolicy ResourceLimits validate_safety",
        "converge.policy.trust": "TrustModel",
        "converge.runtime.executor": "Executor StandardExecutor",
        "converge.runtime.loop": "AgentRuntime Inbox",
        "converge.runtime.scheduler": "Scheduler",
    },
    CLI: {"converge.cli.main": "cli main"},
    FILE: {"converge.extensions.storage.file": "FileStore"},
    SQLITE: {"converge.extensions.storage.sqlite": "SQLiteStore"},
    WEBSOCKET: {"converge.network.transport.websocket": "WebSocketHub WebSocketTransport"},
    LLM: {"converge.extensions.llm": "Budget ChatProvider DecisionRules LLMAgent LLMProvider MemoryWindow"},
    OTEL: {"converge.extensions.otel": "OpenTelemetry OpenTelemetryOptions"},
    MCP: {"converge.extensions.mcp": "MCPTools MCPToolsOptions", "converge.mcp_server": "TaskTools server_of"},
}
UNREACHABLE = ("NewConnectionError", "NameResolutionError", "ConnectTimeoutError", "ProxyError")
"""What pip prints when the network is the problem."""
IMPORT_ALL = """
import importlib, json, sys
missing = []
for module, names in json.loads(sys.argv[1]).items():
    try:
        found = importlib.import_module(module)
    except Exception as error:
        missing.append(f"{module}: {type(error).__name__}: {error}")
    else:
        missing += [f"{module}.{name}" for name in names.split() if not hasattr(found, name)]
print(json.dumps(missing))
"""


def test_every_distribution_has_documented_names() -> None:
    assert set(NAMES) <= set(DOCUMENTED)


@pytest.fixture(scope="module", params=list(WAYS))
def environment(request: pytest.FixtureRequest, environments: Environments) -> Environment:
    return environments.get(WAYS[request.param])


def modules_of(built: Built) -> set[str]:
    """All its modules but the contract tests, which need an extra."""
    dotted = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in built.wheel.paths}
    return {name for name in dotted if not name.startswith("converge.testing") and not name.endswith("py.typed")}


def test_every_module_and_documented_name_can_be_imported_with_the_declared_dependencies_only(
    environment: Environment, built: dict[str, Built]
) -> None:
    modules = {module: "" for name in environment.modes for module in modules_of(built[name])}
    documented = {module: names for name in environment.modes for module, names in DOCUMENTED[name].items()}
    assert len(modules) > 50
    assert environment.evaluate(IMPORT_ALL, json.dumps(modules | documented)) == []


def test_the_shared_levels_are_namespaces_and_modules_come_from_where_they_should(environment: Environment) -> None:
    code = (
        "import importlib, json, sys\n"
        "from importlib.util import find_spec\n"
        "levels = 'converge', 'converge.network', 'converge.network.transport', 'converge.extensions', "
        "'converge.extensions.storage'\n"
        "modules = [importlib.import_module(name) for name in sys.argv[1:]]\n"
        "print(json.dumps([[find_spec(level).origin for level in levels], [module.__file__ for module in modules]]))"
    )
    answer = environment.evaluate(code, *(next(iter(DOCUMENTED[name])) for name in environment.modes))
    assert isinstance(answer, list)
    origins, files = answer
    assert origins == [None] * 5
    installed = [Path(file).is_relative_to(environment.site_packages) for file in files]
    assert installed == [mode == WHEEL for mode in environment.modes.values()]


def test_the_plugins_that_are_found_are_those_of_the_installed_distributions(environment: Environment) -> None:
    code = (
        "import json\nfrom converge.plugins import default_manager as manager\n"
        "print(json.dumps([[each.distribution, each.name] for each in manager().list('store')]))"
    )
    offers = {CORE: [CORE, "memory"], FILE: [FILE, "file"], SQLITE: [SQLITE, "sqlite"]}
    found = environment.evaluate(code)
    assert isinstance(found, list)
    assert sorted(found) == sorted(offers[name] for name in environment.modes if name in offers)


def test_a_plugin_that_is_not_installed_is_an_error_that_says_what_to_install(environments: Environments) -> None:
    code = (
        "import json\nfrom converge.plugins import PluginUnknown, default_manager\n"
        "try:\n    default_manager().find('store', 'sqlite')\n"
        "except PluginUnknown as error:\n    print(json.dumps(str(error)))"
    )
    assert "pip install converge-storage-sqlite" in str(environments.get({CORE: WHEEL}).evaluate(code))


def test_the_transports_and_commands_that_are_found_are_those_of_the_installed_distributions(
    environment: Environment,
) -> None:
    code = (
        "import json\nfrom converge.plugins import default_manager\nmanager = default_manager()\n"
        "print(json.dumps([[each.name for each in manager.list(kind)] for kind in ('transport', 'command')]))"
    )
    brought = WEBSOCKET in environment.modes
    commands = [*["hub"] * brought, *["mcp"] * (MCP in environment.modes)]
    assert environment.evaluate(code) == [["local", "store", *["websocket"] * brought], commands]


def test_the_command_is_there_when_the_cli_is_installed_and_only_then(environment: Environment) -> None:
    assert (environment.folder / "bin" / "converge").exists() == (CLI in environment.modes)


@pytest.mark.parametrize("environment", [way for way in WAYS if CLI in WAYS[way]], indirect=True)
def test_the_command_runs_wherever_it_is_installed(environment: Environment) -> None:
    assert environment.run("converge", "--version").stdout == "converge 0.1.0 (core 0.1.0)\n"
    listed = json.loads(environment.run("converge", "plugins", "list", "--json").stdout)
    assert {plugin["distribution"] for plugin in listed} == set(environment.modes) - {CLI}
    assert {plugin["version"] for plugin in listed} == {"0.1.0"}
    table = environment.run("converge", "plugins", "list").stdout
    assert ("SQLiteStore" in table) == (SQLITE in environment.modes)


@pytest.mark.parametrize("environment", [way for way in WAYS if SQLITE in WAYS[way]], indirect=True)
def test_a_user_program_runs(environment: Environment, tmp_path: Path) -> None:
    program = shutil.copy(Path(__file__).with_name("user_program.py"), tmp_path)
    assert environment.run("python", "-I", "-W", "error", str(program), str(tmp_path)).stdout == "used"


def test_the_testing_extra_brings_what_the_contract_tests_need(environments: Environments) -> None:
    environment = environments.new("testing", {CORE: WHEEL}, extras="[testing]")
    assert environment.evaluate(IMPORT_ALL, json.dumps({"converge.testing.store": "StoreContract"})) == []


def test_taking_one_distribution_away_leaves_the_others_whole(
    environments: Environments, built: dict[str, Built]
) -> None:
    environment = environments.new("uninstalling", {CORE: WHEEL, SQLITE: WHEEL})
    done = environment.pip("uninstall", "--yes", SQLITE)
    assert done.returncode == 0, done.stderr
    modules = dict.fromkeys(modules_of(built[CORE]), "")
    assert environment.evaluate(IMPORT_ALL, json.dumps(modules)) == []
    lost = environment.evaluate(IMPORT_ALL, json.dumps({"converge.extensions.storage.sqlite": ""}))
    assert "ModuleNotFoundError" in str(lost)


def test_pip_resolves_everything_into_an_empty_environment(
    environments: Environments, built: dict[str, Built], tmp_path: Path
) -> None:
    environment = environments.empty("resolved", dict.fromkeys(built, WHEEL))
    done = environment.pip("install", *(str(each.wheel.path) for each in built.values()), isolated=False)
    if any(sign in done.stdout + done.stderr for sign in UNREACHABLE):
        pytest.skip(f"no package index can be reached: {done.stderr.strip()[-300:]}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert environment.pip("check").returncode == 0
    program = shutil.copy(Path(__file__).with_name("user_program.py"), tmp_path)
    assert environment.run("python", "-I", str(program), str(tmp_path)).stdout == "used"
    checked = json.loads(environment.run("converge", "plugins", "check", "--json").stdout)
    assert {plugin["status"] for plugin in checked} == {"ok"}
