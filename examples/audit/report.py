"""The report of an audit: one summary in plain data, and how it is written to JSON, to HTML and to the terminal."""

from __future__ import annotations

import json
import os
import uuid
from collections import Counter
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["Counts", "Elected", "Failure", "Job", "SeatLike", "Summary", "summary", "table", "write_html", "write_json"]


_HEADER = ("#", "module", "lines", "functions", "complexity", "most complex function", "longest function", "votes")


class Job(TypedDict):
    """What was to be audited: the corpus's id, the folder or name it was given by, and the paths in it."""

    id: str
    root: str
    paths: list[str]


class SeatLike(Protocol):
    """What the report needs of an `election.Seat`."""

    @property
    def module(self) -> str: ...
    @property
    def rounds(self) -> int: ...
    @property
    def votes(self) -> Mapping[str, str]: ...


class Counts(TypedDict):
    """Totals over all files; `parsed` and `failed` add up to `files`."""

    files: int
    parsed: int
    failed: int
    lines: int
    functions: int


class Elected(TypedDict):
    """An elected module: its result, how it was elected, how many of its last round's votes it had, and where members
    had placed it, by the lens that they look through; of those who told.
    """

    result: dict[str, Any]
    rounds: int
    support: int
    votes: dict[str, str]
    places: dict[str, int]


class Failure(TypedDict):
    """A file that has no figures, and why."""

    path: str
    error: str


class Summary(TypedDict):
    """The whole report as plain JSON data; `members` is the number of files that each member analysed."""

    job: str
    root: str
    counts: Counts
    elected: list[Elected]
    failures: list[Failure]
    members: dict[str, int]


def summary(
    job: Job,
    results: Iterable[Mapping[str, Any]],
    seats: Iterable[SeatLike],
    members: Mapping[str, Sequence[str]],
    places: Mapping[str, Mapping[str, int]] | None = None,
) -> Summary:
    """The report on `job`, equal for equal input whatever its order.

    `results` are those of `analysis.analyse`, `members` says which paths each member analysed, `places` where elected
    modules stood on a member's ballot (lens → path → place). A path of the job that
    is missing from either or stands there twice, and one that the job does not have, is a `ValueError` naming it; so
    is a seat for a module without a result.
    """
    ordered = sorted(map(dict, results), key=lambda result: str(result["path"]))
    _check_once(job["paths"], job["paths"], "the job")
    _check_once(job["paths"], [result["path"] for result in ordered], "the results")
    _check_once(job["paths"], [path for paths in members.values() for path in paths], "the members' files")
    by_path = {result["path"]: result for result in ordered}
    failures = [Failure(path=result["path"], error=result["error"]) for result in ordered if result["error"]]
    return Summary(
        job=job["id"],
        root=job["root"],
        counts=Counts(
            files=len(ordered),
            parsed=len(ordered) - len(failures),
            failed=len(failures),
            lines=sum(result["lines"] for result in ordered),
            functions=sum(result["functions"] for result in ordered),
        ),
        elected=[_elected(seat, by_path, places or {}) for seat in seats],
        failures=failures,
        members={member: len(members[member]) for member in sorted(members)},
    )


def _elected(seat: SeatLike, by_path: Mapping[str, dict[str, Any]], places: Mapping[str, Mapping[str, int]]) -> Elected:
    if seat.module not in by_path:
        raise ValueError(f"{seat.module!r} is elected but has no result; elect from the results of this job")
    support = sum(path == seat.module for path in seat.votes.values())
    of_seat = {lens: places[lens][seat.module] for lens in sorted(places) if seat.module in places[lens]}
    return Elected(
        result=by_path[seat.module], rounds=seat.rounds, support=support, votes=dict(seat.votes), places=of_seat
    )


def _check_once(expected: Iterable[str], found: Iterable[str], where: str) -> None:
    """`ValueError` unless `found` has each of `expected` exactly once and nothing else."""
    wanted, counts = set(expected), Counter(found)
    twice = sorted(path for path, count in counts.items() if count > 1)
    for wrong, what in (
        (sorted(wanted - counts.keys()), "missing from"),
        (twice, "more than once in"),
        (sorted(counts.keys() - wanted), "not in the job but in"),
    ):
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise ValueError(f"{', '.join(map(repr, wrong[:3]))}{more}: {what} {where}; each file counts exactly once")


def table(report: Summary) -> list[list[str]]:
    """The elected modules as a header and one row each, safe to print: control characters are shown escaped."""
    return [list(_HEADER), *(_row(place, elected) for place, elected in enumerate(report["elected"], 1))]


