"""`/health`, `/ready` and `/metrics` of a run, in one process or in many."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeAlias

from converge.observability.errors import AddressError
from converge.observability.http import Address, HttpServer, Response
from converge.observability.metrics import CONTENT_TYPE, Family, format_families
from converge.runtime.errors import ConfigError
from converge.runtime.observing import MAX_NAMED, Health, Report

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping

    from converge.observability.http import Route
    from converge.runtime.config import Config
    from converge.runtime.reports import Reporter

__all__ = ["AskAll", "check_address", "merged", "of_processes", "serving"]

AskAll: TypeAlias = "Callable[[], Awaitable[Report]]"
"""Gives the report of the whole run."""


def check_address(config: Config) -> None:
    """Raise a `ConfigError` when `[http]` names no address, or one that must not be listened on."""
    _server(config, {})


@asynccontextmanager
async def serving(config: Config, ask: AskAll, on_listening: Callable[[str], None]) -> AsyncIterator[None]:
    """Serve what `[http]` asks for while the block runs: what `ask` gives at that moment. `on_listening` gets the URL.

    `OSError` when the address cannot be listened on.
    """
    server = _server(config, _routes(ask))
    if server is None:
        yield
        return
    async with server:
        on_listening(server.url)
        yield


def _server(config: Config, routes: Mapping[str, Route]) -> HttpServer | None:
    if config.http.listen is None:
        return None
    try:
        return HttpServer(routes, Address.parse(config.http.listen), public=config.http.public)
    except AddressError as error:
        raise ConfigError(config.place("[http] listen"), str(error)) from None


def _routes(ask: AskAll) -> Mapping[str, Route]:
    async def health() -> Response:
        return _verdict((await ask()).health, "healthy")

    async def ready() -> Response:
        return _verdict((await ask()).ready, "ready")

    async def metrics() -> Response:
        return Response(format_families((await ask()).families), content_type=CONTENT_TYPE)

    return {"/health": health, "/ready": ready, "/metrics": metrics}


def of_processes(reporters: Mapping[int, Reporter | None], extra: Callable[[], Iterable[Family]]) -> AskAll:
    """The report of the processes, by their numbers (None: it does not run now), and `extra` of the parent's own."""

    async def one(reporter: Reporter | None) -> Report | str:
        if reporter is None:
            return "does not run"
        try:
            return await reporter.ask()
        except TimeoutError:
            return "does not answer"
        except (EOFError, OSError, ValueError):
            return "is gone"

    async def ask() -> Report:
        numbers = sorted(reporters)
        answers = await asyncio.gather(*(one(reporters[number]) for number in numbers))
        return merged(dict(zip(numbers, answers, strict=True)), extra())

    return ask


def merged(answers: Mapping[int, Report | str], extra: Iterable[Family] = ()) -> Report:
    """One report of those of the processes; a text stands for a process that has given none."""
    reports = {number: answer for number, answer in answers.items() if isinstance(answer, Report)}
    missing = [f"process {number} {answer}" for number, answer in answers.items() if isinstance(answer, str)]
    families: dict[str, Family] = {family.name: family for family in extra}
    for number, report in reports.items():
        for name, kind, series in report.families:
            known = families.setdefault(name, Family(name, kind, []))
            known.series.extend((tuple(sorted((*labels, ("process", str(number))))), value) for labels, value in series)
    return Report(
        _joined([report.health for report in reports.values()], missing),
        _joined([report.ready for report in reports.values()], missing),
        [Family(name, kind, sorted(series)) for name, kind, series in sorted(families.values())],
    )


def _joined(parts: list[Health], missing: list[str]) -> Health:
    problems = missing + [problem for part in parts for problem in part.problems]
    agents = sum(part.agents for part in parts)
    return Health(not missing and all(part.ok for part in parts), agents, tuple(problems[:MAX_NAMED]))


def _verdict(health: Health, word: str) -> Response:
    body = {word: health.ok, "agents": health.agents, f"not_{word}": list(health.problems)}
    return Response(json.dumps(body) + "\n", 200 if health.ok else 503, "application/json")
