"""What is measured, for Prometheus: read from the database at each scrape, and so the same from each process."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from fastapi import Depends, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from api import render_pools
from api.access import READ, allow, guarded
from api.services import Services, services
from leasehold.model import Circuit, Growth, LeaseState, Pool, ResourceState

router = guarded("", "metrics")
Service = Annotated[Services, Depends(services)]

_FORMAT = "text/plain; version=0.0.4; charset=utf-8"
_STATES = (*ResourceState, "offline", "kept", "suspect")
"""What `Pool.states` counts by: what is free, but not for anybody, has a word of its own."""


@router.get("/metrics", response_class=PlainTextResponse)
@allow(READ)
async def show_metrics(service: Service) -> Response:
    """Show figures of pools and leases, in the text format of Prometheus."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Measured(await service.store.pools(), await service.store.lease_counts()))
    return Response(generate_latest(registry), media_type=_FORMAT)


class Measured(Collector):
    """Figures of pools and leases as they were read.

    What could be there is there with 0, so that no rule has to tell nothing from unknown.
    """

    def __init__(self, pools: Sequence[Pool], leases: Mapping[LeaseState, int]) -> None:
        self._pools = pools
        self._leases = leases

    @property
    def _growing(self) -> Iterator[tuple[Pool, Growth]]:
        """The dynamic pools, and how their creations go."""
        return ((pool, pool.growth) for pool in self._pools if pool.growth is not None)

    def collect(self) -> Iterator[Metric]:
        """All figures."""
        yield self._resources()
        yield self._waiting()
        yield self._max()
        yield self._creations()
        yield self._creation_seconds()
        yield self._first_grant_seconds()
        yield self._circuits()
        yield self._costs()
        yield self._of_leases()

    def _resources(self) -> Metric:
        told = GaugeMetricFamily(
            "leasehold_resources", "Resources that there are, by what they are now.", labels=["pool", "state"]
        )
        for pool in self._pools:
            for state in _STATES:
                told.add_metric([pool.spec.name, state], pool.states.get(state, 0))
        return told

    def _waiting(self) -> Metric:
        told = GaugeMetricFamily("leasehold_pool_waiting", "Leases that wait for something of a pool.", labels=["pool"])
        for pool in self._pools:
            told.add_metric([pool.spec.name], pool.waiting)
        return told

    def _max(self) -> Metric:
        told = GaugeMetricFamily(
            "leasehold_pool_max", "Resources that there may be at most in a dynamic pool.", labels=["pool"]
        )
        for pool, _ in self._growing:
            told.add_metric([pool.spec.name], pool.spec.size.max)
        return told

    def _creations(self) -> Metric:
        told = CounterMetricFamily(
            "leasehold_creations", "Creations in a dynamic pool that have ended.", labels=["pool", "result"]
        )
        for pool, growth in self._growing:
            told.add_metric([pool.spec.name, "success"], growth.successes)
            told.add_metric([pool.spec.name, "failure"], growth.starts - growth.successes)
        return told

    def _creation_seconds(self) -> Metric:
        told = SummaryMetricFamily(
            "leasehold_creation_seconds", "How long the creations took that went well.", labels=["pool"]
        )
        for pool, growth in self._growing:
            told.add_metric([pool.spec.name], growth.successes, growth.seconds)
        return told

    def _first_grant_seconds(self) -> Metric:
        told = SummaryMetricFamily(
            "leasehold_first_grant_seconds", "How long what was created waited for its first lease.", labels=["pool"]
        )
        for pool, growth in self._growing:
            told.add_metric([pool.spec.name], growth.first_grants, growth.first_grant_seconds)
        return told

    def _circuits(self) -> Metric:
        told = GaugeMetricFamily(
            "leasehold_pool_circuit",
            "1 for what a dynamic pool is: it works (closed), pauses after a failure, or keeps failing (open).",
            labels=["pool", "state"],
        )
        for pool, growth in self._growing:
            for circuit in Circuit:
                told.add_metric([pool.spec.name, circuit], growth.circuit is circuit)
        return told

    def _costs(self) -> Metric:
        told = GaugeMetricFamily(
            "leasehold_pool_cost_per_hour", "What all that there is in a dynamic pool costs.", labels=["pool"]
        )
        for pool in self._pools:
            cost = render_pools.cost_per_hour(pool)
            if cost is not None:
                told.add_metric([pool.spec.name], cost)
        return told

    def _of_leases(self) -> Metric:
        told = GaugeMetricFamily("leasehold_leases", "Leases that there are, and have been.", labels=["state"])
        for state, many in self._leases.items():
            told.add_metric([state], many)
        return told
