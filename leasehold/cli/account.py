"""An account of what happened: what it needs is fetched, told by `story`, and printed for people or programs."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import typer

from leasehold.answers import Run
from leasehold.cli.output import one_line
from leasehold.cli.story import Line, Mood, Outputs, failed
from leasehold.cli.words import exact
from leasehold.errors import LeaseholdError

if TYPE_CHECKING:
    from leasehold.client import Client

LAST_LINES = 5
"""Of what a failed hook printed."""

MOST_OUTPUTS = 10
"""Failed runs, the last ones, whose output is fetched."""

_COLOURS: Mapping[Mood, str] = {Mood.PLAIN: "", Mood.GOOD: "green", Mood.BAD: "red", Mood.BUSY: "yellow"}


def last_words(client: Client, runs: Iterable[Run]) -> Outputs:
    """The last lines that the last failed runs printed, by the run's id; those that cannot be had are left out."""
    found = {}
    for run in [run for run in runs if failed(run)][-MOST_OUTPUTS:]:
        # A story without them is better than none.
        with suppress(LeaseholdError):
            text = b"".join(_printed(client, run)).decode(errors="replace")
            # Without where it comes from, which the line above says.
            found[run["id"]] = [line.partition("] ")[2] for line in text.split("\n") if line]
    return found


def _printed(client: Client, run: Run) -> Iterable[bytes]:
    if run["lease"]:
        return client.log(run["lease"], run=run["id"], tail=LAST_LINES)
    return client.resource_log(run["pool"], run["resource"], run=run["id"], tail=LAST_LINES)


def with_output(runs: Sequence[Run], outputs: Outputs) -> list[dict[str, Any]]:
    """The runs, each with its last words, null where they were not fetched."""
    return [{**run, "output": list(outputs[run["id"]]) if run["id"] in outputs else None} for run in runs]


def print_story(lines: Sequence[Line]) -> None:
    """Print what happened: under its days on a terminal, elsewhere a line with its whole time for each."""
    if sys.stdout.isatty():
        from rich.console import Console

        Console(highlight=False).print(_table(lines))
        return
    for line in lines:
        typer.echo(f"  {exact(line.at)}\t{one_line(line.text)}")
        for printed in line.output:
            typer.echo(f"  \t| {one_line(printed)}")


def _table(lines: Sequence[Line]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table, day = Table.grid(padding=(0, 2, 0, 0)), ""
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for line in lines:
        today, _, clock = (exact(line.at) or "").removesuffix("Z").partition("T")
        if today != day:
            day = today
            table.add_row("", Text(f"{day} (UTC)", "bold"))
        table.add_row(Text(f"  {clock}", "dim"), Text(one_line(line.text), _COLOURS[line.mood]))
        for printed in line.output:
            table.add_row("", Text(f"| {one_line(printed)}", "dim"))
    return table
