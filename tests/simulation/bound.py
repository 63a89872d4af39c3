"""The earliest that leases could have been delivered, reckoned from the plan and from where things went wrong."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import timedelta

from leasehold.model import Run
from tests.simulation.agenda import BEGIN
from tests.simulation.lab import Delivered
from tests.simulation.plan import ATTEMPTS, DURATIONS, EACH, KICKSTART, KICKSTARTS, NETWORK, WIPE, Plan

_AFTER = EACH[EACH.index(KICKSTART) + 1 :]


def earliest(plan: Plan, delivered: Sequence[Delivered]) -> list[timedelta]:
    """How long after the requests each of them could be delivered at the earliest, in the order in which they came.

    That is when the limiter lets the last of its kickstarts end, whatever went before them for earlier requests; or,
    where a host failed, which nobody can know before it does, what its place needs from then on.
    """
    bounds = []
    for n, one in enumerate(delivered):
        last = max(run.started_at for run in _kickstarts(plan, one))
        before = (run for earlier in delivered[:n] for run in _kickstarts(plan, earlier) if run.started_at < last)
        jobs = [plan.duration(run.resource, KICKSTART) for run in (*before, *_kickstarts(plan, one))]
        limited = DURATIONS[WIPE] + through_the_gate(jobs, plan.slots) + _rest(*_AFTER)
        bounds.append(max([limited, *_after_failures(plan, one)]))
    return bounds


def through_the_gate(jobs: Sequence[timedelta], slots: int) -> timedelta:
    """How long jobs take at least, of which no more than so many are done at once, and each in one go.

    Where n jobs are more than q for each slot, x of the slots do q + 1 or more, and the others at most q; so those x do
    n - q (slots - x) jobs or more between them. One of them takes as long as their average, whichever jobs and x it is.
    """
    spans = sorted(job.total_seconds() for job in jobs)
    longest = max(spans)
    for q in range((len(spans) - 1) // slots + 1):
        busier = range(1, min(slots, len(spans) // (q + 1)) + 1)
        least = (sum(spans[: max(len(spans) - q * (slots - x), (q + 1) * x)]) / x for x in busier)
        longest = max(longest, min(least))
    return timedelta(seconds=longest)


def _rest(*works: str) -> timedelta:
    """What these works and the network take, none of which waits for anything."""
    return sum((DURATIONS[work] for work in works), DURATIONS[NETWORK])


def _kickstarts(plan: Plan, one: Delivered) -> list[Run]:
    """The kickstarts of a lease, those that failed too."""
    return [run for run in one.runs if plan.work(run) == KICKSTART]


def _after_failures(plan: Plan, one: Delivered) -> Iterator[timedelta]:
    """For each host that failed, how long after the request its place could be ready, if it never waits again.

    It is tried again, with the failures that the plan has in store still, or another host takes its place.
    """
    for run in one.runs:
        if run.ok or run.ended_at is None or run.attempt > 1:
            continue
        work = plan.work(run)
        again = plan.duration(run.resource, work)
        left: Sequence[str] = EACH[EACH.index(work) :]
        kickstart, pause = plan.duration(run.resource, KICKSTART), timedelta(0)
        if plan.failures(run.resource, work) == ATTEMPTS:
            # Who takes its place may be the fastest of all.
            left, kickstart = EACH, KICKSTARTS[0]
            pause = again * (ATTEMPTS - 1) + (timedelta(0) if plan.has_spares else plan.repair)
        installing = kickstart if KICKSTART in left else timedelta(0)
        yield run.ended_at - BEGIN + pause + installing + _rest(*(w for w in left if w != KICKSTART))
