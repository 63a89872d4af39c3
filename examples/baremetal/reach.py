"""validate, for the whole lease: everyone reaches everyone, or the lease is not delivered."""

from __future__ import annotations

import json
import sys
from itertools import combinations

from lease import STATE, Json, Lease, port_file, say


def reach(one: Json, other: Json) -> bool:
    """Whether two hosts are up and have a network in common; where the lease has none, that they are up is enough."""
    files = [file for host in (one, other) for file in (STATE / "hosts" / host["name"] / "up", port_file(host))]
    if not all(file.exists() for file in files):
        return False
    mine, theirs = (json.loads(port_file(host).read_text()) for host in (one, other))
    if mine["environment"] != theirs["environment"]:
        return False
    networks = [{*port["private"], *port["public"]} for port in (mine, theirs)]
    return networks == [set(), set()] or bool(networks[0] & networks[1])


def main() -> None:
    """Try each pair, and name those that fail."""
    hosts = Lease().deployed
    apart = [f"{one['name']} and {other['name']}" for one, other in combinations(hosts, 2) if not reach(one, other)]
    if apart:
        sys.exit(f"do not reach each other: {', '.join(apart)}")
    say(f"all {len(hosts)} reach each other")


if __name__ == "__main__":
    main()
