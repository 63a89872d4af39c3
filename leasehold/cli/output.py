"""Where a command's words go: answers to standard output, everything about them to standard error.

On a terminal lists are tables; elsewhere they are lines of tab-separated fields without a heading.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import typer

from leasehold.errors import LeaseholdError


def say(text: str = "") -> None:
    """Print a line of the answer."""
    typer.echo(text)


def note(text: str) -> None:
    """Tell the person at the terminal something that is not the answer."""
    typer.echo(text, err=True)


def print_json(answer: Any) -> None:
    """Print what the API answered."""
    typer.echo(json.dumps(answer, indent=2, ensure_ascii=False))


def print_bytes(data: bytes, err: bool = False) -> None:
    """Print bytes as they are, at once; with `err` to standard error."""
    typer.echo(data, nl=False, err=err)


def print_rows(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table, or tab-separated lines where nobody looks."""
    cells = [[_cell(value) for value in row] for row in rows]
    if not sys.stdout.isatty():
        for row in cells:
            typer.echo("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*headings, box=None, pad_edge=False, header_style="bold")
    for row in cells:
        table.add_row(*map(Text, row))
    Console().print(table)


def print_fields(fields: Iterable[tuple[str, object]], indent: int = 0) -> None:
    """Print `name: value` lines, leaving out what is not known."""
    for name, value in fields:
        if isinstance(value, dict) and value:
            say(f"{'':{indent}}{name}:")
            print_fields(value.items(), indent + 2)
        elif value not in (None, "", [], {}):
            say(f"{'':{indent}}{name}: {_cell(value)}")


def print_error(error: LeaseholdError, as_json: bool) -> None:
    """Print an error: one sentence with its code and the places that are wrong, or problem details (RFC 9457)."""
    faults = [{"path": fault.path, "code": fault.code, "detail": fault.detail} for fault in error.faults]
    if as_json:
        kind = {"type": f"urn:leasehold:error:{error.code}", "title": error.title, "status": error.status}
        problem = {**kind, "code": error.code, "detail": error.detail, "errors": faults}
        note(json.dumps(problem, ensure_ascii=False))
        return
    typer.secho(f"{one_line(error.detail)} ({error.code})", fg="red", err=True)
    for fault in error.faults:
        if fault.detail == error.detail and fault.path in fault.detail:
            continue
        typer.secho(f"  {one_line(fault.path)}: {one_line(fault.detail)} ({fault.code})", fg="red", err=True)


def one_line(text: str) -> str:
    """Keep what others wrote from moving the cursor or breaking a line."""
    return "".join(char if char.isprintable() else " " for char in text)


def _cell(value: object) -> str:
    return "" if value is None else one_line(written(value))


def written(value: object) -> str:
    """Write any JSON in one line: text as it is, a list of texts with commas between."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ",".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
