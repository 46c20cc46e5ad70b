"""Registering and unregistering agents that start and stop at the same time: one hop and one commit for many."""

from __future__ import annotations

import asyncio
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from converge.network.network import register_together, unregister_together
from converge.runtime.calls import contained
from converge.runtime.threads import StoreThread

if TYPE_CHECKING:
    from collections.abc import Sequence

    from converge.core.agent import Agent
    from converge.network.discovery import AgentDescriptor, DiscoveryService
    from converge.network.network import AgentNetwork

__all__ = ["AT_ONCE", "Desk"]

AT_ONCE = 256
"""The most in one commit, so that those at its front do not wait for all behind them."""


class _Wish(NamedTuple):
    network: AgentNetwork
    agent: Agent
    descriptor: AgentDescriptor | None  # None: to be unregistered
    done: asyncio.Future[None]

    @property
    def registers(self) -> bool:
        return self.descriptor is not None


class Desk:
    """Does for all agents of a blocking discovery service, in its order, what was asked for while it was busy.

    Use `of`. Cancelling who waits takes back what has not begun.
    """

    def __init__(self, discovery: DiscoveryService) -> None:
        self._discovery = discovery
        self._wishes: list[_Wish] = []
        self._job: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, discovery: DiscoveryService) -> Desk:
        """The desk of `discovery` on the running event loop; it is there while it has something to do."""
        key = discovery, asyncio.get_running_loop()
        if (desk := _desks.get(key)) is None:
            desk = _desks[key] = cls(discovery)
        return desk

    async def register(self, network: AgentNetwork, agent: Agent, descriptor: AgentDescriptor) -> None:
        """As `AgentNetwork.register_agent`."""
        await self._ask(network, agent, descriptor)

    async def unregister(self, network: AgentNetwork, agent: Agent) -> None:
        """As `AgentNetwork.unregister_agent`."""
        await self._ask(network, agent, None)

    async def _ask(self, network: AgentNetwork, agent: Agent, descriptor: AgentDescriptor | None) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wishes.append(_Wish(network, agent, descriptor, done))
        if self._job is None:
            self._job = asyncio.create_task(self._work(), name="converge-registering")
        await done

    async def _work(self) -> None:
        thread = StoreThread()
        thread.open()
        try:
            while self._wishes:
                wishes, self._wishes = self._wishes[:AT_ONCE], self._wishes[AT_ONCE:]
                await self._fulfil(thread, [wish for wish in wishes if not wish.done.done()])
        finally:
            thread.close()
            _desks.pop((self._discovery, asyncio.get_running_loop()), None)
            for wish in self._wishes:  # the event loop ends
                wish.done.cancel()

    async def _fulfil(self, thread: StoreThread, wishes: Sequence[_Wish]) -> None:
        errors: Sequence[Exception | None] = ()
        try:
            errors = await thread.run(_made, wishes)
        except Exception as error:  # noqa: BLE001  # raised where each of them is awaited
            errors = [error] * len(wishes)
        finally:
            for wish in wishes[len(errors) :]:
                wish.done.cancel()
        for wish, refused in zip(wishes, errors, strict=True):
            if wish.done.done():
                continue
            if refused is None:
                wish.done.set_result(None)
            else:
                wish.done.set_exception(refused)


def _made(wishes: Sequence[_Wish]) -> list[Exception | None]:
    """Fulfil the wishes in their order, neighbours of one kind together; what each has raised."""
    errors: list[Exception | None] = []
    for _, group in groupby(wishes, key=lambda wish: wish.registers):
        same = [*group]
        try:
            errors += _together(same)
        except BaseException as error:  # noqa: BLE001  # a store that is away; raised where each of them is awaited
            errors += [contained(error)] * len(same)
    return errors


def _together(wishes: Sequence[_Wish]) -> Sequence[Exception | None]:
    first = wishes[0]
    if len(wishes) == 1 and first.descriptor is not None:
        first.network.register_agent(first.agent, first.descriptor)
        return [None]
    if len(wishes) == 1:
        first.network.unregister_agent(first.agent.id)
        return [None]
    if first.registers:
        told = [(wish.network, wish.agent, wish.descriptor) for wish in wishes if wish.descriptor is not None]
        return register_together(told)
    return unregister_together([(wish.network, wish.agent.id) for wish in wishes])


_desks: dict[tuple[DiscoveryService, asyncio.AbstractEventLoop], Desk] = {}
