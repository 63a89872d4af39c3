"""What the hooks for a whole lease share: what the lease has, and the switch, a folder with a file for each port."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

STATE = Path(".state")
SWITCH = STATE / "switch"
NAMES = {"cloud": "environment", "vlan": "private", "public-vlan": "public"}

Json = dict[str, Any]


class Lease:
    """The lease that this hook is run for."""

    def __init__(self) -> None:
        document: Json = json.loads(Path(os.environ["LEASEHOLD_LEASE_FILE"]).read_text())
        self.number: int = document["number"]
        self.owner: str = document["owner"]
        resources: list[Json] = document["resources"]
        # Whatever has a port on the switch is a host, of whichever pool.
        self.hosts = [one for one in resources if "switch_port" in one["properties"]]
        self._named = [one for one in resources if one["pool"] in NAMES]

    @property
    def environment(self) -> str | None:
        """The environment's name, if the request wanted one."""
        return next((one["name"] for one in self._named if one["pool"] == "cloud"), None)

    def vlans(self, pool: str) -> list[int]:
        """The ids of the networks of a pool that the lease has."""
        return [one["properties"]["id"] for one in self._named if one["pool"] == pool]

    @property
    def deployed(self) -> list[Json]:
        """The hosts that the request wants installed: nothing answers on the others yet."""
        return [one for one in self.hosts if "provision" not in one["skip"]]


def port_file(host: Json) -> Path:
    """Where the switch keeps what a host's port is set to."""
    return SWITCH / str(host["properties"]["switch_port"]).replace("/", "_")


def say(text: str) -> None:
    """Into the log of the lease."""
    sys.stderr.write(f"{text}\n")
