"""`python -m tests.bench [GROUP …] [--save]`: measure, and print each figure beside its target."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from tests.bench import allocation, rows, table
from tests.bench.commands import commands
from tests.bench.held import held
from tests.bench.table import Row
from tests.bench.tickets import PORT, tickets
from tests.faults.nursery import Nursery
from tests.faults.parts import Parts
from tests.stack import ROOT, Stack, free_ports

SAVED = ROOT / "docs" / "benchmarks.md"

Group = Callable[[], Iterable[Row]]


def main() -> int:
    """Measure, print, and keep the table if asked to."""
    groups = _groups()
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(groups))
    parser.add_argument("--long", action="store_true", help="all groups, with `held`, which takes minutes")
    parser.add_argument("--save", action="store_true", help="keep the table in docs/benchmarks.md")
    options = parser.parse_args()
    if unknown := set(options.groups) - set(groups):
        parser.error(f"there is no group {', '.join(sorted(unknown))}, but: {', '.join(groups)}")
    measured: list[Row] = []
    print(table.head(), flush=True)
    for name in options.groups or [name for name in groups if options.long or name != held.__name__]:
        for row in groups[name]():
            measured.append(row)
            print(table.line(row), flush=True)
    if options.save:
        SAVED.write_text(_page(measured))
    return 0


def _groups() -> Mapping[str, Group]:
    """The groups of rows by name, in the order of the table."""
    return {
        **{measure.__name__: measure for measure in (allocation.sqlite, allocation.postgresql)},
        **{measure.__name__: _on_stack(measure) for measure in rows.ALL},
        tickets.__name__: _on_stack(tickets, PORT),
        commands.__name__: _on_stack(commands),
        held.__name__: _on_parts(held),
    }


def _on_stack(measure: Callable[[Stack], Iterable[Row]], *ports: str) -> Group:
    """Measure on a fresh stack; these settings of it are ports."""

    def group() -> Iterator[Row]:
        with tempfile.TemporaryDirectory() as folder:
            stack = Stack(Path(folder))
            stack.settings |= dict(zip(ports, map(str, free_ports(len(ports))), strict=True))
            with stack:
                yield from measure(stack)

    return group


def _on_parts(measure: Callable[[Parts], Iterable[Row]]) -> Group:
    """Measure on a fresh stack whose processes can be killed one by one."""

    def group() -> Iterator[Row]:
        with tempfile.TemporaryDirectory() as folder, Nursery() as nursery, Parts(Path(folder), nursery) as parts:
            yield from measure(parts)

    return group


def _page(measured: Iterable[Row]) -> str:
    lines = "\n".join(map(table.line, measured))
    return f"""# Benchmarks

`make bench` measures the allocation step alone, in one process, and the embedded stack over HTTP, each group of rows on
a fresh one; `make bench ARGS="--long --save"` measures the long ones too, and keeps the table here. Figures of one run
on {_machine()}, {time.strftime("%Y-%m-%d")}. The machine also runs the clients.

{table.head()}
{lines}
"""


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


if __name__ == "__main__":
    raise SystemExit(main())
