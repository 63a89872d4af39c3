"""How a lease comes along, on standard error: live on a terminal, a line for each change elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from leasehold.answers import Lease
from leasehold.cli.output import note, one_line
from leasehold.cli.words import name_of, on_their_way, resource_name, standing, step

Show = Callable[[Lease], None]


@contextmanager
def progress(quiet: bool) -> Iterator[Show]:
    """Yield what shows a lease as it is now; `quiet` shows nothing."""
    if quiet:
        yield lambda lease: None
    elif sys.stderr.isatty():
        with _live() as show:
            yield show
    else:
        yield _Lines().show


class _Lines:
    """Prints what it has not printed last."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}

    def show(self, lease: Lease) -> None:
        self._print(f"lease {name_of(lease)}", standing(lease))
        for resource in on_their_way(lease):
            self._print(f"lease {name_of(lease)}: {resource_name(resource)}", step(resource))

    def _print(self, what: str, how: str) -> None:
        if self._last.get(what) != how:
            self._last[what] = how
            note(one_line(f"{what}: {how}"))


@contextmanager
def _live() -> Iterator[Show]:
    from rich.console import Console, Group
    from rich.live import Live
    from rich.spinner import Spinner
    from rich.table import Table
    from rich.text import Text

    last: list[Lease] = []
    spinner = Spinner("dots", Text("asking for a lease"))
    with Live(spinner, console=Console(stderr=True), transient=True) as live:

        def show(lease: Lease) -> None:
            last[:] = [lease]
            spinner.update(text=Text(_headline(lease)))
            table = Table(box=None, show_header=False, padding=(0, 2))
            for resource in on_their_way(lease):
                colour = "green" if resource["state"] == "ready" else "yellow"
                table.add_row(resource_name(resource), Text(step(resource), colour))
            live.update(Group(spinner, table))

        yield show
    # What moved is gone now; how it ended stays on the screen.
    for lease in last:
        note(_headline(lease))


def _headline(lease: Lease) -> str:
    return one_line(f"lease {name_of(lease)}: {standing(lease)}")
