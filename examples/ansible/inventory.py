#!/usr/bin/env python3
"""Ansible's inventory of a lease: its machines, with their roles as groups, from the document that every hook is given.

In a hook of one resource it is that machine alone.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

GROUP = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


def untrusted(value: Any) -> Any:
    """A value in which Ansible takes nothing for a template: it would run on the worker what people typed."""
    if isinstance(value, str):
        return {"__ansible_unsafe": value}
    if isinstance(value, dict):
        # Such a key would say what the value is to be taken for.
        return {key: untrusted(part) for key, part in value.items() if not key.startswith("__ansible")}
    return [untrusted(part) for part in value] if isinstance(value, list) else value


def inventory(lease: dict[str, Any], only: str) -> dict[str, Any]:
    """What `ansible-inventory` expects of a script."""
    held = [one for one in lease["resources"] if only in ("", one["name"])]
    told = {key: lease[key] for key in ("id", "number", "owner", "description")}
    found: dict[str, Any] = {"all": {"hosts": [one["name"] for one in held]}, "_meta": {"hostvars": {}}}
    for one in held:
        found["_meta"]["hostvars"][one["name"]] = {
            # What the pools file says of the machine, and how it is reached.
            **one["properties"].get("ansible", {}),
            "lease": untrusted(told),
            "role": untrusted(one["role"]),
            "params": untrusted(lease["items"][one["item"]].get("params") or {}),
        }
        if one["role"] and GROUP.fullmatch(one["role"]):
            found.setdefault(f"role_{one['role']}", {"hosts": []})["hosts"].append(one["name"])
    return found


if __name__ == "__main__":
    document = json.loads(Path(os.environ["LEASEHOLD_LEASE_FILE"]).read_text())
    json.dump(inventory(document, os.environ.get("LEASEHOLD_RESOURCE", "")), sys.stdout)
