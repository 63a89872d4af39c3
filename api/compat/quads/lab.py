"""What there is, in QUADS's terms: one look at the inventory and at the leases that hold some of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from api.auth import Principal
from api.compat.quads import records
from api.compat.quads.filters import NULL
from api.compat.quads.naming import Naming
from api.compat.quads.records import Assignment, Record
from api.requesting import is_self_service
from leasehold.errors import Invalid, PoolUnknown, ResourceUnknown
from leasehold.model import LeaseState, Resource
from leasehold.ports import LeaseFilter, ResourceFilter, Store
from leasehold.quads import DESCRIBED, PARTS
from leasehold.selector import Condition

_ALL = 1_000_000
_PAGE = 1000
_ACTIVE = (LeaseState.PREPARING, LeaseState.ACTIVE)


@dataclass(frozen=True)
class Lab:
    """The store, read as QUADS's users expect it."""

    store: Store
    naming: Naming

    async def hosts(self, name: str | None = None) -> list[Resource]:
        """All hosts, or those of this name, by name."""
        found = await self.store.resources(ResourceFilter(name=name, limit=_ALL))
        return sorted((one for one in found if self.naming.is_host(one.pool)), key=lambda one: one.name)

    async def host(self, name: str) -> Resource:
        """The host of this name; raise `ResourceUnknown`, or `Invalid` where two pools have one."""
        found = await self.hosts(name)
        if not found:
            raise ResourceUnknown(f"Host not found: {name}")
        if len(found) > 1:
            pools = ", ".join(one.pool for one in found)
            raise Invalid(f"Host {name} is in several pools: {pools}")
        return found[0]

    async def clouds(self) -> list[Resource]:
        """All environments, by name."""
        return await self.store.resources(ResourceFilter(pool=self.naming.clouds, limit=_ALL))

    async def cloud(self, name: str) -> Resource:
        """An environment; raise `ResourceUnknown`."""
        try:
            return await self.store.resource(self.naming.clouds, name)
        except ResourceUnknown:
            raise ResourceUnknown(f"Cloud not found: {name}") from None

    async def vlans(self) -> list[Resource]:
        """All VLANs, by name."""
        return await self.store.resources(ResourceFilter(pool=self.naming.vlans, limit=_ALL))

    async def vlan(self, name: str) -> Resource:
        """A VLAN; raise `ResourceUnknown`."""
        try:
            return await self.store.resource(self.naming.vlans, name)
        except ResourceUnknown:
            raise ResourceUnknown(f"Vlan not found: {name}") from None

    async def free(
        self,
        caller: Principal,
        pool: str | None = None,
        *,
        lasts: timedelta | None = None,
        wanted: Sequence[Condition] = (),
    ) -> list[Resource]:
        """What a caller could have now of a pool, or of all hosts, for so long or as long as is usual.

        All that it returns of hosts satisfies what of `wanted` is about their properties.
        """
        of_properties = tuple(one for one in wanted if one.path[0] in (*DESCRIBED, *PARTS) and one.value != NULL)
        asked = ResourceFilter(pool=pool, conditions=of_properties, limit=_ALL)
        bound = is_self_service(caller, [pool])
        try:
            found = (await self.store.available(asked, lasts, self_service=bound)).resources
        except PoolUnknown:
            return []
        return sorted((r for r in found if pool is not None or self.naming.is_host(r.pool)), key=lambda r: r.name)

    async def assignments(self, states: Sequence[LeaseState] = ()) -> list[Assignment]:
        """The assignments that there are and were, or those in these states, oldest first."""
        wanted = LeaseFilter(states=tuple(states), pool=self.naming.clouds, limit=_PAGE)
        found: list[Assignment] = []
        while True:
            page = await self.store.leases(wanted)
            found += [one for lease in page if (one := Assignment.of(lease, self.naming)) is not None]
            if len(page) < _PAGE:
                return found[::-1]
            wanted = replace(wanted, before=page[-1].number)

    async def active(self) -> list[Assignment]:
        """The assignments that are not over."""
        return await self.assignments(_ACTIVE)

    async def assignment(self, ref: str) -> Assignment | None:
        """The assignment of this number, or of the lease of this id; None if there is none."""
        lease = await self.store.lease(ref, explained=False)
        return Assignment.of(lease, self.naming)

    async def holder(self, resource: Resource) -> Assignment | None:
        """The assignment that has a resource, if one has it."""
        return None if resource.lease is None else await self.assignment(resource.lease)

    def shown(self, hosts: Iterable[Resource], active: Iterable[Assignment]) -> list[Record]:
        """Hosts as records, with the environments that they are in."""
        holders = {one.lease.id: one for one in active}
        return [records.host(host, holders.get(host.lease or ""), self.naming) for host in hosts]
