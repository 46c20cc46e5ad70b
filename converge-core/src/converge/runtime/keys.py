"""The identities of the agents of a run: made once, kept in files, found again at the next start."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from attrs import frozen

from converge.core.identity import Identity
from converge.runtime.config import AgentConfig, Config

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["Member", "members"]


@frozen
class Member:
    """One agent of a run: the entry it comes from, its number in that entry (from 1), and its identity."""

    config: AgentConfig
    number: int
    identity: Identity

    @property
    def name(self) -> str:
        """How people tell it from the others."""
        return f"{self.config.name}-{self.number}" if self.config.count > 1 else self.config.name


def members(config: Config, process: int | None = None) -> list[Member]:
    """The agents of `config`, in its order, or those of process number `process` (from 0).

    Agent number n of the config runs in process n modulo `[run] processes`. Keys are in
    `<state>/keys/<name>-<n>.pem`; a missing one is made. Raises `IdentityError` for a key file that is damaged or that
    others may read, `OSError` when none can be written.
    """
    folder = config.state / "keys"
    folder.mkdir(parents=True, exist_ok=True)
    everyone = [(agent, number) for agent in config.agents for number in range(1, agent.count + 1)]
    return [
        Member(agent, number, _identity(folder / f"{agent.name}-{number}.pem"))
        for n, (agent, number) in enumerate(everyone)
        if process is None or n % config.run.processes == process
    ]


def _identity(path: Path) -> Identity:
    if not path.exists():
        with suppress(FileExistsError):  # another process of this run was quicker; its key is the one
            Identity.generate().save(path)
    return Identity.load(path)
