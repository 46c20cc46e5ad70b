"""`converge approvals`: what agents want to do and may not without a person, and the person's answer."""

from __future__ import annotations

import getpass
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from converge.cli.output import print_json, printable, readable_json
from converge.cli.store_names import named_store
from converge.coordination.approvals import Approvals
from converge.core.plain_json import to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from converge.coordination.approval_record import ApprovalRecord

__all__ = ["approvals"]

_store = click.option(
    "--store",
    "store",
    metavar="STORE",
    default="converge.toml",
    help="Named as for `converge store`.",
)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")
_by = click.option("--by", metavar="NAME", default=None, help="Who answers.  [default: your login name]")
_reason = click.option("--reason", metavar="TEXT", default=None, help="Why; a denied agent is told.")


@click.group()
def approvals() -> None:
    """See what agents want to do, and allow or forbid it.

    A decision that a policy lets nobody but a person allow waits in the store of the run. Whoever may write to that
    store may answer; the name is kept, not proved.
    """


@approvals.command("list")
@_store
@click.option("--all", "everything", is_flag=True, help="Show what is answered or over, too.")
@_as_json
def _list(store: str, everything: bool, as_json: bool) -> None:
    """Print what waits for an answer, the oldest first."""
    with _opened(store) as box:
        records = box.all() if everything else box.waiting()
    if as_json:
        print_json([_plain(record) for record in records])
        return
    for record in records:
        click.echo(_line(record))
    if not records:
        click.echo("nothing waits for an answer" if not everything else "there are none", err=True)


@approvals.command("show")
@click.argument("approval_id", metavar="ID")
@_store
@_as_json
def _show(approval_id: str, store: str, as_json: bool) -> None:
    """Print the whole decision. The exit code is 1 when there is none of this ID."""
    with _opened(store) as box:
        record = box.get(_full_id(box, approval_id))
    if record is None:
        raise click.ClickException(f"there is no approval {printable(approval_id)}")
    if as_json:
        print_json(_plain(record))
        return
    click.echo(_line(record))
    click.echo(readable_json(record.decision))


@approvals.command("approve")
@click.argument("approval_ids", metavar="ID...", nargs=-1, required=True)
@_by
@_reason
@_store
def _approve(approval_ids: tuple[str, ...], by: str | None, reason: str | None, store: str) -> None:
    """Let the decisions of these IDs be carried out."""
    with _opened(store) as box:
        _answer(box, box.approve, approval_ids, by, reason)


@approvals.command("deny")
@click.argument("approval_ids", metavar="ID...", nargs=-1, required=True)
@_by
@_reason
@_store
def _deny(approval_ids: tuple[str, ...], by: str | None, reason: str | None, store: str) -> None:
    """Forbid the decisions of these IDs."""
    with _opened(store) as box:
        _answer(box, box.deny, approval_ids, by, reason)


def _answer(
    box: Approvals,
    answer: Callable[..., ApprovalRecord],
    approval_ids: tuple[str, ...],
    by: str | None,
    reason: str | None,
) -> None:
    who = getpass.getuser() if by is None else by
    for approval_id in approval_ids:
        click.echo(_line(answer(_full_id(box, approval_id), by=who, reason=reason)))


def _full_id(box: Approvals, start: str) -> str:
    """The id that begins with `start`, if it is one and only one; else what was given."""
    found = [record.id for record in box.all() if record.id.startswith(start)]
    return found[0] if len(found) == 1 else start


@contextmanager
def _opened(store: str) -> Iterator[Approvals]:
    with named_store(store).open(create=False) as opened:
        yield Approvals(opened)


def _line(record: ApprovalRecord) -> str:
    asked = datetime.fromtimestamp(record.asked_at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    answered = "" if record.decided_by is None else f" by {printable(record.decided_by)}"
    why = "" if not record.reason else f" ({printable(record.reason)})"
    outcome = "" if record.outcome is None else f": {record.outcome}"
    about = printable(record.about)
    return f"{record.id}  {asked}  {record.state}{answered}{why}{outcome}  agent {record.agent_id[:12]}  {about}"


def _plain(record: ApprovalRecord) -> object:
    return to_json(record.to_plain())
