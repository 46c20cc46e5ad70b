"""What the commands print: text that cannot command a terminal, and JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from converge.core.plain import Plain

__all__ = ["print_json", "printable", "readable_json"]


def printable(text: str, *, lines: bool = False) -> str:
    r"""`text` from elsewhere without control characters, which a terminal would obey: each as `\x1b`.

    With `lines` a line break stays what it is.
    """
    return "".join(
        letter if letter.isprintable() or (lines and letter == "\n") else ascii(letter)[1:-1] for letter in text
    )


def print_json(value: object) -> None:
    """Print what `json.dumps` takes, in ASCII, for scripts."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def readable_json(value: Plain) -> str:
    """`value` as indented JSON that a person reads; bytes are written as `converge.core.plain_json` does."""
    from converge.core.plain_json import to_json  # here: most commands print no values

    text = json.dumps(to_json(value), indent=2, allow_nan=False, ensure_ascii=False)
    # What cannot be printed stands inside of strings only, so JSON's own way to write it is right.
    return "".join(letter if letter.isprintable() or letter == "\n" else json.dumps(letter)[1:-1] for letter in text)
