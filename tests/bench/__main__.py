"""`python -m tests.bench [ROW …] [--save]`: measure a stack of its own, and print each figure beside its target."""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from pathlib import Path

from tests.bench import rows
from tests.bench.rows import Row
from tests.stack import ROOT, Stack

SAVED = ROOT / "docs" / "benchmarks.md"


def main() -> int:
    """Measure, print, and keep the table if asked to."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("rows", nargs="*", help=", ".join(f.__name__ for f in rows.ALL))
    parser.add_argument("--save", action="store_true", help="keep the table in docs/benchmarks.md")
    options = parser.parse_args()
    measured: list[Row] = []
    for measure in rows.ALL:
        if options.rows and measure.__name__ not in options.rows:
            continue
        with tempfile.TemporaryDirectory() as folder, Stack(Path(folder)) as stack:
            for row in measure(stack):
                measured.append(row)
                print(_line(row), flush=True)
    if options.save:
        SAVED.write_text(_page(measured))
    return 0


def _line(row: Row) -> str:
    sign = "≥" if row.at_least else "≤"
    figure, target = f"{row.figure:.4g} {row.unit}", f"{sign} {row.target:g} {row.unit}"
    return f"| {row.what:<48} | {figure:>12} | {target:>12} | {'yes' if row.met else 'no':<3} |"


def _page(measured: list[Row]) -> str:
    lines = "\n".join(_line(row) for row in measured)
    return f"""# Benchmarks

`make bench` measures the embedded stack over HTTP, each group of rows on a fresh one; `make bench ARGS=--save` keeps
the table here. Figures of one run on {_machine()}, {time.strftime("%Y-%m-%d")}. The machine also runs the clients.

| what | figure | target | met |
|---|---|---|---|
{lines}
"""


def _machine() -> str:
    return f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, Python {platform.python_version()}"


if __name__ == "__main__":
    raise SystemExit(main())
