"""A folder of texts, the tools that read it, and the check that a citation is really there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import frozen

from converge.core.tools import tool

if TYPE_CHECKING:
    from pathlib import Path

    from converge.core.tools import Tool

__all__ = ["Citation", "Library"]

MAX_HITS = 20
MAX_LINES = 60


@frozen
class Citation:
    """A line of a text, counted from 1, and words that stand in it."""

    file: str
    line: int
    quote: str

    @classmethod
    def read(cls, data: object) -> Citation:
        """The citation in what an agent wrote; `ValueError` when it is none."""
        if not isinstance(data, dict):
            raise ValueError(f"a citation is an object, not {type(data).__name__}")
        file, line, quote = (data.get(name) for name in ("file", "line", "quote"))
        if not isinstance(file, str) or not isinstance(quote, str) or not isinstance(line, int):
            raise ValueError("a citation has a file, a line and a quote")
        return cls(file, line, quote)


class Library:
    """The `*.md` and `*.txt` files below `folder`. Nothing outside of it is read, whatever name is asked for."""

    def __init__(self, folder: Path) -> None:
        self._root = folder.resolve()
        if not self._root.is_dir():
            raise ValueError(f"there is no folder {folder}; set library to one that has *.md or *.txt files")

    def names(self) -> list[str]:
        return sorted(
            str(path.relative_to(self._root))
            for path in self._root.rglob("*")
            if path.suffix in (".md", ".txt") and path.is_file() and path.resolve().is_relative_to(self._root)
        )

    def lines(self, name: str) -> list[str]:
        """The lines of a text; `LookupError` naming those there are when there is none of this name."""
        if name not in self.names():
            raise LookupError(f"there is no text {name!r}; there is {', '.join(self.names()) or 'none'}")
        return (self._root / name).read_text(encoding="utf-8", errors="replace").splitlines()

    def problem(self, citation: Citation) -> str | None:
        """Why a citation does not hold; None when the quote stands in that line."""
        try:
            lines = self.lines(citation.file)
        except LookupError as error:
            return str(error)
        if not 1 <= citation.line <= len(lines):
            return f"{citation.file} has {len(lines)} lines, and no line {citation.line}"
        if not citation.quote.strip() or citation.quote.strip() not in lines[citation.line - 1]:
            return f"line {citation.line} of {citation.file} does not have {citation.quote!r}"
        return None

    def tools(self) -> list[Tool]:
        """What a researcher may call."""

        @tool(isolation="thread")
        def search(words: list[str]) -> list[dict[str, Any]]:
            """Find the lines that have the most of these words, in all texts.

            Args:
                words: What to look for; case does not matter.

            """
            wanted = [word.lower() for word in words if word.strip()]
            found = [
                (sum(word in line.lower() for word in wanted), name, number, line)
                for name in self.names()
                for number, line in enumerate(self.lines(name), 1)
            ]
            best = sorted((hit for hit in found if hit[0]), key=lambda hit: (-hit[0], hit[1], hit[2]))
            return [{"file": name, "line": number, "text": line} for _, name, number, line in best[:MAX_HITS]]

        @tool(isolation="thread")
        def read_lines(file: str, first: int = 1, last: int = MAX_LINES) -> list[dict[str, Any]]:
            """Read lines of a text, at most 60.

            Args:
                file: As `search` names it.
                first: The first line, from 1.
                last: The last line.

            """
            lines = self.lines(file)
            first, last = max(first, 1), min(last, max(first, 1) + MAX_LINES - 1, len(lines))
            return [{"line": number, "text": lines[number - 1]} for number in range(first, last + 1)]

        return [search, read_lines]
