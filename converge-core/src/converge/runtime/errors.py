"""The errors of `converge.runtime`."""

from __future__ import annotations

from converge.core.errors import ConvergeError

__all__ = ["AgentFailed", "AlreadyRunning", "CallFailed", "ConfigError", "ProcessFailed", "Refused"]


class ConfigError(ConvergeError, ValueError):
    """The configuration cannot be used. The text begins with the file and the place in it, and says what to write."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place}: {problem}")
        self.place, self.problem = place, problem

    def __reduce__(self) -> tuple[type[ConfigError], tuple[str, str]]:
        return type(self), (self.place, self.problem)


class AlreadyRunning(ConvergeError, RuntimeError):
    """Another run of the same config is alive; two would use the same identities."""


class AgentFailed(ConvergeError, RuntimeError):
    """The runtime of an agent ended with an error; the cause has it."""


class ProcessFailed(ConvergeError, RuntimeError):
    """A process of the run ended again and again, and is not started any more."""


class CallFailed(ConvergeError, RuntimeError):
    """User code raised what would end a process, a thread or a task, such as SystemExit; the cause has it."""


class Refused(ConvergeError, PermissionError):
    """A decision is not carried out because a policy, a limit or a rule says no. A handler may raise it too."""
