"""Kills at every commit that the scenarios come to, on several stacks side by side."""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import NamedTuple

from leasehold.model import StageName
from tests.faults.lane import Lane, Made, Scene, Violation
from tests.faults.nursery import Nursery
from tests.faults.points import AHEAD, Call, Moment, Point, Victim

Scenario = Callable[[Scene], None]

_MOST_VIOLATIONS = 5
_MOST_PLAYINGS = 3
_STAGES = frozenset(StageName)
_EACH_TIME = frozenset({"tick"})
"""Does something else each time: it warns, begins the grace, ends."""
_IN_EACH = frozenset({"report_broken"})
"""Does something else in each scenario: it replaces, waits for a repair, gives up."""
_MINOR = frozenset({"heartbeat", "overdue", "show_blocked", "give_slot", "put_resource", "offline", "online", "leave"})
"""Set one row to what it shall be, or take one away, whatever was there before."""


class Order(NamedTuple):
    """A scenario to be played with a kill."""

    scenario: Scenario
    point: Point

    def __str__(self) -> str:
        return f"{self.scenario.__name__}: {self.point}"


@dataclass
class Report:
    """What a campaign found."""

    done: Counter[str] = field(default_factory=Counter)
    missed: list[Order] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)


def orders(lane: Lane, scenarios: Mapping[str, Scenario], besides: Collection[str] = ()) -> list[Order]:
    """Play each scenario without any kill, and return the kills for the commits that no earlier one came to.

    `besides` are methods that are made when their time has come, whatever is played.
    """
    found: list[Order] = []
    known: set[Call] = set()
    for scenario in scenarios.values():
        lane.calls()
        lane.play(scenario)
        made = [one for one in lane.calls() if one.call not in known and one.call.method not in besides]
        known |= {one.call for one in made if one.call.method not in _IN_EACH}
        found += [Order(scenario, point) for point in points(made)]
    return found


def points(made: Sequence[Made]) -> list[Point]:
    """The kills for the commits that a scenario made.

    The second commit of a kind is mostly another situation: another lease's, with others behind it. Whether anybody
    has been told makes a difference only where the commit had something to tell. Commits about hooks concern no caller
    of the API. What takes no decision is killed
    after its commit alone.
    """
    times, told = Counter(one.call for one in made), {one.call for one in made if one.told}
    in_api = {one.call for one in made if one.by == "api"}
    found = []
    for call in times:
        if call.method in _MINOR:
            found += [Point(call=call, moment=Moment.AFTER, victim=victim) for victim in (Victim.ITSELF, Victim.ALL)]
            continue
        hook = call.about is not None and call.about.removesuffix(AHEAD) in _STAGES
        found += [Point(call=call, moment=moment, victim=Victim.ITSELF) for moment in (Moment.BEFORE, Moment.AFTER)]
        if call in told:
            found.append(Point(call=call, moment=Moment.UNTOLD, victim=Victim.ITSELF))
        last = times[call] if call.method in _EACH_TIME else min(times[call], 2)
        if not hook:
            found += [Point(call=call, moment=Moment.AFTER, victim=Victim.ITSELF, nth=n) for n in range(2, last + 1)]
        if not hook and call not in in_api:
            found.append(Point(call=call, moment=Moment.AFTER, victim=Victim.API))
        found.append(Point(call=call, moment=Moment.AFTER, victim=Victim.ALL))
    return found


def run(folder: Path, nursery: Nursery, ordered: Sequence[Order], lanes: int) -> Report:
    """Play every scenario with its kill; a lane on which something went wrong is given up for a new one."""
    report, numbers = Report(), count(1)
    waiting: queue.SimpleQueue[Order] = queue.SimpleQueue()
    for order in ordered:
        waiting.put(order)

    def work() -> None:
        while not waiting.empty() and len(report.violations) < _MOST_VIOLATIONS:
            try:
                with Lane(folder / f"lane{next(numbers)}", nursery) as lane:
                    _work_on(lane, waiting, report)
            except Violation as violation:
                report.violations.append(str(violation))
            except Exception as error:
                report.violations.append(f"a stack did not start or stop: {error!r}")

    threads = [threading.Thread(target=work) for _ in range(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return report


def _work_on(lane: Lane, waiting: queue.SimpleQueue[Order], report: Report) -> None:
    while len(report.violations) < _MOST_VIOLATIONS:
        try:
            order = waiting.get_nowait()
        except queue.Empty:
            return
        # What a scenario commits may hang on the clock: on a busy machine one playing may not come to a point.
        if any(lane.play(order.scenario, order.point) for _ in range(_MOST_PLAYINGS)):
            report.done[str(order.point.victim)] += 1
        else:
            report.missed.append(order)
