"""`converge store`: what a store holds, whether it is sound, and a copy of it."""

from __future__ import annotations

import io
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click
from attrs import asdict, frozen

from converge.cli.output import print_json, printable, readable_json
from converge.cli.store_names import named_store, same_data
from converge.core.errors import StoreCorruption, StoreError
from converge.core.plain import pack
from converge.core.plain_json import to_json
from converge.core.store import VersionedStore, check_key, versioned

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from converge.cli.copying import Copied, OnProgress
    from converge.core.plain import Plain
    from converge.core.plain_json import Json
    from converge.core.store import Store

__all__ = ["store"]

_DEFAULT: Final = "converge.toml"
_DAMAGED: Final = "damaged"


def _checked_key(context: click.Context, parameter: click.Parameter, key: str) -> str:
    try:
        return check_key(key)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _checked_prefix(context: click.Context, parameter: click.Parameter, prefix: str) -> str:
    return _checked_key(context, parameter, prefix) if prefix else prefix


_name = click.argument("name", metavar="[STORE]", default=_DEFAULT)
_prefix = click.option(
    "--prefix", default="", metavar="P", callback=_checked_prefix, help="Only keys that start with P."
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")


@click.group()
def store() -> None:
    """See what a store holds, check it, copy it.

    STORE names it in one of these ways:

    \b
    NAME:PATH             sqlite:converge.db, file:./state
    NAME:key=value,...    sqlite:path=x.db,durability=process
    NAME                  a store plugin that needs no options
    FILE.toml             [store] of a config, with what the environment
                          overrides, as `converge run` uses it

    Without STORE it is converge.toml in this folder. A value is read as TOML ("a,b" in quotes, numbers, true), or
    else as text. Only copy makes a store that is not there.
    """  # noqa: D301  # click reads the control character as "leave these lines as they are"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # keys have letters that an output need not have


@store.command("ls")
@_name
@_prefix
@click.option("--long", "-l", is_flag=True, help="Show version, size in bytes as msgpack, and type, too.")
@_as_json
def _ls(name: str, prefix: str, long: bool, as_json: bool) -> None:
    """Print the keys, sorted, one a line.

    With --long a damaged record is shown as such, and the exit code is 1. The version of a store that keeps none is
    shown as a dash.
    """
    with _opened(name) as opened:
        keys = opened.list(prefix)
        damaged = _print_long(opened, keys, as_json=as_json) if long else _print_keys(keys, as_json=as_json)
    if damaged:
        raise StoreError(f"{_count(damaged, 'record')} damaged; `converge store check` says how")


@store.command("get")
@click.argument("names", metavar="[STORE]", nargs=-1)
@click.argument("key", callback=_checked_key)
@click.option("--json", "as_json", is_flag=True, help="Print key, version and value as JSON for scripts.")
@click.option("--raw", is_flag=True, help="Write the bytes of a bytes or str value as they are.")
def _get(names: tuple[str, ...], key: str, as_json: bool, raw: bool) -> None:
    """Print the value of KEY as JSON.

    Bytes are shown as {"$bytes": base64}. The exit code is 1 when KEY is absent.
    """
    if as_json and raw:
        raise click.UsageError("--json and --raw exclude each other.")
    if len(names) > 1:
        raise click.UsageError("One STORE and one KEY, please.")
    with _opened(names[0] if names else _DEFAULT) as opened:
        found = versioned(opened).get_versioned(key)
    if found is None:
        raise click.ClickException(f"{key!r} is absent")
    if raw:
        _write_raw(key, found[0])
    elif as_json:
        version = found[1] if isinstance(opened, VersionedStore) else None
        print_json({"key": key, "version": version, "value": to_json(found[0])})
    else:
        click.echo(readable_json(found[0]))


@store.command("copy")
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DST")
@_prefix
@click.option("--overwrite", is_flag=True, help="Replace what DST has; its keys that SRC does not have are deleted.")
@click.option("--skip-damaged", is_flag=True, help="Leave damaged records out, list them, and end with exit code 1.")
@click.option("--progress/--no-progress", default=None, help="Show a progress bar.  [default: on a terminal]")
def _copy(
    source: str, destination: str, prefix: str, overwrite: bool, skip_damaged: bool, progress: bool | None
) -> None:
    """Copy what SRC holds to DST, which is made if it is not there.

    SRC may be in use: at the end DST has what SRC held at one instant, if nobody else writes to DST. That takes
    the change feed of SRC; a store without one has to be left alone meanwhile. DST has to have no keys (under the
    prefix) unless --overwrite is given.

    A copy that was interrupted, or killed, is completed by the same command with --overwrite. With --skip-damaged a
    key whose record is damaged keeps what DST has of it.
    """
    from converge.cli.copying import copy

    one, other = named_store(source), named_store(destination)
    if same_data(one, other):
        raise click.UsageError(f"{printable(source)} and {printable(destination)} are the same store.")
    started = time.monotonic()
    with one.open(create=False) as read, other.open(create=True) as written, _bar(progress) as on_progress:
        from_, to = versioned(read), versioned(written)
        try:
            done = copy(from_, to, prefix, overwrite=overwrite, skip_damaged=skip_damaged, on_progress=on_progress)
        except StoreCorruption as error:
            raise StoreError(f"{error}; --skip-damaged leaves the damaged records of SRC out") from error
    _print_copied(done, time.monotonic() - started)


@store.command("check")
@_name
@click.option("--repair", is_flag=True, help="Move what is damaged aside, so that the rest can be used.")
@_as_json
def _check(name: str, repair: bool, as_json: bool) -> None:
    """Read everything and print what is damaged.

    The exit code is 0 when the store is sound and 1 when it is damaged. With --repair what is damaged is moved aside
    and printed, the store is checked again, and that check is what counts.
    """
    with _opened(name) as opened:
        moved = _print_problems(opened.repair(), "moved aside: ", quiet=as_json) if repair else []
        problems = _print_problems(opened.check(), "", quiet=as_json)
    if as_json:
        print_json({"sound": not problems, "problems": _plain(problems), "repaired": _plain(moved)})
    else:
        if repair:
            click.echo(f"{_count(len(moved), 'problem')} repaired")
        click.echo(f"{_count(len(problems), 'problem')} found" if problems else "sound: no problems found")
    if problems:
        raise SystemExit(1)


@store.command("compact")
@_name
def _compact(name: str) -> None:
    """Give the space of what is gone back to the system, and print how many bytes that was."""
    with _opened(name) as opened:
        freed = opened.compact()
    click.echo(f"{_count(freed, 'byte')} given back")


def _opened(name: str) -> Store:
    return named_store(name).open(create=False)


@frozen
class _Entry:
    """One line of `ls --long`."""

    key: str
    version: int | None
    size: int | None
    type: str

    def __str__(self) -> str:
        version, size = ("-" if number is None else str(number) for number in (self.version, self.size))
        return f"{version:>10} {size:>10} {self.type:<7} {printable(self.key)}"


def _entries(opened: Store, keys: list[str]) -> Iterator[_Entry]:
    """What is behind each key; a key that was deleted meanwhile is left out."""
    following = versioned(opened)
    for key in keys:
        try:
            found = following.get_versioned(key)
        except StoreCorruption:
            yield _Entry(key, None, None, _DAMAGED)
            continue
        if found is not None:
            value, version = found
            kind = "null" if value is None else type(value).__name__
            yield _Entry(key, version if opened is following else None, len(pack(value)), kind)


def _print_keys(keys: list[str], *, as_json: bool) -> int:
    if as_json:
        print_json(keys)
    else:
        for key in keys:
            click.echo(printable(key))
    return 0


def _print_long(opened: Store, keys: list[str], *, as_json: bool) -> int:
    """Print the lines; how many of them are of damaged records."""
    damaged = 0
    rows = []
    for entry in _entries(opened, keys):
        damaged += entry.type == _DAMAGED
        if as_json:
            rows.append(asdict(entry))
        else:
            click.echo(str(entry))
    if as_json:
        print_json(rows)
    return damaged


def _write_raw(key: str, value: Plain) -> None:
    if isinstance(value, str):
        value = value.encode()
    if not isinstance(value, bytes):
        raise click.UsageError(f"The value of {key!r} is {type(value).__name__}; --raw is for bytes and str.")
    click.echo(value, nl=False)


@contextmanager
def _bar(wanted: bool | None) -> Iterator[OnProgress | None]:
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("copying", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_copied(done: Copied, seconds: float) -> None:
    """Print what was copied; end with exit code 1 when something was left out."""
    deleted = f"; deleted {_count(done.deleted, 'key')} that the source does not have" if done.deleted else ""
    click.echo(f"copied {_count(done.keys, 'key')}, {_count(done.size, 'byte')}, in {seconds:.1f} s{deleted}")
    for damaged in done.damaged:
        click.echo(f"left out: {printable(str(damaged))}", err=True)
    if done.damaged:
        raise StoreError(f"{_count(len(done.damaged), 'damaged record')} left out")


def _print_problems(problems: Iterable[StoreError], said: str, *, quiet: bool) -> list[StoreError]:
    """Print each problem as it is found, unless `quiet`; all of them."""
    found = []
    for problem in problems:
        found.append(problem)
        if not quiet:
            click.echo(f"{said}{printable(str(problem))}")
    return found


def _plain(problems: list[StoreError]) -> list[dict[str, Json]]:
    return [
        {
            "error": type(problem).__name__,
            "key": getattr(problem, "key", None),
            "place": getattr(problem, "place", None),
            "text": str(problem),
        }
        for problem in problems
    ]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
