"""A cloud in a folder: machines are files, and what its hooks do, and how badly, is told by other files."""

from __future__ import annotations

import time
import uuid
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leasehold.client import Client
from tests.e2e.lab import PATIENCE_S

# A machine is there as soon as its creation has begun: what is half made has to be found as well. A line of the ledger
# is written at once, so that its lines are in the order in which things happened.
_CREATE = """
cd {folder}
echo "begin $LEASEHOLD_RESOURCE" >>ledger
test -e "machines/$LEASEHOLD_RESOURCE" && echo "$LEASEHOLD_RESOURCE was created twice" >>faults
touch "machines/$LEASEHOLD_RESOURCE"
sleep {slow}
if test -e fail-every-other && ! mkdir odd 2>/dev/null; then
  rmdir odd
  echo "end $LEASEHOLD_RESOURCE" >>ledger
  echo "no capacity" >&2
  exit 1
fi
echo "end $LEASEHOLD_RESOURCE" >>ledger
printf 'id=%s in_pool=%s\\377\\n' "$RESALLOC_ID" "$RESALLOC_ID_IN_POOL"
"""
_DELETE = """
cd {folder}
if test -e refuse-deletion; then echo "not now" >&2; exit 1; fi
rm -f "machines/$LEASEHOLD_RESOURCE"
echo "gone $LEASEHOLD_RESOURCE" >>ledger
"""
_LIVECHECK = 'test -e "{folder}/machines/$LEASEHOLD_RESOURCE"'
_LIST = "ls {folder}/machines"


@dataclass(frozen=True)
class Entry:
    """Something that happened to a machine: begin and end of its creation, or that it is gone."""

    what: str
    machine: str


class Cloud:
    """Dynamic pools of one stack, and the machines that they have made."""

    def __init__(self, client: Client, folder: Path) -> None:
        self.client = client
        self.folder = folder
        self.name = f"v{uuid.uuid4().hex[:8]}"
        self._machines.mkdir(parents=True)

    @property
    def _machines(self) -> Path:
        return self.folder / "machines"

    def pool(self, name: str, size: Mapping[str, Any], *, slow: float = 0.1, **more: Any) -> dict[str, Any]:
        """A pool of machines for `apply`."""
        told = {"folder": self.folder, "slow": slow}
        return {
            "name": name,
            "size": dict(size),
            "create": {"run": _CREATE.format(**told), "timeout": "1m"},
            "delete": {"run": _DELETE.format(**told), "timeout": "1m"},
            "livecheck": {"run": _LIVECHECK.format(**told), "every": "1s", "attempts": 2},
            "list": {"run": _LIST.format(**told), "every": "1s"},
            "policy": {"default_duration": "10m"},
            **more,
        }

    def apply(self, *pools: dict[str, Any]) -> None:
        """Make the pools of this cloud these."""
        self.client.apply({"name": self.name, "pools": list(pools)}, folder=str(self.folder))

    def is_to(self, what: str, *, be: bool = True) -> None:
        """Have the hooks do something, or no more: `fail-every-other`, `refuse-deletion`."""
        flag = self.folder / what
        flag.touch() if be else flag.unlink(missing_ok=True)

    @property
    def machines(self) -> set[str]:
        """What there is."""
        return {path.name for path in self._machines.iterdir()}

    def lose(self, machine: str) -> None:
        """A machine dies."""
        (self._machines / machine).unlink()

    def plant(self, machine: str) -> None:
        """Something is there that nobody has made."""
        (self._machines / machine).touch()

    def states(self, pool: str) -> Counter[str]:
        """How many resources of a pool are in which state."""
        return Counter(one["state"] for one in self.client.resources(pool=pool))

    def trouble(self, pool: str) -> str:
        """Why something of a pool is not deleted yet; empty where nothing is in the way."""
        stuck = [one["instance"] for one in self.client.resources(pool=pool) if one["state"] == "deleting"]
        return next((one["trouble"] for one in stuck if one is not None and one["trouble"]), "")

    def until(self, pool: str, **states: int) -> None:
        """Wait until a pool has so many resources in these states, and in no others, and the cloud just these."""
        end = time.monotonic() + PATIENCE_S
        while (found := self.states(pool)) != states or not self._is_known(pool):
            assert time.monotonic() < end, f"{pool} has {dict(found)}, {sorted(self.machines)}, and not {states}"
            time.sleep(0.1)

    def _is_known(self, pool: str) -> bool:
        known = {one["name"] for one in self.client.resources(pool=pool)}
        return known == {machine for machine in self.machines if machine.startswith(f"{pool}_")}

    @property
    def faults(self) -> list[str]:
        """What hooks have seen that must not be."""
        file = self.folder / "faults"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def half_made(self) -> set[str]:
        """The machines whose creation began and never ended."""
        return self._with("begin") - self._with("end")

    @property
    def gone(self) -> set[str]:
        """The machines that were deleted."""
        return self._with("gone")

    def _with(self, what: str) -> set[str]:
        return {entry.machine for entry in self._ledger() if entry.what == what}

    def check(self, pool: str, *, most: int, most_creating: int) -> None:
        """Fail where there were ever more machines of a pool, or more being created, or one was created twice."""
        assert not self.faults, self.faults
        there, creating = set[str](), set[str]()
        for entry in self._ledger():
            if not entry.machine.startswith(f"{pool}_"):
                continue
            if entry.what == "begin":
                there.add(entry.machine)
                creating.add(entry.machine)
            else:
                creating.discard(entry.machine)
            if entry.what == "gone":
                there.discard(entry.machine)
            assert len(there) <= most, f"{len(there)} at once: {sorted(there)}"
            assert len(creating) <= most_creating, f"{len(creating)} are being created: {sorted(creating)}"

    def _ledger(self) -> list[Entry]:
        lines = (line.split() for line in (self.folder / "ledger").read_text().splitlines())
        return [Entry(what, machine) for what, machine in lines]
