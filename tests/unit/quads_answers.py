"""What QUADS's API answers, as it serialises its records; small, and with everything that makes trouble."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]
WHEN = "Tue, 30 Apr 2024 12:07:15 GMT"


def cloud(number: int) -> Json:
    """An environment."""
    return {"id": number, "last_redefined": WHEN, "name": f"cloud{number:02}"}


def host(name: str, number: int, **fields: Any) -> Json:
    """A host, free."""
    return {
        "blade": None,
        "bootmode": "Uefi",
        "broken": False,
        "build": False,
        "can_self_schedule": True,
        "cloud": cloud(1),
        "cloud_id": 1,
        "created_at": WHEN,
        "default_cloud": cloud(1),
        "default_cloud_id": 1,
        "disks": [{"count": 2, "disk_type": "nvme", "host_id": number, "id": 4 * number, "size_gb": 2000}],
        "host_type": "scalelab",
        "id": number,
        "interfaces": [
            {
                "bios_id": None,
                "host_id": number,
                "id": 9 * number,
                "mac_address": "aa:bb:cc:dd:ee:ff",
                "maintenance": False,
                "name": "em1",
                "pxe_boot": True,
                "speed": 25,
                "switch_ip": "10.1.34.235",
                "switch_port": "xe-0/0/8:0",
                "vendor": "Mellanox Technologies",
            }
        ],
        "last_build": None,
        "memory": [{"handle": "DIMM_A1", "host_id": number, "id": number, "size_gb": 32}],
        "model": "R640",
        "name": name,
        "overcloud": False,
        "processors": [
            {
                "cores": 20,
                "handle": "P0",
                "host_id": number,
                "id": number,
                "processor_type": "CPU",
                "product": "Xeon",
                "threads": 40,
                "vendor": "Intel",
            }
        ],
        "rack": "a1",
        "retired": False,
        "switch_config_applied": False,
        "uloc": "u12",
        "validated": False,
        **fields,
    }


def vlan(tag: int) -> Json:
    """A VLAN."""
    address = {"gateway": "10.1.49.254", "ip_range": "10.1.48.0/23", "netmask": "255.255.254.0"}
    return {"id": tag - 600, "vlan_id": tag, "ip_free": 510, **address}


ANSWERS: Json = {
    "hosts": [
        host("host01.example.com", 1),
        host("host02.example.com", 2, can_self_schedule=False, model="R750", disks=None),
        host("host03.example.com", 3, retired=True),
        host("host04.example.com", 4, broken=True),
        host("no host at all", 5),
        host("host01.example.com", 6, model="R750"),
        host("host05.example.com", 7, model="5039 MS/2", interfaces=[], uloc=None),
        "no record",
    ],
    "clouds": [cloud(1), cloud(2), cloud(3), cloud(3)],
    "vlans": [vlan(620), vlan(621)],
}