def _row(place: int, elected: Elected) -> list[str]:
    result = elected["result"]
    worst, longest = result["worst"], result["longest"]
    return [
        str(place),
        _printable(result["path"]),
        f"{result['lines']:,}",
        f"{result['functions']:,}",
        f"{result['complexity']:,}",
        _printable(f"{worst['name']} ({worst['complexity']:,})") if worst else "-",
        _printable(f"{longest['name']} ({longest['length']:,} lines)") if longest else "-",
        f"{elected['support']} of {len(elected['votes'])}, round {elected['rounds']}",
    ]


def _printable(text: str) -> str:
    """`text` with what a terminal or a browser would obey rather than show (escapes, bidi marks) in backslash form."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def write_json(path: str | Path, report: Summary) -> None:
    """Write `report` as JSON (UTF-8); readers of `path` see the old file or the new one, never a part of it."""
    _replace(Path(path), json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def write_html(path: str | Path, report: Summary) -> None:
    """Write `report` as one page that loads nothing else; replaces `path` as `write_json` does."""
    _replace(Path(path), _page(report))


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")  # beside it: a rename is atomic in one file system only
    try:
        # a path that is no UTF-8 has lone surrogates: their backslash form is a JSON escape, too
        with temporary.open("x", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --faint: #8881; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 84rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; }
code { font-family: ui-monospace, monospace; font-size: .9em; overflow-wrap: anywhere; }
dl { display: flex; flex-wrap: wrap; gap: 1rem 2.5rem; }
dt { font-size: .85em; opacity: .75; }
dd { margin: 0; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
caption { text-align: left; padding: .5rem 0; opacity: .75; }
th, td { text-align: left; padding: .4rem .75rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td:nth-child(2), td:nth-child(6), td:nth-child(7) { overflow-wrap: anywhere; }
th, td:last-child:nth-child(8) { white-space: nowrap; }
tbody tr:nth-child(odd) { background: var(--faint); }
"""


def _page(report: Summary) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>Audit of {_text(report["root"])}</title>
<style>{_STYLE}</style>
</head>
<body>
<header>
<h1>Audit of {_code(report["root"])}</h1>
<p>Job {_code(report["job"])}</p>
</header>
<main>
{_counts(report["counts"])}
{_top(report)}
{_places(report["elected"])}
{_failures(report["failures"])}
{_members(report["members"])}
</main>
</body>
</html>
"""


def _counts(counts: Counts) -> str:
    figures = {
        "Files": counts["files"],
        "Parsed": counts["parsed"],
        "Failed": counts["failed"],
        "Lines": counts["lines"],
        "Functions": counts["functions"],
    }
    items = "\n".join(f"<div><dt>{name}</dt><dd>{figure:,}</dd></div>" for name, figure in figures.items())
    return f"<dl>\n{items}\n</dl>"


def _top(report: Summary) -> str:
    header, *rows = table(report)
    return _section(
        "Elected for attention",
        "The modules that the pool voted first, and the last round's votes",
        header,
        [[_text(cell) for cell in row] for row in rows],
        "No module was elected.",
    )


def _places(seats: Sequence[Elected]) -> str:
    lenses = sorted({lens for seat in seats for lens in seat["places"]})
    rows = [
        [
            _code(seat["result"]["path"]),
            *(f"{seat['places'][lens]:,}" if lens in seat["places"] else "-" for lens in lenses),
        ]
        for seat in seats
        if lenses
    ]
    header = ["module", *map(_printable, lenses)]
    return _section(
        "Placed by", "Where the members had placed them, each through its lens", header, rows, "Nobody told."
    )


def _failures(failures: Sequence[Failure]) -> str:
    rows = [[_code(failure["path"]), _text(failure["error"])] for failure in failures]
    return _section("Not analysed", "Files without figures, and why", ["file", "reason"], rows, "Every file parsed.")


def _members(members: Mapping[str, int]) -> str:
    rows = [[_code(member), f"{files:,}"] for member, files in members.items()]
    return _section("Members", "Who analysed how many files", ["member", "files"], rows, "Nobody took part.")


def _section(title: str, caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], otherwise: str) -> str:
    """A heading with a table of cells that are HTML already, or the words `otherwise` if there is no row."""
    if not rows:
        return f"<section>\n<h2>{title}</h2>\n<p>{otherwise}</p>\n</section>"
    columns = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"""<section>
<h2>{title}</h2>
<div class="wide">
<table>
<caption>{caption}</caption>
<thead><tr>{columns}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</div>
</section>"""


def _text(text: str) -> str:
    return escape(_printable(text))


def _code(text: str) -> str:
    return f"<code>{_text(text)}</code>"
