"""The picture of a simulation: a row for each host, a colour for each work, and when each lease was delivered."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from leasehold.model import Run
from tests.simulation.agenda import BEGIN
from tests.simulation.lab import Delivered
from tests.simulation.plan import FIRST_BOOT, KICKSTART, NETWORK, REBOOT, VALIDATE, WIPE, Plan

WAITING, FAILED, QUARANTINE = "waits for a slot", "failed", "in quarantine"
# Those of Okabe and Ito, which whoever sees fewer colours can tell apart.
_COLOURS = {
    WIPE: "#56b4e9",
    WAITING: "#dddddd",
    KICKSTART: "#e69f00",
    FIRST_BOOT: "#009e73",
    REBOOT: "#0072b2",
    VALIDATE: "#cc79a7",
    NETWORK: "#000000",
    FAILED: "#d00000",
    QUARANTINE: "#d00000",
}
_ROW, _BAR, _THIN = 0.085, 4.6, 1.0
"""Inches from row to row; points of a bar, and of a line."""
_GAP = 3
"""Rows between two leases."""


@dataclass(frozen=True)
class _Bar:
    row: int
    begin: float
    end: float


def draw(plan: Plan, delivered: Sequence[Delivered], path: Path) -> None:
    """Write the picture to a file, as SVG; the same simulation gives the same file."""
    rows = sum(len(_hosts(one)) + _GAP for one in delivered)
    with mpl.rc_context({"svg.hashsalt": "leasehold", "svg.fonttype": "none", "font.size": 8}):
        figure = Figure(figsize=(10, rows * _ROW + 1.4), layout="constrained")
        axes = figure.add_subplot()
        top, names = 0, dict[int, str]()
        for one in delivered:
            names |= dict(enumerate(_hosts(one), start=top))
            top = _draw_lease(axes, plan, one, top)
        axes.set_ylim(top, -_GAP)
        axes.set_xlim(0)
        axes.set_xlabel("minutes after the requests")
        axes.grid(axis="x", linewidth=0.3)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.set_yticks([*names], [*names.values()], fontsize=4.5)
        axes.tick_params(left=False)
        legend = [Line2D([], [], color=colour, linewidth=_width(what), label=what) for what, colour in _COLOURS.items()]
        figure.legend(handles=legend, loc="outside upper center", ncols=len(legend), frameon=False)
        figure.savefig(path, metadata={"Date": None, "Creator": None})
    # The library ends lines with blanks.
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


def _draw_lease(axes: Axes, plan: Plan, one: Delivered, top: int) -> int:
    """Draw one lease's hosts from a row on; return the row where the next lease begins."""
    hosts = _hosts(one)
    rows = {host: top + n for n, host in enumerate(hosts)}
    bars: dict[str, list[_Bar]] = defaultdict(list)
    for host, row in rows.items():
        for what, begin, end in _way(plan, one, host):
            bars[what].append(_Bar(row, _minutes(begin), _minutes(end)))
    last = top + len(hosts)
    bars[NETWORK] = [
        _Bar(row, _minutes(run.started_at), _minutes(_end(run)))
        for run in one.runs
        if plan.work(run) == NETWORK
        for row in range(top, last)
    ]
    for what in _COLOURS:
        found = bars[what]
        axes.hlines(
            [bar.row for bar in found],
            [bar.begin for bar in found],
            [bar.end for bar in found],
            colors=_COLOURS[what],
            linewidth=_width(what),
        )
    after = one.after.total_seconds() / 60
    axes.vlines(after, top - 1, last, colors="black", linewidth=_THIN)
    axes.text(
        after + 0.5, top + len(hosts) / 2, f"lease {one.lease.number}\ndelivered\nafter {after:.0f} min", va="center"
    )
    return last + _GAP


def _width(what: str) -> float:
    return _THIN if what in (WAITING, QUARANTINE) else _THIN * 2 if what == FAILED else _BAR


def _hosts(one: Delivered) -> list[str]:
    """What a lease had, those that failed too, in the order of their names."""
    return sorted({run.resource for run in one.runs if run.resource})


def _way(plan: Plan, one: Delivered, host: str) -> Iterator[tuple[str, datetime, datetime]]:
    """What a host did for a lease, and from when to when."""
    ready_at = BEGIN
    for run in (run for run in one.runs if run.resource == host):
        work, end = plan.work(run), _end(run)
        if work == KICKSTART and run.started_at > ready_at:
            yield WAITING, ready_at, run.started_at
        yield work, run.started_at, end
        if not run.ok:
            yield FAILED, run.started_at, end
        ready_at = end
    broken = [event.at for event in one.events if (event.kind, event.resource) == ("resource_broken", host)]
    repaired = [event.at for event in one.events if (event.kind, event.resource) == ("resource_repaired", host)]
    yield from ((QUARANTINE, begin, end) for begin, end in zip(broken, repaired, strict=False))


def _end(run: Run) -> datetime:
    assert run.ended_at is not None
    return run.ended_at


def _minutes(at: datetime) -> float:
    return round((at - BEGIN).total_seconds() / 60, 3)
