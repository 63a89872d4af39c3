"""What must hold after the chaos, and what is told about it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from leasehold.store import tables as t
from tests.bench.load import percentile
from tests.chaos.owners import Possession, Seen
from tests.faults import audit


@dataclass
class Verdict:
    """Figures, and what must not be: by its kind, the lease it happened to, and the words for it."""

    figures: dict[str, object] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)

    @property
    def lines(self) -> list[str]:
        """For people."""
        return [f"{name:<52} {figure}" for name, figure in self.figures.items()]


def judge(connection: Connection, seen: Seen, hooks: Sequence[str], open_workflows: Sequence[str]) -> Verdict:
    """Compare what the owners saw, what the hooks saw, what Temporal has and what the database remembers."""
    leases = {row.id: row for row in connection.execute(select(t.leases))}
    outcomes = Counter(str(row.outcome or row.state) for row in leases.values())
    double = [*lent_twice(seen.possessions), *hooks]
    lost = [f"{key}: lease {lease} is not known" for key, lease in seen.leases.items() if lease not in leases]
    lost += [f"lease {row.id} is {row.state}" for row in leases.values() if row.state != "ended"]
    lost += [f"nobody asked for lease {lease}" for lease in leases if lease not in set(seen.leases.values())]
    other = [*audit.faults(connection), *seen.problems, *open_workflows]
    leaked = [fault for fault in other if "leaked" in fault]
    rest = [fault for fault in other if fault not in leaked and fault not in lost]

    figures: dict[str, object] = {"leases": len(leases)}
    figures |= {f"  {outcome}": number for outcome, number in sorted(outcomes.items())}
    figures |= {"hooks run": len(connection.execute(select(t.runs.c.id)).all())}
    figures |= {"resources replaced": sum(row.replaced for row in leases.values())}
    figures |= dict(sorted(seen.counts.items()))
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        figures[f"from request to active, {name}"] = (
            f"{percentile(seen.waited_s, share):.2f} s" if seen.waited_s else "-"
        )
    figures |= {"double": len(double), "leaked": len(leaked), "lost": len(lost), "other faults": len(rest)}
    told = [*(f"DOUBLE {x}" for x in double), *(f"LEAKED {x}" for x in leaked), *(f"LOST {x}" for x in lost), *rest]
    return Verdict(figures, [_with_story(connection, leases, one) for one in told])


def lent_twice(possessions: Sequence[Possession]) -> list[str]:
    """Where two holders believed that a resource was theirs at the same time."""
    found, by_resource = [], defaultdict(list)
    for one in possessions:
        by_resource[one.resource].append(one)
    for resource, holders in by_resource.items():
        latest: Possession | None = None
        for one in sorted(holders, key=lambda p: p.since):
            if latest is not None and one.since < latest.until:
                found.append(f"{resource} was held by {latest.lease} and by {one.lease}")
            if latest is None or one.until > latest.until:
                latest = one
    return found


def _with_story(connection: Connection, leases: object, violation: str) -> str:
    """A violation with all that happened to the leases that it names."""
    named = [word for word in leases if word in violation]  # type: ignore[attr-defined]
    stories = [f"    {line}" for lease in named for line in audit.story(connection, lease)]
    return "\n".join([violation, *stories])
