"""deliver, for the whole lease: an inventory of its hosts by their roles, with what they have in common."""

from __future__ import annotations

import json

from lease import Lease


def main() -> None:
    """Print it: what is printed is the holder's alone."""
    lease = Lease()
    groups: dict[str, list[str]] = {}
    for host in lease.hosts:
        groups.setdefault(host["role"] or "hosts", []).append(host["name"])
    common = {
        "environment": lease.environment,
        "vlans": lease.vlans("vlan"),
        "public_vlans": lease.vlans("public-vlan"),
        "installed": [host["name"] for host in lease.deployed],
    }
    print(json.dumps({**groups, "common": common}, indent=1))


if __name__ == "__main__":
    main()
