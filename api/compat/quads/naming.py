"""Which pools stand for what in QUADS: environments, VLANs, and all others for hosts."""

from __future__ import annotations

from dataclasses import dataclass

from leasehold.quads import CLOUDS, SPARE, VLANS


@dataclass(frozen=True, kw_only=True)
class Naming:
    """The pool of environments, that of VLANs, and the environment in which QUADS shows a host that nobody has."""

    clouds: str = CLOUDS
    vlans: str = VLANS
    spare: str = SPARE

    def is_host(self, pool: str) -> bool:
        """Whether the resources of a pool are hosts."""
        return pool not in {self.clouds, self.vlans}
