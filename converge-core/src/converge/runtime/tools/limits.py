"""What one worker process may use."""

from __future__ import annotations

from typing import Any

from attrs import Attribute, field, frozen

__all__ = ["MAX_RESULT_BYTES", "ToolLimits"]

MAX_RESULT_BYTES = 1_048_576
"""The most that a result may take as plain data, unless told otherwise."""

_MIB = 1_048_576


def _check(limits: object, attribute: Attribute[Any], value: object) -> None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"{attribute.name} is {value!r}; a limit of a tool's process is an int above 0, or None")


@frozen(kw_only=True)
class ToolLimits:
    """The limits of the process that a tool runs in, each inherited by what it starts; None: no limit.

    `memory_mb` MiB of address space, `cpu_sec` seconds of processor time for one call, `open_files`, `file_mb` MiB for
    each file it writes, `processes` of the user that runs it (counted by the kernel for the whole user, and not at all
    for root; so there is none by default). See setrlimit(2).
    """

    memory_mb: int | None = field(default=2048, validator=_check)
    cpu_sec: int | None = field(default=600, validator=_check)
    open_files: int | None = field(default=1024, validator=_check)
    file_mb: int | None = field(default=1024, validator=_check)
    processes: int | None = field(default=None, validator=_check)

    def apply(self) -> None:
        """Put this process under the limits, all but that of processor time; never above what it is under already."""
        import resource  # not on every system

        for kind, value in (
            (resource.RLIMIT_AS, self.memory_mb and self.memory_mb * _MIB),
            (resource.RLIMIT_NOFILE, self.open_files),
            (resource.RLIMIT_FSIZE, self.file_mb and self.file_mb * _MIB),
            (resource.RLIMIT_NPROC, self.processes),
            (resource.RLIMIT_CORE, 0),
        ):
            if value is not None:
                _lower(kind, value)

    def begin_call(self) -> None:
        """Give this process the processor time of one more call."""
        if self.cpu_sec is not None:
            import resource

            used = resource.getrusage(resource.RUSAGE_SELF)
            most = int(used.ru_utime + used.ru_stime) + 1 + self.cpu_sec
            hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
            resource.setrlimit(resource.RLIMIT_CPU, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _lower(kind: int, value: int) -> None:
    import resource

    hard = resource.getrlimit(kind)[1]
    most = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (most, most))
