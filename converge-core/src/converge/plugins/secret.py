"""A value that a configuration only refers to."""

from __future__ import annotations

from typing import NoReturn, Self

__all__ = ["Secret"]


class Secret:
    """A str that does not show itself: use it as the type of an option and call `reveal()` where it is needed.

    In a configuration it is written as `{ env = "NAME" }` and read from that environment variable when the object is
    built. `repr` and `str` are redacted; pickling is refused; a copy is the same object. `env` is the variable it
    came from, or None.
    """

    __slots__ = ("__value", "env")

    def __init__(self, value: str, env: str | None = None) -> None:
        if not isinstance(value, str):
            raise TypeError(f"a secret is a str, not {type(value).__name__}")
        self.__value = value
        self.env = env

    def reveal(self) -> str:
        """The value itself."""
        return self.__value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        import hmac  # brings in OpenSSL, which most users of this package do not need

        return hmac.compare_digest(self.__value.encode(), other.__value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self.__value))

    def __repr__(self) -> str:
        return f"Secret(env={self.env!r})" if self.env else "Secret(***)"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> Self:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Secret cannot be pickled; pass the name of its environment variable and read it there")
