"""Resources in somebody's hands: those of a lease, or of the workflow that they go through while nobody has them."""

from __future__ import annotations

from dataclasses import dataclass

Key = tuple[str, str]
"""A resource: its pool and its name."""

RECYCLE = "recycle"
"""The kind of workflow that a resource goes through after a lease; the others create and delete."""


@dataclass(frozen=True, kw_only=True)
class Holding:
    """A resource in somebody's hands, at one epoch; `errand` is the kind of workflow, where it is no lease."""

    pool: str
    resource: str
    epoch: int
    errand: str = RECYCLE

    @property
    def key(self) -> Key:
        return (self.pool, self.resource)

    @property
    def id(self) -> str:
        """The id of the workflow that the resource goes through while nobody has it."""
        return f"{self.errand}:{self.pool}:{self.resource}:{self.epoch}"

    def __str__(self) -> str:
        return f"{self.pool}/{self.resource}"
