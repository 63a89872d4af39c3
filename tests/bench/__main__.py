"""`python -m tests.bench [ROW …] [--save]`: measure a stack of its own, and print each figure beside its target."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from tests.bench import rows
from tests.bench.held import held
from tests.bench.rows import Row
from tests.faults.nursery import Nursery
from tests.faults.parts import Parts
from tests.stack import ROOT, Stack

SAVED = ROOT / "docs" / "benchmarks.md"


def main() -> int:
    """Measure, print, and keep the table if asked to."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("rows", nargs="*", help=", ".join(f.__name__ for f in (*rows.ALL, held)))
    parser.add_argument("--long", action="store_true", help="all rows, with `held`, which takes minutes")
    parser.add_argument("--save", action="store_true", help="keep the table in docs/benchmarks.md")
    options = parser.parse_args()
    measured: list[Row] = []
    for row in _measured(options.rows or [f.__name__ for f in (*rows.ALL, *([held] if options.long else []))]):
        measured.append(row)
        print(_line(row), flush=True)
    if options.save:
        SAVED.write_text(_page(measured))
    return 0


def _measured(wanted: Collection[str]) -> Iterator[Row]:
    for measure in rows.ALL:
        if measure.__name__ in wanted:
            with tempfile.TemporaryDirectory() as folder, Stack(Path(folder)) as stack:
                yield from measure(stack)
    if held.__name__ in wanted:
        with tempfile.TemporaryDirectory() as folder, Nursery() as nursery, Parts(Path(folder), nursery) as parts:
            yield from held(parts)


def _line(row: Row) -> str:
    sign = "≥" if row.at_least else "≤"
    figure, target = f"{row.figure:.4g} {row.unit}", f"{sign} {row.target:g} {row.unit}"
    return f"| {row.what:<54} | {figure:>12} | {target:>12} | {'yes' if row.met else 'no':<3} |"


def _page(measured: list[Row]) -> str:
    lines = "\n".join(_line(row) for row in measured)
    return f"""# Benchmarks

`make bench` measures the embedded stack over HTTP, each group of rows on a fresh one; `make bench ARGS="--long --save"`
measures the long ones too, and keeps the table here. Figures of one run on {_machine()},
{time.strftime("%Y-%m-%d")}. The machine also runs the clients.

| what | figure | target | met |
|---|---|---|---|
{lines}
"""


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


if __name__ == "__main__":
    raise SystemExit(main())
