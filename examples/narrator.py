"""How the demo is told on a terminal: chapters, commands, claims, live progress and timelines."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from leasehold.answers import Event, Lease, reached

STAGES = ("wipe", "provision", "validate", "deliver")
"""What a box of the lab goes through before its holder gets it."""


class Untrue(Exception):
    """A claim of the demo that did not hold."""


class Narrator:
    """Where the play is told: chapters, commands, claims and tables on the terminal."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self.claims = 0

    def chapter(self, title: str) -> None:
        """Begin a part."""
        self.console.print()
        self.console.rule(f"[bold cyan]{escape(title)}", align="left")

    def say(self, text: str) -> None:
        """Tell something."""
        self.console.print(escape(text))

    def command(self, line: str) -> None:
        """Show what a user would type."""
        self.console.print(f"  [bold green]$[/] [bold]{escape(line)}", soft_wrap=True)

    def output(self, text: str) -> None:
        """Show what a command printed."""
        for line in text.splitlines():
            self.console.print(f"    [dim]{escape(line)}", soft_wrap=True)

    def check(self, claim: str, true: bool, saw: object = None) -> None:
        """Make a claim. Raises `Untrue` where it does not hold, with what was seen instead."""
        if not true:
            raise Untrue(claim if saw is None else f"{claim} (seen: {saw})")
        self.claims += 1
        self.console.print(f"  [green]✓[/] {escape(claim)}")

    def progress(self, look: Callable[[], Lease]) -> tuple[Lease, set[tuple[str, str]]]:
        """Show the stages of a lease's boxes until it is active or over; return it, and which stages were seen."""
        far: dict[str, int] = {}
        seen: set[tuple[str, str]] = set()
        with Live(console=self.console, auto_refresh=False) as live:
            while True:
                lease = look()
                for box in lease["resources"]:
                    if box["stage"] is not None and (step := (box["name"], box["stage"])) not in seen:
                        seen.add(step)
                        far[box["name"]] = STAGES.index(box["stage"])
                        if not self.console.is_terminal:
                            self.console.print(f"    {step[0]}: {step[1]}, attempt {box['attempt']}")
                live.update(_board(lease, far), refresh=True)
                if reached(lease, "active"):
                    break
                time.sleep(0.03)
        if not self.console.is_terminal:
            self.console.print()  # where nothing moves, the last picture comes without a line's end
        return lease, seen

    def timeline(self, lease: Lease, events: list[Event]) -> None:
        """Print what happened to a lease, and where Temporal's UI shows it."""
        began = datetime.fromisoformat(events[0]["at"])
        table = Table(
            title=f"Lease {lease['number']}: {lease['outcome']}", title_justify="left", box=None, padding=(0, 2)
        )
        for heading in ("after", "what", "where", "by", "why"):
            table.add_column(heading, header_style="dim", justify="right" if heading == "after" else "left")
        for event in events:
            if event["kind"] != "stage_started":
                after = (datetime.fromisoformat(event["at"]) - began).total_seconds()
                table.add_row(f"{after:.2f} s", *map(Text, _told(event)))
        self.console.print(table)
        self.console.print(f"  Temporal: {escape(lease['temporal_url'] or 'unknown')}\n", soft_wrap=True)


def _board(lease: Lease, far: dict[str, int]) -> Table:
    """One line for each box: the stages that are done, the one that runs, those to come."""
    table = Table(box=None, show_header=False, padding=(0, 2))
    for box in lease["resources"]:
        done = len(STAGES) if box["state"] == "ready" else far.get(box["name"], 0) + (box["stage"] is None)
        cells = [Text(f"    {box['name']}", "bold")]
        for index, stage in enumerate(STAGES):
            running = stage == box["stage"]
            mark, style = ("✓", "green") if index < done else ("▶", "yellow") if running else ("·", "dim")
            cells.append(Text(f"{mark} {stage}", style))
        table.add_row(*cells)
    return table


def _told(event: Event) -> tuple[str, str, str, str]:
    where = "/".join(filter(None, (event["pool"], event["resource"])))
    if event["kind"] == "stage_ended":
        what, why = f"  {event['data']['stage']}", event["reason"] or f"took {event['data']['seconds']:.2f} s"
    else:
        what, why = event["kind"].replace("_", " "), event["reason"] or ""
    return what, where, event["actor"] or "", why
