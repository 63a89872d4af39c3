"""configure, for the whole lease: set the switch's ports so that its hosts are in its networks, and in no other's.

With `{"params": {"qinq": true}}` a host gets all private networks through one port, each in a tag of its own; without,
the port is in the first of them.
"""

from __future__ import annotations

import json

from lease import SWITCH, Json, Lease, port_file, say


def port(lease: Lease, host: Json) -> Json:
    """What a host's port is set to."""
    private = lease.vlans("vlan")
    qinq = bool(host["params"].get("qinq"))
    return {
        "environment": lease.environment,
        "host": host["name"],
        "role": host["role"],
        "mode": "q-in-q" if qinq else "access",
        "private": private if qinq else private[:1],
        "public": lease.vlans("public-vlan"),
    }


def main() -> None:
    """Set every port. A second run sets the same."""
    lease = Lease()
    SWITCH.mkdir(parents=True, exist_ok=True)
    for host in lease.hosts:
        file = port_file(host)
        new = file.with_suffix(".new")
        new.write_text(json.dumps(port(lease, host)))
        new.replace(file)
    say(f"{len(lease.hosts)} ports of {lease.environment or 'no environment'}, {len(lease.deployed)} hosts installed")


if __name__ == "__main__":
    main()
