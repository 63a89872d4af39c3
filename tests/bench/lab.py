"""The lab that the allocation step is measured in: one pool, of which what the queue wants is lent, and the rest free.

All resources are in one pool, and everybody who waits, waits for it. Of ten resources two are of the model that most
of the queue wants, two of another scarce one, and six of models that are free. So a newcomer who asks for a free model
can be served at once, and nobody is overtaken by it, but only after it was made sure that none of those who wait comes
before it. Those are `OWNERS` who want `SHAPES` each. Resources differ in memory and site too, and each has a serial
number of its own.

What is not measured is built fast: the store takes in the first resources and admits the first lease of each lane, and
their rows are copied, whatever tables they are in.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, insert, select, text, update

from leasehold.messages import AdmitLease, Admitted, CloseLease, SubmitLease
from leasehold.model import Item, LeaseState, Outcome, PoolSpec, ResourceSpec
from leasehold.store import catalogue
from leasehold.store import tables as t
from leasehold.store.engine import Tx
from leasehold.store.store import SqlStore

POOL = "lab"
OWNERS = ("ci", "nightly", "alice", "bob")
ANY_BOARD = Item(pool=POOL, match=("model=board",))
LARGE_BOARD = Item(pool=POOL, match=("model=board", "memory__gte=64"))
SWITCHES = Item(pool=POOL, count=2, match=("model=switch",))
SHAPES = (ANY_BOARD, LARGE_BOARD, SWITCHES)
FREE = Item(pool=POOL, match=("model=m0",))
"""What nobody waits for."""

_MODELS = ("board", "board", "switch", "switch", *(f"m{n}" for n in range(6)))
_PATTERN = 80
"""After so many resources the same ones come again, but for their names and serial numbers."""
_TOGETHER = 50
"""So many resources one lease holds at most, where it does not matter."""


@dataclass(frozen=True)
class Size:
    """How many resources there are, and how many leases wait."""

    resources: int
    waiting: int

    def __str__(self) -> str:
        return f"{self.resources:,} x {self.waiting:,}"


class BenchLab:
    """One database with its lab, and what is measured there."""

    def __init__(self, url: str, size: Size) -> None:
        self.size = size
        self.store = SqlStore(url)

    async def build(self) -> None:
        """Fill the database, which is empty."""
        first = [_resource(n) for n in range(min(self.size.resources, _PATTERN))]
        await self.store.put_pool(PoolSpec(name=POOL), tuple(first), "bench")
        await self.store.database.write(_add_resources, range(len(first), self.size.resources))
        for board in self.boards:
            await self.admit(Item(pool=POOL, names=(board,)))
        tens = self.size.resources // 10
        await self._hold("board", 2 * tens - len(self.boards))
        await self._hold("switch", 2 * tens)
        lanes = [(owner, item) for item in SHAPES for owner in OWNERS][: self.size.waiting]
        first_of_each = [await self.wait(item, owner) for owner, item in lanes]
        await self.store.database.write(_copy_leases, first_of_each, self.size.waiting - len(lanes))
        await self.store.database.write(_analyze)

    @property
    def boards(self) -> Sequence[str]:
        """The boards that go from hand to hand, a small one and a large one; the others are not given back."""
        return (_name(0), _name(1))

    async def _hold(self, model: str, count: int) -> None:
        """Lend so many of a model."""
        while count > 0:
            some = min(count, _TOGETHER)
            await self.admit(Item(pool=POOL, count=some, match=(f"model={model}",)))
            count -= some

    async def admit(self, item: Item, owner: str = OWNERS[0]) -> str:
        """Have a lease that is granted at once, and return its id."""
        lease, admitted = await self._submit(item, owner)
        assert admitted.state is LeaseState.ACTIVE, admitted
        return lease

    async def wait(self, item: Item, owner: str) -> str:
        """Have a lease that is put into the queue, and return its id."""
        lease, admitted = await self._submit(item, owner)
        assert admitted.state is LeaseState.QUEUED, admitted
        return lease

    async def release(self, lease: str) -> None:
        """Give a lease back."""
        order = CloseLease(lease=lease, outcome=Outcome.RELEASED, actor="bench", stopped=True)
        await self.store.close_lease(order)

    async def holder(self, board: str) -> str:
        """The lease that has a board."""
        lease = (await self.store.resource(POOL, board)).lease
        assert lease is not None
        return lease

    async def _submit(self, item: Item, owner: str) -> tuple[str, Admitted]:
        lease = str(uuid.uuid4())
        asked = SubmitLease(lease=lease, principal=owner, owner=owner, digest=lease, items=(item,))
        return lease, await self.store.admit(AdmitLease(request=asked, age_s=0.0), f"run of {lease}"[:64])


def _name(number: int) -> str:
    return f"r{number:05}"


def _resource(number: int) -> ResourceSpec:
    tens, unit = divmod(number, 10)
    memory, site = 32 if (tens + unit) % 2 == 0 else 64, f"site{tens // 2 % 4}"
    properties = {"model": _MODELS[unit], "memory": memory, "site": site, "serial": f"SN{number:08}"}
    return ResourceSpec(name=_name(number), properties=properties)


def _add_resources(tx: Tx, numbers: range) -> None:
    """Copy the first resources. A serial number is none of what tells kinds apart, so a copy is of the same kind."""
    patterns = {row.name: row._asdict() for row in tx.execute(select(t.resources))}
    copies = []
    for number in numbers:
        spec = _resource(number)
        copies.append({**patterns[_name(number % _PATTERN)], "name": spec.name, "properties": spec.properties})
    if copies:
        tx.execute(insert(t.resources), copies)
        catalogue.changed(tx)


def _copy_leases(tx: Tx, leases: Sequence[str], count: int) -> None:
    """Copy leases in turn, with all that any table has of each, under numbers of their own."""
    last = tx.execute(select(func.max(t.leases.c.number))).scalar_one()
    new = [(leases[n % len(leases)], str(uuid.uuid4()), last + 1 + n) for n in range(count)]
    for table in t.metadata.sorted_tables:
        key = "id" if table is t.leases else "lease"
        if key not in table.c:
            continue
        rows: dict[str, list[dict[str, Any]]] = {lease: [] for lease in leases}
        for row in tx.execute(select(table).where(table.c[key].in_(leases))).mappings():
            # The database numbers rows of other tables itself.
            rows[row[key]].append({name: row[name] for name in row if name != "id"})
        copies = [{**row, key: lease, "number": number} for of, lease, number in new for row in rows[of]]
        for copy in copies if "number" not in table.c else ():
            del copy["number"]
        if copies:
            tx.execute(insert(table), copies)
    tx.execute(update(t.counters).where(t.counters.c.name == "lease").values(value=last + count))


def _analyze(tx: Tx) -> None:
    """What PostgreSQL does by itself after a while."""
    if tx.postgres:
        tx.execute(text("ANALYZE"))
